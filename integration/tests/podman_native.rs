//! Native images on podman and buildah.

use std::fs;

use anyhow::{Context, Result};
use coracle_integration::{Engine, Host, Run, Terminal, command, coracle, eventually};
use serde_json::Value;

#[test]
fn run_and_its_exit_code() -> Result<()> {
    let engine = Engine::new()?;
    engine.run(&["native", "echo", "hello"]).finish()?.ok()?.prints("hello")?;
    engine.run(&["native", "sh", "-c", "exit 7"]).finish()?.exits(7)?;
    engine.run(&["native", "sh", "-c", "kill -9 $$; sleep 1; exit 3"]).finish()?.exits(3)?;
    engine.is_clean()
}

#[test]
fn what_cannot_be_executed() -> Result<()> {
    let engine = Engine::new()?;
    engine.run(&["native", "nosuch"]).finish()?.exits(127)?.fails_with("not found")?;
    engine.run(&["native", "/nosuch"]).finish()?.exits(127)?;
    engine.run(&["native", "/etc"]).finish()?.exits(126)?.fails_with("ermission denied")?;
    engine.run(&["native", "/etc/passwd"]).finish()?.exits(126)?;
    engine.run(&["--workdir", "/etc/passwd", "native", "true"]).finish()?.fails_with("")?;
    engine.is_clean()
}

#[test]
fn standard_input_and_streams() -> Result<()> {
    let engine = Engine::new()?;
    let done = engine.run(&["-i", "native", "sh", "-c", "cat; echo err >&2"]).finish_with(b"typed")?.ok()?;
    assert_eq!((done.stdout.as_str(), done.stderr.as_str()), ("typed", "err\n"));
    Ok(())
}

#[test]
fn with_a_terminal() -> Result<()> {
    let engine = Engine::new()?;
    let mut run = engine.run(&["-it", "native", "sh", "-c", "tty; read x; echo got $x; exit 5"]);
    let mut terminal = Terminal::spawn(&mut run)?;
    terminal.expect("/dev/pts/0")?;
    terminal.type_in("word\r")?;
    terminal.expect("got word")?;
    assert_eq!(terminal.wait()?.0, 5);
    engine.is_clean()
}

#[test]
fn detached_logs_inspect_stop() -> Result<()> {
    let engine = Engine::new()?;
    let script = "trap 'echo bye; exit 9' TERM; echo hello; while :; do sleep 0.05; done";
    let id = engine.start(&["--name", "c", "native", "sh", "-c", script])?;
    eventually("hello in the logs", || Ok(engine.do_podman(&["logs", "c"])?.stdout.contains("hello")))?;
    let running = engine.do_podman(&["inspect", "c"])?.ok()?;
    let inspect: Value = serde_json::from_str(&running.stdout)?;
    assert_eq!(inspect[0]["Id"], id.as_str());
    assert_eq!(inspect[0]["State"]["Status"], "running");
    assert_eq!(inspect[0]["OCIRuntime"], coracle().to_str().context("path")?);
    engine.do_podman(&["stop", "c"])?.ok()?;
    let code = engine.do_podman(&["inspect", "--format", "{{.State.ExitCode}} {{.State.Status}}", "c"])?;
    code.prints("9 exited")?;
    assert!(engine.do_podman(&["logs", "c"])?.stdout.ends_with("bye\n"));
    engine.do_podman(&["start", "c"])?.ok()?;
    engine.do_podman(&["kill", "c"])?.ok()?;
    engine.do_podman(&["wait", "c"])?.ok()?.prints("137")?;
    engine.do_podman(&["rm", "c"])?.ok()?;
    engine.is_clean()
}

#[test]
fn exec() -> Result<()> {
    let engine = Engine::new()?;
    engine.start(&["--name", "c", "-e", "A=1", "native", "sleep", "1000"])?;
    engine.do_podman(&["exec", "c", "sh", "-c", "echo $A; exit 6"])?.exits(6)?.prints("1")?;
    engine
        .do_podman(&[
            "exec",
            "--user",
            "1000",
            "--workdir",
            "/tmp",
            "-e",
            "B=2",
            "c",
            "sh",
            "-c",
            "id -u; pwd; echo $B",
        ])?
        .ok()?
        .prints("1000\n/tmp\n2")?;
    engine.podman().args(["exec", "-i", "c", "cat"]).finish_with(b"in")?.ok()?.prints("in")?;
    engine.do_podman(&["exec", "c", "nosuch"])?.exits(127)?;
    engine.do_podman(&["exec", "c", "/etc"])?.exits(126)?;
    // The default profile of podman is on: the second field is the mode, a filter.
    engine
        .do_podman(&["exec", "c", "grep", "^Seccomp:", "/proc/self/status"])?
        .ok()?
        .prints("Seccomp:\t2")?;
    let mut terminal =
        Terminal::spawn(engine.podman().args(["exec", "-it", "c", "sh", "-c", "tty; exit 4"]))?;
    terminal.expect("/dev/pts/")?;
    assert_eq!(terminal.wait()?.0, 4);
    engine.do_podman(&["exec", "-d", "c", "touch", "/tmp/detached"])?.ok()?;
    eventually("the detached exec", || {
        Ok(engine.do_podman(&["exec", "c", "test", "-e", "/tmp/detached"])?.code == 0)
    })?;
    engine.do_podman(&["rm", "--force", "--time=0", "c"])?.ok()?;
    engine.is_clean()
}

#[test]
fn pause_top_stats_and_update() -> Result<()> {
    let engine = Engine::new()?;
    let id = engine.start(&[
        "--name",
        "c",
        "--memory",
        "64m",
        "native",
        "sh",
        "-c",
        "while :; do sleep 0.01; done",
    ])?;
    engine.do_podman(&["pause", "c"])?.ok()?;
    engine.do_podman(&["inspect", "--format", "{{.State.Status}}", "c"])?.ok()?.prints("paused")?;
    engine.do_podman(&["unpause", "c"])?.ok()?;
    assert!(engine.do_podman(&["top", "c"])?.ok()?.stdout.contains("sleep"));
    let stats = engine.do_podman(&["stats", "--no-stream", "--format", "{{.MemUsage}}", "c"])?.ok()?;
    assert!(stats.stdout.contains("67.11MB"), "{stats}");
    engine.do_podman(&["update", "--memory", "80m", "c"])?.ok()?;
    let cgroup = format!("{}/libpod-{id}", engine.host().name());
    let memory = Host::cgroup_dir(&cgroup, "memory")?;
    let limit = fs::read_to_string(memory.join("memory.limit_in_bytes"))
        .or_else(|_| fs::read_to_string(memory.join("memory.max")))?;
    assert_eq!(limit.trim(), (80 << 20).to_string());
    engine.is_clean()
}

#[test]
fn the_memory_limit() -> Result<()> {
    let engine = Engine::new()?;
    let flags = ["--name", "c", "--memory", "32m", "--memory-swap", "32m", "native", "tail", "/dev/zero"];
    engine.start(&flags)?;
    engine.do_podman(&["wait", "c"])?.ok()?.prints("137")?;
    engine.is_clean()
}

#[test]
fn volumes_read_only_roots_users_and_environment() -> Result<()> {
    let engine = Engine::new()?;
    let dir = engine.path().join("volume");
    fs::create_dir(&dir)?;
    fs::write(dir.join("f"), "host")?;
    let volume = format!("{}:/data", dir.display());
    engine
        .run(&["-v", &volume, "native", "sh", "-c", "cat /data/f; echo new > /data/g"])
        .finish()?
        .ok()?
        .prints("host")?;
    assert_eq!(fs::read_to_string(dir.join("g"))?, "new\n");
    let read_only = format!("{volume}:ro");
    engine
        .run(&["-v", &read_only, "native", "touch", "/data/h"])
        .finish()?
        .exits(1)?
        .fails_with("Read-only")?;
    engine.run(&["--read-only", "native", "touch", "/h"]).finish()?.exits(1)?.fails_with("Read-only")?;
    engine.run(&["--read-only", "native", "touch", "/tmp/h"]).finish()?.ok()?;
    engine.run(&["--tmpfs", "/scratch:size=1m", "native", "touch", "/scratch/h"]).finish()?.ok()?;
    engine
        .run(&["--user", "1000:1000", "--group-add", "7", "native", "id", "-G"])
        .finish()?
        .ok()?
        .prints("1000 7")?;
    engine
        .run(&["-e", "A=b c", "--hostname", "name", "native", "sh", "-c", "echo $A; hostname"])
        .finish()?
        .ok()?
        .prints("b c\nname")?;
    engine
        .run(&[
            "--ulimit",
            "nofile=321:321",
            "--ulimit",
            "nproc=1000:1000",
            "native",
            "sh",
            "-c",
            "ulimit -n",
        ])
        .finish()?
        .ok()?
        .prints("321")?;
    engine
        .run(&["--cap-drop", "all", "native", "grep", "^CapEff", "/proc/self/status"])
        .finish()?
        .ok()?
        .prints("CapEff:\t0000000000000000")?;
    engine
        .run(&["--security-opt", "seccomp=unconfined", "native", "grep", "^Seccomp:", "/proc/self/status"])
        .finish()?
        .ok()?
        .prints("Seccomp:\t0")?;
    engine
        .run(&["--security-opt", "no-new-privileges", "native", "grep", "^NoNewPrivs", "/proc/self/status"])
        .finish()?
        .ok()?
        .prints("NoNewPrivs:\t1")?;
    engine
        .run(&["--device", "/dev/null:/dev/mine", "native", "stat", "-c", "%t:%T", "/dev/mine"])
        .finish()?
        .ok()?
        .prints("1:3")?;
    engine.run(&["--init", "native", "sh", "-c", "cat /proc/1/comm"]).finish()?.ok()?;
    engine.is_clean()
}

#[test]
fn namespaces() -> Result<()> {
    let engine = Engine::new()?;
    let mapped = engine.run(&["--userns", "auto:size=1000", "native", "true"]).finish()?;
    if mapped.code != 0 {
        // `auto` needs a range for the user "containers"; explicit mappings need nothing.
        assert!(mapped.stderr.contains("containers"), "{mapped}");
    }
    let maps = ["--uidmap", "0:100000:5000", "--gidmap", "0:100000:5000"];
    engine
        .run(&maps)
        .args(["native", "sh", "-c", "id -u; tr -s ' ' < /proc/self/uid_map; touch /f && stat -c %u /f"])
        .finish()?
        .ok()?
        .prints("0\n 0 100000 5000\n0")?;
    engine.run(&["--pid=host", "native", "sh", "-c", "kill -0 1; exit 3"]).finish()?.exits(3)?;
    engine
        .podman()
        .args(["run", "--rm", "--network=none", "--cgroups=disabled", "native", "echo", "no cgroup"])
        .finish()?
        .ok()?
        .prints("no cgroup")?;
    engine.run(&["--privileged", "native", "true"]).finish()?;
    engine.is_clean()
}

#[test]
fn pods() -> Result<()> {
    let engine = Engine::new()?;
    let parent = engine.common()[2].clone();
    engine.podman().args(["pod", "create", "--name", "p", "--network=none", &parent]).finish()?.ok()?;
    for name in ["one", "two"] {
        engine
            .podman()
            .args(["run", "--detach", "--pod", "p", "--name", name, "native", "sleep", "1000"])
            .finish()?
            .ok()?;
    }
    let net = |name: &str| engine.do_podman(&["exec", name, "readlink", "/proc/self/ns/net"])?.ok();
    assert_eq!(net("one")?.stdout, net("two")?.stdout);
    engine.do_podman(&["pod", "stop", "--time=0", "p"])?.ok()?;
    engine.do_podman(&["pod", "rm", "p"])?.ok()?;
    engine.is_clean()
}

#[test]
fn buildah_builds_and_runs() -> Result<()> {
    let engine = Engine::new()?;
    let context = engine.path().join("context");
    fs::create_dir(&context)?;
    fs::write(
        context.join("Containerfile"),
        "FROM localhost/native\nRUN echo built > /made && id -u >> /made\nUSER 1000\nRUN id -u > /tmp/user\nCMD [\"cat\", \"/made\", \"/tmp/user\"]\n",
    )?;
    // buildah takes the runtime of `bud` from a flag.
    engine
        .buildah()
        .args(["bud", "--network=none", "--isolation=oci", "--pull-never", "--runtime"])
        .arg(coracle())
        .args(["-t", "built"])
        .arg(&context)
        .finish()?
        .ok()?;
    engine.run(&["built"]).finish()?.ok()?.prints("built\n0\n1000")?;

    let from = engine.buildah().args(["from", "--pull-never", "localhost/built"]).finish()?.ok()?;
    let container = from.stdout.trim();
    let run = |args: &[&str]| {
        engine
            .buildah()
            .args(["run", "--network=none", "--isolation=oci", "--runtime"])
            .arg(coracle())
            .args([container, "--"])
            .args(args)
            .finish()
    };
    run(&["cat", "/made"])?.ok()?.prints("built\n0")?;
    run(&["sh", "-c", "exit 5"])?.fails_with("5")?;
    engine.buildah().args(["rm", "--all"]).finish()?.ok()?;
    engine.is_clean()
}

#[test]
fn from_scratch_with_one_static_program() -> Result<()> {
    let engine = Engine::new()?;
    let root = engine.path().join("one");
    fs::create_dir(&root)?;
    fs::copy("/bin/busybox", root.join("echo"))?;
    engine.import("one", &root, &["ENTRYPOINT [\"/echo\"]"])?;
    engine.run(&["one", "alone"]).finish()?.ok()?.prints("alone")?;
    engine.is_clean()
}

#[test]
fn many_at_once() -> Result<()> {
    let engine = Engine::new()?;
    let mut jobs = Vec::new();
    for n in 0..8 {
        jobs.push((n, engine.run(&["native", "sh", "-c", &format!("echo {n}; exit {n}")]).job()?));
    }
    for (n, mut job) in jobs {
        job.wait()?.exits(n)?.prints(&n.to_string())?;
    }
    engine.is_clean()
}

#[test]
fn podman_info_shows_the_runtime() -> Result<()> {
    let engine = Engine::new()?;
    let info = engine.do_podman(&["info", "--format", "{{.Host.OCIRuntime.Version}}"])?.ok()?;
    let version = command(coracle()).arg("--version").finish()?.ok()?;
    assert!(info.stdout.trim().starts_with(version.stdout.lines().next().context("version")?), "{info}");
    Ok(())
}
