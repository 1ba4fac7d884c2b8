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
    /// Take the id for a regular expression, and delete every container it matches
    #[arg(short, long)]
    regex: bool,
    /// Id of the container
    id: String,
}

/// Deletes a container, or all that match.
///
/// # Errors
/// A container that is not stopped; an unknown id. With `--force`, neither. One failure does not keep the others from
/// being deleted.
pub fn run(args: &Args, global: &Global) -> Result<u8, Error> {
    if !args.regex {
        delete(&args.id, args.force, global)?;
        return Ok(0);
    }
    super::each(container::matching(&global.root, &args.id)?, |id| delete(id, args.force, global))
}

fn delete(id: &str, force: bool, global: &Global) -> Result<(), Error> {
    match Container::load(&global.root, id) {
        Ok(container) => container.delete(force)?,
        Err(error @ (container::Error::InvalidId(_) | container::Error::InvalidCharacter { .. })) => {
            return Err(error.into());
        }
        // What a killed `create` or a foreign hand left can only be recognised by its place.
        Err(_) if force => container::remove_remains(global, id)?,
        Err(error) => return Err(error.into()),
    }
    Ok(())
}
