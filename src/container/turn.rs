//! Whose turn it is: commands that end a container, stop it or write its files wait for one another.
//!
//! The lock is on the container's directory itself, so that it is in nobody's way and goes with the command that holds
//! it, however that ends. Nobody waits for it without end: a command can be stopped, or hang in the kernel, and must
//! not make the container immortal.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, Mode, OFlags, flock, fstat, open, stat};
use rustix::io::Errno;

use super::{Error, io_error};

/// How long to wait for the others: longer than pausing may take.
const PATIENCE: Duration = Duration::from_secs(12);

/// The right to change a container, until it is dropped.
#[derive(Debug)]
pub struct Turn {
    _directory: OwnedFd,
}

impl Turn {
    /// Waits until no other command changes the container. `None` if it is gone by then.
    ///
    /// # Errors
    /// [`Error::Busy`], [`Error::Io`].
    pub(super) fn take(directory: &Path) -> Result<Option<Self>, Error> {
        let io = |errno: Errno| io_error(directory)(io::Error::from(errno));
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let descriptor = match open(directory, flags, Mode::empty()) {
            Ok(descriptor) => descriptor,
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
            Err(errno) => return Err(io(errno)),
        };
        let end = Instant::now() + PATIENCE;
        let mut pause = Duration::from_millis(1);
        loop {
            let taken = match flock(&descriptor, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => true,
                Err(Errno::WOULDBLOCK | Errno::INTR) => false,
                // A file system without locks: there, luck decides.
                Err(Errno::NOSYS | Errno::OPNOTSUPP) => true,
                Err(errno) => return Err(io(errno)),
            };
            // Whoever was before us may have deleted it, and somebody else made another one of that name.
            if !is_at(&descriptor, directory).map_err(io)? {
                return Ok(None);
            }
            if taken {
                return Ok(Some(Self { _directory: descriptor }));
            }
            if Instant::now() > end {
                return Err(Error::Busy { seconds: PATIENCE.as_secs() });
            }
            sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(20));
        }
    }

    /// As [`Turn::take`], for who goes on all the same when another command does not come to its end.
    pub(super) fn take_or_go_on(directory: &Path) -> Result<Option<Option<Self>>, Error> {
        match Self::take(directory) {
            Ok(turn) => Ok(turn.map(Some)),
            Err(Error::Busy { .. }) => Ok(Some(None)),
            Err(error) => Err(error),
        }
    }
}

/// Whether a directory is the one that has this name now.
fn is_at(descriptor: &OwnedFd, path: &Path) -> Result<bool, Errno> {
    let ours = fstat(descriptor)?;
    match stat(path) {
        Ok(theirs) => Ok((ours.st_dev, ours.st_ino) == (theirs.st_dev, theirs.st_ino)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(false),
        Err(errno) => Err(errno),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn one_after_the_other() {
        let root = tempfile::tempdir().expect("a directory");
        let directory = root.path().join("c");
        assert!(Turn::take(&directory).expect("no error").is_none(), "there is nothing to change");
        fs::create_dir(&directory).expect("made");
        let first = Turn::take(&directory).expect("no error").expect("it is there");
        let second = std::thread::spawn({
            let directory = directory.clone();
            move || Turn::take(&directory).expect("no error").is_some()
        });
        sleep(Duration::from_millis(20));
        assert!(!second.is_finished());
        drop(first);
        assert!(second.join().expect("no panic"));
    }

    #[test]
    fn the_turn_at_a_deleted_container_is_not_one_at_its_successor() {
        let root = tempfile::tempdir().expect("a directory");
        let directory = root.path().join("c");
        fs::create_dir(&directory).expect("made");
        let first = Turn::take(&directory).expect("no error").expect("it is there");
        let second = std::thread::spawn({
            let directory = directory.clone();
            move || Turn::take(&directory).expect("no error").is_none()
        });
        sleep(Duration::from_millis(20));
        fs::rename(&directory, root.path().join("gone")).expect("renamed");
        fs::create_dir(&directory).expect("made again");
        assert!(second.join().expect("no panic"));
        drop(first);
    }
}
