//! The directories that a path leads through, and whether others can make it lead elsewhere.
//!
//! The owner and mode of the cache say that nobody else can write into it, but not that it is the cache: a container's root
//! on a volume can make a directory that looks just like it and fill it, and whoever can change a directory above the cache
//! can put a link to that one there. So each directory on the way, and each link, must belong to us or to root, and no
//! directory may be open to others, but for one with the sticky bit, where what is ours stays ours.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Stat};

/// As many symbolic links as the kernel follows (path_resolution(7)).
const MAX_LINKS: u32 = 40;
/// Whose files look like theirs in a user namespace that has no id for the owner.
const OVERFLOW: u32 = 65534;

/// The first directory or link on the way to `path` that others could replace or fill, if there is one. What is
/// missing stops nobody: whoever makes it asks once more.
///
/// # Errors
/// Those of lstat(2) and readlink(2).
pub fn untrusted(path: &Path) -> io::Result<Option<PathBuf>> {
    let absolute = std::path::absolute(path)?;
    let mut todo: VecDeque<OsString> = names(absolute.parent().unwrap_or(&absolute));
    let mut way = PathBuf::from("/");
    let mut links = 0;
    if !is_trusted(&lstat(&way)?) {
        return Ok(Some(way));
    }
    // What has been looked at cannot be changed by others any more, so a path is as good as a descriptor.
    while let Some(name) = todo.pop_front() {
        if name == ".." {
            way.pop();
            continue;
        }
        way.push(name);
        let stat = match lstat(&way) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            stat => stat?,
        };
        if !is_trusted(&stat) {
            return Ok(Some(way));
        }
        if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink {
            links += 1;
            if links > MAX_LINKS {
                return Err(rustix::io::Errno::LOOP.into());
            }
            let target = rustix::fs::readlinkat(CWD, &way, Vec::new())?;
            let target = PathBuf::from(OsString::from_vec(target.into_bytes()));
            way.pop();
            if target.is_absolute() {
                way = PathBuf::from("/");
            }
            for name in names(&target).into_iter().rev() {
                todo.push_front(name);
            }
        }
    }
    Ok(None)
}

fn lstat(path: &Path) -> io::Result<Stat> {
    Ok(rustix::fs::statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW)?)
}

fn names(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter_map(|component| match component {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some("..".into()),
            _ => None,
        })
        .collect()
}

fn is_trusted(stat: &Stat) -> bool {
    let ours = rustix::process::geteuid().as_raw();
    let owner = stat.st_uid == 0
        || stat.st_uid == ours
        // Root of the host, as far as can be told.
        || stat.st_uid == OVERFLOW && crate::rootless::in_user_namespace();
    // Many users have a group of their own, which may write to whatever they make.
    let group = stat.st_gid == 0 || stat.st_gid == rustix::process::getegid().as_raw();
    let others = if group { 0o002 } else { 0o022 };
    let closed = FileType::from_raw_mode(stat.st_mode) == FileType::Symlink
        || stat.st_mode & others == 0
        || stat.st_mode & 0o1000 != 0;
    owner && closed
}
