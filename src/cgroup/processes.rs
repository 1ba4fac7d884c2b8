//! The processes of a cgroup: joining it, finding them, killing them, and removing what they leave.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::file::{children, read, write};
use super::hierarchy::{Hierarchy, Version};
use super::resources::{v1_directory, v2_directory};
use super::{Error, freezer};

/// How many processes are signalled at a time.
const AT_ONCE: usize = 256;

/// Moves a process into the container's cgroup of one hierarchy.
pub fn add(hierarchy: &Hierarchy, pid: i32) -> Result<(), Error> {
    write_pid(&hierarchy.path, pid)
}

/// Moves a process into a directory.
pub fn write_pid(dir: &Path, pid: i32) -> Result<(), Error> {
    for _ in 0..5 {
        match write(dir, "cgroup.procs", &pid.to_string()) {
            // What the kernel says of a process that it is just starting (kernel commit 38dca9f0).
            Err(error) if error.errno() == Some(Errno::INVAL) => sleep(Duration::from_millis(10)),
            result => return result,
        }
    }
    write(dir, "cgroup.procs", &pid.to_string())
}

/// Open files by which a process puts itself into v1 cgroups.
///
/// A process that is moved by another one has to be kept from forking and exiting: the kernel waits until every CPU
/// has taken note of that, which takes milliseconds. A thread that moves itself needs no such lock (since Linux
/// 5.4), and neither does one that is born in its cgroup, as v2 allows.
#[derive(Debug)]
pub struct Entrance(Vec<(OwnedFd, PathBuf)>);

impl Entrance {
    pub(super) fn open(hierarchies: &[Hierarchy]) -> Result<Self, Error> {
        let open = |hierarchy: &Hierarchy| {
            // `cgroup.procs` is for whole processes, even if it is the writer's own, and takes the lock.
            let path = hierarchy.path.join("tasks");
            match rustix::fs::open(&path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty()) {
                Ok(fd) => Ok((fd, path)),
                Err(Errno::NOENT | Errno::NODEV) => Err(Error::NoFile { path }),
                Err(errno) => Err(Error::Open { path, reason: errno.into() }),
            }
        };
        let on_v1 = hierarchies.iter().filter(|hierarchy| hierarchy.version == Version::V1);
        on_v1.map(open).collect::<Result<_, _>>().map(Self)
    }

    /// Puts the calling thread, the only one of its process, into the container's v1 cgroups. The kernel asks for
    /// the rights of whoever opened the files.
    ///
    /// # Errors
    /// [`Error::Write`] with the file of the hierarchy that refused it.
    pub fn enter(&self) -> Result<(), Error> {
        for (fd, path) in &self.0 {
            rustix::io::retry_on_intr(|| rustix::io::write(fd, b"0")).map_err(|errno| Error::Write {
                path: path.clone(),
                value: "0".into(),
                reason: errno.into(),
            })?;
        }
        Ok(())
    }
}

/// The hierarchy that tells which processes the container has: all hold the same ones.
fn representative(hierarchies: &[Hierarchy]) -> Option<&Path> {
    v2_directory(hierarchies)
        .or_else(|| v1_directory(hierarchies, "devices"))
        .or_else(|| hierarchies.first().map(|hierarchy| hierarchy.path.as_path()))
}

/// Every process of the container, those in nested cgroups included.
pub fn pids(hierarchies: &[Hierarchy]) -> Result<Vec<i32>, Error> {
    let Some(dir) = representative(hierarchies) else { return Ok(Vec::new()) };
    let mut pids = Vec::new();
    collect_pids(dir, &mut pids)?;
    pids.sort_unstable();
    pids.dedup();
    Ok(pids)
}

fn collect_pids(dir: &Path, pids: &mut Vec<i32>) -> Result<(), Error> {
    match read(dir, "cgroup.procs") {
        Ok(text) => pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok())),
        // Removed under our eyes; or threaded, and its processes are listed further up.
        Err(error) if matches!(error.errno(), Some(Errno::NOENT | Errno::NODEV | Errno::OPNOTSUPP)) => {
            return Ok(());
        }
        Err(error) => return Err(error),
    }
    children(dir)?.iter().try_for_each(|child| collect_pids(child, pids))
}

/// Sends a signal to every process of the container, and leaves none out that appears meanwhile.
pub fn kill_all(hierarchies: &[Hierarchy], signal: i32) -> Result<(), Error> {
    if signal == libc::SIGKILL {
        // cgroup.kill (Linux 5.14) reaches every process at once, frozen ones and those being forked included.
        // A v1 freezer holds even killed processes.
        if let Some(dir) = v2_directory(hierarchies)
            && write(dir, "cgroup.kill", "1").is_ok()
        {
            return match v1_directory(hierarchies, "freezer") {
                Some(_) => ignore_absent(freezer::freeze(hierarchies, false)),
                None => Ok(()),
            };
        }
    }
    let was_frozen = freezer::is_frozen(hierarchies).unwrap_or(false);
    // Frozen processes do not fork. Where freezing is not possible, signals are sent all the same.
    let frozen = was_frozen || freezer::freeze(hierarchies, true).is_ok();
    let result = signal_each(hierarchies, signal);
    if frozen && (!was_frozen || signal == libc::SIGKILL) {
        ignore_absent(freezer::freeze(hierarchies, false))?;
    }
    result
}

fn signal_each(hierarchies: &[Hierarchy], signal: i32) -> Result<(), Error> {
    // There may be more processes than we may have descriptors.
    for some in pids(hierarchies)?.chunks(AT_ONCE) {
        let mut opened = Vec::new();
        for pid in some {
            match Pid::from_raw(*pid).map_or(Err(Errno::SRCH), |p| pidfd_open(p, PidfdFlags::empty())) {
                Ok(process) => opened.push((pid, process)),
                Err(Errno::SRCH) => {}
                Err(errno) => return Err(Error::Signal { pid: *pid, reason: errno.into() }),
            }
        }
        // What ended before it was opened may have left its pid to a stranger: it is not in the list any more.
        let still = pids(hierarchies)?;
        for (pid, process) in opened.iter().filter(|(pid, _)| still.binary_search(pid).is_ok()) {
            crate::container::signal(process.as_fd(), signal)
                .map_err(|reason| Error::Signal { pid: **pid, reason })?;
        }
    }
    Ok(())
}

fn ignore_absent(result: Result<(), Error>) -> Result<(), Error> {
    match result {
        Err(Error::NoFile { .. }) => Ok(()),
        result => result,
    }
}

/// Removes the container's cgroup from a hierarchy, nested ones first. One that is not there is fine.
///
/// A killed process is in its cgroup until it is reaped, so "busy" is asked again, for about a second.
pub fn remove(dir: &Path) -> Result<(), Error> {
    let mut pause = Duration::from_millis(1);
    loop {
        match rustix::fs::rmdir(dir) {
            Ok(()) | Err(Errno::NOENT | Errno::NODEV) => return Ok(()),
            Err(Errno::INTR) => {}
            // A read-only mount says so even of what is not there.
            Err(Errno::ROFS) if !dir.exists() => return Ok(()),
            Err(Errno::BUSY) if pause < Duration::from_millis(600) => {
                for child in children(dir)? {
                    remove_quietly(&child);
                }
                match rustix::fs::rmdir(dir) {
                    Ok(()) => return Ok(()),
                    Err(_) => sleep(pause),
                }
                pause *= 2;
            }
            Err(errno) => return Err(Error::Remove { path: dir.into(), reason: errno.into() }),
        }
    }
}

fn remove_quietly(dir: &Path) {
    // Whatever stays keeps the directory above, and that is told.
    children(dir).iter().flatten().for_each(|child| remove_quietly(child));
    let _ = rustix::fs::rmdir(dir);
}

/// Removes what a `create` made, the last first; what others use by now stays.
pub fn unmake(made: &[PathBuf]) {
    for path in made.iter().rev() {
        let _ = rustix::fs::rmdir(path);
    }
}

/// The directories of the container, those of v2 last: hierarchies come and go in the order of /proc.
pub fn directories(hierarchies: &[Hierarchy]) -> impl Iterator<Item = &Path> {
    let on = |version| hierarchies.iter().filter(move |h| h.version == version);
    on(Version::V1).chain(on(Version::V2)).map(|hierarchy| hierarchy.path.as_path())
}
