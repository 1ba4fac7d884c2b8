//! The systemd driver: the container's cgroup is a transient scope, which systemd makes around the first process and
//! removes, and in which it leaves everything to us (`Delegate`).
//!
//! Limits go both ways: as properties, so that systemd does not undo them, and to the files, since it has no word for
//! many.

mod annotations;
mod bus;
mod properties;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use oci_spec::runtime::LinuxResources;
use serde::{Deserialize, Serialize};
use zbus::Variant;

use super::Error;
use super::devices::Policy;

pub use bus::{Bus, Error as BusError, Property};
pub use properties::rounded;

/// crun's annotation: a cgroup below the scope, for the container; systemd does not touch what is in there.
const SUBGROUP: &str = "run.oci.systemd.subgroup";

/// What names a scope: `linux.cgroupsPath` is `slice:prefix:name`.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    slice: String,
    prefix: String,
    name: String,
    /// The user's own systemd instead of the system's.
    user: bool,
    /// Where the container is below the scope.
    subgroup: Option<String>,
}

impl Scope {
    pub fn new(
        asked: Option<&Path>,
        id: &str,
        rootless: bool,
        annotations: Option<&HashMap<String, String>>,
    ) -> Result<Self, Error> {
        if !booted() {
            return Err(Error::NoSystemd);
        }
        // Root of a user namespace may have a systemd of its own there, or be an ordinary user's.
        let user = rootless && (!rustix::process::geteuid().is_root() || bus::user_address().is_ok());
        let mut scope = Self::parse(asked, id, user)?;
        let subgroup = annotations.and_then(|all| all.get(SUBGROUP)).filter(|name| !name.is_empty());
        scope.subgroup = subgroup.map(|name| below(SUBGROUP, name)).transpose()?;
        Ok(scope)
    }

    fn parse(asked: Option<&Path>, id: &str, user: bool) -> Result<Self, Error> {
        let default_slice = if user { "user.slice" } else { "system.slice" };
        let [slice, prefix, name] = match asked {
            None => ["", "coracle", id].map(str::to_owned),
            Some(asked) => {
                let parts: Vec<String> = asked.to_string_lossy().split(':').map(str::to_owned).collect();
                parts.try_into().map_err(|_| Error::ScopePath(asked.into()))?
            }
        };
        let slice = if slice.is_empty() { default_slice.to_owned() } else { slice };
        let scope = Self { slice, prefix, name, user, subgroup: None };
        let unit = scope.unit();
        if unit.contains('/') {
            return Err(Error::UnitName(unit));
        }
        expand_slice(&scope.slice)?;
        Ok(scope)
    }

    /// The unit's name. Who asks for a slice by its suffix gets one.
    fn unit(&self) -> String {
        if self.is_slice() { self.name.clone() } else { format!("{}-{}.scope", self.prefix, self.name) }
    }

    fn is_slice(&self) -> bool {
        self.name.ends_with(".slice")
    }

    /// Whether the user's own systemd has it.
    pub fn is_users(&self) -> bool {
        self.user
    }

    /// The container's directory below the mount point of a hierarchy. The user's systemd is asked where it is itself.
    pub fn directory(&self) -> Result<PathBuf, Error> {
        let manager =
            if self.user { Bus::open(true)?.manager_property("ControlGroup")? } else { String::new() };
        self.directory_below(manager.trim_start_matches('/'))
    }

    fn directory_below(&self, manager: &str) -> Result<PathBuf, Error> {
        let scope = Path::new(manager).join(expand_slice(&self.slice)?).join(self.unit());
        Ok(match &self.subgroup {
            Some(subgroup) => scope.join(subgroup),
            None => scope,
        })
    }

    /// The scope's own directory, given the container's.
    pub fn top<'p>(&self, directory: &'p Path) -> &'p Path {
        let depth = self.subgroup.as_ref().map_or(0, |name| Path::new(name).components().count());
        directory.ancestors().nth(depth).unwrap_or(directory)
    }

    /// Starts the scope around a process.
    pub fn start(&self, pid: i32, on_v1: bool, asked: &[Property]) -> Result<(), Error> {
        let property = |name: &str, value| (name.to_owned(), value);
        let yes = |name| property(name, Variant::Bool(true));
        let mut properties =
            vec![property("Description", Variant::new(format!("coracle container {}", self.name)))];
        if self.is_slice() {
            properties.push(property("Wants", Variant::new(vec![self.slice.clone()])));
        } else {
            properties.push(property("Slice", Variant::new(self.slice.clone())));
            properties.push(yes("Delegate"));
        }
        properties.push(property("PIDs", Variant::new(vec![pid.cast_unsigned()])));
        // Figures are wanted of every container, limited or not.
        let io = if on_v1 { "BlockIOAccounting" } else { "IOAccounting" };
        properties.extend(["MemoryAccounting", "CPUAccounting", io, "TasksAccounting"].map(yes));
        // A container does not end with basic.target.
        properties.push(property("DefaultDependencies", Variant::Bool(false)));
        for (name, value) in asked {
            properties.push(property(name, value.try_clone().map_err(BusError::from)?));
        }
        Ok(Bus::open(self.user)?.start_transient_unit(&self.unit(), &properties)?)
    }

    /// Tells systemd the limits that it knows.
    pub fn set_properties(
        &self,
        r: &LinuxResources,
        on_v1: bool,
        devices: Option<&Policy>,
    ) -> Result<(), Error> {
        let mut bus = Bus::open(self.user)?;
        let version = version(&bus.manager_property("Version")?);
        let properties = properties::of(r, on_v1, version, devices)?;
        Ok(bus.set_unit_properties(&self.unit(), &properties)?)
    }

    /// Stops the scope, if it is still there.
    pub fn stop(&self) -> Result<(), Error> {
        Ok(Bus::open(self.user)?.stop_unit(&self.unit())?)
    }
}

/// The properties that annotations ask for.
pub fn asked_properties(annotations: Option<&HashMap<String, String>>) -> Result<Vec<Property>, Error> {
    annotations::properties(annotations)
}

/// The value of an annotation that names a cgroup below another.
pub fn below(annotation: &'static str, name: &str) -> Result<String, Error> {
    let path = Path::new(name);
    let plain = path.components().all(|component| matches!(component, std::path::Component::Normal(_)));
    if plain { Ok(name.to_owned()) } else { Err(Error::Below { annotation, name: name.into() }) }
}

/// As sd_booted(3).
pub fn booted() -> bool {
    std::fs::symlink_metadata("/run/systemd/system").is_ok_and(|directory| directory.is_dir())
}

/// The number in `252.30-1~deb12u2` or `v245.4`. A version that cannot be read is an old one.
fn version(text: &str) -> u32 {
    let text = text.trim_start_matches('v');
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    text[..end].parse().unwrap_or(0)
}

/// `user-1000.slice` is in `user.slice`: a slice's name is its path (systemd.slice(5)).
fn expand_slice(slice: &str) -> Result<PathBuf, Error> {
    let bad = || Error::SliceName(slice.into());
    let name = slice.strip_suffix(".slice").filter(|name| !name.contains('/')).ok_or_else(bad)?;
    if name == "-" {
        return Ok(PathBuf::new());
    }
    let mut path = PathBuf::new();
    let mut prefix = String::new();
    for part in name.split('-') {
        if part.is_empty() {
            return Err(bad());
        }
        prefix += part;
        path.push(format!("{prefix}.slice"));
        prefix.push('-');
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_expand_to_paths() {
        let expand = |slice: &str| expand_slice(slice).ok().map(|path| path.display().to_string());
        assert_eq!(expand("a-b-c.slice").as_deref(), Some("a.slice/a-b.slice/a-b-c.slice"));
        assert_eq!(expand("machine.slice").as_deref(), Some("machine.slice"));
        assert_eq!(expand("-.slice").as_deref(), Some(""));
        for bad in ["a", "a/b.slice", "a--b.slice", ".slice"] {
            assert_eq!(expand(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_scope_is_named_by_three_parts() {
        let directory = |path: Option<&str>, user: bool, manager: &str| {
            let scope = Scope::parse(path.map(Path::new), "x1", user)?;
            Ok::<_, Error>(scope.directory_below(manager)?.display().to_string())
        };
        let system = |path| directory(path, false, "");
        assert_eq!(system(Some("machine.slice:libpod:7")).unwrap(), "machine.slice/libpod-7.scope");
        assert_eq!(system(Some(":a:b")).unwrap(), "system.slice/a-b.scope");
        assert_eq!(system(Some("a.slice:b:a-c.slice")).unwrap(), "a.slice/a-c.slice");
        assert_eq!(system(None).unwrap(), "system.slice/coracle-x1.scope");
        let own = "user.slice/user-7.slice/user@7.service";
        assert_eq!(directory(None, true, own).unwrap(), format!("{own}/user.slice/coracle-x1.scope"));
        let message = system(Some("/a/b")).unwrap_err().to_string();
        assert!(message.contains("slice:prefix:name") && message.contains("/a/b"), "{message}");
        assert!(system(Some("a.slice:../x:y")).is_err());
        assert!(system(Some("a:x:y")).is_err());
    }

    #[test]
    fn a_subgroup_is_below_the_scope() {
        let mut scope = Scope::parse(None, "x", false).unwrap();
        scope.subgroup = Some("in/ner".into());
        let directory = scope.directory_below("").unwrap();
        assert_eq!(directory, Path::new("system.slice/coracle-x.scope/in/ner"));
        assert_eq!(scope.top(&directory), Path::new("system.slice/coracle-x.scope"));
        assert!(below(SUBGROUP, "../x").is_err() && below(SUBGROUP, "/x").is_err());
    }

    #[test]
    fn versions_are_read_from_their_text() {
        for (text, number) in [("252.30-1~deb12u2", 252), ("v245.4-1.fc32", 245), ("239", 239), ("?", 0)] {
            assert_eq!(version(text), number, "{text}");
        }
    }
}
