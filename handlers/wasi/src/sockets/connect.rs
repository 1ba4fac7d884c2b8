//! From no socket to one that is connected or listens.

use rustix::{
    io::retry_on_intr,
    net::{AddressFamily, SocketFlags, SocketType, bind, connect, listen, socket_with, sockopt},
};

use super::{
    address::{Address, Place},
    unix,
};
use crate::{
    descriptors::Descriptor,
    memory::Memory,
    state::State,
    types::{Errno, Result, filetype},
};

/// socket(2). TCP sends at once what it is given, as guests expect, who have no option to ask for it.
pub fn sock_open(state: &mut State, memory: Memory<'_>, family: u32, kind: u32, opened: u32) -> Result {
    let family = match family {
        1 => AddressFamily::INET,
        2 => AddressFamily::INET6,
        3 => AddressFamily::UNIX,
        _ => return Err(Errno::Inval),
    };
    let (kind, filetype) = match kind {
        1 => (SocketType::DGRAM, filetype::SOCKET_DGRAM),
        2 => (SocketType::STREAM, filetype::SOCKET_STREAM),
        _ => return Err(Errno::Inval),
    };
    memory.range(opened, 4)?;
    let socket = socket_with(family, kind, SocketFlags::CLOEXEC, None)?;
    if kind == SocketType::STREAM && family != AddressFamily::UNIX {
        sockopt::set_tcp_nodelay(&socket, true)?;
    }
    let number = state.descriptors.insert(Descriptor::socket(socket, filetype))?;
    memory.write_u32(opened, number)
}

/// bind(2).
pub fn sock_bind(state: &mut State, memory: Memory<'_>, fd: u32, address: u32, port: u32) -> Result {
    let address = Place::new(memory, address)?.read(memory, port)?;
    let socket = &state.descriptors.get(fd)?.fd;
    match address {
        Address::Inet(address) => Ok(bind(socket, &address)?),
        Address::Unix(path) => Ok(bind(socket, &unix::locate(state, &path, false)?)?),
    }
}

/// connect(2). On a socket that does not block, the answer is `inprogress`; when it can be written to, the option for the
/// error tells how it ended.
pub fn sock_connect(state: &mut State, memory: Memory<'_>, fd: u32, address: u32, port: u32) -> Result {
    let address = Place::new(memory, address)?.read(memory, port)?;
    let socket = &state.descriptors.get(fd)?.fd;
    match address {
        Address::Inet(address) => Ok(retry_on_intr(|| connect(socket, &address))?),
        Address::Unix(path) => {
            let address = unix::locate(state, &path, true)?;
            Ok(retry_on_intr(|| connect(socket, &address))?)
        }
    }
}

/// listen(2).
pub fn sock_listen(state: &mut State, _: Memory<'_>, fd: u32, backlog: u32) -> Result {
    // The kernel cuts it to net.core.somaxconn.
    Ok(listen(&state.descriptors.get(fd)?.fd, i32::try_from(backlog).unwrap_or(i32::MAX))?)
}
