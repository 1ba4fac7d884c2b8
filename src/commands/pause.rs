//! `pause`: suspends every process of a container.

use crate::Error;
use crate::cli::Global;
use crate::container::{self, Container, Status};

/// Arguments of `pause`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Id of the container
    id: String,
}

/// Freezes the container's cgroup.
///
/// # Errors
/// A container that does not run, or is paused already; a freezer that does not do it.
pub fn run(args: &Args, global: &Global) -> Result<u8, Error> {
    let container = Container::load(&global.root, &args.id)?;
    match container.status()? {
        Status::Created | Status::Running => {}
        Status::Creating | Status::Paused | Status::Stopped => {
            return Err(container::Error::NotRunning.into());
        }
    }
    container.cgroup()?.freeze(true).map_err(Error::new)?;
    Ok(0)
}
