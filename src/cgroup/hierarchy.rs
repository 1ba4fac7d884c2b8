//! Which cgroup hierarchies this host has, and where a container's cgroup is in each.
//!
//! Three layouts exist: v1 (one hierarchy per controller or few controllers), v2 (one for all), and the
//! hybrid one, where most controllers are v1 and a v2 hierarchy beside them holds the rest, or none. They
//! are not told apart here: a host is a list of [`Hierarchy`], and each controller is in one of them.

use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Error, file};

const CGROUP_ROOT: &str = "/sys/fs/cgroup";

/// The controllers of v1, by the names that /proc/self/mountinfo shows among other mount options.
const V1_CONTROLLERS: [&str; 14] = [
    "cpuset",
    "cpu",
    "cpuacct",
    "blkio",
    "memory",
    "devices",
    "freezer",
    "net_cls",
    "perf_event",
    "net_prio",
    "hugetlb",
    "pids",
    "rdma",
    "misc",
];

/// The two interfaces of cgroups(7): their files differ in names and in meaning.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Version {
    V1,
    V2,
}

/// One hierarchy, and the container's directory in it.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Hierarchy {
    pub version: Version,
    /// v1: what it controls, `name=systemd` for the one that controls nothing. v2: empty, the kernel tells
    /// for each directory.
    pub controllers: Vec<String>,
    pub mount: PathBuf,
    /// The container's own directory, below `mount`.
    pub path: PathBuf,
}

impl Hierarchy {
    /// Its name below /sys/fs/cgroup, in the host and so in the container: `memory`, `cpu,cpuacct`,
    /// `systemd`; empty where it is /sys/fs/cgroup itself.
    pub fn name(&self) -> String {
        match self.mount.strip_prefix(CGROUP_ROOT) {
            Ok(name) => name.display().to_string(),
            Err(_) => self.mount.file_name().unwrap_or_default().display().to_string(),
        }
    }
}

/// A mounted hierarchy.
#[derive(Debug, PartialEq, Eq)]
struct Mount {
    version: Version,
    controllers: Vec<String>,
    /// The cgroup that is visible at `point`: `/`, but for a container without a cgroup namespace.
    root: PathBuf,
    point: PathBuf,
}

/// The container's directory in every hierarchy of this host. `asked` is `linux.cgroupsPath`.
///
/// An absolute path counts from the root of each hierarchy. A relative one, which the specification leaves to the
/// runtime, counts from the cgroup of the caller, as in runc; without a path it is the container's id.
pub fn locate(asked: Option<&Path>, id: &str) -> Result<Vec<Hierarchy>, Error> {
    let mounts = mounts()?;
    let asked = asked.unwrap_or(Path::new(id));
    let relative = clean(asked).ok_or_else(|| Error::Path(asked.into()))?;
    if asked.is_absolute() {
        return Ok(place(mounts, |_| relative.clone()));
    }
    let own = file::read_record(Path::new("/proc/self"), "cgroup")?;
    let unified_only = mounts.iter().all(|mount| mount.version == Version::V2);
    Ok(place(mounts, |mount| {
        let own = own_cgroup(&own, mount);
        // A v2 cgroup with processes cannot give controllers to its children, and ours has at least one: the
        // container goes beside it.
        let parent = if unified_only { own.parent().unwrap_or(&own) } else { &own };
        parent.join(&relative)
    }))
}

fn place(mounts: Vec<Mount>, relative: impl Fn(&Mount) -> PathBuf) -> Vec<Hierarchy> {
    let place = |mount: Mount| {
        let path = mount.point.join(relative(&mount));
        Hierarchy { version: mount.version, controllers: mount.controllers, mount: mount.point, path }
    };
    mounts.into_iter().map(place).collect()
}

/// The hierarchy that a directory is in.
pub fn of_directory(path: &Path) -> Option<Hierarchy> {
    let found = mounts().ok()?.into_iter().filter(|mount| path.starts_with(&mount.point));
    // Beneath /sys/fs/cgroup/unified, that is the nearer one.
    let Mount { version, controllers, point, .. } =
        found.max_by_key(|mount| mount.point.as_os_str().len())?;
    Some(Hierarchy { version, controllers, mount: point, path: path.to_owned() })
}

/// `path` without `.` and `..`, relative to the root, which `..` does not leave. `None` if nothing remains: the
/// root cgroup is not a container's.
fn clean(path: &Path) -> Option<PathBuf> {
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => drop(clean.pop()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    (clean != Path::new("")).then_some(clean)
}

/// Whether this host has cgroup v2 alone.
pub fn is_unified() -> bool {
    const CGROUP2_SUPER_MAGIC: rustix::fs::FsWord = 0x6367_7270;
    rustix::fs::statfs(CGROUP_ROOT).is_ok_and(|fs| fs.f_type == CGROUP2_SUPER_MAGIC)
}

/// The hierarchies that are mounted on this host.
fn mounts() -> Result<Vec<Mount>, Error> {
    // Most hosts have v2 alone: one statfs(2) instead of a list of every mount.
    if is_unified() {
        let (root, point) = (PathBuf::from("/"), PathBuf::from(CGROUP_ROOT));
        return Ok(vec![Mount { version: Version::V2, controllers: Vec::new(), root, point }]);
    }
    let mounts = parse_mountinfo(&file::read(Path::new("/proc/self"), "mountinfo")?);
    if mounts.is_empty() {
        return Err(Error::NotMounted);
    }
    Ok(mounts)
}

/// The cgroup mounts among the lines of /proc/self/mountinfo (proc_pid_mountinfo(5)), one for each hierarchy:
/// the one below /sys/fs/cgroup where there are several, as the root file systems of other containers have
/// their own.
fn parse_mountinfo(text: &str) -> Vec<Mount> {
    let mut mounts: Vec<Mount> = Vec::new();
    for mount in text.lines().filter_map(parse_mount) {
        let twin = |other: &Mount| other.version == mount.version && other.controllers == mount.controllers;
        match mounts.iter_mut().find(|other| twin(other)) {
            None => mounts.push(mount),
            Some(other) if !other.point.starts_with(CGROUP_ROOT) => *other = mount,
            Some(_) => {}
        }
    }
    mounts
}

fn parse_mount(line: &str) -> Option<Mount> {
    let (mount, filesystem) = line.split_once(" - ")?;
    let (mut mount, mut filesystem) = (mount.split(' '), filesystem.split(' '));
    let version = match filesystem.next()? {
        "cgroup" => Version::V1,
        "cgroup2" => Version::V2,
        _ => return None,
    };
    let (root, point) = (unescape(mount.nth(3)?), unescape(mount.next()?));
    let is_controller = |option: &&str| V1_CONTROLLERS.contains(option) || option.starts_with("name=");
    let controllers: Vec<String> = match version {
        Version::V1 => filesystem.nth(1)?.split(',').filter(is_controller).map(str::to_owned).collect(),
        Version::V2 => Vec::new(),
    };
    Some(Mount { version, controllers, root, point })
}

/// Blanks, tabs, newlines and backslashes are written as octal escapes in mountinfo.
fn unescape(field: &str) -> PathBuf {
    let replace = |text: String, (from, to)| text.replace(from, to);
    let text = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
    text.into_iter().fold(field.to_owned(), replace).into()
}

/// Our own cgroup in a hierarchy, relative to what is visible at its mount point. `text` is /proc/self/cgroup.
fn own_cgroup(text: &str, mount: &Mount) -> PathBuf {
    let is_ours = |line: &&str| {
        let controllers = line.split(':').nth(1).unwrap_or_default();
        match mount.version {
            Version::V1 => controllers.split(',').eq(mount.controllers.iter().map(String::as_str)),
            Version::V2 => controllers.is_empty(),
        }
    };
    let path = text.lines().find(is_ours).and_then(|line| line.splitn(3, ':').nth(2)).unwrap_or("/");
    let path = Path::new(path);
    let below = path.strip_prefix(&mount.root).unwrap_or(Path::new(""));
    clean(below).unwrap_or_default()
}

/// The v2 directory of a process.
pub fn v2_directory_of(pid: i32, mount: &Path) -> Option<PathBuf> {
    let text = file::slurp(Path::new(&format!("/proc/{pid}/cgroup"))).ok()?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::"))?;
    // What is outside of our cgroup namespace begins with `..`.
    Some(mount.join(clean(Path::new(path)).unwrap_or_default())).filter(|_| !path.starts_with("/.."))
}

/// The controllers that a v2 directory has: those that its ancestors pass down.
pub fn v2_controllers(dir: &Path) -> Result<Vec<String>, Error> {
    Ok(file::read(dir, "cgroup.controllers")?.split_whitespace().map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 /docker/a /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw,nsdelegate
50 31 0:32 / /var/lib/x/sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
51 31 0:40 / /odd\\040place rw - cgroup cgroup rw,release_agent=/cpu,pids
";

    #[test]
    fn mountinfo_gives_each_hierarchy_once() {
        let mounts = parse_mountinfo(HYBRID);
        let names: Vec<_> = mounts.iter().map(|m| (m.controllers.join(","), m.point.clone())).collect();
        let expected = [
            ("cpu,cpuacct", "/sys/fs/cgroup/cpu,cpuacct"),
            ("memory", "/sys/fs/cgroup/memory"),
            ("name=systemd", "/sys/fs/cgroup/systemd"),
            ("", "/sys/fs/cgroup/unified"),
            ("pids", "/odd place"),
        ];
        assert_eq!(names, expected.map(|(names, point)| (names.to_owned(), point.into())));
        assert_eq!(mounts[3].version, Version::V2);
    }

    #[test]
    fn own_cgroup_is_relative_to_what_is_mounted() {
        let own = "9:name=systemd:/\n4:memory:/docker/a/b\n1:cpu,cpuacct:/x:y\n0::/u\n";
        let mounts = parse_mountinfo(HYBRID);
        let own: Vec<_> = mounts.iter().map(|mount| own_cgroup(own, mount)).collect();
        assert_eq!(own, ["x:y", "b", "", "u", ""].map(PathBuf::from));
    }

    #[test]
    fn a_path_cannot_leave_the_hierarchy() {
        let clean = |path: &str| clean(Path::new(path)).map(|p| p.display().to_string());
        assert_eq!(clean("/a/b").as_deref(), Some("a/b"));
        assert_eq!(clean("a/./b/").as_deref(), Some("a/b"));
        assert_eq!(clean("../../etc/x").as_deref(), Some("etc/x"));
        assert_eq!(clean("/a/../../b").as_deref(), Some("b"));
        assert_eq!(clean("/"), None);
        assert_eq!(clean("a/.."), None);
    }

    #[test]
    fn names_in_the_container_are_those_of_the_host() {
        let at = |mount: &str| Hierarchy {
            version: Version::V1,
            controllers: Vec::new(),
            mount: mount.into(),
            path: PathBuf::new(),
        };
        assert_eq!(at("/sys/fs/cgroup/cpu,cpuacct").name(), "cpu,cpuacct");
        assert_eq!(at("/sys/fs/cgroup").name(), "");
        assert_eq!(at("/cgroup/memory").name(), "memory");
    }
}
