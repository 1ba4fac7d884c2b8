//! Options of sockets: SOL_SOCKET's, by numbers of their own. Values are Linux's, but for the error and the type.

use std::os::fd::AsRawFd;

use rustix::io::Errno as Os;

use crate::{
    memory::Memory,
    state::State,
    types::{Errno, Result},
};

/// `sock_opt_level`: there is but one.
const SOL_SOCKET: u32 = 0;

/// `sock_opt_so`, in the order of its numbers.
const OPTIONS: [i32; 15] = [
    libc::SO_REUSEADDR,
    libc::SO_TYPE,
    libc::SO_ERROR,
    libc::SO_DONTROUTE,
    libc::SO_BROADCAST,
    libc::SO_SNDBUF,
    libc::SO_RCVBUF,
    libc::SO_KEEPALIVE,
    libc::SO_OOBINLINE,
    libc::SO_LINGER,
    libc::SO_RCVLOWAT,
    libc::SO_RCVTIMEO,
    libc::SO_SNDTIMEO,
    libc::SO_ACCEPTCONN,
    libc::SO_BINDTODEVICE,
];

/// The longest value, a device's name (IFNAMSIZ), and two times, have as many bytes.
const MAX_VALUE: usize = 16;

fn option(level: u32, name: u32) -> Result<i32> {
    if level != SOL_SOCKET {
        return Err(Errno::Inval);
    }
    OPTIONS.get(name as usize).copied().ok_or(Errno::Inval)
}

/// getsockopt(2).
pub fn sock_getsockopt(
    state: &mut State,
    memory: Memory<'_>,
    fd: u32,
    level: u32,
    name: u32,
    value: u32,
    value_len: u32,
) -> Result {
    let name = option(level, name)?;
    let room = u32::from_le_bytes(memory.array(value_len)?);
    memory.range(value, room)?;
    let fd = state.descriptors.get(fd)?.fd.as_raw_fd();
    let mut bytes = [0u8; MAX_VALUE];
    let mut len = room.min(MAX_VALUE as u32);
    // SAFETY: the array has room for so many bytes.
    let result =
        unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, name, bytes.as_mut_ptr().cast(), &raw mut len) };
    done(result)?;
    let number = i32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    let translated = match name {
        libc::SO_ERROR => Some(error(number)),
        libc::SO_TYPE => Some(if number == libc::SOCK_DGRAM { 1 } else { 2 }),
        _ => None,
    };
    if let Some(number) = translated {
        bytes[..4].copy_from_slice(&number.to_le_bytes());
    }
    memory.write(value, &bytes[..len as usize])?;
    memory.write_u32(value_len, len)
}

/// An error number of Linux as the guest's.
fn error(number: i32) -> u32 {
    if number == 0 { 0 } else { u32::from(Errno::from(Os::from_raw_os_error(number)) as u16) }
}

/// setsockopt(2).
pub fn sock_setsockopt(
    state: &mut State,
    memory: Memory<'_>,
    fd: u32,
    level: u32,
    name: u32,
    value: u32,
    value_len: u32,
) -> Result {
    let name = option(level, name)?;
    let value = memory.range(value, value_len)?;
    let fd = state.descriptors.get(fd)?.fd.as_raw_fd();
    // SAFETY: so many bytes of the guest's memory, which the kernel copies.
    done(unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, name, value.cast(), value_len) })
}

fn done(result: i32) -> Result {
    if result == 0 {
        return Ok(());
    }
    let error = std::io::Error::last_os_error();
    Err(Os::from_io_error(&error).map_or(Errno::Io, Errno::from))
}
