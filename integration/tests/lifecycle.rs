//! create, start, state, kill, delete and list: statuses, messages, exit codes and what is left behind.
//! The wording is runc's, because engines match on it.

use std::fs;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use coracle_integration::{Host, Run, eventually};
use rustix::process::Signal;
use serde_json::{Value, json};

#[test]
fn statuses_from_create_to_delete() -> Result<()> {
    let host = Host::new()?;
    let mut c = host.container(&["sleep", "1000"])?;
    c.create()?;
    let state = c.state()?;
    assert_eq!(state["id"], c.id.as_str());
    assert_eq!(state["status"], "created");
    assert_eq!(state["pid"], c.pid()?);
    assert_eq!(state["bundle"], c.bundle().to_str().context("path")?);
    assert!(state["ociVersion"].as_str().is_some_and(|v| v.starts_with("1.")), "{state}");
    c.start()?;
    assert_eq!(c.status()?, "running");
    c.kill("KILL")?;
    c.wait_status("stopped")?;
    assert_eq!(c.state()?["pid"], 0);
    c.verb("delete").finish()?.ok()?;
    let gone = c.verb("state").finish()?.exits(1)?;
    gone.fails_with("container does not exist")?;
    host.is_clean()
}

#[test]
fn the_parent_of_create_reaps_init() -> Result<()> {
    let host = Host::new()?;
    let mut c = host.container(&["sh", "-c", "echo out; echo err >&2; exit 7"])?;
    c.create()?.start()?;
    assert_eq!(c.wait_exit()?, 7);
    assert_eq!((c.stdout()?.as_str(), c.stderr()?.as_str()), ("out\n", "err\n"));
    assert_eq!(c.status()?, "stopped");
    Ok(())
}

#[test]
fn the_command_waits_for_start() -> Result<()> {
    let host = Host::new()?;
    let mut c = host.container(&["touch", "/started"])?;
    c.create()?;
    std::thread::sleep(std::time::Duration::from_millis(200));
    assert!(!c.rootfs().join("started").exists());
    c.start()?;
    assert_eq!(c.wait_exit()?, 0);
    assert!(c.rootfs().join("started").exists());
    Ok(())
}

#[test]
fn ids_that_are_paths_are_refused() -> Result<()> {
    let host = Host::new()?;
    let mut c = host.container(&["true"])?;
    let id = c.id.clone();
    for bad in ["../up", "a/b", "..", ".", "", "name with space"] {
        bad.clone_into(&mut c.id);
        c.try_create(&[])?.exits(1)?.fails_with("")?;
    }
    c.id = id;
    assert!(!host.path().join("up").exists());
    host.is_clean()
}

#[test]
fn start_needs_a_created_container() -> Result<()> {
    let host = Host::new()?;
    let mut c = host.container(&["sleep", "1000"])?;
    c.create()?.start()?;
    c.verb("start").finish()?.exits(1)?.fails_with("cannot start an already running container")?;
    c.kill("9")?;
    c.wait_status("stopped")?;
    c.verb("start").finish()?.exits(1)?.fails_with("cannot start a container that has stopped")?;
    Ok(())
}

#[test]
fn delete_of_a_created_container() -> Result<()> {
    let host = Host::new()?;
    let mut c = host.container(&["true"])?;
    c.create()?;
    c.verb("delete").finish()?.ok()?;
    host.is_clean()
}

#[test]
fn kill_takes_names_and_numbers() -> Result<()> {
    let host = Host::new()?;
    let script = "trap 'echo usr1' USR1; trap 'echo hup' HUP; trap 'echo term; exit 3' TERM; echo ready; \
                  while :; do sleep 0.05; done";
    let mut c = host.container(&["sh", "-c", script])?;
    c.create()?.start()?;
    c.expect("ready")?;
    c.kill("USR1")?;
    c.expect("usr1")?;
    c.kill("SIGHUP")?;
    c.expect("hup")?;
    c.verb("kill").arg("BADSIG").finish()?.exits(1)?.fails_with("unknown signal \"BADSIG\"")?;
    // The default is SIGTERM.
    c.verb("kill").finish()?.ok()?;
    assert_eq!(c.wait_exit()?, 3);
    c.verb("kill").arg("15").finish()?.exits(1)?.fails_with("container not running")?;
    Ok(())
}

#[test]
fn kill_all_reaches_every_process() -> Result<()> {
    let host = Host::new()?;
    let mut c = host.container(&["sh", "-c", "sleep 1000 & sleep 1000 & wait"])?;
    c.without_namespace("pid");
    c.create()?.start()?;
    eventually("three processes", || {
        let ps = c.verb_with("ps", &["--format", "json"]).finish()?.ok()?;
        Ok(serde_json::from_str::<Vec<i32>>(&ps.stdout)?.len() == 3)
    })?;
    c.verb_with("kill", &["--all"]).arg("KILL").finish()?.ok()?;
    c.wait_exit()?;
    c.verb("delete").finish()?.ok()?;
    host.is_clean()
}

#[test]
fn bad_bundles() -> Result<()> {
    let host = Host::new()?;
    let mut c = host.container(&["true"])?;
    fs::rename(c.rootfs(), c.bundle().join("elsewhere"))?;
    c.try_create(&[])?.exits(1)?.fails_with("rootfs")?;
    host.is_clean()?;
    fs::rename(c.bundle().join("elsewhere"), c.rootfs())?;

    c.config["process"]["args"] = json!([]);
    c.try_create(&[])?.exits(1)?.fails_with("args")?;
    c.config["process"]["args"] = json!(["true"]);
    c.config["process"]["cwd"] = json!("tmp");
    c.try_create(&[])?.exits(1)?.fails_with("wd")?;
    c.config["process"]["cwd"] = json!("/");
    c.mount(json!({"destination": "/mnt", "type": "bind", "source": "/nosuch", "options": ["rbind"]}));
    c.try_create(&[])?.exits(1)?.fails_with("no such file or directory")?;
    host.is_clean()?;

    for (text, word) in
        [("{", "config.json"), ("[]", "config.json"), (r#"{"ociVersion":"1.0.2"}"#, "process")]
    {
        fs::write(c.bundle().join("config.json"), text)?;
        let mut create = host.runtime();
        create.arg("create").arg("--bundle").arg(c.bundle()).arg(&c.id);
        let failed = create.finish()?.exits(1)?.fails_with(word)?;
        assert_eq!(failed.stderr.trim().lines().count(), 1, "{failed}");
        host.is_clean()?;
    }
    fs::remove_file(c.bundle().join("config.json"))?;
    let mut create = host.runtime();
    create.arg("create").arg("--bundle").arg(c.bundle()).arg(&c.id);
    create.finish()?.exits(1)?.fails_with("config.json")?;
    host.is_clean()
}

/// What a field of the configuration that cannot be is called in the message.
#[test]
fn wrong_values_are_named() -> Result<()> {
    let host = Host::new()?;
    type Change = fn(&mut Value);
    let wrong: [(&str, Change); 6] = [
        ("process.user.uid", |c| c["process"]["user"]["uid"] = json!("root")),
        ("process.capabilities.bounding", |c| c["process"]["capabilities"]["bounding"] = json!([7])),
        ("process.rlimits", |c| {
            c["process"]["rlimits"] = json!([{"type": "RLIMIT_X", "hard": 1, "soft": 1}])
        }),
        ("linux.namespaces", |c| c["linux"]["namespaces"] = json!([{"type": "nonsense"}])),
        ("root.path", |c| c["root"]["path"] = json!(7)),
        ("mounts", |c| c["mounts"] = json!([{"type": "tmpfs"}])),
    ];
    for (field, change) in wrong {
        let mut c = host.container(&["true"])?;
        change(&mut c.config);
        let failed = c.try_create(&[])?.exits(1)?.fails_with(field)?.fails_with("config.json")?;
        assert_eq!(failed.stderr.trim().lines().count(), 1, "{failed}");
        host.is_clean()?;
    }
    Ok(())
}

#[test]
fn list_shows_the_containers_of_the_root() -> Result<()> {
    let host = Host::new()?;
    assert_eq!(host.list()?, Vec::<String>::new());
    let mut one = host.container(&["sleep", "1000"])?;
    let mut two = host.container(&["sleep", "1000"])?;
    one.create()?;
    two.create()?.start()?;
    let mut ids = host.list()?;
    ids.sort();
    assert_eq!(ids, [one.id.as_str(), two.id.as_str()]);
    let json = host.runtime().args(["list", "--format=json"]).finish()?.ok()?;
    let json: Vec<Value> = serde_json::from_str(&json.stdout)?;
    let entry = json.iter().find(|e| e["id"] == two.id.as_str()).context("second container")?;
    assert_eq!(entry["status"], "running");
    assert_eq!(entry["pid"], two.pid()?);
    assert_eq!(entry["bundle"], two.bundle().to_str().context("path")?);
    let table = host.runtime().arg("list").finish()?.ok()?;
    assert!(table.stdout.starts_with("ID "), "{table}");
    assert!(table.lines().any(|l| l.starts_with(&one.id) && l.contains("created")), "{table}");
    Ok(())
}

#[test]
fn flags_take_their_value_after_a_space_or_an_equals_sign() -> Result<()> {
    let host = Host::new()?;
    let c = host.container(&["sleep", "1000"])?;
    c.save()?;
    let pid_file = host.path().join("pid");
    let mut create = coracle_integration::command(coracle_integration::coracle());
    create.arg(format!("--root={}", host.state_dir().display())).arg("--log-format=text").arg("create");
    create
        .arg(format!("--bundle={}", c.bundle().display()))
        .arg(format!("--pid-file={}", pid_file.display()));
    create.arg("--no-new-keyring").arg(&c.id).finish()?.ok()?;
    assert!(fs::read_to_string(pid_file)?.parse::<i32>()? > 0);
    assert_eq!(c.status()?, "created");
    Ok(())
}

#[test]
fn the_bundle_defaults_to_the_working_directory() -> Result<()> {
    let host = Host::new()?;
    let c = host.container(&["echo", "here"])?;
    c.save()?;
    host.runtime().current_dir(c.bundle()).arg("run").arg(&c.id).finish()?.ok()?.prints("here")?;
    let run = host.runtime().current_dir(host.path()).args(["run", "-b"]).arg(&c.id).arg(&c.id).finish()?;
    run.ok()?.prints("here")?;
    Ok(())
}

/// runtime.md, "Start": without `process` a container can be created, and then not started.
#[test]
fn a_container_without_a_process() -> Result<()> {
    let host = Host::new()?;
    let mut c = host.container(&[])?;
    c.config.as_object_mut().context("an object")?.remove("process");
    c.create()?;
    assert_eq!(c.status()?, "created");
    c.verb("start").finish()?.exits(1)?.fails_with("process is missing")?;
    c.wait_status("stopped")?;
    c.delete()?;
    c.run()?.exits(1)?.fails_with("process is missing")?;
    host.is_clean()
}

#[test]
fn another_configuration_than_the_bundles() -> Result<()> {
    let host = Host::new()?;
    let container = host.container(&["echo", "the other"])?;
    container.save()?;
    let other = container.bundle().join("other.json");
    fs::rename(container.bundle().join("config.json"), &other)?;
    let run = host
        .runtime()
        .current_dir(container.bundle())
        .args(["run", "--config", "other.json", &container.id])
        .finish()?;
    run.ok()?.prints("the other")?;
    Ok(())
}

#[test]
fn usage_errors() -> Result<()> {
    let host = Host::new()?;
    for args in [&["create", "--nosuchflag", "x"][..], &["state"], &["--nosuchflag", "list"], &["nosuchverb"]]
    {
        let failed = host.runtime().args(args).finish()?;
        ensure!(failed.code != 0 && !(failed.stderr.is_empty() && failed.stdout.is_empty()), "{failed}");
    }
    Ok(())
}

#[test]
fn a_stop_from_outside_is_noticed() -> Result<()> {
    let host = Host::new()?;
    let mut c = host.container(&["sleep", "1000"])?;
    c.create()?.start()?;
    rustix::process::kill_process(rustix::process::Pid::from_raw(c.pid()?).context("pid")?, Signal::KILL)?;
    // Not reaped yet: a zombie is a stopped container.
    c.wait_status("stopped")?;
    assert_eq!(c.wait_exit()?, 128 + 9);
    assert_eq!(c.status()?, "stopped");
    c.verb("delete").finish()?.ok()?;
    host.is_clean()
}

#[test]
fn an_init_killed_before_start() -> Result<()> {
    let host = Host::new()?;
    let mut c = host.container(&["true"])?;
    c.create()?;
    c.kill("KILL")?;
    c.wait_exit()?;
    assert_eq!(c.status()?, "stopped");
    c.verb("start").finish()?.exits(1)?;
    c.delete()?;
    host.is_clean()
}

#[test]
fn a_killed_create_leaves_nothing_that_delete_cannot_remove() -> Result<()> {
    let host = Host::new()?;
    let mut c = host.container(&["true"])?;
    let marker = host.path().join("hook-runs");
    c.config["hooks"] = json!({"createRuntime": [
        {"path": "/bin/sh", "args": ["sh", "-c", format!("touch {}; exec sleep 10", marker.display())]}
    ]});
    c.save()?;
    let mut create = host.runtime();
    create.arg("create").arg("--bundle").arg(c.bundle()).arg(&c.id).stdin(Stdio::null());
    let mut create = create.job()?;
    eventually("the hook", || Ok(marker.exists()))?;
    create.signal(Signal::KILL)?;
    create.wait()?;
    c.delete()?;
    eventually("the end of all that create had made", || Ok(host.leftovers()?.is_empty()))?;
    host.is_clean()
}

#[test]
fn extra_descriptors_stay_out() -> Result<()> {
    let host = Host::new()?;
    let c = host.container(&["sh", "-c", "ls /proc/self/fd | sort -n | tr '\\n' ' '"])?;
    c.save()?;
    let run = |flags: &str| {
        let line = format!(
            "exec 3</etc/passwd 4</dev/null 9</etc/group; exec {} --root {} run {flags} --bundle {} {}",
            coracle_integration::coracle().display(),
            host.state_dir().display(),
            c.bundle().display(),
            c.id
        );
        coracle_integration::command("sh").arg("-c").arg(line).finish()?.ok()
    };
    // The highest is the directory that ls reads.
    run("")?.prints("0 1 2 3")?;
    run("--preserve-fds 2")?.prints("0 1 2 3 4 5")?;
    Ok(())
}
