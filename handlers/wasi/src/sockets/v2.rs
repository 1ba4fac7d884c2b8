//! Version 2: addresses of 128 bytes that begin with their family. What is the same in version 1 takes either form, and
//! may be imported by a name with `_v2` too.

use rustix::net::{SocketAddrAny, getpeername, getsockname};

use super::{
    address::{Address, Place},
    message::receive_from,
};
use crate::{memory::Memory, preview1::socket::Received, state::State, types::Result};

pub use self::{
    sock_getlocaladdr as sock_getlocaladdr_v2, sock_getpeeraddr as sock_getpeeraddr_v2,
    sock_recv_from as sock_recv_from_v2,
};
pub use super::{
    sock_bind as sock_bind_v2, sock_connect as sock_connect_v2, sock_listen as sock_listen_v2,
    sock_open as sock_open_v2, sock_send_to as sock_send_to_v2,
};
pub use crate::preview1::{
    sock_accept as sock_accept_v2, sock_recv as sock_recv_v2, sock_send as sock_send_v2,
};

/// recvmsg(2). The port is a number of the host's byte order, as guests read it; WasmEdge leaves it in the network's.
pub fn sock_recv_from(
    state: &mut State,
    memory: Memory<'_>,
    fd: u32,
    list: u32,
    list_len: u32,
    address: u32,
    flags: u32,
    port: u32,
    nread: u32,
    out_flags: u32,
) -> Result {
    memory.range(port, 4)?;
    Received::fits(memory, nread, out_flags)?;
    let place = Place::storage(memory, address)?;
    let (received, sender) = receive_from(state, memory, fd, list, list_len, flags)?;
    memory.write_u32(port, sender.as_ref().map_or(0, Address::port))?;
    sender.map_or(Ok(()), |it| place.write(memory, &it))?;
    received.write(memory, nread, out_flags)
}

/// getsockname(2).
pub fn sock_getlocaladdr(state: &mut State, memory: Memory<'_>, fd: u32, address: u32, port: u32) -> Result {
    let place = Place::storage(memory, address)?;
    let found = Some(getsockname(&state.descriptors.get(fd)?.fd)?);
    write(memory, place, found, port)
}

/// getpeername(2).
pub fn sock_getpeeraddr(state: &mut State, memory: Memory<'_>, fd: u32, address: u32, port: u32) -> Result {
    let place = Place::storage(memory, address)?;
    let found = getpeername(&state.descriptors.get(fd)?.fd)?;
    write(memory, place, found, port)
}

fn write(memory: Memory<'_>, place: Place, address: Option<SocketAddrAny>, port: u32) -> Result {
    let address = Address::try_from(address)?;
    place.write(memory, &address)?;
    memory.write_u32(port, address.port())
}
