//! A cgroup that is a systemd scope: what systemd is told, and what is left for us beside it.

use oci_spec::runtime::LinuxResources;

use super::hierarchy::{Hierarchy, Version};
use super::{Cgroup, Error, Pending, devices, processes, resources, systemd, v1, v2};

impl Cgroup {
    /// Starts the systemd scope around its first process, and completes what systemd does not do.
    pub(super) fn start_scope(
        &self,
        scope: &systemd::Scope,
        pending: &Pending,
        pid: i32,
    ) -> Result<(), Error> {
        let on_v1 = self.on_v1();
        scope.start(pid, on_v1, &pending.properties)?;
        for hierarchy in &self.hierarchies {
            let Hierarchy { version, controllers, mount, path } = hierarchy;
            // These are systemd's own, which has the process in the scope already.
            let systemds = *version == Version::V2 || controllers.iter().any(|name| name == "name=systemd");
            if !(systemds && path.exists()) {
                let new = v1::make_path(path, &mut Vec::new())?;
                if controllers.iter().any(|name| name == "cpuset") {
                    v1::fill_cpuset(path, mount, new)?;
                }
                processes::add(hierarchy, pid)?;
            }
            // Once no process is in the scope itself it may give controllers to a cgroup below.
            if !on_v1 {
                v2::make(mount, path, None, &mut Vec::new())?;
            }
        }
        let rules = pending.resources.devices().as_deref().unwrap_or_default();
        let policy = devices::Policy::of(rules)?;
        scope.set_properties(&pending.resources, on_v1, Some(&policy))?;
        self.limit(&pending.resources, scope.is_users(), true)?;
        self.hand_over(scope.is_users())
    }

    /// Tells systemd of limits of a scope in use.
    pub(super) fn change_scope(
        &self,
        scope: &systemd::Scope,
        resources: &LinuxResources,
    ) -> Result<(), Error> {
        let on_v1 = self.on_v1();
        if let Some(dir) = resources::v2_directory(&self.hierarchies).filter(|_| !on_v1) {
            // systemd does not ask before the kernel kills.
            v2::check_before_update(dir, resources)?;
        }
        let policy = resources.devices().as_deref().map(devices::Policy::of).transpose()?;
        // On v1, systemd denies every device for a moment; nobody must be there to notice.
        let freeze = on_v1 && policy.is_some() && !self.is_frozen()?;
        if freeze {
            self.freeze(true)?;
        }
        let result = scope.set_properties(resources, on_v1, policy.as_ref());
        if freeze {
            self.freeze(false)?;
        }
        result
    }
}
