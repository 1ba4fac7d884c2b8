//! The systemd cgroup driver: a container is a transient scope. These run where systemd is PID 1, which is the
//! test VM (`make test-vm`).

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use coracle_integration::{Container, Finished, Host, Run, command, eventually, skip};
use serde_json::json;

/// As sd_booted(3).
fn booted(test: &str) -> bool {
    let booted = Path::new("/run/systemd/system").exists();
    if !booted {
        skip(test, "systemd is not PID 1");
    }
    booted
}

/// A property of a unit, as systemd reports it.
fn property(unit: &str, name: &str) -> Result<String> {
    let shown = command("systemctl").args(["show", "--value", "-p", name, unit]).finish()?.ok()?;
    Ok(shown.stdout.trim().to_owned())
}

/// A container whose scope is `coracle-ID.scope` in `slice`, and that unit's name.
fn in_slice<'h>(host: &'h Host, slice: &str, args: &[&str]) -> Result<(Container<'h>, String)> {
    let mut c = host.container(args)?;
    c.config["linux"]["cgroupsPath"] = json!(format!("{slice}:coracle:{}", c.id));
    let unit = format!("coracle-{}.scope", c.id);
    Ok((c, unit))
}

/// A verb, with the global flag that engines give.
fn with_systemd(c: &Container<'_>, host: &Host, verb: &str, flags: &[&str]) -> Result<Finished> {
    host.runtime().arg("--systemd-cgroup").arg(verb).args(flags).arg(&c.id).finish()
}

fn create(c: &Container<'_>, host: &Host) -> Result<()> {
    c.save()?;
    let bundle = c.bundle().to_str().context("path")?;
    with_systemd(c, host, "create", &["--bundle", bundle])?.ok()?;
    Ok(())
}

fn delete(c: &Container<'_>, host: &Host) -> Result<()> {
    with_systemd(c, host, "delete", &["--force"])?.ok()?;
    Ok(())
}

/// The scope's directory.
fn directory(unit: &str) -> Result<PathBuf> {
    let path = property(unit, "ControlGroup")?;
    ensure!(!path.is_empty(), "{unit} has no cgroup");
    Ok(Path::new("/sys/fs/cgroup").join(path.trim_start_matches('/')))
}

fn is_gone(unit: &str) -> Result<()> {
    eventually(&format!("the end of {unit}"), || Ok(property(unit, "LoadState")? == "not-found"))
}

#[test]
fn a_host_without_systemd_is_told_so() -> Result<()> {
    if Path::new("/run/systemd/system").exists() {
        return Ok(());
    }
    let host = Host::new()?;
    let (c, _) = in_slice(&host, "system.slice", &["true"])?;
    c.save()?;
    let bundle = c.bundle().to_str().context("path")?;
    with_systemd(&c, &host, "create", &["--bundle", bundle])?
        .exits(1)?
        .fails_with("systemd not running on this host, cannot use systemd cgroups manager")?;
    host.is_clean()
}

#[test]
fn create_starts_a_scope_and_delete_stops_it() -> Result<()> {
    if !booted("create_starts_a_scope_and_delete_stops_it") {
        return Ok(());
    }
    let host = Host::new()?;
    let (c, unit) = in_slice(&host, "machine.slice", &["sleep", "1000"])?;
    create(&c, &host)?;
    assert_eq!(property(&unit, "ActiveState")?, "active");
    assert_eq!(property(&unit, "Slice")?, "machine.slice");
    assert_eq!(directory(&unit)?, Path::new("/sys/fs/cgroup/machine.slice").join(&unit));
    c.start()?;
    let pid = c.state()?["pid"].to_string();
    assert_eq!(fs::read_to_string(directory(&unit)?.join("cgroup.procs"))?.trim(), pid);
    delete(&c, &host)?;
    is_gone(&unit)?;
    assert!(!Path::new("/sys/fs/cgroup/machine.slice").join(&unit).exists());
    host.is_clean()
}

#[test]
fn a_scope_goes_with_the_container_that_ended() -> Result<()> {
    if !booted("a_scope_goes_with_the_container_that_ended") {
        return Ok(());
    }
    let host = Host::new()?;
    let (mut c, unit) = in_slice(&host, "machine.slice", &["sh", "-c", "cat /proc/self/cgroup; exit 7"])?;
    c.namespace("cgroup", None);
    c.save()?;
    let bundle = c.bundle().to_str().context("path")?;
    let done = with_systemd(&c, &host, "run", &["--bundle", bundle])?.exits(7)?;
    // The namespace's root is the scope: the process was in it in time.
    done.prints("0::/")?;
    is_gone(&unit)?;
    host.is_clean()
}

#[test]
fn nested_slices_and_the_default() -> Result<()> {
    if !booted("nested_slices_and_the_default") {
        return Ok(());
    }
    let host = Host::new()?;
    let (c, unit) = in_slice(&host, "coracletest-inner.slice", &["sleep", "1000"])?;
    create(&c, &host)?;
    let expected = Path::new("/sys/fs/cgroup/coracletest.slice/coracletest-inner.slice").join(&unit);
    assert_eq!(directory(&unit)?, expected);
    delete(&c, &host)?;

    let (mut c, unit) = in_slice(&host, "", &["sleep", "1000"])?;
    create(&c, &host)?;
    assert_eq!(property(&unit, "Slice")?, "system.slice");
    delete(&c, &host)?;

    c.config["linux"].as_object_mut().context("linux")?.remove("cgroupsPath");
    create(&c, &host)?;
    let pid = c.state()?["pid"].to_string();
    let own = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    assert!(own.starts_with("0::/system.slice/") && own.trim().ends_with(".scope"), "{own}");
    delete(&c, &host)?;
    is_gone(own.trim().rsplit('/').next().context("name")?)
}

#[test]
fn limits_are_properties_of_the_scope_and_files() -> Result<()> {
    if !booted("limits_are_properties_of_the_scope_and_files") {
        return Ok(());
    }
    let host = Host::new()?;
    let (mut c, unit) = in_slice(&host, "machine.slice", &["sleep", "1000"])?;
    c.config["linux"]["resources"] = json!({
        "memory": {"limit": 64 << 20}, "pids": {"limit": 77}, "cpu": {"quota": 25_000, "period": 50_000, "shares": 512}
    });
    create(&c, &host)?;
    let check = |when: &str| -> Result<()> {
        let file = |name: &str| {
            Ok::<_, anyhow::Error>(fs::read_to_string(directory(&unit)?.join(name))?.trim().to_owned())
        };
        assert_eq!(file("memory.max")?, (64 << 20).to_string(), "{when}");
        assert_eq!(file("pids.max")?, "77", "{when}");
        assert_eq!(file("cpu.max")?, "25000 50000", "{when}");
        // Half the default in both scales: 512 of 1024, 59 of 100 (runc 1.3's and crun's formula).
        assert_eq!(file("cpu.weight")?, "59", "{when}");
        Ok(())
    };
    check("at the start")?;
    assert_eq!(property(&unit, "MemoryMax")?, (64 << 20).to_string());
    assert_eq!(property(&unit, "TasksMax")?, "77");
    assert_eq!(property(&unit, "CPUQuotaPerSecUSec")?, "500ms");
    command("systemctl").arg("daemon-reload").finish()?.ok()?;
    check("after daemon-reload")?;

    c.start()?;
    with_systemd(&c, &host, "update", &["--memory", "50331648", "--pids-limit", "44"])?.ok()?;
    assert_eq!(property(&unit, "MemoryMax")?, "50331648");
    assert_eq!(property(&unit, "TasksMax")?, "44");
    command("systemctl").arg("daemon-reload").finish()?.ok()?;
    assert_eq!(fs::read_to_string(directory(&unit)?.join("memory.max"))?.trim(), "50331648");
    assert_eq!(fs::read_to_string(directory(&unit)?.join("pids.max"))?.trim(), "44");
    delete(&c, &host)
}

#[test]
fn the_device_rules_are_in_force_and_stay() -> Result<()> {
    if !booted("the_device_rules_are_in_force_and_stay") {
        return Ok(());
    }
    let host = Host::new()?;
    let (c, unit) = in_slice(&host, "machine.slice", &["sleep", "1000"])?;
    create(&c, &host)?;
    c.start()?;
    let check = || -> Result<()> {
        c.exec(&["sh", "-c", "echo x > /dev/null"])?.ok()?;
        // Memory of the machine (1:1) may be named and not opened.
        let mem = c.exec(&["sh", "-c", "rm -f /dev/mem; mknod /dev/mem c 1 1 && cat /dev/mem"])?;
        assert!(mem.code != 0 && mem.stderr.contains("not permitted"), "{mem}");
        Ok(())
    };
    check()?;
    command("systemctl").arg("daemon-reload").finish()?.ok()?;
    check()?;
    assert_eq!(property(&unit, "ActiveState")?, "active");
    delete(&c, &host)
}

#[test]
fn exec_pause_and_ps_are_about_the_scope() -> Result<()> {
    if !booted("exec_pause_and_ps_are_about_the_scope") {
        return Ok(());
    }
    let host = Host::new()?;
    let (c, unit) = in_slice(&host, "machine.slice", &["sleep", "1000"])?;
    create(&c, &host)?;
    c.start()?;
    // In the foreground, so that somebody reaps it: until then the container's init could not end.
    let _exec = host.runtime().arg("exec").arg(&c.id).args(["sleep", "1001"]).job()?;
    let count = || {
        Ok::<_, anyhow::Error>(fs::read_to_string(directory(&unit)?.join("cgroup.procs"))?.lines().count())
    };
    eventually("the second process", || Ok(count()? == 2))?;
    let ps = c.verb_with("ps", &["--format", "json"]).finish()?.ok()?;
    assert_eq!(serde_json::from_str::<Vec<i32>>(&ps.stdout)?.len(), 2);
    c.verb("pause").finish()?.ok()?;
    assert!(fs::read_to_string(directory(&unit)?.join("cgroup.events"))?.contains("frozen 1"));
    c.verb("resume").finish()?.ok()?;
    assert_eq!(c.status()?, "running");
    delete(&c, &host)?;
    is_gone(&unit)
}

#[test]
fn a_scope_stopped_by_systemd_is_a_stopped_container() -> Result<()> {
    if !booted("a_scope_stopped_by_systemd_is_a_stopped_container") {
        return Ok(());
    }
    let host = Host::new()?;
    let (c, unit) =
        in_slice(&host, "machine.slice", &["sh", "-c", "trap 'exit 0' TERM; while :; do sleep 0.1; done"])?;
    create(&c, &host)?;
    c.start()?;
    command("systemctl").args(["stop", &unit]).finish()?.ok()?;
    eventually("the container's end", || Ok(c.status()? == "stopped"))?;
    delete(&c, &host)?;
    host.is_clean()
}

#[test]
fn a_create_that_fails_leaves_no_scope() -> Result<()> {
    if !booted("a_create_that_fails_leaves_no_scope") {
        return Ok(());
    }
    let host = Host::new()?;
    let (mut c, unit) = in_slice(&host, "machine.slice", &["/not/there"])?;
    c.config["linux"]["resources"] = json!({"pids": {"limit": 77}});
    c.save()?;
    let bundle = c.bundle().to_str().context("path")?;
    with_systemd(&c, &host, "create", &["--bundle", bundle])?.exits(1)?.fails_with("no such file")?;
    is_gone(&unit)?;
    host.is_clean()
}
