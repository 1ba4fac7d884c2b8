//! `coracle`: arguments in, exit code out.
//!
//! Rust's runtime, which reads /proc/self/maps for a message about a full stack, is left out: an engine starts us several
//! times for each container. What it does besides is done here, but for SIGSEGV and SIGBUS, which end us as they are.

#![no_main]

#[cfg(target_arch = "x86_64")]
mod entry;

use std::io::Write;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::retry_on_intr;

/// What the C library calls.
#[unsafe(no_mangle)]
extern "C" fn main() -> libc::c_int {
    open_standard_streams();
    // A write that nobody reads is an error like others.
    // SAFETY: no handler is installed.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
    let code = coracle::cli::main();
    // What could not be written has been told.
    let _ = std::io::stdout().flush();
    code.into()
}

/// Gives /dev/null to a standard stream that is closed, so that no file of ours gets its number, and is written to by who
/// means the stream.
fn open_standard_streams() {
    let streams = [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()];
    let mut streams = streams.map(|stream| PollFd::from_borrowed_fd(stream, PollFlags::empty()));
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    let asked = retry_on_intr(|| poll(&mut streams, Some(&at_once)));
    let closed = streams.iter().filter(|stream| stream.revents().contains(PollFlags::NVAL)).count();
    if asked.is_err() {
        std::process::abort();
    }
    for _ in 0..closed {
        // The lowest number that is free.
        match rustix::fs::open(c"/dev/null", OFlags::RDWR, Mode::empty()) {
            Ok(null) => std::mem::forget(null),
            Err(_) => std::process::abort(),
        }
    }
}
