//! dockerd in trouble and under load, and its ways to set containers up that few use: nothing is lost, nothing is left.

use std::fs;
use std::os::unix::fs::MetadataExt;

use anyhow::{Context, Result, ensure};
use coracle_integration::{Docker, Run, c, eventually, wat};
use rustix::process::{Pid, Signal, kill_process};

/// With live-restore a container outlives a crash of dockerd and its containerd, and obeys the next ones.
#[test]
fn a_crash_of_the_daemon() -> Result<()> {
    let mut docker = Docker::new()?;
    let flags = ["--default-runtime=coracle", "--live-restore"];
    docker.crash(&Docker::packaged()?, &flags)?;
    docker.start("cc", &["native", "sleep", "1000"])?;
    let pid = docker.inspect("cc", "{{.State.Pid}}")?;
    docker.crash(&Docker::packaged()?, &flags)?;
    assert_eq!(docker.inspect("cc", "{{.State.Status}} {{.State.Pid}}")?, format!("running {pid}"));
    docker.docker(&["exec", "cc", "echo", "still here"])?.ok()?.prints("still here")?;
    docker.docker(&["stop", "--time=1", "cc"])?.ok()?;
    assert_eq!(docker.inspect("cc", "{{.State.Status}} {{.State.ExitCode}}")?, "exited 137");
    docker.is_clean()
}

/// containerd has the runtime clean up after a shim that is gone.
#[test]
fn a_crash_of_the_shim() -> Result<()> {
    let docker = Docker::new()?;
    docker.wasm_image("show", &[("main.wasm", c("show")?)])?;
    let id = docker.start("cc", &["native", "sh", "-c", "sleep 1000 & wait"])?;
    docker.start("other", &["show", "tick"])?;
    let pid = docker.inspect("cc", "{{.State.Pid}}")?;
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let shim = status.lines().find_map(|l| l.strip_prefix("PPid:")).context("PPid")?.trim().parse()?;
    kill_process(Pid::from_raw(shim).context("pid")?, Signal::KILL)?;
    docker.expect("cc", "{{.State.Status}} {{.State.ExitCode}}", "exited 137")?;
    let mine = || -> Result<Vec<String>> {
        Ok(docker.leftovers()?.into_iter().filter(|l| l.contains(&id)).collect())
    };
    eventually("the end of all that the container had", || Ok(mine()?.is_empty()))
        .with_context(|| format!("left behind: {:#?}", mine()))?;
    assert_eq!(docker.inspect("other", "{{.State.Status}}")?, "running");
    docker.docker(&["start", "cc"])?.ok()?;
    docker.docker(&["exec", "cc", "true"])?.ok()?;
    docker.is_clean()
}

#[test]
fn a_paused_container_is_removed() -> Result<()> {
    let docker = Docker::new()?;
    docker.start("cc", &["native", "sleep", "1000"])?;
    docker.docker(&["pause", "cc"])?.ok()?;
    docker.docker(&["rm", "--force", "cc"])?.ok()?;
    docker.start("cc", &["native", "sleep", "1000"])?;
    docker.docker(&["pause", "cc"])?.ok()?;
    docker.docker(&["stop", "--time=1", "cc"])?.ok()?;
    assert_eq!(docker.inspect("cc", "{{.State.Status}} {{.State.ExitCode}}")?, "exited 137");
    docker.is_clean()
}

#[test]
fn thirty_short_containers_leave_nothing() -> Result<()> {
    let docker = Docker::new()?;
    for n in 0..30 {
        docker.run(&["native", "sh", "-c", &format!("exit {n}")]).finish()?.exits(n)?;
    }
    let clean = || Ok(docker.leftovers()?.is_empty());
    eventually("the end of thirty containers", clean).with_context(|| format!("{:#?}", docker.leftovers()))
}

#[test]
fn sixteen_at_once() -> Result<()> {
    let docker = Docker::new()?;
    docker.wasm_image("show", &[("main.wasm", c("show")?), ("hello.wasm", wat("hello")?)])?;
    let mut jobs = Vec::new();
    for n in 0..16 {
        let code = n.to_string();
        let line =
            if n % 2 == 0 { vec!["native", "sh", "-c", "exit $0", &code] } else { vec!["show", &code] };
        jobs.push((n, docker.run(&line).job()?));
    }
    for (n, mut job) in jobs {
        job.wait()?.exits(n)?;
    }
    docker.is_clean()
}

/// Every container in a user namespace, with the networks, volumes and cgroups of one that is not.
#[test]
fn remapped_ids() -> Result<()> {
    let docker = Docker::remapped()?;
    docker.wasm_image("show", &[("main.wasm", c("show")?)])?;
    let root = Docker::FIRST_ID.to_string();
    let script = "id -u; tr -s ' ' < /proc/self/uid_map; touch /made /v/made && stat -c %u /made";
    let done = docker.run(&["-v", "named:/v", "native", "sh", "-c", script]).finish()?.ok()?;
    done.prints(&format!("0\n 0 {root} 65536\n0"))?;
    let made = docker.docker(&["volume", "inspect", "--format", "{{.Mountpoint}}", "named"])?.ok()?;
    assert_eq!(fs::metadata(format!("{}/made", made.stdout.trim()))?.uid(), Docker::FIRST_ID);

    let mut run = docker.client();
    run.args([
        "run",
        "--rm",
        "--memory=64m",
        "native",
        "sh",
        "-c",
        "ip -o -4 addr show eth0; touch /dev/shm/x",
    ]);
    run.finish()?.ok()?.prints_some("172.")?;
    docker.run(&["--read-only", "--tmpfs=/t", "native", "touch", "/t/x"]).finish()?.ok()?;
    docker
        .run(&["--userns=host", "--privileged", "native", "mount", "-t", "tmpfs", "none", "/tmp"])
        .finish()?
        .ok()?;
    docker.run(&["show", "touch=/made", "5"]).finish()?.exits(5)?.prints("made /made")?;

    docker.start("cc", &["native", "sleep", "1000"])?;
    docker.docker(&["exec", "-u", "guest", "cc", "id", "-u"])?.ok()?.prints("1000")?;
    let top = docker.docker(&["top", "cc", "-o", "pid,uid"])?.ok()?;
    ensure!(top.stdout.contains(&root), "{top}");
    docker.docker(&["stop", "--time=1", "cc"])?.ok()?;
    docker.is_clean()
}
