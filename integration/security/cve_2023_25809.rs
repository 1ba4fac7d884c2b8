//! CVE-2023-25809: without a cgroup namespace of its own, a container of an ordinary user's had the host's cgroups mounted
//! so that it could write to all that this user may. `v1` and `v2` in src/rootfs/cgroup.rs bind nothing but the
//! container's own cgroup, and read-only where the configuration says so. The test gives the user his cgroups to own, as a
//! delegation does, and has the container look for one that it can write to.

use std::fs;
use std::os::unix::fs::chown;

use anyhow::{Result, ensure};
use coracle_integration::{Container, Host};
use serde_json::json;

use crate::bind;

/// Who root of the container is on the host.
const USER: u32 = 64_125;

/// Every directory and file of a cgroup file system, wherever it is mounted, that the container can write to. Busybox's
/// `test -w` says yes to every root.
const LOOK: &str = "for at in $(awk '$0 ~ / - cgroup2? / { print $5 }' /proc/self/mountinfo) /sys/fs/cgroup; do \
    for f in $(find $at -maxdepth 3 -type f); do true 2> /dev/null >> $f && echo $f; done; \
    for d in $(find $at -maxdepth 2 -type d); do mkdir $d/made 2> /dev/null && echo $d/made; done; done; echo looked";

/// A container in a user namespace, and not in a cgroup namespace.
fn container(host: &Host) -> Result<Container<'_>> {
    let mut c = host.container(&["sh", "-c", LOOK])?;
    c.namespace("user", None).without_namespace("cgroup");
    let mappings = json!([{"containerID": 0, "hostID": USER, "size": 65536}]);
    c.config["linux"]["uidMappings"] = mappings.clone();
    c.config["linux"]["gidMappings"] = mappings;
    Ok(c)
}

#[test]
fn no_cgroup_can_be_written_to() -> Result<()> {
    let host = Host::new()?;
    // One that may write shows that the container would find something.
    for (sysfs, writable) in [(false, false), (true, false), (false, true)] {
        let mut c = container(&host)?;
        if sysfs && let Some(mounts) = c.config["mounts"].as_array_mut() {
            // What `spec --rootless` says.
            for mount in mounts.iter_mut().filter(|mount| mount["type"] == "sysfs") {
                *mount = bind("/sys".as_ref(), "/sys", &["rbind", "nosuid", "noexec", "nodev", "ro"]);
            }
        }
        for mount in c.config["mounts"].as_array_mut().into_iter().flatten() {
            if writable && mount["type"] == "cgroup" {
                mount["options"] = json!(["rw"]);
            }
        }
        c.try_create(&[])?.ok()?;
        let mut given = 0;
        for directory in Host::cgroup_dirs(c.cgroup()) {
            for path in fs::read_dir(&directory)?.map(|entry| entry.map(|e| e.path())) {
                chown(path?, Some(USER), Some(USER))?;
            }
            chown(&directory, Some(USER), Some(USER))?;
            given += 1;
        }
        ensure!(given > 0, "no cgroup was given to the user");
        c.start()?;
        let code = c.wait_exit()?;
        let finds_nothing = c.stdout()? == "looked\n";
        ensure!(
            code == 0 && finds_nothing != writable,
            "sysfs {sysfs}, writable {writable}: {}",
            c.stdout()?
        );
        c.delete()?;
    }
    host.is_clean()
}
