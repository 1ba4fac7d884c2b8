//! Resources: limits that are in force, update, pause, ps, events.

use std::fs;

use anyhow::{Context, Result};
use coracle_integration::{Container, Host, Run, eventually, skip};
use serde_json::{Value, json};

#[test]
fn limits_are_written() -> Result<()> {
    let host = Host::new()?;
    let mut c = host.container(&["sleep", "1000"])?;
    c.config["linux"]["resources"]["memory"] = json!({"limit": 64 << 20, "reservation": 32 << 20});
    c.config["linux"]["resources"]["pids"] = json!({"limit": 77});
    c.config["linux"]["resources"]["cpu"] =
        json!({"shares": 512, "quota": 25_000, "period": 50_000, "cpus": "0"});
    c.create()?;
    assert_eq!(c.cgroup_file("memory", &["memory.limit_in_bytes", "memory.max"])?, (64 << 20).to_string());
    assert_eq!(
        c.cgroup_file("memory", &["memory.soft_limit_in_bytes", "memory.low"])?,
        (32 << 20).to_string()
    );
    assert_eq!(c.cgroup_file("pids", &["pids.max"])?, "77");
    assert_eq!(c.cgroup_file("cpuset", &["cpuset.cpus"])?, "0");
    let quota = c.cgroup_file("cpu", &["cpu.cfs_quota_us", "cpu.max"])?;
    assert!(quota.starts_with("25000"), "{quota}");
    if let Ok(shares) = c.cgroup_file("cpu", &["cpu.shares"]) {
        assert_eq!(shares, "512");
    }
    Ok(())
}

#[test]
fn the_process_is_in_every_cgroup() -> Result<()> {
    let host = Host::new()?;
    let mut c = host.container(&["sleep", "1000"])?;
    c.create()?;
    let own = c.proc("cgroup")?;
    for line in own.lines().filter(|l| !l.starts_with("0::")) {
        assert!(line.ends_with(c.cgroup()), "{own}");
    }
    Ok(())
}

#[test]
fn the_memory_limit_kills_the_container_and_not_the_host() -> Result<()> {
    let host = Host::new()?;
    // tail keeps what it reads until a newline comes.
    let mut c = host.container(&["sh", "-c", "tail /dev/zero; echo code $?"])?;
    c.config["linux"]["resources"]["memory"] = json!({"limit": 32 << 20, "swap": 32 << 20});
    let done = c.run()?;
    assert!(done.code == 137 || done.stdout.contains("code 137"), "{done}");
    host.is_clean()
}

#[test]
fn the_pids_limit_stops_a_fork_bomb() -> Result<()> {
    let host = Host::new()?;
    let mut c = host.container(&["sh", "-c", "for i in 1 2 3 4 5 6 7 8 9; do sleep 3 & done; wait"])?;
    c.config["linux"]["resources"]["pids"] = json!({"limit": 5});
    let done = c.run()?;
    assert!(done.stderr.contains("fork"), "{done}");
    Ok(())
}

#[test]
fn update_by_flags_and_by_file() -> Result<()> {
    let host = Host::new()?;
    let mut c = host.container(&["sleep", "1000"])?;
    c.create()?.start()?;
    let flags = ["--memory", "50331648", "--pids-limit", "44", "--cpu-quota=30000", "--cpu-period=60000"];
    c.verb_with("update", &flags).finish()?.ok()?;
    assert_eq!(c.cgroup_file("memory", &["memory.limit_in_bytes", "memory.max"])?, "50331648");
    assert_eq!(c.cgroup_file("pids", &["pids.max"])?, "44");
    assert!(c.cgroup_file("cpu", &["cpu.cfs_quota_us", "cpu.max"])?.starts_with("30000"));

    let resources = json!({"memory": {"limit": 40 << 20}, "pids": {"limit": 33}}).to_string();
    let file = host.path().join("resources.json");
    fs::write(&file, &resources)?;
    let flag = format!("--resources={}", file.display());
    c.verb_with("update", &[&flag]).finish()?.ok()?;
    assert_eq!(c.cgroup_file("memory", &["memory.limit_in_bytes", "memory.max"])?, (40 << 20).to_string());
    assert_eq!(c.cgroup_file("pids", &["pids.max"])?, "33");

    let resources = json!({"pids": {"limit": 22}}).to_string();
    c.verb_with("update", &["--resources", "-"]).finish_with(resources.as_bytes())?.ok()?;
    assert_eq!(c.cgroup_file("pids", &["pids.max"])?, "22");
    assert_eq!(c.cgroup_file("memory", &["memory.limit_in_bytes", "memory.max"])?, (40 << 20).to_string());
    Ok(())
}

#[test]
fn an_update_that_cannot_be_is_refused() -> Result<()> {
    let host = Host::new()?;
    let mut c = host.container(&["sleep", "1000"])?;
    c.create()?.start()?;
    c.verb_with("update", &["--resources", "/nosuch"]).finish()?.exits(1)?.fails_with("no such file")?;
    c.verb_with("update", &["--resources", "-"]).finish_with(b"{")?.exits(1)?;
    c.verb_with("update", &["--cpuset-cpus", "4096"]).finish()?.exits(1)?;
    Ok(())
}

fn counts(c: &Container) -> Result<u64> {
    Ok(c.stdout()?.lines().count() as u64)
}

#[test]
fn pause_and_resume() -> Result<()> {
    let host = Host::new()?;
    let mut c = host.container(&["sh", "-c", "while :; do echo tick; sleep 0.02; done"])?;
    c.create()?.start()?;
    c.expect("tick")?;
    c.verb("resume").finish()?.exits(1)?.fails_with("container not paused")?;
    c.verb("pause").finish()?.ok()?.prints("")?;
    assert_eq!(c.status()?, "paused");
    let before = counts(&c)?;
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert_eq!(counts(&c)?, before);
    c.verb("resume").finish()?.ok()?.prints("")?;
    assert_eq!(c.status()?, "running");
    eventually("further output", || Ok(counts(&c)? > before))?;
    c.verb("pause").finish()?.ok()?;
    // A frozen container can still be removed.
    c.delete()?;
    host.is_clean()
}

#[test]
fn ps_lists_the_processes() -> Result<()> {
    let host = Host::new()?;
    let mut c = host.container(&["sh", "-c", "sleep 1000 & sleep 1000 & wait"])?;
    c.create()?.start()?;
    eventually("three processes", || {
        let ps = c.verb_with("ps", &["--format", "json"]).finish()?.ok()?;
        Ok(serde_json::from_str::<Vec<i32>>(&ps.stdout)?.len() == 3)
    })?;
    let table = c.verb("ps").finish()?.ok()?;
    assert!(table.lines().next().is_some_and(|l| l.contains("PID")), "{table}");
    assert_eq!(table.lines().filter(|l| l.contains("sleep 1000")).count(), 3, "{table}");
    Ok(())
}

#[test]
fn ps_takes_options_of_the_hosts_ps() -> Result<()> {
    let host = Host::new()?;
    let mut c = host.container(&["sleep", "1000"])?;
    c.create()?.start()?;
    for options in [&["-e", "-o", "pid,args"][..], &["--", "-eo", "pid,args"]] {
        let table = c.verb("ps").args(options).finish()?.ok()?;
        let lines: Vec<_> = table.stdout.lines().collect();
        assert_eq!(lines.len(), 2, "{options:?}: {table}");
        assert!(lines[1].trim() == format!("{} sleep 1000", c.pid()?), "{options:?}: {table}");
    }
    c.verb("ps").args(["-o", "args"]).finish()?.exits(1)?.fails_with("PID")?;
    Ok(())
}

#[test]
fn an_update_changes_what_it_names_and_is_remembered() -> Result<()> {
    let host = Host::new()?;
    let mut c = host.container(&["sleep", "1000"])?;
    c.config["linux"]["resources"] = json!({"memory": {"limit": 64 << 20, "swap": 128 << 20}, "pids": {"limit": 50}, "cpu": {"shares": 512}});
    c.create()?.start()?;
    // A size with a unit; zero is "as it is"; -1 is "no limit".
    c.verb_with("update", &["--memory", "48M", "--pids-limit", "0"]).finish()?.ok()?;
    assert_eq!(c.cgroup_file("memory", &["memory.limit_in_bytes", "memory.max"])?, (48 << 20).to_string());
    assert_eq!(c.cgroup_file("pids", &["pids.max"])?, "50");
    let burst = c.cgroup_file("cpu", &["cpu.cfs_burst_us", "cpu.max.burst"])?;
    assert_eq!(burst, "0");
    let flags = ["--cpu-quota", "50000", "--cpu-burst", "10000"];
    c.verb_with("update", &flags).finish()?.ok()?;
    assert_eq!(c.cgroup_file("cpu", &["cpu.cfs_burst_us", "cpu.max.burst"])?, "10000");
    // The quota is remembered when the period changes.
    c.verb_with("update", &["--cpu-period", "90000"]).finish()?.ok()?;
    let quota = c.cgroup_file("cpu", &["cpu.cfs_quota_us", "cpu.max"])?;
    assert!(quota == "50000" || quota == "50000 90000", "{quota}");
    c.verb_with("update", &["--memory", "-1", "--pids-limit", "-1"]).finish()?.ok()?;
    assert_eq!(c.cgroup_file("pids", &["pids.max"])?, "max");
    for (flags, message) in [
        (&["--l3-cache-schema", "L3:0=f"][..], "Intel RDT"),
        (&["--mem-bw-schema", "MB:0=50"], "Intel RDT"),
        (&["--memory", "lots"], "lots"),
    ] {
        c.verb_with("update", flags).finish()?.exits(1)?.fails_with(message)?;
    }
    let saved = fs::read_to_string(host.state_dir().join(&c.id).join("config.json"))?;
    let saved: Value = serde_json::from_str(&saved)?;
    assert_eq!(saved["linux"]["resources"]["cpu"]["period"], 90_000);
    assert_eq!(saved["linux"]["resources"]["pids"]["limit"], -1);
    c.verb("kill").arg("KILL").finish()?.ok()?;
    c.wait_exit()?;
    c.verb_with("update", &["--pids-limit", "5"]).finish()?.exits(1)?.fails_with("container not running")?;
    Ok(())
}

#[test]
fn events_tell_of_a_kill_for_want_of_memory() -> Result<()> {
    let host = Host::new()?;
    let mut c = host.container(&["sleep", "1000"])?;
    c.config["linux"]["resources"]["memory"] = json!({"limit": 32 << 20, "swap": 32 << 20});
    c.create()?.start()?;
    let file = host.path().join("events");
    let mut events = c.verb_with("events", &["--interval", "100ms"]);
    let mut events = events.stdout(fs::File::create(&file)?).spawn()?;
    let seen = |text: &str| Ok(fs::read_to_string(&file)?.contains(text));
    eventually("figures", || seen(r#""type":"stats""#))?;
    c.exec(&["tail", "/dev/zero"])?.exits(137)?;
    let outcome = eventually("the kernel's word", || seen(&format!(r#"{{"type":"oom","id":"{}"}}"#, c.id)));
    c.delete()?;
    // It ends with the container.
    eventually("the end of events", || Ok(events.try_wait()?.is_some()))?;
    outcome
}

#[test]
fn events_print_statistics() -> Result<()> {
    let host = Host::new()?;
    let mut c = host.container(&["sh", "-c", "while :; do sleep 0.01; done"])?;
    c.config["linux"]["resources"]["memory"] = json!({"limit": 64 << 20});
    c.create()?.start()?;
    let events = c.verb_with("events", &["--stats"]).finish()?.ok()?;
    let event: Value = serde_json::from_str(events.stdout.trim()).context(events.stdout.clone())?;
    assert_eq!(event["type"], "stats");
    assert_eq!(event["id"], c.id.as_str());
    let data = &event["data"];
    assert!(data["cpu"]["usage"]["total"].as_u64().is_some_and(|n| n > 0), "{event}");
    assert!(data["memory"]["usage"]["usage"].as_u64().is_some_and(|n| n > 0), "{event}");
    assert_eq!(data["memory"]["usage"]["limit"], 64 << 20, "{event}");
    assert!(data["pids"]["current"].as_u64().is_some_and(|n| n > 0), "{event}");
    Ok(())
}

fn is_unified(test: &str) -> bool {
    let unified = Host::is_unified();
    if !unified {
        skip(test, "needs cgroup v2 alone");
    }
    unified
}

#[test]
fn exec_goes_where_the_first_process_is() -> Result<()> {
    if !is_unified("exec_goes_where_the_first_process_is") {
        return Ok(());
    }
    let host = Host::new()?;
    // What systemd does in a container: the top is for controllers, processes are below.
    let script = "cd /sys/fs/cgroup && mkdir init && echo 1 >init/cgroup.procs && \
                  echo +memory >cgroup.subtree_control && echo ready; sleep 1000";
    let mut c = host.container(&["sh", "-c", script])?;
    c.namespace("cgroup", None);
    if let Some(mounts) = c.config["mounts"].as_array_mut() {
        mounts.retain(|mount| mount["destination"] != "/sys/fs/cgroup");
    }
    c.mount(
        json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["rw"]}),
    );
    c.create()?.start()?;
    c.expect("ready")?;
    c.exec(&["cat", "/proc/self/cgroup"])?.ok()?.prints("0::/init")?;
    c.delete()?;
    host.is_clean()
}

#[test]
fn a_cgroup_of_somebody_else_is_refused() -> Result<()> {
    let host = Host::new()?;
    let mut first = host.container(&["sleep", "1000"])?;
    first.create()?;
    let mut second = host.container(&["sleep", "1000"])?;
    second.config["linux"]["cgroupsPath"] = json!(first.cgroup());
    second.try_create(&[])?.exits(1)?.fails_with("container's cgroup is not empty: 1 process(es) found")?;
    assert_eq!(first.status()?, "created");
    Ok(())
}

#[test]
fn kill_reaches_all_processes_without_a_namespace_for_them() -> Result<()> {
    let host = Host::new()?;
    for disabled in [false, true] {
        let mut c = host.container(&["sh", "-c", "sleep 1000 & sleep 1000 & echo ready; wait"])?;
        c.without_namespace("pid");
        // Their mount of /proc would need a pid namespace in some kernels' eyes; what counts here is the cgroup.
        c.save()?;
        let bundle = c.bundle().to_str().context("path")?.to_owned();
        let mut create = host.runtime();
        if disabled {
            let linux = c.config["linux"].as_object_mut().context("linux")?;
            linux.remove("cgroupsPath");
            linux.remove("resources");
            c.save()?;
            create.args(["--cgroup-manager", "disabled"]);
        }
        let out = c.bundle().join("out");
        create.args(["create", "--bundle", &bundle, &c.id]).stdout(fs::File::create(&out)?);
        assert!(create.status()?.success());
        c.start()?;
        eventually("the processes", || Ok(fs::read_to_string(&out)?.contains("ready")))?;
        let init = c.state()?["pid"].as_i64().context("pid")?;
        let children = fs::read_to_string(format!("/proc/{init}/task/{init}/children"))?;
        let children: Vec<&str> = children.split_whitespace().collect();
        assert_eq!(children.len(), 2, "{children:?}");
        let ps = c.verb_with("ps", &["--format", "json"]).finish()?.ok()?;
        assert_eq!(serde_json::from_str::<Vec<i32>>(&ps.stdout)?.len(), 3, "{ps}");
        c.kill("KILL")?;
        let is_gone = |pid: &&str| match fs::read_to_string(format!("/proc/{pid}/stat")) {
            Ok(stat) => stat.contains(") Z "),
            Err(_) => true,
        };
        eventually("their end", || Ok(children.iter().all(is_gone)))?;
        c.wait_status("stopped")?;
        c.delete()?;
    }
    host.is_clean()
}

#[test]
fn nested_cgroups_are_removed() -> Result<()> {
    let host = Host::new()?;
    let mut c = host.container(&["sleep", "1000"])?;
    c.create()?.start()?;
    for dir in Host::cgroup_dirs(c.cgroup()) {
        fs::create_dir_all(dir.join("below/deeper"))?;
    }
    c.delete()?;
    host.is_clean()
}

#[test]
fn without_a_cgroups_path() -> Result<()> {
    let host = Host::new()?;
    let mut c = host.container(&["sleep", "1000"])?;
    if let Some(linux) = c.config["linux"].as_object_mut() {
        linux.remove("cgroupsPath");
    }
    c.create()?.start()?;
    let own = c.proc("cgroup")?;
    assert!(own.lines().any(|l| l.contains(&c.id)), "{own}");
    c.delete()?;
    for line in own.lines() {
        let (_, path) = line.rsplit_once(':').context("cgroup line")?;
        assert!(!path.contains(&c.id) || Host::cgroup_dirs(path).is_empty(), "{path} is left");
    }
    host.is_clean()
}

#[test]
fn a_relative_cgroups_path() -> Result<()> {
    let host = Host::new()?;
    let mut c = host.container(&["sleep", "1000"])?;
    c.config["linux"]["cgroupsPath"] = json!(format!("{}/rel", host.name()));
    c.create()?.start()?;
    assert!(c.proc("cgroup")?.contains(&format!("{}/rel", host.name())));
    c.delete()?;
    for line in fs::read_to_string("/proc/self/cgroup")?.lines() {
        let path = format!("{}/{}", line.rsplit_once(':').context("line")?.1, host.name());
        for dir in Host::cgroup_dirs(&path) {
            fs::remove_dir(dir)?;
        }
    }
    host.is_clean()
}
