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

/// recvmsg(2) that asks for the sender, who may have no address. The two versions differ in how they tell the guest.
pub fn receive_from(
    state: &State,
    memory: Memory<'_>,
    fd: u32,
    list: u32,
    list_len: u32,
    flags: u32,
) -> Result<(Received, Option<Address>)> {
    let fd = state.descriptors.with(fd, rights::FD_READ)?;
    let mut buffers = memory.buffers(list, list_len)?;
    let mut message = message(&mut buffers);
    // SAFETY: plain numbers.
    let mut sender: libc::sockaddr_storage = unsafe { mem::zeroed() };
    message.msg_name = (&raw mut sender).cast();
    message.msg_namelen = mem::size_of_val(&sender) as u32;
    let received = receive(fd, &mut message, flags)?;
    let sender = if message.msg_namelen == 0 {
        // A stream has no sender but its peer, and that may be gone before the last of what it sent is read.
        getpeername(fd).unwrap_or_default()
    } else {
        // SAFETY: the kernel wrote so many bytes of an address.
        Some(unsafe { SocketAddrAny::read((&raw const sender).cast(), message.msg_namelen) })
    };
    Ok((received, sender.and_then(|it| Some(it).try_into().ok())))
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write,
        mem::ManuallyDrop,
        net::{Shutdown, TcpListener, TcpStream},
    };

    use super::*;
    use crate::{
        descriptors::{Descriptor, Descriptors},
        types::filetype,
    };

    #[test]
    fn what_a_peer_sent_before_it_went_is_received() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let mut client = TcpStream::connect(listener.local_addr().expect("an address")).expect("connected");
        let (server, _) = listener.accept().expect("a connection");
        client.write_all(b"x").expect("sent");
        client.shutdown(Shutdown::Write).expect("connected");
        server.shutdown(Shutdown::Write).expect("connected");
        while server.peer_addr().is_ok() {
            std::thread::yield_now();
        }
        let mut descriptors = Descriptors::default();
        let socket = Descriptor::socket(server.into(), filetype::SOCKET_STREAM);
        let fd = descriptors.insert(socket).expect("a number");
        let state = State { descriptors: ManuallyDrop::new(descriptors), ..State::default() };
        // A buffer of one byte at 8.
        let mut bytes = [8, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0];
        // SAFETY: the array is not used otherwise during the call.
        let memory = unsafe { Memory::new(bytes.as_mut_ptr(), bytes.len() as u64) };
        let (received, sender) = receive_from(&state, memory, fd, 0, 1, 0).expect("a byte");
        received.write(memory, 0, 4).expect("room");
        assert_eq!((sender, bytes[0], bytes[8]), (None, 1, b'x'));
    }
}
