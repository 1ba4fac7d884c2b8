//! Native images on dockerd.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use coracle_integration::{Docker, Run, Terminal, command, coracle, eventually};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

#[test]
fn run_exit_codes_and_streams() -> Result<()> {
    let docker = Docker::new()?;
    docker.run(&["native", "echo", "hello"]).finish()?.ok()?.prints("hello")?;
    docker.run(&["native", "sh", "-c", "exit 7"]).finish()?.exits(7)?;
    docker.run(&["--init", "native", "sh", "-c", "kill -TERM $$"]).finish()?.exits(143)?;
    let script = "cat; echo err >&2";
    let done = docker.run(&["-i", "native", "sh", "-c", script]).finish_with(b"typed")?.ok()?;
    assert_eq!((done.stdout.as_str(), done.stderr.as_str()), ("typed", "err\n"));
    let mut run = docker.run(&["-it", "native", "sh", "-c", "tty; stty size; read x; echo got $x; exit 5"]);
    let mut terminal = Terminal::spawn(&mut run)?;
    terminal.expect("/dev/pts/0")?;
    terminal.type_in("word\r")?;
    terminal.expect("got word")?;
    assert_eq!(terminal.wait()?.0, 5);
    docker.is_clean()
}

/// The client tells 127, 126 and 125 apart by the words of the runtime's message, in lower case.
#[test]
fn what_cannot_be_executed() -> Result<()> {
    let docker = Docker::new()?;
    for (program, code, message) in [
        ("nosuch", 127, "exec: \"nosuch\": executable file not found in $PATH"),
        ("/nosuch", 127, "exec: \"/nosuch\": stat /nosuch: no such file or directory"),
        ("/etc", 126, "exec: \"/etc\": permission denied"),
        ("/etc/passwd", 126, "exec: \"/etc/passwd\": permission denied"),
    ] {
        docker.run(&["native", program]).finish()?.exits(code)?.fails_with(message)?;
    }
    docker
        .run(&["--sysctl", "net.ipv4.ip_forward=nonsense", "native", "true"])
        .finish()?
        .exits(125)?
        .fails_with("/proc/sys/net/ipv4/ip_forward: invalid argument")?;
    // dockerd adds advice of its own to this one, and 127.
    docker
        .run(&["-v", "/etc/passwd:/tmp", "native", "true"])
        .finish()?
        .exits(125)?
        .fails_with("not a directory: unknown: Are you trying to mount a directory onto a file")?;
    docker.start("failed", &["native", "nosuch"]).err().context("nosuch must not start")?;
    assert_eq!(docker.inspect("failed", "{{.State.Status}} {{.State.ExitCode}}")?, "created 127");
    docker.is_clean()
}

#[test]
fn logs_inspect_kill_stop_and_wait() -> Result<()> {
    let docker = Docker::new()?;
    let script =
        "trap 'echo bye; exit 9' TERM; trap 'echo usr1' USR1; echo hello; while :; do sleep 0.05; done";
    let id = docker.start("trap", &["native", "sh", "-c", script])?;
    docker.expect_log("trap", "hello")?;
    let state: Value = serde_json::from_str(&docker.inspect("trap", "{{json .State}}")?)?;
    assert_eq!(
        (&state["Status"], &state["Running"], &state["ExitCode"]),
        (&json!("running"), &json!(true), &json!(0))
    );
    let pid = state["Pid"].as_i64().context("Pid")?;
    assert!(fs::read_to_string(format!("/proc/{pid}/cgroup"))?.contains(&id));
    docker.docker(&["kill", "--signal=USR1", "trap"])?.ok()?;
    docker.expect_log("trap", "usr1")?;
    docker.docker(&["stop", "trap"])?.ok()?;
    assert_eq!(docker.inspect("trap", "{{.State.Status}} {{.State.ExitCode}}")?, "exited 9");
    docker.expect_log("trap", "bye")?;

    docker.docker(&["start", "trap"])?.ok()?;
    docker.docker(&["kill", "trap"])?.ok()?;
    docker.docker(&["wait", "trap"])?.ok()?.prints("137")?;
    docker.docker(&["kill", "trap"])?.fails_with("is not running")?;

    // init without a handler ignores SIGTERM; a process below docker-init does not.
    docker.start("deaf", &["native", "sleep", "1000"])?;
    docker.docker(&["stop", "--time=1", "deaf"])?.ok()?;
    assert_eq!(docker.inspect("deaf", "{{.State.ExitCode}}")?, "137");
    docker.start("hears", &["--init", "native", "sleep", "1000"])?;
    let start = Instant::now();
    docker.docker(&["stop", "--time=20", "hears"])?.ok()?;
    assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
    assert_eq!(docker.inspect("hears", "{{.State.ExitCode}}")?, "143");
    docker.start(
        "quits",
        &["--stop-signal=QUIT", "native", "sh", "-c", "trap 'exit 4' QUIT; while :; do sleep 0.05; done"],
    )?;
    docker.docker(&["restart", "--time=20", "quits"])?.ok()?;
    docker.docker(&["stop", "--time=20", "quits"])?.ok()?;
    assert_eq!(docker.inspect("quits", "{{.State.ExitCode}}")?, "4");
    docker.is_clean()
}

#[test]
fn exec() -> Result<()> {
    let docker = Docker::new()?;
    docker.start("cc", &["-e", "A=1", "native", "sleep", "1000"])?;
    docker.docker(&["exec", "cc", "sh", "-c", "echo $A; exit 6"])?.exits(6)?.prints("1")?;
    docker
        .docker(&["exec", "-u", "1000", "-w", "/tmp", "-e", "B=2", "cc", "sh", "-c", "id -u; pwd; echo $B"])?
        .ok()?
        .prints("1000\n/tmp\n2")?;
    docker.docker(&["exec", "--privileged", "cc", "true"])?.ok()?;
    docker.client().args(["exec", "-i", "cc", "cat"]).finish_with(b"in")?.ok()?.prints("in")?;
    docker.docker(&["exec", "cc", "sh", "-c", "kill -9 $$"])?.exits(137)?;
    docker.docker(&["exec", "cc", "grep", "^Seccomp:", "/proc/self/status"])?.ok()?.prints("Seccomp:\t2")?;
    // With runc it is 126 for all of them as well: this dockerd sets 127 first, and 126 over it.
    for (program, message) in [
        ("nosuch", "exec: \"nosuch\": executable file not found in $PATH"),
        ("/nosuch", "exec: \"/nosuch\": stat /nosuch: no such file or directory"),
        ("/etc", "exec: \"/etc\": permission denied"),
    ] {
        let failed = docker.docker(&["exec", "cc", program])?.exits(126)?;
        assert!(failed.stdout.replace("\\\"", "\"").contains(message) || failed.fails_with(message).is_ok());
    }
    let mut terminal = Terminal::spawn(docker.client().args([
        "exec",
        "-it",
        "cc",
        "sh",
        "-c",
        "tty; read x; echo got $x; exit 4",
    ]))?;
    terminal.expect("/dev/pts/0")?;
    terminal.type_in("word\r")?;
    terminal.expect("got word")?;
    assert_eq!(terminal.wait()?.0, 4);
    docker.docker(&["exec", "-d", "cc", "touch", "/tmp/detached"])?.ok()?;
    eventually("the detached exec", || {
        Ok(docker.docker(&["exec", "cc", "test", "-e", "/tmp/detached"])?.code == 0)
    })?;
    docker.is_clean()
}

#[test]
fn pause_top_stats_update_diff_and_copies() -> Result<()> {
    let docker = Docker::new()?;
    let id = docker.start("cc", &["--memory=64m", "native", "sh", "-c", "while :; do sleep 0.01; done"])?;
    docker.docker(&["pause", "cc"])?.ok()?;
    assert_eq!(docker.inspect("cc", "{{.State.Status}}")?, "paused");
    docker.docker(&["unpause", "cc"])?.ok()?;
    assert_eq!(docker.inspect("cc", "{{.State.Status}}")?, "running");
    docker.docker(&["exec", "-d", "cc", "sleep", "1234"])?.ok()?;
    let top = docker.docker(&["top", "cc", "-o", "pid,args"])?.ok()?;
    assert!(top.stdout.contains("sleep 1234"), "{top}");
    let stats =
        docker.docker(&["stats", "--no-stream", "--format", "{{.MemUsage}} {{.PIDs}}", "cc"])?.ok()?;
    assert!(stats.stdout.contains("/ 64MiB"), "{stats}");

    docker.docker(&["update", "--memory=80m", "--memory-swap=90m", "--cpu-shares=300", "cc"])?.ok()?;
    let read = |controller: &str, names: [&str; 2]| {
        let dir = docker.cgroup(&id, controller)?;
        names.iter().find_map(|name| fs::read_to_string(dir.join(name)).ok()).context("no such limit")
    };
    let memory = read("memory", ["memory.limit_in_bytes", "memory.max"])?;
    assert_eq!(memory.trim(), (80 << 20).to_string());
    // 300 of 2..=262144 on the scale 1..=10000.
    assert!(["300", "12"].contains(&read("cpu", ["cpu.shares", "cpu.weight"])?.trim()));

    docker.docker(&["exec", "cc", "touch", "/tmp/new"])?.ok()?;
    docker.docker(&["diff", "cc"])?.ok()?.prints("C /tmp\nA /tmp/new")?;
    let file = docker.path().join("copied");
    fs::write(&file, "by docker cp")?;
    let file = file.to_str().context("path")?;
    docker.docker(&["cp", file, "cc:/tmp/copy"])?.ok()?;
    docker.docker(&["exec", "cc", "cat", "/tmp/copy"])?.ok()?.prints("by docker cp")?;
    docker.docker(&["cp", "cc:/etc/group", file])?.ok()?;
    assert!(fs::read_to_string(file)?.starts_with("root:x:0:"));
    docker.is_clean()
}

#[test]
fn volumes_roots_users_limits_and_devices() -> Result<()> {
    let docker = Docker::new()?;
    let dir = docker.path().join("volume");
    fs::create_dir(&dir)?;
    fs::write(dir.join("f"), "host")?;
    let volume = format!("{}:/data", dir.display());
    let shell =
        |flags: &[&str], script: &str| docker.run(flags).args(["native", "sh", "-c", script]).finish();
    shell(&["-v", &volume], "cat /data/f; echo new > /data/g")?.ok()?.prints("host")?;
    assert_eq!(fs::read_to_string(dir.join("g"))?, "new\n");
    shell(&["-v", &format!("{volume}:ro")], "touch /data/h")?.exits(1)?.fails_with("Read-only")?;
    shell(&["-v", "named:/data"], "echo kept > /data/f")?.ok()?;
    shell(&["-v", "named:/data"], "cat /data/f")?.ok()?.prints("kept")?;
    shell(&["--read-only"], "touch /h")?.exits(1)?.fails_with("Read-only")?;
    shell(&["--read-only", "--tmpfs=/scratch:size=1m"], "touch /scratch/h")?.ok()?;
    shell(&["--shm-size=8m"], "df -k /dev/shm | tail -n1 | tr -s ' ' | cut -d' ' -f2")?
        .ok()?
        .prints("8192")?;
    shell(&["-u", "guest:1000", "--group-add=7"], "id -u; id -G")?.ok()?.prints("1000\n1000 7")?;
    shell(&["-e", "A=b c", "-h", "name", "-w", "/made"], "echo $A; hostname; pwd")?
        .ok()?
        .prints("b c\nname\n/made")?;
    shell(&["--ulimit=nofile=321:321"], "ulimit -n")?.ok()?.prints("321")?;
    shell(&["--cap-drop=all"], "grep ^CapEff /proc/self/status")?
        .ok()?
        .prints("CapEff:\t0000000000000000")?;
    shell(&["--security-opt=seccomp=unconfined"], "grep ^Seccomp: /proc/self/status")?
        .ok()?
        .prints("Seccomp:\t0")?;
    shell(&["--security-opt=no-new-privileges"], "grep ^NoNewPrivs /proc/self/status")?
        .ok()?
        .prints("NoNewPrivs:\t1")?;
    shell(&["--device=/dev/null:/dev/mine"], "stat -c %t:%T /dev/mine; echo > /dev/mine")?
        .ok()?
        .prints("1:3")?;
    shell(&["--sysctl=net.ipv4.ip_forward=1"], "cat /proc/sys/net/ipv4/ip_forward")?.ok()?.prints("1")?;
    shell(&["--pids-limit=20"], "for n in $(seq 40); do sleep 1 & done")?.fails_with("fork")?;
    shell(&["--init"], "tr '\\0' ' ' < /proc/1/cmdline | cut -d' ' -f1")?
        .ok()?
        .prints("/sbin/docker-init")?;
    docker.is_clean()
}

/// dockerd wants capabilities for a privileged container that this machine may not have to give; those that are not
/// there are left out, where runc fails.
#[test]
fn privileged_and_the_hosts_namespaces() -> Result<()> {
    let docker = Docker::new()?;
    let script = "mount -t tmpfs none /tmp && grep ^CapEff /proc/self/status && test -e /dev/kmsg && echo > /proc/sys/kernel/domainname";
    let done = docker.run(&["--privileged", "native", "sh", "-c", script]).finish()?.ok()?;
    let effective = u64::from_str_radix(done.stdout.trim().trim_start_matches("CapEff:\t"), 16)?;
    let own = fs::read_to_string("/proc/self/status")?;
    let own = own.lines().find_map(|l| l.strip_prefix("CapEff:\t")).context("CapEff")?;
    let own = u64::from_str_radix(own, 16)?;
    // This dockerd was built before CAP_PERFMON, the 38th.
    let known = (1 << 38) - 1;
    assert_eq!((effective & known, effective & !own), (own & known, 0));

    for (flag, kind) in [("--pid=host", "pid"), ("--ipc=host", "ipc"), ("--uts=host", "uts")] {
        let link = fs::read_link(format!("/proc/self/ns/{kind}"))?;
        let inside =
            docker.run(&[flag, "native", "readlink", &format!("/proc/self/ns/{kind}")]).finish()?.ok()?;
        inside.prints(link.to_str().context("link")?)?;
    }
    let cgroups = |kind: &str| docker.run(&[kind, "native", "cat", "/proc/self/cgroup"]).finish()?.ok();
    assert!(cgroups("--cgroupns=private")?.lines().all(|l| l.ends_with(":/")));
    assert!(cgroups("--cgroupns=host")?.stdout.contains(docker.host().name()));
    docker.is_clean()
}

#[test]
fn the_kill_for_want_of_memory_is_reported() -> Result<()> {
    let docker = Docker::new()?;
    docker.start("hog", &["--memory=32m", "--memory-swap=32m", "native", "tail", "/dev/zero"])?;
    docker.docker(&["wait", "hog"])?.ok()?.prints("137")?;
    docker.expect("hog", "{{.State.OOMKilled}} {{.State.Status}}", "true exited")?;
    docker.is_clean()
}

/// The networks are there thanks to the prestart hook, dockerd itself, which moves interfaces to the container.
#[test]
fn networks() -> Result<()> {
    let docker = Docker::new()?;
    let run = |network: &str, script: &str| {
        docker.client().args(["run", "--rm", network, "native", "sh", "-c", script]).finish()
    };
    run("--network=none", "ip -o link | cut -d: -f2")?.ok()?.prints("lo")?;
    // docker0, of the daemon's own network namespace.
    run("--network=bridge", "ip -o -4 addr show eth0 && ip route")?.ok()?.prints_some("default via 172.")?;

    docker.docker(&["network", "create", "--subnet=10.9.8.0/24", "net"])?.ok()?;
    let mut server = docker.client();
    server.args([
        "run",
        "--detach",
        "--name=server",
        "--network=net",
        "--ip=10.9.8.77",
        "-p",
        "8080:80",
        "native",
    ]);
    server.args(["sh", "-c", "echo page > /tmp/page; exec httpd -f -p 80 -h /tmp"]).finish()?.ok()?;
    run("--network=net", "ping -c1 -W5 10.9.8.77 && wget -qO- http://server/page")?
        .ok()?
        .prints_some("page\n")?;
    run("--network=container:server", "ip -o -4 addr show eth0")?.ok()?.prints_some("10.9.8.77/24")?;
    // Through docker-proxy, which listens where dockerd is.
    let page = "for n in $(seq 50); do wget -qO- http://127.0.0.1:8080/page && exit; sleep 0.1; done; exit 1";
    run("--network=host", page)?.ok()?.prints("page")?;

    docker.docker(&["network", "create", "second"])?.ok()?;
    docker.docker(&["network", "connect", "second", "server"])?.ok()?;
    docker.docker(&["exec", "server", "ip", "link", "show", "eth1"])?.ok()?;
    docker.docker(&["network", "disconnect", "second", "server"])?.ok()?;
    docker.docker(&["exec", "server", "ip", "link", "show", "eth1"])?.fails_with("eth1")?;
    docker.is_clean()
}

#[test]
fn restart_policies_and_health_checks() -> Result<()> {
    let docker = Docker::new()?;
    docker.start("fails", &["--restart=on-failure:2", "native", "sh", "-c", "echo run; exit 3"])?;
    docker.start("stays", &["--restart=unless-stopped", "native", "sleep", "1000"])?;
    let flags = ["--health-cmd=test -e /tmp/ok", "--health-interval=200ms", "--health-retries=1"];
    docker.start("checked", &[&flags[..], &["native", "sleep", "1000"]].concat())?;

    let pid = docker.inspect("stays", "{{.State.Pid}}")?.parse()?;
    kill_process(Pid::from_raw(pid).context("pid")?, Signal::KILL)?;
    docker.expect("stays", "{{.RestartCount}} {{.State.Status}}", "1 running")?;

    docker.expect("checked", "{{.State.Health.Status}}", "unhealthy")?;
    docker.docker(&["exec", "checked", "touch", "/tmp/ok"])?.ok()?;
    docker.expect("checked", "{{.State.Health.Status}}", "healthy")?;

    docker.expect("fails", "{{.RestartCount}} {{.State.Status}} {{.State.ExitCode}}", "2 exited 3")?;
    docker.docker(&["logs", "fails"])?.ok()?.prints("run\nrun\nrun")?;
    docker.is_clean()
}

/// The packaged file adds a runtime beside Docker's own, and a reload is enough for it.
#[test]
fn an_additional_runtime_after_a_reload() -> Result<()> {
    let docker = Docker::with(&json!({}), &[])?;
    let root = docker.path().join("one");
    fs::create_dir(&root)?;
    fs::copy("/bin/busybox", root.join("echo"))?;
    docker.import("one", &root, &["ENTRYPOINT [\"/echo\"]"])?;
    docker.run(&["--runtime=coracle", "one"]).finish()?.exits(125)?.fails_with("coracle")?;
    docker.reload(&Docker::packaged()?)?;
    eventually("the new runtime", || {
        Ok(docker.docker(&["info", "--format", "{{json .Runtimes}}"])?.stdout.contains("coracle"))
    })?;
    docker.run(&["--runtime=coracle", "one", "ours"]).finish()?.ok()?.prints("ours")?;
    docker.run(&["one", "Docker's own"]).finish()?.ok()?.prints("Docker's own")?;
    docker.is_clean()
}

#[test]
fn docker_info_names_the_default_runtime() -> Result<()> {
    let docker = Docker::new()?;
    docker.docker(&["info", "--format", "{{.DefaultRuntime}}"])?.ok()?.prints("coracle")?;
    let version = command(coracle()).arg("--version").finish()?.ok()?;
    let version =
        version.lines().next().context("version")?.trim_start_matches("coracle version ").to_owned();
    let server = docker.docker(&["version", "--format", "{{json .Server.Components}}"])?.ok()?;
    let components: Vec<Value> = serde_json::from_str(&server.stdout)?;
    let ours =
        components.iter().find(|c| c["Name"] == "coracle").context("no coracle among the components")?;
    assert_eq!(ours["Version"], version.as_str());
    Ok(())
}

/// The steps of a build run with the default runtime (BuildKit has one of its own).
#[test]
fn a_build() -> Result<()> {
    let docker = Docker::new()?;
    let context = docker.path().join("context");
    fs::create_dir(&context)?;
    let file = "FROM native\nRUN echo built > /made && id -u >> /made\nUSER 1000\nRUN id -u > /tmp/user\n\
                CMD [\"cat\", \"/made\", \"/tmp/user\"]\n";
    fs::write(context.join("Dockerfile"), file)?;
    let mut build = docker.client();
    build.env("DOCKER_BUILDKIT", "0").args(["build", "--network=none", "--tag=built"]).arg(&context);
    build.finish()?.ok()?;
    docker.run(&["built"]).finish()?.ok()?.prints("built\n0\n1000")?;
    fs::write(context.join("Dockerfile"), "FROM native\nRUN exit 5\n")?;
    build.finish()?.fails_with("returned a non-zero code: 5")?;
    docker.is_clean()
}
