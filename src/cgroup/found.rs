//! The cgroup of a container whose state is lost, found again by what else is known of it.
//!
//! What is found is going to be emptied and removed, so it must be a directory below the root of one of the host's
//! hierarchies, whoever wrote down where it is.

use std::path::{Component, Path, PathBuf};

use oci_spec::runtime::Spec;

use super::hierarchy::{self, Hierarchy};
use super::{Cgroup, Manager, systemd};

impl Cgroup {
    /// Where a container with this configuration has its cgroup, if it has one. A path that only systemd understands is for
    /// that.
    pub fn of_config(spec: &Spec, id: &str, rootless: bool) -> Option<Self> {
        let asked = super::asked_path(spec);
        let is_scope = asked.is_some_and(|path| path.to_string_lossy().split(':').count() == 3);
        if !is_scope {
            return Some(Self::found(Manager::Cgroupfs, hierarchy::locate(asked, id).ok()?, None));
        }
        let scope = systemd::Scope::new(asked, id, rootless, spec.annotations().as_ref()).ok()?;
        let path = Path::new("/").join(scope.directory().ok()?);
        Some(Self::found(Manager::Systemd, hierarchy::locate(Some(&path), id).ok()?, Some(scope)))
    }

    /// The cgroup that has these directories.
    pub fn at(directories: impl IntoIterator<Item = PathBuf>) -> Self {
        let hierarchies = directories.into_iter().filter_map(|path| hierarchy::of_directory(&path));
        Self::found(Manager::Cgroupfs, hierarchies.collect(), None)
    }

    /// The same without what is no directory below the root of a hierarchy of this host, if anything remains.
    #[must_use]
    pub fn on_this_host(mut self) -> Option<Self> {
        self.hierarchies.retain(|Hierarchy { mount, path, .. }| {
            let below = path.strip_prefix(mount).unwrap_or(Path::new(""));
            let is_plain = below.components().all(|component| matches!(component, Component::Normal(_)));
            let known = hierarchy::of_directory(path).is_some_and(|known| known.mount == *mount);
            is_plain && below.components().next().is_some() && known
        });
        (!self.hierarchies.is_empty()).then_some(self)
    }

    fn found(manager: Manager, hierarchies: Vec<Hierarchy>, scope: Option<systemd::Scope>) -> Self {
        Self { manager, hierarchies, scope, made: Vec::new(), pending: None, owner: None }
    }
}
