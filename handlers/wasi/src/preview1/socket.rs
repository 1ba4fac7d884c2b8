//! Sockets that were passed in, or accepted on one.

use std::os::fd::AsRawFd;

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
    let listener = state.descriptors.get(fd)?;
    let mut wanted = SocketFlags::CLOEXEC;
    if flags & u32::from(fdflags::NONBLOCK) != 0 {
        wanted |= SocketFlags::NONBLOCK;
    }
    // A file that is no socket gets ENOTSOCK from the kernel.
    let socket = rustix::io::retry_on_intr(|| accept_with(&listener.fd, wanted))?;
    let number = state.descriptors.insert(Descriptor::new(socket)?)?;
    memory.write_u32(accepted, number).inspect_err(|_| drop(state.descriptors.remove(number)))
}

/// recvmsg(2) with MSG_PEEK and MSG_WAITALL, which have the same numbers here; says whether a datagram was cut.
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
    const PEEK: u32 = 1;
    const WAITALL: u32 = 2;
    const DATA_TRUNCATED: u16 = 1;
    if flags & !(PEEK | WAITALL) != 0 {
        return Err(Errno::Inval);
    }
    let fd = state.descriptors.with(fd, rights::FD_READ)?;
    let mut buffers = memory.buffers(list, list_len)?;
    let mut message = message(&mut buffers);
    let mut linux = libc::MSG_CMSG_CLOEXEC;
    if flags & PEEK != 0 {
        linux |= libc::MSG_PEEK;
    }
    if flags & WAITALL != 0 {
        linux |= libc::MSG_WAITALL;
    }
    // SAFETY: the message refers to the guest's memory and has room for nothing else.
    let done = count(|| unsafe { libc::recvmsg(fd.as_raw_fd(), &raw mut message, linux) })?;
    let cut = if message.msg_flags & libc::MSG_TRUNC != 0 { DATA_TRUNCATED } else { 0 };
    memory.write_u32(nread, done)?;
    memory.write(out_flags, &cut.to_le_bytes())
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
    let fd = state.descriptors.with(fd, rights::FD_WRITE)?;
    let mut buffers = memory.buffers(list, list_len)?;
    let message = message(&mut buffers);
    // SAFETY: the message refers to the guest's memory and nothing else.
    let done = count(|| unsafe { libc::sendmsg(fd.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL) })?;
    memory.write_u32(nwritten, done)
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
fn message(buffers: &mut [libc::iovec]) -> libc::msghdr {
    // SAFETY: all zeroes is a msghdr with nothing in it; the C type has padding that differs between libraries.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = buffers.as_mut_ptr();
    message.msg_iovlen = buffers.len() as _;
    message
}
