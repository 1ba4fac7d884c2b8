//! The option `tmpcopyup`: a tmpfs starts with what the directory it covers holds.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, Stat, Uid, chownat, fchmod, fchown, fstat, mkdirat, mknodat,
    openat, readlinkat, statat, symlinkat,
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

/// Copies everything from the covered directory to the tmpfs over it.
pub(super) fn copy(below: &OwnedFd, above: &OwnedFd, dest: &Path) -> Result<(), Error> {
    let mut path = Vec::new();
    openat(above, c".", DIRECTORY, Mode::empty())
        .map_err(io::Error::from)
        .and_then(|above| directory(below.as_fd(), above.as_fd(), &mut path))
        .map_err(|error| Error::CopyUp {
            dest: dest.to_owned(),
            path: if path.is_empty() { ".".to_owned() } else { path.join("/") },
            reason: error.into(),
        })
}

/// Copies a directory's entries and its owner. After a failure, `path` says where it happened.
fn directory(from: BorrowedFd, to: BorrowedFd, path: &mut Vec<String>) -> io::Result<()> {
    for entry in Dir::read_from(from)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        path.push(name.to_string_lossy().into_owned());
        copy_entry(from, to, name, path)?;
        path.pop();
    }
    let stat = fstat(from)?;
    fchown(to, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
    Ok(())
}

fn copy_entry(from: BorrowedFd, to: BorrowedFd, name: &CStr, path: &mut Vec<String>) -> io::Result<()> {
    let stat = statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => {
            mkdirat(to, name, Mode::RWXU)?;
            let (from, to) =
                (openat(from, name, DIRECTORY, Mode::empty())?, openat(to, name, DIRECTORY, Mode::empty())?);
            directory(from.as_fd(), to.as_fd(), path)?;
            fchmod(&to, mode)?;
        }
        FileType::RegularFile => {
            let flags = OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let from = openat(from, name, flags | OFlags::RDONLY, Mode::empty())?;
            let to = openat(to, name, flags | OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL, Mode::RUSR)?;
            let (mut from, mut to) = (File::from(from), File::from(to));
            io::copy(&mut from, &mut to)?;
            fchown(&to, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
            // After the change of owner, which takes set-user-ID away.
            fchmod(&to, mode)?;
        }
        FileType::Symlink => {
            symlinkat(&*readlinkat(from, name, Vec::new())?, to, name)?;
            own(to, name, &stat)?;
        }
        kind => {
            mknodat(to, name, kind, mode, stat.st_rdev)?;
            own(to, name, &stat)?;
        }
    }
    Ok(())
}

fn own(dir: BorrowedFd, name: &CStr, stat: &Stat) -> Result<(), Errno> {
    chownat(dir, name, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)), NOFOLLOW)
}
