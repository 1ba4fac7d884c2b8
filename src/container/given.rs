//! What a new process gets from its parent, who has the rights for it: cgroup, a place in the queue of the out-of-memory
//! killer.

use std::os::fd::OwnedFd;

use oci_spec::runtime::{Process as SpecProcess, Spec};

use super::Error;
use crate::cgroup::{self, Cgroup};
use crate::cli::Global;
use crate::init;
use crate::procfs::Procfs;

pub(super) fn plan_cgroup(spec: &Spec, id: &str, global: &Global) -> Result<Option<Cgroup>, Error> {
    let cgroup = Cgroup::plan(spec, id, global.cgroup_manager, global.rootless)?;
    // Without one, only limits that were asked for are an error.
    Ok((global.cgroup_manager != cgroup::Manager::Disabled).then_some(cgroup))
}

/// How a new process gets into its container's cgroup: on v2 by the clone, on v1 by itself, for a parent that moves it
/// would take a lock of the whole kernel, which costs milliseconds.
#[derive(Debug, Default)]
pub(super) struct JoinCgroup {
    /// What is cloned into.
    pub(super) v2: Option<OwnedFd>,
    /// What the process itself enters.
    pub(super) v1: Option<cgroup::Entrance>,
    by_parent: bool,
    /// The process to go to where the container's own cgroup takes none.
    beside: Option<i32>,
}

impl JoinCgroup {
    /// Opens the ways in; `cloned` says whether the process can be cloned into a cgroup.
    pub(super) fn open(cgroup: Option<&Cgroup>, cloned: bool, beside: Option<i32>) -> Result<Self, Error> {
        let Some(cgroup) = cgroup else { return Ok(Self::default()) };
        let v2 = cgroup.into_fd()?;
        let v1 = cgroup.entrance()?;
        // A systemd scope begins with its first process, which the parent names.
        let by_parent = v1.is_none() || (v2.is_some() && !cloned);
        Ok(Self { v2, v1, by_parent, beside })
    }

    /// What is left for the parent to do.
    pub(super) fn finish(&self, cgroup: Option<&Cgroup>, pid: i32) -> Result<(), Error> {
        match cgroup {
            Some(cgroup) if self.by_parent => {
                match self.beside {
                    Some(other) => cgroup.add_beside(pid, other)?,
                    None => cgroup.add(pid)?,
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

/// Written from outside: in a user namespace, the process itself could not lower it.
pub(super) fn set_oom_score(
    pid: i32,
    process: &SpecProcess,
    procfs: &Procfs,
    rootless: bool,
) -> Result<(), Error> {
    let Some(score) = process.oom_score_adj() else { return Ok(()) };
    match procfs.write(&format!("{pid}/oom_score_adj"), &score.to_string()) {
        // An ordinary user may only raise it, and podman passes down what its own process has.
        Err(init::Error::Write { reason, .. })
            if rootless && matches!(reason.errno(), Some(libc::EACCES | libc::EPERM)) =>
        {
            Ok(())
        }
        result => Ok(result?),
    }
}
