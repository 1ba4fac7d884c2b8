//! Network namespaces, which tests and their clients go into.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;

use anyhow::{Context, Result};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

use crate::command::{Run, command};

/// A network namespace. One that nobody is in ends with this.
pub struct Network(File);

impl Network {
    /// A new one, with a loopback interface and nothing else: its ports are all free, and nobody else's.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn new() -> Result<Network> {
        in_a_thread(|| {
            // SAFETY: of what threads share, this takes nothing from the others.
            unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.context("a new network")?;
            command("ip").args(["link", "set", "lo", "up"]).finish()?.ok()?;
            Ok(Network(File::open("/proc/thread-self/ns/net")?))
        })
    }

    /// That of a process.
    ///
    /// # Errors
    /// There is no such process.
    pub fn of(pid: i32) -> Result<Network> {
        let path = format!("/proc/{pid}/ns/net");
        Ok(Network(File::open(&path).context(path)?))
    }

    /// A path that leads to it, for as long as this lives.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd()).into()
    }

    /// Does something in it. Sockets that are made there stay there.
    ///
    /// # Errors
    /// It fails.
    pub fn inside<T: Send>(&self, act: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        in_a_thread(|| {
            move_into_link_name_space(self.0.as_fd(), Some(LinkNameSpaceType::Network))?;
            act()
        })
    }
}

/// A thread's namespace is its own, and ends with it.
fn in_a_thread<T: Send>(act: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| {
        scope.spawn(act).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
