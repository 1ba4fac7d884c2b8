//! The systemd cgroup driver: a container is a transient scope. These run where systemd is PID 1, which is the
//! test VM (`make test-vm`).

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use coracle_integration::{Container, Finished, Host, Run, command, eventually, skip};
use serde_json::json;

/// As sd_booted(3), on cgroup v2.
fn booted(test: &str) -> bool {
    let booted = Path::new("/run/systemd/system").exists();
    let unified = Host::is_unified();
    if !booted {
        skip(test, "systemd is not PID 1");
    } else if !unified {
        skip(test, "needs cgroup v2 alone");
    }
    booted && unified
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
fn the_scope_says_whose_it_is_and_leaves_the_rest_to_us() -> Result<()> {
    if !booted("the_scope_says_whose_it_is_and_leaves_the_rest_to_us") {
        return Ok(());
    }
    let host = Host::new()?;
    let (mut c, unit) = in_slice(&host, "machine.slice", &["sleep", "1000"])?;
    c.config["linux"]["resources"]["cpu"] = json!({"cpus": "0"});
    create(&c, &host)?;
    for (name, value) in [
        ("Description", format!("coracle container {}", c.id).as_str()),
        ("Delegate", "yes"),
        ("DefaultDependencies", "no"),
        ("MemoryAccounting", "yes"),
        ("TasksAccounting", "yes"),
        ("DevicePolicy", "strict"),
        ("AllowedCPUs", "0"),
    ] {
        assert_eq!(property(&unit, name)?, value, "{name}");
    }
    let devices = property(&unit, "DeviceAllow")?;
    assert!(devices.contains("/dev/char/1:3 rwm") && devices.contains("char-136 rwm"), "{devices}");
    delete(&c, &host)
}

#[test]
fn annotations_are_properties() -> Result<()> {
    if !booted("annotations_are_properties") {
        return Ok(());
    }
    let host = Host::new()?;
    let (mut c, unit) = in_slice(&host, "machine.slice", &["sleep", "1000"])?;
    c.annotate("org.systemd.property.TimeoutStopUSec", "uint64 123000000")
        .annotate("org.systemd.property.CollectMode", "'inactive-or-failed'")
        .annotate("org.systemd.property.Documentation", "['man:one', 'man:two']")
        .annotate("org.systemd.property.RuntimeMaxSec", "3600");
    create(&c, &host)?;
    assert_eq!(property(&unit, "TimeoutStopUSec")?, "2min 3s");
    assert_eq!(property(&unit, "CollectMode")?, "inactive-or-failed");
    assert_eq!(property(&unit, "RuntimeMaxUSec")?, "1h");
    assert_eq!(property(&unit, "Documentation")?, "man:one man:two");
    delete(&c, &host)?;

    for (name, value, message) in [
        ("Timeout-Stop", "1", "Timeout-Stop: name incorrect: contains non-alphabetic character"),
        ("TimeoutStopUSec", "uint64 x", "TimeoutStopUSec: value \"uint64 x\""),
        ("NoSuchProperty", "true", "NoSuchProperty"),
    ] {
        let (mut c, unit) = in_slice(&host, "machine.slice", &["true"])?;
        c.annotate(&format!("org.systemd.property.{name}"), value).save()?;
        let bundle = c.bundle().to_str().context("path")?;
        with_systemd(&c, &host, "create", &["--bundle", bundle])?.exits(1)?.fails_with(message)?;
        is_gone(&unit)?;
    }
    host.is_clean()
}

/// The cgroup of the container's first process.
fn cgroup_of(c: &Container<'_>) -> Result<PathBuf> {
    let pid = c.state()?["pid"].to_string();
    let own = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    let path = own.lines().find_map(|line| line.strip_prefix("0::/")).context(own.clone())?;
    Ok(Path::new("/sys/fs/cgroup").join(path))
}

#[test]
fn a_subgroup_of_the_scope() -> Result<()> {
    if !booted("a_subgroup_of_the_scope") {
        return Ok(());
    }
    let host = Host::new()?;
    let (mut c, unit) = in_slice(&host, "machine.slice", &["sleep", "1000"])?;
    c.config["linux"]["resources"] = json!({"memory": {"limit": 64 << 20}});
    c.annotate("run.oci.systemd.subgroup", "inner");
    create(&c, &host)?;
    c.start()?;
    let scope = directory(&unit)?;
    assert_eq!(cgroup_of(&c)?, scope.join("inner"));
    for dir in [&scope, &scope.join("inner")] {
        assert_eq!(fs::read_to_string(dir.join("memory.max"))?.trim(), (64 << 20).to_string());
    }
    c.exec(&["cat", "/proc/self/cgroup"])?.ok()?;
    with_systemd(&c, &host, "update", &["--memory", "50331648"])?.ok()?;
    assert_eq!(fs::read_to_string(scope.join("inner/memory.max"))?.trim(), "50331648");
    delete(&c, &host)?;
    is_gone(&unit)?;
    assert!(!scope.exists());
    host.is_clean()
}

#[test]
fn a_delegated_cgroup_belongs_to_the_containers_root() -> Result<()> {
    if !booted("a_delegated_cgroup_belongs_to_the_containers_root") {
        return Ok(());
    }
    let host = Host::new()?;
    let script = "cat /proc/self/cgroup; mkdir /sys/fs/cgroup/deleg/below && echo made; sleep 1000";
    let (mut c, unit) = in_slice(&host, "machine.slice", &["sh", "-c", script])?;
    own_users(&mut c)?;
    c.annotate("run.oci.systemd.subgroup", "inner").annotate("run.oci.delegate-cgroup", "deleg");
    c.save()?;
    let bundle = c.bundle().to_str().context("path")?;
    let out = fs::File::create(c.bundle().join("out"))?;
    let mut command = host.runtime();
    command.args(["--systemd-cgroup", "create", "--bundle", bundle, &c.id]).stdout(out);
    ensure!(command.status()?.success(), "create fails");
    c.start()?;
    let out = || fs::read_to_string(c.bundle().join("out")).context("out");
    eventually("the cgroup below", || Ok(out()?.contains("made")))?;
    // The namespace's root is one level above.
    assert!(out()?.contains("0::/deleg"), "{}", out()?);
    assert_eq!(cgroup_of(&c)?, directory(&unit)?.join("inner/deleg"));
    delete(&c, &host)?;
    is_gone(&unit)
}

/// A user namespace with root as 100000, and a cgroup file system that may be written.
fn own_users(c: &mut Container<'_>) -> Result<()> {
    c.namespace("user", None).namespace("cgroup", None);
    for field in ["uidMappings", "gidMappings"] {
        c.config["linux"][field] = json!([{"containerID": 0, "hostID": 100_000, "size": 65_536}]);
    }
    command("chown").arg("-R").arg("100000:100000").arg(c.rootfs()).finish()?.ok()?;
    let mounts = c.config["mounts"].as_array_mut().context("mounts")?;
    mounts.retain(|mount| mount["destination"] != "/sys/fs/cgroup");
    c.mount(
        json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["rw"]}),
    );
    Ok(())
}

#[test]
fn a_writable_cgroup_belongs_to_the_containers_user() -> Result<()> {
    use std::os::unix::fs::MetadataExt;
    if !booted("a_writable_cgroup_belongs_to_the_containers_user") {
        return Ok(());
    }
    let host = Host::new()?;
    for (options, owner) in [(["rw"], 100_000), (["ro"], 0)] {
        let (mut c, unit) = in_slice(&host, "machine.slice", &["sleep", "1000"])?;
        own_users(&mut c)?;
        let last = c.config["mounts"].as_array().context("mounts")?.len() - 1;
        c.config["mounts"][last]["options"] = json!(options);
        create(&c, &host)?;
        let scope = directory(&unit)?;
        for file in ["", "cgroup.procs", "cgroup.subtree_control"] {
            assert_eq!(fs::metadata(scope.join(file))?.uid(), owner, "{options:?} {file}");
        }
        assert_eq!(fs::metadata(scope.join("memory.max"))?.uid(), 0);
        delete(&c, &host)?;
    }
    host.is_clean()
}

/// The user whose systemd the next test starts.
const USER: u32 = 1000;

/// A systemd of an ordinary user, with a bus, and the directory with its sockets.
struct UserManager(PathBuf);

impl UserManager {
    fn start() -> Result<Self> {
        let runtime = PathBuf::from(format!("/run/user/{USER}"));
        fs::create_dir_all(&runtime)?;
        std::os::unix::fs::chown(&runtime, Some(USER), Some(USER))?;
        command("systemd-run")
            .args(["--unit=coracle-test-user", "--service-type=notify", "--slice=user.slice"])
            .args(["-p", "User=1000", "-p", "Delegate=yes"])
            .arg(format!("--setenv=XDG_RUNTIME_DIR={}", runtime.display()))
            .args(["/lib/systemd/systemd", "--user"])
            .finish()?
            .ok()?;
        let bus = runtime.join("bus");
        eventually("the user's bus", || Ok(bus.exists()))?;
        Ok(Self(runtime))
    }

    fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> std::process::Command {
        use std::os::unix::process::CommandExt;
        let mut command = command(program);
        command.uid(USER).gid(USER).env("XDG_RUNTIME_DIR", &self.0).env("HOME", "/tmp");
        command
    }
}

impl Drop for UserManager {
    fn drop(&mut self) {
        let _ = command("systemctl").args(["stop", "coracle-test-user"]).finish();
    }
}

#[test]
fn an_ordinary_users_scope_is_his_own_systemds() -> Result<()> {
    if !booted("an_ordinary_users_scope_is_his_own_systemds") {
        return Ok(());
    }
    let host = Host::new()?;
    let user = UserManager::start()?;
    let home = host.path().join("home");
    fs::create_dir_all(home.join("bundle"))?;
    coracle_integration::busybox_root(&home.join("bundle/rootfs"))?;
    let own = || command("chown").arg("-R").arg(format!("{USER}:{USER}")).arg(&home).finish()?.ok();
    own()?;
    let coracle = || user.command(coracle_integration::coracle());
    coracle().args(["spec", "--rootless"]).current_dir(home.join("bundle")).finish()?.ok()?;
    let file = home.join("bundle/config.json");
    let mut config: serde_json::Value = serde_json::from_slice(&fs::read(&file)?)?;
    config["process"]["terminal"] = json!(false);
    config["process"]["args"] = json!(["sleep", "1000"]);
    config["linux"]["resources"] = json!({"memory": {"limit": 64 << 20}, "pids": {"limit": 77}});
    config["annotations"] = json!({"org.systemd.property.CollectMode": "'inactive-or-failed'"});
    fs::write(&file, config.to_string())?;

    let id = format!("{}-u", host.name());
    let mut run = coracle();
    run.args(["--systemd-cgroup", "run", "--detach", "--bundle"]).arg(home.join("bundle")).arg(&id);
    run.finish()?.ok()?;
    let shown = user
        .command("systemctl")
        .args(["--user", "show", "-p", "ControlGroup,MemoryMax,TasksMax"])
        .arg(format!("coracle-{id}.scope"))
        .finish()?
        .ok()?;
    let expected = ["MemoryMax=67108864", "TasksMax=77"];
    assert!(expected.iter().all(|line| shown.stdout.contains(line)), "{shown}");
    let path = shown.stdout.lines().find_map(|line| line.strip_prefix("ControlGroup=/")).context("path")?;
    assert!(path.starts_with("user.slice/coracle-test-user.service/user.slice/"), "{path}");
    let directory = Path::new("/sys/fs/cgroup").join(path);
    assert_eq!(fs::read_to_string(directory.join("memory.max"))?.trim(), (64 << 20).to_string());
    coracle().args(["update", "--memory", "50331648", &id]).finish()?.ok()?;
    assert_eq!(fs::read_to_string(directory.join("memory.max"))?.trim(), "50331648");
    coracle().args(["exec", &id, "true"]).finish()?.ok()?;
    coracle().args(["delete", "--force", &id]).finish()?.ok()?;
    eventually("the end of the scope", || Ok(!directory.exists()))?;

    // Without a bus there is nobody to ask.
    let mut run = coracle();
    run.env("XDG_RUNTIME_DIR", &home)
        .args(["--systemd-cgroup", "run", "--bundle"])
        .arg(home.join("bundle"))
        .arg(&id);
    run.finish()?.exits(1)?.fails_with("DBUS_SESSION_BUS_ADDRESS")?;
    host.is_clean()
}

#[test]
fn files_of_unified_are_properties_too() -> Result<()> {
    if !booted("files_of_unified_are_properties_too") {
        return Ok(());
    }
    let host = Host::new()?;
    let (mut c, unit) = in_slice(&host, "machine.slice", &["sleep", "1000"])?;
    c.config["linux"]["resources"]["unified"] = json!({"memory.high": "50331648", "pids.max": "99"});
    create(&c, &host)?;
    assert_eq!(property(&unit, "MemoryHigh")?, "50331648");
    assert_eq!(property(&unit, "TasksMax")?, "99");
    let change = json!({"unified": {"memory.high": "max"}, "cpu": {"idle": 1}}).to_string();
    let mut update = host.runtime();
    update.args(["update", "--resources", "-", &c.id]);
    update.finish_with(change.as_bytes())?.ok()?;
    assert_eq!(property(&unit, "MemoryHigh")?, "infinity");
    assert_eq!(fs::read_to_string(directory(&unit)?.join("memory.high"))?.trim(), "max");
    assert_eq!(fs::read_to_string(directory(&unit)?.join("cpu.idle"))?.trim(), "1");
    delete(&c, &host)
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
