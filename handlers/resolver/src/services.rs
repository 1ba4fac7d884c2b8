//! `/etc/services`, as services(5) has it.

use crate::{Error, Files, Flags, Hints, Transport, read_or_none};

/// What there is where no file is, as in an image that holds nothing but its program.
const WELL_KNOWN: &str = "\
ftp 21/tcp
ssh 22/tcp
smtp 25/tcp mail
domain 53/tcp
domain 53/udp
http 80/tcp www
ntp 123/udp
imap2 143/tcp imap
ldap 389/tcp
https 443/tcp
https 443/udp
submission 587/tcp
ldaps 636/tcp
imaps 993/tcp
mysql 3306/tcp
postgresql 5432/tcp postgres
amqp 5672/tcp
redis 6379/tcp
http-alt 8080/tcp webcache
";

/// The transports that the hints allow, with the service's port for each. Without a service the port is 0.
pub(crate) fn ports(files: &dyn Files, service: &str, hints: &Hints) -> Result<Vec<(Transport, u16)>, Error> {
    let fits = |&it: &Transport| {
        hints.socket_type.is_none_or(|wanted| wanted == it)
            && hints.protocol.is_none_or(|wanted| wanted == it)
    };
    let transports: Vec<_> = [Transport::Tcp, Transport::Udp].into_iter().filter(fits).collect();
    if transports.is_empty() {
        return Err(Error::SockType);
    }
    if service.is_empty() {
        return Ok(transports.into_iter().map(|it| (it, 0)).collect());
    }
    if service.bytes().all(|it| it.is_ascii_digit()) {
        let port = service.parse().map_err(|_| Error::Service)?;
        return Ok(transports.into_iter().map(|it| (it, port)).collect());
    }
    if hints.flags.contains(Flags::NUMERICSERV) {
        return Err(Error::NoName);
    }
    let text = read_or_none(files, "/etc/services")?;
    let text = text.as_deref().unwrap_or(WELL_KNOWN);
    let found: Vec<_> =
        transports.into_iter().filter_map(|it| find(text, service, it).map(|port| (it, port))).collect();
    if found.is_empty() { Err(Error::Service) } else { Ok(found) }
}

fn find(text: &str, service: &str, transport: Transport) -> Option<u16> {
    let protocol = match transport {
        Transport::Tcp => "tcp",
        Transport::Udp => "udp",
    };
    text.lines().find_map(|line| {
        let mut words = line.split('#').next()?.split_whitespace();
        let (name, port) = (words.next()?, words.next()?);
        let port = port.strip_suffix(protocol)?.strip_suffix('/')?.parse().ok()?;
        (name == service || words.any(|alias| alias == service)).then_some(port)
    })
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use Transport::{Tcp, Udp};

    const FILE: &str = "# comment\nweb 8081/tcp www # http\nboth 7/tcp\nboth 8/udp\nbad x/tcp\n";

    fn in_file(service: &str, hints: Hints) -> Result<Vec<(Transport, u16)>, Error> {
        ports(&|_: &str| Ok(FILE.as_bytes().to_vec()), service, &hints)
    }

    fn without_file(service: &str) -> Result<Vec<(Transport, u16)>, Error> {
        ports(&|_: &str| Err(io::ErrorKind::NotFound.into()), service, &Hints::default())
    }

    #[test]
    fn a_service_is_a_number_or_in_the_file() {
        let any = Hints::default();
        assert_eq!(in_file("", any).expect("none"), [(Tcp, 0), (Udp, 0)]);
        assert_eq!(in_file("65535", any).expect("number"), [(Tcp, 65535), (Udp, 65535)]);
        assert_eq!(in_file("www", any).expect("alias"), [(Tcp, 8081)]);
        assert_eq!(in_file("both", any).expect("both"), [(Tcp, 7), (Udp, 8)]);
        for bad in ["65536", "99999999999999999999", "http", "bad", "WEB", "-1", " 80"] {
            assert!(matches!(in_file(bad, any), Err(Error::Service)), "{bad}");
        }
    }

    #[test]
    fn hints_choose_among_transports() {
        let udp = Hints { socket_type: Some(Udp), ..Hints::default() };
        assert_eq!(in_file("both", udp).expect("both"), [(Udp, 8)]);
        assert!(matches!(in_file("web", udp), Err(Error::Service)));
        let odd = Hints { protocol: Some(Tcp), ..udp };
        assert!(matches!(in_file("7", odd), Err(Error::SockType)));
        let numeric = Hints { flags: Flags::NUMERICSERV, ..Hints::default() };
        assert!(matches!(in_file("web", numeric), Err(Error::NoName)));
    }

    #[test]
    fn well_known_services_need_no_file() {
        assert_eq!(without_file("http").expect("known"), [(Tcp, 80)]);
        assert_eq!(without_file("domain").expect("known"), [(Tcp, 53), (Udp, 53)]);
        assert!(matches!(without_file("web"), Err(Error::Service)));
    }
}
