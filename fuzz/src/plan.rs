//! What `create` and `exec` make of a configuration before they touch the system.

use std::path::{Component, Path};

use coracle::cgroup::{Cgroup, Manager};
use coracle::init::identity::Identity;
use coracle::init::scheduling::Affinity;
use coracle::{config, handler, net_devices, resctrl, rootfs};
use coracle_seccomp::{Filter, Unknown};
use oci_spec::runtime::{Process, Spec};

/// The path of files that do not exist, for messages.
pub const PATH: &str = "config.json";
const ID: &str = "fuzz";

/// Nobody wants to read warnings here.
pub fn silent(_: &[String]) {}

/// Checks a configuration, and makes of one that is good what a container is made of.
pub fn container(spec: &Spec) {
    let checked =
        config::check(spec).is_ok() && rootfs::check(spec).is_ok() && net_devices::check(spec).is_ok();
    if !checked {
        return;
    }
    if let Some(process) = spec.process() {
        program(process);
    }
    let linux = spec.linux().as_ref();
    if let Some(profile) = linux.and_then(|linux| linux.seccomp().as_ref()) {
        let _ = Filter::compile(profile, Unknown::Skip);
    }
    if let Some(rdt) = linux.and_then(|linux| linux.intel_rdt().as_ref()) {
        resctrl::Group::plan(Path::new("/sys/fs/resctrl"), rdt, ID);
    }
    for (key, _) in linux.and_then(|linux| linux.sysctl().as_ref()).into_iter().flatten() {
        // As init makes a path of it.
        let path = if key.contains('/') { key.clone() } else { key.replace('.', "/") };
        let below = Path::new(&path).components().all(|it| matches!(it, Component::Normal(_)));
        assert!(below, "sysctl {key:?} leads out of /proc/sys");
    }
    let _ = handler::choose(spec.annotations().as_ref(), Path::new("coracle"));
    for manager in [Manager::Cgroupfs, Manager::Systemd, Manager::Disabled] {
        if let Ok(cgroup) = Cgroup::plan(spec, ID, manager, false) {
            crate::cgroup::check(&cgroup);
        }
    }
    if let Some(cgroup) = Cgroup::of_config(spec, ID, false).and_then(Cgroup::on_this_host) {
        crate::cgroup::check(&cgroup);
    }
    if let Ok(bound) = rootfs::bound(spec, Path::new("/rootfs")) {
        drop(bound);
    }
    rootfs::device_paths(spec);
}

/// Makes of a process that was checked what a program is started with.
pub fn program(process: &Process) {
    let args = process.args().as_deref().unwrap_or_default();
    assert!(!args.is_empty() && process.cwd().is_absolute());
    let env = process.env().as_deref().unwrap_or_default();
    assert!(!args.iter().chain(env).any(|text| text.contains('\0')));
    let identity = Identity::new(process.user(), process.capabilities().as_ref());
    assert_eq!((identity.uid(), identity.gid()), (process.user().uid(), process.user().gid()));
    if let Some(affinity) = process.exec_cpu_affinity() {
        Affinity::parse(affinity).expect("it was checked");
    }
}
