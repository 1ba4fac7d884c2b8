//! Addresses as text.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

use crate::Files;

/// An address: IPv4 in all forms of inet_aton(3), IPv6 with or without a zone.
pub(crate) fn parse(files: &dyn Files, text: &str) -> Option<SocketAddr> {
    if let Some(address) = inet_aton(text) {
        return Some((address, 0).into());
    }
    let (address, zone) = text.split_once('%').map_or((text, None), |(address, zone)| (address, Some(zone)));
    v6(files, address.parse().ok()?, zone)
}

/// An IPv6 address with its zone, which is the name or the number of an interface.
pub(crate) fn v6(files: &dyn Files, address: Ipv6Addr, zone: Option<&str>) -> Option<SocketAddr> {
    let scope = match zone {
        None => 0,
        Some(zone) => zone.parse().ok().or_else(|| interface(files, zone))?,
    };
    Some(SocketAddrV6::new(address, 0, 0, scope).into())
}

/// An IPv4 address in IPv6's form. Another one stays what it is.
pub(crate) fn mapped(address: &SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(v4) => (v4.ip().to_ipv6_mapped(), v4.port()).into(),
        SocketAddr::V6(_) => *address,
    }
}

/// The IPv4 address that is in one of IPv6's form.
pub(crate) fn unmapped(address: &SocketAddr) -> Option<SocketAddr> {
    match address {
        SocketAddr::V4(_) => None,
        SocketAddr::V6(v6) => v6.ip().to_ipv4_mapped().map(|it| (it, v6.port()).into()),
    }
}

/// The number of an interface: from sysfs, for the system call is an ioctl(2).
fn interface(files: &dyn Files, name: &str) -> Option<u32> {
    const MAX_NAME: usize = 15;
    if name.is_empty() || name.len() > MAX_NAME || name.contains('/') || name.starts_with('.') {
        return None;
    }
    let index = files.read(&format!("/sys/class/net/{name}/ifindex")).ok()?;
    str::from_utf8(&index).ok()?.trim().parse().ok()
}

/// One to four numbers, of which the last fills what is left; decimal, octal with `0`, hexadecimal with `0x`.
fn inet_aton(text: &str) -> Option<Ipv4Addr> {
    let parts = text.split('.').map(number).collect::<Option<Vec<u32>>>()?;
    let (last, front) = parts.split_last()?;
    if front.len() > 3 || front.iter().any(|&it| it > 255) {
        return None;
    }
    let free_bits = 32 - 8 * front.len() as u32;
    if u64::from(*last) >> free_bits != 0 {
        return None;
    }
    let high = front.iter().enumerate().map(|(n, part)| part << (24 - 8 * n)).sum::<u32>();
    Some(Ipv4Addr::from(high | last))
}

fn number(text: &str) -> Option<u32> {
    let (digits, radix) = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => (digits, 16),
        None if text.len() > 1 && text.starts_with('0') => (text, 8),
        None => (text, 10),
    };
    // A sign is no digit.
    if digits.starts_with('+') { None } else { u32::from_str_radix(digits, radix).ok() }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn ipv4_has_the_forms_of_inet_aton() {
        let text = |it: &str| inet_aton(it).map(|it| it.to_string());
        assert_eq!(text("10.0.0.1").as_deref(), Some("10.0.0.1"));
        assert_eq!(text("127.1").as_deref(), Some("127.0.0.1"));
        assert_eq!(text("10.258").as_deref(), Some("10.0.1.2"));
        assert_eq!(text("0x7f000001").as_deref(), Some("127.0.0.1"));
        assert_eq!(text("0177.0.0.1").as_deref(), Some("127.0.0.1"));
        assert_eq!(text("4294967295").as_deref(), Some("255.255.255.255"));
        for bad in
            ["", ".", "1.", "1.2.3.4.5", "256.1.1.1", "1.2.3.256", "4294967296", "+1", "-1", "09", "0x", "a"]
        {
            assert_eq!(text(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_zone_is_a_number_or_an_interface() {
        let files = |path: &str| match path {
            "/sys/class/net/eth0/ifindex" => Ok(b"7\n".to_vec()),
            _ => Err(io::ErrorKind::NotFound.into()),
        };
        let text = |it| parse(&files, it).map(|it| it.to_string());
        assert_eq!(text("fe80::1%eth0").as_deref(), Some("[fe80::1%7]:0"));
        assert_eq!(text("fe80::1%3").as_deref(), Some("[fe80::1%3]:0"));
        assert_eq!(text("::1").as_deref(), Some("[::1]:0"));
        for bad in ["fe80::1%", "fe80::1%eth1", "fe80::1%../net/eth0", "1.2.3.4%eth0", ":", "::1::"] {
            assert_eq!(text(bad), None, "{bad}");
        }
    }
}
