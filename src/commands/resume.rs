//! `resume`: lets the processes of a paused container go on.

use crate::Error;
use crate::cli::Global;
use crate::container::Container;

/// Arguments of `resume`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Id of the container
    id: String,
}

/// Thaws the container's cgroup.
///
/// # Errors
/// Those of [`Container::resume`].
pub fn run(args: &Args, global: &Global) -> Result<u8, Error> {
    Container::load(&global.root, &args.id)?.resume()?;
    Ok(0)
}
