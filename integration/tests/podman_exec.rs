//! `podman exec` and `podman attach`, and the terminals and streams of both.

use std::io::Write;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result};
use coracle_integration::{Engine, Run, Terminal, eventually, wat, words};
use rustix::process::Signal;

/// Types keys as people do: podman knows those that detach only when each comes alone.
fn type_keys(terminal: &mut Terminal, keys: &[&str]) -> Result<()> {
    for key in keys {
        std::thread::sleep(Duration::from_millis(200));
        terminal.type_in(key)?;
    }
    Ok(())
}

#[test]
fn exec() -> Result<()> {
    let engine = Engine::new()?;
    engine.start(&["--name", "c", "-e", "A=1", "native", "sleep", "1000"])?;
    let exec = |line: &str, script: &str| {
        engine.podman().arg("exec").args(words(line)).args(["sh", "-c", script]).finish()
    };
    exec("c", "echo $A; exit 6")?.exits(6)?.prints("1")?;
    exec("--user 1000 --workdir /tmp -e B=2 c", "id -u; pwd; echo $B")?.ok()?.prints("1000\n/tmp\n2")?;
    exec("c", "kill -9 $$")?.exits(137)?;
    engine.podman().args(words("exec -i c cat")).finish_with(b"in")?.ok()?.prints("in")?;
    engine.do_podman(&["exec", "c", "nosuch"])?.exits(127)?;
    engine.do_podman(&["exec", "c", "/etc"])?.exits(126)?;
    // The default profile of podman is on: the second field is the mode, a filter.
    exec("c", "grep ^Seccomp: /proc/self/status")?.ok()?.prints("Seccomp:\t2")?;
    // What a privileged one may, one without privileges may not.
    exec("c", "mount -t tmpfs t /tmp")?.exits(1)?;
    exec("--privileged c", "grep -c 'CapEff:.*00000000a80425fb' /proc/self/status")?.exits(1)?.prints("0")?;
    exec("-d c", "touch /tmp/detached; sleep 1000")?.ok()?;
    eventually("the detached exec", || {
        Ok(engine.do_podman(&["exec", "c", "ls", "/tmp/detached"])?.code == 0)
    })?;
    engine.do_podman(&["rm", "--force", "--time=0", "c"])?.ok()?;
    engine.is_clean()
}

#[test]
fn exec_in_a_module_of_a_module_and_of_a_program() -> Result<()> {
    let engine = Engine::new()?;
    let hello = wat("hello")?;
    let files = [format!("{}:/hello.wasm:ro", hello.display()), "/bin/busybox:/busybox:ro".into()];
    engine.start(&["--name", "c", "-v", &files[0], "-v", &files[1], "-e", "A=1", "show", "tick"])?;
    engine.do_podman(&["exec", "c", "/hello.wasm"])?.ok()?.prints("hello from a module")?;
    engine.do_podman(&["exec", "c", "/main.wasm", "9"])?.exits(9)?;
    let world =
        engine.do_podman(&["exec", "-e", "B=2", "--user", "1000", "c", "/main.wasm", "env", "touch=/f"])?;
    assert!(world.stdout.contains("A=1\n") && world.stdout.contains("B=2\n"), "{world}");
    assert!(world.stdout.ends_with("/f: Permission denied\n"), "{world}");
    engine.podman().args(words("exec -i c /main.wasm stdin")).finish_with(b"typed")?.ok()?.prints("typed")?;
    engine.do_podman(&["exec", "c", "/nosuch.wasm"])?.exits(127)?;
    engine.do_podman(&["exec", "c", "/busybox", "echo", "native"])?.ok()?.prints("native")?;
    engine.start(&["--name", "n", "-v", &files[0], "native", "sleep", "1000"])?;
    engine.do_podman(&["exec", "n", "/hello.wasm"])?.ok()?.prints("hello from a module")?;
    engine.is_clean()
}

#[test]
fn terminals() -> Result<()> {
    let engine = Engine::new()?;
    let script = "tty; stty size; read x; echo got $x; exit 5";
    let mut terminal = Terminal::spawn(&mut engine.run(&["-it", "native", "sh", "-c", script]))?;
    terminal.expect("/dev/pts/0")?;
    terminal.expect("24 80")?;
    terminal.type_in("word\r")?;
    terminal.expect("got word")?;
    assert_eq!(terminal.wait()?.0, 5);
    let mut terminal = Terminal::spawn(&mut engine.run(&["-it", "show", "tty", "line", "5"]))?;
    terminal.expect("tty 1 1 1")?;
    terminal.type_in("word\r")?;
    terminal.expect("got word")?;
    assert_eq!(terminal.wait()?.0, 5);

    engine.start(&words("--name n native sleep 1000"))?;
    let winch = "trap 'stty size; exit 4' WINCH; tty; stty size; while :; do sleep 0.05; done";
    let mut terminal = Terminal::spawn(engine.podman().args(["exec", "-it", "n", "sh", "-c", winch]))?;
    terminal.expect("/dev/pts/")?;
    terminal.expect("24 80")?;
    terminal.resize(33, 99)?;
    terminal.expect("33 99")?;
    assert_eq!(terminal.wait()?.0, 4);
    engine.start(&words("--name w show tick"))?;
    let mut terminal = Terminal::spawn(engine.podman().args(words("exec -it w /main.wasm tty line 4")))?;
    terminal.expect("tty 1 1 1")?;
    terminal.type_in("word\r")?;
    terminal.expect("got word")?;
    assert_eq!(terminal.wait()?.0, 4);
    engine.is_clean()
}

#[test]
fn attach_and_detach_a_terminal() -> Result<()> {
    let engine = Engine::new()?;
    let native = ["native", "sh", "-c", "while read x; do echo got $x; test $x = end && exit 5; done"];
    for (name, image) in [("n", native.as_slice()), ("w", &["show", "line", "line", "line", "5"])] {
        engine.start(&[&["-it", "--name", name], image].concat())?;
        let attach = |more: &[&str]| {
            let mut podman = engine.podman();
            Terminal::spawn(podman.arg("attach").args(more).arg(name))
        };
        let mut terminal = attach(&[])?;
        terminal.type_in("one\r")?;
        terminal.expect("got one")?;
        type_keys(&mut terminal, &["\x10", "\x11"])?;
        assert_eq!(terminal.wait()?.0, 0);
        assert_eq!(engine.inspect(name, "{{.State.Status}}")?, "running");
        // Other keys, and then the usual ones mean nothing.
        let mut terminal = attach(&["--detach-keys=ctrl-x,x"])?;
        terminal.type_in("two\r")?;
        terminal.expect("got two")?;
        type_keys(&mut terminal, &["\x18", "x"])?;
        assert_eq!(terminal.wait()?.0, 0);
        let mut terminal = attach(&[])?;
        terminal.type_in("end\r")?;
        terminal.expect("got end")?;
        assert_eq!(terminal.wait()?.0, 0);
        engine.do_podman(&["wait", name])?.ok()?.prints("5")?;
    }
    engine.is_clean()
}

#[test]
fn attach_without_a_terminal() -> Result<()> {
    let engine = Engine::new()?;
    // Standard input stays open when somebody goes, and its end arrives.
    let script = ["native", "sh", "-c", "cat; echo end >&2; exit 5"];
    for (name, image) in [("n", script.as_slice()), ("w", &["show", "stdin", "stderr", "5"])] {
        engine.start(&[&["-i", "--name", name], image].concat())?;
        let mut attach = engine.podman().args(["attach", name]).stdin(Stdio::piped()).job()?;
        let mut stdin = attach.stdin().context("stdin")?;
        stdin.write_all(b"typed\n")?;
        attach.expect("typed")?;
        drop(stdin);
        let done = attach.wait()?.ok()?;
        assert!(done.stderr.starts_with(if name == "n" { "end" } else { "to stderr" }), "{done}");
        engine.do_podman(&["logs", name])?.ok()?.prints("typed")?;
        // podman 4.3's attach ends with 0, whatever the runtime.
        engine.do_podman(&["wait", name])?.ok()?.prints("5")?;
    }
    // Signals of the one who is attached go to the container.
    let trap = "trap 'exit 9' TERM; while :; do echo tick; sleep 0.05; done";
    engine.start(&["--name", "s", "native", "sh", "-c", trap])?;
    let mut attach = engine.podman().args(words("attach --no-stdin s")).job()?;
    attach.expect("tick")?;
    attach.signal(Signal::TERM)?;
    attach.wait()?.ok()?;
    engine.do_podman(&["wait", "s"])?.ok()?.prints("9")?;
    engine.is_clean()
}
