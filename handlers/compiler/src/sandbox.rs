//! What the program gives up before it reads a byte of the module.
//!
//! [`enter`] is all of it, in order. From there on there are two descriptors, the input and the output; no file system, no
//! network and no other process to be seen; no privilege, and no system call but those of
//! seccomp/handlers/coracle-wasmc.ARCH.json. A module that takes the compiler over has reached an empty room: it can spoil
//! its own artifact, which is native code of the module's choosing anyway, and runs nowhere but in the module's own
//! container.
//!
//! Namespaces need CAP_SYS_ADMIN, or a user namespace, which some hosts forbid. Where they cannot be had the rest stays,
//! and the filter alone leaves nothing to open and nobody to talk to.

use std::io;
use std::os::fd::AsFd;

use coracle_abi::descriptors;
use coracle_confine::{WASMC, drop_capabilities};
use rustix::fs::CWD;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, UnmountFlags,
    fsconfig_create, fsmount, fsopen, mount_change, move_mount, unmount,
};
use rustix::process::{Signal, fchdir, getppid, pivot_root, set_parent_process_death_signal};
use rustix::thread::{CapabilitySet, UnshareFlags};

use crate::limits::Limits;
use crate::output;

/// The user and group of nobody, where ids have been mapped to none (user_namespaces(7)) as well as by custom.
const NOBODY: u32 = 65534;

/// Why the program will not look at a module.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused something that cannot be done without.
    #[error("sandbox: {step}: {reason}")]
    Step {
        /// What was tried.
        step: &'static str,
        /// The system's reason.
        reason: io::Error,
    },
    /// The kernel refused the filter.
    #[error("sandbox: {0}")]
    Confine(#[from] coracle_confine::Error),
}

/// Goes into the sandbox, in a child: a new pid namespace has room for children only. Returns in the child. The parent
/// only waits for it, and ends as it does.
///
/// # Errors
/// [`Error`]: what cannot be done without was refused.
pub fn enter(limits: Limits) -> Result<(), Error> {
    let parent = getppid();
    // The input and the output stay. Standard error is a way out too: messages go to the output.
    // SAFETY: nothing here has a descriptor of its own yet.
    unsafe { descriptors::close(2, i32::MAX) };
    choose_as_victim();
    if unshare() {
        // Without a file system of our own, there is nothing to do about the host's but not to have it.
        let _ = leave_file_systems();
    }
    become_nobody();
    drop_capabilities(CapabilitySet::empty())?;
    rustix::thread::set_no_new_privs(true).map_err(step("no_new_privs"))?;
    // The caller's wish that we end with it did not survive the change of user.
    die_with_parent()?;
    if getppid() != parent {
        std::process::exit(1);
    }
    limits.apply().map_err(|reason| Error::Step { step: "limits", reason })?;
    fork()?;
    die_with_parent()?;
    limits.start_clock();
    WASMC.install()?;
    Ok(())
}

fn step<E: Into<io::Error>>(step: &'static str) -> impl FnOnce(E) -> Error {
    move |reason| Error::Step { step, reason: reason.into() }
}

fn die_with_parent() -> Result<(), Error> {
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(step("PR_SET_PDEATHSIG"))
}

/// When the machine is out of memory, the compiler is to go, not what the engine started us for.
fn choose_as_victim() {
    let _ = std::fs::write("/proc/self/oom_score_adj", "1000");
}

/// New namespaces with nothing in them. False if there are none to be had.
fn unshare() -> bool {
    let flags = UnshareFlags::NEWNS
        | UnshareFlags::NEWPID
        | UnshareFlags::NEWNET
        | UnshareFlags::NEWIPC
        | UnshareFlags::NEWUTS
        | UnshareFlags::NEWCGROUP;
    // SAFETY: descriptors stay shared with nobody: there is one thread.
    let unshare = |flags| unsafe { rustix::thread::unshare_unsafe(flags) }.is_ok();
    unshare(flags) || unshare(flags | UnshareFlags::NEWUSER)
}

/// Makes an empty, read-only file system the only one.
fn leave_file_systems() -> rustix::io::Result<()> {
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(context.as_fd())?;
    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
        | MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let empty = fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
    move_mount(empty.as_fd(), "", CWD, "/", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    fchdir(&empty)?;
    // The old root ends up above the new one, and is taken away from there (pivot_root(2), "pivot_root(".", ".")").
    pivot_root(".", ".")?;
    unmount(".", UnmountFlags::DETACH)
}

/// Root's files are root's even without capabilities. In a user namespace of our own we are nobody already.
fn become_nobody() {
    // SAFETY: plain integers and an empty list; there is one thread.
    unsafe {
        libc::setgroups(0, std::ptr::null());
        libc::setresgid(NOBODY, NOBODY, NOBODY);
        libc::setresuid(NOBODY, NOBODY, NOBODY);
    }
}

/// Goes on in a child, the first process of the new pid namespace.
fn fork() -> Result<(), Error> {
    // SAFETY: there is one thread, so the child has whatever it needs.
    let child = unsafe { libc::fork() };
    match child {
        0 => Ok(()),
        -1 => Err(Error::Step { step: "fork", reason: io::Error::last_os_error() }),
        child => std::process::exit(wait(child)),
    }
}

/// Waits for the compiler and gives its exit status; a violent end is put into words.
fn wait(child: i32) -> i32 {
    let mut status = 0;
    // SAFETY: the child is ours, and nobody else waits for it.
    while unsafe { libc::waitpid(child, &raw mut status, 0) } < 0 {
        if io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
            return 1;
        }
    }
    if libc::WIFEXITED(status) {
        return libc::WEXITSTATUS(status);
    }
    let line = match libc::WTERMSIG(status) {
        libc::SIGKILL => "the compiler was killed, most likely for lack of memory\n".to_owned(),
        signal => format!("the compiler crashed: signal {signal}\n"),
    };
    output::fail(line.as_bytes())
}

/// The size of the input in bytes, as far as it can be told before it is read.
pub fn input_size() -> u64 {
    let size = rustix::fs::fstat(rustix::stdio::stdin()).map_or(0, |stat| stat.st_size);
    u64::try_from(size).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_says_what_it_was() {
        let error = step::<io::Error>("limits")(io::ErrorKind::PermissionDenied.into());
        assert_eq!(error.to_string(), "sandbox: limits: permission denied");
    }
}
