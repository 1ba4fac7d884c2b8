//! The kernel's procfs, and nothing that only looks like it.
//!
//! Its files take what confines a container: labels, sysctls, the ids of a user namespace. A write that ends in a file of
//! somebody's making confines nothing, and one that is led to another file of procfs may end the host (CVE-2019-16884,
//! CVE-2025-52881). So the runtime opens procfs before it joins any namespace, where nobody else has a say in what is
//! mounted, and keeps the descriptor. Names are resolved below it, through no link that leads out, and end in a procfs:
//! another part of it may be mounted there, as below /proc/sys where a container runs containers.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, fstat, fstatfs, openat2};
use rustix::io::Errno;

use crate::error::Os;
use crate::init::Error;

/// The inode of a procfs's top directory: PROC_ROOT_INO of the kernel's linux/proc_ns.h.
const TOP: u64 = 1;

/// The top directory of a procfs.
#[derive(Debug)]
pub struct Procfs(OwnedFd);

impl Procfs {
    /// The one that is mounted on /proc, where we are.
    ///
    /// # Errors
    /// [`Error::Step`] if what is there is not one.
    pub fn open() -> Result<Self, Error> {
        Self::find().map_err(|errno| Error::Step { step: "open /proc", reason: errno.into() })
    }

    /// As [`Self::open`].
    ///
    /// # Errors
    /// Those of openat2(2), and `ENODEV` if what is there is not a procfs.
    pub fn find() -> Result<Self, Errno> {
        Self::open_at(CWD, c"/proc")
    }

    fn open_at(directory: BorrowedFd<'_>, path: &CStr) -> Result<Self, Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let top = openat2(directory, path, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS)?;
        let genuine = is_procfs(top.as_fd())? && fstat(&top)?.st_ino == TOP;
        if genuine { Ok(Self(top)) } else { Err(Errno::NODEV) }
    }

    /// Opens a file by its path below the top.
    ///
    /// # Errors
    /// Those of openat2(2), and `ENODEV` if something else is mounted there.
    pub fn file(&self, path: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = openat2(&self.0, path, flags, Mode::empty(), resolve)?;
        if is_procfs(file.as_fd())? { Ok(file) } else { Err(Errno::NODEV) }
    }

    /// Writes a value, all at once.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn write(&self, path: &str, value: &str) -> Result<(), Error> {
        let written = self.file(path, OFlags::WRONLY).and_then(|file| put(&file, value));
        written.map_err(|errno| failed(path, value, errno))
    }
}

impl AsFd for Procfs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Whether the file is one of a procfs.
///
/// # Errors
/// Those of fstatfs(2).
pub fn is_procfs(file: BorrowedFd<'_>) -> Result<bool, Errno> {
    Ok(fstatfs(file)?.f_type == libc::PROC_SUPER_MAGIC)
}

/// Writes a value to an open file: the kernel takes each write as a whole one. Of nothing to write, nothing is written.
///
/// # Errors
/// Those of write(2).
pub fn put(file: &OwnedFd, value: &str) -> Result<(), Errno> {
    if value.is_empty() {
        return Ok(());
    }
    rustix::io::retry_on_intr(|| rustix::io::write(file, value.as_bytes())).map(drop)
}

/// The error of a write to a path below the top.
pub fn failed(path: &str, value: &str, reason: impl Into<Os>) -> Error {
    Error::Write { path: format!("/proc/{path}").into(), value: value.to_owned(), reason: reason.into() }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_bind, mount_change};
    use rustix::thread::{UnshareFlags, unshare_unsafe};

    use super::*;

    #[test]
    fn nothing_else_is_taken_for_procfs() {
        let directory = tempfile::tempdir().expect("a directory");
        symlink("/proc", directory.path().join("link")).expect("made");
        fs::create_dir_all(directory.path().join("fake/sys")).expect("made");
        let below = fs::File::open(directory.path()).expect("opened");
        let refused = |path| Procfs::open_at(below.as_fd(), path).expect_err("not procfs");
        assert_eq!(refused(c"fake"), Errno::NODEV);
        assert_eq!(refused(c"link"), Errno::LOOP);
        let proc = fs::File::open("/proc").expect("opened");
        let refused = |path| Procfs::open_at(proc.as_fd(), path).expect_err("not the top");
        assert_eq!(refused(c"sys"), Errno::NODEV);
        assert_eq!(refused(c"self"), Errno::LOOP);
    }

    /// In a thread with mounts of its own.
    fn with_own_mounts(body: impl FnOnce() + Send) {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: only root may mount");
            return;
        }
        std::thread::scope(|scope| {
            scope.spawn(|| {
                // SAFETY: the thread has nothing that depends on the mounts of others.
                unsafe { unshare_unsafe(UnshareFlags::NEWNS) }.expect("unshared");
                mount_change(c"/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
                    .expect("private");
                body();
            });
        });
    }

    #[test]
    fn one_that_is_held_is_not_covered() {
        let procfs = Procfs::find().expect("procfs");
        with_own_mounts(|| {
            mount(c"tmpfs", c"/proc", c"tmpfs", MountFlags::empty(), None).expect("mounted");
            fs::create_dir("/proc/thread-self").expect("made");
            fs::write("/proc/thread-self/comm", "fake").expect("written");
            assert_eq!(Procfs::find().expect_err("a tmpfs"), Errno::NODEV);
            procfs.write("thread-self/comm", "genuine").expect("written");
            assert_eq!(fs::read("/proc/thread-self/comm").expect("read"), b"fake");
            let comm = procfs.file("thread-self/comm", OFlags::RDONLY).map(fs::File::from).expect("opened");
            assert_eq!(std::io::read_to_string(comm).expect("read"), "genuine\n");
        });
    }

    #[test]
    fn only_procfs_may_be_mounted_on_its_files() {
        with_own_mounts(|| {
            let procfs = Procfs::find().expect("procfs");
            mount_bind("/proc/sys/kernel", "/proc/sys/kernel").expect("mounted");
            assert!(procfs.file("sys/kernel/ostype", OFlags::RDONLY).is_ok());
            mount_bind("/dev/null", "/proc/sys/kernel/ostype").expect("mounted");
            let covered = procfs.file("sys/kernel/ostype", OFlags::RDONLY);
            assert_eq!(covered.expect_err("another file"), Errno::NODEV);
        });
    }

    #[test]
    fn names_end_in_procfs() {
        let procfs = Procfs::open().expect("procfs");
        assert!(procfs.file("thread-self/attr/current", OFlags::PATH).is_ok());
        for (path, reason) in [
            ("self/root/etc/passwd", Errno::LOOP),
            ("self/exe", Errno::LOOP),
            ("self/cwd", Errno::LOOP),
            ("../etc/passwd", Errno::XDEV),
            ("/etc/passwd", Errno::XDEV),
        ] {
            assert_eq!(procfs.file(path, OFlags::RDONLY).expect_err(path), reason, "{path}");
        }
        let error = procfs.write("sys/kernel/nothing", "1").expect_err("not there").to_string();
        assert_eq!(error, "writing \"1\" to /proc/sys/kernel/nothing: no such file or directory");
    }
}
