//! Handing a v2 cgroup over to the container (cgroups(7), "Delegation"): its directory and the files that the kernel lists for
//! that purpose belong to somebody inside, who may then make cgroups below it. The limits do not.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxNamespaceType, Mount, Spec};
use rustix::fs::{Gid, Uid, chown};
use rustix::io::Errno;

use super::Error;
use super::file::slurp;
use crate::{config, userns};

/// Who gets the cgroup: the user of the container's program, if he can do anything with it, which takes a cgroup
/// namespace and a cgroup file system that may be written. These conditions are runc's. Root owns it anyway.
pub fn owner(spec: &Spec) -> Option<u32> {
    if !config::makes_namespace(spec, LinuxNamespaceType::Cgroup) {
        return None;
    }
    if !spec.mounts().iter().flatten().any(is_writable_cgroup) {
        return None;
    }
    let user = spec.process().as_ref().map_or(0, |process| process.user().uid());
    let mapped = if config::has_namespace(spec, LinuxNamespaceType::User) {
        userns::on_host(spec.linux().as_ref()?.uid_mappings().as_deref()?, user)?
    } else {
        user
    };
    (mapped != 0).then_some(mapped)
}

fn is_writable_cgroup(mount: &Mount) -> bool {
    let destination: PathBuf = mount.destination().components().collect();
    let source = mount.source().as_deref().unwrap_or(Path::new(""));
    let read_only = |option: &&String| matches!(option.as_str(), "ro" | "rw");
    // The last one counts.
    let access = mount.options().iter().flatten().rfind(read_only).map(String::as_str);
    source == Path::new("cgroup") && destination == Path::new("/sys/fs/cgroup") && access != Some("ro")
}

/// Makes `dir` the owner's.
pub fn hand_over(dir: &Path, user: Option<u32>, group: Option<u32>) -> Result<(), Error> {
    let (user, group) = (user.map(Uid::from_raw), group.map(Gid::from_raw));
    let give = |path: &Path| match chown(path, user, group) {
        Ok(()) => Ok(()),
        // The kernel's list has files of every controller.
        Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(Error::HandOver { path: path.into(), reason: errno.into() }),
    };
    give(dir)?;
    let listed = slurp(Path::new("/sys/kernel/cgroup/delegate"));
    let files = listed.as_deref().unwrap_or("cgroup.procs\ncgroup.subtree_control\ncgroup.threads");
    files.lines().try_for_each(|file| give(&dir.join(file)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn owner_of(change: impl FnOnce(&mut Value)) -> Option<u32> {
        let mut config = json!({
            "ociVersion": "1.0.2",
            "process": {"cwd": "/", "user": {"uid": 5, "gid": 0}},
            "mounts": [{"destination": "/sys/fs/cgroup/", "type": "cgroup2", "source": "cgroup", "options": ["ro", "rw"]}],
            "linux": {
                "namespaces": [{"type": "cgroup"}, {"type": "user"}],
                "uidMappings": [{"containerID": 0, "hostID": 1000, "size": 1}, {"containerID": 1, "hostID": 5000, "size": 10}],
            },
        });
        change(&mut config);
        owner(&serde_json::from_value(config).unwrap())
    }

    #[test]
    fn the_programs_user_owns_a_cgroup_that_he_can_see_and_write() {
        assert_eq!(owner_of(|_| ()), Some(5004));
        assert_eq!(owner_of(|c| c["process"]["user"]["uid"] = json!(11)), None);
        assert_eq!(owner_of(|c| c["mounts"][0]["options"] = json!(["rw", "ro"])), None);
        assert_eq!(owner_of(|c| c["linux"]["namespaces"] = json!([{"type": "user"}])), None);
        assert_eq!(owner_of(|c| c["linux"]["namespaces"] = json!([{"type": "cgroup", "path": "/x"}])), None);
        assert_eq!(owner_of(|c| c["linux"]["namespaces"] = json!([{"type": "cgroup"}])), Some(5));
    }
}
