//! What a cgroup does on the host that the tests run on: as root, in cgroups of their own that are removed
//! again. Skipped, with the reason, where that cannot be.

use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use super::*;

/// A cgroup path that no other test, process or container uses.
fn unique() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("/coracle-test-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

fn spec(path: &str, resources: &str) -> Spec {
    let text = format!(
        r#"{{"ociVersion":"1.0.2","root":{{"path":"rootfs"}},"process":{{"cwd":"/","args":["x"],"user":{{"uid":0,"gid":0}}}},
            "linux":{{"cgroupsPath":"{path}","resources":{resources}}}}}"#
    );
    serde_json::from_str(&text).unwrap()
}

fn create(path: &str, resources: &str) -> Result<Cgroup, Error> {
    create_by(&spec(path, resources), Manager::Cgroupfs)
}

fn create_by(spec: &Spec, manager: Manager) -> Result<Cgroup, Error> {
    let mut cgroup = Cgroup::plan(spec, "test", manager, false)?;
    cgroup.make(spec, false).map(|()| cgroup)
}

/// Removes the cgroup, and what `create` made above it, however the test ends.
struct Guard(Cgroup);

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.kill_all(libc::SIGKILL);
        if let Err(error) = self.0.remove() {
            eprintln!("{error}");
        }
    }
}

impl std::ops::Deref for Guard {
    type Target = Cgroup;
    fn deref(&self) -> &Cgroup {
        &self.0
    }
}

fn guarded(path: &str, resources: &str) -> Guard {
    Guard(create(path, resources).unwrap_or_else(|error| panic!("{error}")))
}

/// Why the host is of no use for a test.
fn unusable() -> Option<&'static str> {
    if !rustix::process::geteuid().is_root() {
        return Some("not root");
    }
    let Ok(hierarchies) = hierarchy::locate(Some(Path::new("/x")), "x") else { return Some("no cgroups") };
    let writable = |h: &Hierarchy| rustix::fs::access(&h.mount, rustix::fs::Access::WRITE_OK).is_ok();
    (!hierarchies.iter().all(writable)).then_some("cgroups are read-only")
}

macro_rules! skip_if_unusable {
    () => {
        if let Some(reason) = unusable() {
            eprintln!("skipped: {reason}");
            return;
        }
    };
}

/// A process that waits on its standard input before it becomes `sleep` or runs `script`.
fn shell(script: &str) -> Child {
    let script = format!("read x; {script}");
    Command::new("sh")
        .args(["-c", &script])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

fn pid(child: &Child) -> i32 {
    i32::try_from(child.id()).unwrap()
}

/// Runs a script inside the cgroup and gives its exit code.
fn run_in(cgroup: &Cgroup, script: &str) -> Option<i32> {
    let mut child = shell(script);
    cgroup.add(pid(&child)).unwrap();
    drop(child.stdin.take());
    child.wait().unwrap().code()
}

#[test]
fn a_process_is_joined_found_frozen_killed_and_its_cgroup_removed() {
    skip_if_unusable!();
    let path = unique();
    let cgroup = guarded(&format!("{path}/deep/er"), "{}");
    let mut child = shell("exec sleep 1000");
    cgroup.add(pid(&child)).unwrap();
    drop(child.stdin.take());
    assert_eq!(cgroup.pids().unwrap(), [pid(&child)]);
    let member = std::fs::read_to_string(format!("/proc/{}/cgroup", child.id())).unwrap();
    for line in member.lines() {
        assert!(line.ends_with(&format!("{path}/deep/er")), "{line}");
    }

    assert!(!cgroup.is_frozen().unwrap());
    cgroup.freeze(true).unwrap();
    assert!(cgroup.is_frozen().unwrap());
    let error = create(&format!("{path}/deep/er"), "{}").unwrap_err();
    assert!(matches!(error, Error::NotEmpty(1)), "{error}");
    cgroup.kill_all(libc::SIGTERM).unwrap();
    assert!(cgroup.is_frozen().unwrap());
    // On v2 a fatal signal ends a frozen process (cgroup v2 documentation, cgroup.freeze).
    assert!(is_unified() || child.try_wait().unwrap().is_none());
    cgroup.freeze(false).unwrap();
    assert!(!child.wait().unwrap().success());

    // What `delete` does: from the saved state, and only the container's own directory.
    let saved: Cgroup = serde_json::from_str(&serde_json::to_string(&*cgroup).unwrap()).unwrap();
    saved.remove().unwrap();
    saved.remove().unwrap();
    assert!(cgroup.mounts().iter().all(|(path, _)| !path.exists() && path.parent().unwrap().exists()));
    let top: Vec<_> =
        cgroup.mounts().iter().map(|(path, _)| path.ancestors().nth(2).unwrap().to_owned()).collect();
    drop(cgroup);
    assert!(top.iter().all(|path| !path.exists()), "{top:?}");
}

#[test]
fn a_frozen_cgroup_is_not_joined() {
    skip_if_unusable!();
    let path = unique();
    let cgroup = guarded(&path, "{}");
    cgroup.freeze(true).unwrap();
    // A process would hang in it.
    let error = create(&path, "{}").unwrap_err();
    assert!(matches!(error, Error::Frozen), "{error}");
    cgroup.freeze(false).unwrap();
    create(&path, "{}").unwrap();
}

#[test]
fn a_process_enters_by_itself() {
    skip_if_unusable!();
    let path = unique();
    let cgroup = guarded(&path, "{}");
    let entrance = cgroup.entrance().unwrap().unwrap();
    let mut command = Command::new("cat");
    command.arg("/proc/self/cgroup");
    let enter = move || entrance.enter().map_err(std::io::Error::other);
    // SAFETY: between fork and exec, this makes system calls, and allocates only with an error.
    unsafe { std::os::unix::process::CommandExt::pre_exec(&mut command, enter) };
    let output = command.output().unwrap();
    for line in String::from_utf8(output.stdout).unwrap().lines().filter(|line| !line.starts_with("0:")) {
        assert!(line.ends_with(&path), "{line}");
    }
}

#[test]
fn kill_all_reaches_nested_and_frozen_processes() {
    skip_if_unusable!();
    let cgroup = guarded(&unique(), "{}");
    let nested: Vec<_> = cgroup.mounts().iter().map(|(path, _)| path.join("nested/more")).collect();
    for dir in &nested {
        std::fs::create_dir_all(dir).unwrap();
        if dir.starts_with("/sys/fs/cgroup/cpuset") {
            v1::fill_cpuset(dir, Path::new("/sys/fs/cgroup/cpuset"), false).unwrap();
        }
    }
    let mut children = [shell("exec sleep 1000"), shell("exec sleep 1000")];
    cgroup.add(pid(&children[0])).unwrap();
    for dir in &nested {
        file::write(dir, "cgroup.procs", &children[1].id().to_string()).unwrap();
    }
    assert_eq!(cgroup.pids().unwrap().len(), 2);
    cgroup.freeze(true).unwrap();
    cgroup.kill_all(libc::SIGKILL).unwrap();
    for child in &mut children {
        assert!(child.wait().unwrap().code().is_none());
    }
    cgroup.remove().unwrap();
    assert!(nested.iter().all(|dir| !dir.exists()));
}

#[test]
fn a_create_that_fails_leaves_what_it_found() {
    skip_if_unusable!();
    let path = unique();
    let outer = guarded(&path, "{}");
    let error = create(&format!("{path}/a/b"), r#"{"cpu":{"cpus":"4095"}}"#).unwrap_err();
    let message = error.to_string();
    assert!(message.contains("\"4095\"") && message.contains("cpuset.cpus"), "{message}");
    assert!(outer.mounts().iter().all(|(path, _)| path.exists() && !path.join("a").exists()));
}

#[test]
fn limits_are_in_the_files_and_change() {
    skip_if_unusable!();
    let limits = r#"{"memory":{"limit":67108864,"swap":134217728,"reservation":33554432,"swappiness":10,"kernel":1},
        "cpu":{"shares":512,"quota":50000,"period":100000,"cpus":"0","mems":"0"},"pids":{"limit":50},
        "blockIO":{"weight":0}}"#;
    let limits =
        if resources_on_v1("memory") { limits.to_owned() } else { limits.replace(r#""swappiness":10,"#, "") };
    let cgroup = guarded(&unique(), &limits);
    let apply = |text: &str| cgroup.apply(&serde_json::from_str(text).unwrap());
    let memory = |v1: &str, v2: &str| match resources::v1_directory(&cgroup.hierarchies, "memory") {
        Some(dir) => file::read_number(dir, v1).unwrap(),
        None => file::read_number(resources::v2_directory(&cgroup.hierarchies).unwrap(), v2).unwrap(),
    };
    assert_eq!(memory("memory.limit_in_bytes", "memory.max"), 67_108_864);
    // Up with both, down with both, and off.
    for (limit, swap) in [(268_435_456, 536_870_912), (33_554_432, 67_108_864)] {
        apply(&format!(r#"{{"memory":{{"limit":{limit},"swap":{swap}}}}}"#)).unwrap();
        assert_eq!(memory("memory.limit_in_bytes", "memory.max"), limit);
    }
    apply(r#"{"memory":{"limit":-1}}"#).unwrap();
    assert!(memory("memory.limit_in_bytes", "memory.max") > 1 << 60);
    assert_eq!(cgroup.stats().unwrap().pids.limit, 50);
    apply(r#"{"pids":{"limit":-1}}"#).unwrap();
    assert_eq!(cgroup.stats().unwrap().pids.limit, 0);
    let error = apply(r#"{"cpu":{"shares":1}}"#);
    if resources_on_v1("cpu") {
        assert_eq!(error.unwrap_err().to_string(), "the minimum allowed cpu-shares is 2");
    }
}

fn resources_on_v1(controller: &str) -> bool {
    let hierarchies = hierarchy::locate(Some(Path::new("/x")), "x").unwrap();
    resources::v1_directory(&hierarchies, controller).is_some()
}

#[test]
fn what_the_host_does_not_have_is_named() {
    skip_if_unusable!();
    let hierarchies = hierarchy::locate(Some(Path::new("/x")), "x").unwrap();
    let root = hierarchies.iter().find(|h| h.version == Version::V2).map(|h| h.mount.clone());
    let v2: Vec<String> = root.map(|root| hierarchy::v2_controllers(&root).unwrap()).unwrap_or_default();
    if !resources_on_v1("rdma") && !v2.iter().any(|name| name == "rdma") {
        let error = create(&unique(), r#"{"rdma":{"mlx5_1":{"hcaHandles":3}}}"#).unwrap_err().to_string();
        assert!(error.contains("linux.resources.rdma: cannot set rdma limit"), "{error}");
    }
    if !resources_on_v1("hugetlb") && v2.iter().any(|name| name == "hugetlb") {
        let cgroup = guarded(&unique(), r#"{"hugepageLimits":[{"pageSize":"2MB","limit":4194304}]}"#);
        let dir = resources::v2_directory(&cgroup.hierarchies).unwrap();
        assert_eq!(file::read_number(dir, "hugetlb.2MB.max").unwrap(), 4_194_304);
    }
    let error = create(&unique(), r#"{"unified":{"../x":"1"}}"#).unwrap_err().to_string();
    assert!(error.contains("../x"), "{error}");
}

#[test]
fn devices_are_denied_unless_allowed() {
    skip_if_unusable!();
    let rule = r#"{"allow":true,"type":"c","major":1,"minor":11,"access":"r"}"#;
    let cgroup = guarded(&unique(), r#"{"devices":[{"allow":false,"access":"rwm"}]}"#);
    assert_eq!(run_in(&cgroup, "exec 3<>/dev/null 4</dev/urandom"), Some(0));
    assert_ne!(run_in(&cgroup, "exec 3</dev/kmsg"), Some(0));
    cgroup.apply(&serde_json::from_str(&format!(r#"{{"devices":[{rule}]}}"#)).unwrap()).unwrap();
    assert_eq!(run_in(&cgroup, "exec 3</dev/kmsg"), Some(0));
    assert_ne!(run_in(&cgroup, "exec 3<>/dev/kmsg"), Some(0));
    cgroup.apply(&serde_json::from_str(r#"{"devices":[{"allow":true,"access":"rwm"}]}"#).unwrap()).unwrap();
    assert_eq!(run_in(&cgroup, "exec 3<>/dev/kmsg"), Some(0));
}

#[test]
fn the_kernel_takes_the_bpf_program_and_replaces_it() {
    skip_if_unusable!();
    let cgroup = guarded(&unique(), r#"{"devices":[{"allow":true,"access":"rwm"}]}"#);
    let Some(dir) = resources::v2_directory(&cgroup.hierarchies) else {
        eprintln!("skipped: no cgroup v2");
        return;
    };
    let policy = |rules: &str| devices::Policy::of(&serde_json::from_str::<Vec<_>>(rules).unwrap()).unwrap();
    devices::apply_v2(dir, &policy("[]")).unwrap();
    assert_eq!(run_in(&cgroup, "exec 3<>/dev/null 4</dev/urandom"), Some(0));
    assert_ne!(run_in(&cgroup, "exec 3</dev/kmsg"), Some(0));
    devices::apply_v2(dir, &policy(r#"[{"allow":true,"type":"c","major":1,"access":"r"}]"#)).unwrap();
    assert_eq!(run_in(&cgroup, "exec 3</dev/kmsg"), Some(0));
    assert_ne!(run_in(&cgroup, "exec 3>/dev/kmsg"), Some(0));
    let deny =
        r#"[{"allow":true,"access":"rwm"},{"allow":false,"type":"c","major":1,"minor":11,"access":"w"}]"#;
    devices::apply_v2(dir, &policy(deny)).unwrap();
    assert_eq!(run_in(&cgroup, "exec 3</dev/kmsg"), Some(0));
    assert_ne!(run_in(&cgroup, "exec 3<>/dev/kmsg"), Some(0));
}

#[test]
fn without_cgroups_there_are_no_limits() {
    let spec = |resources: &str| spec("", resources);
    let create = |resources: &str| create_by(&spec(resources), Manager::Disabled);
    let cgroup = create(r#"{"devices":[{"allow":false,"access":"rwm"}],"pids":{"limit":0}}"#).unwrap();
    cgroup.add(1).unwrap();
    cgroup.remove().unwrap();
    assert!(cgroup.pids().unwrap().is_empty() && cgroup.mounts().is_empty());
    assert!(matches!(cgroup.freeze(true), Err(Error::NoFreezer)));
    let error = create(r#"{"pids":{"limit":5}}"#).unwrap_err().to_string();
    let message = "linux.resources.pids: cannot set pids limit: container could not join or create cgroup";
    assert_eq!(error, message);
}

#[test]
fn without_systemd_its_driver_says_so() {
    if systemd::booted() {
        eprintln!("skipped: systemd is running");
        return;
    }
    let error = create_by(&spec("a.slice:b:c", "{}"), Manager::Systemd).unwrap_err();
    let message = "systemd not running on this host, cannot use systemd cgroups manager";
    assert_eq!(error.to_string(), message);
}

/// The files of a v2 directory, as far as `v2::make` looks at them.
fn fake_v2(dir: &Path, controllers: &str) {
    std::fs::create_dir_all(dir).unwrap();
    std::fs::write(dir.join("cgroup.controllers"), controllers).unwrap();
    std::fs::write(dir.join("cgroup.subtree_control"), "").unwrap();
    std::fs::write(dir.join("cgroup.type"), "domain\n").unwrap();
}

#[test]
fn v2_controllers_are_passed_down_by_every_ancestor() {
    let root = tempfile::tempdir().unwrap();
    let leaf = root.path().join("a/b");
    fake_v2(root.path(), "cpu io memory pids\n");
    fake_v2(&root.path().join("a"), "cpu\n");
    fake_v2(&leaf, "cpu\n");
    let mut made = Vec::new();
    assert!(!v2::make(root.path(), &leaf, None, &mut made).unwrap());
    assert!(made.is_empty());
    let control = |dir: &Path| std::fs::read_to_string(dir.join("cgroup.subtree_control")).unwrap();
    assert_eq!(control(root.path()), "+io +memory +pids");
    assert_eq!(control(&root.path().join("a")), "+io +memory +pids");
    assert_eq!(control(&leaf), "");
}

#[test]
fn v2_limits_go_to_v2_files() {
    let root = tempfile::tempdir().unwrap();
    fake_v2(root.path(), "cpuset cpu io memory pids hugetlb\n");
    let files = [
        "memory.max",
        "memory.low",
        "memory.swap.max",
        "cpu.weight",
        "cpu.max",
        "cpu.max.burst",
        "cpuset.cpus",
        "pids.max",
        "io.weight",
        "io.max",
        "hugetlb.2MB.max",
        "memory.high",
    ];
    for file in files {
        std::fs::write(root.path().join(file), "").unwrap();
    }
    let hierarchy = Hierarchy {
        version: Version::V2,
        controllers: Vec::new(),
        mount: root.path().into(),
        path: root.path().into(),
    };
    let apply =
        |text: &str| resources::apply(std::slice::from_ref(&hierarchy), &serde_json::from_str(text).unwrap());
    apply(
        r#"{"memory":{"limit":100,"swap":300,"reservation":50},"pids":{"limit":-1},
            "cpu":{"shares":1024,"quota":-1,"period":20000,"burst":7,"cpus":"0-1"},
            "blockIO":{"weight":500,"throttleReadBpsDevice":[{"major":8,"minor":0,"rate":1000}]},
            "hugepageLimits":[{"pageSize":"2MB","limit":4096}],"unified":{"memory.high":"90"}}"#,
    )
    .unwrap();
    let content = files.map(|file| std::fs::read_to_string(root.path().join(file)).unwrap());
    let expected =
        ["100", "50", "200", "100", "max 20000", "7", "0-1", "max", "4950", "8:0 rbps=1000", "4096", "90"];
    assert_eq!(content, expected);

    for (resources, message) in [
        (r#"{"rdma":{"x":{"hcaHandles":1}}}"#, "rdma: cannot set rdma limit"),
        (r#"{"network":{"classID":1}}"#, "network.classID: cannot set net_cls limit"),
        (r#"{"cpu":{"realtimeRuntime":1}}"#, "not supported on cgroup v2"),
        (r#"{"memory":{"swappiness":1}}"#, "memory.swappiness: not supported on cgroup v2"),
        (r#"{"memory":{"disableOOMKiller":true}}"#, "memory.disableOOMKiller"),
        (r#"{"unified":{"misc.max":"1"}}"#, "controller misc is not available in cgroup v2"),
        (r#"{"unified":{"memory.nosuch":"1"}}"#, "memory.nosuch: this cgroup, or this kernel, has no such"),
    ] {
        let error = apply(resources).unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
    }
}
