//! Idmapped mounts (mount_setattr(2), "ID-mapped mounts"): the files of one mount seem to belong to others.
//!
//! A mapping is a user namespace. It is the container's own where the mount names no ids, otherwise one that
//! exists for this mount alone.

use std::os::fd::OwnedFd;

use oci_spec::runtime::{LinuxIdMapping, LinuxIdMappingBuilder, LinuxNamespaceType, Mount, Spec};
use rustix::fs::{CWD, Mode, OFlags, openat};

use super::Error;
use super::options::Options;
use crate::{config, userns};

/// How a mount's ids are to be mapped.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Idmap {
    /// With everything mounted below.
    pub recursive: bool,
    ids: Ids,
}

#[derive(Debug, PartialEq, Eq)]
enum Ids {
    OfContainer,
    Own { uids: Vec<LinuxIdMapping>, gids: Vec<LinuxIdMapping> },
}

impl Idmap {
    /// Reads what a mount asks for, and refuses what runc and crun refuse.
    ///
    /// # Errors
    /// The problem, in words.
    pub fn of(mount: &Mount, options: &Options, spec: &Spec) -> Result<Option<Self>, String> {
        let listed = |list: &Option<Vec<LinuxIdMapping>>| {
            list.as_deref().filter(|list| !list.is_empty()).map(<[_]>::to_vec)
        };
        let lists = (listed(mount.uid_mappings()), listed(mount.gid_mappings()));
        if options.idmap.is_none() && lists == (None, None) {
            return Ok(None);
        }
        if options.bind.is_none() {
            return Err("id-mapped mounts are only supported for bind-mounts".into());
        }
        if !rustix::process::geteuid().is_root() {
            return Err("id-mapped mounts are not supported for rootless containers".into());
        }
        let text = options.idmap.as_ref().and_then(|idmap| idmap.mappings.as_deref());
        let ids = match (lists, text) {
            ((Some(uids), Some(gids)), _) => Ids::Own { uids, gids },
            ((None, None), Some(text)) => parse(text, spec)?,
            ((None, None), None) if config::has_namespace(spec, LinuxNamespaceType::User) => Ids::OfContainer,
            _ => return Err("id-mapped mounts must have both uid and gid mappings specified".into()),
        };
        Ok(Some(Self { recursive: options.idmap.as_ref().is_some_and(|idmap| idmap.recursive), ids }))
    }

    /// The user namespace that is the mapping; `pid` is a process of the container's.
    ///
    /// # Errors
    /// [`Error::Outside`].
    pub fn user_namespace(&self, pid: i32) -> Result<OwnedFd, Error> {
        match &self.ids {
            Ids::OfContainer => {
                let path = format!("/proc/{pid}/ns/user");
                openat(CWD, &path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
                    .map_err(|errno| Error::Outside(format!("{path}: {}", crate::error::Os::from(errno))))
            }
            Ids::Own { uids, gids } => {
                userns::detached(uids, gids).map_err(|error| Error::Outside(error.to_string()))
            }
        }
    }
}

/// crun's form (crun(1), "idmap mount options"): `uids=FILES-HOST-SIZE#...;gids=...`. After an `@`, HOST is an
/// id of the container's.
fn parse(text: &str, spec: &Spec) -> Result<Ids, String> {
    let linux = spec.linux().as_ref();
    let (mut uids, mut gids) = (Vec::new(), Vec::new());
    for part in text.split(';').filter(|part| !part.is_empty()) {
        let (list, container, ranges) = match part.split_once('=') {
            Some(("uids", ranges)) => (&mut uids, linux.and_then(|l| l.uid_mappings().as_deref()), ranges),
            Some(("gids", ranges)) => (&mut gids, linux.and_then(|l| l.gid_mappings().as_deref()), ranges),
            _ => return Err(format!("option idmap: {part:?} is neither uids=... nor gids=...")),
        };
        for range in ranges.split('#').filter(|range| !range.is_empty()) {
            list.push(parse_range(range, container.unwrap_or_default())?);
        }
    }
    if uids.is_empty() || gids.is_empty() {
        return Err("id-mapped mounts must have both uid and gid mappings specified".into());
    }
    Ok(Ids::Own { uids, gids })
}

fn parse_range(range: &str, container: &[LinuxIdMapping]) -> Result<LinuxIdMapping, String> {
    let wrong = || format!("option idmap: invalid mapping specified {range:?}");
    let (relative, numbers) = range.strip_prefix('@').map_or((false, range), |numbers| (true, numbers));
    let numbers: Vec<u32> =
        numbers.split('-').map(str::parse).collect::<Result<_, _>>().map_err(|_| wrong())?;
    let [files, mut host, size] = numbers[..] else { return Err(wrong()) };
    if relative {
        if container.is_empty() {
            return Err("option idmap: specified a relative mapping without user namespace mappings".into());
        }
        host = userns::on_host(container, host).ok_or_else(|| {
            format!(
                "option idmap: could not find a user namespace mapping for the relative mapping {range:?}"
            )
        })?;
    }
    LinuxIdMappingBuilder::default().container_id(files).host_id(host).size(size).build().map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn read(mount: Value, linux: Value) -> Result<Option<Idmap>, String> {
        let mount: Mount = serde_json::from_value(mount).unwrap();
        let spec: Spec = serde_json::from_value(json!({"ociVersion": "1.0.2", "linux": linux})).unwrap();
        Idmap::of(&mount, &Options::of(&mount), &spec)
    }

    fn bind(option: &str) -> Value {
        json!({"destination": "/x", "source": "/y", "options": ["rbind", option]})
    }

    fn ranges(list: &[LinuxIdMapping]) -> Vec<[u32; 3]> {
        list.iter().map(|m| [m.container_id(), m.host_id(), m.size()]).collect()
    }

    #[test]
    fn mappings_are_read_from_the_option() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let found = read(bind("ridmap=uids=0-1-10#10-11-10;gids=0-100-10"), json!({})).unwrap().unwrap();
        assert!(found.recursive);
        let Ids::Own { uids, gids } = found.ids else { panic!("{found:?}") };
        assert_eq!((ranges(&uids), ranges(&gids)), (vec![[0, 1, 10], [10, 11, 10]], vec![[0, 100, 10]]));

        // The example of crun(1): what is relative counts from the container's ids.
        let mappings = json!([{"containerID": 0, "hostID": 0, "size": 1}, {"containerID": 1, "hostID": 2, "size": 1000}]);
        let linux =
            json!({"namespaces": [{"type": "user"}], "uidMappings": mappings, "gidMappings": mappings});
        let found = read(bind("idmap=uids=@1-3-10;gids=@0-0-1"), linux.clone()).unwrap().unwrap();
        let Ids::Own { uids, gids } = found.ids else { panic!("{found:?}") };
        assert_eq!((ranges(&uids), ranges(&gids)), (vec![[1, 4, 10]], vec![[0, 0, 1]]));
        assert_eq!(read(bind("idmap"), linux).unwrap().unwrap().ids, Ids::OfContainer);
    }

    #[test]
    fn what_makes_no_mapping_is_refused() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let both = "must have both uid and gid mappings";
        for (option, problem) in [
            ("idmap", both),
            ("idmap=uids=0-1-2", both),
            ("idmap=uids=0-1;gids=0-1-2", "invalid mapping"),
            ("idmap=users=0-1-2", "neither uids"),
            ("idmap=uids=@0-1-2;gids=0-1-2", "relative mapping without"),
        ] {
            let error = read(bind(option), json!({})).unwrap_err();
            assert!(error.contains(problem), "{option}: {error}");
        }
        let tmpfs = json!({"destination": "/x", "type": "tmpfs", "options": ["idmap"]});
        assert!(read(tmpfs, json!({})).unwrap_err().contains("only supported for bind-mounts"));
    }
}
