//! checkpoint and restore through CRIU. What needs a CRIU that can save a process here is skipped, with CRIU's reason,
//! where it cannot: CRIU 3.17 does not know the vDSO of newer kernels, for one.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use anyhow::{Context, Result, ensure};
use coracle_integration::{Container, Host, Run, eventually, skip, wat};
use serde_json::json;

/// A container that counts, and ends with 7 when it finds /go. It shares the host's network: to hold connections, CRIU
/// would need iptables.
fn counter(host: &Host) -> Result<Container<'_>> {
    let script = "i=0; while ! [ -e /go ]; do i=$((i+1)); echo $i > /count; sleep 0.1; done; exit 7";
    let mut c = host.container(&["sh", "-c", script])?;
    c.without_namespace("network");
    Ok(c)
}

fn count(c: &Container) -> Result<u32> {
    Ok(fs::read_to_string(c.rootfs().join("count")).unwrap_or_default().trim().parse().unwrap_or_default())
}

/// Starts the counter with nothing of the host's but pipes and /dev/null open.
fn start_counter(c: &mut Container) -> Result<()> {
    let mut command = c.run_command(&["--detach"])?;
    command.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::null());
    command.stderr(std::process::Stdio::null());
    ensure!(command.status()?.success(), "run --detach");
    eventually("the container counts", || Ok(count(c)? > 2))
}

/// Saves the container; false, for `test` to be skipped, where CRIU cannot, after a check of the error.
fn checkpoint(c: &Container, test: &str, flags: &[&str]) -> Result<bool> {
    let images = c.bundle().join("images");
    let mut all = vec!["--image-path", images.to_str().context("path")?];
    all.extend(flags);
    let done = c.verb_with("checkpoint", &all).finish()?;
    if done.code == 0 {
        return Ok(true);
    }
    let failed = done.fails_with("criu failed: ")?;
    let failed = failed.fails_with("(log: ")?;
    assert_eq!(c.status()?, "running", "a container that could not be saved goes on");
    c.delete()?;
    skip(test, failed.stderr.trim());
    Ok(false)
}

#[test]
fn a_missing_criu_is_named_with_its_package() -> Result<()> {
    let host = Host::new()?;
    let mut c = counter(&host)?;
    start_counter(&mut c)?;
    let failed = c.verb("checkpoint").env("PATH", "/nowhere").current_dir(c.bundle()).finish()?.exits(1)?;
    failed.fails_with("criu: executable file not found in $PATH (Debian's package criu has it)")?;
    assert_eq!(c.status()?, "running");
    c.delete()?;
    host.is_clean()
}

#[test]
fn a_criu_that_says_nothing_is_an_error() -> Result<()> {
    let host = Host::new()?;
    let mut c = counter(&host)?;
    start_counter(&mut c)?;
    let bin = c.bundle().join("bin");
    fs::create_dir(&bin)?;
    fs::write(bin.join("criu"), "#!/bin/sh\nexit 3\n")?;
    fs::set_permissions(bin.join("criu"), fs::Permissions::from_mode(0o755))?;
    let failed = c.verb("checkpoint").env("PATH", &bin).current_dir(c.bundle()).finish()?.exits(1)?;
    failed.fails_with("criu ended without an answer")?;
    assert_eq!(c.status()?, "running");
    Ok(())
}

#[test]
fn only_what_runs_can_be_saved() -> Result<()> {
    let host = Host::new()?;
    let mut c = host.container(&["sleep", "1000"])?;
    c.create()?;
    c.verb("checkpoint")
        .finish()?
        .exits(1)?
        .fails_with("container cannot be checkpointed in created state")?;
    assert_eq!(c.status()?, "created");
    Ok(())
}

#[test]
fn a_module_that_runs_is_refused() -> Result<()> {
    let host = Host::new()?;
    let mut c = host.empty_container(&["/main.wasm"])?;
    c.install(&wat("busy")?, "main.wasm")?;
    c.create()?.start()?;
    let failed = c.verb("checkpoint").current_dir(c.bundle()).finish()?.exits(1)?;
    failed.fails_with("a running Wasm module cannot be checkpointed")?;
    assert_eq!(c.status()?, "running");
    Ok(())
}

#[test]
fn a_parent_path_is_relative_and_there() -> Result<()> {
    let host = Host::new()?;
    let mut c = counter(&host)?;
    start_counter(&mut c)?;
    let images = c.bundle().join("images");
    let images = images.to_str().context("path")?;
    for (parent, complaint) in [
        ("/parent", "--parent-path /parent: must be relative"),
        ("../none", "invalid --parent-path ../none: no such file or directory"),
        ("../config.json", "invalid --parent-path ../config.json: not a directory"),
    ] {
        let flags = ["--pre-dump", "--image-path", images, "--parent-path", parent];
        c.verb_with("checkpoint", &flags).finish()?.exits(1)?.fails_with(complaint)?;
    }
    Ok(())
}

#[test]
fn a_container_goes_on_where_it_was() -> Result<()> {
    let host = Host::new()?;
    let mut c = counter(&host)?;
    fs::create_dir(c.bundle().join("volume"))?;
    c.mount(json!({ "destination": "/volume", "type": "bind", "source": "./volume", "options": ["rbind"] }));
    start_counter(&mut c)?;
    let pid = c.state()?["pid"].clone();
    let work = c.bundle().join("work");
    let flags = ["--work-path", work.to_str().context("path")?];
    if !checkpoint(&c, "a_container_goes_on_where_it_was", &flags)? {
        return Ok(());
    }
    assert!(work.join("dump.log").exists() && c.bundle().join("images/descriptors.json").exists());
    c.verb("state").finish()?.exits(1)?.fails_with("container does not exist")?;
    let saved = count(&c)?;

    let images = c.bundle().join("images");
    let bundle = c.bundle().to_owned();
    let pid_file = bundle.join("restored.pid");
    let flags = [
        "--detach",
        "--bundle",
        bundle.to_str().context("path")?,
        "--image-path",
        images.to_str().context("path")?,
        "--pid-file",
        pid_file.to_str().context("path")?,
    ];
    let mut restore = c.verb_with("restore", &flags);
    restore.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::null());
    ensure!(restore.stderr(std::process::Stdio::null()).status()?.success(), "restore");
    let state = c.state()?;
    assert_eq!(state["status"], "running");
    assert_ne!(state["pid"], pid);
    assert_eq!(fs::read_to_string(&pid_file)?, state["pid"].to_string());
    eventually("it counts on", || Ok(count(&c)? > saved))?;
    assert!(count(&c)? < saved + 1000, "and not from anywhere else");
    c.exec(&["touch", "/volume/there"])?.ok()?;
    assert!(bundle.join("volume/there").exists());
    c.delete()?;
    host.is_clean()
}

#[test]
fn the_exit_code_of_a_restored_container_is_its_program_s() -> Result<()> {
    let host = Host::new()?;
    let mut c = counter(&host)?;
    start_counter(&mut c)?;
    if !checkpoint(&c, "the_exit_code_of_a_restored_container", &["--leave-running"])? {
        return Ok(());
    }
    assert_eq!(c.status()?, "running", "--leave-running");
    c.delete()?;
    let images = c.bundle().join("images");
    let bundle = c.bundle().to_owned();
    let flags =
        ["--bundle", bundle.to_str().context("path")?, "--image-path", images.to_str().context("path")?];
    let mut restored = c.verb_with("restore", &flags).job()?;
    eventually("it runs", || Ok(c.status().is_ok_and(|status| status == "running")))
        .with_context(|| restored.stderr().unwrap_or_default())?;
    fs::write(c.rootfs().join("go"), "")?;
    restored.wait()?.exits(7)?;
    c.verb("state").finish()?.exits(1)?;
    host.is_clean()
}

#[test]
fn a_restore_without_images_leaves_nothing() -> Result<()> {
    let host = Host::new()?;
    let c = counter(&host)?;
    c.save()?;
    let bundle = c.bundle().to_owned();
    let flags = ["--detach", "--bundle", bundle.to_str().context("path")?, "--image-path", "/nowhere"];
    c.verb_with("restore", &flags).finish()?.exits(1)?.fails_with("/nowhere: no such file or directory")?;
    fs::create_dir(bundle.join("empty"))?;
    let empty = bundle.join("empty");
    let flags = [
        "--detach",
        "--bundle",
        bundle.to_str().context("path")?,
        "--image-path",
        empty.to_str().context("path")?,
    ];
    c.verb_with("restore", &flags).finish()?.exits(1)?.fails_with("descriptors.json")?;
    fs::write(empty.join("descriptors.json"), r#"["/dev/null","/dev/null","/dev/null"]"#)?;
    c.verb_with("restore", &flags).finish()?.exits(1)?.fails_with("criu failed: ")?;
    c.verb("state").finish()?.exits(1)?.fails_with("container does not exist")?;
    host.is_clean()
}
