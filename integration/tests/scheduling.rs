//! How the kernel serves a process: scheduler, I/O priority, CPUs, memory policy, personality.

use std::fs;

use anyhow::{Context, Result};
use coracle_integration::{Container, Finished, Host, Run, skip};
use serde_json::{Value, json};

/// linux/sched.h
const BATCH: &str = "3";
const IDLE: &str = "5";

fn running<'h>(host: &'h Host, change: impl FnOnce(&mut Value)) -> Result<Container<'h>> {
    let mut c = host.container(&["sleep", "1000"])?;
    change(&mut c.config);
    c.create()?.start()?;
    Ok(c)
}

/// Runs a process of a file, as engines do.
fn exec_process(host: &Host, c: &Container, process: &Value) -> Result<Finished> {
    let file = host.path().join("process.json");
    fs::write(&file, process.to_string())?;
    c.verb_with("exec", &["--process", file.to_str().context("path")?]).finish()
}

/// The policy of the reader itself: field 41 of proc_pid_stat(5).
const POLICY: [&str; 4] = ["cut", "-d ", "-f41", "/proc/self/stat"];

#[test]
fn a_scheduler_for_the_program_and_for_exec() -> Result<()> {
    let host = Host::new()?;
    let c = running(&host, |config| {
        config["process"]["scheduler"] = json!({"policy": "SCHED_BATCH", "nice": 7});
    })?;
    let stat = c.proc("stat")?;
    let fields: Vec<&str> = stat.rsplit_once(')').context("a name")?.1.split_whitespace().collect();
    assert_eq!((fields[16], fields[38]), ("7", BATCH));
    c.exec(&POLICY)?.ok()?.prints(BATCH)?;
    // A file without a scheduler has the container's, one with its own has that. Flags go by the specification's names, and
    // a process need not name a user.
    let mut process = json!({"cwd": "/", "args": POLICY, "env": ["PATH=/bin"]});
    exec_process(&host, &c, &process)?.ok()?.prints(BATCH)?;
    process["scheduler"] = json!({"policy": "SCHED_IDLE", "flags": ["SCHED_FLAG_RESET_ON_FORK"]});
    exec_process(&host, &c, &process)?.ok()?.prints(IDLE)?;
    Ok(())
}

#[test]
fn a_scheduler_that_cannot_be_is_explained() -> Result<()> {
    let host = Host::new()?;
    for (scheduler, text) in [
        (json!({"policy": "SCHED_OTHER", "nice": 40}), "process.scheduler.nice: 40"),
        (json!({"policy": "SCHED_OTHER", "priority": 4}), "process.scheduler.priority: 4"),
        (json!({"policy": "SCHED_OTHER", "runtime": 4}), "process.scheduler.policy"),
        (json!({"policy": "SCHED_DEADLINE"}), "requires `runtime`"),
        (
            json!({"policy": "SCHED_DEADLINE", "runtime": 9000, "deadline": 8000}),
            "runtime (9000) must be <= deadline (8000)",
        ),
    ] {
        let mut c = host.container(&["true"])?;
        c.config["process"]["scheduler"] = scheduler;
        c.try_create(&[])?.exits(1)?.fails_with(text)?;
        host.is_clean()?;
    }
    Ok(())
}

#[test]
fn io_priority() -> Result<()> {
    let host = Host::new()?;
    let mut c = host.container(&["ionice"])?;
    c.config["process"]["ioPriority"] = json!({"class": "IOPRIO_CLASS_BE", "priority": 6});
    let printed = c.run()?.ok()?.stdout;
    assert!(printed.contains("prio 6"), "{printed}");
    c.config["process"]["ioPriority"] = json!({"class": "IOPRIO_CLASS_BE", "priority": 8});
    c.try_create(&[])?.exits(1)?.fails_with("process.ioPriority.priority: 8")?;
    Ok(())
}

/// What the engine is bound to does not bind the container; `exec` goes where it is told.
#[test]
fn cpus() -> Result<()> {
    let online = fs::read_to_string("/sys/devices/system/cpu/online")?.trim().to_owned();
    if online == "0" {
        skip("cpus", "one CPU only");
        return Ok(());
    }
    let allowed = ["grep", "Cpus_allowed_list", "/proc/self/status"];
    let host = Host::new()?;
    let own = fs::read_to_string("/proc/self/status")?;
    let own = own.lines().find(|l| l.starts_with("Cpus_allowed_list")).context("CPUs")?.to_owned();
    let c = host.container(&allowed)?;
    let mut bound = std::process::Command::new("taskset");
    let run = c.run_command(&[])?;
    bound.args(["-c", "0"]).arg(run.get_program()).args(run.get_args());
    bound.finish()?.ok()?.prints(&own)?;
    let c = running(&host, |config| config["process"]["execCPUAffinity"] = json!({"final": "1"}))?;
    c.exec(&allowed)?.ok()?.prints("Cpus_allowed_list:\t1")?;
    let mut process = json!({"cwd": "/", "args": allowed, "env": ["PATH=/bin"]});
    process["execCPUAffinity"] = json!({"initial": " 0 "});
    exec_process(&host, &c, &process)?.ok()?.prints("Cpus_allowed_list:\t0")?;
    process["execCPUAffinity"] = json!({"initial": "1-0"});
    exec_process(&host, &c, &process)?.exits(255)?.fails_with("process.execCPUAffinity.initial: 1-0")?;
    Ok(())
}

#[test]
fn memory_policy() -> Result<()> {
    if !std::path::Path::new("/proc/self/numa_maps").exists() {
        skip("memory_policy", "a kernel without NUMA");
        return Ok(());
    }
    let host = Host::new()?;
    let first = ["head", "-n1", "/proc/self/numa_maps"];
    let mut c = host.container(&first)?;
    c.config["linux"]["memoryPolicy"] =
        json!({"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"]});
    let printed = c.run()?.ok()?.stdout;
    assert!(printed.contains(" bind=static:0 "), "{printed}");
    let c = running(&host, |config| {
        config["linux"]["memoryPolicy"] = json!({"mode": "MPOL_PREFERRED", "nodes": "0"})
    })?;
    let printed = c.exec(&first)?.ok()?.stdout;
    assert!(printed.contains(" prefer:0 "), "{printed}");
    let mut c = host.container(&["true"])?;
    c.config["linux"]["memoryPolicy"] = json!({"mode": "MPOL_BIND", "nodes": "x"});
    c.try_create(&[])?.exits(1)?.fails_with("linux.memoryPolicy.nodes: x")?;
    c.config["linux"]["memoryPolicy"] = json!({"mode": "MPOL_BIND"});
    c.try_create(&[])?.exits(1)?.fails_with("set_mempolicy")?;
    Ok(())
}

#[test]
fn personality() -> Result<()> {
    let host = Host::new()?;
    let c = running(&host, |config| {
        config["linux"]["personality"] = json!({"domain": "LINUX32", "flags": ["ADDR_NO_RANDOMIZE"]});
    })?;
    assert_eq!(c.proc("personality")?.trim(), "00040008");
    c.exec(&["cat", "/proc/self/personality"])?.ok()?.prints("00040008")?;
    let mut c = host.container(&["true"])?;
    c.config["linux"]["personality"] = json!({"domain": "LINUX", "flags": ["NONSENSE"]});
    c.try_create(&[])?.exits(1)?.fails_with("linux.personality.flags: NONSENSE")?;
    Ok(())
}
