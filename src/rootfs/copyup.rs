//! The option `tmpcopyup`: a tmpfs starts with what the directory it covers holds, as it is there: owner, mode,
//! times, extended attributes, hard links and special files included.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, XattrFlags, chownat, fchmod,
    fchown, fgetxattr, flistxattr, fsetxattr, fstat, linkat, mkdirat, mknodat, openat, readlinkat, statat,
    symlinkat, utimensat,
};
use rustix::io::Errno;

use super::Error;
use super::resolve::NOFOLLOW;

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Opens the directory that is about to be covered.
pub(super) fn open(target: &OwnedFd, dest: &Path) -> Result<OwnedFd, Error> {
    openat(target, c".", DIRECTORY, Mode::empty()).map_err(Error::mount_point(dest))
}

/// Copies everything from the covered directory to the tmpfs over it, whose own mode is that of its mount.
pub(super) fn copy(below: &OwnedFd, above: &OwnedFd, dest: &Path) -> Result<(), Error> {
    let mut copy = Copy::default();
    openat(above, c".", DIRECTORY, Mode::empty())
        .map_err(io::Error::from)
        .and_then(|above| copy.directory(below.as_fd(), above.as_fd()))
        .map_err(|error| Error::CopyUp {
            dest: dest.to_owned(),
            path: if copy.path.is_empty() { ".".to_owned() } else { copy.path.join("/") },
            reason: error.into(),
        })
}

#[derive(Default)]
struct Copy {
    /// Where we are. After a failure, where it happened.
    path: Vec<String>,
    /// The copies of files that have more names than one, by device and inode: the directory and the name.
    links: HashMap<(u64, u64), (OwnedFd, CString)>,
}

impl Copy {
    /// Copies a directory's entries, and what it is besides its mode. Times come last: entries change them.
    fn directory(&mut self, from: BorrowedFd, to: BorrowedFd) -> io::Result<()> {
        for entry in Dir::read_from(from)? {
            let entry = entry?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            self.path.push(name.to_string_lossy().into_owned());
            self.entry(from, to, name)?;
            self.path.pop();
        }
        let stat = fstat(from)?;
        fchown(to, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
        attributes(from, to)?;
        Ok(rustix::fs::futimens(to, &times(&stat))?)
    }

    fn entry(&mut self, from: BorrowedFd, to: BorrowedFd, name: &CStr) -> io::Result<()> {
        let stat = statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
        let kind = FileType::from_raw_mode(stat.st_mode);
        let inode = (stat.st_dev, stat.st_ino);
        if let Some((directory, first)) = self.links.get(&inode) {
            return Ok(linkat(directory, first, to, name, AtFlags::empty())?);
        }
        match kind {
            FileType::Directory => {
                mkdirat(to, name, Mode::RWXU)?;
                let from = openat(from, name, DIRECTORY, Mode::empty())?;
                let to = openat(to, name, DIRECTORY, Mode::empty())?;
                self.directory(from.as_fd(), to.as_fd())?;
                return Ok(fchmod(&to, mode)?);
            }
            FileType::RegularFile => {
                // A pipe that took its place since must not keep us.
                let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
                let from = openat(from, name, flags | OFlags::RDONLY, Mode::empty())?;
                let new = flags | OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
                let (mut from, mut to) = (File::from(from), File::from(openat(to, name, new, Mode::RUSR)?));
                io::copy(&mut from, &mut to)?;
                fchown(&to, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
                // After the change of owner, which takes set-user-ID and capabilities away.
                fchmod(&to, mode)?;
                attributes(from.as_fd(), to.as_fd())?;
            }
            FileType::Symlink => symlinkat(&*readlinkat(from, name, Vec::new())?, to, name)?,
            kind => mknodat(to, name, kind, mode, stat.st_rdev)?,
        }
        if kind != FileType::RegularFile {
            chownat(to, name, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)), NOFOLLOW)?;
        }
        utimensat(to, name, &times(&stat), NOFOLLOW)?;
        if stat.st_nlink > 1 {
            self.links.insert(inode, (to.try_clone_to_owned()?, name.to_owned()));
        }
        Ok(())
    }
}

fn times(stat: &Stat) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: stat.st_atime, tv_nsec: stat.st_atime_nsec.cast_signed() },
        last_modification: Timespec { tv_sec: stat.st_mtime, tv_nsec: stat.st_mtime_nsec.cast_signed() },
    }
}

/// Extended attributes (xattr(7)). What a tmpfs does not have, or a user namespace may not set, stays behind.
fn attributes(from: BorrowedFd, to: BorrowedFd) -> io::Result<()> {
    let mut names = vec![0; 64 * 1024];
    let length = match flistxattr(from, &mut names[..]) {
        Err(Errno::NOTSUP) => 0,
        result => result?,
    };
    for name in names[..length].split_inclusive(|byte| *byte == 0) {
        let Ok(name) = CStr::from_bytes_with_nul(name) else { continue };
        let mut value = vec![0; 64 * 1024];
        let length = fgetxattr(from, name, &mut value[..])?;
        match fsetxattr(to, name, &value[..length], XattrFlags::empty()) {
            Err(Errno::NOTSUP | Errno::PERM) => {}
            result => result?,
        }
    }
    Ok(())
}
