//! Id mappings of a new user namespace (user_namespaces(7)), written by the parent while the child waits.
//!
//! libcontainer's writer runs newuidmap whenever there is more than one mapping, also as root, for whom /etc/subuid has no
//! entry, and does not look at its exit status. So: directly where we may, else by newuidmap.

use std::fs;
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};

use oci_spec::runtime::{LinuxIdMapping, LinuxIdMappingBuilder, Spec};
use rustix::process::{Pid, Signal, WaitOptions};

use crate::init::Error;
use crate::init::namespaces::{Cloned, clone3};
use crate::passwd;
use crate::procfs::Procfs;

/// The id on the host that a container with these mappings knows as `id`.
pub fn on_host(mappings: &[LinuxIdMapping], id: u32) -> Option<u32> {
    mappings.iter().find_map(|mapping| {
        let offset = id.checked_sub(mapping.container_id()).filter(|offset| *offset < mapping.size())?;
        mapping.host_id().checked_add(offset)
    })
}

/// Maps the ids of a process that is in a new user namespace.
///
/// # Errors
/// [`Error::IdMap`].
pub fn map_ids(pid: i32, spec: &Spec, procfs: &Procfs) -> Result<(), Error> {
    let Some(linux) = spec.linux() else { return Ok(()) };
    let privileged = rustix::process::geteuid().is_root();
    let user = spec.process().as_ref().map(oci_spec::runtime::Process::user);
    let uids = match linux.uid_mappings().as_deref().filter(|list| !list.is_empty()) {
        Some(uids) => uids,
        None => &default("/etc/subuid", rustix::process::geteuid().as_raw(), user.map_or(0, |u| u.uid()))?,
    };
    let gids = match linux.gid_mappings().as_deref().filter(|list| !list.is_empty()) {
        Some(gids) => gids,
        None => &default("/etc/subgid", rustix::process::getegid().as_raw(), user.map_or(0, |u| u.gid()))?,
    };
    if !privileged && gids.len() == 1 && gids[0].size() == 1 {
        // An ordinary user may map his own group only once setgroups(2) is off the table (CVE-2014-8989).
        procfs.write(&format!("{pid}/setgroups"), "deny")?;
    }
    map(procfs, pid, "gid_map", "newgidmap", gids, privileged)?;
    map(procfs, pid, "uid_map", "newuidmap", uids, privileged)
}

/// The mappings where config.json has none, as crun has them: the container's user is its caller, and other ids
/// are those that the caller has in subuid(5) or subgid(5).
fn default(file: &str, caller: u32, inside: u32) -> Result<Vec<LinuxIdMapping>, Error> {
    let range = |inside, outside, size| {
        LinuxIdMappingBuilder::default()
            .container_id(inside)
            .host_id(outside)
            .size(size)
            .build()
            .map_err(|e| Error::IdMap(e.to_string()))
    };
    let Some((first, count)) = subordinate(&fs::read_to_string(file).unwrap_or_default()) else {
        return Ok(vec![range(0, caller, caller.saturating_add(1))?]);
    };
    let below = inside.min(count);
    let mut list = Vec::new();
    if below > 0 {
        list.push(range(0, first, below)?);
    }
    list.push(range(inside, caller, 1)?);
    if count > below {
        list.push(range(inside + 1, first + below, count - below)?);
    }
    Ok(list)
}

/// The caller's range: the lines are `NAME-OR-UID:FIRST:COUNT`.
fn subordinate(file: &str) -> Option<(u32, u32)> {
    let uid = rustix::process::geteuid().as_raw();
    let name = passwd::name(uid);
    file.lines().find_map(|line| {
        let mut fields = line.split(':');
        let owner = fields.next()?;
        if Some(owner) != name.as_deref() && owner.parse() != Ok(uid) {
            return None;
        }
        Some((fields.next()?.trim().parse().ok()?, fields.next()?.trim().parse().ok()?))
    })
}

/// A user namespace without a process in it, as the mapping of an idmapped mount.
///
/// # Errors
/// [`Error::Clone`] and [`Error::IdMap`].
pub fn detached(uids: &[LinuxIdMapping], gids: &[LinuxIdMapping]) -> Result<OwnedFd, Error> {
    let pid = match clone3(libc::CLONE_NEWUSER.cast_unsigned(), None).map_err(Error::Clone)? {
        Cloned::Parent { pid, .. } => pid,
        Cloned::Child => {
            // It holds the namespace until there is a descriptor of it, and never longer than we live.
            let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
            loop {
                rustix::event::pause();
            }
        }
    };
    let made = Procfs::open().and_then(|procfs| {
        map(&procfs, pid, "uid_map", "newuidmap", uids, true)?;
        map(&procfs, pid, "gid_map", "newgidmap", gids, true)?;
        let path = format!("/proc/{pid}/ns/user");
        fs::File::open(&path).map_err(|e| Error::IdMap(format!("{path}: {}", crate::error::Os::from(e))))
    });
    if let Some(pid) = Pid::from_raw(pid) {
        // It cannot be gone, and nobody else waits for it.
        let _ = rustix::process::kill_process(pid, Signal::KILL);
        let _ = rustix::process::waitpid(Some(pid), WaitOptions::empty());
    }
    made.map(OwnedFd::from)
}

fn map(
    procfs: &Procfs,
    pid: i32,
    file: &str,
    helper: &str,
    mappings: &[LinuxIdMapping],
    privileged: bool,
) -> Result<(), Error> {
    let triples = mappings.iter().map(|m| [m.container_id(), m.host_id(), m.size()]);
    if privileged || (mappings.len() == 1 && mappings[0].size() == 1) {
        let text: String =
            triples.map(|[inside, outside, size]| format!("{inside} {outside} {size}\n")).collect();
        return procfs.write(&format!("{pid}/{file}"), &text);
    }
    let output = Command::new(helper)
        .arg(pid.to_string())
        .args(triples.flatten().map(|number| number.to_string()))
        .stdin(Stdio::null())
        .output()
        .map_err(|e| {
            Error::IdMap(format!("{helper} (Debian package uidmap): {}", crate::error::Os::from(e)))
        })?;
    if output.status.success() {
        return Ok(());
    }
    Err(Error::IdMap(format!("{helper}: {}", String::from_utf8_lossy(&output.stderr).trim())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_those_of_the_host() {
        let range = |inside: u32, outside: u32, size: u32| {
            LinuxIdMappingBuilder::default().container_id(inside).host_id(outside).size(size).build().unwrap()
        };
        let mappings = [range(0, 1000, 1), range(1, 100_000, 10)];
        assert_eq!((on_host(&mappings, 0), on_host(&mappings, 10)), (Some(1000), Some(100_009)));
        assert_eq!((on_host(&mappings, 11), on_host(&[], 0)), (None, None));
    }
}
