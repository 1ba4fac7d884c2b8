//! The systemd driver: the container's cgroup is a transient scope, which systemd makes and removes.
//!
//! libcgroups speaks D-Bus for us. It is told the limits that it can translate, so that a daemon-reload does not
//! undo them; all of them are then written to the files as well, as runc does, since systemd has no word for
//! many. It only does cgroup v2, which every systemd of the last years runs on.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use libcgroups::common::{CgroupManager, ControllerOpt, DEFAULT_CGROUP_ROOT};
use libcgroups::systemd::manager::{Manager, PROCESS_IN_CGROUP_TIMEOUT_DURATION};
use oci_spec::runtime::{LinuxCpu, LinuxMemory, LinuxResources};
use serde::{Deserialize, Serialize};

use super::Error;

/// What names a scope: `linux.cgroupsPath` is `slice:prefix:name`.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    slice: String,
    prefix: String,
    name: String,
    /// The user's own systemd instead of the system's.
    user: bool,
}

impl Scope {
    pub fn new(asked: Option<&Path>, id: &str, user: bool) -> Result<Self, Error> {
        if !libcgroups::systemd::booted() {
            return Err(Error::NoSystemd);
        }
        Self::parse(asked, id, user)
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
        Ok(Self { slice, prefix, name, user })
    }

    /// The scope's directory below the mount point of cgroup v2.
    pub fn directory(&self) -> Result<PathBuf, Error> {
        let unit = if self.name.ends_with(".slice") {
            self.name.clone()
        } else {
            format!("{}-{}.scope", self.prefix, self.name)
        };
        if unit.contains('/') {
            return Err(Error::UnitName(unit));
        }
        let manager = if self.user { user_manager() } else { PathBuf::new() };
        Ok(manager.join(expand_slice(&self.slice)?).join(unit))
    }

    fn manager(&self) -> Result<Manager, Error> {
        let path = format!("{}:{}:{}", self.slice, self.prefix, self.name);
        let patience = PROCESS_IN_CGROUP_TIMEOUT_DURATION;
        Manager::new(DEFAULT_CGROUP_ROOT.into(), path.into(), self.name.clone(), !self.user, patience)
            .map_err(systemd_error)
    }

    /// Starts the scope around a process.
    pub fn start(&self, pid: i32) -> Result<(), Error> {
        self.manager()?.add_task(nix::unistd::Pid::from_raw(pid)).map_err(systemd_error)
    }

    /// Tells systemd the limits that it knows.
    pub fn set_properties(&self, r: &LinuxResources) -> Result<(), Error> {
        let resources = translatable(r);
        let options = ControllerOpt {
            resources: &resources,
            disable_oom_killer: false,
            oom_score_adj: None,
            freezer_state: None,
        };
        self.manager()?.apply(&options).map_err(systemd_error)
    }

    /// Stops the scope, if it is still there.
    pub fn stop(&self) -> Result<(), Error> {
        self.manager()?.remove().map_err(systemd_error)
    }
}

fn systemd_error(error: impl std::fmt::Display) -> Error {
    Error::Systemd(error.to_string())
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

/// The cgroup of the user's systemd: above our own, or where systemd puts it.
fn user_manager() -> PathBuf {
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let own = own.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
    let is_manager = |path: &&Path| {
        path.file_name().is_some_and(|name| {
            let name = name.to_string_lossy();
            name.starts_with("user@") && name.ends_with(".service")
        })
    };
    Path::new(own).ancestors().find(is_manager).map(Path::to_path_buf).unwrap_or_else(|| {
        // In a user namespace we are 0; the bus's socket belongs to the user outside.
        let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).unwrap_or_default();
        let user = std::fs::metadata(runtime).map_or(0, |directory| directory.uid());
        format!("user.slice/user-{user}.slice/user@{user}.service").into()
    })
}

/// What libcgroups translates as we mean it: zero is not "nothing" to it, and of `unified` it takes some values for
/// others.
fn translatable(r: &LinuxResources) -> LinuxResources {
    let mut resources = LinuxResources::default();
    if let Some(memory) = r.memory() {
        let limit = memory.limit().filter(|value| *value != 0);
        let mut kept = LinuxMemory::default();
        kept.set_limit(limit);
        kept.set_reservation(memory.reservation().filter(|value| *value != 0));
        let swap = |total: &i64| *total == -1 || limit.is_some_and(|limit| limit > 0 && *total >= limit);
        kept.set_swap(memory.swap().filter(swap));
        resources.set_memory(Some(kept));
    }
    if let Some(cpu) = r.cpu() {
        let mut kept = LinuxCpu::default();
        kept.set_shares(cpu.shares().filter(|value| *value != 0));
        if let Some(quota) = cpu.quota().filter(|value| *value > 0) {
            kept.set_quota(Some(quota));
            kept.set_period(cpu.period().filter(|value| *value != 0).or(Some(100_000)));
        }
        kept.set_cpus(cpu.cpus().clone().filter(|list| !list.is_empty()));
        kept.set_mems(cpu.mems().clone().filter(|list| !list.is_empty()));
        resources.set_cpu(Some(kept));
    }
    resources.set_pids(r.pids().filter(|pids| pids.limit() > 0));
    resources
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
        let directory = |path: Option<&str>| {
            let scope = Scope::parse(path.map(Path::new), "x1", false)?;
            Ok::<_, Error>(scope.directory()?.display().to_string())
        };
        assert_eq!(directory(Some("machine.slice:libpod:7")).unwrap(), "machine.slice/libpod-7.scope");
        assert_eq!(directory(None).unwrap(), "system.slice/coracle-x1.scope");
        let message = directory(Some("/a/b")).unwrap_err().to_string();
        assert!(message.contains("slice:prefix:name") && message.contains("/a/b"), "{message}");
        assert!(directory(Some("a.slice:../x:y")).is_err());
    }
}
