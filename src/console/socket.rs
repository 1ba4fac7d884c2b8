//! The console socket: how an engine gets the terminal of a container that it runs in the background.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::io::Errno;
use rustix::net::SocketType;

use super::Error;
use crate::unix;

/// Connects to the engine's socket. `path` may be longer than a socket address is.
///
/// # Errors
/// Nobody listens there.
pub fn connect(path: &Path) -> Result<OwnedFd, Error> {
    unix::connect(path, SocketType::STREAM)
        .map_err(|e| Error::Connect { path: path.display().to_string(), reason: e.into() })
}

/// Hands the master over the socket: the descriptor, with the terminal's name as the data beside it.
///
/// # Errors
/// The receiver has gone.
pub fn send(master: &OwnedFd, socket: &OwnedFd) -> Result<(), Error> {
    try_send(master, socket).map_err(|e| Error::Send(e.into()))
}

fn try_send(master: &OwnedFd, socket: &OwnedFd) -> Result<(), Errno> {
    let name = rustix::pty::ptsname(master, Vec::new())?;
    unix::send(socket, OsStr::from_bytes(name.as_bytes()), master.as_fd())
}

#[cfg(test)]
mod tests {
    use std::io::IoSliceMut;
    use std::mem::MaybeUninit;
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixListener;

    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

    use super::*;

    #[test]
    fn the_terminal_arrives_over_a_socket_with_a_long_path() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("d".repeat(90)).join("e".repeat(90));
        std::fs::create_dir_all(&deep).unwrap();
        // bind(2) has the same limit.
        let handle = std::fs::File::open(&deep).unwrap();
        let listener = UnixListener::bind(format!("/proc/self/fd/{}/{}", handle.as_raw_fd(), "s")).unwrap();

        let socket = connect(&deep.join("s")).unwrap();
        let console = super::super::open(None).unwrap();
        send(&console.master, &socket).unwrap();

        let (receiver, _) = listener.accept().unwrap();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut data = [0; 64];
        let got = recvmsg(&receiver, &mut [IoSliceMut::new(&mut data)], &mut ancillary, RecvFlags::empty())
            .unwrap();
        assert!(data[..got.bytes].starts_with(b"/dev/pts/"));
        let Some(RecvAncillaryMessage::ScmRights(mut fds)) = ancillary.drain().next() else {
            panic!("no rights")
        };
        assert!(rustix::termios::isatty(fds.next().unwrap()));
    }

    #[test]
    fn a_missing_socket_is_named() {
        let error = connect(Path::new("/nowhere/socket")).unwrap_err().to_string();
        assert_eq!(error, "connect to the console socket /nowhere/socket: no such file or directory");
    }
}
