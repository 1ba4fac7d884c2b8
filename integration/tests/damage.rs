//! Containers of which something is broken or gone: their files, their processes, their cgroup, the directory that all
//! of it is in. Every command has one clear line for it, and `delete --force` removes what there is.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use coracle_integration::{Container, Finished, Host, Run, command, coracle, eventually, skip, wat};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::{Value, json};

const NO_SPACE: &str = "no space left on device";
const READ_ONLY: &str = "read-only file system";

/// A container's directory below the root of the state.
fn directory(c: &Container) -> PathBuf {
    c.host.state_dir().join(&c.id)
}

fn state_file(c: &Container) -> PathBuf {
    directory(c).join("state.json")
}

fn edit_state(c: &Container, change: impl FnOnce(&mut Value)) -> Result<()> {
    let mut state: Value = serde_json::from_slice(&fs::read(state_file(c))?)?;
    change(&mut state);
    Ok(fs::write(state_file(c), state.to_string())?)
}

fn is_there(pid: i32) -> bool {
    Pid::from_raw(pid).is_some_and(|pid| test_kill_process(pid).is_ok())
}

/// The start time that proc_pid_stat(5) shows.
fn start_time(pid: i32) -> Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let behind = stat.rsplit_once(')').context("no name")?.1;
    Ok(behind.split_ascii_whitespace().nth(19).context("no start time")?.parse()?)
}

/// A failure that takes one line.
fn one_line(done: Finished) -> Result<Finished> {
    ensure!(done.code != 0 && done.stderr.lines().count() == 1, "expected one line of failure from {done}");
    ensure!(!done.stderr.contains("panicked"), "{done}");
    Ok(done)
}

/// Every command that a container can be given, but `delete --force`.
const COMMANDS: [(&str, &[&str]); 11] = [
    ("state", &[]),
    ("start", &[]),
    ("kill", &["0"]),
    ("delete", &[]),
    ("pause", &[]),
    ("resume", &[]),
    ("ps", &[]),
    ("exec", &["true"]),
    ("update", &["--pids-limit=50"]),
    ("events", &["--stats"]),
    ("checkpoint", &[]),
];

fn every_command(c: &Container, mut check: impl FnMut(&str, Finished) -> Result<()>) -> Result<()> {
    for (verb, arguments) in COMMANDS {
        let (flags, behind): (Vec<&str>, Vec<&str>) = arguments.iter().partition(|a| a.starts_with("--"));
        let done = c.verb_with(verb, &flags).args(behind).finish()?;
        check(verb, done).with_context(|| verb.to_owned())?;
    }
    Ok(())
}

/// A native container that runs, and one with a module.
fn both_kinds(host: &Host) -> Result<[Container<'_>; 2]> {
    let native = host.container(&["sh", "-c", "sleep 1000 & sleep 1000"])?;
    let module = host.empty_container(&["/main.wasm"])?;
    module.install(&wat("blocked")?, "main.wasm")?;
    Ok([native, module])
}

/// Waits until a container of [`both_kinds`] needs no more programs of its root file system.
fn is_at_rest(c: &Container) -> Result<()> {
    eventually("the container to be at rest", || {
        let pids = c.verb_with("ps", &["--format=json"]).finish()?.ok()?;
        let pids: Vec<i32> = serde_json::from_str(&pids.stdout)?;
        let comm = |pid: &i32| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        let sleeps = pids.iter().filter(|pid| comm(pid) == "sleep\n").count();
        Ok(sleeps == 2 || c.config["process"]["args"] == json!(["/main.wasm"]))
    })
}

/// What a state file can have become.
fn damages(state: &Value) -> Vec<(&'static str, Vec<u8>)> {
    let whole = state.to_string();
    let with = |key: &str, value: Value| {
        let mut state = state.clone();
        state[key] = value;
        state.to_string().into_bytes()
    };
    let mut next = state.clone();
    next["cgroup"]["hierarchies"][0]["version"] = json!("v3");
    let runcs = json!({"id": state["id"], "init_process_pid": 1, "init_process_start": 0, "created": "",
        "config": {"rootfs": "/", "cgroups": {"path": "/x"}}, "rootless": false, "cgroup_paths": {}});
    vec![
        ("empty", Vec::new()),
        ("truncated", whole.as_bytes()[..whole.len() / 2].to_vec()),
        ("zeros", vec![0; whole.len()]),
        (
            "not UTF-8",
            whole.replace("ociVersion", "oci\u{1}").bytes().map(|b| if b == 1 { 0xff } else { b }).collect(),
        ),
        ("a list", b"[]".to_vec()),
        ("something else", br#"{"name": "x"}"#.to_vec()),
        ("runc's", runcs.to_string().into_bytes()),
        ("another container's", with("id", json!("another"))),
        ("of another version", next.to_string().into_bytes()),
        ("with a pid that is none", with("init", json!({"pid": "x", "startTime": 0}))),
    ]
}

#[test]
fn a_damaged_state_file_is_named_by_every_command() -> Result<()> {
    let host = Host::new()?;
    let mut c = host.container(&["sleep", "1000"])?;
    let mut other = host.container(&["sleep", "1000"])?;
    c.create()?.start()?;
    other.create()?.start()?;
    let path = state_file(&c);
    let whole = fs::read(&path)?;
    let named = |_: &str, done: Finished| one_line(done)?.fails_with(&path.display().to_string()).map(drop);
    let others_are_listed = || -> Result<()> {
        let list = host.runtime().args(["list", "--format=json"]).finish()?.ok()?;
        let all: Vec<Value> = serde_json::from_str(&list.stdout)?;
        ensure!(all.len() == 1 && all[0]["id"] == other.id.as_str(), "{list}");
        ensure!(list.stderr.lines().count() == 1 && list.stderr.contains(&c.id), "no warning: {list}");
        Ok(())
    };
    for (what, damaged) in damages(&serde_json::from_slice(&whole)?) {
        fs::write(&path, damaged)?;
        every_command(&c, named).with_context(|| format!("state file {what}"))?;
        others_are_listed()?;
    }
    fs::remove_file(&path)?;
    fs::create_dir(&path)?;
    every_command(&c, named).context("a directory")?;
    others_are_listed()?;
    fs::remove_dir(&path)?;
    // Nothing has been touched meanwhile. What a later version adds does not matter.
    fs::write(&path, &whole)?;
    edit_state(&c, |state| state["later"] = json!({"a": 1}))?;
    assert_eq!(c.status()?, "running");
    c.exec(&["true"])?.ok()?;
    c.delete()?;
    c.wait_exit()?;
    Ok(())
}

/// The processes and the cgroup are found by what is left of the state, or by the configuration beside it.
#[test]
fn a_damaged_container_is_deleted_with_all_that_is_its() -> Result<()> {
    let host = Host::new()?;
    let [mut native, mut module] = both_kinds(&host)?;
    let mut shared = host.container(&["sh", "-c", "sleep 1000 & sleep 1000"])?;
    shared.without_namespace("pid");
    native.create()?;
    let state: Value = serde_json::from_slice(&fs::read(state_file(&native))?)?;
    native.delete()?;
    native.wait_exit()?;
    for (number, (what, _)) in damages(&state).into_iter().enumerate() {
        for c in [&mut native, &mut module, &mut shared] {
            c.create()?;
            // Also one that has not been started, and one that is frozen.
            if number % 3 > 0 {
                c.start()?;
            }
            if number % 3 == 2 {
                c.verb("pause").finish()?.ok()?;
            }
            let state: Value = serde_json::from_slice(&fs::read(state_file(c))?)?;
            fs::write(state_file(c), &damages(&state)[number].1)?;
            let done = c.verb_with("delete", &["--force"]).finish()?.ok()?;
            ensure!(done.stderr.is_empty(), "{what}: {done}");
            c.wait_exit()?;
            host.is_clean().with_context(|| format!("state file {what}"))?;
        }
    }
    Ok(())
}

#[test]
fn a_state_file_that_is_gone_or_a_directory() -> Result<()> {
    let host = Host::new()?;
    for replace in [false, true] {
        for mut c in both_kinds(&host)? {
            c.create()?.start()?;
            fs::remove_file(state_file(&c))?;
            if replace {
                fs::create_dir_all(state_file(&c).join("below"))?;
            } else {
                // As if `delete` had been killed in its last moment.
                c.verb("state").finish()?.exits(1)?.fails_with("container does not exist")?;
                assert_eq!(host.list()?, Vec::<String>::new());
            }
            c.delete()?;
            c.wait_exit()?;
            host.is_clean()?;
        }
    }
    // A file in the place of the directory.
    let c = host.container(&["true"])?;
    fs::write(directory(&c), "x")?;
    c.verb("state").finish()?.exits(1)?.fails_with("container does not exist")?;
    c.delete()?;
    host.is_clean()
}

#[test]
fn a_damaged_configuration() -> Result<()> {
    let host = Host::new()?;
    for mut c in both_kinds(&host)? {
        for damaged in [&b""[..], b"{\"ociVersion\":", b"[]", b"\xff\xfe"] {
            c.create()?.start()?;
            let path = directory(&c).join("config.json");
            fs::write(&path, damaged)?;
            one_line(c.exec(&["true"])?)?.fails_with("config.json")?;
            if damaged != b"[]" {
                // That is a configuration, of nothing.
                let named = path.display().to_string();
                one_line(c.verb_with("update", &["--pids-limit=50"]).finish()?)?.fails_with(&named)?;
            }
            assert_eq!(c.status()?, "running");
            c.verb("pause").finish()?.ok()?;
            c.verb("resume").finish()?.ok()?;
            c.kill("KILL")?;
            c.wait_exit()?;
            c.verb("delete").finish()?.ok()?;
            host.is_clean()?;
        }
        // Hooks that nobody can read any more were to be run after the start.
        c.create()?;
        fs::write(directory(&c).join("config.json"), "{")?;
        one_line(c.verb("start").finish()?)?.fails_with("config.json")?;
        c.wait_exit()?;
        host.is_clean()?;
    }
    Ok(())
}

/// Nothing tells any more what belongs to the container: it says so, and leaves everything alone that it does not know.
#[test]
fn state_and_configuration_damaged() -> Result<()> {
    let host = Host::new()?;
    let mut c = host.container(&["sleep", "1000"])?;
    c.create()?.start()?;
    fs::write(state_file(&c), "{")?;
    fs::write(directory(&c).join("config.json"), "{")?;
    let done = c.verb_with("delete", &["--force"]).finish()?.ok()?;
    ensure!(done.stderr.contains("a process of it that still runs goes on"), "{done}");
    assert!(is_there(c.pid()?) && !directory(&c).exists());
    kill_process(Pid::from_raw(c.pid()?).context("pid")?, Signal::KILL)?;
    c.wait_exit()?;
    Ok(())
}

/// What looks like a container that was about to be made in the cgroup of another one does not take that with it.
#[test]
fn another_containers_cgroup_is_left_alone() -> Result<()> {
    let host = Host::new()?;
    let mut c = host.container(&["sleep", "1000"])?;
    let other = host.container(&["true"])?;
    c.create()?.start()?;
    for with_state in [false, true] {
        fs::create_dir(directory(&other))?;
        fs::copy(directory(&c).join("config.json"), directory(&other).join("config.json"))?;
        if with_state {
            let mut state: Value = serde_json::from_slice(&fs::read(state_file(&c))?)?;
            state["id"] = json!(other.id);
            state["init"] = Value::Null;
            fs::write(state_file(&other), state.to_string())?;
            assert_eq!(other.status()?, "creating");
        }
        other.delete()?;
        assert!(!directory(&other).exists());
        assert_eq!(c.status()?, "running");
        c.exec(&["true"])?.ok()?;
    }
    c.delete()?;
    c.wait_exit()?;
    host.is_clean()
}

/// A command that holds a container and does not come to its end cannot keep it for ever.
#[test]
fn a_command_that_hangs() -> Result<()> {
    let host = Host::new()?;
    let mut all = Vec::new();
    for _ in 0..5 {
        let mut c = host.container(&["sleep", "1000"])?;
        c.create()?.start()?;
        let holder = File::open(directory(&c))?;
        rustix::fs::flock(&holder, rustix::fs::FlockOperation::LockExclusive)?;
        all.push((c, holder));
    }
    let lines: [(&str, &[&str], &[&str]); 5] = [
        ("delete", &["--force"], &[]),
        ("kill", &["--all"], &["KILL"]),
        ("delete", &[], &[]),
        ("pause", &[], &[]),
        ("update", &["--pids-limit=50"], &[]),
    ];
    let jobs =
        all.iter().zip(lines).map(|((c, _), (verb, flags, more))| c.verb_with(verb, flags).args(more).job());
    let mut jobs = jobs.collect::<Result<Vec<_>>>()?;
    let ends = jobs.iter_mut().map(|job| job.wait()).collect::<Result<Vec<_>>>()?;
    for (number, end) in ends.into_iter().enumerate() {
        // Those that end it go on.
        match number {
            0 | 1 => drop(end.ok()?),
            _ => drop(one_line(end)?.fails_with("another command has been changing the container")?),
        }
    }
    all[0].0.wait_exit()?;
    all[1].0.wait_exit()?;
    for (c, holder) in all {
        drop(holder);
        c.delete()?;
    }
    host.is_clean()
}

/// What cannot be printed is an error, and no more than that.
#[test]
fn standard_output_is_full() -> Result<()> {
    let host = Host::new()?;
    let mut c = host.container(&["sleep", "1000"])?;
    c.create()?.start()?;
    for line in [&["list"][..], &["list", "-q"], &["list", "-f", "json"], &["state", &c.id], &["ps", &c.id]] {
        let mut child = host
            .runtime()
            .args(line)
            .stdout(File::options().write(true).open("/dev/full")?)
            .stderr(std::process::Stdio::piped())
            .spawn()?;
        let mut said = String::new();
        std::io::Read::read_to_string(&mut child.stderr.take().context("stderr")?, &mut said)?;
        ensure!(child.wait()?.code() == Some(1), "{line:?}: {said}");
        ensure!(said.lines().count() == 1 && said.contains(NO_SPACE), "{line:?}: {said}");
    }
    Ok(())
}

/// A container that runc made, in the same root.
#[test]
fn a_container_of_runc() -> Result<()> {
    let host = Host::new()?;
    let c = host.container(&["sleep", "1000"])?;
    if !Path::new("/usr/sbin/runc").exists() {
        skip("a_container_of_runc", "runc is not installed");
        return Ok(());
    }
    c.save()?;
    let mut run = command("/usr/sbin/runc");
    let pid_file = c.bundle().join("runc.pid");
    run.arg("--root").arg(host.state_dir()).args(["run", "--detach", "--pid-file"]).arg(&pid_file);
    run.arg("--bundle").arg(c.bundle()).arg(&c.id).finish()?.ok()?;
    let pid: i32 = fs::read_to_string(pid_file)?.parse()?;
    let named = state_file(&c).display().to_string();
    every_command(&c, |_, done| one_line(done)?.fails_with(&named).map(drop))?;
    assert!(is_there(pid));
    c.delete()?;
    coracle_integration::reap(pid)?;
    host.is_clean()
}

/// A pid means the container only together with its start time, and both only in the boot that they are from.
#[test]
fn a_pid_that_is_somebody_elses() -> Result<()> {
    let host = Host::new()?;
    let stranger = command("sleep").arg("1000").job()?;
    let ended = |c: &Container| -> Result<()> {
        assert_eq!((c.status()?.as_str(), c.state()?["pid"].as_i64()), ("stopped", Some(0)));
        assert_eq!(host.list()?, [c.id.as_str()]);
        let fails = |verb: &str, more: &[&str], why: &str| -> Result<()> {
            one_line(c.verb(verb).args(more).finish()?)?.fails_with(why).map(drop)
        };
        fails("start", &[], "cannot start a container that has stopped")?;
        fails("exec", &["true"], "cannot exec in a stopped container")?;
        fails("kill", &["KILL"], "container not running")?;
        fails("pause", &[], "container not running")?;
        fails("resume", &[], "container not paused")?;
        fails("update", &["--pids-limit=5"], "container not running").or_else(|_| {
            let update = c.verb_with("update", &["--pids-limit=5"]).finish()?;
            one_line(update)?.fails_with("container not running").map(drop)
        })?;
        c.verb_with("kill", &["--all"]).arg("KILL").finish()?;
        Ok(())
    };
    let mut c = host.container(&["sleep", "1000"])?;
    let mut shared = host.container(&["sleep", "1000"])?;
    shared.without_namespace("pid");
    for c in [&mut c, &mut shared] {
        for (offset, boot) in [(1, None), (0, Some("0f0e0d0c-0b0a-0908-0706-050403020100"))] {
            c.create()?.start()?;
            c.kill("KILL")?;
            c.wait_exit()?;
            // What a reboot leaves, where the root is on a disk.
            coracle_integration::Host::cgroup_dirs(c.cgroup())
                .iter()
                .try_for_each(fs::remove_dir)
                .context("remove the cgroup")?;
            let start = start_time(stranger.pid())? + offset;
            edit_state(c, |state| {
                state["init"] = json!({"pid": stranger.pid(), "startTime": start});
                if let Some(boot) = boot {
                    state["boot"] = json!(boot);
                }
            })?;
            ended(c)?;
            c.verb("delete").finish()?.ok()?;
            host.is_clean()?;
            assert!(is_there(stranger.pid()));
            // And the id is free.
            c.create()?;
            assert_eq!(c.status()?, "created");
            c.delete()?;
            c.wait_exit()?;
        }
    }
    Ok(())
}

/// Nobody has waited for it yet, as between a container's end and its engine's attention.
#[test]
fn an_init_that_is_a_zombie() -> Result<()> {
    let host = Host::new()?;
    for mut c in both_kinds(&host)? {
        for started in [false, true] {
            c.create()?;
            if started {
                c.start()?;
            }
            kill_process(Pid::from_raw(c.pid()?).context("pid")?, Signal::KILL)?;
            c.wait_status("stopped")?;
            ensure!(c.proc("stat")?.contains(") Z "), "it is no zombie");
            one_line(c.verb("start").finish()?)?.fails_with("cannot start a container that has stopped")?;
            one_line(c.exec(&["true"])?)?.fails_with("cannot exec in a stopped container")?;
            one_line(c.verb("kill").finish()?)?.fails_with("container not running")?;
            one_line(c.verb("pause").finish()?)?.fails_with("container not running")?;
            c.verb("delete").finish()?.ok()?;
            host.is_clean()?;
            c.wait_exit()?;
        }
    }
    Ok(())
}

#[test]
fn a_frozen_container() -> Result<()> {
    let host = Host::new()?;
    for mut c in both_kinds(&host)? {
        // One that was never started.
        c.create()?;
        c.verb("pause").finish()?.ok()?;
        assert_eq!(c.status()?, "paused");
        c.start()?;
        assert_eq!(c.status()?, "paused");
        one_line(c.verb("start").finish()?)?.fails_with("cannot start an already running container")?;
        c.verb("resume").finish()?.ok()?;
        c.wait_status("running")?;

        c.verb("pause").finish()?.ok()?;
        one_line(c.exec(&["true"])?)?.fails_with("cannot exec in a paused container")?;
        one_line(c.verb("delete").finish()?)?.fails_with("that is not stopped: paused")?;
        c.kill("TERM")?;
        assert_eq!(c.status()?, "paused");
        c.kill("KILL")?;
        c.wait_exit()?;
        c.verb("delete").finish()?.ok()?;

        c.create()?.start()?;
        c.verb("pause").finish()?.ok()?;
        c.delete()?;
        c.wait_exit()?;
        host.is_clean()?;

        // Stopped as by a shell.
        c.create()?.start()?;
        c.kill("STOP")?;
        assert_eq!(c.status()?, "running");
        c.verb("pause").finish()?.ok()?;
        c.verb("resume").finish()?.ok()?;
        c.delete()?;
        c.wait_exit()?;
        host.is_clean()?;
    }
    Ok(())
}

#[test]
fn a_root_file_system_or_bundle_that_is_gone() -> Result<()> {
    let host = Host::new()?;
    for whole_bundle in [false, true] {
        for mut c in both_kinds(&host)? {
            let marker = host.path().join("poststop");
            let hook =
                json!([{"path": "/bin/sh", "args": ["sh", "-c", format!("touch {}", marker.display())]}]);
            c.config["hooks"] = json!({"poststop": hook});
            c.create()?.start()?;
            is_at_rest(&c)?;
            fs::remove_dir_all(if whole_bundle { c.bundle().to_owned() } else { c.rootfs() })?;
            assert_eq!(c.status()?, "running");
            assert_eq!(host.list()?, [c.id.as_str()]);
            one_line(c.exec(&["true"])?)?;
            c.verb_with("update", &["--pids-limit=99"]).finish()?.ok()?;
            c.verb("pause").finish()?.ok()?;
            c.verb("resume").finish()?.ok()?;
            c.kill("KILL")?;
            c.wait_exit()?;
            c.verb("delete").finish()?.ok()?;
            ensure!(marker.exists(), "the hook has not run");
            fs::remove_file(marker)?;
            host.is_clean()?;
        }
    }
    Ok(())
}

#[test]
fn a_cgroup_that_is_gone() -> Result<()> {
    let host = Host::new()?;
    for mut c in both_kinds(&host)? {
        for force in [false, true] {
            c.create()?.start()?;
            for dir in Host::cgroup_dirs(c.cgroup()) {
                let root = dir.parent().and_then(Path::parent).context("no root")?;
                eventually("the processes to be moved", || {
                    for pid in fs::read_to_string(dir.join("cgroup.procs"))?.lines() {
                        let _ = fs::write(root.join("cgroup.procs"), pid);
                    }
                    Ok(fs::remove_dir(&dir).is_ok())
                })?;
            }
            assert_eq!(c.status()?, "running");
            let cgroup = c.cgroup().trim_start_matches('/').to_owned();
            for (verb, flags) in [("pause", &[][..]), ("update", &["--pids-limit=50"])] {
                one_line(c.verb_with(verb, flags).finish()?)?.fails_with(&cgroup)?;
            }
            one_line(c.exec(&["true"])?)?.fails_with(&cgroup)?;
            let ps = c.verb_with("ps", &["--format=json"]).finish()?.ok()?;
            let pids: Vec<i32> = serde_json::from_str(&ps.stdout)?;
            ensure!(pids.contains(&c.pid()?), "{ps}");
            if !force {
                c.kill("KILL")?;
                c.wait_exit()?;
                c.verb("delete").finish()?.ok()?;
            } else {
                c.delete()?;
                c.wait_exit()?;
            }
            host.is_clean()?;
        }
    }
    Ok(())
}

/// A file system of its own for the state of a host.
struct Disk<'h>(&'h Host);

impl<'h> Disk<'h> {
    fn mount(host: &'h Host, options: &str) -> Result<Self> {
        fs::create_dir_all(host.state_dir())?;
        command("mount")
            .args(["-t", "tmpfs", "-o", options, "tmpfs"])
            .arg(host.state_dir())
            .finish()?
            .ok()?;
        Ok(Self(host))
    }

    fn remount(&self, options: &str) -> Result<()> {
        let options = format!("remount,{options}");
        command("mount").args(["-o", &options]).arg(self.0.state_dir()).finish()?.ok().map(drop)
    }

    /// Leaves this many bytes.
    fn fill(&self, left: usize) -> Result<()> {
        let path = self.0.state_dir().join(".full");
        let mut file = File::create(&path)?;
        while file.write_all(&[0; 4096]).is_ok() {}
        let length = file.metadata()?.len();
        Ok(file.set_len(length.saturating_sub(left as u64))?)
    }

    fn empty(&self) -> Result<()> {
        Ok(fs::remove_file(self.0.state_dir().join(".full"))?)
    }

    /// Takes the disk away, and finds that there was nothing else.
    fn unmount(self) -> Result<()> {
        command("umount").arg(self.0.state_dir()).finish()?.ok()?;
        self.0.is_clean()
    }
}

#[test]
fn create_on_a_full_disk() -> Result<()> {
    let host = Host::new()?;
    let mut failures = 0;
    for mut c in both_kinds(&host)? {
        // Each file takes a page or more, so that this fails at one after the other.
        for pages in 0..8 {
            let disk = Disk::mount(&host, "size=64k")?;
            disk.fill(pages * 4096)?;
            let done = c.try_create(&[])?;
            if done.code != 0 {
                failures += 1;
                one_line(done)?.fails_with(NO_SPACE)?;
                assert_eq!(host.list()?, Vec::<String>::new());
                ensure!(!directory(&c).exists(), "its directory is left");
                ensure!(Host::cgroup_dirs(c.cgroup()).is_empty(), "its cgroup is left");
                ensure!(!c.bundle().join("init.pid").exists(), "its pid file is left");
            } else {
                c.delete()?;
                c.wait_exit()?;
            }
            disk.unmount()?;
        }
        for inodes in 1..8 {
            let disk = Disk::mount(&host, &format!("nr_inodes={inodes}"))?;
            let done = c.try_create(&[])?;
            if done.code != 0 {
                failures += 1;
                one_line(done)?.fails_with(NO_SPACE)?;
                ensure!(!directory(&c).exists(), "its directory is left");
            } else {
                c.delete()?;
                c.wait_exit()?;
            }
            disk.unmount()?;
        }
    }
    ensure!((8..26).contains(&failures), "{failures} failures");
    Ok(())
}

#[test]
fn the_disk_is_full_after_create() -> Result<()> {
    let host = Host::new()?;
    for mut c in both_kinds(&host)? {
        let disk = Disk::mount(&host, "size=128k")?;
        c.create()?;
        disk.fill(0)?;
        c.start()?;
        let limit = || c.cgroup_file("pids", &["pids.max"]);
        let before = (limit()?, fs::read(directory(&c).join("config.json"))?);
        let update = || c.verb_with("update", &["--pids-limit=77"]).finish();
        one_line(update()?)?.fails_with(NO_SPACE)?;
        // Neither half: not in force, and not saved.
        assert!((limit()?, fs::read(directory(&c).join("config.json"))?) == before);
        assert_eq!(fs::read_dir(directory(&c))?.count(), 2, "state.json and config.json");
        c.verb("pause").finish()?.ok()?;
        assert_eq!(c.status()?, "paused");
        c.verb("resume").finish()?.ok()?;
        disk.empty()?;
        update()?.ok()?;
        assert_eq!(limit()?, "77");
        disk.fill(0)?;
        c.kill("KILL")?;
        c.wait_exit()?;
        c.verb("delete").finish()?.ok()?;
        assert_eq!(host.list()?, Vec::<String>::new());
        disk.unmount()?;
    }
    Ok(())
}

#[test]
fn a_state_directory_that_is_read_only() -> Result<()> {
    let host = Host::new()?;
    for mut c in both_kinds(&host)? {
        let disk = Disk::mount(&host, "size=1m")?;
        let mut created = host.container(&["sleep", "1000"])?;
        created.create()?;
        c.create()?.start()?;
        disk.remount("ro")?;

        // What has nothing to write.
        assert_eq!((c.status()?.as_str(), created.status()?.as_str()), ("running", "created"));
        assert_eq!(host.list()?.len(), 2);
        c.verb("pause").finish()?.ok()?;
        c.verb("resume").finish()?.ok()?;
        c.verb_with("ps", &["--format=json"]).finish()?.ok()?;
        created.exec(&["true"])?.ok()?;

        let limit = || c.cgroup_file("pids", &["pids.max"]);
        let before = limit()?;
        one_line(c.verb_with("update", &["--pids-limit=77"]).finish()?)?.fails_with(READ_ONLY)?;
        assert_eq!(limit()?, before);
        one_line(created.verb("start").finish()?)?.fails_with(READ_ONLY)?;
        assert_eq!(created.status()?, "created");
        one_line(created.verb("delete").finish()?)?.fails_with(READ_ONLY)?;
        assert_eq!(created.status()?, "created");
        let mut new = host.container(&["true"])?;
        one_line(new.try_create(&[])?)?.fails_with(READ_ONLY)?;
        c.kill("KILL")?;
        c.wait_exit()?;
        for verb in [&["delete"][..], &["delete", "--force"]] {
            let done = host.runtime().args(verb).arg(&c.id).finish()?;
            one_line(done)?.fails_with(READ_ONLY)?.fails_with(&directory(&c).display().to_string())?;
        }

        disk.remount("rw")?;
        assert_eq!(c.status()?, "stopped");
        c.verb("delete").finish()?.ok()?;
        created.start()?;
        created.delete()?;
        created.wait_exit()?;
        disk.unmount()?;
    }
    Ok(())
}

/// Another user has no business there, and is told where.
#[test]
fn a_state_directory_without_permission() -> Result<()> {
    let host = Host::new()?;
    let mut c = host.container(&["sleep", "1000"])?;
    c.create()?.start()?;
    // The source tree may be out of the user's reach.
    let program = host.path().join("coracle");
    command("cp").arg(coracle()).arg(&program).finish()?.ok()?;
    let as_user = |verb: &[&str], more: &[&str]| -> Result<Finished> {
        let mut command = host.runtime_at(&program);
        command.uid(64_123).gid(64_123).current_dir("/").args(verb).arg(&c.id).args(more).finish()
    };
    for (mode, place) in [(0o700, host.state_dir()), (0o711, directory(&c))] {
        fs::set_permissions(host.state_dir(), fs::Permissions::from_mode(mode))?;
        let denied = |done: Finished| -> Result<()> {
            one_line(done)?
                .fails_with(&place.display().to_string())?
                .fails_with("permission denied")
                .map(drop)
        };
        for (verb, arguments) in COMMANDS {
            let (flags, behind): (Vec<&str>, Vec<&str>) = arguments.iter().partition(|a| a.starts_with("--"));
            denied(as_user(&[&[verb], &flags[..]].concat(), &behind)?).context(verb)?;
        }
        denied(as_user(&["delete", "--force"], &[])?)?;
    }
    let list = host.runtime_at(&program).uid(64_123).gid(64_123).current_dir("/").arg("list").finish()?;
    one_line(list)?.fails_with(&host.state_dir().display().to_string())?.fails_with("permission denied")?;
    assert_eq!(c.status()?, "running");
    Ok(())
}
