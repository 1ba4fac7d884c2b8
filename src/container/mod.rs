//! A container as the runtime remembers it: a directory below `--root`, named by the container's id.
//!
//! It holds `state.json` (replaced by rename, so it is never seen half-written), `config.json` (the bundle's, as
//! it was when the container was created), and, between `create` and `start`, `exec.fifo`.
//!
//! Commands on one container may run at the same time. Of two that want the same, the file system picks one: making
//! the directory is `create`'s claim to the id, removing the fifo is `start`'s to the program, and a container without
//! a state file does not exist. Only those that end a container, stop it or write its files wait for one another
//! ([`turn`]); what is on the way of every start takes no lock. A command that finds the container ended under its
//! hands says that, and not what it missed first ([`Container::ended`]). (With runc 1.1, which has neither, one of two
//! `start`s may hang for good, and a `pause` may keep `delete --force` from killing.)

mod checkpoint;
mod create;
mod delete;
mod exec;
mod given;
mod lifecycle;
mod pidfd;
mod process;
mod remains;
mod restore;
mod served;
mod status;
mod turn;

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use oci_spec::OciSpecError;
use oci_spec::runtime::Spec;
use serde::{Deserialize, Serialize};

use crate::cgroup::Cgroup;
use crate::error::Os;
use crate::file::{self, Replacement};
use crate::resctrl;

pub use checkpoint::Checkpoint;
pub use create::{Attended, Create, Created, create};
pub use exec::{Exec, Executed, exec};
pub use process::{Process, signal};
pub use remains::{Remains, remove_remains};
pub use restore::{Restore, Restored, parse_streams, restore};
pub use status::Status;
pub use turn::Turn;

/// The file in a container's directory that says what it is.
const STATE_FILE: &str = "state.json";
/// The configuration the container was created from.
const CONFIG_FILE: &str = "config.json";
/// The fifo that a created container's init waits on.
const EXEC_FIFO: &str = "exec.fifo";

/// What can go wrong with a container as a whole.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "each variant says itself what happened")]
pub enum Error {
    #[error("invalid container ID format: {0:?}: it is empty, . or .., or longer than 1024 characters")]
    InvalidId(String),
    #[error(
        "invalid container ID format: invalid character `{character}` in the ID {id:?} (letters, digits and _+-. only)"
    )]
    InvalidCharacter { id: String, character: char },
    #[error("invalid regular expression {pattern:?}: {reason}")]
    Pattern { pattern: String, reason: String },
    #[error("container does not exist")]
    NotFound,
    #[error("container with given ID already exists")]
    Exists,
    #[error("{path}: {reason}")]
    Io { path: PathBuf, reason: Os },
    #[error("{path} is damaged, or not coracle's: {reason} (remove the container with delete --force)")]
    Damaged { path: PathBuf, reason: String },
    #[error("another command has been changing the container for {seconds} s")]
    Busy { seconds: u64 },
    #[error("the container was deleted while it was being created")]
    DeletedMeanwhile,
    #[error("container not running")]
    NotRunning,
    #[error("container not paused")]
    NotPaused,
    #[error("cannot start an already running container")]
    AlreadyRunning,
    #[error("cannot start a container that has stopped")]
    StartStopped,
    #[error("cannot start a container that is still being created")]
    StartCreating,
    #[error("cannot delete container {id} that is not stopped: {status}")]
    NotStopped { id: String, status: Status },
    #[error("container {id} did not stop within {seconds} s of being killed")]
    WillNotDie { id: String, seconds: u64 },
    #[error("cannot exec in a paused container (use --ignore-paused to override)")]
    ExecPaused,
    #[error("cannot exec in a stopped container")]
    ExecStopped,
    #[error("sending signal {signal} to process {pid}: {reason}")]
    Kill { signal: i32, pid: i32, reason: Os },
    #[error("looking for process {pid}: {reason}")]
    Process { pid: i32, reason: Os },
    #[error("the container has no cgroup")]
    NoCgroup,
    #[error(transparent)]
    Cgroup(#[from] crate::cgroup::Error),
    #[error("{0}")]
    Checkpoint(String),
    #[error(transparent)]
    Criu(#[from] crate::criu::Error),
    #[error(transparent)]
    Hook(#[from] crate::hooks::Error),
    #[error(transparent)]
    Config(#[from] crate::config::Error),
    #[error(transparent)]
    Rootfs(#[from] crate::rootfs::Error),
    #[error(transparent)]
    NetDevices(#[from] crate::net_devices::Error),
    #[error(transparent)]
    Console(#[from] crate::console::Error),
    #[error(transparent)]
    Foreground(#[from] crate::foreground::Error),
    #[error(transparent)]
    Seccomp(#[from] crate::seccomp::Error),
    #[error(transparent)]
    IntelRdt(#[from] resctrl::Error),
    #[error(transparent)]
    Notify(#[from] crate::notify::Error),
    #[error("--pidfd-socket: {path}: {reason}")]
    PidfdSocket { path: PathBuf, reason: Os },
    #[error("annotation {annotation}: {path}: {reason}")]
    Receiver { annotation: &'static str, path: String, reason: Os },
    #[error(transparent)]
    Wasm(#[from] crate::wasm::Error),
    #[error(transparent)]
    Handler(#[from] crate::handler::Error),
    #[error(transparent)]
    Init(#[from] crate::init::Error),
    #[error("writing pid file {path}: {reason}")]
    PidFile { path: PathBuf, reason: Os },
}

/// What is saved of a container. The names of the first fields are those of `state`'s output
/// (runtime.md, "State").
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct State {
    /// Version of the runtime specification that the configuration names.
    pub oci_version: String,
    /// The container's id.
    pub id: String,
    /// The process in the container that everything else hangs on; absent while it is being made.
    pub init: Option<Process>,
    /// Absolute path of the bundle.
    pub bundle: PathBuf,
    /// Absolute path of the root file system.
    pub rootfs: PathBuf,
    /// When it was created, RFC 3339.
    pub created: String,
    /// Name of the user who created it.
    pub owner: String,
    /// The configuration's annotations.
    pub annotations: HashMap<String, String>,
    /// Whether the end of its first process is the end of all (pid_namespaces(7)).
    #[serde(default)]
    pub own_pids: bool,
    /// Whether hooks are to be run when it is gone. A state that does not say leaves it to config.json.
    #[serde(default = "unless_said")]
    pub poststop: bool,
    /// Whether its processes stay in the session keyring of the engine.
    #[serde(default)]
    pub no_new_keyring: bool,
    /// Its share of caches and memory bandwidth.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub intel_rdt: Option<resctrl::Group>,
    /// Its cgroup; absent where cgroups are disabled or not ours to use.
    pub cgroup: Option<Cgroup>,
    /// When the host was booted: a pid and a start time mean another process after the next boot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot: Option<String>,
}

fn unless_said() -> bool {
    true
}

impl State {
    /// The state as others read it (runtime.md, "State"), with `pid` as they see the first process.
    ///
    /// # Errors
    /// None that could be helped.
    pub fn published(
        &self,
        status: Status,
        pid: Option<i32>,
    ) -> Result<oci_spec::runtime::State, OciSpecError> {
        use oci_spec::runtime::{ContainerState, StateBuilder};
        let status = match status {
            Status::Creating => ContainerState::Creating,
            Status::Created => ContainerState::Created,
            Status::Running | Status::Paused => ContainerState::Running,
            Status::Stopped => ContainerState::Stopped,
        };
        let mut state = StateBuilder::default()
            .version(&self.oci_version)
            .id(&self.id)
            .status(status)
            .bundle(&self.bundle)
            .annotations(self.annotations.clone())
            .build()?;
        state.set_pid(pid);
        Ok(state)
    }
}

/// A container: its directory, and what is written there.
#[derive(Clone, Debug)]
pub struct Container {
    directory: PathBuf,
    /// What is saved of it.
    pub state: State,
}

impl Container {
    /// Loads a container's state.
    ///
    /// # Errors
    /// An invalid id, [`Error::NotFound`], or [`Error::Damaged`] for a state file that is not ours.
    pub fn load(root: &Path, id: &str) -> Result<Self, Error> {
        Self::read(directory_of(root, id)?, id)
    }

    fn read(directory: PathBuf, id: &str) -> Result<Self, Error> {
        let path = directory.join(STATE_FILE);
        let bytes = match file::read_record(&path) {
            Ok(bytes) => bytes,
            // A directory without a state file is what a killed `create` leaves in its first moment, a killed `delete` in
            // its last.
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Err(Error::NotFound);
            }
            Err(e) if e.kind() == io::ErrorKind::IsADirectory => {
                return Err(Error::Damaged { path, reason: Os::from(e).to_string() });
            }
            Err(e) => return Err(Error::Io { path, reason: e.into() }),
        };
        Self::parse(directory, id, &bytes)
    }

    /// The container that a state file describes.
    ///
    /// # Errors
    /// [`Error::Damaged`] for a state file that is not ours, or another container's.
    pub fn parse(directory: PathBuf, id: &str, bytes: &[u8]) -> Result<Self, Error> {
        let path = directory.join(STATE_FILE);
        let state: State = serde_json::from_slice(bytes)
            .map_err(|e| Error::Damaged { path: path.clone(), reason: e.to_string() })?;
        if state.id != id {
            let reason = format!("it describes container {:?}", state.id);
            return Err(Error::Damaged { path, reason });
        }
        Ok(Self { directory, state })
    }

    /// Saves the state, so that a reader sees the old or the new one.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn save(&self) -> Result<(), Error> {
        self.prepare(STATE_FILE, &self.state)?.commit()
    }

    /// Keeps the bundle's configuration. That is done when the container has its cgroup, so that whoever finds it here knows
    /// that nobody else is in that; without it, the cgroup is only a plan.
    fn keep_config(&self, bytes: &[u8]) -> Result<(), Error> {
        let copy = self.directory.join(CONFIG_FILE);
        file::publish(&copy, bytes).map_err(io_error(&copy))
    }

    /// The configuration the container was created from, with the changes that `update` made to its
    /// resources.
    ///
    /// # Errors
    /// [`Error::Config`].
    pub fn spec(&self) -> Result<Spec, Error> {
        Ok(crate::config::read_again(&self.directory.join(CONFIG_FILE))?)
    }

    /// Writes another configuration beside the saved one, without the changes coming true yet.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn prepare_spec(&self, spec: &Spec) -> Result<Prepared, Error> {
        self.prepare(CONFIG_FILE, spec)
    }

    fn prepare(&self, name: &str, value: &impl Serialize) -> Result<Prepared, Error> {
        let path = self.directory.join(name);
        let bytes = serde_json::to_vec(value).map_err(io::Error::from);
        let written = bytes.and_then(|bytes| Replacement::prepare(&path, &bytes));
        written.map(Prepared).map_err(io_error(&path))
    }

    /// The cgroup, for the commands that cannot do without one.
    ///
    /// # Errors
    /// [`Error::NoCgroup`].
    pub fn cgroup(&self) -> Result<&Cgroup, Error> {
        self.state.cgroup.as_ref().ok_or(Error::NoCgroup)
    }

    /// Waits until no other command ends, stops or changes the container, and keeps them waiting until it is dropped.
    /// `None` if it does not exist any more.
    ///
    /// # Errors
    /// [`Error::Busy`], [`Error::Io`].
    pub fn take_turn(&self) -> Result<Option<Turn>, Error> {
        Turn::take(&self.directory)
    }

    fn fifo(&self) -> PathBuf {
        self.directory.join(EXEC_FIFO)
    }
}

/// A file of a container's that only has to be put into its place.
#[derive(Debug)]
pub struct Prepared(Replacement);

impl Prepared {
    /// Puts it there.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn commit(self) -> Result<(), Error> {
        let path = self.0.path().to_owned();
        self.0.commit().map_err(io_error(&path))
    }
}

/// The directory of a container, whether it exists or not.
///
/// # Errors
/// [`Error::InvalidId`], [`Error::InvalidCharacter`]: the id becomes part of paths, so it may hold no separator and not be `.` or `..`.
pub fn directory_of(root: &Path, id: &str) -> Result<PathBuf, Error> {
    let bad = |c: &char| !c.is_ascii_alphanumeric() && !matches!(c, '_' | '+' | '-' | '.');
    if id.is_empty() || id.len() > 1024 || id == "." || id == ".." {
        return Err(Error::InvalidId(id.to_owned()));
    }
    if let Some(character) = id.chars().find(bad) {
        return Err(Error::InvalidCharacter { id: id.to_owned(), character });
    }
    Ok(root.join(id))
}

/// The ids that a regular expression matches anywhere in, sorted.
///
/// # Errors
/// [`Error::Pattern`], and those of [`ids`].
pub fn matching(root: &Path, pattern: &str) -> Result<Vec<String>, Error> {
    let wanted = regex::Regex::new(pattern).map_err(|e| {
        let reason = e.to_string();
        // The last line says what is wrong; those before draw it.
        let reason = reason.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
        Error::Pattern { pattern: pattern.to_owned(), reason }
    })?;
    Ok(ids(root)?.into_iter().filter(|id| wanted.is_match(id)).collect())
}

/// The ids of all containers below `root`, sorted.
///
/// # Errors
/// [`Error::Io`] when the directory cannot be read; an absent one holds no containers.
pub fn ids(root: &Path) -> Result<Vec<String>, Error> {
    let io = |reason: io::Error| Error::Io { path: root.to_owned(), reason: reason.into() };
    let entries = match fs::read_dir(root) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(io(e)),
    };
    let mut ids = Vec::new();
    for entry in entries {
        let entry = entry.map_err(io)?;
        if entry.path().join(STATE_FILE).exists() {
            ids.extend(entry.file_name().into_string());
        }
    }
    ids.sort_unstable();
    Ok(ids)
}

/// Makes the error of something done to a path.
fn io_error(path: &Path) -> impl FnOnce(io::Error) -> Error {
    move |reason| Error::Io { path: path.to_owned(), reason: reason.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_that_would_leave_the_root_are_refused() {
        let root = Path::new("/run/coracle");
        for id in ["", ".", "..", "a/b", "../x", "a b", "é", &"a".repeat(1025)] {
            let message = directory_of(root, id).expect_err(id).to_string();
            assert!(message.starts_with("invalid container ID format"), "{message}");
        }
        for id in ["a", "A_b+c-d.e", ".hidden", "..."] {
            assert!(directory_of(root, id).is_ok(), "{id:?}");
        }
    }
}
