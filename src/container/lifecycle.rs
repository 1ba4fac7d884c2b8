//! What happens to a container after it was created: started, signalled, suspended.

use std::os::fd::OwnedFd;

use oci_spec::runtime::Spec;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::turn::Turn;
use super::{Container, Error, Process, Status};
use crate::{config, hooks, notify};

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
            Status::Stopped => return Err(Error::StartStopped),
            Status::Creating => return Err(Error::StartCreating),
            Status::Running => return Err(self.too_late()),
            Status::Paused => return Err(Error::AlreadyRunning),
        }
        let notify = notify::Proxy::open(&self.directory)?;
        let path = self.fifo();
        let io = |errno: Errno| Error::Io { path: path.clone(), reason: errno.into() };
        let fifo =
            match rustix::fs::open(&path, OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())
            {
                Ok(fifo) => fifo,
                Err(Errno::NXIO) => return Err(Error::StartStopped),
                Err(Errno::NOENT) => return Err(self.too_late()),
                Err(errno) => return Err(io(errno)),
            };
        // Of two who start it at once, the one who removes the fifo does.
        match rustix::fs::unlink(&path) {
            Ok(()) => {}
            Err(Errno::NOENT) => return Err(self.too_late()),
            Err(errno) => return Err(io(errno)),
        }
        match rustix::io::write(&fifo, b"0") {
            Ok(_) => {}
            Err(Errno::PIPE) => return Err(Error::StartStopped),
            Err(errno) => return Err(io(errno)),
        }
        let spec = match self.spec() {
            Ok(spec) => spec,
            // Started, and deleted.
            Err(_) if self.is_gone() => return Ok(()),
            // Nobody knows which hooks are to be run now, and that is as if one had failed.
            Err(error) => {
                let _ = self.delete(true);
                return Err(error);
            }
        };
        self.await_exec(&fifo);
        config::process(&spec)?;
        if let Err(error) = self.run_poststart_hooks(&spec) {
            // The hook's error is the one to report.
            let _ = self.delete(true);
            return Err(error);
        }
        if let (Some(proxy), Some(init)) = (notify, self.state.init)
            && let Some(pidfd) = init.open()?
        {
            proxy.serve(&pidfd, Some(init.pid))?;
        }
        Ok(())
    }

    /// Why the fifo is not there any more: it was started, or is being deleted.
    fn too_late(&self) -> Error {
        let _turn = self.take_turn();
        if self.is_gone() { Error::NotFound } else { Error::AlreadyRunning }
    }

    /// Waits for init's exec, which closes its end of the fifo. A frozen init cannot get there, so nobody waits for it.
    fn await_exec(&self, fifo: &OwnedFd) {
        let moment = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
        while !self.state.cgroup.as_ref().is_some_and(|c| c.is_frozen().unwrap_or(false)) {
            match rustix::event::poll(&mut [PollFd::new(fifo, PollFlags::empty())], Some(&moment)) {
                Ok(0) | Err(Errno::INTR) => {}
                _ => return,
            }
        }
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

    pub(super) fn moment<'a>(
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
        // A process that comes back from a pause by our hand would be one that nobody resumed.
        let _turn = if all { Turn::take_or_go_on(&self.directory)? } else { None };
        let status = self.status()?;
        // The end of init ends the others only in a pid namespace of their own; elsewhere they may outlive it.
        if all || (signal == libc::SIGKILL && !self.state.own_pids) {
            return match self.kill_all(signal)? {
                false if status == Status::Stopped && !all => Err(Error::NotRunning),
                _ => Ok(()),
            };
        }
        if matches!(status, Status::Stopped | Status::Creating) {
            return Err(Error::NotRunning);
        }
        let init = self.state.init.ok_or(Error::NotRunning)?;
        if !init.signal(signal)? {
            return Err(Error::NotRunning);
        }
        // A frozen process acts on SIGKILL only when it thaws.
        if signal == libc::SIGKILL && status == Status::Paused {
            let thawed = self.cgroup()?.freeze(false);
            return thawed.or_else(|error| if init.is_alive()? { Err(error.into()) } else { Ok(()) });
        }
        Ok(())
    }

    /// Suspends every process of the container.
    ///
    /// # Errors
    /// [`Error::NotRunning`] for one that does not run or is paused already; [`Error::Cgroup`] for a freezer that does not
    /// do it.
    pub fn pause(&self) -> Result<(), Error> {
        let _turn = self.take_turn()?.ok_or(Error::NotFound)?;
        match self.status()? {
            Status::Created | Status::Running => {}
            Status::Creating | Status::Paused | Status::Stopped => return Err(Error::NotRunning),
        }
        self.cgroup()?.freeze(true).map_err(|error| self.ended().unwrap_or(error.into()))
    }

    /// Lets the processes of a paused container go on.
    ///
    /// # Errors
    /// [`Error::NotPaused`]; [`Error::Cgroup`].
    pub fn resume(&self) -> Result<(), Error> {
        let _turn = self.take_turn()?.ok_or(Error::NotFound)?;
        if self.status()? != Status::Paused {
            return Err(Error::NotPaused);
        }
        self.cgroup()?.freeze(false).map_err(|error| self.ended().unwrap_or(error.into()))
    }

    /// Every process of the container, by its pid here.
    ///
    /// # Errors
    /// [`Error::Cgroup`].
    pub fn pids(&self) -> Result<Vec<i32>, Error> {
        match &self.state.cgroup {
            Some(cgroup) if cgroup.exists() => Ok(cgroup.pids()?),
            _ => Ok(self.family()?.iter().map(|process| process.pid).collect()),
        }
    }

    /// The processes, as far as they can be told without a cgroup.
    fn family(&self) -> Result<Vec<Process>, Error> {
        let init = self.state.init.filter(|_| !self.is_of_another_boot());
        let mut family = init.map_or_else(|| Ok(Vec::new()), |init| init.family(self.state.own_pids))?;
        family.sort_unstable_by_key(|process| process.pid);
        Ok(family)
    }

    /// Sends a signal to every process; false if there is nothing that could hold any.
    fn kill_all(&self, signal: i32) -> Result<bool, Error> {
        match &self.state.cgroup {
            Some(cgroup) if cgroup.exists() => {
                cgroup.kill_all(signal)?;
                Ok(true)
            }
            _ => {
                let family = self.family()?;
                for process in &family {
                    process.signal(signal)?;
                }
                Ok(!family.is_empty())
            }
        }
    }
}
