//! `linux.intelRdt`: a container's share of caches and memory bandwidth, by the resctrl file system (config-linux.md,
//! "IntelRdt"; the kernel's filesystems/resctrl.rst).

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use oci_spec::runtime::LinuxIntelRdt;
use serde::{Deserialize, Serialize};

use crate::config::{self, wrong};
use crate::error::Os;

/// The `closID` that means the root of the file system.
const DEFAULT: &str = "/";

/// Why a container has no such share.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "each variant says itself what happened")]
pub enum Error {
    #[error("linux.intelRdt: Intel RDT is not enabled: no resctrl file system is mounted")]
    NotMounted,
    #[error("linux.intelRdt.closID: {0}: there is no such group, and no schema to make it with")]
    NoGroup(String),
    #[error("linux.intelRdt.closID: {group}: the group has another configuration than {line}")]
    Different { group: String, line: String },
    #[error("linux.intelRdt: {path}: {reason}")]
    Io { path: PathBuf, reason: Os },
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> Error {
    move |reason| Error::Io { path: path.to_owned(), reason: reason.into() }
}

/// Checks what would lead out of the file system, or into another of its files.
///
/// # Errors
/// [`config::Error::Wrong`].
pub fn check(rdt: &LinuxIntelRdt) -> Result<(), config::Error> {
    if let Some(id) = rdt.clos_id()
        && id != DEFAULT
        && (id.is_empty() || id.contains('/') || id == "." || id == "..")
    {
        return Err(wrong("linux.intelRdt.closID", format_args!("{id:?}"), "is not the name of a group"));
    }
    let schemata = rdt.schemata().iter().flatten().map(|line| ("linux.intelRdt.schemata", line));
    let l3 = rdt.l3_cache_schema().iter().map(|line| ("linux.intelRdt.l3CacheSchema", line));
    let bandwidth = rdt.mem_bw_schema().iter().map(|line| ("linux.intelRdt.memBwSchema", line));
    for (field, line) in schemata.chain(bandwidth) {
        if line.contains('\n') {
            return Err(wrong(field, format_args!("{line:?}"), "is more than one line"));
        }
    }
    match l3
        .chain(rdt.mem_bw_schema().iter().map(|line| ("linux.intelRdt.memBwSchema", line)))
        .find(|(_, line)| line.is_empty())
    {
        Some((field, _)) => Err(wrong(field, "\"\"", "is empty")),
        None => Ok(()),
    }
}

/// Where resctrl is mounted.
///
/// # Errors
/// [`Error::NotMounted`].
pub fn mount_point() -> Result<PathBuf, Error> {
    let path = Path::new("/proc/self/mountinfo");
    let mounts = fs::read_to_string(path).map_err(failed(path))?;
    // proc_pid_mountinfo(5): the mount point is the fifth field, the type the first behind the hyphen.
    let resctrl =
        mounts.lines().find(|line| line.split(" - ").nth(1).is_some_and(|l| l.starts_with("resctrl ")));
    resctrl.and_then(|line| line.split(' ').nth(4)).map(PathBuf::from).ok_or(Error::NotMounted)
}

/// The group that a container's processes are in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    directory: PathBuf,
    /// Whether the directory is the container's own, and goes with it.
    own: bool,
    /// Its monitoring group, which goes with it in any case.
    monitoring: Option<PathBuf>,
}

impl Group {
    /// Finds out which group below `root` container `id` is to be in. Nothing is made yet, so that its place can be
    /// noted first.
    pub fn plan(root: &Path, rdt: &LinuxIntelRdt, id: &str) -> Self {
        let named = rdt.clos_id().as_deref();
        let directory = match named {
            Some(DEFAULT) => root.to_owned(),
            name => root.join(name.unwrap_or(id)),
        };
        // A group that has a name of its own outlives the container that was the first in it.
        let own = named.is_none() && !directory.is_dir();
        let monitoring = rdt.enable_monitoring().unwrap_or(false);
        let monitoring = monitoring.then(|| directory.join("mon_groups").join(id));
        Self { directory, own, monitoring }
    }

    /// Makes the group, or checks the one that is asked for. With an error, nothing that was made is left.
    ///
    /// # Errors
    /// [`Error`].
    pub fn make(&self, rdt: &LinuxIntelRdt) -> Result<(), Error> {
        let lines = lines(rdt.l3_cache_schema().as_deref(), rdt.mem_bw_schema().as_deref(), rdt.schemata());
        let new = !self.directory.is_dir();
        // Whatever is wrong with it, that is the error to report.
        let unmake = || {
            if new {
                drop(fs::remove_dir(&self.directory))
            }
        };
        match rdt.clos_id() {
            Some(name) if !new => self.compare(name, &lines)?,
            Some(name) if lines.is_empty() => return Err(Error::NoGroup(name.to_owned())),
            _ => {
                if new {
                    fs::create_dir(&self.directory).map_err(failed(&self.directory))?;
                }
                self.write(&lines).inspect_err(|_| unmake())?;
            }
        }
        match &self.monitoring {
            Some(path) => fs::create_dir(path).map_err(failed(path)).inspect_err(|_| unmake()),
            None => Ok(()),
        }
    }

    /// Puts a process into the group.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn add(&self, pid: i32) -> Result<(), Error> {
        for directory in [Some(&self.directory), self.monitoring.as_ref()].into_iter().flatten() {
            let path = directory.join("tasks");
            fs::write(&path, pid.to_string()).map_err(failed(&path))?;
        }
        Ok(())
    }

    /// Changes the group's share.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn update(&self, l3_cache: Option<&str>, bandwidth: Option<&str>) -> Result<(), Error> {
        self.write(&lines(l3_cache, bandwidth, &None))
    }

    /// Removes what was made for the container.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn remove(&self) -> Result<(), Error> {
        for directory in self.monitoring.iter().chain(self.own.then_some(&self.directory)) {
            match fs::remove_dir(directory) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(failed(directory)(e)),
                _ => {}
            }
        }
        Ok(())
    }

    fn write(&self, lines: &[String]) -> Result<(), Error> {
        if lines.is_empty() {
            return Ok(());
        }
        let path = self.directory.join("schemata");
        fs::write(&path, format!("{}\n", lines.join("\n"))).map_err(failed(&path))
    }

    /// A group that others are in too is not changed, so it must be as it is wanted.
    fn compare(&self, name: &str, lines: &[String]) -> Result<(), Error> {
        if lines.is_empty() {
            return Ok(());
        }
        let path = self.directory.join("schemata");
        let found = fs::read_to_string(&path).map_err(failed(&path))?;
        let found: BTreeMap<_, _> = found.lines().filter_map(parse).collect();
        let differs = |line: &&String| {
            parse(line).is_none_or(|(resource, wanted)| {
                let has = found.get(&resource);
                has.is_none_or(|has| wanted.iter().any(|(domain, value)| has.get(domain) != Some(value)))
            })
        };
        match lines.iter().find(differs) {
            Some(line) => Err(Error::Different { group: name.to_owned(), line: line.clone() }),
            None => Ok(()),
        }
    }
}

/// The lines of a schemata file, in the order that the specification wants. Lines for the bandwidth among those for the
/// cache are the engine's double entry.
fn lines(l3_cache: Option<&str>, bandwidth: Option<&str>, schemata: &Option<Vec<String>>) -> Vec<String> {
    let cache = l3_cache.into_iter().flat_map(str::lines);
    let cache = cache.filter(|line| !line.is_empty() && (bandwidth.is_none() || !line.starts_with("MB:")));
    let more = schemata.iter().flatten().map(String::as_str);
    cache.chain(bandwidth).chain(more).map(str::to_owned).collect()
}

/// `RESOURCE:DOMAIN=VALUE;...`, with values as they compare: without leading zeros.
fn parse(line: &str) -> Option<(String, BTreeMap<String, String>)> {
    let (resource, domains) = line.trim().split_once(':')?;
    let domains = domains.split(';').map(|entry| {
        let (domain, value) = entry.trim().split_once('=')?;
        Some((domain.to_owned(), value.trim_start_matches('0').to_ascii_lowercase()))
    });
    Some((resource.trim().to_owned(), domains.collect::<Option<_>>()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rdt(text: &str) -> LinuxIntelRdt {
        serde_json::from_str(text).expect("intelRdt")
    }

    fn create(root: &Path, rdt: &LinuxIntelRdt) -> Result<Group, Error> {
        let group = Group::plan(root, rdt, "c1");
        group.make(rdt).map(|()| group)
    }

    fn schemata(root: &Path, group: &str) -> String {
        fs::read_to_string(root.join(group).join("schemata")).unwrap_or_default()
    }

    /// A directory in the place of the file system, with a group that exists and has `schemata`.
    fn root(existing: &str) -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("a directory");
        fs::create_dir_all(root.path().join("shared/mon_groups")).expect("made");
        fs::write(root.path().join("shared/schemata"), existing).expect("written");
        root
    }

    #[test]
    fn a_group_of_the_containers_own_is_written_and_goes() {
        let root = root("");
        let both =
            rdt(r#"{"l3CacheSchema": "L3:0=f\nMB:0=10", "memBwSchema": "MB:0=20", "schemata": ["L2:0=3"]}"#);
        let group = create(root.path(), &both).expect("made");
        assert_eq!(schemata(root.path(), "c1"), "L3:0=f\nMB:0=20\nL2:0=3\n");
        group.add(42).expect("added");
        assert_eq!(fs::read_to_string(root.path().join("c1/tasks")).ok().as_deref(), Some("42"));
        group.update(None, Some("MB:0=30")).expect("updated");
        assert_eq!(schemata(root.path(), "c1"), "MB:0=30\n");
        // In the real file system these are no files to be removed.
        for name in ["tasks", "schemata"] {
            fs::remove_file(root.path().join("c1").join(name)).expect("removed");
        }
        group.remove().expect("removed");
        assert!(!root.path().join("c1").exists());
    }

    #[test]
    fn a_named_group_is_compared_and_stays() {
        let root = root("    L3:0=00ff;1=00ff\n    MB:0= 20;1= 30\n");
        let create = |text| create(root.path(), &rdt(text));
        let found = create(r#"{"closID": "shared", "l3CacheSchema": "L3:0=ff"}"#).expect("found");
        found.remove().expect("nothing to do");
        assert!(root.path().join("shared").exists());
        let other = create(r#"{"closID": "shared", "l3CacheSchema": "L3:0=f;1=ff"}"#);
        assert!(matches!(other, Err(Error::Different { .. })));
        assert!(matches!(create(r#"{"closID": "missing"}"#), Err(Error::NoGroup(_))));
        let made = create(r#"{"closID": "new", "memBwSchema": "MB:0=20"}"#).expect("made");
        made.remove().expect("nothing to do");
        assert!(root.path().join("new").exists());
        let root_group = create(r#"{"closID": "/"}"#).expect("the root");
        root_group.add(7).expect("added");
        assert_eq!(fs::read_to_string(root.path().join("tasks")).ok().as_deref(), Some("7"));
    }

    #[test]
    fn monitoring_goes_with_the_container() {
        let root = root("");
        let group =
            create(root.path(), &rdt(r#"{"closID": "shared", "enableMonitoring": true}"#)).expect("found");
        let monitoring = root.path().join("shared/mon_groups/c1");
        assert!(monitoring.is_dir());
        group.remove().expect("removed");
        assert!(!monitoring.exists() && root.path().join("shared").exists());
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        for (text, field) in [
            (r#"{"closID": ".."}"#, "closID"),
            (r#"{"closID": "a/b"}"#, "closID"),
            (r#"{"memBwSchema": "MB:0=1\nL3:0=1"}"#, "memBwSchema"),
            (r#"{"schemata": ["a\nb"]}"#, "schemata"),
        ] {
            let error = check(&rdt(text)).expect_err(text).to_string();
            assert!(error.contains(field), "{error}");
        }
        assert!(check(&rdt(r#"{"closID": "/", "l3CacheSchema": "L3:0=f"}"#)).is_ok());
    }
}
