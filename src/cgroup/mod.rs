//! The container's cgroup: made before any of its processes, limited, joined, frozen, killed, removed.
//!
//! [`Cgroup`] is self-contained: what `create` finds out about the host is saved with the container, and no later
//! command has to find it out again. Making and joining are on the way of every start, so this is our own code:
//! libcgroups reads /proc/self/mountinfo once for each controller.

mod bpf;
mod delegation;
mod devices;
mod error;
mod file;
mod found;
mod freezer;
mod hierarchy;
mod processes;
mod resources;
mod scope;
mod stats;
mod sub;
mod systemd;
#[cfg(test)]
mod tests;
mod v1;
mod v2;

use std::borrow::Cow;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use oci_spec::runtime::{LinuxResources, Spec};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use hierarchy::{Hierarchy, Version};

pub use error::Error;
pub use hierarchy::is_unified;
pub use processes::Entrance;
pub use stats::Stats;
pub use sub::Place;

/// Who makes cgroups.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Manager {
    /// We do, in the cgroup file systems.
    Cgroupfs,
    /// systemd, asked over D-Bus.
    Systemd,
    /// Nobody: containers stay in the cgroup of the caller.
    Disabled,
}

/// A container's cgroup, in every hierarchy of the host.
#[derive(Serialize, Deserialize, Clone, Debug)]
pub struct Cgroup {
    manager: Manager,
    /// The hierarchies in which the container has a cgroup of its own.
    hierarchies: Vec<Hierarchy>,
    scope: Option<systemd::Scope>,
    /// Every directory that `create` made. Not saved: only the command that made them may take back more than
    /// the container's own.
    #[serde(skip)]
    made: Vec<PathBuf>,
    /// What waits for the systemd scope to be there.
    #[serde(skip)]
    pending: Option<Pending>,
    /// Who on the host may manage a v2 cgroup and what is below it: somebody in the container.
    #[serde(skip)]
    owner: Option<u32>,
}

#[derive(Clone, Debug)]
struct Pending {
    resources: LinuxResources,
    /// Properties of the scope that annotations ask for.
    properties: Arc<[systemd::Property]>,
}

/// crun's annotation: a cgroup below the container's, made when the cgroup namespace is there, so that the container
/// sees what is above it and may divide it up.
const DELEGATED: &str = "run.oci.delegate-cgroup";

impl Cgroup {
    /// Finds out where the container's cgroup is to be. Nothing is made yet, so that its place can be noted first.
    ///
    /// # Errors
    /// See [`Error`]; each names its file or field.
    pub fn plan(spec: &Spec, id: &str, manager: Manager, rootless: bool) -> Result<Self, Error> {
        let asked = asked_path(spec);
        let resources = asked_resources(spec);
        let owner = delegation::owner(spec);
        let mut cgroup =
            Self { manager, hierarchies: Vec::new(), scope: None, made: Vec::new(), pending: None, owner };
        match manager {
            Manager::Disabled => match resources::first_limit(&resources) {
                Some(field) => return Err(Error::LimitWithoutCgroup { field }),
                None => return Ok(cgroup),
            },
            Manager::Systemd => {
                let annotations = spec.annotations().as_ref();
                let scope = systemd::Scope::new(asked, id, rootless, annotations)?;
                let properties = systemd::asked_properties(annotations)?.into();
                if scope.is_users() && !is_unified() {
                    return Err(Error::RootlessOnV1);
                }
                cgroup.hierarchies = hierarchy::locate(Some(&Path::new("/").join(scope.directory()?)), id)?;
                cgroup.scope = Some(scope);
                cgroup.pending = Some(Pending { resources: systemd::rounded(&resources), properties });
            }
            Manager::Cgroupfs => cgroup.hierarchies = hierarchy::locate(asked, id)?,
        }
        Ok(cgroup)
    }

    /// Makes what was planned and applies `linux.resources` to it; systemd's part comes with the first process. With an
    /// error, nothing that was made is left.
    ///
    /// Where `rootless` and no `linux.cgroupsPath` asks for a certain place, a hierarchy that may not be written
    /// is left out; that is an error only where a limit needs it.
    ///
    /// # Errors
    /// See [`Error`]; each names its file or field.
    pub fn make(&mut self, spec: &Spec, rootless: bool) -> Result<(), Error> {
        if self.manager != Manager::Cgroupfs {
            return Ok(());
        }
        let optional = rootless && asked_path(spec).is_none();
        let resources = asked_resources(spec);
        self.make_directories(&resources, optional)
            .and_then(|()| self.limit(&resources, rootless, false))
            .and_then(|()| self.hand_over(rootless))
            .inspect_err(|_| processes::unmake(&self.made))
    }

    /// Whether v1 hierarchies hold the container, beside v2 or alone.
    fn on_v1(&self) -> bool {
        self.hierarchies.iter().any(|hierarchy| hierarchy.version == Version::V1)
    }

    /// On v2 alone: beside v1, nobody in a container sees the v2 hierarchy as his own.
    fn hand_over(&self, rootless: bool) -> Result<(), Error> {
        let (Some(owner), Some(dir), false) =
            (self.owner, resources::v2_directory(&self.hierarchies), self.on_v1())
        else {
            return Ok(());
        };
        match delegation::hand_over(dir, Some(owner), None) {
            // Without the right to give files away, it stays ours, as everything else of an ordinary user.
            Err(error) if rootless => {
                tracing::debug!("{error}");
                Ok(())
            }
            result => result,
        }
    }

    /// Makes a directory in each hierarchy.
    fn make_directories(&mut self, resources: &LinuxResources, optional: bool) -> Result<(), Error> {
        let all = std::mem::take(&mut self.hierarchies);
        let pure_v2 = all.iter().all(|hierarchy| hierarchy.version == Version::V2);
        let on_v1: Vec<String> = all.iter().flat_map(|h| h.controllers.iter().cloned()).collect();
        for hierarchy in all {
            match self.make_one(&hierarchy, pure_v2, &on_v1, resources) {
                Ok(()) => self.hierarchies.push(hierarchy),
                Err(error) if optional && error.is_permission() => {}
                Err(error) => return Err(error),
            }
        }
        match resources::first_limit(resources) {
            Some(field) if self.hierarchies.is_empty() => Err(Error::LimitWithoutCgroup { field }),
            _ => Ok(()),
        }
    }

    fn make_one(
        &mut self,
        hierarchy: &Hierarchy,
        pure_v2: bool,
        on_v1: &[String],
        resources: &LinuxResources,
    ) -> Result<(), Error> {
        let Hierarchy { version, controllers, mount, path } = hierarchy;
        let has = |name: &str| controllers.iter().any(|controller| controller == name);
        let new = match version {
            Version::V1 => v1::make_path(path, &mut self.made)?,
            Version::V2 if pure_v2 => v2::make(mount, path, None, &mut self.made)?,
            // Beside v1, the v2 hierarchy is asked only for what v1 does not have.
            Version::V2 => {
                let mut wanted = resources::v2_controllers_asked(resources);
                wanted.retain(|name| !on_v1.iter().any(|other| other == name));
                v2::make(mount, path, Some(&wanted), &mut self.made)?
            }
        };
        if has("cpuset") {
            v1::fill_cpuset(path, mount, new)?;
        }
        if !new {
            let only = std::slice::from_ref(hierarchy);
            let pure = pure_v2 && *version == Version::V2;
            // Another container's processes would be limited, and killed, with ours.
            if has("devices") || pure {
                match processes::pids(only)?.len() {
                    0 => {}
                    count => return Err(Error::NotEmpty(count)),
                }
            }
            // Joining a frozen cgroup would stop us for good.
            if (has("freezer") || pure) && freezer::is_frozen(only)? {
                return Err(Error::Frozen);
            }
        }
        Ok(())
    }

    /// Limits and device rules. Device rules are no limit that a rootless user could expect to have.
    fn limit(&self, resources: &LinuxResources, rootless: bool, in_use: bool) -> Result<(), Error> {
        resources::apply(&self.hierarchies, resources)?;
        let rules = resources.devices().as_deref().unwrap_or_default();
        match self.apply_devices(rules, in_use) {
            // In a user namespace, the kernel lets nobody write them.
            Err(error) if rootless || crate::rootless::in_user_namespace() => {
                tracing::debug!("device rules left out: {error}");
                Ok(())
            }
            result => result,
        }
    }

    fn apply_devices(
        &self,
        rules: &[oci_spec::runtime::LinuxDeviceCgroup],
        in_use: bool,
    ) -> Result<(), Error> {
        let policy = devices::Policy::of(rules)?;
        if let Some(dir) = resources::v1_directory(&self.hierarchies, "devices") {
            return devices::apply_v1(dir, &policy, in_use);
        }
        match resources::v2_directory(&self.hierarchies) {
            Some(dir) => devices::apply_v2(dir, &policy),
            None => Err(Error::NoDevices),
        }
    }

    /// Moves the container's first process to a cgroup below the container's and hands that over, if the annotation
    /// asks for it. The process has its namespaces by now.
    ///
    /// # Errors
    /// [`Error::DelegatedOnV1`], and whatever keeps it from being made.
    pub fn delegate(&self, spec: &Spec, pid: i32) -> Result<(), Error> {
        let annotations = spec.annotations().as_ref();
        let Some(name) = annotations.and_then(|all| all.get(DELEGATED)).filter(|name| !name.is_empty())
        else {
            return Ok(());
        };
        let name = systemd::below(DELEGATED, name)?;
        let [hierarchy @ Hierarchy { version: Version::V2, .. }] = &self.hierarchies[..] else {
            return Err(Error::DelegatedOnV1);
        };
        let below = Hierarchy { path: hierarchy.path.join(name), ..hierarchy.clone() };
        v1::make_path(&below.path, &mut Vec::new())?;
        processes::add(&below, pid)?;
        v2::make(&below.mount, &below.path, None, &mut Vec::new())?;
        let linux = spec.linux().as_ref();
        let root = |mappings: &Option<Vec<oci_spec::runtime::LinuxIdMapping>>| {
            crate::userns::on_host(mappings.as_deref().unwrap_or_default(), 0)
        };
        let (user, group) =
            (linux.and_then(|l| root(l.uid_mappings())), linux.and_then(|l| root(l.gid_mappings())));
        if user.is_none() && group.is_none() {
            return Ok(());
        }
        delegation::hand_over(&below.path, user, group)
    }

    /// The v2 directory, for clone3(2)'s `CLONE_INTO_CGROUP`; `None` on v1, and before a systemd scope is there.
    ///
    /// # Errors
    /// [`Error::Open`]
    pub fn into_fd(&self) -> Result<Option<OwnedFd>, Error> {
        let directory = resources::v2_directory(&self.hierarchies).filter(|_| self.pending.is_none());
        directory.map(open_directory).transpose()
    }

    /// The way into the v1 hierarchies for a process that goes itself, to be opened before it is cloned into
    /// [`Cgroup::into_fd`]; together they stand for [`Cgroup::add`] and cost a fraction of it. `None` where only
    /// `add` will do: before a systemd scope is there.
    ///
    /// # Errors
    /// [`Error::Open`]
    pub fn entrance(&self) -> Result<Option<Entrance>, Error> {
        if self.pending.is_some() {
            return Ok(None);
        }
        Entrance::open(&self.hierarchies).map(Some)
    }

    /// Moves a process into the cgroup. With systemd, the first one starts the scope, and the limits come into
    /// force here.
    ///
    /// # Errors
    /// [`Error::Write`] with the file of the hierarchy that refused it.
    pub fn add(&self, pid: i32) -> Result<(), Error> {
        if let (Some(scope), Some(pending)) = (&self.scope, &self.pending) {
            return self.start_scope(scope, pending, pid);
        }
        self.hierarchies.iter().try_for_each(|hierarchy| processes::add(hierarchy, pid))
    }

    /// Moves a process to where another one of the container is: on v2, a cgroup that has given controllers to the
    /// cgroups below it takes no processes itself (cgroup-v2.rst, "No Internal Process Constraint").
    ///
    /// # Errors
    /// As [`Cgroup::add`].
    pub fn add_beside(&self, pid: i32, other: i32) -> Result<(), Error> {
        match self.add(pid) {
            Err(error) if error.errno() == Some(Errno::BUSY) => match self.directory_of(other) {
                Some(path) => processes::write_pid(&path, pid),
                None => Err(error),
            },
            result => result,
        }
    }

    /// The v2 directory in which a process of the container is, for clone3(2).
    ///
    /// # Errors
    /// [`Error::Open`]
    pub fn beside_fd(&self, other: i32) -> Result<Option<OwnedFd>, Error> {
        self.directory_of(other).as_deref().map(open_directory).transpose()
    }

    fn directory_of(&self, pid: i32) -> Option<PathBuf> {
        let v2 = self.hierarchies.iter().find(|hierarchy| hierarchy.version == Version::V2)?;
        hierarchy::v2_directory_of(pid, &v2.mount)
    }

    /// Changes limits of a cgroup in use. Fields that are not given stay as they are; device rules, where given,
    /// replace all those before.
    ///
    /// # Errors
    /// See [`Error`]; each names its file or field. What was written before stays.
    pub fn apply(&self, resources: &LinuxResources) -> Result<(), Error> {
        if let (Some(field), true) = (resources::first_limit(resources), self.hierarchies.is_empty()) {
            return Err(Error::LimitWithoutCgroup { field });
        }
        let rounded;
        let resources = match &self.scope {
            Some(scope) => {
                rounded = systemd::rounded(resources);
                self.change_scope(scope, &rounded)?;
                &rounded
            }
            None => resources,
        };
        resources::apply(&self.hierarchies, resources)?;
        match resources.devices() {
            Some(rules) => self.apply_devices(rules, true),
            None => Ok(()),
        }
    }

    /// Freezes every process of the container, or lets them go on; returns once it has come to pass.
    ///
    /// # Errors
    /// [`Error::NoFreezer`] without a cgroup, [`Error::FreezeTimeout`] where the kernel did not manage it.
    pub fn freeze(&self, frozen: bool) -> Result<(), Error> {
        freezer::freeze(&self.hierarchies, frozen)
    }

    /// Whether the container has been frozen.
    ///
    /// # Errors
    /// [`Error::Read`]
    pub fn is_frozen(&self) -> Result<bool, Error> {
        freezer::is_frozen(&self.hierarchies)
    }

    /// As [`Cgroup::is_frozen`], and `None` where there is no freezer to ask, or not any more.
    ///
    /// # Errors
    /// [`Error::Read`]
    pub fn freezer_state(&self) -> Result<Option<bool>, Error> {
        freezer::state(&self.hierarchies)
    }

    /// The directory whose freezer stops every process of the container.
    pub fn freezer(&self) -> Option<&Path> {
        resources::v1_directory(&self.hierarchies, "freezer")
            .or_else(|| resources::v2_directory(&self.hierarchies))
    }

    /// Every process of the container, in our own pid namespace, those in nested cgroups included.
    ///
    /// # Errors
    /// [`Error::Read`]
    pub fn pids(&self) -> Result<Vec<i32>, Error> {
        processes::pids(&self.hierarchies)
    }

    /// Whether it is there: not after `remove`, and not where cgroups are disabled or out of reach.
    pub fn exists(&self) -> bool {
        processes::directories(&self.hierarchies).any(Path::exists)
    }

    /// Whether another cgroup is this one, or nested in it, in any hierarchy.
    pub fn holds(&self, other: &Self) -> bool {
        let inside =
            |theirs: &Path| processes::directories(&self.hierarchies).any(|ours| theirs.starts_with(ours));
        processes::directories(&other.hierarchies).any(inside)
    }

    /// Sends a signal to every process of the container. `SIGKILL` reaches frozen ones too.
    ///
    /// # Errors
    /// Of freezing, and of reading the list of processes.
    pub fn kill_all(&self, signal: i32) -> Result<(), Error> {
        processes::kill_all(&self.hierarchies, signal)
    }

    /// What the container uses and has used.
    ///
    /// # Errors
    /// [`Error::Read`], [`Error::NotANumber`]
    pub fn stats(&self) -> Result<Stats, Error> {
        stats::collect(&self.hierarchies)
    }

    /// The directory and the file in it that change when the kernel kills for want of memory, and the version of
    /// their hierarchy.
    pub(crate) fn memory_directory(&self) -> Option<(&Path, bool)> {
        let v1 = resources::v1_directory(&self.hierarchies, "memory").map(|dir| (dir, false));
        v1.or_else(|| resources::v2_directory(&self.hierarchies).map(|dir| (dir, true)))
    }

    /// Removes the cgroup and those nested in it. In the command that made it, the directories above that it had
    /// to make go as well, unless others use them by now.
    ///
    /// # Errors
    /// [`Error::Remove`] where a process stays in it for longer than a second. Every hierarchy is tried.
    pub fn remove(&self) -> Result<(), Error> {
        let mut result = Ok(());
        if let Some(scope) = &self.scope {
            // Of v1, systemd removes what it made itself; it is all removed even if systemd does not answer.
            result = scope.stop();
        }
        for dir in processes::directories(&self.hierarchies) {
            let top = self.scope.as_ref().map_or(dir, |scope| scope.top(dir));
            result = result.and(processes::remove(top));
        }
        processes::unmake(&self.made);
        result
    }

    /// Where the container's cgroup is on the host, and what its hierarchy is called below /sys/fs/cgroup.
    pub fn mounts(&self) -> Vec<(PathBuf, String)> {
        self.hierarchies.iter().map(|hierarchy| (hierarchy.path.clone(), hierarchy.name())).collect()
    }
}

fn asked_path(spec: &Spec) -> Option<&Path> {
    let path = spec.linux().as_ref().and_then(|linux| linux.cgroups_path().as_deref());
    path.filter(|path| !path.as_os_str().is_empty())
}

fn asked_resources(spec: &Spec) -> Cow<'_, LinuxResources> {
    let asked = spec.linux().as_ref().and_then(|linux| linux.resources().as_ref());
    asked.map_or_else(|| Cow::Owned(LinuxResources::default()), Cow::Borrowed)
}

fn open_directory(path: &Path) -> Result<OwnedFd, Error> {
    rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| Error::Open { path: path.to_owned(), reason: errno.into() })
}
