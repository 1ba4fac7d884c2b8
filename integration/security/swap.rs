//! Somebody who exchanges two names, again and again, while the runtime uses one of them.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use anyhow::{Context, Result, bail};
use coracle_integration::native;
use rustix::fs::{RenameFlags, renameat_with};

/// How often what is exchanged is used.
pub fn rounds() -> u32 {
    if std::env::var_os("CORACLE_FULL").is_some() { 1000 } else { 8 }
}

/// Uses what is exchanged so often, and then until that has once succeeded: somebody who is only ever refused has not been
/// raced.
pub fn attempts(mut attempt: impl FnMut(u32) -> Result<bool>) -> Result<()> {
    let mut successes = 0;
    for round in 0..rounds() * 50 {
        successes += u32::from(attempt(round)?);
        if round + 1 >= rounds() && successes > 0 {
            return Ok(());
        }
    }
    bail!("it never succeeds")
}

/// The exchange, until this is dropped. In the end each name is what it was.
pub struct Swapper {
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Swapper {
    /// Exchanges two names of a directory.
    pub fn start(directory: &Path, one: &str, other: &str) -> Result<Self> {
        let over = Arc::new(AtomicBool::new(false));
        let ends = Arc::clone(&over);
        // Not by its path, which may be one of those that are exchanged.
        let directory = File::open(directory).with_context(|| directory.display().to_string())?;
        let (one, other) = (one.to_owned(), other.to_owned());
        let swap = move || renameat_with(&directory, &one, &directory, &other, RenameFlags::EXCHANGE);
        swap()?;
        swap()?;
        let thread = std::thread::spawn(move || {
            while !ends.load(Ordering::Relaxed) && swap().and_then(|()| swap()).is_ok() {}
        });
        Ok(Self { over, thread: Some(thread) })
    }
}

impl Drop for Swapper {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// A program that does it inside a container, with the two names as arguments.
pub fn exchange() -> Result<PathBuf> {
    native("exchange")
}
