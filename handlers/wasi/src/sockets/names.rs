//! Names to addresses: getaddrinfo(3) with the container's own files, into records that the guest has laid out.
//!
//! The guest passes a list of records, linked already, each with room for an address and a name; of what is found, as much
//! goes there as there are records.

use std::net::SocketAddr;

use coracle_resolver::{Error, Family, Flags, Hints, Transport, resolve};

use super::address::family;
use crate::{
    files::Container,
    memory::{Memory, u32_at},
    state::State,
    types::{Errno, Result},
};

/// Longer names and services are none (`NI_MAXHOST`, `NI_MAXSERV`).
const MAX_NODE: u32 = 1025;
const MAX_SERVICE: u32 = 32;

/// getaddrinfo(3). `list` is the place of the first record's address.
pub fn sock_getaddrinfo(
    _: &mut State,
    memory: Memory<'_>,
    node: u32,
    node_len: u32,
    service: u32,
    service_len: u32,
    hints: u32,
    list: u32,
    list_len: u32,
    found: u32,
) -> Result {
    memory.range(found, 4)?;
    let first = u32::from_le_bytes(memory.array(list)?);
    let node = text(memory, node, node_len, MAX_NODE, Errno::AiNoName)?;
    let service = text(memory, service, service_len, MAX_SERVICE, Errno::AiService)?;
    let hints = parse(&memory.array(hints)?)?;
    if list_len == 0 {
        return Err(Errno::AiMemory);
    }
    let answer = resolve(&Container, &node, &service, &hints)?;
    let mut next = first;
    let mut count = 0;
    for entry in answer.entries.iter().take(list_len as usize) {
        if next == 0 {
            break;
        }
        let name = answer.canonical_name.as_deref().filter(|_| count == 0).unwrap_or_default();
        next = write(memory, next, entry.address, entry.transport, hints.flags, name)?;
        count += 1;
    }
    memory.write_u32(found, count)
}

/// A string of the guest's; NULs at its end are none of it.
fn text(memory: Memory<'_>, start: u32, len: u32, max: u32, error: Errno) -> Result<String> {
    memory.range(start, len)?;
    if len > max {
        return Err(error);
    }
    let text = String::from_utf8(memory.bytes(start, len)?).map_err(|_| error)?;
    Ok(text.trim_end_matches('\0').to_owned())
}

/// `addrinfo`, of which hints are the first four fields.
fn parse(record: &[u8; 28]) -> Result<Hints> {
    let flags = Flags::from_bits(u16::from_le_bytes([record[0], record[1]])).ok_or(Errno::AiBadFlag)?;
    let family = match u16::from(record[2]) {
        0 => Family::Unspecified,
        family::INET4 => Family::Inet4,
        family::INET6 => Family::Inet6,
        _ => return Err(Errno::AiFamily),
    };
    let socket_type = match record[3] {
        0 => None,
        1 => Some(Transport::Udp),
        2 => Some(Transport::Tcp),
        _ => return Err(Errno::AiSockType),
    };
    let protocol = match record[4] {
        0 => None,
        1 => Some(Transport::Tcp),
        2 => Some(Transport::Udp),
        _ => return Err(Errno::AiSockType),
    };
    Ok(Hints { flags, family, socket_type, protocol })
}

/// Fills the record at `place`; gives the place of the next one.
fn write(
    memory: Memory<'_>,
    place: u32,
    address: SocketAddr,
    transport: Transport,
    flags: Flags,
    name: &str,
) -> Result<u32> {
    let mut record = memory.array::<28>(place)?;
    let (sockaddr, name_place, name_room) = (u32_at(&record, 12), u32_at(&record, 16), u32_at(&record, 20));
    let next = u32_at(&record, 24);
    let (family, len) = match address {
        SocketAddr::V4(_) => (family::INET4 as u8, 16_u32),
        SocketAddr::V6(_) => (family::INET6 as u8, 28),
    };
    let (socket_type, protocol) = match transport {
        Transport::Tcp => (2, 1),
        Transport::Udp => (1, 2),
    };
    // Guests of the published crate say that there is no room for a name; those have to do without it.
    let name = if (name.len() as u64) < u64::from(name_room) { name } else { "" };
    if !name.is_empty() {
        memory.write(name_place, &[name.as_bytes(), b"\0"].concat())?;
    }
    record[..2].copy_from_slice(&flags.bits().to_le_bytes());
    record[2..5].copy_from_slice(&[family, socket_type, protocol]);
    record[8..12].copy_from_slice(&len.to_le_bytes());
    record[20..24].copy_from_slice(&(name.len() as u32).to_le_bytes());
    memory.write(place, &record)?;
    // The same guests say 14 bytes and have room for 26.
    let data = octets(address);
    let mut record = memory.array::<12>(sockaddr)?;
    memory.write(u32_at(&record, 8), &data)?;
    record[0] = family;
    record[4..8].copy_from_slice(&(data.len() as u32).to_le_bytes());
    memory.write(sockaddr, &record)?;
    Ok(next)
}

/// `sockaddr_in` or `sockaddr_in6` without the family.
fn octets(address: SocketAddr) -> Vec<u8> {
    let port = address.port().to_be_bytes();
    match address {
        SocketAddr::V4(it) => [&port, it.ip().octets().as_slice(), &[0; 8]].concat(),
        SocketAddr::V6(it) => {
            [&port, [0; 4].as_slice(), &it.ip().octets(), &it.scope_id().to_le_bytes()].concat()
        }
    }
}

impl From<Error> for Errno {
    fn from(error: Error) -> Self {
        match error {
            Error::AddrFamily => Self::AiAddrFamily,
            Error::Again => Self::AiAgain,
            Error::BadFlags => Self::AiBadFlag,
            Error::NoData => Self::AiNoData,
            Error::NoName => Self::AiNoName,
            Error::Service => Self::AiService,
            Error::SockType => Self::AiSockType,
            Error::System(_) => Self::AiSystem,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: &[u8] = b"10.1.2.3\0";
    const LIST: u32 = 0;
    const FOUND: u32 = 4;
    const HINTS: u32 = 8;
    const NODE_AT: u32 = 40;
    const FIRST: u32 = 64;

    /// A guest's memory with a list of two records, which have room for names of so many bytes.
    fn memory(flags: Flags, room: u8) -> Vec<u8> {
        let mut bytes = vec![0; 512];
        bytes[LIST as usize] = FIRST as u8;
        bytes[HINTS as usize] = flags.bits() as u8;
        bytes[NODE_AT as usize..][..NODE.len()].copy_from_slice(NODE);
        for (record, sockaddr, data, name, next) in [(64, 96, 112, 144, 176), (176, 208, 224, 0, 0)] {
            bytes[record + 12] = sockaddr;
            bytes[record + 16] = name;
            bytes[record + 20] = room;
            bytes[record + 24] = next;
            bytes[usize::from(sockaddr) + 8] = data;
        }
        bytes
    }

    fn call(bytes: &mut [u8], node_len: u32, list_len: u32) -> Result<u32> {
        // SAFETY: the slice is not used otherwise during the call.
        let memory = unsafe { Memory::new(bytes.as_mut_ptr(), bytes.len() as u64) };
        sock_getaddrinfo(
            &mut State::default(),
            memory,
            NODE_AT,
            node_len,
            NODE_AT,
            0,
            HINTS,
            LIST,
            list_len,
            FOUND,
        )?;
        memory.array(FOUND).map(u32::from_le_bytes)
    }

    #[test]
    fn records_are_filled_as_far_as_there_are_some() {
        let mut bytes = memory(Flags::CANONNAME, 9);
        assert_eq!(call(&mut bytes, 9, 9), Ok(2));
        assert_eq!(&bytes[64..72], [2, 0, 1, 2, 1, 0, 0, 0]);
        assert_eq!((bytes[72], bytes[84]), (16, 8));
        assert_eq!((bytes[96], bytes[100]), (1, 14));
        assert_eq!(&bytes[112..126], [0, 0, 10, 1, 2, 3, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(&bytes[144..153], NODE);
        assert_eq!(&bytes[178..181], [1, 1, 2]);
        assert_eq!(call(&mut memory(Flags::empty(), 0), 9, 1), Ok(1));
        // Without room, there is no name.
        let mut bytes = memory(Flags::CANONNAME, 8);
        assert_eq!(call(&mut bytes, 9, 1), Ok(1));
        assert_eq!((bytes[84], bytes[144]), (0, 0));
    }

    #[test]
    fn what_makes_no_sense_is_an_error() {
        assert_eq!(call(&mut memory(Flags::empty(), 0), 9, 0), Err(Errno::AiMemory));
        assert_eq!(call(&mut memory(Flags::empty(), 0), 0, 1), Err(Errno::AiNoName));
        assert_eq!(call(&mut memory(Flags::empty(), 0), 1000, 1), Err(Errno::Fault));
        let mut bytes = memory(Flags::empty(), 0);
        for (at, value, error) in [
            (HINTS, 0x80, Errno::AiBadFlag),
            (HINTS + 2, 3, Errno::AiFamily),
            (HINTS + 3, 3, Errno::AiSockType),
            (HINTS + 4, 3, Errno::AiSockType),
            (HINTS + 2, 2, Errno::AiAddrFamily),
            (NODE_AT, 0xff, Errno::AiNoName),
            (LIST + 3, 1, Errno::Fault),
            (FIRST + 15, 1, Errno::Fault),
            (96 + 11, 1, Errno::Fault),
        ] {
            let before = std::mem::replace(&mut bytes[at as usize], value);
            assert_eq!(call(&mut bytes, 9, 2), Err(error), "{value} at {at}");
            bytes[at as usize] = before;
        }
    }
}
