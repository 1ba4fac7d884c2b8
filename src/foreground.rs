//! The foreground: what `run` and `exec` do while their process lives, until its exit code is known.
//!
//! The exit status cannot be lost: a dead child stays a zombie until [`wait`] reaps it, and its pidfd stays
//! readable; SIGCHLD is only a hint. Signals cannot be lost either: they are blocked from before the child
//! exists until the end, and read from a signalfd. For the same reason no signal but SIGKILL can end us
//! before the user's terminal is as it was.

mod signals;
mod terminal;

use std::os::fd::OwnedFd;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{Pid, WaitOptions, set_child_subreaper};

use crate::error::Os;
use signals::Signals;
use terminal::Terminal;

pub use signals::{SavedMask, block_signals, die_of_signals, restore_signals};

/// What can go wrong while waiting.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// sigprocmask(2).
    #[error("block signals: {0}")]
    Block(Os),
    /// signalfd(2).
    #[error("receive signals: {0}")]
    Signals(Os),
    /// PR_SET_CHILD_SUBREAPER, prctl(2).
    #[error("become the reaper of the container's orphans: {0}")]
    Subreaper(Os),
    /// The pseudo-terminal.
    #[error("connect to the container's terminal: {0}")]
    Terminal(Os),
    /// poll(2).
    #[error("wait for process {pid}: {reason}")]
    Wait {
        /// The process waited for.
        pid: i32,
        /// Why it failed.
        reason: Os,
    },
}

/// Makes us the parent of orphans of the container whose pid namespace is the host's; [`wait`] reaps them.
///
/// # Errors
/// Never in practice.
pub fn adopt_orphans() -> Result<(), Error> {
    // Any number stands for "yes".
    set_child_subreaper(Some(Pid::INIT)).map_err(|e| Error::Subreaper(e.into()))
}

/// Waits for the child `pid` and returns its exit code, 128+n for death by signal n.
///
/// Meanwhile signals are forwarded to it; when `terminal` is the master of its pseudo-terminal, our standard
/// input and output are connected to that; and every other child that ends is reaped.
/// [`block_signals`] must have been called before the child was made.
///
/// # Errors
/// Only for what the system refuses; the child is alive then and the caller's to kill.
pub fn wait(pid: i32, pidfd: OwnedFd, terminal: Option<OwnedFd>) -> Result<u8, Error> {
    let signals = Signals::open()?;
    let mut terminal = terminal.map(Terminal::connect).transpose().map_err(|e| Error::Terminal(e.into()))?;
    loop {
        if let Some(code) = reap(pid)? {
            if let Some(terminal) = terminal {
                terminal.finish(&signals);
            }
            return Ok(code);
        }
        let mut events = vec![PollFd::new(&pidfd, PollFlags::IN), PollFd::new(&signals, PollFlags::IN)];
        if let Some(terminal) = &terminal {
            terminal.watch(&mut events);
        }
        match poll(&mut events, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => return Err(Error::Wait { pid, reason: e.into() }),
        }
        drop(events);
        while let Some(signal) = signals.next() {
            handle(signal, &pidfd, terminal.as_mut());
        }
        if terminal.as_mut().is_some_and(|terminal| terminal.transfer().is_err()) {
            // Usually our output is gone. To the container that is its terminal being unplugged: dropping the
            // master hangs it up, so that a program which only writes does not run on unseen.
            terminal = None;
        }
    }
}

/// Does with a signal what it would do to a program run without a container.
fn handle(signal: i32, pidfd: &OwnedFd, terminal: Option<&mut Terminal>) {
    match (signal, terminal) {
        (libc::SIGCHLD, _) => {}
        (libc::SIGWINCH, Some(terminal)) => terminal.resize(),
        (libc::SIGTSTP | libc::SIGTTIN | libc::SIGTTOU, terminal) => {
            signals::send(pidfd, signal);
            if let Some(terminal) = terminal {
                terminal.suspend();
            }
            // Returns when we are continued; the SIGCONT then comes through the signalfd as well.
            signals::stop(signal);
        }
        (libc::SIGCONT, terminal) => {
            if let Some(terminal) = terminal {
                terminal.resume();
            }
            signals::send(pidfd, signal);
        }
        _ => signals::send(pidfd, signal),
    }
}

/// Reaps every dead child, and returns the exit code of `pid` when it is among them. The others are orphans
/// of the container.
fn reap(pid: i32) -> Result<Option<u8>, Error> {
    // A child whose exit signal is not SIGCHLD counts too (__WALL, waitpid(2)).
    let options = WaitOptions::NOHANG | WaitOptions::from_bits_retain(libc::__WALL.cast_unsigned());
    loop {
        match rustix::process::wait(options) {
            Ok(Some((child, status))) if child.as_raw_pid() == pid => {
                let code = match status.terminating_signal() {
                    Some(signal) => 128 + signal,
                    None => status.exit_status().unwrap_or_default(),
                };
                // An exit status has eight bits and a signal number seven.
                return Ok(Some(code.to_le_bytes()[0]));
            }
            Ok(Some(_)) | Err(Errno::INTR) => {}
            Ok(None) => return Ok(None),
            Err(e) => return Err(Error::Wait { pid, reason: e.into() }),
        }
    }
}

#[cfg(test)]
mod tests;
