//! `delete`: the end of a container.

use crate::Error;
use crate::cli::Global;
use crate::container::{self, Container};

/// Arguments of `delete`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Kill the container if it still runs; an unknown id is no error
    #[arg(short, long)]
    force: bool,
    /// Id of the container
    id: String,
}

/// Deletes a container.
///
/// # Errors
/// A container that is not stopped; an unknown id. With `--force`, neither.
pub fn run(args: &Args, global: &Global) -> Result<u8, Error> {
    match Container::load(&global.root, &args.id) {
        Ok(container) => container.delete(args.force)?,
        // What a killed `create` or a foreign hand left can only be recognised by its place.
        Err(container::Error::NotFound | container::Error::Damaged { .. }) if args.force => {
            container::remove_leftovers(&global.root, &args.id)?;
        }
        Err(error) => return Err(error.into()),
    }
    Ok(0)
}
