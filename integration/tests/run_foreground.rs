//! Foreground `run`: exit statuses, signals, standard streams.

use std::io::Write;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result};
use coracle_integration::{Host, Run, eventually};
use rustix::process::Signal;

#[test]
fn exit_codes_pass() -> Result<()> {
    let host = Host::new()?;
    for code in [0, 1, 7, 125, 255] {
        host.container(&["sh", "-c", &format!("exit {code}")])?.run()?.exits(code)?;
    }
    host.is_clean()
}

#[test]
fn death_by_signal_is_128_plus_n() -> Result<()> {
    let host = Host::new()?;
    // SIGKILL from inside does not reach the init of a PID namespace.
    for (signal, code) in [("KILL", 137), ("TERM", 143), ("SEGV", 139)] {
        let mut c = host.container(&["sh", "-c", &format!("kill -{signal} $$")])?;
        c.without_namespace("pid");
        c.run()?.exits(code)?;
    }
    host.is_clean()
}

#[test]
fn signals_are_forwarded() -> Result<()> {
    let host = Host::new()?;
    let script = "trap 'echo usr1' USR1; trap 'echo usr2' USR2; trap 'exit 42' TERM; echo ready; \
                  while :; do sleep 0.05; done";
    let c = host.container(&["sh", "-c", script])?;
    let mut run = c.run_job()?;
    run.expect("ready")?;
    run.signal(Signal::USR1)?;
    run.expect("usr1")?;
    run.signal(Signal::USR2)?;
    run.expect("usr2")?;
    run.signal(Signal::TERM)?;
    run.wait()?.exits(42)?;
    host.is_clean()
}

#[test]
fn interrupt_reaches_the_container_and_not_the_runtime() -> Result<()> {
    let host = Host::new()?;
    let c = host.container(&[
        "sh",
        "-c",
        "trap 'echo int; exit 9' INT; echo ready; while :; do sleep 0.05; done",
    ])?;
    let mut run = c.run_job()?;
    run.expect("ready")?;
    run.signal(Signal::INT)?;
    run.wait()?.exits(9)?;
    Ok(())
}

#[test]
fn no_exit_status_is_lost_in_200_short_runs() -> Result<()> {
    let host = Host::new()?;
    let c = host.container(&["sh", "-c", "exit 5"])?;
    for _ in 0..200 {
        c.run_command(&[])?.job()?.wait_for(Duration::from_secs(20))?.exits(5)?;
    }
    host.is_clean()
}

#[test]
fn no_exit_status_is_lost_when_a_signal_comes_in_between() -> Result<()> {
    let host = Host::new()?;
    let c = host.container(&["sh", "-c", "exit 5"])?;
    for pause in 0..40 {
        let mut run = c.run_job()?;
        std::thread::sleep(Duration::from_micros(pause * 700));
        // Before the runtime has blocked its signals, SIGCONT is the one that cannot hurt.
        let _ = run.signal(Signal::CONT);
        run.wait_for(Duration::from_secs(20))?.exits(5)?;
    }
    host.is_clean()
}

#[test]
fn standard_streams_pass() -> Result<()> {
    let host = Host::new()?;
    let c = host.container(&["sh", "-c", "echo err >&2; cat"])?;
    let done = c.run_command(&[])?.finish_with(b"from stdin\n")?.ok()?.prints("from stdin")?;
    assert_eq!(done.stderr, "err\n");
    Ok(())
}

#[test]
fn a_pipe_on_stdin_ends_when_it_is_closed() -> Result<()> {
    let host = Host::new()?;
    let c = host.container(&["sh", "-c", "read a; echo \"$a\"; cat; echo end"])?;
    let mut run = c.run_command(&[])?.stdin(Stdio::piped()).job()?;
    let mut stdin = run.stdin().context("stdin")?;
    stdin.write_all(b"first\n")?;
    run.expect("first")?;
    stdin.write_all(b"second\n")?;
    drop(stdin);
    run.wait()?.ok()?.prints("first\nsecond\nend")?;
    Ok(())
}

#[test]
fn a_megabyte_of_output_arrives() -> Result<()> {
    let host = Host::new()?;
    let done = host.container(&["sh", "-c", "yes 0123456789abcde | head -n 65536"])?.run()?.ok()?;
    assert_eq!(done.stdout.len(), 1 << 20);
    Ok(())
}

#[test]
fn run_detached_returns_at_once() -> Result<()> {
    let host = Host::new()?;
    let c = host.container(&["sleep", "1000"])?;
    let pid_file = host.path().join("pid");
    let flags = ["--detach", "--pid-file", pid_file.to_str().context("path")?];
    c.run_command(&flags)?.finish()?.ok()?.prints("")?;
    assert_eq!(c.status()?, "running");
    assert_eq!(std::fs::read_to_string(&pid_file)?, c.state()?["pid"].to_string());
    c.delete()?;
    host.is_clean()
}

#[test]
fn run_removes_the_container_even_when_it_fails() -> Result<()> {
    let host = Host::new()?;
    let failed = host.container(&["nosuch"])?.run()?;
    assert!(failed.code == 1 || failed.code == 127, "{failed}");
    failed.fails_with("executable file not found in $PATH")?;
    host.is_clean()
}

#[test]
fn children_of_init_do_not_outlive_it() -> Result<()> {
    let host = Host::new()?;
    host.container(&["sh", "-c", "sleep 1000 & exit 3"])?.run()?.exits(3)?;
    host.is_clean()?;
    // Without a PID namespace it is the runtime that has to see to it.
    let mut c = host.container(&["sh", "-c", "sleep 1000 & exit 3"])?;
    c.without_namespace("pid");
    c.run()?.exits(3)?;
    eventually("the end of the background process", || Ok(host.leftovers()?.is_empty()))?;
    host.is_clean()
}
