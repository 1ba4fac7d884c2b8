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

use crate::Error;

/// Does something with every container of a list. One failure does not keep the others from their turn: all are told, and
/// the last is the command's own.
fn each(ids: Vec<String>, act: impl Fn(&str) -> Result<(), Error>) -> Result<u8, Error> {
    let failures = ids.iter().filter_map(|id| act(id).err().map(|e| Error::new(format_args!("{id}: {e}"))));
    let mut failures: Vec<Error> = failures.collect();
    let Some(last) = failures.pop() else { return Ok(0) };
    for failure in failures {
        eprintln!("{failure}");
    }
    Err(last)
}
