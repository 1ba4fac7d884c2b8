//! The verbs of the command line, one file each: its arguments, and what it does with a container.

pub mod checkpoint;
pub mod completion;
pub mod create;
pub mod delete;
pub mod events;
pub mod exec;
pub mod features;
pub mod kill;
pub mod list;
pub mod mounts;
pub mod pause;
pub mod ps;
pub mod restore;
pub mod resume;
pub mod run;
pub mod spec;
pub mod start;
pub mod state;
pub mod update;
pub mod wasm;

use std::fmt::Display;
use std::io::Write;

use crate::Error;
use crate::error::Os;

/// Prints a line of what was asked for.
///
/// # Errors
/// Standard output is closed, or a file on a full disk.
fn print(line: impl Display) -> Result<(), Error> {
    writeln!(std::io::stdout(), "{line}")
        .map_err(|e| Error::new(format_args!("standard output: {}", Os::from(e))))
}

/// Tells on standard error what is no reason to end. Nobody may be there to listen.
fn tell(line: impl Display) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Does something with every container of a list. One failure does not keep the others from their turn: all are told, and
/// the last is the command's own.
fn each(ids: Vec<String>, act: impl Fn(&str) -> Result<(), Error>) -> Result<u8, Error> {
    let failures = ids.iter().filter_map(|id| act(id).err().map(|e| Error::new(format_args!("{id}: {e}"))));
    let mut failures: Vec<Error> = failures.collect();
    let Some(last) = failures.pop() else { return Ok(0) };
    for failure in failures {
        tell(failure);
    }
    Err(last)
}
