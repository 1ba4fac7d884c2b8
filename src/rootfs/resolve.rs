//! Paths of a container, resolved below its root file system.
//!
//! The root file system and the volumes in it belong to whoever made the image, and another container may be
//! changing a shared volume at this moment. So nothing here looks at a path and then uses the path: the kernel
//! resolves it with `RESOLVE_IN_ROOT` (openat2(2)), where `..` and absolute symbolic links stay below the
//! root, and what comes back is a descriptor, which cannot be redirected.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, fstat, mkdirat, mknodat, openat2, readlinkat,
};
use rustix::io::Errno;

/// The top of a container's file system.
#[derive(Debug)]
pub(super) struct Root {
    top: OwnedFd,
    /// The tmpfs that was mounted last: its path, and its top. Nobody else has made anything in it.
    new: Option<(PathBuf, OwnedFd)>,
}

/// What to create where nothing is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Directory,
    File,
}

impl Kind {
    fn make(self, dir: BorrowedFd, name: &OsStr) -> Result<(), Errno> {
        match self {
            Self::Directory => mkdirat(dir, name, Mode::from_raw_mode(0o755)),
            Self::File => mknodat(dir, name, FileType::RegularFile, Mode::from_raw_mode(0o644), 0),
        }
    }
}

impl Root {
    pub fn new(fd: OwnedFd) -> Self {
        Self { top: fd, new: None }
    }

    /// Tells of the tmpfs that was mounted last, as long as what is mounted next lies directly in it.
    pub fn set_new(&mut self, tmpfs: Option<(PathBuf, OwnedFd)>) {
        self.new = tmpfs;
    }

    /// The tmpfs that was mounted last, if this path lies directly in it.
    pub fn new_around(&self, path: &Path) -> Option<BorrowedFd<'_>> {
        self.new.as_ref().filter(|(tmpfs, _)| path.parent() == Some(tmpfs)).map(|(_, top)| top.as_fd())
    }

    /// A directory that paths are to be resolved below.
    pub fn below(dir: &OwnedFd) -> Result<Self, Errno> {
        dir.try_clone().map(Self::new).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
    }

    /// Opens what is there, following symbolic links below the root.
    pub fn open(&self, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
        open(self.as_fd(), path, flags)
    }

    /// Opens what is there, and refuses (`ELOOP`) if any part of the path is a symbolic link.
    pub fn open_plain(&self, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
        open_plain(self.as_fd(), path, flags)
    }

    /// Opens the path (`O_PATH`) after creating what is missing of it: directories with mode 0755, at the end
    /// a directory or an empty file. A symbolic link that leads nowhere has its target created, below the root.
    pub fn create(&self, path: &Path, kind: Kind) -> Result<OwnedFd, Errno> {
        self.create_within(path, kind, 64)
    }

    /// `steps` bounds how deep the path is and how many links are followed, should they go round in a circle.
    fn create_within(&self, path: &Path, kind: Kind, steps: u32) -> Result<OwnedFd, Errno> {
        let steps = steps.checked_sub(1).ok_or(Errno::LOOP)?;
        // No last name: "/" or "..", which exist.
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return self.open(path, OFlags::PATH);
        };
        let dir = match self.open(parent, OFlags::PATH | OFlags::DIRECTORY) {
            Err(Errno::NOENT) => self.create_within(parent, Kind::Directory, steps)?,
            result => result?,
        };
        match kind.make(dir.as_fd(), name) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno),
        }
        match self.open(path, OFlags::PATH) {
            Err(Errno::NOENT) => {
                let target = readlinkat(&dir, name, Vec::new())?;
                let target = parent.join(OsString::from_vec(target.into_bytes()));
                self.create_within(&target, kind, steps)
            }
            result => result,
        }
    }

    /// Makes what is not there, in a directory that is, and opens it (`O_PATH`): no part of the path is a symbolic link.
    ///
    /// # Errors
    /// `ENOENT` if the directory is missing too, `ELOOP` if its path has a link, `EEXIST`.
    pub fn make_plain(&self, path: &Path, kind: Kind) -> Result<OwnedFd, Errno> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Err(Errno::EXIST) };
        let make = |dir: BorrowedFd| {
            kind.make(dir, name)?;
            open_plain(dir, Path::new(name), OFlags::PATH)
        };
        match self.new_around(path) {
            Some(dir) => make(dir),
            None => make(self.open_plain(parent, OFlags::PATH | OFlags::DIRECTORY)?.as_fd()),
        }
    }

    /// The directory that holds `path`, created if it is missing, and the last name.
    pub fn create_parent(&self, path: &Path) -> Result<(OwnedFd, OsString), Errno> {
        let path = clean(path);
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Err(Errno::ISDIR) };
        match self.open(parent, OFlags::PATH | OFlags::DIRECTORY) {
            Err(Errno::NOENT) => self.create(parent, Kind::Directory),
            result => result,
        }
        .map(|dir| (dir, name.to_owned()))
    }

    /// The same with what is mounted over it.
    pub fn top(&self) -> Result<Self, Errno> {
        top(self.as_fd()).map(Self::new)
    }

    /// Whether this is the root itself.
    pub fn is(&self, fd: BorrowedFd) -> Result<bool, Errno> {
        let (ours, theirs) = (fstat(&self.top)?, fstat(fd)?);
        Ok((ours.st_dev, ours.st_ino) == (theirs.st_dev, theirs.st_ino))
    }
}

impl From<Root> for OwnedFd {
    fn from(root: Root) -> Self {
        root.top
    }
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.top.as_fd()
    }
}

/// [`Root::open`] below any directory.
pub(super) fn open(root: BorrowedFd, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    open_in(root, path, flags, ResolveFlags::empty())
}

/// [`Root::open_plain`] below any directory.
pub(super) fn open_plain(root: BorrowedFd, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    open_in(root, path, flags, ResolveFlags::NO_SYMLINKS)
}

fn open_in(root: BorrowedFd, path: &Path, flags: OFlags, resolve: ResolveFlags) -> Result<OwnedFd, Errno> {
    let resolve = resolve | ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    // EAGAIN: something was renamed or mounted meanwhile, so the kernel could not vouch for "..".
    let mut tries = 0..64;
    loop {
        match openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            Err(Errno::AGAIN | Errno::INTR) if tries.next().is_some() => {}
            result => return result,
        }
    }
}

/// What is mounted over a directory, or the directory. Its path may lead elsewhere by now: instead, `..` of a root is
/// the root, and like every step of a path that goes up to what is mounted there.
pub(super) fn top(directory: BorrowedFd) -> Result<OwnedFd, Errno> {
    open(directory, Path::new(".."), OFlags::PATH | OFlags::DIRECTORY)
}

/// Opens a directory of the host by a path that has no symbolic links; one that was put there meanwhile is an error.
pub(super) fn open_canonical(path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS)
}

/// The path as seen from `/`, without `.` and `..`. Only text: what it names is up to [`Root`].
pub fn clean(path: &Path) -> PathBuf {
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

/// Leaves a descriptor open that nobody needs any more, as long as there are few: one call closes all of them before init
/// looks for its program.
pub(super) fn leave(fd: OwnedFd) {
    const FEW: RawFd = 64;
    if fd.as_raw_fd() < FEW {
        std::mem::forget(fd);
    }
}

/// Whether the descriptor is one of a directory.
pub(super) fn is_directory(fd: BorrowedFd) -> Result<bool, Errno> {
    Ok(FileType::from_raw_mode(fstat(fd)?.st_mode) == FileType::Directory)
}

/// The flags for a path relative to a descriptor that is not to be followed if it is a symbolic link.
pub(super) const NOFOLLOW: AtFlags = AtFlags::SYMLINK_NOFOLLOW;

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn text_is_cleaned() {
        for (path, cleaned) in [("a/./b/", "/a/b"), ("/a/../../b", "/b"), ("..", "/"), ("", "/")] {
            assert_eq!(clean(Path::new(path)), Path::new(cleaned));
        }
    }

    #[test]
    fn what_is_missing_is_created_below_the_root() {
        let dir = tempfile::tempdir().unwrap();
        let root =
            Root::new(rustix::fs::open(dir.path(), OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap());
        let at = |path: &str| dir.path().join(path);
        root.create(Path::new("/a/b/c"), Kind::File).unwrap();
        assert!(at("a/b/c").is_file());
        root.create(Path::new("/"), Kind::Directory).unwrap();

        // Links that lead nowhere: relative, absolute, out of the root, one to the other.
        symlink("../x/y", at("a/relative")).unwrap();
        symlink("/../../x/z", at("absolute")).unwrap();
        symlink("a/relative", at("second")).unwrap();
        root.create(Path::new("/second/dir"), Kind::Directory).unwrap();
        assert!(at("x/y/dir").is_dir());
        root.create(Path::new("/absolute"), Kind::File).unwrap();
        assert!(at("x/z").is_file());

        symlink("circle", at("circle")).unwrap();
        assert_eq!(root.create(Path::new("/circle"), Kind::File).unwrap_err(), Errno::LOOP);
        symlink("b/..", at("a/up")).unwrap();
        let up = root.create(Path::new("/a/up"), Kind::Directory).unwrap();
        assert!(openat2(up, c"b", OFlags::PATH, Mode::empty(), ResolveFlags::empty()).is_ok());
        assert_eq!(root.create(Path::new("/a/b/c/d"), Kind::File).unwrap_err(), Errno::NOTDIR);
    }

    #[test]
    fn links_are_seen_where_none_may_be() {
        let dir = tempfile::tempdir().unwrap();
        let root =
            Root::new(openat2(CWD, dir.path(), OFlags::PATH, Mode::empty(), ResolveFlags::empty()).unwrap());
        fs::create_dir(dir.path().join("real")).unwrap();
        symlink("real", dir.path().join("link")).unwrap();
        assert!(root.open(Path::new("link"), OFlags::PATH).is_ok());
        assert!(root.open_plain(Path::new("real"), OFlags::PATH).is_ok());
        assert_eq!(root.open_plain(Path::new("link"), OFlags::PATH).unwrap_err(), Errno::LOOP);
    }
}
