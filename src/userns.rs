//! Id mappings of a new user namespace (user_namespaces(7)), written by the parent while the child waits.
//!
//! libcontainer's writer runs newuidmap whenever there is more than one mapping, also as root, for whom /etc/subuid has no
//! entry, and does not look at its exit status. So: directly where we may, else by newuidmap.

use std::fs;
use std::process::{Command, Stdio};

use oci_spec::runtime::{LinuxIdMapping, Spec};

use crate::init::Error;

/// Maps the ids of a process that is in a new user namespace.
///
/// # Errors
/// [`Error::IdMap`].
pub fn map_ids(pid: i32, spec: &Spec) -> Result<(), Error> {
    let Some(linux) = spec.linux() else { return Ok(()) };
    let privileged = rustix::process::geteuid().is_root();
    let uids = linux.uid_mappings().as_deref().unwrap_or_default();
    let gids = linux.gid_mappings().as_deref().unwrap_or_default();
    if !privileged && gids.len() == 1 && gids[0].size() == 1 {
        // An ordinary user may map his own group only once setgroups(2) is off the table (CVE-2014-8989).
        let path = format!("/proc/{pid}/setgroups");
        fs::write(&path, "deny").map_err(|e| Error::IdMap(format!("{path}: {e}")))?;
    }
    map(pid, "gid_map", "newgidmap", gids, privileged)?;
    map(pid, "uid_map", "newuidmap", uids, privileged)
}

fn map(
    pid: i32,
    file: &str,
    helper: &str,
    mappings: &[LinuxIdMapping],
    privileged: bool,
) -> Result<(), Error> {
    let triples = mappings.iter().map(|m| [m.container_id(), m.host_id(), m.size()]);
    if privileged || (mappings.len() == 1 && mappings[0].size() == 1) {
        let path = format!("/proc/{pid}/{file}");
        let text: String =
            triples.map(|[inside, outside, size]| format!("{inside} {outside} {size}\n")).collect();
        return fs::write(&path, &text).map_err(|e| {
            Error::IdMap(format!("{path}: {:?}: {}", text.trim_end(), crate::error::Os::from(e)))
        });
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
