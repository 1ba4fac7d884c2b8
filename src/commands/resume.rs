//! `resume`: lets the processes of a paused container go on.

use crate::Error;
use crate::cli::Global;
use crate::container::{Container, Status};

/// Arguments of `resume`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Id of the container
    id: String,
}

/// Thaws the container's cgroup.
///
/// # Errors
/// A container that is not paused.
pub fn run(args: &Args, global: &Global) -> Result<u8, Error> {
    let container = Container::load(&global.root, &args.id)?;
    if container.status()? != Status::Paused {
        return Err(Error::new("container not paused"));
    }
    container.cgroup()?.freeze(false).map_err(Error::new)?;
    Ok(0)
}
