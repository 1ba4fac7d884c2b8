//! A process named so that another one with its pid is never taken for it.
//!
//! "Gone" is only what the kernel says is gone: a process that cannot be looked at, for want of memory or descriptors, is
//! an error, or a container would be removed under its feet.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags};
use serde::{Deserialize, Serialize};

use super::{Error, io_error};
use crate::error::Os;
use crate::file;

/// A pid together with the process's start time, in clock ticks since boot: field 22 of proc_pid_stat(5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Process {
    /// The pid in the namespace of whoever created the container.
    pub pid: i32,
    /// When it started, in clock ticks since boot.
    pub start_time: u64,
}

impl Process {
    /// The process that has this pid now; `None` when there is none, or only a zombie.
    ///
    /// # Errors
    /// [`Error::Process`].
    pub fn find(pid: i32) -> Result<Option<Self>, Error> {
        Ok(read(pid)?.filter(|found| !found.is_dead()).map(|found| found.process))
    }

    /// Whether this very process still runs. A zombie does not.
    ///
    /// # Errors
    /// [`Error::Process`].
    pub fn is_alive(self) -> Result<bool, Error> {
        Ok(Self::find(self.pid)? == Some(self))
    }

    /// Whether it has ended, or is about to: its namespaces go before it does.
    ///
    /// # Errors
    /// [`Error::Process`].
    pub fn is_ending(self) -> Result<bool, Error> {
        Ok(read(self.pid)?.is_none_or(|found| found.process != self || found.is_dead() || found.exiting))
    }

    /// A descriptor of this very process: opened first and compared after, so that a pid reused in between
    /// is noticed. `None` when the process is gone.
    ///
    /// # Errors
    /// [`Error::Process`].
    pub fn open(self) -> Result<Option<OwnedFd>, Error> {
        let Some(pid) = Pid::from_raw(self.pid) else { return Ok(None) };
        match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pidfd) => Ok(self.is_alive()?.then_some(pidfd)),
            // EINVAL is of a thread that is not its process's first.
            Err(Errno::SRCH | Errno::INVAL) => Ok(None),
            Err(errno) => Err(Error::Process { pid: self.pid, reason: errno.into() }),
        }
    }

    /// Sends a signal, given by number, to this very process; `Ok(false)` when it is gone.
    ///
    /// # Errors
    /// [`Error::Process`]; [`Error::Kill`] with what pidfd_send_signal(2) says, other than ESRCH.
    pub fn signal(self, number: i32) -> Result<bool, Error> {
        let failed = |reason| Error::Kill { signal: number, pid: self.pid, reason };
        self.open()?.map_or(Ok(false), |pidfd| signal(pidfd.as_fd(), number).map_err(failed))
    }

    /// The processes of a container that has no cgroup to list them, this one, its first, among them: those of its pid
    /// namespace, if that is its own; else this process's descendants, as far as their ancestors are still there.
    ///
    /// # Errors
    /// [`Error::Io`] of /proc, [`Error::Process`].
    pub fn family(self, own_pid_namespace: bool) -> Result<Vec<Self>, Error> {
        let path = Path::new("/proc");
        let mut all: Vec<(Self, i32)> = Vec::new();
        for entry in fs::read_dir(path).map_err(io_error(path))? {
            let name = entry.map_err(io_error(path))?.file_name();
            let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
            let alive = read(pid)?.filter(|found| !found.is_dead());
            all.extend(alive.map(|found| (found.process, found.parent)));
        }
        if !all.iter().any(|(process, _)| *process == self) {
            return Ok(Vec::new());
        }
        if own_pid_namespace {
            let namespace = |pid: i32| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
            let own = namespace(self.pid);
            let inside = |(process, _): &(Self, i32)| own.is_some() && namespace(process.pid) == own;
            return Ok(all.into_iter().filter(inside).map(|(process, _)| process).collect());
        }
        let mut family = vec![self];
        let mut next = 0;
        while let Some(parent) = family.get(next).copied() {
            family.extend(all.iter().filter(|(_, of)| *of == parent.pid).map(|(process, _)| *process));
            next += 1;
        }
        Ok(family)
    }
}

/// Sends a signal, given by number; `Ok(false)` to a process that is gone.
///
/// # Errors
/// Those of pidfd_send_signal(2), other than ESRCH.
pub fn signal(process: BorrowedFd<'_>, number: i32) -> Result<bool, Os> {
    // Not through rustix: its type for signals has no place for 0, which only asks whether one could be sent.
    // SAFETY: the descriptor is open, there is no siginfo, and the kernel refuses numbers that are no signals.
    let result = unsafe {
        libc::syscall(libc::SYS_pidfd_send_signal, process.as_raw_fd(), number, std::ptr::null::<()>(), 0)
    };
    match Os::last() {
        _ if result == 0 => Ok(true),
        reason if reason.errno() == Some(libc::ESRCH) => Ok(false),
        reason => Err(reason),
    }
}

/// What the kernel calls the time since it was booted: random(4).
pub(super) fn boot_id() -> Option<String> {
    let id = String::from_utf8(file::read_record("/proc/sys/kernel/random/boot_id").ok()?).ok()?;
    Some(id.trim_end().to_owned())
}

/// What proc_pid_stat(5) tells of a process.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    process: Process,
    state: char,
    parent: i32,
    /// `PF_EXITING` among the kernel's flags.
    exiting: bool,
}

impl Stat {
    fn is_dead(&self) -> bool {
        matches!(self.state, 'Z' | 'X' | 'x')
    }
}

/// The process that has this pid now.
fn read(pid: i32) -> Result<Option<Stat>, Error> {
    let failed = |e: io::Error| Error::Process { pid, reason: e.into() };
    let stat = match file::read_record(format!("/proc/{pid}/stat")) {
        Ok(stat) => stat,
        // Gone before it was opened, or while it was read.
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ESRCH)) => return Ok(None),
        Err(e) => return Err(failed(e)),
    };
    // The command's name may be anything.
    let found = parse_stat(pid, &String::from_utf8_lossy(&stat));
    found.map(Some).ok_or_else(|| failed(io::ErrorKind::InvalidData.into()))
}

/// The second field is the command's name in parentheses, and may itself hold anything.
fn parse_stat(pid: i32, stat: &str) -> Option<Stat> {
    const PF_EXITING: u32 = 4;
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    let parent = fields.next()?.parse().ok()?;
    let flags: u32 = fields.nth(4)?.parse().ok()?;
    let start_time = fields.nth(12)?.parse().ok()?;
    Some(Stat { process: Process { pid, start_time }, state, parent, exiting: flags & PF_EXITING != 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_is_parsed_behind_a_hostile_name() {
        let stat = "7 (a) Z 1 (b) c) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4242 9 10";
        let process = Process { pid: 7, start_time: 4242 };
        assert_eq!(parse_stat(7, stat), Some(Stat { process, state: 'S', parent: 1, exiting: false }));
        let exiting = stat.replace("4194560", "4194564");
        assert!(parse_stat(7, &exiting).is_some_and(|found| found.exiting));
        assert_eq!(parse_stat(7, "7 (a"), None);
    }

    #[test]
    fn a_pid_with_another_start_time_is_another_process() {
        let me = Process::find(std::process::id().cast_signed()).expect("read").expect("we run");
        assert!(me.is_alive().expect("read"));
        let other = Process { start_time: me.start_time + 1, ..me };
        assert!(!other.is_alive().expect("read"));
        assert!(other.open().expect("read").is_none());
        assert_eq!(me.signal(0).ok(), Some(true));
    }

    #[test]
    fn a_family_is_found_without_a_cgroup() {
        let mut child =
            std::process::Command::new("sh").args(["-c", "sleep 1000 & wait"]).spawn().expect("sh");
        let first = Process::find(child.id().cast_signed()).expect("read").expect("it runs");
        let family = |own| first.family(own).expect("read");
        for _ in 0..500 {
            if family(false).len() == 2 {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        assert_eq!(family(false).len(), 2);
        // We share its pid namespace.
        let all = family(true);
        assert!(all.contains(&first) && all.iter().any(|p| p.pid == std::process::id().cast_signed()));
        for process in family(false) {
            process.signal(libc::SIGKILL).expect("killed");
        }
        child.wait().expect("ended");
        assert!(family(false).is_empty());
    }
}
