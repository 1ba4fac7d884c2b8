//! Files that others read while we write them.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

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

#[cfg(test)]
mod tests {
    use super::*;

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
