//! Files: read with few system calls, and written while others read them.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::buffer::spare_capacity;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, linkat, open};
use rustix::io::{Errno, retry_on_intr};

/// What a file holds. Its size is not asked for first: those of the kernel have none.
///
/// # Errors
/// Those of open(2) and read(2).
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    let file = open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut content = Vec::with_capacity(8192);
    while retry_on_intr(|| rustix::io::read(&file, spare_capacity(&mut content)))? > 0 {
        content.reserve(4096);
    }
    Ok(content)
}

/// What a file holds that has its end where read(2) first brings less than was asked for: a regular file, or one of the
/// kernel's that is a single record, such as /proc/PID/stat.
///
/// # Errors
/// As [`read`].
pub fn read_record(path: impl rustix::path::Arg) -> io::Result<Vec<u8>> {
    let file = open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut content = Vec::with_capacity(16384);
    loop {
        retry_on_intr(|| rustix::io::read(&file, spare_capacity(&mut content)))?;
        if content.len() < content.capacity() {
            return Ok(content);
        }
        content.reserve(content.len());
    }
}

/// Replaces a file by rename(2), so that a reader sees the old content or the new, and never a part.
///
/// # Errors
/// Those of writing the new file beside the old one, and of renaming it.
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    Replacement::prepare(path, content)?.commit()
}

/// The new content of a file, written beside it, from where it needs no more space to take its place.
#[derive(Debug)]
pub struct Replacement {
    path: PathBuf,
    /// Where it is, until it has its place.
    temporary: Option<PathBuf>,
}

impl Replacement {
    /// Writes the new content.
    ///
    /// # Errors
    /// Those of writing a file.
    pub fn prepare(path: &Path, content: &[u8]) -> io::Result<Self> {
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        let mut temporary = OsString::from(".");
        temporary.push(name);
        temporary.push(".new");
        let temporary = path.with_file_name(temporary);
        let written = fs::write(&temporary, content);
        let replacement = Self { path: path.to_owned(), temporary: Some(temporary) };
        written.map(|()| replacement)
    }

    /// The file that is replaced.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Puts it in its place.
    ///
    /// # Errors
    /// Those of rename(2).
    pub fn commit(mut self) -> io::Result<()> {
        if let Some(temporary) = &self.temporary {
            fs::rename(temporary, &self.path)?;
        }
        self.temporary = None;
        Ok(())
    }
}

impl Drop for Replacement {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            // Nothing half-made stays; the error at hand is the one to report.
            let _ = fs::remove_file(temporary);
        }
    }
}

/// Makes a file that appears with its whole content, and of which nothing stays when we are killed on the way. One that
/// is there is taken away first.
///
/// # Errors
/// Those of writing a file that has no name yet, and of giving it its own: open(2), `O_TMPFILE`.
pub fn publish(path: &Path, content: &[u8]) -> io::Result<()> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut options = fs::OpenOptions::new();
    let mut file = match options.write(true).custom_flags(libc::O_TMPFILE).mode(0o644).open(directory) {
        Ok(file) => file,
        // Not every file system has it.
        Err(e) if matches!(e.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EISDIR | libc::ENOENT)) => {
            return replace(path, content);
        }
        Err(e) => return Err(e),
    };
    file.write_all(content)?;
    let unnamed = format!("/proc/self/fd/{}", file.as_raw_fd());
    let link = || linkat(CWD, unnamed.as_str(), CWD, path, AtFlags::SYMLINK_FOLLOW);
    match link() {
        Err(Errno::EXIST) => fs::remove_file(path).and_then(|()| Ok(link()?)),
        linked => Ok(linked?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_published_file_is_new() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("pid");
        publish(&path, b"4211").expect("made");
        let before = fs::File::open(&path).expect("opened");
        publish(&path, b"42").expect("made again");
        assert_eq!(fs::read(&path).expect("read"), b"42");
        assert_eq!(io::read_to_string(before).expect("the old one as it was"), "4211");
        assert_eq!(fs::read_dir(directory.path()).expect("listed").count(), 1);
        let blocked = directory.path().join("d");
        fs::create_dir_all(&blocked).expect("made");
        assert!(publish(&blocked, b"x").is_err() && publish(&blocked.join("no/pid"), b"x").is_err());
    }

    #[test]
    fn a_file_is_replaced_and_nothing_else_is_left() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("state.json");
        replace(&path, b"old").expect("written");
        replace(&path, b"new").expect("replaced");
        assert_eq!(fs::read(&path).expect("read"), b"new");
        assert_eq!(fs::read_dir(directory.path()).expect("listed").count(), 1);
        let blocked = directory.path().join("d");
        fs::create_dir_all(blocked.join("full")).expect("made");
        assert!(replace(&blocked, b"x").is_err());
        assert_eq!(fs::read_dir(directory.path()).expect("listed").count(), 2);
    }
}
