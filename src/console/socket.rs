//! The console socket: how an engine gets the terminal of a container that it runs in the background.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{self, CWD, Mode, OFlags};
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags,
    SocketType, connect as connect_to, sendmsg, socket_with,
};

use super::Error;

/// Connects to the engine's socket. `path` may be longer than a socket address is.
///
/// # Errors
/// Nobody listens there.
pub fn connect(path: &Path) -> Result<OwnedFd, Error> {
    try_connect(path).map_err(|e| Error::Connect { path: path.display().to_string(), reason: e.into() })
}

fn try_connect(path: &Path) -> Result<OwnedFd, Errno> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    match SocketAddrUnix::new(path) {
        Ok(address) => retry_on_intr(|| connect_to(&socket, &address))?,
        // Longer than 107 bytes, which engines' state directories reach: by the short name of a descriptor.
        Err(Errno::NAMETOOLONG) => {
            let file = fs::openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
            let address = SocketAddrUnix::new(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
            retry_on_intr(|| connect_to(&socket, &address))?;
        }
        Err(e) => return Err(e),
    }
    Ok(socket)
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
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let descriptors = [master.as_fd()];
    if !ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(Errno::NOBUFS);
    }
    retry_on_intr(|| sendmsg(socket, &[IoSlice::new(name.as_bytes())], &mut ancillary, SendFlags::NOSIGNAL))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::IoSliceMut;
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
