//! Version 1: addresses of 4 or 16 bytes, with the family beside them as 4 or 6.

use std::net::SocketAddr;

use rustix::net::{getpeername, getsockname};

use super::{
    address::{Address, Place},
    message::receive_from,
};
use crate::{
    memory::Memory,
    preview1::{self, socket::Received},
    state::State,
    types::{Errno, Result},
};

/// accept4(2) without flags.
pub fn sock_accept(state: &mut State, memory: Memory<'_>, fd: u32, accepted: u32) -> Result {
    preview1::sock_accept(state, memory, fd, 0, accepted)
}

/// recvmsg(2). Of the sender the guest gets as much as there is a place for: the octets of its address.
pub fn sock_recv_from(
    state: &mut State,
    memory: Memory<'_>,
    fd: u32,
    list: u32,
    list_len: u32,
    address: u32,
    flags: u32,
    nread: u32,
    out_flags: u32,
) -> Result {
    Received::fits(memory, nread, out_flags)?;
    let place = Place::any(memory, address)?;
    let (received, sender) = receive_from(state, memory, fd, list, list_len, flags)?;
    sender.map_or(Ok(()), |it| place.write_octets(memory, &it))?;
    received.write(memory, nread, out_flags)
}

/// getsockname(2).
pub fn sock_getlocaladdr(
    state: &mut State,
    memory: Memory<'_>,
    fd: u32,
    address: u32,
    family: u32,
    port: u32,
) -> Result {
    let place = Place::new(memory, address)?;
    let found = Some(getsockname(&state.descriptors.get(fd)?.fd)?);
    write(memory, place, &found.try_into()?, family, port)
}

/// getpeername(2).
pub fn sock_getpeeraddr(
    state: &mut State,
    memory: Memory<'_>,
    fd: u32,
    address: u32,
    family: u32,
    port: u32,
) -> Result {
    let place = Place::new(memory, address)?;
    let found = getpeername(&state.descriptors.get(fd)?.fd)?;
    write(memory, place, &found.try_into()?, family, port)
}

fn write(memory: Memory<'_>, place: Place, address: &Address, family: u32, port: u32) -> Result {
    let number = match address {
        Address::Inet(SocketAddr::V4(_)) => 4,
        Address::Inet(SocketAddr::V6(_)) => 6,
        Address::Unix(_) => return Err(Errno::AfNoSupport),
    };
    place.write(memory, address)?;
    memory.write_u32(family, number)?;
    memory.write_u32(port, address.port())
}
