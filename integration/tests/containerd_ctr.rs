//! containerd's own client, `ctr`: native and Wasm containers.
//!
//! ctr loses the output of a program that ends before ctr has got round to opening its end of a FIFO, as it can on a busy
//! machine. So what is compared here comes from programs that wait a moment before they end.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use anyhow::{Context, Result, ensure};
use coracle_integration::{Containerd, Host, Run, Terminal, busybox_root, c, eventually, wat};

const NATIVE: &str = "localhost/native:latest";
/// An image of a usual platform with a module in it, as people make them without further thought.
const SHOW: &str = "localhost/show:latest";

/// A containerd with the images `native` and `show`; that also has `/hello.wasm`.
fn containerd() -> Result<Containerd> {
    let containerd = Containerd::new()?;
    let modules: [(&str, &std::path::Path); 2] =
        [("/main.wasm", &c("show")?), ("/hello.wasm", &wat("hello")?)];
    containerd.import_modules(SHOW, ("linux", "amd64"), &modules)?;
    Ok(containerd)
}

/// The status of a task in `ctr tasks list`.
fn status(containerd: &Containerd, id: &str) -> Result<String> {
    let list = containerd.do_ctr(&["tasks", "list"])?.ok()?;
    let line = list.lines().find(|l| l.starts_with(id)).with_context(|| format!("no task {id} in {list}"))?;
    Ok(line.split_whitespace().last().unwrap_or_default().to_owned())
}

/// Waits until a task has ended with this exit code, and removes it.
fn end(containerd: &Containerd, id: &str, code: i32) -> Result<()> {
    eventually("the task's end", || Ok(status(containerd, id)? == "STOPPED"))?;
    remove(containerd, &[id], code)
}

/// Removes a task, which says its exit code, and its container.
fn remove(containerd: &Containerd, task: &[&str], code: i32) -> Result<()> {
    let removed = containerd.do_ctr(&[&["tasks", "rm"], task].concat())?.ok()?;
    ensure!(removed.stderr.contains(&format!("exit with non-zero exit code {code}\"")), "{removed}");
    containerd.do_ctr(&["containers", "rm", task.last().context("no id")?])?.ok().map(drop)
}

#[test]
fn run_streams_and_exit_codes() -> Result<()> {
    let containerd = containerd()?;
    let run = |image: &str, id: &str, args: &[&str]| containerd.run(&["--rm"], image, id, args);
    run(NATIVE, "a", &["sh", "-c", "echo out; echo err >&2; sleep 0.3; exit 7"])
        .finish()?
        .exits(7)?
        .prints("out")?;
    run(NATIVE, "b", &["sh", "-c", "kill -9 $$; sleep 1; exit 3"]).finish()?.exits(3)?;
    // A line, not the end of input: ctr loses that when it comes before the task is there.
    run(NATIVE, "c", &["sh", "-c", "head -n1; sleep 0.3"]).finish_with(b"typed\n")?.ok()?.prints("typed")?;
    let args = ["/main.wasm", "args", "env", "line", "stderr", "nap", "7"];
    let done = run(SHOW, "d", &args).finish_with(b"typed\n")?.exits(7)?;
    assert!(done.stdout.starts_with("</main.wasm><args><env><line><stderr><nap><7>\nPATH="), "{done}");
    assert!(done.stdout.ends_with("\ngot typed\n") && done.stderr == "to stderr\n", "{done}");
    run(SHOW, "e", &["/main.wasm", "abort"]).finish()?.exits(134)?;
    containerd.is_clean()
}

#[test]
fn what_an_option_becomes() -> Result<()> {
    let containerd = containerd()?;
    let volume = containerd.path().join("volume");
    fs::create_dir(&volume)?;
    fs::write(volume.join("f"), "from the host\n")?;
    let mount = format!("type=bind,src={},dst=/data,options=rbind:ro", volume.display());
    let flags = [
        "--rm",
        "--read-only",
        "--env",
        "A=b",
        "--cwd",
        "/data",
        "--mount",
        &mount,
        "--memory-limit",
        "67108864",
    ];
    let script = "echo $A; pwd; cat f; touch g; touch /h; grep ^Seccomp: /proc/self/status; sleep 0.3";
    let flags = [&flags[..], &["--seccomp"]].concat();
    let done = containerd.run(&flags, NATIVE, "a", &["sh", "-c", script]).finish()?.ok()?;
    assert_eq!(done.stdout, "b\n/data\nfrom the host\nSeccomp:\t2\n", "{done}");
    assert_eq!(done.stderr.matches("Read-only file system").count(), 2, "{done}");
    let args = ["/main.wasm", "env", "cat=/data/f", "touch=/data/g", "touch=/h", "nap"];
    let done = containerd.run(&flags, SHOW, "b", &args).finish()?.ok()?;
    let expected = "from the host\n/data/g: Read-only file system\n/h: Read-only file system\n";
    assert!(done.stdout.contains("\nA=b\n") && done.stdout.ends_with(expected), "{done}");
    containerd.import_modules("localhost/hog:latest", ("linux", "amd64"), &[("/hog.wasm", &wat("hog")?)])?;
    containerd.run(&flags, "localhost/hog:latest", "c", &[]).finish()?.exits(137)?;
    containerd.is_clean()
}

#[test]
fn namespaces_and_roots() -> Result<()> {
    let containerd = containerd()?;
    let root = containerd.path().join("root");
    busybox_root(&root)?;
    fs::copy(c("show")?, root.join("main.wasm"))?;
    fs::set_permissions(root.join("main.wasm"), fs::Permissions::from_mode(0o755))?;
    let root = root.to_str().context("path")?;
    let run = |flags: &[&str], image: &str, id: &str, args: &[&str]| {
        containerd.run(&[&["--rm"], flags].concat(), image, id, args).finish()
    };
    run(&["--rootfs"], root, "a", &["sh", "-c", "ls -d /bin/sh; sleep 0.3; exit 3"])?
        .exits(3)?
        .prints("/bin/sh")?;
    run(&["--rootfs"], root, "b", &["/main.wasm", "touch=/made", "nap", "3"])?
        .exits(3)?
        .prints("made /made")?;
    // In the namespaces of another task.
    containerd.start(&[], NATIVE, "n", &["sleep", "1000"])?;
    let pids = containerd.do_ctr(&["tasks", "ps", "n"])?.ok()?;
    let init = pids.lines().nth(1).and_then(|l| l.split_whitespace().next()).context("a pid")?;
    eventually("the program", || Ok(fs::read_to_string(format!("/proc/{init}/comm"))? == "sleep\n"))?;
    let joined = ["pid", "uts", "ipc"].map(|kind| format!("{kind}:/proc/{init}/ns/{kind}"));
    let flags: Vec<_> = joined.iter().flat_map(|joined| ["--with-ns", joined]).collect();
    let uts = fs::read_link(format!("/proc/{init}/ns/uts"))?;
    run(&flags, NATIVE, "c", &["sh", "-c", "readlink /proc/self/ns/uts; cat /proc/1/comm; sleep 0.3"])?
        .ok()?
        .prints(&format!("{}\nsleep", uts.display()))?;
    run(&flags, SHOW, "d", &["/main.wasm", "cat=/proc/1/comm", "nap"])?.ok()?.prints("sleep")?;
    remove(&containerd, &["--force", "n"], 137)?;
    containerd.is_clean()
}

#[test]
fn who_runs_a_module() -> Result<()> {
    let containerd = containerd()?;
    containerd.import_modules("localhost/wasi:latest", ("wasi", "wasm"), &[("/main.wasm", &c("show")?)])?;
    let run = |flags: &[&str], image: &str, id: &str, args: &[&str]| {
        containerd.run(&[&["--rm"], flags].concat(), image, id, args).finish()
    };
    run(&["--platform", "wasi/wasm"], "localhost/wasi:latest", "a", &["/main.wasm", "args", "nap"])?
        .ok()?
        .prints("</main.wasm><args><nap>")?;
    run(&["--annotation", "run.oci.handler=wasm"], SHOW, "b", &["/main.wasm", "5"])?.exits(5)?;
    run(
        &["--annotation", "module.wasm.image/variant=compat-smart"],
        NATIVE,
        "c",
        &["sh", "-c", "echo native; sleep 0.3"],
    )?
    .ok()?
    .prints("native")?;
    run(&["--annotation", "run.oci.handler=wasm"], NATIVE, "d", &["true"])?
        .exits(1)?
        .fails_with("WebAssembly")?;
    run(&["--annotation", "run.oci.handler=krun"], NATIVE, "e", &["true"])?
        .exits(1)?
        .fails_with("unknown handler \"krun\"")?;
    // The kernel cannot: as a module it would end with 5.
    run(&["--annotation", "org.coracle.wasm.detect=false"], SHOW, "f", &["/main.wasm", "5"])?.exits(1)?;
    containerd.is_clean()
}

#[test]
fn what_cannot_be_started() -> Result<()> {
    let containerd = containerd()?;
    let run = |flags: &[&str], id: &str, args: &[&str]| {
        containerd.run(&[&["--rm"], flags].concat(), NATIVE, id, args).finish()
    };
    // What containerd puts around the runtime's message, which it takes from the log file.
    let around = "failed to create shim task: OCI runtime create failed: ";
    for (args, message) in [
        ("nosuch", "exec: \"nosuch\": executable file not found in $PATH"),
        ("/nosuch", "exec: \"/nosuch\": stat /nosuch: no such file or directory"),
        ("/etc", "permission denied"),
    ] {
        run(&[], "a", &[args])?.exits(1)?.fails_with(around)?.fails_with(message)?;
    }
    run(&["--cwd", "/etc/passwd"], "a", &["true"])?.fails_with("not a directory")?;
    run(&["--mount", "type=bind,src=/nosuch,dst=/x,options=bind"], "a", &["true"])?
        .fails_with(around)?
        .fails_with("/nosuch")?;
    containerd.start(&[], NATIVE, "b", &["sleep", "1000"])?;
    containerd
        .do_ctr(&["tasks", "exec", "--exec-id", "x", "b", "nosuch"])?
        .fails_with("OCI runtime exec failed: ")?
        .fails_with("exec: \"nosuch\": executable file not found in $PATH")?;
    containerd.do_ctr(&["tasks", "rm", "b"])?.fails_with("must be stopped before deletion")?;
    remove(&containerd, &["--force", "b"], 137)?;
    containerd.is_clean()
}

/// The verbs on a running task, for both kinds of program.
#[test]
fn a_task_from_start_to_end() -> Result<()> {
    let containerd = containerd()?;
    let ctr = |args: &[&str]| containerd.do_ctr(args);
    let native: &[&str] = &["sh", "-c", "trap 'exit 9' TERM; while :; do sleep 0.05; done"];
    for (id, image, args, program, code) in
        [("n", NATIVE, native, "/bin/busybox", 9), ("w", SHOW, &["/main.wasm", "tick"], "/hello.wasm", 143)]
    {
        containerd.start(&[], image, id, args)?;
        assert_eq!(status(&containerd, id)?, "RUNNING");
        let pids = ctr(&["tasks", "ps", id])?.ok()?;
        let init = pids.lines().nth(1).and_then(|l| l.split_whitespace().next()).context("a pid")?;
        assert!(fs::exists(format!("/proc/{init}/status"))?, "{pids}");
        let metrics = ctr(&["tasks", "metrics", "--format", "json", id])?.ok()?;
        assert!(metrics.stdout.contains("\"memory\"") && metrics.stdout.contains("\"pids\""), "{metrics}");

        ctr(&["tasks", "exec", "--exec-id", "x", id, program])?.ok()?;
        ctr(&["tasks", "exec", "--exec-id", "y", id, "/nosuch"])?.fails_with("no such file or directory")?;
        ctr(&["tasks", "pause", id])?.ok()?;
        assert_eq!(status(&containerd, id)?, "PAUSED");
        let cgroup = format!("{}/{id}", containerd.host().name());
        let frozen = Host::cgroup_dir(&cgroup, "freezer")?.join("freezer.state");
        if frozen.exists() {
            assert_eq!(fs::read_to_string(frozen)?.trim(), "FROZEN");
        }
        ctr(&["tasks", "exec", "--exec-id", "z", id, program])?.fails_with("cannot exec in a paused")?;
        ctr(&["tasks", "resume", id])?.ok()?;
        ctr(&["tasks", "resume", id])?.fails_with("cannot resume a running process")?;
        assert_eq!(status(&containerd, id)?, "RUNNING");

        ctr(&["tasks", "kill", id])?.ok()?;
        eventually("the end", || Ok(status(&containerd, id)? == "STOPPED"))?;
        ctr(&["tasks", "kill", id])?.fails_with("process already finished")?;
        end(&containerd, id, code)?;
        ctr(&["tasks", "kill", id])?.fails_with("not found")?;
    }
    containerd.is_clean()
}

#[test]
fn exec_streams_users_and_signals() -> Result<()> {
    let containerd = containerd()?;
    containerd.start(&[], NATIVE, "n", &["sleep", "1000"])?;
    containerd.start(&[], SHOW, "w", &["/main.wasm", "tick"])?;
    let exec = |flags: &[&str], id: &str, args: &[&str]| {
        let mut command = containerd.ctr();
        command.args(["tasks", "exec", "--exec-id", "x", "--fifo-dir"]).arg(containerd.path().join("fifo"));
        command.args(flags).arg(id).args(args);
        command
    };
    exec(&["--user", "1000", "--cwd", "/tmp"], "n", &["sh", "-c", "id -u; pwd; sleep 0.3; exit 6"])
        .finish()?
        .exits(6)?
        .prints("1000\n/tmp")?;
    let done =
        exec(&[], "n", &["sh", "-c", "head -n1; echo err >&2; sleep 0.3"]).finish_with(b"in\n")?.ok()?;
    assert_eq!((done.stdout.as_str(), done.stderr.as_str()), ("in\n", "err\n"));
    exec(&[], "w", &["/main.wasm", "args", "nap", "9"])
        .finish()?
        .exits(9)?
        .prints("</main.wasm><args><nap><9>")?;
    // The signal goes to the process that was executed, not to the container.
    let mut job = exec(&[], "w", &["/main.wasm", "sleep"]).job()?;
    job.expect("sleeping")?;
    containerd.do_ctr(&["tasks", "kill", "--exec-id", "x", "w"])?.ok()?;
    job.wait()?.exits(143)?;
    for id in ["n", "w"] {
        assert_eq!(status(&containerd, id)?, "RUNNING");
        containerd.do_ctr(&["tasks", "kill", "--all", "--signal", "SIGKILL", id])?.ok()?;
        end(&containerd, id, 137)?;
    }
    containerd.is_clean()
}

#[test]
fn terminals() -> Result<()> {
    let containerd = containerd()?;
    for (id, image, args, tty) in [
        ("n", NATIVE, &["sh", "-c", "tty; stty size; read x; echo got $x; exit 5"][..], "/dev/pts/0"),
        ("w", SHOW, &["/main.wasm", "tty", "line", "5"], "tty 1 1 1"),
    ] {
        let mut terminal = Terminal::spawn(&mut containerd.run(&["--rm", "--tty"], image, id, args))?;
        terminal.expect(tty)?;
        terminal.type_in("word\r")?;
        terminal.expect("got word")?;
        assert_eq!(terminal.wait()?.0, 5);
    }
    containerd.start(&[], SHOW, "e", &["/main.wasm", "tick"])?;
    let mut exec = containerd.ctr();
    exec.args(["tasks", "exec", "--exec-id", "x", "--tty", "e", "/main.wasm", "tty", "line", "4"]);
    let mut terminal = Terminal::spawn(&mut exec)?;
    terminal.expect("tty 1 1 1")?;
    terminal.type_in("word\r")?;
    terminal.expect("got word")?;
    assert_eq!(terminal.wait()?.0, 4);
    remove(&containerd, &["--force", "e"], 137)?;
    containerd.is_clean()
}

/// When a shim dies, containerd has another one delete the container, whatever runs in it.
#[test]
fn the_death_of_a_shim() -> Result<()> {
    let containerd = containerd()?;
    for (id, image, args) in [("n", NATIVE, &["sleep", "1000"][..]), ("w", SHOW, &["/main.wasm", "spin"])] {
        containerd.start(&[], image, id, args)?;
        let cgroup = format!("{}/{id}", containerd.host().name());
        assert!(!Host::cgroup_dirs(&cgroup).is_empty());
        containerd.kill_shims();
        eventually("the container's end", || Ok(Host::cgroup_dirs(&cgroup).is_empty()))?;
        eventually("no task", || Ok(containerd.do_ctr(&["tasks", "list", "-q"])?.stdout.is_empty()))?;
        containerd.do_ctr(&["containers", "rm", id])?.ok()?;
    }
    containerd.is_clean()
}

/// CRIU says no to a module, and maybe to this kernel: the user hears it, and the task goes on.
#[test]
fn a_checkpoint_that_fails() -> Result<()> {
    let containerd = containerd()?;
    containerd.start(&[], SHOW, "w", &["/main.wasm", "tick"])?;
    let images = containerd.path().join("images");
    containerd
        .ctr()
        .args(["tasks", "checkpoint", "--image-path"])
        .arg(&images)
        .arg("w")
        .finish()?
        .fails_with("a running Wasm module cannot be checkpointed")?;
    assert_eq!(status(&containerd, "w")?, "RUNNING");
    containerd.do_ctr(&["tasks", "kill", "w"])?.ok()?;
    end(&containerd, "w", 143)?;
    containerd.is_clean()
}
