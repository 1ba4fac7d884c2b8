//! The lines that succeed: what they do, and that they say nothing.

use std::fs::{self, File};
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use coracle_integration::{Host, Run, Terminal, command, eventually, reap};
use serde_json::{Value, json};

use crate::caller::Caller;
use crate::table::{ENGINES, Engine, Verb, lines, root};

/// All of an engine's lines: containers created, worked on and ended by each.
pub fn every_line(engine: Engine) -> Result<()> {
    for line in lines(engine, Verb::Create) {
        from_create_to_delete(engine, line).with_context(|| format!("{engine:?}: {line}"))?;
    }
    while_it_runs(engine)?;
    for line in lines(engine, Verb::Kill) {
        killed(engine, line).with_context(|| format!("{engine:?}: {line}"))?;
    }
    Ok(())
}

/// Prints the descriptors, of which the last is the directory that ls reads, and the environment.
const SHOW: &str =
    "ls /proc/self/fd | sort -n | tr '\\n' ' '; echo; env; readlink /proc/self/fd/0; echo err >&2; exit 7";

/// What [`SHOW`] has to print: nothing of the engine's is in the container's process.
fn check_shown(line: &str, shown: &str) -> Result<()> {
    let descriptors = if line.contains("--preserve-fds 2") { "0 1 2 3 4 5 " } else { "0 1 2 3 " };
    ensure!(shown.lines().next() == Some(descriptors), "descriptors: {shown}");
    let leaked = ["_OCI_", "XDG_RUNTIME_DIR", "CORACLE"];
    ensure!(!shown.lines().any(|l| leaked.iter().any(|name| l.starts_with(name))), "environment: {shown}");
    let stdin = if line.contains("$S") { "/dev/pts/0" } else { "/dev/null" };
    ensure!(shown.lines().any(|l| l.trim_end() == stdin) && shown.contains("err"), "streams: {shown}");
    Ok(())
}

fn from_create_to_delete(engine: Engine, line: &str) -> Result<()> {
    let host = Host::new()?;
    let mut caller = Caller::new(engine, &host, &["sh", "-c", SHOW])?;
    if line.contains("disabled")
        && let Some(linux) = caller.container.config["linux"].as_object_mut()
    {
        linux.remove("cgroupsPath");
    }
    let terminal = caller.create(line)?;
    let pid = caller.pid()?;
    let state = caller.state()?;
    assert_eq!((&state["status"], &state["pid"]), (&json!("created"), &json!(pid)));
    assert_eq!(state["bundle"], caller.container.bundle().to_str().context("path")?);
    assert!(caller.state_dir().join(&caller.container.id).is_dir());
    let cgroups = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    assert_eq!(cgroups.contains(&caller.container.id), !line.contains("disabled"), "{cgroups}");
    if engine == Engine::Docker {
        // libnetwork-setkey joins the network namespace of this process.
        let hook: Value = serde_json::from_slice(&fs::read(caller.file("hook.json"))?)?;
        assert_eq!((&hook["pid"], &hook["id"]), (&json!(pid), &json!(caller.container.id)));
    }
    caller.verb(Verb::Start)?;
    assert_eq!(reap(pid)?, 7);
    let shown = match terminal {
        Some(mut terminal) => terminal.rest()?.replace('\r', ""),
        None => caller.rest()?,
    };
    check_shown(line, &shown)?;
    assert_eq!(caller.state()?["status"], "stopped");
    for delete in lines(engine, Verb::Delete) {
        caller.silently(delete)?;
    }
    assert!(!caller.state_dir().join(&caller.container.id).exists());
    for path in cgroups.lines().filter_map(|l| l.rsplit(':').next()) {
        ensure!(!path.contains(&caller.container.id) || Host::cgroup_dirs(path).is_empty(), "{path} is left");
    }
    host.is_clean()
}

fn while_it_runs(engine: Engine) -> Result<()> {
    let host = Host::new()?;
    let mut caller = Caller::running(engine, &host, &["sleep", "1000"])?;
    let pid = caller.pid()?;
    let of = |caller: &Caller<'_>, verb| lines(caller.engine, verb).iter().copied();
    assert_eq!(caller.state()?["status"], "running");
    for line in of(&caller, Verb::Pause) {
        caller.silently(line)?;
        let status = if line.contains("pause") { "paused" } else { "running" };
        assert_eq!(caller.state()?["status"], status, "{engine:?}: {line}");
    }
    for (n, line) in (1..).zip(of(&caller, Verb::Update)) {
        let limit = (64 + n) << 20;
        let resources = json!({"memory": {"limit": limit}, "unified": null}).to_string();
        fs::write(caller.file("resources.json"), &resources)?;
        let stdin = if line.contains(" - ") { resources.as_bytes() } else { b"" };
        caller.call_with(line, stdin)?.silent()?;
        assert_eq!(memory_limit(pid)?, limit.to_string(), "{engine:?}: {line}");
    }
    for line in of(&caller, Verb::Ps) {
        let pids: Vec<i32> = serde_json::from_str(&caller.call(line)?.finished.ok()?.stdout)?;
        assert_eq!(pids, [pid], "{engine:?}: {line}");
    }
    for line in of(&caller, Verb::Exec) {
        let (code, shown) = caller.exec(line, &["sh", "-c", SHOW])?;
        assert_eq!(code, 7, "{engine:?}: {line}");
        check_shown(line, &shown.replace('\r', "")).with_context(|| format!("{engine:?}: {line}"))?;
    }
    for line in of(&caller, Verb::Version) {
        let done = caller.call(line)?.finished.ok()?;
        ensure!(done.stderr.is_empty(), "{done}");
        if line == "features" {
            check_features(&serde_json::from_str(&done.stdout)?)?;
        } else {
            // dockerd takes what follows the word; podman shows the text.
            assert!(done.stdout.starts_with("coracle version "), "{done}");
        }
    }
    assert_eq!(caller.state()?["status"], "running");
    Ok(())
}

fn memory_limit(pid: i32) -> Result<String> {
    let cgroups = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    let has = |l: &&str| l.split(':').nth(1).is_some_and(|names| names.split(',').any(|n| n == "memory"));
    let line = cgroups.lines().find(has).or_else(|| cgroups.lines().find(|l| l.starts_with("0::")));
    let path = line.and_then(|l| l.rsplit(':').next()).context("no memory cgroup")?;
    let dir = Host::cgroup_dir(path, "memory")?;
    let limit = fs::read_to_string(dir.join("memory.limit_in_bytes"))
        .or_else(|_| fs::read_to_string(dir.join("memory.max")))?;
    Ok(limit.trim().to_owned())
}

/// What CRI-O from 1.29 and dockerd from 25 on look for.
fn check_features(features: &Value) -> Result<()> {
    assert!(features["ociVersionMin"].is_string() && features["ociVersionMax"].is_string(), "{features}");
    assert_eq!(features["linux"]["mountExtensions"]["idmap"]["enabled"], true, "{features}");
    let options = features["mountOptions"].as_array().context("mountOptions")?;
    ensure!(options.iter().any(|option| option == "rro"), "{features}");
    Ok(())
}

const TRAPS: &str = "trap 'echo usr1' USR1; trap 'exit 3' TERM; echo ready; while :; do sleep 0.05; done";

fn killed(engine: Engine, line: &str) -> Result<()> {
    let host = Host::new()?;
    let all = line.contains("--all") || line.contains("-a ");
    let script = if all { "sleep 1000 & sleep 1000 & echo ready; wait" } else { TRAPS };
    let mut caller = Caller::new(engine, &host, &["sh", "-c", script])?;
    if all {
        caller.container.without_namespace("pid");
    }
    caller.create(lines(engine, Verb::Create)[0])?;
    caller.verb(Verb::Start)?;
    caller.expect("ready")?;
    caller.silently(line)?;
    if line.ends_with("10") || line.ends_with("USR1") {
        caller.expect("usr1")?;
        caller.silently(&format!("{}kill ID 9", root(engine)))?;
        assert_eq!(reap(caller.pid()?)?, 137);
    } else {
        let expected = if line.ends_with('9') || line.ends_with("KILL") {
            137
        } else if all {
            143
        } else {
            3
        };
        assert_eq!(reap(caller.pid()?)?, expected);
    }
    // Every process has its end when the pipes have theirs.
    caller.rest()?;
    assert_eq!(caller.state()?["status"], "stopped");
    for delete in lines(engine, Verb::Delete) {
        caller.silently(delete)?;
    }
    eventually("nothing of the container", || Ok(host.leftovers()?.is_empty()))
}

/// Only buildah waits for the end by asking: any status but these two is an error to it.
#[test]
fn buildah_polls_the_state() -> Result<()> {
    let host = Host::new()?;
    let caller = Caller::running(Engine::Buildah, &host, &["sh", "-c", "sleep 0.2; exit 4"])?;
    let mut seen = Vec::new();
    eventually("the end", || {
        let status = caller.state()?["status"].as_str().context("status")?.to_owned();
        let end = status == "stopped";
        seen.push(status);
        Ok(end)
    })?;
    seen.dedup();
    assert_eq!(seen, ["running", "stopped"]);
    assert_eq!(reap(caller.pid()?)?, 4);
    caller.verb(Verb::Delete)
}

/// CRI-O's streaming `exec`, in the foreground: the process may want a terminal, but there is no console socket, and the
/// streams are pipes, or the slave of a terminal that CRI-O has made.
#[test]
fn crio_executes_in_the_foreground() -> Result<()> {
    let host = Host::new()?;
    let caller = Caller::running(Engine::Crio, &host, &["sleep", "1000"])?;
    let line = lines(Engine::Crio, Verb::Exec)[1];
    let script = "test -t 0 && tty; read x; echo got $x; exit 3";
    let process = |terminal: bool| {
        caller.process_file(&["sh", "-c", script], |process| process["terminal"] = json!(terminal))
    };
    process(false)?;
    let done = caller.call_with(line, b"word\n")?.finished.exits(3)?.prints("got word")?;
    assert_eq!(done.stderr, "");

    process(true)?;
    let mut job = caller.command(line)?.stdin(Stdio::piped()).job()?;
    let mut stdin = job.stdin().context("stdin")?;
    job.expect("/dev/pts/0")?;
    std::io::Write::write_all(&mut stdin, b"word\n")?;
    job.expect("got word")?;
    job.wait()?.exits(3)?;

    let mut terminal = Terminal::spawn(&mut caller.command(line)?)?;
    terminal.expect("/dev/pts/0")?;
    terminal.type_in("word\r")?;
    terminal.expect("got word")?;
    assert_eq!(terminal.wait()?.0, 3);
    Ok(())
}

#[test]
fn checkpoints_and_restores_are_understood() -> Result<()> {
    let host = Host::new()?;
    for engine in ENGINES {
        let caller = Caller::new(engine, &host, &["true"])?;
        caller.container.save()?;
        for line in lines(engine, Verb::Checkpoint) {
            // There is no such container, and no such image; real ones are in the tests of checkpoints.
            let message = caller.call(line)?.message()?;
            let expected = if line.contains("restore") { "image" } else { "container does not exist" };
            ensure!(message.contains(expected), "{engine:?}: {line}: {message}");
        }
    }
    // How podman finds out.
    let caller = Caller::new(Engine::Podman, &host, &["true"])?;
    caller.call("checkpoint --help")?.finished.ok()?;
    let probe = caller.call("restore --lsm-mount-context")?.finished;
    let known = ["flag needs an argument", "requires an argument"];
    ensure!(known.iter().any(|words| probe.stderr.contains(words)), "{probe}");
    Ok(())
}

/// systemd's socket activation through conmon: the descriptors and their number reach the program.
#[test]
fn sockets_of_the_service_manager() -> Result<()> {
    let host = Host::new()?;
    let script = "echo $LISTEN_FDS $LISTEN_PID; ls /proc/self/fd | sort -n | tr '\\n' ' '";
    let mut caller = Caller::new(Engine::Podman, &host, &["sh", "-c", script])?;
    caller.container.config["process"]["terminal"] = json!(false);
    caller.container.save()?;
    let line = caller.command(lines(Engine::Podman, Verb::Create)[0])?;
    // LISTEN_PID is the runtime's own.
    let mut create = command("sh");
    create.args(["-c", "LISTEN_PID=$$ exec \"$0\" \"$@\""]).arg(line.get_program()).args(line.get_args());
    caller.surround(&mut create)?;
    let shown = File::create(caller.file("shown"))?;
    create.env("LISTEN_FDS", "2").stdout(shown).stderr(Stdio::null());
    ensure!(create.status()?.success(), "create");
    caller.verb(Verb::Start)?;
    assert_eq!(reap(caller.pid()?)?, 0);
    assert_eq!(fs::read_to_string(caller.file("shown"))?, "2 1\n0 1 2 3 4 5 ");
    assert!(!Path::new("/coracle").exists(), "an empty XDG_RUNTIME_DIR is none");
    Ok(())
}
