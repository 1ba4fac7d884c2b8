//! Paths of a container, resolved below its root file system.
//!
//! The root file system and the volumes in it belong to whoever made the image, and another container may be
//! changing a shared volume at this moment. So nothing here looks at a path and then uses the path: the kernel
//! resolves it with `RESOLVE_IN_ROOT` (openat2(2)), where `..` and absolute symbolic links stay below the
//! root, and what comes back is a descriptor, which cannot be redirected.

use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, ResolveFlags, fstat, mkdirat, mknodat, openat2, readlinkat,
};
use rustix::io::Errno;

/// The top of a container's file system.
#[derive(Debug)]
pub(super) struct Root(OwnedFd);

/// What to create where nothing is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Directory,
    File,
}

impl Root {
    pub fn new(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// A directory that paths are to be resolved below.
    pub fn below(dir: &OwnedFd) -> Result<Self, Errno> {
        dir.try_clone().map(Self).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
    }

    /// Opens what is there, following symbolic links below the root.
    pub fn open(&self, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
        self.resolve(path, flags, ResolveFlags::empty())
    }

    /// Opens what is there, and refuses (`ELOOP`) if any part of the path is a symbolic link.
    pub fn open_plain(&self, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
        self.resolve(path, flags, ResolveFlags::NO_SYMLINKS)
    }

    fn resolve(&self, path: &Path, flags: OFlags, resolve: ResolveFlags) -> Result<OwnedFd, Errno> {
        // EAGAIN: something was renamed or mounted meanwhile, so the kernel could not vouch for "..".
        let mut tries = 0..64;
        loop {
            match openat2(
                &self.0,
                path,
                flags | OFlags::CLOEXEC,
                Mode::empty(),
                resolve | ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
            ) {
                Err(Errno::AGAIN | Errno::INTR) if tries.next().is_some() => {}
                result => return result,
            }
        }
    }

    /// Opens the path (`O_PATH`) after creating what is missing of it: directories with mode 0755, at the end
    /// a directory or an empty file. A symbolic link that leads nowhere has its target created, below the root.
    pub fn create(&self, path: &Path, kind: Kind) -> Result<OwnedFd, Errno> {
        let mut todo = components(path);
        let mut done = PathBuf::from("/");
        let mut parent = self.open(&done, OFlags::PATH | OFlags::DIRECTORY)?;
        // Bounds the walk when somebody removes what is created here, or links in a circle.
        let mut steps = 0..512;
        while let Some(name) = todo.pop() {
            if steps.next().is_none() {
                return Err(Errno::LOOP);
            }
            let here = done.join(&name);
            match self.open(&here, OFlags::PATH) {
                Ok(fd) if todo.is_empty() => return Ok(fd),
                Ok(fd) => {
                    parent = fd;
                    done = here;
                    continue;
                }
                Err(Errno::NOENT) => {}
                Err(errno) => return Err(errno),
            }
            match readlinkat(&parent, &name, Vec::new()) {
                Ok(target) => {
                    let target = PathBuf::from(OsString::from_vec(target.into_bytes()));
                    if target.is_absolute() {
                        done = PathBuf::from("/");
                        parent = self.open(&done, OFlags::PATH | OFlags::DIRECTORY)?;
                    }
                    todo.extend(components(&target));
                    continue;
                }
                // INVAL: no symbolic link, so it was created just now.
                Err(Errno::NOENT | Errno::INVAL) => {}
                Err(errno) => return Err(errno),
            }
            // A missing name is never "..", which every directory has: this creates below `parent`.
            let made = if todo.is_empty() && kind == Kind::File {
                mknodat(&parent, &name, FileType::RegularFile, Mode::from_raw_mode(0o644), 0)
            } else {
                mkdirat(&parent, &name, Mode::from_raw_mode(0o755))
            };
            match made {
                Ok(()) | Err(Errno::EXIST) => todo.push(name),
                Err(errno) => return Err(errno),
            }
        }
        Ok(parent)
    }

    /// The directory that holds `path`, created if it is missing, and the last name.
    pub fn create_parent(&self, path: &Path) -> Result<(OwnedFd, OsString), Errno> {
        let path = clean(path);
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Err(Errno::ISDIR) };
        let fd = match self.open(parent, OFlags::PATH | OFlags::DIRECTORY) {
            Err(Errno::NOENT) => self.create(parent, Kind::Directory)?,
            result => result?,
        };
        Ok((fd, name.to_owned()))
    }

    /// Whether this is the root itself.
    pub fn is(&self, fd: BorrowedFd) -> Result<bool, Errno> {
        let (ours, theirs) = (fstat(&self.0)?, fstat(fd)?);
        Ok((ours.st_dev, ours.st_ino) == (theirs.st_dev, theirs.st_ino))
    }
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The names of a path, last one first. `..` stays, for the kernel to resolve.
fn components(path: &Path) -> Vec<OsString> {
    path.components()
        .rev()
        .filter_map(|part| match part {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some("..".into()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
        })
        .collect()
}

/// The path as seen from `/`, without `.` and `..`. Only text: what it names is up to [`Root`].
pub(super) fn clean(path: &Path) -> PathBuf {
    let mut cleaned = PathBuf::from("/");
    for part in path.components() {
        match part {
            Component::Normal(name) => cleaned.push(name),
            Component::ParentDir => {
                cleaned.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    cleaned
}

/// Whether the descriptor is one of a directory.
pub(super) fn is_directory(fd: BorrowedFd) -> Result<bool, Errno> {
    Ok(FileType::from_raw_mode(fstat(fd)?.st_mode) == FileType::Directory)
}

/// The flags for a path relative to a descriptor that is not to be followed if it is a symbolic link.
pub(super) const NOFOLLOW: AtFlags = AtFlags::SYMLINK_NOFOLLOW;
