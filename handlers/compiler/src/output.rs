//! The output: how far the compilation is, then the artifact or what is wrong, each in the place of the one before
//! ([`coracle_abi::compiler`]).

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use coracle_abi::compiler::Progress;
use rustix::io::Errno;

/// Nobody looks more often than that.
const INTERVAL: Duration = Duration::from_millis(100);

fn output() -> BorrowedFd<'static> {
    rustix::stdio::stdout()
}

/// Replaces what is in the output. A pipe keeps what it has, which is nothing: progress is not written to one.
fn replace(bytes: &[u8]) -> io::Result<()> {
    let _ = rustix::fs::ftruncate(output(), 0);
    let mut done = 0;
    while done < bytes.len() {
        let rest = &bytes[done..];
        let written = match rustix::io::pwrite(output(), rest, done as u64) {
            Err(Errno::SPIPE) => rustix::io::write(output(), rest),
            written => written,
        };
        match written {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => done += count,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

/// Hands the artifact over.
///
/// # Errors
/// Those of pwrite(2).
pub fn artifact(bytes: &[u8]) -> io::Result<()> {
    replace(bytes)
}

static ENDING: AtomicBool = AtomicBool::new(false);

/// Whether [`fail`] is at work: a signal handler may have interrupted it.
pub fn is_failing() -> bool {
    ENDING.load(Ordering::SeqCst)
}

/// Says what is wrong, in one line, and ends the process. Makes system calls only: signal handlers and a program without
/// memory call it.
///
/// Threads that fail at once would take each other's line away again, so the first one has its say.
pub fn fail(line: &[u8]) -> ! {
    while ENDING.swap(true, Ordering::SeqCst) {
        std::thread::yield_now();
    }
    // If that cannot be said, the exit status still says that something is wrong.
    let _ = replace(line);
    // SAFETY: _exit(2) has no requirements.
    unsafe { libc::_exit(1) }
}

/// Says how far the compilation is, now and then.
pub fn progress() -> impl Fn(u64, u64) + Send + Sync + 'static {
    let said = Mutex::new(Instant::now());
    move |done, total| {
        // Another thread is about to say it.
        let Ok(mut said) = said.try_lock() else { return };
        if said.elapsed() >= INTERVAL && !is_failing() {
            *said = Instant::now();
            let _ = rustix::io::pwrite(output(), &Progress { done, total }.to_bytes(), 0);
        }
    }
}
