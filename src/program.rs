//! This program's own file: where it lies, and keeping it out of a container's reach.
//!
//! A process that we turn into a container's stays our program until it execs, and a hostile image can make
//! that exec lead back to us (an entrypoint or interpreter `/proc/self/exe`), then open our file through
//! `/proc/PID/exe` and write to it (CVE-2019-5736). So the commands that enter a container first run
//! themselves again from a read-only view of the file that has no path: a detached mount, or, for those who
//! may not mount, a sealed copy in memory.

use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use coracle_abi::descriptors::close_on_exec;
use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags, StatVfsMountFlags};
use rustix::io::Errno;
use rustix::mm::{Advice, madvise};
use rustix::mount::{OpenTreeFlags, open_tree};
use rustix::process::{Signal, set_parent_process_death_signal};

use crate::error::Os;
use crate::rootfs;

/// Our file, or the view of it that runs.
const EXE: &str = "/proc/self/exe";

/// Tells the second run where the first was found; a detached file has no path of its own.
pub const DIRECTORY: &str = "_CORACLE_PROGRAM_DIR";

/// Running from a protected view of our file failed.
#[derive(Debug, thiserror::Error)]
#[error("running {path} from a read-only view of it: {reason}")]
pub struct Error {
    path: PathBuf,
    reason: Os,
}

/// The directory this program was started from, where its handlers may lie too.
pub fn directory() -> Option<PathBuf> {
    if let Some(directory) = std::env::var_os(DIRECTORY) {
        return Some(directory.into());
    }
    Some(std::env::current_exe().ok()?.parent()?.to_owned())
}

/// Makes sure that what runs is a view of our file that nobody can write through: returns when it is, and
/// runs this program again, with the same arguments, when it is not. Mostly that has been done before `main`: see
/// `entry.rs`.
///
/// # Errors
/// [`Error`] when neither a detached mount nor a copy can be had or run.
pub fn protect() -> Result<(), Error> {
    if rustix::fs::statvfs(EXE).is_ok_and(|found| found.f_flag.contains(StatVfsMountFlags::RDONLY)) {
        return Ok(());
    }
    let path = std::env::current_exe().unwrap_or_else(|_| PathBuf::from(EXE));
    let error = |reason: Os| Error { path: path.clone(), reason };
    let exe = File::open(EXE).map_err(|e| error(e.into()))?;
    if rustix::fs::fcntl_get_seals(&exe).is_ok_and(|seals| seals.contains(SealFlags::WRITE)) {
        return Ok(());
    }
    let view = match read_only_view(&path) {
        Ok(view) => view,
        // Mounting is refused outside a user namespace of one's own, and before Linux 5.12.
        Err(Errno::PERM | Errno::NOSYS | Errno::INVAL) => sealed_copy(exe).map_err(|e| error(e.into()))?,
        Err(errno) => return Err(error(errno.into())),
    };
    Err(error(execute(view.as_fd()).into()))
}

/// One file through a read-only mount that is attached nowhere, as a place (`O_PATH`). Nothing else is reachable
/// through it, and nothing can be opened for writing, not even through /proc/PID/exe.
///
/// # Errors
/// Those of open_tree(2), mount_setattr(2) and open(2).
pub fn read_only_view(path: &std::path::Path) -> Result<OwnedFd, Errno> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    reopen(open_tree(rustix::fs::CWD, path, flags)?, OFlags::PATH)
}

/// The same for a file that is open: a descriptor of it whose way back, /proc/PID/fd/N, is closed to writers.
///
/// # Errors
/// As [`read_only_view`].
pub fn read_only_file(file: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    reopen(open_tree(file, c"", flags)?, OFlags::RDONLY)
}

/// Opens what a detached mount shows, read-only. The mount is let go with that, for as long as open_tree(2)'s
/// descriptor of it is open anywhere, everybody with CAP_SYS_ADMIN in his own container can make it writable.
fn reopen(view: OwnedFd, flags: OFlags) -> Result<OwnedFd, Errno> {
    rootfs::make_read_only(view.as_fd())?;
    let path = format!("/proc/self/fd/{}", view.as_raw_fd());
    rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty())
}

/// A copy of an open file in memory that can never change again.
///
/// # Errors
/// Those of memfd_create(2), of reading the file and of filling the copy.
pub fn sealed_copy(mut file: File) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let copy = rustix::fs::memfd_create(c"coracle", flags)?;
    let mut copy = File::from(copy);
    io::copy(&mut file, &mut copy)?;
    let seals = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
    rustix::fs::fcntl_add_seals(&copy, seals)?;
    // A descriptor open for writing would make execveat fail with ETXTBSY.
    Ok(File::open(format!("/proc/self/fd/{}", copy.as_raw_fd()))?.into())
}

/// Runs our own file again; returns only when that fails.
fn execute(view: BorrowedFd<'_>) -> io::Error {
    let strings = |list: Vec<Vec<u8>>| list.into_iter().map(CString::new).collect::<Result<Vec<_>, _>>();
    let arguments = std::env::args_os().map(OsStringExt::into_vec).collect();
    let directory = directory().unwrap_or_default();
    let environment = std::env::vars_os()
        .filter(|(name, _)| name != OsStr::new(DIRECTORY))
        .chain([(DIRECTORY.into(), directory.into_os_string())])
        .map(|(name, value)| [name.as_bytes(), b"=", value.as_bytes()].concat())
        .collect();
    match (strings(arguments), strings(environment)) {
        (Ok(arguments), Ok(environment)) => execveat(view, &arguments, &environment),
        _ => io::ErrorKind::InvalidInput.into(),
    }
}

/// execveat(2) of an open program; returns only when that fails.
pub fn execveat(program: BorrowedFd<'_>, arguments: &[CString], environment: &[CString]) -> io::Error {
    let (argv, envp) = (pointers(arguments), pointers(environment));
    // SAFETY: both arrays end with a null pointer, and their strings live until the call returns or never does.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            program.as_raw_fd(),
            c"".as_ptr(),
            argv.as_ptr(),
            envp.as_ptr(),
            libc::AT_EMPTY_PATH,
        );
    }
    io::Error::last_os_error()
}

/// execve(2); returns only when that fails.
pub fn execve(path: &CStr, arguments: &[CString], environment: &[CString]) -> io::Error {
    let (argv, envp) = (pointers(arguments), pointers(environment));
    // SAFETY: as above.
    unsafe { libc::execve(path.as_ptr(), argv.as_ptr(), envp.as_ptr()) };
    io::Error::last_os_error()
}

/// Makes a program that we run for a container end with us, however we end, for nobody would wait for it; and gives it
/// none of the descriptors that we or our caller have open past the standard streams.
pub fn attach_to_us(command: &mut Command) {
    let us = rustix::process::getpid();
    // SAFETY: only system calls are made between fork and exec, and no descriptor is closed before the exec.
    unsafe {
        command.pre_exec(move || {
            close_on_exec(3);
            set_parent_process_death_signal(Some(Signal::KILL))?;
            // We may be gone already.
            if rustix::process::getppid() == Some(us) { Ok(()) } else { Err(Errno::SRCH.into()) }
        });
    }
}

/// Gives back the memory of our code and constants. The kernel has mapped sixteen pages for each that was touched; what is
/// touched again comes from the file again.
pub fn forget_pages() {
    unsafe extern "C" {
        /// The linker's: where our first segment begins, and where code ends.
        static __executable_start: u8;
        static etext: u8;
    }
    let start = &raw const __executable_start;
    let length = (&raw const etext as usize).saturating_sub(start as usize);
    // Whole pages, the last one too; nothing depends on it.
    // SAFETY: in between is nothing that is ever written to, or relocated.
    let _ = unsafe { madvise(start.cast_mut().cast(), length, Advice::LinuxDontNeed) };
}

fn pointers(list: &[CString]) -> Vec<*const libc::c_char> {
    list.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect()
}
