//! What state a container is in (runtime.md, "State"): read off its processes and files, never stored.

use std::fmt;

use serde::Serialize;

use super::{Container, Error};

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
    /// [`Error::Cgroup`] when its freezer cannot be read.
    pub fn status(&self) -> Result<Status, Error> {
        let Some(init) = self.state.init else { return Ok(Status::Creating) };
        if !init.is_alive() {
            return Ok(Status::Stopped);
        }
        if let Some(cgroup) = &self.state.cgroup
            && cgroup.is_frozen()?
        {
            return Ok(Status::Paused);
        }
        // The fifo goes away at the moment a container is started.
        Ok(if self.fifo().exists() { Status::Created } else { Status::Running })
    }
}
