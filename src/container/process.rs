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
        let (process, state, _) = read(pid)?;
        (!is_dead(state)).then_some(process)
    }

    /// Whether this very process still runs. A zombie does not.
    pub fn is_alive(self) -> bool {
        Self::find(self.pid) == Some(self)
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
            .filter(|(_, state, _)| !is_dead(*state))
            .map(|(process, _, parent)| (process, parent))
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

/// A process that has this pid now, its state, and its parent's pid.
fn read(pid: i32) -> Option<(Process, char, i32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (state, parent, start_time) = parse_stat(&stat)?;
    Some((Process { pid, start_time }, state, parent))
}

fn is_dead(state: char) -> bool {
    matches!(state, 'Z' | 'X' | 'x')
}

/// State, parent and start time out of proc_pid_stat(5). The second field is the command's name in parentheses, and
/// may itself hold anything.
fn parse_stat(stat: &str) -> Option<(char, i32, u64)> {
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    let parent = fields.next()?.parse().ok()?;
    let start_time = fields.nth(17)?.parse().ok()?;
    Some((state, parent, start_time))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_is_parsed_behind_a_hostile_name() {
        let stat = "7 (a) Z 1 (b) c) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4242 9 10";
        assert_eq!(parse_stat(stat), Some(('S', 1, 4242)));
        assert_eq!(parse_stat("7 (a"), None);
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
