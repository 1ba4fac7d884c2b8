//! Signals on their way to the container's process.

use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

use super::Error;
use crate::error::Os;

/// The signal mask as it was before [`block_signals`].
#[derive(Clone, Copy)]
pub struct SavedMask(libc::sigset_t);

impl std::fmt::Debug for SavedMask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SavedMask(..)")
    }
}

/// Puts signals as they were for a child that is about to execute the container's program: the mask, where it was
/// changed, and the default action of SIGPIPE, which we ignore. Async-signal-safe.
pub fn restore_signals(mask: Option<&SavedMask>) {
    // SAFETY: the set was filled in by the kernel; both calls touch nothing else of ours. They fail only on invalid
    // arguments.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        if let Some(SavedMask(set)) = mask {
            libc::sigprocmask(libc::SIG_SETMASK, &raw const *set, ptr::null_mut());
        }
    }
}

/// Blocks the signals that [`super::wait`] will forward, so that none is lost that arrives before the child
/// exists. Call it before the clone, in a process with one thread; the child calls [`restore_signals`].
///
/// Signals that our caller made us ignore stay ignored, for that is how `nohup` and a shell's `&` keep a
/// terminal's signals from a program. We ignore SIGPIPE ourselves (`main`).
///
/// # Errors
/// Never in practice.
pub fn block_signals() -> Result<SavedMask, Error> {
    let mut set = MaybeUninit::uninit();
    let mut saved = MaybeUninit::uninit();
    // SAFETY: sigfillset initialises the set before it is changed and used; sigprocmask fills in the saved
    // one before it is read, or fails. No handler is installed, only a default action.
    unsafe {
        libc::sigfillset(set.as_mut_ptr());
        libc::sigdelset(set.as_mut_ptr(), libc::SIGPIPE);
        for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTSTP] {
            let mut action = MaybeUninit::<libc::sigaction>::zeroed();
            libc::sigaction(signal, ptr::null(), action.as_mut_ptr());
            if action.assume_init().sa_sigaction == libc::SIG_IGN {
                libc::sigdelset(set.as_mut_ptr(), signal);
            }
        }
        // With SIGCHLD ignored, which is inherited, the kernel would reap our child and drop its status.
        libc::signal(libc::SIGCHLD, libc::SIG_DFL);
        if libc::sigprocmask(libc::SIG_BLOCK, set.as_ptr(), saved.as_mut_ptr()) != 0 {
            return Err(Error::Block(Os::last()));
        }
        Ok(SavedMask(saved.assume_init()))
    }
}

/// Has the signals that ask a process to end do so until the exec: the kernel keeps the first process of a pid namespace
/// from their default action, and a container that was created but not started is to be stopped like others.
pub fn die_of_signals() {
    extern "C" fn die(signal: libc::c_int) {
        // SAFETY: _exit is async-signal-safe.
        unsafe { libc::_exit(128 + signal) }
    }
    let handler: extern "C" fn(libc::c_int) = die;
    for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGTERM] {
        // SAFETY: the handler does nothing but end this process.
        unsafe { libc::signal(signal, handler as libc::sighandler_t) };
    }
}

/// A descriptor that yields the blocked signals.
pub(super) struct Signals(OwnedFd);

impl Signals {
    /// Opens it for every signal that is blocked now.
    pub(super) fn open() -> Result<Self, Error> {
        let mut set = MaybeUninit::uninit();
        // SAFETY: sigprocmask with a null set only fills in the mask; signalfd returns a new descriptor,
        // which nobody else owns, or -1.
        unsafe {
            if libc::sigprocmask(libc::SIG_BLOCK, ptr::null(), set.as_mut_ptr()) != 0 {
                return Err(Error::Signals(Os::last()));
            }
            match libc::signalfd(-1, set.as_ptr(), libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) {
                -1 => Err(Error::Signals(Os::last())),
                fd => Ok(Self(OwnedFd::from_raw_fd(fd))),
            }
        }
    }

    /// The next pending signal, if there is one.
    pub(super) fn next(&self) -> Option<i32> {
        const SIZE: usize = size_of::<libc::signalfd_siginfo>();
        let mut buffer = [0; SIZE];
        // signalfd(2): `ssi_signo` is the first field.
        match rustix::io::retry_on_intr(|| rustix::io::read(&self.0, &mut buffer)) {
            Ok(SIZE) => Some(i32::from_ne_bytes([buffer[0], buffer[1], buffer[2], buffer[3]])),
            _ => None,
        }
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Sends a signal to a process. It may be gone, which is nobody's fault.
pub(super) fn send(pidfd: &OwnedFd, signal: i32) {
    // Go's runtime sends itself SIGURG all day, and so an engine may; a broken pipe of ours is not the
    // container's. runc forwards neither.
    if signal == libc::SIGURG || signal == libc::SIGPIPE {
        return;
    }
    let none = ptr::null::<libc::siginfo_t>();
    // SAFETY: pidfd_send_signal(2) with a null siginfo takes no memory of ours. Not rustix's wrapper, whose
    // signals are named ones: real-time signals are forwarded too.
    if unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, none, 0) } != 0 {
        tracing::debug!("forward signal {signal}: {}", Os::last());
    }
}

/// Stops us as `signal` would have, had it not been blocked. Not by SIGSTOP: where nobody could continue us
/// (an orphaned process group, setpgid(2)) the default action of `signal` does nothing, rightly.
pub(super) fn stop(signal: i32) {
    let mut set = MaybeUninit::uninit();
    // SAFETY: sigemptyset initialises the set before it is changed and used. `signal`'s action is the
    // default one: nothing here installs handlers, and an ignored signal is not read from the descriptor.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigaddset(set.as_mut_ptr(), signal);
        libc::raise(signal);
        libc::sigprocmask(libc::SIG_UNBLOCK, set.as_ptr(), ptr::null_mut());
        libc::sigprocmask(libc::SIG_BLOCK, set.as_ptr(), ptr::null_mut());
    }
}
