//! The end of a container: its processes, its cgroup, its files, in this order.
//!
//! Until everything else is gone the state file stays, so that `delete` can be tried again; then it goes first, and
//! from that moment on the container does not exist: nobody sees one that has lost half of its files.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};

use super::remains::{ASIDE, forget_aside, set_aside};
use super::turn::Turn;
use super::{CONFIG_FILE, Container, Error, Process, STATE_FILE, Status, restore};
use crate::cgroup::Cgroup;
use crate::{cgroup, hooks, log, resctrl, wasm};

/// How long a killed container may take to go away: processes in uninterruptible sleep end late.
const DEATH_SECONDS: u64 = 10;

/// How often what is to die is thawed, for somebody else may freeze it again.
const THAW_NANOSECONDS: i64 = 100_000_000;

impl Container {
    /// Removes a stopped container; with `force`, one in any state.
    ///
    /// # Errors
    /// [`Error::NotStopped`] without `force`; [`Error::NotFound`] if another command has deleted it meanwhile, which
    /// is as good with `force`.
    pub fn delete(self, force: bool) -> Result<(), Error> {
        let turn = if force { Turn::take_or_go_on(&self.directory)? } else { self.take_turn()?.map(Some) };
        // What it has become since we looked.
        let now = match turn.as_ref().map(|_| self.reload()) {
            None | Some(Err(Error::NotFound)) if force => return Ok(()),
            None => return Err(Error::NotFound),
            Some(now) => now?,
        };
        // A `create` that is at work could make process and cgroup behind our back. Once it cannot save them any more, it
        // fails, and takes them back itself.
        let now = if force && now.state.init.is_none() { now.set_aside() } else { now };
        match now.status() {
            Ok(Status::Stopped) => {}
            // As with runc, a container that was never started needs no force. Whoever removes the fifo has his way: we, or a
            // `start` at the same time.
            Ok(Status::Created) if !force => match fs::remove_file(now.fifo()) {
                Ok(()) => now.kill_and_wait()?,
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    return Err(Error::NotStopped { id: now.state.id, status: Status::Running });
                }
                Err(e) => return Err(Error::Io { path: now.fifo(), reason: e.into() }),
            },
            _ if force => now.kill_and_wait()?,
            Ok(status) => return Err(Error::NotStopped { id: now.state.id, status }),
            Err(error) => return Err(error),
        }
        now.remove(&self.directory, turn.flatten())
    }

    /// The container under a name that is no container's, with what it had become until then.
    fn set_aside(self) -> Self {
        let (Some(root), Some(name)) = (self.directory.parent(), self.directory.file_name()) else {
            return self;
        };
        let aside = root.join(ASIDE).join(name);
        match set_aside(&self.directory, &aside) {
            Ok(()) => Self::read(aside.clone(), &self.state.id).unwrap_or(Self { directory: aside, ..self }),
            // Where nothing can be renamed, perhaps something can be removed.
            Err(_) => self,
        }
    }

    /// The container as it is now, if it still is this one and no other of the same name.
    pub(super) fn reload(&self) -> Result<Self, Error> {
        let now = Self::read(self.directory.clone(), &self.state.id)?;
        if now.state.created == self.state.created { Ok(now) } else { Err(Error::NotFound) }
    }

    /// Whether it has been deleted.
    pub(super) fn is_gone(&self) -> bool {
        matches!(self.reload(), Err(Error::NotFound))
    }

    fn kill_and_wait(&self) -> Result<(), Error> {
        self.state.init.map_or(Ok(()), |init| end(init, self.state.cgroup.as_ref(), &self.state.id))
    }

    /// Whether another container lives in the cgroup that this one was to have, or below.
    fn shares_cgroup(&self, root: Option<&Path>) -> bool {
        self.state.cgroup.as_ref().is_some_and(|cgroup| is_others(cgroup, root, &self.state.id))
    }

    /// Removes what is left of a container whose init is dead, and whose directory was `place`.
    ///
    /// # Errors
    /// [`Error::Cgroup`], [`Error::Io`].
    fn remove(self, place: &Path, turn: Option<Turn>) -> Result<(), Error> {
        // It goes with the directory.
        let spec = if self.state.poststop { self.spec().ok() } else { None };
        if let Some(cgroup) = &self.state.cgroup {
            match self.state.init {
                Some(_) => remove_cgroup(cgroup, !self.state.own_pids)?,
                None if self.shares_cgroup(place.parent()) => {}
                // Its `create` has been killed, or is at work and will fail: whoever is in there came from it.
                None if self.directory.join(CONFIG_FILE).exists() => remove_cgroup(cgroup, true)?,
                // It may not have come to know whether somebody else is in there. A process of its own ends by itself.
                None => cgroup.remove().unwrap_or_else(|error| tracing::debug!("{error}")),
            }
        }
        if self.state.init.is_none() {
            restore::forget(place);
            wasm::sweep();
        }
        self.state.intel_rdt.as_ref().map_or(Ok(()), resctrl::Group::remove)?;
        remove_directory(&self.directory)?;
        if self.directory != place {
            forget_aside(place.parent());
        }
        // The hooks may take their time, and there is nothing left to wait for.
        drop(turn);
        if let Some(spec) = spec
            && let Some(hooks) = spec.hooks()
        {
            // The container is gone whatever they do (runtime.md, "Lifecycle").
            match hooks::Output::open(Some(hooks), &self.state.annotations) {
                Ok(output) => {
                    let moment = self.moment("poststop", Status::Stopped, None, &output);
                    moment.run_all(hooks.poststop().as_ref()).iter().for_each(log::warn);
                }
                Err(error) => log::warn(&error),
            }
        }
        Ok(())
    }
}

/// Whether a container that is not `id`'s has processes in a cgroup: nobody but its `create` checks that.
pub(super) fn is_others(cgroup: &Cgroup, root: Option<&Path>, id: &str) -> bool {
    let Some(root) = root else { return false };
    let others = super::ids(root).unwrap_or_default();
    others.iter().filter(|other| *other != id).filter_map(|other| Container::load(root, other).ok()).any(
        |other| {
            // One that cannot be looked at is left in peace.
            other.state.init.is_some_and(|init| init.is_alive().unwrap_or(true))
                && other.state.cgroup.is_some_and(|theirs| cgroup.holds(&theirs))
        },
    )
}

/// Kills a container's first process, and waits for its end.
pub(super) fn end(init: Process, cgroup: Option<&Cgroup>, id: &str) -> Result<(), Error> {
    let Some(pidfd) = init.open()? else { return Ok(()) };
    init.signal(libc::SIGKILL)?;
    let end = Instant::now() + Duration::from_secs(DEATH_SECONDS);
    while Instant::now() < end {
        if let Some(cgroup) = cgroup {
            // Frozen processes die when they thaw; a cgroup that is gone has none.
            let _ = cgroup.freeze(false);
        }
        match wait(&pidfd) {
            Ok(true) => return Ok(()),
            Ok(false) => {}
            Err(errno) => return Err(Error::Process { pid: init.pid, reason: errno.into() }),
        }
    }
    Err(Error::WillNotDie { id: id.to_owned(), seconds: DEATH_SECONDS })
}

/// Waits a moment for the end of a process.
fn wait(pidfd: &OwnedFd) -> Result<bool, rustix::io::Errno> {
    let timeout = Timespec { tv_sec: 0, tv_nsec: THAW_NANOSECONDS };
    match rustix::event::poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&timeout)) {
        Ok(ready) => Ok(ready == 1),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// Removes a cgroup. What is in there does not end with the container's init if they share their pids with the host; an
/// `exec` at the same time may bring in more.
pub(super) fn remove_cgroup(cgroup: &Cgroup, kill: bool) -> Result<(), cgroup::Error> {
    if !kill {
        return cgroup.remove();
    }
    cgroup.kill_all(libc::SIGKILL)?;
    cgroup.remove().or_else(|_| {
        cgroup.kill_all(libc::SIGKILL)?;
        cgroup.remove()
    })
}

/// Removes a container's directory, the state first.
pub(super) fn remove_directory(directory: &Path) -> Result<(), Error> {
    let state = directory.join(STATE_FILE);
    let gone = |e: &io::Error| matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory);
    match fs::remove_file(&state) {
        Err(e) if !gone(&e) && e.kind() != io::ErrorKind::IsADirectory => {
            return Err(Error::Io { path: state, reason: e.into() });
        }
        _ => {}
    }
    // Mostly there is nothing else.
    let _ = fs::remove_file(directory.join(CONFIG_FILE));
    if fs::remove_dir(directory).is_ok() {
        return Ok(());
    }
    loop {
        match fs::remove_dir_all(directory) {
            // A `create` that has not noticed yet made something more.
            Err(e) if e.kind() == io::ErrorKind::DirectoryNotEmpty => {}
            Err(e) if !gone(&e) => return Err(Error::Io { path: directory.to_owned(), reason: e.into() }),
            _ => return Ok(()),
        }
    }
}
