//! `/etc/resolv.conf`, as resolv.conf(5) has it and the GNU C library reads it: what makes no sense is passed over.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use resolv_conf::ScopedIp;

use crate::{Error, Files, address, read_or_none};

/// Servers beyond these are ignored (`MAXNS`).
const MAX_SERVERS: usize = 3;
/// So that the file bounds the time: as many as Kubernetes allows.
const MAX_SEARCH: usize = 32;
/// `RES_MAXNDOTS`, `RES_MAXRETRANS`, `RES_MAXRETRY`.
const MAX_NDOTS: u32 = 15;
const MAX_TIMEOUT: u32 = 30;
const MAX_ATTEMPTS: u32 = 5;

/// Who is asked, for which names, and for how long.
pub(crate) struct Config {
    /// Never empty.
    pub servers: Vec<SocketAddr>,
    /// Domains to try a name in.
    pub search: Vec<String>,
    /// A name with as many dots is first tried as it is.
    pub ndots: usize,
    /// How long to wait for one server.
    pub timeout: Duration,
    /// How often to go through the servers.
    pub attempts: u32,
    /// Begin with any server, not always with the first.
    pub rotate: bool,
    /// TCP only.
    pub use_tcp: bool,
    /// Say that answers may be larger than 512 bytes.
    pub edns: bool,
    /// One question at a time, for servers that drop the second.
    pub one_by_one: bool,
    /// Ask for no IPv6 addresses.
    pub no_aaaa: bool,
}

impl Config {
    /// Reads the file. Without one, or without servers in it, the server is on this host.
    ///
    /// # Errors
    /// The file is there and cannot be read.
    pub fn read(files: &dyn Files, port: u16) -> Result<Self, Error> {
        let text = read_or_none(files, "/etc/resolv.conf")?.unwrap_or_default();
        let (parsed, _) = resolv_conf::Config::parse_with_errors(text.as_bytes());
        let address = |it: &ScopedIp| match it {
            ScopedIp::V4(address) => Some((*address, 0).into()),
            ScopedIp::V6(address, zone) => address::v6(files, *address, zone.as_deref()),
        };
        let mut servers: Vec<SocketAddr> =
            parsed.nameservers.iter().filter_map(address).take(MAX_SERVERS).collect();
        if servers.is_empty() {
            servers.push((Ipv4Addr::LOCALHOST, 0).into());
        }
        servers.iter_mut().for_each(|it| it.set_port(port));
        let says_search = parsed.get_search().is_some() || parsed.get_domain().is_some();
        let search = if says_search {
            parsed.get_last_search_or_domain().take(MAX_SEARCH).cloned().collect()
        } else {
            own_domain(files).into_iter().collect()
        };
        Ok(Self {
            servers,
            search,
            ndots: parsed.ndots.min(MAX_NDOTS) as usize,
            timeout: Duration::from_secs(parsed.timeout.clamp(1, MAX_TIMEOUT).into()),
            attempts: parsed.attempts.clamp(1, MAX_ATTEMPTS),
            rotate: parsed.rotate,
            use_tcp: parsed.use_vc,
            edns: parsed.edns0,
            one_by_one: parsed.single_request || parsed.single_request_reopen,
            no_aaaa: parsed.no_aaaa,
        })
    }
}

/// What follows the first dot of the host's name.
fn own_domain(files: &dyn Files) -> Option<String> {
    let name = files.read("/proc/sys/kernel/hostname").ok()?;
    let (_, domain) = str::from_utf8(&name).ok()?.trim().split_once('.')?;
    (!domain.is_empty()).then(|| domain.to_owned())
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    fn read(text: Option<&str>) -> Config {
        let files = |path: &str| match path {
            "/etc/resolv.conf" => text.map(Into::into).ok_or(io::ErrorKind::NotFound.into()),
            "/sys/class/net/eth0/ifindex" => Ok(b"2\n".to_vec()),
            "/proc/sys/kernel/hostname" => Ok(b"box.example.org\n".to_vec()),
            _ => Err(io::ErrorKind::NotFound.into()),
        };
        Config::read(&files, 53).expect("configuration")
    }

    fn servers(config: &Config) -> Vec<String> {
        config.servers.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn without_a_file_the_server_is_here() {
        for config in [read(None), read(Some("")), read(Some("nameserver nonsense\n"))] {
            assert_eq!(servers(&config), ["127.0.0.1:53"]);
            assert_eq!(config.search, ["example.org"]);
            assert_eq!((config.ndots, config.attempts, config.timeout.as_secs()), (1, 2, 5));
        }
    }

    #[test]
    fn everything_that_the_manual_lists() {
        let config = read(Some(
            "# comment\n; another\nnameserver 10.0.0.1\nnonsense\nnameserver fe80::1%eth0\nnameserver 2001:db8::1\n\
             nameserver 10.0.0.4\ndomain lost.example\nsearch a.example b.example\n\
             options ndots:5 timeout:1 attempts:3 rotate use-vc edns0 unknown:1 no-aaaa\n",
        ));
        assert_eq!(servers(&config), ["10.0.0.1:53", "[fe80::1%2]:53", "[2001:db8::1]:53"]);
        assert_eq!(config.search, ["a.example", "b.example"]);
        assert_eq!((config.ndots, config.attempts, config.timeout.as_secs()), (5, 3, 1));
        assert!(config.rotate && config.use_tcp && config.edns && config.no_aaaa);
        assert_eq!(read(Some("search a\ndomain b\n")).search, ["b"]);
        assert!(read(Some("search\n")).search.is_empty());
    }

    #[test]
    fn time_is_bounded() {
        let config = read(Some("options timeout:4000000000 attempts:4000000000 ndots:4000000000"));
        assert_eq!((config.timeout.as_secs(), config.attempts, config.ndots), (30, 5, 15));
        let config = read(Some("options timeout:0 attempts:0"));
        assert_eq!((config.timeout.as_secs(), config.attempts), (1, 1));
        let many = format!("search {}", "a.example ".repeat(1000));
        assert_eq!(read(Some(&many)).search.len(), MAX_SEARCH);
    }
}
