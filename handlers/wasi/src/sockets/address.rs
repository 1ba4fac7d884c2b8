//! Addresses as guests have them: a record of where the bytes are, and how many there is room for.
//!
//! The number of bytes says what they are: 4 for the address of IPv4, 16 for that of IPv6 (both with the port elsewhere), or
//! 128 for either of them, or a path, behind a number for the family.

use std::net::{IpAddr, SocketAddr};

use rustix::net::{SocketAddrAny, SocketAddrUnix};

use crate::{
    memory::{Memory, u32_at},
    types::{Errno, Result},
};

/// The form that says its family.
const STORAGE: u32 = 128;
/// A path in it ends with a NUL or here, as in `sun_path` (unix(7)).
const PATH_END: usize = 2 + 108;

/// `address_family`.
pub(super) mod family {
    pub const INET4: u16 = 1;
    pub const INET6: u16 = 2;
    pub const UNIX: u16 = 3;
}

/// An address of a socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// Of IPv4 or IPv6.
    Inet(SocketAddr),
    /// A path; empty where there is none.
    Unix(Vec<u8>),
}

/// A place in the guest's memory for an address.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    start: u32,
    len: u32,
}

impl Place {
    /// The place that the record at `address` describes, of any size.
    pub fn any(memory: Memory<'_>, address: u32) -> Result<Self> {
        let record = memory.array::<8>(address)?;
        let (start, len) = (u32_at(&record, 0), u32_at(&record, 4));
        memory.range(start, len)?;
        Ok(Self { start, len })
    }

    /// [`Self::any`] of a size that means something.
    pub fn new(memory: Memory<'_>, address: u32) -> Result<Self> {
        Self::any(memory, address)
            .and_then(|it| if [4, 16, STORAGE].contains(&it.len) { Ok(it) } else { Err(Errno::Inval) })
    }

    /// [`Self::new`] in the only form that version 2 knows.
    pub fn storage(memory: Memory<'_>, address: u32) -> Result<Self> {
        Self::new(memory, address).and_then(|it| if it.len == STORAGE { Ok(it) } else { Err(Errno::Inval) })
    }

    /// The address that is there, with its port.
    pub fn read(self, memory: Memory<'_>, port: u32) -> Result<Address> {
        let port = u16::try_from(port).map_err(|_| Errno::Inval)?;
        let inet = |ip: IpAddr| Ok(Address::Inet(SocketAddr::new(ip, port)));
        match self.len {
            4 => inet(memory.array::<4>(self.start)?.into()),
            16 => inet(memory.array::<16>(self.start)?.into()),
            _ => {
                let bytes = memory.array::<{ STORAGE as usize }>(self.start)?;
                match u16::from_le_bytes([bytes[0], bytes[1]]) {
                    family::INET4 => {
                        inet(<[u8; 4]>::try_from(&bytes[2..6]).map_err(|_| Errno::Inval)?.into())
                    }
                    family::INET6 => {
                        inet(<[u8; 16]>::try_from(&bytes[2..18]).map_err(|_| Errno::Inval)?.into())
                    }
                    family::UNIX => {
                        let path = &bytes[2..PATH_END];
                        let end = path.iter().position(|&it| it == 0).unwrap_or(path.len());
                        Ok(Address::Unix(path[..end].to_vec()))
                    }
                    _ => Err(Errno::AfNoSupport),
                }
            }
        }
    }

    /// Puts the octets of an address there, if there is room for them.
    pub fn write_octets(self, memory: Memory<'_>, address: &Address) -> Result {
        let octets = match address {
            Address::Inet(SocketAddr::V4(it)) => it.ip().octets().to_vec(),
            Address::Inet(SocketAddr::V6(it)) => it.ip().octets().to_vec(),
            Address::Unix(_) => return Ok(()),
        };
        if octets.len() > self.len as usize { Ok(()) } else { memory.write(self.start, &octets) }
    }

    /// Puts an address there, with zeroes behind it.
    pub fn write(self, memory: Memory<'_>, address: &Address) -> Result {
        let (family, octets) = match address {
            Address::Inet(SocketAddr::V4(it)) => (family::INET4, it.ip().octets().to_vec()),
            Address::Inet(SocketAddr::V6(it)) => (family::INET6, it.ip().octets().to_vec()),
            Address::Unix(path) => (family::UNIX, path.clone()),
        };
        let mut bytes = vec![0; self.len as usize];
        let front = if self.len == STORAGE { 2 } else { 0 };
        bytes[..front].copy_from_slice(&family.to_le_bytes()[..front]);
        if octets.len() > bytes.len() - front || (front == 0 && family == family::UNIX) {
            return Err(Errno::NoMem);
        }
        bytes[front..front + octets.len()].copy_from_slice(&octets);
        memory.write(self.start, &bytes)
    }
}

impl Address {
    /// The port, 0 for a path.
    pub fn port(&self) -> u32 {
        match self {
            Self::Inet(address) => u32::from(address.port()),
            Self::Unix(_) => 0,
        }
    }
}

/// What the kernel says; none for a socket that has no address.
impl TryFrom<Option<SocketAddrAny>> for Address {
    type Error = Errno;

    fn try_from(address: Option<SocketAddrAny>) -> Result<Self> {
        let Some(address) = address else { return Ok(Self::Unix(Vec::new())) };
        if let Ok(unix) = SocketAddrUnix::try_from(address.clone()) {
            return Ok(Self::Unix(unix.path_bytes().map(<[u8]>::to_vec).unwrap_or_default()));
        }
        SocketAddr::try_from(address).map(Self::Inet).map_err(|_| Errno::AfNoSupport)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is read back from what was written.
    fn there_and_back(address: &Address, len: u32) -> Result<Address> {
        let mut bytes = [0xff; 256];
        bytes[..8].copy_from_slice(&[[16, 0, 0, 0], len.to_le_bytes()].concat());
        // SAFETY: the array is not used otherwise as long as the memory is.
        let memory = unsafe { Memory::new(bytes.as_mut_ptr(), bytes.len() as u64) };
        let place = Place::new(memory, 0)?;
        place.write(memory, address)?;
        place.read(memory, address.port())
    }

    #[test]
    fn addresses_survive_where_there_is_room() {
        let inet = |text: &str| Address::Inet(text.parse().expect("an address"));
        let (v4, v6) = (inet("10.1.2.3:80"), inet("[2001:db8::1]:65535"));
        let unix = Address::Unix(b"/run/x".to_vec());
        assert_eq!(there_and_back(&v4, 4), Ok(v4.clone()));
        assert_eq!(there_and_back(&v6, 16), Ok(v6.clone()));
        for address in [&v4, &v6, &unix] {
            assert_eq!(there_and_back(address, 128).as_ref(), Ok(address));
        }
        assert_eq!(there_and_back(&v6, 4), Err(Errno::NoMem));
        assert_eq!(there_and_back(&unix, 16), Err(Errno::NoMem));
        assert_eq!(there_and_back(&v4, 5), Err(Errno::Inval));
    }
}
