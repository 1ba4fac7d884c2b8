//! Names to addresses, as getaddrinfo(3) has it, without the C library's name service: that loads plugins at run time,
//! which a static program cannot.
//!
//! Invariant: every call ends. Files come whole from the caller ([`Files`]), who says what may be opened and how much of it
//! is read; each wait for a server has a deadline; nothing of an answer is used before it has proved to be one.
//!
//! What decides, in this order: the name is an address; `/etc/hosts`; `localhost` is this host; the servers of
//! `/etc/resolv.conf`. IPv4 addresses come first, for there are programs that look no further.

mod address;
mod config;
mod dns;
mod exchange;
mod hosts;
mod message;
mod services;
#[cfg(test)]
mod tests;

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use bitflags::bitflags;

bitflags! {
    /// What the caller wishes, by getaddrinfo's names without `AI_`.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Flags: u16 {
        /// Without a name: addresses to listen on, not to connect to.
        const PASSIVE = 1;
        /// Say what the host is really called.
        const CANONNAME = 2;
        /// The name is an address; nobody is asked.
        const NUMERICHOST = 4;
        /// The service is a number.
        const NUMERICSERV = 8;
        /// IPv4 addresses in IPv6's form, where IPv6 is wanted and there is none.
        const V4MAPPED = 16;
        /// With `V4MAPPED`: those besides.
        const ALL = 32;
        /// Only of families that this network has.
        const ADDRCONFIG = 64;
    }
}

/// Which addresses are wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Family {
    /// Both.
    #[default]
    Unspecified,
    /// IPv4.
    Inet4,
    /// IPv6.
    Inet6,
}

/// A type of socket, and the protocol that goes with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// `SOCK_STREAM`, `IPPROTO_TCP`.
    Tcp,
    /// `SOCK_DGRAM`, `IPPROTO_UDP`.
    Udp,
}

/// What is wanted; the default is everything.
#[derive(Clone, Copy, Debug, Default)]
pub struct Hints {
    /// `ai_flags`
    pub flags: Flags,
    /// `ai_family`
    pub family: Family,
    /// `ai_socktype`
    pub socket_type: Option<Transport>,
    /// `ai_protocol`
    pub protocol: Option<Transport>,
}

/// What was found; never empty.
#[derive(Debug)]
pub struct Answer {
    /// Where to connect or listen, the best first.
    pub entries: Vec<Entry>,
    /// What the host is really called, if that was wanted.
    pub canonical_name: Option<String>,
}

/// One address with its port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The address.
    pub address: SocketAddr,
    /// The socket to use for it.
    pub transport: Transport,
}

/// Why there is no answer, by getaddrinfo's names without `EAI_`.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address is of another family than what is wanted.
    #[error("no address of this family")]
    AddrFamily,
    /// No server answered, or none could.
    #[error("temporary failure in name resolution")]
    Again,
    /// Flags that make no sense here.
    #[error("bad flags")]
    BadFlags,
    /// The name exists and has no address of the kind that is wanted.
    #[error("no address for this name")]
    NoData,
    /// There is no such name, or none was given.
    #[error("no such name")]
    NoName,
    /// There is no such service for this type of socket.
    #[error("no such service")]
    Service,
    /// Type of socket and protocol do not fit.
    #[error("no such type of socket")]
    SockType,
    /// A file is there and cannot be read, or the system has no random numbers.
    #[error("system error: {0}")]
    System(#[from] io::Error),
}

/// Where the files come from.
pub trait Files {
    /// The whole file of this absolute path.
    ///
    /// # Errors
    /// As for open(2) and read(2). A file that is not there, or that this process may not read, counts as absent.
    fn read(&self, path: &str) -> io::Result<Vec<u8>>;
}

impl<F: Fn(&str) -> io::Result<Vec<u8>>> Files for F {
    fn read(&self, path: &str) -> io::Result<Vec<u8>> {
        self(path)
    }
}

/// The port of name servers.
const PORT: u16 = 53;

/// getaddrinfo(3). A name or a service that is empty counts as not given.
///
/// # Errors
/// [`Error`] says why there is no address.
pub fn resolve(files: &dyn Files, node: &str, service: &str, hints: &Hints) -> Result<Answer, Error> {
    resolve_at(PORT, files, node, service, hints)
}

/// As [`resolve`], with name servers at another port.
fn resolve_at(
    port: u16,
    files: &dyn Files,
    node: &str,
    service: &str,
    hints: &Hints,
) -> Result<Answer, Error> {
    if node.is_empty() && service.is_empty() {
        return Err(Error::NoName);
    }
    let ports = services::ports(files, service, hints)?;
    let mut found =
        if node.is_empty() { without_name(hints.flags)? } else { named(port, files, node, hints)? };
    found.addresses = of_family(found.addresses, hints);
    if found.addresses.is_empty() {
        return Err(if found.is_numeric { Error::AddrFamily } else { Error::NoData });
    }
    let entries = found.addresses.iter().flat_map(|&address| {
        ports.iter().map(move |&(transport, port)| {
            let mut address = address;
            address.set_port(port);
            Entry { address, transport }
        })
    });
    let canonical_name = hints.flags.contains(Flags::CANONNAME).then_some(found.canonical_name);
    Ok(Answer { entries: entries.collect(), canonical_name })
}

/// Addresses of a host; ports and families are still to be chosen.
struct Host {
    canonical_name: String,
    addresses: Vec<SocketAddr>,
    /// The name was the address.
    is_numeric: bool,
}

fn without_name(flags: Flags) -> Result<Host, Error> {
    if flags.contains(Flags::CANONNAME) {
        return Err(Error::BadFlags);
    }
    let addresses = if flags.contains(Flags::PASSIVE) {
        vec![(Ipv4Addr::UNSPECIFIED, 0).into(), (Ipv6Addr::UNSPECIFIED, 0).into()]
    } else {
        loopback()
    };
    Ok(Host { canonical_name: String::new(), addresses, is_numeric: false })
}

fn loopback() -> Vec<SocketAddr> {
    vec![(Ipv4Addr::LOCALHOST, 0).into(), (Ipv6Addr::LOCALHOST, 0).into()]
}

fn named(port: u16, files: &dyn Files, node: &str, hints: &Hints) -> Result<Host, Error> {
    if let Some(address) = address::parse(files, node) {
        return Ok(Host { canonical_name: node.to_owned(), addresses: vec![address], is_numeric: true });
    }
    if hints.flags.contains(Flags::NUMERICHOST) {
        return Err(Error::NoName);
    }
    let mut families = dns::Families::wanted(hints);
    if hints.flags.contains(Flags::ADDRCONFIG) {
        families.v4 &= exchange::has_family(Ipv4Addr::LOCALHOST.into());
        families.v6 &= exchange::has_family(Ipv6Addr::LOCALHOST.into());
    }
    if let Some(mut host) = hosts::find(files, node)? {
        host.addresses.retain(|it| families.include(it));
        // What the file does not know may be known to a server.
        if !of_family(host.addresses.clone(), hints).is_empty() {
            return Ok(host);
        }
    }
    if is_localhost(node) {
        let mut addresses = loopback();
        addresses.retain(|it| families.include(it));
        return Ok(Host { canonical_name: node.to_owned(), addresses, is_numeric: false });
    }
    dns::search(&config::Config::read(files, port)?, node, families)
}

/// RFC 6761, 6.3: never a question for a server.
fn is_localhost(node: &str) -> bool {
    let node = node.trim_end_matches('.').to_ascii_lowercase();
    node == "localhost" || node.ends_with(".localhost")
}

/// Those of the family that is wanted, IPv4 first.
fn of_family(addresses: Vec<SocketAddr>, hints: &Hints) -> Vec<SocketAddr> {
    let (v4, mut v6): (Vec<_>, Vec<_>) = addresses.into_iter().partition(SocketAddr::is_ipv4);
    match hints.family {
        Family::Unspecified => [v4, v6].concat(),
        // Also those that only look like IPv6.
        Family::Inet4 => v4.into_iter().chain(v6.iter().filter_map(address::unmapped)).collect(),
        Family::Inet6 => {
            let all = v6.is_empty() || hints.flags.contains(Flags::ALL);
            if all && hints.flags.contains(Flags::V4MAPPED) {
                v6.extend(v4.iter().map(address::mapped));
            }
            v6
        }
    }
}

/// A file that counts as empty when there is none, or none for this process.
fn read_or_none(files: &dyn Files, path: &str) -> Result<Option<String>, Error> {
    use io::ErrorKind::{IsADirectory, NotADirectory, NotFound, PermissionDenied};
    match files.read(path) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(error) if matches!(error.kind(), NotFound | PermissionDenied | IsADirectory | NotADirectory) => {
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}
