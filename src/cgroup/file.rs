//! Reading and writing one file of a cgroup. Every other module goes through here, so that every failure
//! names the file, and the value where there is one.

use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::Error;
use crate::error::Os;

/// Writes `value` to `dir`/`file` with one write(2): the kernel takes each write as one complete setting.
pub fn write(dir: &Path, file: &str, value: &str) -> Result<(), Error> {
    write_lines(dir, file, [value])
}

/// Writes several settings to one file, one write(2) each, without opening it again.
pub fn write_lines<'a>(
    dir: &Path,
    file: &str,
    values: impl IntoIterator<Item = &'a str>,
) -> Result<(), Error> {
    let path = dir.join(file);
    let fd = match rustix::fs::open(&path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty()) {
        Ok(fd) => fd,
        Err(Errno::NOENT) => return Err(Error::NoFile { path }),
        Err(errno) => return Err(Error::Open { path, reason: errno.into() }),
    };
    for value in values {
        // EINTR: a signal arrived while the kernel waited for a lock; nothing has been written.
        if let Err(errno) = rustix::io::retry_on_intr(|| rustix::io::write(&fd, value.as_bytes())) {
            if errno == Errno::NODEV && !path.exists() {
                return Err(Error::NoFile { path });
            }
            return Err(Error::Write { path, value: value.trim_end().into(), reason: errno.into() });
        }
    }
    Ok(())
}

/// The content of `dir`/`file`.
pub fn read(dir: &Path, file: &str) -> Result<String, Error> {
    let path = dir.join(file);
    slurp(&path).map_err(|errno| not_read(path, errno))
}

/// The content of `dir`/`file`, as [`crate::file::read_record`].
pub fn read_record(dir: &Path, file: &str) -> Result<String, Error> {
    let path = dir.join(file);
    text(crate::file::read_record(&path)).map_err(|errno| not_read(path, errno))
}

fn not_read(path: PathBuf, errno: Errno) -> Error {
    match errno {
        // Removed before it was opened, or after.
        Errno::NOENT | Errno::NODEV => Error::NoFile { path },
        errno => Error::Read { path, reason: errno.into() },
    }
}

/// As [`crate::file::read`], for text.
pub fn slurp(path: &Path) -> Result<String, Errno> {
    text(crate::file::read(path))
}

fn text(read: std::io::Result<Vec<u8>>) -> Result<String, Errno> {
    let bytes = read.map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The number in `dir`/`file`; `max` is the largest one, and a negative one (v1's "no limit") too.
pub fn read_number(dir: &Path, file: &str) -> Result<u64, Error> {
    let text = read(dir, file)?;
    number(text.trim()).ok_or_else(|| Error::NotANumber { path: dir.join(file), text: text.trim().into() })
}

/// A number as cgroup files show it.
pub fn number(text: &str) -> Option<u64> {
    match text {
        "max" => Some(u64::MAX),
        _ => text.parse().ok().or_else(|| text.parse::<i64>().is_ok().then_some(0)),
    }
}

/// `Ok(None)` instead of an error where this kernel, or this cgroup, has no such file.
pub fn optional<T>(result: Result<T, Error>) -> Result<Option<T>, Error> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(Error::NoFile { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The `key value` lines of a file such as `memory.stat`.
pub fn read_pairs(dir: &Path, file: &str) -> Result<Vec<(String, u64)>, Error> {
    let pair = |line: &str| {
        let (key, value) = line.split_once(' ')?;
        Some((key.to_owned(), number(value.trim())?))
    };
    Ok(read(dir, file)?.lines().filter_map(pair).collect())
}

/// Makes a directory; `Ok(false)` if it was there already.
pub fn make_dir(path: &Path) -> Result<bool, Error> {
    match rustix::fs::mkdir(path, Mode::from_raw_mode(0o755)) {
        Ok(()) => Ok(true),
        Err(Errno::EXIST) => Ok(false),
        Err(errno) => Err(Error::Create { path: path.into(), reason: errno.into() }),
    }
}

/// The directories directly below `dir`: the cgroups nested in it; none of one that is gone.
pub fn children(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let list = || -> std::io::Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(dir)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                found.push(entry.path());
            }
        }
        Ok(found)
    };
    list().or_else(|error| match error.raw_os_error() {
        Some(libc::ENOENT | libc::ENODEV | libc::ENOTDIR) => Ok(Vec::new()),
        _ => Err(Error::Read { path: dir.to_owned(), reason: error.into() }),
    })
}

impl Error {
    /// Whether it is only that we may not.
    pub fn is_permission(&self) -> bool {
        matches!(self.errno(), Some(Errno::PERM | Errno::ACCESS | Errno::ROFS))
    }

    /// The error number, where the operating system gave one.
    pub fn errno(&self) -> Option<Errno> {
        let reason: &Os = match self {
            Error::NoFile { .. } => return Some(Errno::NOENT),
            Error::Open { reason, .. }
            | Error::Write { reason, .. }
            | Error::Read { reason, .. }
            | Error::Create { reason, .. }
            | Error::Remove { reason, .. } => reason,
            _ => return None,
        };
        reason.errno().map(Errno::from_raw_os_error)
    }
}

/// The names of the files in `dir`.
pub fn children_files(dir: &Path) -> impl Iterator<Item = String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok())
}
