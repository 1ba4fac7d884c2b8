//! Ctrl-C and its like: the work ends at its next step, and what was half made is removed on the way out.
//!
//! The programs that do part of the work are in process groups of their own, so that they hear of it from us alone, in
//! whatever way we heard of it.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process_group};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

static SIGNAL: AtomicI32 = AtomicI32::new(0);
static RUNNING: Mutex<BTreeSet<i32>> = Mutex::new(BTreeSet::new());

/// The work was ended by this signal.
#[derive(Debug)]
pub struct Interrupted(i32);

impl Interrupted {
    /// What a shell reports of a process that a signal has ended.
    pub fn exit_code(&self) -> u8 {
        u8::try_from(128 + self.0).unwrap_or(1)
    }
}

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("interrupted: nothing was written")
    }
}

impl std::error::Error for Interrupted {}

/// Listens for the signals from now on.
///
/// # Errors
/// There can be no thread or no handler.
pub fn listen() -> Result<()> {
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM]).context("handle signals")?;
    std::thread::Builder::new()
        .spawn(move || {
            for signal in signals.forever() {
                let again = SIGNAL.swap(signal, Ordering::SeqCst) != 0;
                let running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
                // Who asks twice does not want to wait for a program that takes its time.
                let how = if again { Signal::KILL } else { Signal::TERM };
                running.iter().for_each(|group| end(*group, how));
            }
        })
        .context("listen for signals")?;
    Ok(())
}

/// Fails once a signal has come.
///
/// # Errors
/// [`Interrupted`].
pub fn check() -> Result<()> {
    match SIGNAL.load(Ordering::SeqCst) {
        0 => Ok(()),
        signal => Err(Interrupted(signal).into()),
    }
}

/// A program that ends, with all that it has started, when a signal comes.
pub struct Running(i32);

impl Running {
    /// The leader of a process group.
    pub fn new(pid: u32) -> Self {
        let pid = i32::try_from(pid).unwrap_or_default();
        RUNNING.lock().unwrap_or_else(PoisonError::into_inner).insert(pid);
        // It may have come between the last look and now.
        if check().is_err() {
            end(pid, Signal::TERM);
        }
        Self(pid)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        RUNNING.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.0);
    }
}

fn end(group: i32, how: Signal) {
    if let Some(group) = Pid::from_raw(group) {
        // It may have ended by itself.
        let _ = kill_process_group(group, how);
    }
}
