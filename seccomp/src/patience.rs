//! Not waiting for ever for libseccomp: of two rules for one call, with two conditions each, it may not make a program
//! in minutes.

use std::os::fd::AsFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, set_parent_process_death_signal};

use crate::Error;

/// Some thousand times what an engine's profile takes.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Tries in a child whether `act` ends in time, whatever comes of it.
///
/// # Errors
/// [`Error::TooSlow`].
pub fn ends_in_time(patience: Duration, act: impl FnOnce()) -> Result<(), Error> {
    // SAFETY: the child goes on with a copy of everything, and ends by _exit.
    match unsafe { libc::fork() } {
        0 => {
            let _ = set_parent_process_death_signal(Some(Signal::KILL));
            act();
            // SAFETY: _exit(2) has no requirements.
            unsafe { libc::_exit(0) }
        }
        child => wait(child, patience),
    }
}

fn wait(child: i32, patience: Duration) -> Result<(), Error> {
    // Without a child or a descriptor of it, it is not known; then nobody is worse off than before.
    let Some(child) = Pid::from_raw(child).filter(|_| child > 0) else { return Ok(()) };
    let ended = match (pidfd_open(child, PidfdFlags::empty()), Timespec::try_from(patience)) {
        (Ok(pidfd), Ok(patience)) => {
            let mut events = [PollFd::from_borrowed_fd(pidfd.as_fd(), PollFlags::IN)];
            rustix::io::retry_on_intr(|| poll(&mut events, Some(&patience))).is_ok_and(|ready| ready > 0)
        }
        _ => true,
    };
    if !ended {
        let _ = rustix::process::kill_process(child, Signal::KILL);
    }
    // Where SIGCHLD is ignored nobody is left to be waited for.
    let _ = rustix::process::waitpid(Some(child), rustix::process::WaitOptions::empty());
    if ended { Ok(()) } else { Err(Error::TooSlow(patience.as_secs())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ends_in_time_is_no_error() {
        assert!(ends_in_time(PATIENCE, || ()).is_ok());
        let forever = || std::thread::sleep(Duration::from_secs(1000));
        assert!(matches!(ends_in_time(Duration::from_secs(1), forever), Err(Error::TooSlow(1))));
    }
}
