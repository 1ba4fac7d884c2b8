//! A process named so that another one with its pid is never taken for it.

use std::fs;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::process::{Pid, PidfdFlags};
use serde::{Deserialize, Serialize};

use crate::error::Os;

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
    pub fn find(pid: i32) -> Option<Self> {
        let found = read(pid)?;
        (!found.is_dead()).then_some(found.process)
    }

    /// Whether this very process still runs. A zombie does not.
    pub fn is_alive(self) -> bool {
        Self::find(self.pid) == Some(self)
    }

    /// Whether it has ended, or is about to: its namespaces go before it does.
    pub fn is_ending(self) -> bool {
        read(self.pid).is_none_or(|found| found.process != self || found.is_dead() || found.exiting)
    }

    /// A descriptor of this very process: opened first and compared after, so that a pid reused in between
    /// is noticed. `None` when the process is gone.
    pub fn open(self) -> Option<OwnedFd> {
        let pidfd = rustix::process::pidfd_open(Pid::from_raw(self.pid)?, PidfdFlags::empty()).ok()?;
        self.is_alive().then_some(pidfd)
    }

    /// Sends a signal, given by number, to this very process; `Ok(false)` when it is gone.
    ///
    /// # Errors
    /// Those of pidfd_send_signal(2), other than ESRCH.
    pub fn signal(self, number: i32) -> Result<bool, Os> {
        match self.open() {
            Some(pidfd) => signal(pidfd.as_fd(), number),
            None => Ok(false),
        }
    }

    /// The processes of a container that has no cgroup to list them, this one, its first, among them: those of its pid
    /// namespace, if that is its own; else this process's descendants, as far as their ancestors are still there.
    pub fn family(self, own_pid_namespace: bool) -> Vec<Self> {
        let all: Vec<(Self, i32)> = fs::read_dir("/proc")
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| read(entry.file_name().to_str()?.parse().ok()?))
            .filter(|found| !found.is_dead())
            .map(|found| (found.process, found.parent))
            .collect();
        if !all.iter().any(|(process, _)| *process == self) {
            return Vec::new();
        }
        if own_pid_namespace {
            let namespace = |pid: i32| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
            let own = namespace(self.pid);
            let inside = |(process, _): &(Self, i32)| own.is_some() && namespace(process.pid) == own;
            return all.into_iter().filter(inside).map(|(process, _)| process).collect();
        }
        let mut family = vec![self];
        let mut next = 0;
        while let Some(parent) = family.get(next).copied() {
            family.extend(all.iter().filter(|(_, of)| *of == parent.pid).map(|(process, _)| *process));
            next += 1;
        }
        family
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
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
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
fn read(pid: i32) -> Option<Stat> {
    parse_stat(pid, &fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
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
        let me = Process::find(std::process::id().cast_signed()).expect("we run");
        assert!(me.is_alive());
        let other = Process { start_time: me.start_time + 1, ..me };
        assert!(!other.is_alive());
        assert!(other.open().is_none());
        assert_eq!(me.signal(0).ok(), Some(true));
    }

    #[test]
    fn a_family_is_found_without_a_cgroup() {
        let mut child =
            std::process::Command::new("sh").args(["-c", "sleep 1000 & wait"]).spawn().expect("sh");
        let first = Process::find(child.id().cast_signed()).expect("it runs");
        for _ in 0..500 {
            if first.family(false).len() == 2 {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        assert_eq!(first.family(false).len(), 2);
        // We share its pid namespace.
        let all = first.family(true);
        assert!(all.contains(&first) && all.iter().any(|p| p.pid == std::process::id().cast_signed()));
        for process in first.family(false) {
            process.signal(libc::SIGKILL).expect("killed");
        }
        child.wait().expect("ended");
        assert!(first.family(false).is_empty());
    }
}
