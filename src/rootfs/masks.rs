//! What a container may not see or write, after the change of root.
//!
//! Who shares the root file system may have moved its /proc aside by now, and put another there to be masked in its
//! place. So a path on a procfs or sysfs is looked up below the very mount that was made for it.
//!
//! A file is hidden by the container's /dev/null. It is opened once and shown to be the null device before it
//! is used: whatever else the image or a neighbour manages to put there (a link to a file of procfs, say) would
//! be mounted where the container can write to it (CVE-2025-31133).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags, fstat, makedev, open};
use rustix::io::Errno;
use rustix::mount::MountFlags;
use rustix::process::chdir;

use super::attributes::Attributes;
use super::mount::Mounted;
use super::options::Options;
use super::resolve::{self, Root, clean, is_directory, leave, top};
use super::{Error, bind, mount};

const PATH: OFlags = OFlags::PATH.union(OFlags::CLOEXEC);

/// Makes `/` read-only; other mounts stay as they are.
pub(super) fn read_only_root(root: &Root) -> Result<(), Error> {
    Attributes::READ_ONLY
        .apply(root.as_fd(), false)
        .map_err(|errno| Error::ReadOnly { path: "/".into(), reason: errno.into() })
}

/// Opens a path of the container's; `kernel` is its procfs and sysfs.
fn open_path(root: &Root, kernel: &[Mounted], path: &str) -> Result<OwnedFd, Errno> {
    let path = clean(Path::new(path));
    let found = kernel.iter().rev().find_map(|mount| Some((mount, path.strip_prefix(&mount.dest).ok()?)));
    let (top, path) =
        found.map_or((root.as_fd(), path.as_path()), |(mount, below)| (mount.top.as_fd(), below));
    // To the kernel, no path at all is none.
    resolve::open(top, if path.as_os_str().is_empty() { Path::new("/") } else { path }, OFlags::PATH)
}

/// Makes paths read-only with everything mounted below them. Missing ones are no error.
pub(super) fn read_only(root: &Root, kernel: &[Mounted], paths: &[String]) -> Result<(), Error> {
    for path in paths {
        match open_path(root, kernel, path).and_then(read_only_path) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(Error::ReadOnly { path: path.into(), reason: errno.into() }),
        }
    }
    Ok(())
}

/// A clone over itself, so that only this path changes.
fn read_only_path(target: OwnedFd) -> Result<(), Errno> {
    let tree = bind::clone_all(&target, Path::new(""))?;
    bind::put(&tree, &target)?;
    match Attributes::READ_ONLY.apply(tree.as_fd(), true) {
        // Linux before 5.12 can change one mount only.
        Err(Errno::NOSYS) => Attributes::READ_ONLY.apply(tree.as_fd(), false),
        result => result,
    }?;
    leave(tree);
    leave(target);
    Ok(())
}

/// Hides files behind /dev/null and directories behind an empty read-only tmpfs. Missing ones are no error.
pub(super) fn hide(
    root: &Root,
    kernel: &[Mounted],
    paths: &[String],
    label: Option<&str>,
) -> Result<(), Error> {
    let mut null = None;
    let mut empty = None;
    for path in paths {
        let failed = |errno: Errno| Error::Mask { path: path.clone(), reason: errno.into() };
        let target = match open_path(root, kernel, path) {
            Err(Errno::NOENT | Errno::NOTDIR) => continue,
            result => result.map_err(failed)?,
        };
        if is_directory(target.as_fd()).map_err(failed)? {
            match &empty {
                Some(empty) => cover(empty, &target).map_err(failed)?,
                None => empty = Some(new_empty(&target, label).map_err(failed)?),
            }
        } else {
            let null = match &null {
                Some(null) => null,
                None => null.insert(open_null()?),
            };
            cover(null, &target).map_err(failed)?;
        }
        leave(target);
    }
    empty.into_iter().chain(null).for_each(leave);
    Ok(())
}

fn cover(with: &OwnedFd, target: &OwnedFd) -> Result<(), Errno> {
    let clone = bind::clone(with, Path::new(""), &Options::default())?;
    bind::put(&clone, target)?;
    leave(clone);
    Ok(())
}

/// The first hidden directory gets a tmpfs, the others a clone of it.
fn new_empty(target: &OwnedFd, label: Option<&str>) -> Result<OwnedFd, Errno> {
    let mut data = vec!["nr_blocks=1".to_owned(), "nr_inodes=1".to_owned()];
    data.extend(label.map(|label| format!("context=\"{label}\"")));
    mount::new(target, Path::new("tmpfs"), "tmpfs", MountFlags::RDONLY, &data)?;
    // It changed into the directory that is hidden now.
    chdir(c"/")?;
    top(target.as_fd())
}

fn open_null() -> Result<OwnedFd, Error> {
    let null = open(c"/dev/null", PATH | OFlags::NOFOLLOW, Mode::empty())
        .map_err(|errno| Error::Mask { path: "/dev/null".into(), reason: errno.into() })?;
    if is_null(null.as_fd()) { Ok(null) } else { Err(Error::NotNull) }
}

fn is_null(fd: BorrowedFd) -> bool {
    fstat(fd).is_ok_and(|stat| {
        FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == makedev(1, 3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_null_device_is_null() {
        let opened = |path: &str| open(path, PATH, Mode::empty()).unwrap();
        assert!(is_null(opened("/dev/null").as_fd()));
        assert!(!is_null(opened("/dev/zero").as_fd()));
        assert!(!is_null(opened("/etc/passwd").as_fd()));
    }
}
