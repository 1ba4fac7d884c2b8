//! A container's life under podman, from `create` to `rm`: what an engine asks of a runtime while it is alive.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use coracle_integration::{Engine, Host, Run, eventually, words};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// A shell that ends with 9 when it is asked to.
const POLITE: &str = "trap 'echo bye; exit 9' TERM; echo hello; while :; do sleep 0.05; done";

#[test]
fn detached_logs_inspect_stop() -> Result<()> {
    let engine = Engine::new()?;
    let id = engine.start(&["--name", "c", "native", "sh", "-c", POLITE])?;
    let mut follow = engine.podman().args(words("logs --follow --timestamps c")).job()?;
    follow.expect(" hello\n")?;
    let inspect: Value = serde_json::from_str(&engine.do_podman(&["inspect", "c"])?.ok()?.stdout)?;
    assert_eq!(inspect[0]["Id"], id.as_str());
    assert_eq!(inspect[0]["State"]["Status"], "running");
    assert_eq!(inspect[0]["OCIRuntime"], "coracle");
    engine.do_podman(&["stop", "c"])?.ok()?;
    assert_eq!(engine.inspect("c", "{{.State.ExitCode}} {{.State.Status}}")?, "9 exited");
    let followed = follow.wait()?.ok()?;
    let line = followed.lines().last().context("no line")?;
    assert!(line.starts_with("20") && line.contains('T') && line.ends_with(" bye"), "{followed}");
    engine.do_podman(&["start", "c"])?.ok()?;
    engine.do_podman(&["kill", "c"])?.ok()?;
    engine.do_podman(&["wait", "c"])?.ok()?.prints("137")?;
    engine.do_podman(&["rename", "c", "d"])?.ok()?;
    engine.do_podman(&["rm", "d"])?.ok()?;

    let file = engine.path().join("log");
    let path = format!("path={}", file.display());
    let script = ["native", "sh", "-c", "echo out; echo err >&2; printf part"];
    engine.run(&[["--log-driver", "k8s-file", "--log-opt", &path], script].concat()).finish()?.ok()?;
    let mut lines: Vec<_> =
        fs::read_to_string(file)?.lines().map(|l| l[l.find(' ').unwrap_or(0)..].to_owned()).collect();
    lines.sort();
    assert_eq!(lines, [" stderr F err", " stdout F out", " stdout P part"]);
    engine.is_clean()
}

#[test]
fn stopping_and_restarting() -> Result<()> {
    let engine = Engine::new()?;
    let code = |name: &str| engine.inspect(name, "{{.State.ExitCode}}");
    // Its own signal; one that does not listen is killed when the time is over; a module obeys at once.
    let usr1 = "trap 'exit 5' USR1; echo ready; while :; do sleep 0.05; done";
    engine.start(&["--name", "usr1", "--stop-signal=USR1", "native", "sh", "-c", usr1])?;
    engine.logged("usr1", "ready")?;
    let start = Instant::now();
    engine.do_podman(&["stop", "usr1"])?.ok()?;
    let obeys = start.elapsed();
    assert_eq!(code("usr1")?, "5");
    engine.do_podman(&["restart", "--time=0", "usr1"])?.ok()?;
    assert_eq!(engine.inspect("usr1", "{{.State.Status}}")?, "running");
    engine.do_podman(&["stop", "--time=1", "--ignore", "usr1"])?.ok()?;
    engine.start(&words("--name deaf native sleep 1000"))?;
    engine.do_podman(&["stop", "--time=1", "deaf"])?.ok()?;
    assert_eq!(code("deaf")?, "137");
    for (word, ready) in [("spin", "spinning"), ("sleep", "sleeping")] {
        engine.start(&["--name", word, "show", word])?;
        engine.logged(word, ready)?;
        let start = Instant::now();
        engine.do_podman(&["stop", "--time=10", word])?.ok()?;
        let at_once = 2 * obeys + Duration::from_secs(3);
        ensure!(start.elapsed() < at_once, "{word}: {:?}, usr1: {obeys:?}", start.elapsed());
        assert_eq!(code(word)?, "143");
    }
    engine.do_podman(&["restart", "sleep"])?.ok()?;
    engine.do_podman(&["kill", "--signal=KILL", "sleep"])?.ok()?;
    engine.do_podman(&["wait", "sleep"])?.ok()?.prints("137")?;
    let events = engine.do_podman(&words(
        "events --stream=false --filter event=died --format {{.Name}}={{.ContainerExitCode}}",
    ))?;
    let died: Vec<_> = events.lines().collect();
    assert!(
        died.starts_with(&["usr1=5"]) && died.ends_with(&["spin=143", "sleep=143", "sleep=137"]),
        "{events}"
    );
    engine.is_clean()
}

#[test]
fn init_start_wait_and_the_container_as_files() -> Result<()> {
    let engine = Engine::new()?;
    let create = |name: &str, image: &[&str]| {
        engine.podman().args(["create", "--name", name]).args(engine.common()).args(image).finish()?.ok()
    };
    for (name, image) in [
        ("n", ["native", "sh", "-c", "echo made > /made; exit 4"].as_slice()),
        ("w", &["show", "touch=/made", "4"]),
    ] {
        create(name, image)?;
        engine.do_podman(&["init", name])?.ok()?;
        assert_eq!(engine.inspect(name, "{{.State.Status}}")?, "initialized");
        engine.do_podman(&["start", "--attach", name])?.exits(4)?;
        engine.do_podman(&["wait", name])?.ok()?.prints("4")?;
        let diff = engine.do_podman(&["diff", name])?.ok()?;
        assert!(diff.lines().any(|l| l == "A /made"), "{diff}");
        engine.do_podman(&["commit", "--quiet", name, &format!("of-{name}")])?.ok()?;
        engine.do_podman(&["start", "--attach", name])?.exits(4)?;
    }
    engine.run(&["--entrypoint=[\"cat\",\"/made\"]", "of-n"]).finish()?.ok()?.prints("made")?;
    let listed = engine.run(&["of-w", "ls=/"]).finish()?.ok()?;
    assert!(listed.lines().any(|l| l == "made"), "{listed}");
    // What has never run can be removed.
    create("never", &["native", "true"])?;
    engine.do_podman(&["init", "never"])?.ok()?;
    engine.do_podman(&["rm", "--force", "never"])?.ok()?;

    // Files go in and come out while it runs, which freezes it for a moment.
    engine.start(&words("--name r --tmpfs /scratch native sleep 1000"))?;
    let file = engine.path().join("file");
    fs::write(&file, "from the host")?;
    let copy = |from: &str, to: &str| engine.do_podman(&["cp", from, to])?.ok();
    for place in ["/root/file", "/scratch/file"] {
        copy(&file.to_string_lossy(), &format!("r:{place}"))?;
        engine.do_podman(&["exec", "r", "cat", place])?.ok()?.prints("from the host")?;
        let back = engine.path().join("back");
        copy(&format!("r:{place}"), &back.to_string_lossy())?;
        assert_eq!(fs::read_to_string(back)?, "from the host");
    }
    engine.is_clean()
}

#[test]
fn pause_top_stats_and_update() -> Result<()> {
    let engine = Engine::new()?;
    let looping = ["native", "sh", "-c", "while :; do sleep 0.01; done"];
    for (name, image, command) in
        [("n", looping.as_slice(), "sleep"), ("w", &["show", "tick"], "/main.wasm tick")]
    {
        let id = engine.start(&[&["--name", name, "--memory=64m", "--cpus=1"], image].concat())?;
        engine.do_podman(&["pause", name])?.ok()?;
        assert_eq!(engine.inspect(name, "{{.State.Status}}")?, "paused");
        engine.do_podman(&["exec", name, "true"])?.fails_with("running containers")?;
        engine.do_podman(&["unpause", name])?.ok()?;
        eventually("it in top", || Ok(engine.do_podman(&["top", name])?.ok()?.stdout.contains(command)))?;
        let format = "--format={{.MemUsage}} {{.PIDs}} {{.AvgCPU}}";
        let stats = engine.do_podman(&["stats", "--no-stream", format, name])?.ok()?;
        assert!(stats.stdout.contains("67.11MB"), "{stats}");
        engine.do_podman(&["update", "--memory=80m", "--cpus=0.5", "--cpu-shares=200", name])?.ok()?;
        let cgroup = format!("{}/libpod-{id}", engine.host().name());
        let read = |controller: &str, files: [&str; 2]| -> Result<String> {
            let directory = Host::cgroup_dir(&cgroup, controller)?;
            let text = fs::read_to_string(directory.join(files[0]));
            Ok(text.or_else(|_| fs::read_to_string(directory.join(files[1])))?.trim().to_owned())
        };
        assert_eq!(read("memory", ["memory.limit_in_bytes", "memory.max"])?, (80 << 20).to_string());
        let quota = read("cpu", ["cpu.cfs_quota_us", "cpu.max"])?;
        assert_eq!(quota.split(' ').next(), Some("50000"));
    }
    engine.is_clean()
}

#[test]
fn restart_policies() -> Result<()> {
    let engine = Engine::new()?;
    let state = "{{.RestartCount}} {{.State.ExitCode}} {{.State.Status}}";
    let script = ["native", "sh", "-c", "echo run; exit 3"];
    for (name, image) in [("n", script.as_slice()), ("w", &["show", "stderr", "3"])] {
        engine.start(&[&["--restart=on-failure:2", "--name", name], image].concat())?;
        eventually("two restarts", || Ok(engine.inspect(name, state)? == "2 3 exited"))?;
        let logs = engine.do_podman(&["logs", name])?.ok()?;
        assert_eq!((logs.stdout + &logs.stderr).lines().count(), 3);
    }
    engine.start(&words("--restart=on-failure:2 --name fine native true"))?;
    engine.do_podman(&["wait", "fine"])?.ok()?.prints("0")?;
    eventually("its end without a restart", || Ok(engine.inspect("fine", state)? == "0 0 exited"))?;

    // One that dies by another's hand is started again, until its user stops it.
    for (name, image) in [("always", "native sleep 1000"), ("module", "show sleep")] {
        engine.start(&words(&format!("--restart=always --stop-timeout=1 --name {name} {image}")))?;
        let pid = || -> Result<i32> { Ok(engine.inspect(name, "{{.State.Pid}}")?.parse()?) };
        let first = pid()?;
        kill_process(Pid::from_raw(first).context("no process")?, Signal::KILL)?;
        eventually("another process", || Ok(![0, first].contains(&pid()?)))?;
        engine.do_podman(&["stop", name])?.ok()?;
        assert_eq!(engine.inspect(name, "{{.RestartCount}} {{.State.Pid}}")?, "1 0");
    }
    for name in ["always", "module"] {
        assert_eq!(engine.inspect(name, "{{.RestartCount}} {{.State.Pid}}")?, "1 0", "{name} has come back");
    }
    engine.is_clean()
}

#[test]
fn health() -> Result<()> {
    let engine = Engine::new()?;
    // Without systemd nothing runs the check by itself.
    let flags = "--health-interval=disable --health-retries=2 --health-start-period=0s";
    engine.start(
        &[words(flags), words("--name n --health-cmd"), vec!["test -e /tmp/ok"], words("native sleep 1000")]
            .concat(),
    )?;
    let module = r#"--health-cmd=["/main.wasm","3"]"#;
    engine.start(&[words(flags), words("--name w"), vec![module], words("show tick")].concat())?;
    let healthy = r#"--health-cmd=["/main.wasm","0"]"#;
    engine.start(&[words(flags), words("--name wh"), vec![healthy], words("show tick")].concat())?;
    let health =
        |name: &str| engine.inspect(name, "{{.State.Health.Status}} {{.State.Health.FailingStreak}}");
    let check = |name: &str| engine.do_podman(&["healthcheck", "run", name]);
    for name in ["n", "w"] {
        for _ in 0..2 {
            check(name)?.exits(1)?;
        }
        assert_eq!(health(name)?, "unhealthy 2");
    }
    engine.do_podman(&["exec", "n", "touch", "/tmp/ok"])?.ok()?;
    for name in ["n", "wh"] {
        check(name)?.ok()?;
        assert_eq!(health(name)?, "healthy 0");
    }
    engine.is_clean()
}

#[test]
fn readiness() -> Result<()> {
    let engine = Engine::new()?;
    let path = engine.path().join("n.sock");
    let socket = UnixDatagram::bind(&path)?;
    socket.set_read_timeout(Some(Duration::from_secs(20)))?;
    let receive = || -> Result<String> {
        let mut buffer = [0; 4096];
        let length = socket.recv(&mut buffer).context("nothing comes on NOTIFY_SOCKET")?;
        Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
    };
    let start = |name: &str, mode: &str, image: &[&str]| -> Result<[String; 2]> {
        let mut run = engine.podman();
        run.args(["run", "--detach", "--name", name, mode]).args(engine.common()).args(image);
        run.env("NOTIFY_SOCKET", &path).finish()?.ok()?;
        let pids = engine.inspect(name, "{{.State.Pid}} {{.State.ConmonPid}}")?;
        let (pid, conmon) = pids.split_once(' ').context("pids")?;
        Ok([pid.to_owned(), conmon.to_owned()])
    };
    for (name, image) in [("n", words("native sleep 1000")), ("w", words("show env tick"))] {
        // podman says that it is ready, and who is the main process.
        let by_conmon = format!("{name}-conmon");
        let [_, conmon] = start(&by_conmon, "--sdnotify=conmon", &image)?;
        assert_eq!(receive()?, format!("MAINPID={conmon}\nREADY=1"));

        // The program says it; for a program we are in its place, at the socket in its root.
        let by_program = format!("{name}-program");
        let [pid, conmon] = start(&by_program, "--sdnotify=container", &image)?;
        assert_eq!(receive()?, format!("MAINPID={conmon}"));
        let environment = fs::read(format!("/proc/{pid}/environ"))?;
        let environment = String::from_utf8_lossy(&environment).into_owned();
        let inside = environment
            .split('\0')
            .find_map(|e| e.strip_prefix("NOTIFY_SOCKET="))
            .context(environment.clone())?;
        let inside = Path::new("/proc").join(&pid).join("root").join(inside.trim_start_matches('/'));
        UnixDatagram::unbound()?.send_to(b"READY=1", inside)?;
        assert_eq!(receive()?, "READY=1");
        engine.do_podman(&["rm", "--force", "--time=0", &by_conmon, &by_program])?.ok()?;
    }
    start("ignore", "--sdnotify=ignore", &words("native sleep 1000"))?;
    socket.set_nonblocking(true)?;
    assert!(receive().is_err(), "a message of a container that is to say nothing");
    engine.is_clean()
}

#[test]
fn checkpoint_and_restore() -> Result<()> {
    let engine = Engine::new()?;
    engine.start(&words("--name w show tick"))?;
    engine.start(&[
        "--name",
        "c",
        "native",
        "sh",
        "-c",
        "i=0; while :; do i=$((i+1)); echo $i; sleep 0.05; done",
    ])?;
    engine.logged("c", "3\n")?;
    let pid = engine.inspect("c", "{{.State.Pid}}")?;
    let file = engine.path().join("checkpoint.tar");
    let export = format!("--export={}", file.display());
    let lines = || -> Result<usize> { Ok(engine.do_podman(&["logs", "c"])?.ok()?.lines().count()) };
    let done = engine.do_podman(&["container", "checkpoint", &export, "c"])?;
    if done.code == 0 {
        assert_eq!(engine.inspect("c", "{{.State.Status}}")?, "exited");
        let before = lines()?;
        engine.do_podman(&["container", "restore", "c"])?.ok()?;
        eventually("it to go on", || Ok(lines()? > before + 3))?;
        let numbers = (1..).map(|n| n.to_string());
        let logs = engine.do_podman(&["logs", "c"])?.ok()?;
        ensure!(logs.lines().zip(numbers).all(|(line, number)| line == number), "{logs}");
    } else {
        // A criu that this kernel is too new for: podman tells what criu says, and nothing has happened to the container.
        ensure!(done.stderr.contains("criu failed: ") && done.stderr.contains("dump.log"), "{done}");
        assert_eq!(engine.inspect("c", "{{.State.Pid}} {{.State.Status}}")?, format!("{pid} running"));
        let before = lines()?;
        eventually("it to go on", || Ok(lines()? > before + 3))?;
    }
    // A module's code is in the cache of this host.
    let refused = engine.do_podman(&["container", "checkpoint", "w"])?;
    refused.fails_with("a running Wasm module cannot be checkpointed")?;
    assert_eq!(engine.inspect("w", "{{.State.Status}}")?, "running");
    engine.is_clean()
}

/// What podman asks a runtime before it believes that it can checkpoint, and restore into a pod.
#[test]
fn what_podman_probes() -> Result<()> {
    let host = Host::new()?;
    host.runtime().args(["checkpoint", "--help"]).finish()?.ok()?;
    let probe = host.runtime().args(["restore", "--lsm-mount-context"]).finish()?;
    ensure!(probe.code != 0, "{probe}");
    let text = probe.stdout.clone() + &probe.stderr;
    let known = ["flag needs an argument", "requires an argument"].iter().any(|known| text.contains(known));
    ensure!(known, "{probe}");
    Ok(())
}
