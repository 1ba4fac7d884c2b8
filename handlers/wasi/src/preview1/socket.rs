//! Sockets that were passed in, or accepted on one.

use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::net::{Shutdown, SocketFlags, accept_with, shutdown};

use super::io::count;
use crate::{
    descriptors::Descriptor,
    memory::Memory,
    state::State,
    types::{Errno, Result, fdflags, rights},
};

/// accept4(2).
pub fn sock_accept(state: &mut State, memory: Memory<'_>, fd: u32, flags: u32, accepted: u32) -> Result {
    if flags & !u32::from(fdflags::ALL) != 0 {
        return Err(Errno::Inval);
    }
    let listener = state.descriptors.get(fd)?;
    let filetype = listener.filetype;
    // A connection that the guest could not be told of would be lost.
    memory.range(accepted, 4)?;
    let mut wanted = SocketFlags::CLOEXEC;
    if flags & u32::from(fdflags::NONBLOCK) != 0 {
        wanted |= SocketFlags::NONBLOCK;
    }
    // A file that is no socket gets ENOTSOCK from the kernel.
    let socket = rustix::io::retry_on_intr(|| accept_with(&listener.fd, wanted))?;
    let number = state.descriptors.insert(Descriptor::socket(socket, filetype))?;
    memory.write_u32(accepted, number)
}

/// recvmsg(2).
pub fn sock_recv(
    state: &mut State,
    memory: Memory<'_>,
    fd: u32,
    list: u32,
    list_len: u32,
    flags: u32,
    nread: u32,
    out_flags: u32,
) -> Result {
    Received::fits(memory, nread, out_flags)?;
    let fd = state.descriptors.with(fd, rights::FD_READ)?;
    let mut buffers = memory.buffers(list, list_len)?;
    receive(fd, &mut message(&mut buffers), flags)?.write(memory, nread, out_flags)
}

/// What recvmsg(2) answered.
pub struct Received {
    bytes: u32,
    cut: bool,
}

impl Received {
    /// Whether the guest can be told: what is received and not told is lost.
    pub fn fits(memory: Memory<'_>, nread: u32, out_flags: u32) -> Result {
        memory.range(nread, 4)?;
        memory.range(out_flags, 2).map(drop)
    }

    /// Tells the guest.
    pub fn write(&self, memory: Memory<'_>, nread: u32, out_flags: u32) -> Result {
        const DATA_TRUNCATED: u16 = 1;
        let flags = if self.cut { DATA_TRUNCATED } else { 0 };
        memory.write_u32(nread, self.bytes)?;
        memory.write(out_flags, &flags.to_le_bytes())
    }
}

/// recvmsg(2) with MSG_PEEK and MSG_WAITALL, which have the same numbers here; says whether a datagram was cut.
pub fn receive(fd: BorrowedFd<'_>, message: &mut libc::msghdr, flags: u32) -> Result<Received> {
    const PEEK: u32 = 1;
    const WAITALL: u32 = 2;
    if flags & !(PEEK | WAITALL) != 0 {
        return Err(Errno::Inval);
    }
    let mut linux = libc::MSG_CMSG_CLOEXEC;
    if flags & PEEK != 0 {
        linux |= libc::MSG_PEEK;
    }
    if flags & WAITALL != 0 {
        linux |= libc::MSG_WAITALL;
    }
    // SAFETY: the message refers to the guest's memory, at most to an address of its maker's, and to nothing else.
    let bytes = count(|| unsafe { libc::recvmsg(fd.as_raw_fd(), message, linux) })?;
    Ok(Received { bytes, cut: message.msg_flags & libc::MSG_TRUNC != 0 })
}

/// sendmsg(2).
pub fn sock_send(
    state: &mut State,
    memory: Memory<'_>,
    fd: u32,
    list: u32,
    list_len: u32,
    flags: u32,
    nwritten: u32,
) -> Result {
    if flags != 0 {
        return Err(Errno::Inval);
    }
    memory.range(nwritten, 4)?;
    let fd = state.descriptors.with(fd, rights::FD_WRITE)?;
    let mut buffers = memory.buffers(list, list_len)?;
    memory.write_u32(nwritten, send(fd, &message(&mut buffers))?)
}

/// sendmsg(2); says how many bytes were taken.
pub fn send(fd: BorrowedFd<'_>, message: &libc::msghdr) -> Result<u32> {
    // SAFETY: the message refers to the guest's memory, at most to an address of its maker's, and to nothing else.
    count(|| unsafe { libc::sendmsg(fd.as_raw_fd(), message, libc::MSG_NOSIGNAL) })
}

/// shutdown(2).
pub fn sock_shutdown(state: &mut State, _: Memory<'_>, fd: u32, how: u32) -> Result {
    let how = match how {
        1 => Shutdown::Read,
        2 => Shutdown::Write,
        3 => Shutdown::Both,
        _ => return Err(Errno::Inval),
    };
    Ok(shutdown(&state.descriptors.get(fd)?.fd, how)?)
}

/// A message of these buffers, without address or control data. It must not outlive them.
pub fn message(buffers: &mut [libc::iovec]) -> libc::msghdr {
    // SAFETY: all zeroes is a msghdr with nothing in it; the C type has padding that differs between libraries.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = buffers.as_mut_ptr();
    message.msg_iovlen = buffers.len() as _;
    message
}
