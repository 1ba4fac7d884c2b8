//! `pause`: suspends every process of a container.

use crate::Error;
use crate::cli::Global;
use crate::container::Container;

/// Arguments of `pause`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Id of the container
    id: String,
}

/// Freezes the container's cgroup.
///
/// # Errors
/// Those of [`Container::pause`].
pub fn run(args: &Args, global: &Global) -> Result<u8, Error> {
    Container::load(&global.root, &args.id)?.pause()?;
    Ok(0)
}
