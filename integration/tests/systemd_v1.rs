//! The systemd cgroup driver where controllers are v1: systemd makes the scope in some hierarchies, the runtime in the
//! others. These run in the test VM (`make test-vm`).

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use coracle_integration::{Container, Finished, Host, Run, command, eventually, skip};
use serde_json::json;

fn usable(test: &str) -> bool {
    let usable = !Host::is_unified() && Path::new("/run/systemd/system").exists();
    if !usable {
        skip(test, "systemd is not PID 1, or not on cgroup v1");
    }
    usable
}

fn property(unit: &str, name: &str) -> Result<String> {
    let shown = command("systemctl").args(["show", "--value", "-p", name, unit]).finish()?.ok()?;
    Ok(shown.stdout.trim().to_owned())
}

fn with_systemd(c: &Container<'_>, verb: &str, flags: &[&str]) -> Result<Finished> {
    c.host.runtime().arg("--systemd-cgroup").arg(verb).args(flags).arg(&c.id).finish()
}

/// A created container in the scope `coracle-ID.scope`, and that unit's name.
fn created<'h>(host: &'h Host, change: impl FnOnce(&mut Container<'h>)) -> Result<(Container<'h>, String)> {
    let mut c = host.container(&["sleep", "1000"])?;
    c.config["linux"]["cgroupsPath"] = json!(format!("machine.slice:coracle:{}", c.id));
    change(&mut c);
    c.save()?;
    with_systemd(&c, "create", &["--bundle", c.bundle().to_str().context("path")?])?.ok()?;
    let unit = format!("coracle-{}.scope", c.id);
    Ok((c, unit))
}

fn file(controller: &str, unit: &str, name: &str) -> Result<String> {
    let path = Path::new("/sys/fs/cgroup").join(controller).join("machine.slice").join(unit).join(name);
    Ok(fs::read_to_string(&path).with_context(|| path.display().to_string())?.trim().to_owned())
}

#[test]
fn the_scope_is_in_every_hierarchy_and_goes() -> Result<()> {
    if !usable("the_scope_is_in_every_hierarchy_and_goes") {
        return Ok(());
    }
    let host = Host::new()?;
    let (c, unit) = created(&host, |_| ())?;
    assert_eq!(property(&unit, "Description")?, format!("coracle container {}", c.id));
    let pid = c.state()?["pid"].to_string();
    let own = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    for line in own.lines() {
        ensure!(line.ends_with(&format!("/machine.slice/{unit}")), "{own}");
    }
    c.start()?;
    c.exec(&["true"])?.ok()?;
    with_systemd(&c, "delete", &["--force"])?.ok()?;
    eventually("the end of the scope", || Ok(property(&unit, "LoadState")? == "not-found"))?;
    for line in own.lines() {
        let path = line.rsplit_once(':').context("cgroup line")?.1;
        ensure!(Host::cgroup_dirs(path).is_empty(), "{path} is left");
    }
    host.is_clean()
}

#[test]
fn limits_stay_when_systemd_reloads() -> Result<()> {
    let test = "limits_stay_when_systemd_reloads";
    if !usable(test) {
        return Ok(());
    }
    // Kernels since 6.12 may be without these (CONFIG_MEMCG_V1, CONFIG_CPUSETS_V1), as Debian 13's is.
    for controller in ["memory", "cpuset"] {
        if !Path::new("/sys/fs/cgroup").join(controller).join("cgroup.procs").exists() {
            skip(test, &format!("the kernel has no {controller} controller of cgroup v1"));
            return Ok(());
        }
    }
    let host = Host::new()?;
    let (c, unit) = created(&host, |c| {
        c.config["linux"]["resources"] = json!({
            "memory": {"limit": 64 << 20}, "pids": {"limit": 77},
            "cpu": {"shares": 512, "quota": 25_000, "period": 50_000, "cpus": "0"},
            "devices": [{"allow": false, "access": "rwm"}],
        });
    })?;
    c.start()?;
    let check = |when: &str| -> Result<()> {
        assert_eq!(file("memory", &unit, "memory.limit_in_bytes")?, (64 << 20).to_string(), "{when}");
        assert_eq!(file("pids", &unit, "pids.max")?, "77", "{when}");
        assert_eq!(file("cpu", &unit, "cpu.shares")?, "512", "{when}");
        assert_eq!(file("cpu", &unit, "cpu.cfs_quota_us")?, "25000", "{when}");
        assert_eq!(file("cpu", &unit, "cpu.cfs_period_us")?, "50000", "{when}");
        assert_eq!(file("cpuset", &unit, "cpuset.cpus")?, "0", "{when}");
        let devices = file("devices", &unit, "devices.list")?;
        ensure!(devices.contains("c 1:3 rwm") && !devices.contains("a *:*"), "{when}: {devices}");
        Ok(())
    };
    check("at the start")?;
    assert_eq!(property(&unit, "MemoryLimit")?, (64 << 20).to_string());
    assert_eq!(property(&unit, "CPUShares")?, "512");
    command("systemctl").arg("daemon-reload").finish()?.ok()?;
    check("after daemon-reload")?;
    with_systemd(&c, "update", &["--memory", "50331648", "--cpu-share", "256"])?.ok()?;
    assert_eq!(file("memory", &unit, "memory.limit_in_bytes")?, "50331648");
    assert_eq!(property(&unit, "MemoryLimit")?, "50331648");
    assert_eq!(property(&unit, "CPUShares")?, "256");
    with_systemd(&c, "delete", &["--force"])?.ok()?;
    host.is_clean()
}
