//! Signals, at each step that takes long on a real image: programs of the host are replaced by ones that never end.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::common::{Host, Run, Tree, digest, image};

/// Puts a program before the real one in the path: with arguments like these it starts another, says both their ids, and
/// waits.
fn stall(host: &Host, program: &str, arguments: &str) -> Result<()> {
    let script = format!(
        "#!/bin/sh\n\
         case \"$*\" in {arguments})\n\
             sleep 1000 &\n\
             echo $$ $! >\"${{0%/*}}/writing\"\n\
             mv \"${{0%/*}}/writing\" \"${{0%/*}}/pids\"\n\
             wait;;\n\
         esac\n\
         PATH=${{PATH#*:}}\n\
         exec {program} \"$@\"\n"
    );
    let directory = host.path("stall");
    fs::create_dir_all(&directory)?;
    fs::write(directory.join(program), script)?;
    Ok(fs::set_permissions(directory.join(program), fs::Permissions::from_mode(0o755))?)
}

fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> Result<T> {
    let began = Instant::now();
    loop {
        if let Some(found) = look() {
            return Ok(found);
        }
        ensure!(began.elapsed() < Duration::from_secs(30), "{what}: not in time");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Whether a process is gone, or is one only until somebody asks for its status.
fn is_gone(pid: &str) -> bool {
    let stat = fs::read_to_string(Path::new("/proc").join(pid).join("stat")).unwrap_or_default();
    stat.rsplit(')').next().is_none_or(|rest| rest.is_empty() || rest.starts_with(" Z"))
}

/// Runs a command until it is at that program, and sends it a signal; and that again, while it is still there.
fn interrupt(host: &Host, command: &mut Command, signal: Signal) -> Result<()> {
    let path = std::env::var("PATH")?;
    command.env("PATH", format!("{}:{path}", host.path("stall").display()));
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let pids = wait_for("the step", || fs::read_to_string(host.path("stall/pids")).ok());
    let id = pid(&child)?;
    let sent = kill_process(id, signal);
    std::thread::sleep(Duration::from_millis(500));
    if child.try_wait()?.is_none() {
        kill_process(id, signal)?;
    }
    let output = child.wait_with_output()?;
    let (pids, ()) = (pids?, sent?);
    let text = |bytes| String::from_utf8(bytes);
    let run = Run { code: output.status.code(), stdout: text(output.stdout)?, stderr: text(output.stderr)? };
    run.fails(128 + signal.as_raw(), &["interrupted: nothing was written"])?;
    ensure!(run.stderr.ends_with("coracle-vm-image: interrupted: nothing was written\n"), "{run:?}");
    host.nothing_half_made()?;
    for pid in pids.split_whitespace() {
        wait_for("the end of what was started", || is_gone(pid).then_some(()))?;
    }
    Ok(())
}

fn pid(child: &Child) -> Result<Pid> {
    i32::try_from(child.id()).ok().and_then(Pid::from_raw).context("pid")
}

/// Interrupts an injection into an image with this name.
fn injection(name: &str, program: &str, arguments: &str, signal: Signal) -> Result<()> {
    let host = Host::new()?;
    let base = image(&host, &Tree::new(&host)?, name)?;
    let (before, output) = (digest(&base)?, host.path(&name.replace("base", "new")));
    stall(&host, program, arguments)?;
    fs::write(&output, "old")?;
    interrupt(&host, &mut host.injection(&base, &output, &host.programs()?), signal)?;
    assert_eq!(fs::read(&output)?, b"old", "what was there stays until the new one is whole");
    assert_eq!(digest(&base)?, before, "the base changed");
    Ok(())
}

#[test]
fn while_the_base_is_decompressed() -> Result<()> {
    injection("base.qcow2.zst", "zstd", "'-q -d '*", Signal::INT)
}

#[test]
fn while_the_base_is_copied() -> Result<()> {
    injection("base.raw", "cp", "*disk.raw", Signal::TERM)
}

#[test]
fn while_the_base_is_converted() -> Result<()> {
    injection("base.qcow2", "qemu-img", "convert*'-O raw'*", Signal::TERM)
}

#[test]
fn while_the_file_system_is_checked() -> Result<()> {
    injection("base.qcow2", "e2fsck", "-fp*", Signal::INT)
}

#[test]
fn a_program_that_does_not_listen_is_killed_at_the_second_signal() -> Result<()> {
    let host = Host::new()?;
    let base = image(&host, &Tree::new(&host)?, "base.qcow2")?;
    stall(&host, "e2fsck", "-fp*")?;
    let stalled = host.path("stall/e2fsck");
    fs::write(
        &stalled,
        fs::read_to_string(&stalled)?.replace("sleep 1000 &", "trap '' INT TERM; sleep 1000 &"),
    )?;
    interrupt(&host, &mut host.injection(&base, &host.path("new.qcow2"), &host.programs()?), Signal::INT)
}

#[test]
fn while_files_are_written() -> Result<()> {
    injection("base.qcow2", "debugfs", "-w*", Signal::TERM)
}

#[test]
fn while_files_are_read() -> Result<()> {
    injection("base.qcow2", "debugfs", "'-R ls -p '*usr/bin*", Signal::HUP)
}

#[test]
fn while_the_new_image_is_converted() -> Result<()> {
    injection("base.vhdx", "qemu-img", "convert*'-O vhdx'*", Signal::INT)
}

#[test]
fn while_the_new_image_is_compressed() -> Result<()> {
    // It reads nothing: what is written to it waits too.
    injection("base.raw.xz", "xz", "'-T0 '*", Signal::TERM)
}

#[test]
fn while_images_are_packed() -> Result<()> {
    let host = Host::new()?;
    image(&host, &Tree::new(&host)?, "machine.qcow2")?;
    stall(&host, "zstd", "*-15*")?;
    let mut command = host.command();
    interrupt(&host, command.args(["--json", "pack", "--output", "layout", "machine.qcow2"]), Signal::INT)?;
    ensure!(!host.path("layout").exists());
    Ok(())
}

#[test]
fn while_an_archive_is_unpacked() -> Result<()> {
    let host = Host::new()?;
    let tree = Tree::new(&host)?;
    crate::common::tool(
        Command::new("tar").arg("-cf").arg(host.path("a.tar")).arg("-C").arg(&tree.0).arg("."),
    )?;
    stall(&host, "tar", "*-xf*")?;
    interrupt(&host, host.command().args(["inspect", "a.tar"]), Signal::TERM)
}
