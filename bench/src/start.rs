//! Start times against crun and runc: whole `run` commands of the same bundle, from the fork to the exit (or to the first
//! byte of output).

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use coracle_integration::{Container, Host, Run, command, coracle, wat};

const ROUNDS: usize = 60;

/// Measures and prints.
pub fn measure(host: &Host) -> Result<()> {
    let _hugetlb = Hugetlb::move_to_v1();
    native(host)?;
    module(host)
}

fn native(host: &Host) -> Result<()> {
    let container = host.container(&["true"])?;
    container.save()?;
    let programs: Vec<PathBuf> = [coracle(), "/usr/bin/crun".into(), "/usr/sbin/runc".into()]
        .into_iter()
        .filter(|program| run(host, program, &container).output().is_ok_and(|o| o.status.success()))
        .collect();
    ensure!(
        !programs.is_empty() && programs[0] == coracle(),
        "{} cannot run the bundle",
        coracle().display()
    );
    println!("run of /bin/true, {ROUNDS} rounds in turn:");
    let mut times = vec![Vec::new(); programs.len()];
    for _ in 0..ROUNDS {
        for (program, times) in programs.iter().zip(&mut times) {
            let start = Instant::now();
            ensure!(run(host, program, &container).status()?.success(), "{} failed", program.display());
            times.push(start.elapsed());
        }
    }
    let ours = median(&mut times[0]);
    for (program, times) in programs.iter().zip(&mut times) {
        let median = median(times);
        let ratio = median.as_secs_f64() / ours.as_secs_f64();
        let name = program.file_name().context("name")?.to_string_lossy();
        println!("  {name:8} {:7.2} ms   {ratio:5.2} x coracle", median.as_secs_f64() * 1e3);
    }
    Ok(())
}

fn module(host: &Host) -> Result<()> {
    let mut container = host.container(&["/hello.wasm"])?;
    container.install(&wat("hello")?, "hello.wasm")?;
    container.save()?;
    let (mut first, mut second) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS / 3 {
        fs::remove_dir_all(host.cache_dir())
            .or_else(|e| (!host.cache_dir().exists()).then_some(()).ok_or(e))?;
        first.push(first_byte(&mut run(host, &coracle(), &container))?);
        second.push(first_byte(&mut run(host, &coracle(), &container))?);
    }
    container.config["process"]["args"] = serde_json::json!(["/bin/echo", "native"]);
    container.save()?;
    let mut echo = Vec::new();
    for _ in 0..ROUNDS / 3 {
        echo.push(first_byte(&mut run(host, &coracle(), &container))?);
    }
    println!("from the start of coracle run to the first byte, {} rounds:", ROUNDS / 3);
    for (what, times) in [
        ("hello module, compiled", &mut first),
        ("hello module, cached", &mut second),
        ("native echo", &mut echo),
    ] {
        println!("  {what:24} {:7.2} ms", median(times).as_secs_f64() * 1e3);
    }
    Ok(())
}

fn run(host: &Host, program: &Path, container: &Container) -> Command {
    let mut command = host.runtime_at(program);
    command.arg("run").arg("--bundle").arg(container.bundle()).arg(&container.id);
    command.stdout(Stdio::null());
    command
}

fn first_byte(command: &mut Command) -> Result<Duration> {
    let start = Instant::now();
    let mut child = command.stdout(Stdio::piped()).spawn()?;
    let mut byte = [0];
    child.stdout.as_mut().context("stdout")?.read_exact(&mut byte)?;
    let time = start.elapsed();
    ensure!(child.wait()?.success(), "the container failed");
    Ok(time)
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort();
    times[times.len() / 2]
}

/// crun refuses a hybrid tree in which cgroup2 has a controller. On such a host the one that is there, hugetlb, moves to
/// a v1 hierarchy for as long as this lives, if no cgroup stands in its way.
struct Hugetlb;

impl Hugetlb {
    const DIRECTORY: &'static str = "/sys/fs/cgroup/hugetlb";

    fn move_to_v1() -> Option<Hugetlb> {
        let controllers = fs::read_to_string("/sys/fs/cgroup/unified/cgroup.controllers").ok()?;
        if controllers.trim() != "hugetlb" {
            return None;
        }
        fs::create_dir_all(Self::DIRECTORY).ok()?;
        let moved = Hugetlb;
        let mount = ["-t", "cgroup", "-o", "hugetlb", "cgroup", Self::DIRECTORY];
        command("mount").args(mount).finish().ok()?.ok().ok()?;
        Some(moved)
    }
}

impl Drop for Hugetlb {
    fn drop(&mut self) {
        let _ = command("umount").arg(Self::DIRECTORY).finish();
        let _ = fs::remove_dir(Self::DIRECTORY);
    }
}
