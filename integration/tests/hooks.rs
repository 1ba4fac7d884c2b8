//! Hooks: all kinds, in order, with the container's state on stdin, in the right place.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use coracle_integration::{Container, Host, Run, eventually, skip};
use serde_json::{Value, json};

/// A hook that appends its name and the status it reads to a log.
fn hook(log: &Path, name: &str) -> Value {
    let script = format!(
        "state=$(cat); echo \"{name} $(echo \"$state\" | tr -d ' \\n' | sed 's/.*\"status\":\"\\([a-z]*\\)\".*/\\1/')\" >> {}",
        log.display()
    );
    json!([{"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/bin:/bin"]}])
}

fn lines(log: &Path) -> Vec<String> {
    fs::read_to_string(log).unwrap_or_default().lines().map(str::to_owned).collect()
}

#[test]
fn all_kinds_run_in_order() -> Result<()> {
    let host = Host::new()?;
    let mut c = host.container(&["sleep", "1000"])?;
    let log = host.path().join("log");
    // createContainer runs in the container's namespaces before pivot_root, so the host's path is still good;
    // startContainer runs inside.
    c.config["hooks"] = json!({
        "prestart": hook(&log, "prestart"),
        "createRuntime": hook(&log, "createRuntime"),
        "createContainer": hook(&log, "createContainer"),
        "startContainer": hook(Path::new("/inside"), "startContainer"),
        "poststart": hook(&log, "poststart"),
        "poststop": hook(&log, "poststop"),
    });
    c.create()?;
    let created = lines(&log);
    assert_eq!(created, ["prestart created", "createRuntime creating", "createContainer creating"]);
    assert!(!c.rootfs().join("inside").exists());
    c.start()?;
    eventually("the start hooks", || Ok(lines(&log).len() == 4 && c.rootfs().join("inside").exists()))?;
    assert_eq!(lines(&log)[3], "poststart running");
    c.delete()?;
    assert_eq!(lines(&log).last().map(String::as_str), Some("poststop stopped"));
    host.is_clean()
}

#[test]
fn the_state_on_stdin() -> Result<()> {
    let host = Host::new()?;
    let mut c = host.container(&["true"])?;
    let file = host.path().join("state.json");
    c.annotate("org.example.key", "value");
    c.config["hooks"] = json!({"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", format!("cat > {}", file.display())]}]});
    c.create()?;
    let state: Value = serde_json::from_slice(&fs::read(&file)?)?;
    assert_eq!(state["id"], c.id.as_str());
    assert_eq!(state["pid"], c.pid()?);
    assert_eq!(state["bundle"], c.bundle().to_str().context("path")?);
    assert_eq!(state["annotations"]["org.example.key"], "value");
    assert!(state["ociVersion"].is_string());
    Ok(())
}

/// Docker's network set-up: a prestart hook that finds the container's network namespace through the pid it is given.
#[test]
fn a_prestart_hook_reaches_the_network_namespace() -> Result<()> {
    let host = Host::new()?;
    let mut c = host.container(&["sh", "-c", "ip link show lo | grep -o LOOPBACK,UP"])?;
    let script =
        "pid=$(tr -d ' \\n' | sed 's/.*\"pid\":\\([0-9]*\\).*/\\1/'); nsenter -t $pid -n ip link set lo up";
    c.config["hooks"] = json!({"prestart": [
        {"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"]}]});
    c.run()?.ok()?.prints("LOOPBACK,UP")?;
    Ok(())
}

#[test]
fn environment_and_arguments() -> Result<()> {
    // busybox would take the first argument for the name of an applet.
    if !Path::new("/bin/bash").exists() {
        skip("environment_and_arguments", "no bash");
        return Ok(());
    }
    let host = Host::new()?;
    let mut c = host.container(&["true"])?;
    let file = host.path().join("out");
    let script = format!("cat >/dev/null; echo \"$0 $1 $A $HOME\" > {}; env | wc -l >> {0}", file.display());
    c.config["hooks"] = json!({"createRuntime": [{"path": "/bin/bash", "args": ["name", "-c", script, "zero", "one"], "env": ["A=b"]}]});
    c.create()?;
    let out = fs::read_to_string(&file)?;
    assert!(out.starts_with("zero one b \n"), "only what the hook lists is in its environment: {out}");
    Ok(())
}

fn failing(c: &mut Container, kind: &str) {
    c.config["hooks"] =
        json!({kind: [{"path": "/bin/sh", "args": ["sh", "-c", "echo because >&2; exit 3"]}]});
}

#[test]
fn one_that_fails_fails_create() -> Result<()> {
    let host = Host::new()?;
    for kind in ["prestart", "createRuntime", "createContainer"] {
        let mut c = host.container(&["true"])?;
        failing(&mut c, kind);
        c.try_create(&[])?.exits(1)?.fails_with("hook")?.fails_with("because")?;
        c.verb("state").finish()?.fails_with("does not exist")?;
        host.is_clean().context(kind)?;
    }
    Ok(())
}

#[test]
fn one_that_fails_at_start_stops_the_container() -> Result<()> {
    let host = Host::new()?;
    let mut c = host.container(&["sleep", "1000"])?;
    c.config["hooks"] = json!({"startContainer": [{"path": "/bin/false"}]});
    c.create()?;
    c.verb("start").finish()?;
    c.wait_status("stopped")?;
    c.delete()?;
    host.is_clean()
}

#[test]
fn poststop_failures_do_not_stop_delete() -> Result<()> {
    let host = Host::new()?;
    let mut c = host.container(&["true"])?;
    failing(&mut c, "poststop");
    c.create()?.start()?;
    c.wait_exit()?;
    c.verb("delete").finish()?.ok()?;
    host.is_clean()
}

#[test]
fn timeouts() -> Result<()> {
    let host = Host::new()?;
    let mut c = host.container(&["true"])?;
    c.config["hooks"] =
        json!({"createRuntime": [{"path": "/bin/sleep", "args": ["sleep", "20"], "timeout": 1}]});
    let start = std::time::Instant::now();
    c.try_create(&[])?.exits(1)?.fails_with("hook")?;
    assert!(start.elapsed().as_secs() < 15);
    host.is_clean()
}

#[test]
fn a_hook_that_is_not_there() -> Result<()> {
    let host = Host::new()?;
    let mut c = host.container(&["true"])?;
    c.config["hooks"] = json!({"createRuntime": [{"path": "/nosuch/hook"}]});
    c.try_create(&[])?.exits(1)?.fails_with("/nosuch/hook")?;
    host.is_clean()
}

/// The container is stopped and goes (runtime.md, "Lifecycle"), its poststop hooks included.
#[test]
fn a_poststart_hook_that_fails_ends_the_container() -> Result<()> {
    let host = Host::new()?;
    let log = host.path().join("log");
    for by_run in [true, false] {
        let mut c = host.container(&["sleep", "1000"])?;
        failing(&mut c, "poststart");
        c.config["hooks"]["poststop"] = hook(&log, "poststop");
        let failed = if by_run {
            c.save()?;
            c.run_command(&["--detach"])?.finish()?
        } else {
            c.create()?;
            c.verb("start").finish()?
        };
        failed.exits(1)?.fails_with("error running poststart hook #0: /bin/sh")?.fails_with("because")?;
        c.verb("state").finish()?.fails_with("does not exist")?;
    }
    assert_eq!(lines(&log), ["poststop stopped", "poststop stopped"]);
    host.is_clean()
}

#[test]
fn poststop_hooks_after_one_that_fails_run_all_the_same() -> Result<()> {
    let host = Host::new()?;
    let mut c = host.container(&["true"])?;
    let log = host.path().join("log");
    failing(&mut c, "poststop");
    let more = hook(&log, "second")[0].clone();
    c.config["hooks"]["poststop"].as_array_mut().context("hooks")?.push(more);
    c.create()?.start()?;
    c.wait_exit()?;
    let done = c.verb("delete").finish()?.ok()?;
    assert!(done.stderr.contains("poststop hook failed with exit code 3"), "{done}");
    assert_eq!(lines(&log), ["second stopped"]);
    host.is_clean()
}

#[test]
fn output_goes_to_files_that_annotations_name() -> Result<()> {
    let host = Host::new()?;
    let mut c = host.container(&["true"])?;
    let [out, err] = ["out", "err"].map(|name| host.path().join(name));
    c.annotate("run.oci.hooks.stdout", out.to_str().context("path")?);
    c.annotate("run.oci.hooks.stderr", err.to_str().context("path")?);
    let script = |name: &str| json!([{"path": "/bin/sh", "args": ["sh", "-c", format!("echo {name}; echo {name} >&2")]}]);
    c.config["hooks"] = json!({"createRuntime": script("a"), "createContainer": script("b"),
        "startContainer": script("c"), "poststart": script("d"), "poststop": script("e")});
    c.create()?.start()?;
    c.wait_exit()?;
    c.delete()?;
    for file in [out, err] {
        let mut found = lines(&file);
        found.sort();
        assert_eq!(found, ["a", "b", "c", "d", "e"]);
    }
    host.is_clean()
}

#[test]
fn a_start_hook_has_the_programs_environment_and_pid() -> Result<()> {
    let host = Host::new()?;
    let mut c = host.container(&["cat", "/seen"])?;
    c.config["process"]["env"] = json!(["PATH=/bin", "A=first", "A=b", "HOME="]);
    let script = "echo \"$A $HOME $(tr -d ' ' | sed 's/.*\"pid\":\\([0-9]*\\).*/\\1/')\" > /seen";
    c.config["hooks"] = json!({"startContainer": [{"path": "/bin/sh", "args": ["sh", "-c", script]}]});
    let done = c.run()?.ok()?;
    assert!(done.stdout.starts_with("b /") && done.stdout.trim().ends_with(" 1"), "{done}");
    Ok(())
}
