//! Signals, and the end of the process.
//!
//! A guest cannot handle signals: preview1 has none. The kernel's default actions would end it, but they do not apply
//! to PID 1 of a container (pid_namespaces(7)), so there a handler ends the process: at once, whether the guest
//! computes or waits. SIGSEGV, SIGFPE, SIGILL and SIGBUS are the engine's, for traps.

use std::{mem, ptr};

/// Those whose default action is to end the process, and that come from outside of it. The real-time signals
/// do too, but are sent to no program that does not expect them.
const FATAL: [i32; 15] = [
    libc::SIGHUP,
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGABRT,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGALRM,
    libc::SIGTERM,
    libc::SIGSTKFLT,
    libc::SIGXCPU,
    libc::SIGVTALRM,
    libc::SIGPROF,
    libc::SIGIO,
    libc::SIGPWR,
    libc::SIGSYS,
];

/// Ends the process, from anywhere: nothing here needs to be flushed or freed first.
pub fn exit(code: i32) -> ! {
    // SAFETY: _exit(2) has no requirements.
    unsafe { libc::_exit(code) }
}

/// To a shell and to an engine, 128 and the signal's number is how a program ended by it looks.
extern "C" fn end(signal: i32) {
    exit(128 + signal)
}

/// Makes fatal signals fatal.
pub fn prepare() {
    // A guest learns of a closed pipe from EPIPE.
    set(libc::SIGPIPE, libc::SIG_IGN);
    if rustix::process::getpid().is_init() {
        for signal in FATAL {
            set(signal, end as *const () as usize);
        }
    }
    // The runtime blocked them before it executed us, so that none is lost that came before there was a handler.
    // SAFETY: an empty set, for this process, which has one thread.
    unsafe {
        let mut none: libc::sigset_t = mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut());
    }
}

fn set(signal: i32, handler: libc::sighandler_t) {
    // SAFETY: all zeroes is a valid sigaction. The handler only calls _exit(2); it runs on the engine's stack for
    // signals (SA_ONSTACK), for a guest's stack may be full. It fails only for signals that do not exist.
    unsafe {
        let mut action: libc::sigaction = mem::zeroed();
        action.sa_sigaction = handler;
        action.sa_flags = libc::SA_ONSTACK;
        libc::sigaction(signal, &raw const action, ptr::null_mut());
    }
}
