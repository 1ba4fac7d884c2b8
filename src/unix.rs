//! Unix sockets over which engines and their helpers are handed descriptors: unix(7).

use std::ffi::OsStr;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{self, CWD, Mode, OFlags};
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags,
    SocketType, connect as connect_to, sendmsg, socket_with,
};

/// Connects to a socket. `path` may be longer than a socket's address is, or begin with `@` for an abstract name.
///
/// # Errors
/// Those of connect(2): nobody listens there.
pub fn connect(path: &Path, kind: SocketType) -> Result<OwnedFd, Errno> {
    let socket = socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)?;
    if let Some(name) = path.as_os_str().as_bytes().strip_prefix(b"@") {
        let address = SocketAddrUnix::new_abstract_name(name)?;
        retry_on_intr(|| connect_to(&socket, &address))?;
        return Ok(socket);
    }
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

/// Sends a descriptor, with data beside it; there has to be some.
///
/// # Errors
/// Those of sendmsg(2): the receiver has gone.
pub fn send(socket: &OwnedFd, data: impl AsRef<OsStr>, descriptor: BorrowedFd<'_>) -> Result<(), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let descriptors = [descriptor.as_fd()];
    if !ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(Errno::NOBUFS);
    }
    let data = [IoSlice::new(data.as_ref().as_bytes())];
    retry_on_intr(|| sendmsg(socket, &data, &mut ancillary, SendFlags::NOSIGNAL))?;
    Ok(())
}
