//! The cache's directory: the one place whose files are trusted, and what makes them so.
//!
//! The directory is opened once, by a descriptor, without following a symlink in its place. It must belong to
//! our effective user and be closed to everybody else. That is checked on the descriptor. Nobody else may be able to put
//! another directory in its place: see [`ancestors`]. Each file in it must be a regular file of ours with a single name,
//! closed to everybody else, and is opened without following a symlink or waiting for a FIFO.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Stat, StatVfsMountFlags};
use rustix::io::Errno;

use super::ancestors;
use crate::error::Os;

/// Where root's cache is.
const SYSTEM: &str = "/var/cache/coracle/wasm";

/// The cache cannot be used; modules are then compiled at every start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Neither `XDG_CACHE_HOME` nor `HOME` says where a user's cache is.
    #[error("no cache directory: neither XDG_CACHE_HOME nor HOME is set to an absolute path")]
    Nowhere,
    /// It cannot be created or opened.
    #[error("{path}: {reason}")]
    Open {
        /// The directory.
        path: PathBuf,
        /// The system's reason.
        reason: Os,
    },
    /// It is somebody else's.
    #[error("{path}: owned by user {owner}, not by us")]
    Owner {
        /// The directory.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
    },
    /// Others can put another directory in its place.
    #[error("{path}: others can change {above}")]
    Above {
        /// The directory.
        path: PathBuf,
        /// A directory or link on the way to it.
        above: PathBuf,
    },
    /// Others may enter it, or even write.
    #[error("{path}: mode {mode:04o} lets others in; it must be 0700")]
    Mode {
        /// The directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
}

/// The open directory.
#[derive(Debug)]
pub struct Directory {
    fd: OwnedFd,
    path: PathBuf,
    user: u32,
}

impl Directory {
    /// Opens this user's cache directory, or makes it: `CORACLE_CACHE_DIR` if that is set, `/var/cache/coracle/wasm`
    /// for the host's root, a directory in the user's own cache for everybody else.
    ///
    /// # Errors
    /// Why the cache cannot be used.
    pub fn open_default() -> Result<Self, Error> {
        if let Some(path) = std::env::var_os("CORACLE_CACHE_DIR").filter(|path| !path.is_empty()) {
            return Self::open_at(&PathBuf::from(path));
        }
        if rustix::process::geteuid().is_root() {
            match Self::open_at(Path::new(SYSTEM)) {
                // Root of a user namespace finds that the system's cache is not its own.
                Err(error) if !crate::rootless::is_rootless() => return Err(error),
                Err(_) => {}
                found => return found,
            }
        }
        let from_environment =
            |name| std::env::var_os(name).map(PathBuf::from).filter(|path: &PathBuf| path.is_absolute());
        let cache = from_environment("XDG_CACHE_HOME")
            .or_else(|| from_environment("HOME").map(|home| home.join(".cache")))
            .ok_or(Error::Nowhere)?;
        Self::open_at(&cache.join("coracle/wasm"))
    }

    /// Opens the cache directory at `path`, or makes it.
    ///
    /// # Errors
    /// Why the cache cannot be used.
    pub fn open_at(path: &Path) -> Result<Self, Error> {
        let error = |reason: Errno| Error::Open { path: path.to_owned(), reason: reason.into() };
        is_safe(path)?;
        let fd = match open_directory(path) {
            Err(Errno::NOENT) => {
                make(path).map_err(|e| Error::Open { path: path.to_owned(), reason: e.into() })?;
                // Another may have made a part of the way first.
                is_safe(path)?;
                open_directory(path)
            }
            opened => opened,
        }
        .map_err(error)?;
        let stat = rustix::fs::fstat(&fd).map_err(error)?;
        let user = rustix::process::geteuid().as_raw();
        if stat.st_uid != user {
            return Err(Error::Owner { path: path.to_owned(), owner: stat.st_uid });
        }
        if stat.st_mode & 0o077 != 0 {
            return Err(Error::Mode { path: path.to_owned(), mode: stat.st_mode & 0o7777 });
        }
        Ok(Self { fd, path: path.to_owned(), user })
    }

    /// Where it is, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the file system refuses to map code.
    ///
    /// # Errors
    /// Those of fstatvfs(3).
    pub fn is_noexec(&self) -> io::Result<bool> {
        Ok(rustix::fs::fstatvfs(&self.fd)?.f_flag.contains(StatVfsMountFlags::NOEXEC))
    }

    /// Opens a file for reading. `None` if there is none, an error if there is something that is not ours.
    ///
    /// # Errors
    /// Those of openat(2); `PermissionDenied` for what is not a file of ours alone.
    pub fn open(&self, name: &str) -> io::Result<Option<(OwnedFd, Stat)>> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        match rustix::fs::openat(&self.fd, name, flags, Mode::empty()) {
            Ok(file) => self.checked(file).map(Some),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Opens a file for writing, or creates it.
    ///
    /// # Errors
    /// As [`Directory::open`].
    pub fn open_or_create(&self, name: &str) -> io::Result<(OwnedFd, Stat)> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        self.checked(rustix::fs::openat(&self.fd, name, flags, Mode::RUSR | Mode::WUSR)?)
    }

    fn checked(&self, file: OwnedFd) -> io::Result<(OwnedFd, Stat)> {
        let stat = rustix::fs::fstat(&file)?;
        let ours = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
            && stat.st_uid == self.user
            && stat.st_mode & 0o7177 == 0
            && stat.st_nlink == 1;
        if ours { Ok((file, stat)) } else { Err(io::ErrorKind::PermissionDenied.into()) }
    }

    /// Whether `name` is the file of this state.
    pub fn is_named(&self, name: &str, stat: &Stat) -> bool {
        rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW)
            .is_ok_and(|named| (named.st_dev, named.st_ino) == (stat.st_dev, stat.st_ino))
    }

    /// Puts a whole small file in place at once. It is not synced to disk: its reader must notice damage.
    ///
    /// # Errors
    /// Those of the system calls.
    pub fn write_new(&self, name: &str, content: &[u8]) -> io::Result<()> {
        let temporary = format!("{name}.{}", std::process::id());
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = rustix::fs::openat(&self.fd, &temporary, flags, Mode::RUSR | Mode::WUSR)?;
        let written = rustix::io::retry_on_intr(|| rustix::io::write(&file, content));
        if written.is_ok_and(|length| length == content.len()) {
            return self.rename(&temporary, name);
        }
        self.remove(&temporary)?;
        Err(written.err().unwrap_or(Errno::NOSPC).into())
    }

    /// Renames a file over another.
    ///
    /// # Errors
    /// Those of renameat(2).
    pub fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        Ok(rustix::fs::renameat(&self.fd, from, &self.fd, to)?)
    }

    /// Removes a file; one that is gone is fine.
    ///
    /// # Errors
    /// Those of unlinkat(2).
    pub fn remove(&self, name: &str) -> io::Result<()> {
        match rustix::fs::unlinkat(&self.fd, name, AtFlags::empty()) {
            Err(Errno::NOENT) => Ok(()),
            done => Ok(done?),
        }
    }

    /// The names in it.
    ///
    /// # Errors
    /// Those of getdents64(2).
    pub fn names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(&self.fd)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if name != "." && name != ".." {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }
}

impl AsFd for Directory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn is_safe(path: &Path) -> Result<(), Error> {
    match ancestors::untrusted(path) {
        Ok(None) => Ok(()),
        Ok(Some(above)) => Err(Error::Above { path: path.to_owned(), above }),
        Err(reason) => Err(Error::Open { path: path.to_owned(), reason: reason.into() }),
    }
}

fn open_directory(path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, path, flags, Mode::empty())
}

/// Makes the directory and those above it that are missing, all closed to others.
fn make(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}
