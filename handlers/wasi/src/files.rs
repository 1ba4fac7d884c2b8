//! The container's own files, as the handler reads them for itself: who is trusted, who is called what.
//!
//! They are read as any program in the container would read them, so what is in `/etc` counts whatever directories the
//! guest itself has. They are the image's or the guest's, and so hostile: only regular files are read, nothing waits for
//! a writer, there is a limit to their size, and procfs shows no more than it shows the guest.

use std::{
    ffi::{CString, OsString},
    fs::File,
    io::{self, ErrorKind, Read},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::{OsStrExt, OsStringExt},
    },
    path::Path,
};

use coracle_tls::trust;
use rustix::fs::{CWD, FileType, Mode, OFlags, RawDir, Stat, openat};

use crate::{
    resolve::{self, Confinement},
    types::Errno,
};

/// The largest file that is read; lists of hosts to be blocked have some hundred thousand lines.
const MAX_SIZE: u64 = 16 << 20;

/// The container's files, by paths from its root.
pub struct Container;

impl coracle_resolver::Files for Container {
    fn read(&self, path: &str) -> io::Result<Vec<u8>> {
        read(Path::new(path))
    }
}

impl trust::Files for Container {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        read(path)
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<OsString>> {
        let (fd, _) = open(directory, OFlags::RDONLY | OFlags::DIRECTORY)?;
        let mut space = [MaybeUninit::uninit(); 8 << 10];
        let mut entries = RawDir::new(fd, &mut space);
        let mut names = Vec::new();
        while let Some(entry) = entries.next() {
            let name = entry?.file_name().to_bytes().to_vec();
            if name != b"." && name != b".." {
                names.push(OsString::from_vec(name));
            }
        }
        Ok(names)
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    // A FIFO or a device is opened before it is known as one.
    let (fd, stat) = open(path, OFlags::RDONLY | OFlags::NONBLOCK)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => {}
        FileType::Directory => return Err(ErrorKind::IsADirectory.into()),
        _ => return Err(ErrorKind::InvalidInput.into()),
    }
    // Room for all of it, or for what a file of procfs has: then one call brings it.
    let size = u64::try_from(stat.st_size).unwrap_or(0).clamp(4096, MAX_SIZE);
    let mut contents = Vec::with_capacity(size as usize + 1);
    File::from(fd).take(MAX_SIZE + 1).read_to_end(&mut contents)?;
    if contents.len() as u64 > MAX_SIZE { Err(ErrorKind::FileTooLarge.into()) } else { Ok(contents) }
}

fn open(path: &Path, flags: OFlags) -> io::Result<(OwnedFd, Stat)> {
    let path = path.as_os_str().as_bytes();
    let relative = path.strip_prefix(b"/").unwrap_or(path);
    let relative = CString::new(if relative.is_empty() { b"." } else { relative })?;
    // Not the working directory: see `sockets::unix`.
    let root = openat(CWD, c"/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    resolve::open(root.as_fd(), Confinement::Container, &relative, flags, Mode::empty()).map_err(kind)
}

/// What those who ask want to know about a file that cannot be opened.
fn kind(errno: Errno) -> io::Error {
    match errno {
        Errno::NoEnt | Errno::Loop => ErrorKind::NotFound,
        Errno::NotDir => ErrorKind::NotADirectory,
        Errno::Access | Errno::Perm | Errno::NotCapable => ErrorKind::PermissionDenied,
        _ => ErrorKind::Other,
    }
    .into()
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    #[test]
    fn only_files_are_read() {
        let kind = |path: &Path| read(path).map_err(|it| it.kind());
        assert!(kind(Path::new("/proc/sys/kernel/hostname")).is_ok_and(|it| it.ends_with(b"\n")));
        assert_eq!(kind(Path::new("/nosuch")), Err(ErrorKind::NotFound));
        for directory in ["/etc", "/", ""] {
            assert_eq!(kind(Path::new(directory)), Err(ErrorKind::IsADirectory));
        }
        assert_eq!(kind(Path::new("/dev/zero")), Err(ErrorKind::InvalidInput));
        assert_eq!(kind(Path::new("/proc/self/environ")), Err(ErrorKind::PermissionDenied));
        let dir = tempfile::tempdir().expect("a directory");
        let path = |name: &str| dir.path().join(name);
        rustix::fs::mknodat(CWD, path("fifo"), FileType::Fifo, Mode::RWXU, 0).expect("a FIFO");
        assert_eq!(kind(&path("fifo")), Err(ErrorKind::InvalidInput));
        fs::write(path("file"), vec![b'x'; 100_000]).expect("a file");
        symlink("file", path("link")).expect("a link");
        assert_eq!(kind(&path("link")).map(|it| it.len()), Ok(100_000));
        File::create(path("large")).and_then(|it| it.set_len(1 << 40)).expect("a file");
        assert_eq!(kind(&path("large")), Err(ErrorKind::FileTooLarge));
    }

    #[test]
    fn directories_are_listed() {
        let list = |path: &Path| trust::Files::list(&Container, path);
        let dir = tempfile::tempdir().expect("a directory");
        for name in ["a", "b"] {
            fs::write(dir.path().join(name), "").expect("a file");
        }
        let mut names = list(dir.path()).expect("a list");
        names.sort();
        assert_eq!(names, ["a", "b"]);
        assert_eq!(list(&dir.path().join("a")).map_err(|it| it.kind()), Err(ErrorKind::NotADirectory));
    }
}
