//! `start`: the program of a created container.

use crate::Error;
use crate::cli::Global;
use crate::container::Container;

/// Arguments of `start`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Id of the container
    id: String,
}

/// Starts a container.
///
/// # Errors
/// Those of [`Container::start`].
pub fn run(args: &Args, global: &Global) -> Result<u8, Error> {
    Container::load(&global.root, &args.id)?.start()?;
    Ok(0)
}
