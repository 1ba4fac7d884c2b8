//! What state a container is in (runtime.md, "State"): read off its processes and files, never stored.

use std::fmt;

use serde::Serialize;

use super::{Container, Error, io_error, process};
use crate::cgroup::Cgroup;

/// The states of runtime.md, and `paused` as every runtime adds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// `create` has not finished.
    Creating,
    /// Set up, and waiting for `start`.
    Created,
    /// Its program runs.
    Running,
    /// Every process in it is suspended.
    Paused,
    /// Its init has ended.
    Stopped,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Status::Creating => "creating",
            Status::Created => "created",
            Status::Running => "running",
            Status::Paused => "paused",
            Status::Stopped => "stopped",
        })
    }
}

impl Container {
    /// The state the container is in at this moment.
    ///
    /// # Errors
    /// [`Error::Process`] and [`Error::Io`] when its init and its fifo cannot be looked at, [`Error::Cgroup`] when its
    /// freezer cannot be read.
    pub fn status(&self) -> Result<Status, Error> {
        let Some(init) = self.state.init else { return Ok(Status::Creating) };
        // The fifo goes away at the moment a container is started, and otherwise only after its init: so this is asked first.
        let fifo = self.fifo();
        let waits = fifo.try_exists().map_err(io_error(&fifo))?;
        if !init.is_alive()? {
            return Ok(Status::Stopped);
        }
        let frozen = self.state.cgroup.as_ref().map_or(Ok(None), Cgroup::freezer_state)?;
        if frozen.is_none() && self.is_of_another_boot() {
            return Ok(Status::Stopped);
        }
        Ok(match (frozen, waits) {
            (Some(true), _) => Status::Paused,
            (_, true) => Status::Created,
            (_, false) => Status::Running,
        })
    }

    /// Whether the host was booted since, so that pid and start time are somebody else's. Asked only of containers without a
    /// cgroup: no cgroup lives through that.
    pub(super) fn is_of_another_boot(&self) -> bool {
        self.state.boot.as_ref().zip(process::boot_id()).is_some_and(|(then, now)| *then != now)
    }

    /// What to say when a command failed because the container ended under its hands; `None` if it did not.
    pub fn ended(&self) -> Option<Error> {
        match self.reload() {
            Err(error @ Error::NotFound) => Some(error),
            Ok(now) => {
                let ending = now.state.init.is_none_or(|init| init.is_ending().unwrap_or(false))
                    || self.is_of_another_boot();
                ending.then_some(Error::NotRunning)
            }
            Err(_) => None,
        }
    }
}
