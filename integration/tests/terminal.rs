//! Terminals: `process.terminal` with a console socket, and in the foreground.

use std::fs;

use anyhow::Result;
use coracle_integration::{ConsoleSocket, Container, Host, Terminal};
use serde_json::json;

fn with_terminal<'h>(host: &'h Host, script: &str) -> Result<Container<'h>> {
    let mut c = host.container(&["sh", "-c", script])?;
    c.config["process"]["terminal"] = json!(true);
    Ok(c)
}

#[test]
fn the_console_socket_gets_the_master() -> Result<()> {
    let host = Host::new()?;
    let mut c = with_terminal(&host, "tty; stty size; readlink /proc/self/fd/1; read x; echo got $x")?;
    c.config["process"]["consoleSize"] = json!({"height": 33, "width": 99});
    let socket = ConsoleSocket::bind(&host.path().join("console.sock"))?;
    c.try_create(&["--console-socket", socket.path()])?.ok()?.prints("")?;
    let mut terminal = socket.accept()?;
    c.start()?;
    terminal.expect("/dev/pts/0")?;
    terminal.expect("33 99")?;
    terminal.expect("/dev/pts/0")?;
    terminal.type_in("word\n")?;
    terminal.expect("got word")?;
    terminal.rest()?;
    assert_eq!(c.wait_exit()?, 0);
    Ok(())
}

#[test]
fn a_socket_with_a_long_path() -> Result<()> {
    let host = Host::new()?;
    let dir = host.path().join("d".repeat(120));
    fs::create_dir(&dir)?;
    let mut c = with_terminal(&host, "echo hello")?;
    // Binding needs a short path too; the file is the same.
    let short = host.path().join("s");
    std::os::unix::fs::symlink(&dir, &short)?;
    let socket = ConsoleSocket::bind(&short.join("c"))?;
    let long = dir.join("c");
    c.try_create(&["--console-socket", &long.to_string_lossy()])?.ok()?;
    let mut terminal = socket.accept()?;
    c.start()?;
    terminal.expect("hello")?;
    Ok(())
}

#[test]
fn the_terminal_is_the_controlling_one_and_dev_console() -> Result<()> {
    let host = Host::new()?;
    let mut c = with_terminal(
        &host,
        "trap 'exit 5' INT; echo to-tty > /dev/tty; echo to-console > /dev/console; stat -c %u /dev/console; while :; do sleep 0.05; done",
    )?;
    c.config["process"]["user"] = json!({"uid": 1000, "gid": 1000});
    let socket = ConsoleSocket::bind(&host.path().join("console.sock"))?;
    c.try_create(&["--console-socket", socket.path()])?.ok()?;
    let mut terminal = socket.accept()?;
    c.start()?;
    terminal.expect("to-tty")?;
    terminal.expect("to-console")?;
    terminal.expect("1000")?;
    // ^C reaches the foreground process group.
    terminal.type_in("\u{3}")?;
    terminal.rest()?;
    assert_eq!(c.wait_exit()?, 5);
    Ok(())
}

#[test]
fn a_terminal_needs_a_socket() -> Result<()> {
    let host = Host::new()?;
    let mut c = with_terminal(&host, "true")?;
    c.try_create(&[])?.exits(1)?.fails_with("console socket")?;
    host.is_clean()?;
    let mut c = host.container(&["true"])?;
    let socket = ConsoleSocket::bind(&host.path().join("console.sock"))?;
    c.try_create(&["--console-socket", socket.path()])?.exits(1)?.fails_with("console socket")?;
    host.is_clean()?;
    let mut c = with_terminal(&host, "true")?;
    c.try_create(&["--console-socket", "/nosuch/socket"])?.exits(1)?;
    host.is_clean()
}

#[test]
fn foreground_run() -> Result<()> {
    let host = Host::new()?;
    let c = with_terminal(&host, "tty; stty size; read x; echo got $x; exit 6")?;
    let mut terminal = Terminal::spawn(&mut c.run_command(&[])?)?;
    terminal.expect("/dev/pts/0")?;
    terminal.expect("24 80")?;
    terminal.type_in("word\r")?;
    terminal.expect("got word")?;
    assert_eq!(terminal.wait()?.0, 6);
    host.is_clean()
}

#[test]
fn resizing_and_interrupting_in_the_foreground() -> Result<()> {
    let host = Host::new()?;
    let script =
        "trap 'stty size' WINCH; trap 'echo int; exit 5' INT; echo ready; while :; do sleep 0.05; done";
    let c = with_terminal(&host, script)?;
    let mut terminal = Terminal::spawn(&mut c.run_command(&[])?)?;
    terminal.expect("ready")?;
    terminal.resize(41, 123)?;
    terminal.expect("41 123")?;
    terminal.type_in("\u{3}")?;
    terminal.expect("int")?;
    assert_eq!(terminal.wait()?.0, 5);
    Ok(())
}

#[test]
fn all_output_arrives_before_the_end() -> Result<()> {
    let host = Host::new()?;
    for _ in 0..5 {
        let c = with_terminal(&host, "seq 20000; echo last")?;
        let (code, output) = Terminal::spawn(&mut c.run_command(&[])?)?.wait()?;
        assert_eq!(code, 0);
        assert!(
            output.trim_end().ends_with("20000\r\nlast"),
            "{:?}",
            &output[output.len().saturating_sub(50)..]
        );
    }
    Ok(())
}

/// A user's shell must get its terminal back as it was, however the container ended.
#[test]
fn the_users_terminal_is_restored() -> Result<()> {
    let host = Host::new()?;
    for (end, code) in [("exit 3", 3), ("kill -9 $$", 137)] {
        let mut c = with_terminal(&host, end)?;
        c.without_namespace("pid");
        let run = c.run_command(&[])?;
        let line = format!(
            "stty -a > {0}/before; {1}; echo code $?; stty -a > {0}/after",
            host.path().display(),
            shell_line(&run)
        );
        let mut terminal = Terminal::spawn(coracle_integration::command("sh").arg("-c").arg(line))?;
        terminal.expect(&format!("code {code}"))?;
        terminal.wait()?;
        assert_eq!(
            fs::read_to_string(host.path().join("before"))?,
            fs::read_to_string(host.path().join("after"))?
        );
    }
    Ok(())
}

/// A command as a shell would be given it; no argument here needs quoting.
fn shell_line(command: &std::process::Command) -> String {
    let args = command.get_args().map(|a| a.to_string_lossy().into_owned());
    std::iter::once(command.get_program().to_string_lossy().into_owned())
        .chain(args)
        .collect::<Vec<_>>()
        .join(" ")
}
