//! What `delete --force` does about a container whose state cannot be read: it looks for process and cgroup in what
//! there still is, and removes the rest.
//!
//! A state file that is JSON, or the configuration beside it, usually still tells the cgroup, and that its processes.
//! Nothing is believed that may be about another container: not a state file with another id in it, no pid without its
//! start time, no cgroup in which another container of this root lives.
//!
//! The directory is set aside first, under a name that is no container's: a `create` that is at work in there can
//! then save nothing any more, and fails.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::delete::{end, is_others, remove_cgroup, remove_directory};
use super::turn::Turn;
use super::{CONFIG_FILE, Container, Error, Process, STATE_FILE, directory_of, io_error};
use crate::cgroup::Cgroup;
use crate::cli::Global;
use crate::{config, file, log};

/// Where directories are set aside, below the root. No id begins like that and has a state file directly in it.
pub(super) const ASIDE: &str = ".deleted";

/// Removes what is left of a container whose state cannot be read, as far as it can be found.
///
/// # Errors
/// [`Error::InvalidId`], [`Error::Io`], [`Error::Cgroup`], [`Error::WillNotDie`].
pub fn remove_remains(global: &Global, id: &str) -> Result<(), Error> {
    let directory = directory_of(&global.root, id)?;
    let aside = global.root.join(ASIDE).join(id);
    if aside.exists() {
        // That of a `delete` that was killed.
        clear(&aside, id, global)?;
    }
    let Some(turn) = Turn::take_or_go_on(&directory)? else { return remove_stray(&directory) };
    // Its `create` may have got further meanwhile.
    if let Ok(container) = Container::load(&global.root, id) {
        drop(turn);
        return container.delete(true);
    }
    match set_aside(&directory, &aside) {
        Ok(()) => clear(&aside, id, global),
        // Where nothing can be renamed, perhaps something can be removed.
        Err(_) => clear(&directory, id, global),
    }
}

/// Removes a file that has the name of a container.
fn remove_stray(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        // A container that has been created since.
        Err(e) if e.kind() == io::ErrorKind::IsADirectory => Ok(()),
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(io_error(path)(e)),
        _ => Ok(()),
    }
}

/// Renames a container's directory, so that nobody else gets at it.
pub(super) fn set_aside(directory: &Path, aside: &Path) -> io::Result<()> {
    let place = aside.parent().ok_or(io::ErrorKind::InvalidInput)?;
    match fs::create_dir(place) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
        _ => {}
    }
    fs::rename(directory, aside)
}

/// Removes the place for them with the last of them.
pub(super) fn forget_aside(root: Option<&Path>) {
    let _ = root.map(|root| fs::remove_dir(root.join(ASIDE)));
}

/// Kills and removes what can be told from a directory, and the directory.
fn clear(directory: &Path, id: &str, global: &Global) -> Result<(), Error> {
    let remains = Remains::find(directory, id, global);
    if let Some(init) = remains.init {
        end(init, remains.cgroup.as_ref(), id)?;
    }
    match &remains.cgroup {
        Some(cgroup) if is_others(cgroup, Some(&global.root), id) => {}
        // Without either it is only a plan, and whoever is in there came from elsewhere.
        Some(cgroup) => {
            remove_cgroup(cgroup, remains.init.is_some() || directory.join(CONFIG_FILE).exists())?
        }
        None if remains.init.is_none() && directory.join(STATE_FILE).exists() => log::warn(&format!(
            "container {id}: neither {STATE_FILE} nor {CONFIG_FILE} tells what belongs to it; a process of it that \
             still runs goes on"
        )),
        None => {}
    }
    remove_directory(directory)?;
    forget_aside(Some(&global.root));
    Ok(())
}

/// What can still be told of a container.
#[derive(Debug, Default)]
pub struct Remains {
    /// Its first process.
    pub init: Option<Process>,
    /// Its cgroup: below the root of a hierarchy of this host, for everybody in there is going to be killed.
    pub cgroup: Option<Cgroup>,
}

impl Remains {
    fn find(directory: &Path, id: &str, global: &Global) -> Self {
        let state = file::read(&directory.join(STATE_FILE)).unwrap_or_default();
        Self::of(&state, || config::read_again(&directory.join(CONFIG_FILE)).ok(), id, global.rootless)
    }

    /// What a state file, in whatever condition, or else the configuration tells of container `id`.
    pub fn of(state: &[u8], config: impl FnOnce() -> Option<Spec>, id: &str, rootless: bool) -> Self {
        let state = serde_json::from_slice(state).unwrap_or(Value::Null);
        let mut found = if state["id"] == id { Self::of_state(&state) } else { Self::default() };
        let planned = || Cgroup::of_config(&config()?, id, rootless)?.on_this_host();
        found.cgroup = found.cgroup.and_then(Cgroup::on_this_host).or_else(planned);
        found
    }

    /// Ours with something wrong in it, or runc's.
    fn of_state(state: &Value) -> Self {
        /// The first process, in runc's words.
        #[derive(Deserialize)]
        struct RuncInit {
            init_process_pid: i32,
            init_process_start: u64,
        }
        let runcs = part::<RuncInit>(state);
        let runcs = runcs.map(|i| Process { pid: i.init_process_pid, start_time: i.init_process_start });
        let paths = part::<BTreeMap<String, PathBuf>>(&state["cgroup_paths"]);
        Self {
            init: part(&state["init"]).or(runcs),
            cgroup: part(&state["cgroup"]).or_else(|| Some(Cgroup::at(paths?.into_values()))),
        }
    }
}

fn part<T: DeserializeOwned>(value: &Value) -> Option<T> {
    T::deserialize(value).ok()
}
