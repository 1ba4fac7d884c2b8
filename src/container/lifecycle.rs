//! What happens to a container after it was created: started, signalled, deleted.

use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use oci_spec::runtime::{LinuxNamespaceType, Spec};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{Mode, OFlags};

use super::{Container, Error, Process, Status, directory_of};
use crate::{config, hooks, log, notify, resctrl};

/// How long a killed container may take to go away: processes in uninterruptible sleep end late.
const DEATH_SECONDS: u64 = 10;

impl Container {
    /// Runs the program of a created container, and returns when it runs.
    ///
    /// # Errors
    /// [`Error::AlreadyRunning`] and [`Error::StartStopped`]; a poststart hook's failure does not undo the start
    /// (runtime.md, "Lifecycle"), it is only returned.
    pub fn start(self) -> Result<(), Error> {
        match self.status()? {
            Status::Created => {}
            // A frozen init reads the fifo once it is resumed.
            Status::Paused if self.fifo().exists() => {}
            Status::Stopped | Status::Creating => return Err(Error::StartStopped),
            Status::Running | Status::Paused => return Err(Error::AlreadyRunning),
        }
        let notify = notify::Proxy::open(&self.directory)?;
        let path = self.fifo();
        let io = |errno: rustix::io::Errno| Error::Io { path: path.clone(), reason: errno.into() };
        let fifo =
            match rustix::fs::open(&path, OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())
            {
                Ok(fifo) => fifo,
                Err(rustix::io::Errno::NXIO) => return Err(Error::StartStopped),
                Err(rustix::io::Errno::NOENT) => return Err(Error::AlreadyRunning),
                Err(errno) => return Err(io(errno)),
            };
        // Of two who start it at once, the one who removes the fifo does.
        match fs::remove_file(&path) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(Error::AlreadyRunning),
            Err(e) => return Err(Error::Io { path, reason: e.into() }),
        }
        rustix::io::write(&fifo, b"0").map_err(io)?;
        let spec = self.spec()?;
        // init's end closes with its exec. A frozen one cannot get there, so this does not wait for it.
        if self.state.cgroup.as_ref().is_none_or(|c| !c.is_frozen().unwrap_or(false)) {
            let mut poll = [PollFd::new(&fifo, PollFlags::empty())];
            while matches!(rustix::event::poll(&mut poll, None), Err(rustix::io::Errno::INTR)) {}
        }
        config::process(&spec)?;
        if let Err(error) = self.run_poststart_hooks(&spec) {
            // The hook's error is the one to report.
            let _ = self.delete(true);
            return Err(error);
        }
        if let (Some(proxy), Some(init)) = (notify, self.state.init)
            && let Some(pidfd) = init.open()
        {
            proxy.serve(&pidfd, Some(init.pid))?;
        }
        Ok(())
    }

    /// Runs the hooks of the moment after the program's start. When one fails, the container is to be deleted (runtime.md,
    /// "Lifecycle").
    ///
    /// # Errors
    /// [`Error::Hook`].
    pub(crate) fn run_poststart_hooks(&self, spec: &Spec) -> Result<(), Error> {
        let Some(hooks) = spec.hooks() else { return Ok(()) };
        let output = hooks::Output::open(Some(hooks), &self.state.annotations)?;
        let pid = self.state.init.map(|p| p.pid);
        Ok(self.moment("poststart", Status::Running, pid, &output).run(hooks.poststart().as_ref())?)
    }

    fn moment<'a>(
        &'a self,
        kind: &'static str,
        status: Status,
        pid: Option<i32>,
        output: &'a hooks::Output,
    ) -> hooks::Moment<'a> {
        let directory = Some(self.state.bundle.as_path()).filter(|bundle| bundle.is_dir());
        hooks::Moment { kind, state: &self.state, status, pid, environment: None, directory, output }
    }

    /// Sends a signal to the container's init, or to all of its processes.
    ///
    /// # Errors
    /// [`Error::NotRunning`] when there is nobody to receive it.
    pub fn kill(&self, signal: i32, all: bool) -> Result<(), Error> {
        let status = self.status()?;
        // The end of init ends the others only in a pid namespace of their own; elsewhere they may outlive it.
        if all || (signal == libc::SIGKILL && !self.has_own_pids()) {
            return match self.kill_all(signal)? {
                false if status == Status::Stopped && !all => Err(Error::NotRunning),
                _ => Ok(()),
            };
        }
        if matches!(status, Status::Stopped | Status::Creating) {
            return Err(Error::NotRunning);
        }
        let init = self.state.init.ok_or(Error::NotRunning)?;
        match init.signal(signal) {
            Ok(true) => {}
            Ok(false) => return Err(Error::NotRunning),
            Err(reason) => return Err(Error::Kill { signal, pid: init.pid, reason }),
        }
        // A frozen process acts on SIGKILL only when it thaws.
        if signal == libc::SIGKILL && status == Status::Paused {
            self.cgroup()?.freeze(false)?;
        }
        Ok(())
    }

    /// Every process of the container, by its pid here.
    ///
    /// # Errors
    /// [`Error::Cgroup`].
    pub fn pids(&self) -> Result<Vec<i32>, Error> {
        match &self.state.cgroup {
            Some(cgroup) if cgroup.exists() => Ok(cgroup.pids()?),
            _ => Ok(self.family().iter().map(|process| process.pid).collect()),
        }
    }

    /// The processes, as far as they can be told without a cgroup.
    fn family(&self) -> Vec<Process> {
        let mut family = self.state.init.map_or_else(Vec::new, |init| init.family(self.has_own_pids()));
        family.sort_unstable_by_key(|process| process.pid);
        family
    }

    /// Sends a signal to every process; false if there is nothing that could hold any.
    fn kill_all(&self, signal: i32) -> Result<bool, Error> {
        match &self.state.cgroup {
            Some(cgroup) if cgroup.exists() => {
                cgroup.kill_all(signal)?;
                Ok(true)
            }
            _ => {
                let family = self.family();
                for process in &family {
                    let failed = |reason| Error::Kill { signal, pid: process.pid, reason };
                    process.signal(signal).map_err(failed)?;
                }
                Ok(!family.is_empty())
            }
        }
    }

    /// Removes a stopped container; with `force`, one in any state.
    ///
    /// # Errors
    /// [`Error::NotStopped`] without `force`.
    pub fn delete(self, force: bool) -> Result<(), Error> {
        match self.status() {
            Ok(Status::Stopped) => {}
            // As with runc, a container that was never started needs no force.
            Ok(Status::Created) => self.kill_and_wait()?,
            _ if force => self.kill_and_wait()?,
            Ok(status) => return Err(Error::NotStopped { id: self.state.id.clone(), status }),
            Err(error) => return Err(error),
        }
        self.remove()
    }

    fn has_own_pids(&self) -> bool {
        self.spec().as_ref().is_ok_and(makes_pid_namespace)
    }

    fn kill_and_wait(&self) -> Result<(), Error> {
        let Some(init) = self.state.init else { return Ok(()) };
        let Some(pidfd) = init.open() else { return Ok(()) };
        init.signal(libc::SIGKILL).map_err(|reason| Error::Kill {
            signal: libc::SIGKILL,
            pid: init.pid,
            reason,
        })?;
        if let Some(cgroup) = &self.state.cgroup {
            // Frozen processes die when they thaw; a cgroup that is gone has none.
            let _ = cgroup.freeze(false);
        }
        let end = Instant::now() + Duration::from_secs(DEATH_SECONDS);
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Error::WillNotDie { id: self.state.id.clone(), seconds: DEATH_SECONDS });
            }
            let timeout =
                Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() };
            let mut poll = [PollFd::new(&pidfd, PollFlags::IN)];
            match rustix::event::poll(&mut poll, Some(&timeout)) {
                Ok(1) => return Ok(()),
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(errno) => {
                    return Err(Error::Kill { signal: 0, pid: init.pid, reason: errno.into() });
                }
            }
        }
    }

    /// Removes what is left of a container whose init is dead, the directory last: as long as it is there, `delete` can be
    /// tried again.
    ///
    /// # Errors
    /// [`Error::Cgroup`], [`Error::Io`].
    pub(crate) fn remove(self) -> Result<(), Error> {
        let spec = self.spec();
        if let Some(cgroup) = &self.state.cgroup {
            if !spec.as_ref().is_ok_and(makes_pid_namespace) {
                // Nothing ends these with their init.
                cgroup.kill_all(libc::SIGKILL)?;
            }
            cgroup.remove()?;
        }
        self.state.intel_rdt.as_ref().map_or(Ok(()), resctrl::Group::remove)?;
        remove_directory(&self.directory)?;
        if let Ok(spec) = spec
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

/// Whether the end of the container's init is the end of all its processes (pid_namespaces(7)).
fn makes_pid_namespace(spec: &Spec) -> bool {
    config::makes_namespace(spec, LinuxNamespaceType::Pid)
}

/// Removes the directory of a container whose state cannot be read, when `delete --force` asks for it.
///
/// # Errors
/// [`Error::InvalidId`], [`Error::Io`].
pub fn remove_leftovers(root: &Path, id: &str) -> Result<(), Error> {
    remove_directory(&directory_of(root, id)?)
}

fn remove_directory(directory: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(directory) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(Error::Io { path: directory.to_owned(), reason: e.into() }),
    }
}
