//! Datagrams: where to, and where from.

use std::mem;

use rustix::net::{SocketAddrAny, getpeername};

use super::{
    address::{Address, Place},
    unix,
};
use crate::{
    memory::Memory,
    preview1::socket::{Received, message, receive, send},
    state::State,
    types::{Errno, Result, rights},
};

/// sendmsg(2) with an address.
pub fn sock_send_to(
    state: &mut State,
    memory: Memory<'_>,
    fd: u32,
    list: u32,
    list_len: u32,
    address: u32,
    port: u32,
    flags: u32,
    nwritten: u32,
) -> Result {
    if flags != 0 {
        return Err(Errno::Inval);
    }
    memory.range(nwritten, 4)?;
    let address: SocketAddrAny = match Place::new(memory, address)?.read(memory, port)? {
        Address::Inet(address) => address.into(),
        Address::Unix(path) => unix::locate(state, &path, true)?.into(),
    };
    let fd = state.descriptors.with(fd, rights::FD_WRITE)?;
    let mut buffers = memory.buffers(list, list_len)?;
    let mut message = message(&mut buffers);
    message.msg_name = address.as_ptr().cast_mut().cast();
    message.msg_namelen = address.addr_len();
    memory.write_u32(nwritten, send(fd, &message)?)
}

/// recvmsg(2) that asks for the sender. The two versions differ in how they tell the guest.
pub fn receive_from(
    state: &State,
    memory: Memory<'_>,
    fd: u32,
    list: u32,
    list_len: u32,
    flags: u32,
) -> Result<(Received, Address)> {
    let fd = state.descriptors.with(fd, rights::FD_READ)?;
    let mut buffers = memory.buffers(list, list_len)?;
    let mut message = message(&mut buffers);
    // SAFETY: plain numbers.
    let mut sender: libc::sockaddr_storage = unsafe { mem::zeroed() };
    message.msg_name = (&raw mut sender).cast();
    message.msg_namelen = mem::size_of_val(&sender) as u32;
    let received = receive(fd, &mut message, flags)?;
    let sender = if message.msg_namelen == 0 {
        // A stream has no sender but its peer.
        getpeername(fd)?
    } else {
        // SAFETY: the kernel wrote so many bytes of an address.
        Some(unsafe { SocketAddrAny::read((&raw const sender).cast(), message.msg_namelen) })
    };
    Ok((received, sender.try_into()?))
}
