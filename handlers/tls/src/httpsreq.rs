//! `wasmedge_httpsreq`: one request over TLS, and its reply, while the guest waits.
//!
//! The request is sent as it is, and the reply received at the same time: a peer may answer before it has heard
//! everything, and stop listening while it is not heard itself. A reply is whole or an error: the guest could not tell
//! that one was cut off.

use std::{
    fs::File,
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    os::fd::OwnedFd,
    sync::Arc,
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    fs::{OFlags, fcntl_setfl},
};
use rustls::{ClientConfig, ClientConnection, pki_types::ServerName};

use crate::reply::Reply;

/// Why there is no reply.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The guest passed something that is no name or address.
    #[error("{0:?} is no host name")]
    Host(String),
    /// The guest passed something that is no port.
    #[error("{0} is no port")]
    Port(u32),
    /// The name cannot be resolved.
    #[error("{host}: {reason}")]
    Name {
        /// The name.
        host: String,
        /// What the resolver said.
        reason: String,
    },
    /// No address of the host could be connected to.
    #[error("connect to {address}: {reason}")]
    Connect {
        /// The last one.
        address: SocketAddr,
        /// What the kernel said.
        reason: io::Error,
    },
    /// The peer is not who it should be, or does not speak TLS.
    #[error("{host}: {reason}")]
    Tls {
        /// The name that was connected to.
        host: String,
        /// What is wrong.
        reason: rustls::Error,
    },
    /// The connection broke.
    #[error("{host}: {reason}")]
    Io {
        /// The name that was connected to.
        host: String,
        /// What the kernel said.
        reason: io::Error,
    },
    /// The connection ended too early.
    #[error("{0}: the connection was closed before the reply was complete")]
    CutOff(String),
}

/// Sends a request and returns the reply.
///
/// `resolve` gives the addresses of a host, the first to be tried first.
///
/// # Errors
/// [`Error`].
pub fn send(
    config: Arc<ClientConfig>,
    host: &[u8],
    port: u32,
    request: &[u8],
    resolve: impl FnOnce(&str, u16) -> Result<Vec<SocketAddr>, String>,
) -> Result<Vec<u8>, Error> {
    let bad = || Error::Host(String::from_utf8_lossy(host).into_owned());
    let host = str::from_utf8(host).map_err(|_| bad())?;
    // As it stands in a URI.
    let host = host.strip_prefix('[').and_then(|it| it.strip_suffix(']')).unwrap_or(host);
    let name = ServerName::try_from(host).map_err(|_| bad())?.to_owned();
    let port = u16::try_from(port).map_err(|_| Error::Port(port))?;
    let addresses = resolve(host, port).map_err(|reason| Error::Name { host: host.into(), reason })?;
    let socket = connect(host, &addresses)?;
    let tls = |reason| Error::Tls { host: host.into(), reason };
    let mut connection = ClientConnection::new(config, name).map_err(tls)?;
    let reply = exchange(&socket, &mut connection, request).map_err(|reason| {
        match reason.get_ref().and_then(|it| it.downcast_ref::<rustls::Error>()) {
            Some(reason) => tls(reason.clone()),
            None if reason.kind() == io::ErrorKind::UnexpectedEof => Error::CutOff(host.into()),
            None => Error::Io { host: host.into(), reason },
        }
    })?;
    reply.finish().ok_or_else(|| Error::CutOff(host.into()))
}

/// The socket is read and written as a file, with calls that the filter of every guest allows.
fn connect(host: &str, addresses: &[SocketAddr]) -> Result<File, Error> {
    let mut failure = Error::Name { host: host.into(), reason: "no address".into() };
    for &address in addresses {
        match TcpStream::connect(address).and_then(|it| it.set_nodelay(true).map(|()| it)) {
            Ok(socket) => return Ok(OwnedFd::from(socket).into()),
            Err(reason) => failure = Error::Connect { address, reason },
        }
    }
    Err(failure)
}

/// Talks until the reply is complete or the peer has closed.
fn exchange(mut socket: &File, connection: &mut ClientConnection, request: &[u8]) -> io::Result<Reply> {
    fcntl_setfl(socket, OFlags::NONBLOCK)?;
    let mut reply = Reply::to(request);
    let mut rest = request;
    loop {
        rest = &rest[connection.writer().write(rest)?..];
        let mut wanted = PollFlags::IN;
        wanted.set(PollFlags::OUT, connection.wants_write());
        let mut polled = [PollFd::new(&socket, wanted)];
        match poll(&mut polled, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let happened = polled[0].revents();
        // First: a peer that is about to stop listening may have answered.
        if !happened.difference(PollFlags::OUT).is_empty() && listen(socket, connection, &mut reply)? {
            connection.send_close_notify();
            let _ = connection.write_tls(&mut socket);
            return Ok(reply);
        }
        if happened.contains(PollFlags::OUT) {
            match connection.write_tls(&mut socket) {
                Ok(_) => {}
                Err(error) if waits(&error) => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// Takes what has come. Says whether there will be no more of interest.
fn listen(mut socket: &File, connection: &mut ClientConnection, reply: &mut Reply) -> io::Result<bool> {
    loop {
        match connection.read_tls(&mut socket) {
            Ok(_) => {}
            Err(error) if waits(&error) => return Ok(false),
            Err(error) => return Err(error),
        }
        if let Err(error) = connection.process_new_packets() {
            // The alert that says so.
            let _ = connection.write_tls(&mut socket);
            return Err(io::Error::other(error));
        }
        if receive(connection, reply)? {
            return Ok(true);
        }
    }
}

/// Takes the plain text that is there. Says whether there will be no more of interest.
fn receive(connection: &mut ClientConnection, reply: &mut Reply) -> io::Result<bool> {
    let mut buffer = [0; 16 * 1024];
    loop {
        match connection.reader().read(&mut buffer) {
            Ok(0) => return Ok(true),
            Ok(len) if reply.push(&buffer[..len]) => return Ok(true),
            Ok(_) => {}
            Err(error) if waits(&error) => return Ok(false),
            Err(error) => return Err(error),
        }
    }
}

fn waits(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

#[cfg(test)]
mod tests {
    use std::{
        net::{Ipv4Addr, SocketAddrV4},
        sync::mpsc,
    };

    use rustix::net::{AddressFamily, SocketType, bind, getsockname, socket};

    use super::*;
    use crate::testing::{Authority, Stream, client, close, head, serve};

    const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: server.test\r\n\r\n";

    /// The reply of a server with a good certificate.
    fn reply(request: &[u8], act: impl FnOnce(&mut Stream) + Send + 'static) -> Result<Vec<u8>, String> {
        let authority = Authority::new().unwrap();
        let address = serve(authority.server(&["server.test"], 2100).unwrap(), act);
        ask(client(&authority), "server.test", request, &[address])
    }

    fn ask(
        config: Arc<ClientConfig>,
        host: &str,
        request: &[u8],
        addresses: &[SocketAddr],
    ) -> Result<Vec<u8>, String> {
        send(config, host.as_bytes(), 443, request, |name, port| {
            assert_eq!((name, port), (host, 443));
            Ok(addresses.to_vec())
        })
        .map_err(|it| it.to_string())
    }

    #[test]
    fn a_reply_ends_though_the_connection_does_not() {
        let text = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
        let answer = reply(GET, move |stream| {
            assert_eq!(head(stream).as_bytes(), GET);
            stream.write_all(text.as_bytes()).unwrap();
            stream.write_all(b"more").unwrap();
            // The client is the one to close.
            assert_eq!(stream.read(&mut [0]).unwrap(), 0);
        });
        assert_eq!(answer.as_deref(), Ok(text.as_bytes()));
    }

    #[test]
    fn a_reply_without_length_ends_when_the_peer_says_so() {
        let text = "HTTP/1.0 200 OK\r\n\r\nhello";
        let said = reply(GET, move |stream| {
            head(stream);
            stream.write_all(text.as_bytes()).unwrap();
            close(stream);
        });
        assert_eq!(said.as_deref(), Ok(text.as_bytes()));
        let cut = reply(GET, move |stream| {
            head(stream);
            stream.write_all(text.as_bytes()).unwrap();
        });
        assert!(cut.expect_err("nobody said so").contains("before the reply was complete"));
        let cut = reply(GET, |stream| {
            head(stream);
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhello").unwrap();
            close(stream);
        });
        assert!(cut.expect_err("45 bytes are missing").contains("before the reply was complete"));
    }

    /// Neither side could go on if this one did not read before it has written everything.
    #[test]
    fn much_is_sent_and_received_at_once() {
        let body = vec![b'x'; 20_000_000];
        let head_of = |first: &str| format!("{first}\r\nContent-Length: {}\r\n\r\n", body.len());
        let request = [head_of("POST / HTTP/1.1").as_bytes(), &body].concat();
        let expected = [head_of("HTTP/1.1 200 OK").as_bytes(), &body].concat();
        let start = head_of("HTTP/1.1 200 OK");
        let mut left = body.len();
        let answer = reply(&request, move |stream| {
            head(stream);
            stream.write_all(start.as_bytes()).unwrap();
            let mut buffer = [0; 65536];
            while left > 0 {
                let len = stream.read(&mut buffer).unwrap();
                stream.write_all(&buffer[..len]).unwrap();
                left -= len;
            }
        });
        assert!(answer.expect("a reply") == expected);
    }

    /// As a server does with a request that is too large for it.
    #[test]
    fn an_answer_may_come_before_the_request_has_been_heard() {
        let text = "HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\n\r\n";
        let request = [GET, &vec![0; 10_000_000]].concat();
        let (answered, waiting) = mpsc::channel::<()>();
        let answer = reply(&request, move |stream| {
            head(stream);
            stream.write_all(text.as_bytes()).unwrap();
            let _ = waiting.recv();
        });
        drop(answered);
        assert_eq!(answer.as_deref(), Ok(text.as_bytes()));
    }

    #[test]
    fn the_certificate_must_be_good() {
        let authority = Authority::new().unwrap();
        let refused = |config: Arc<ClientConfig>, host: &str, until: i32| {
            let address = serve(authority.server(&["server.test"], until).unwrap(), |stream| {
                assert_eq!(head(stream), "", "a request was sent");
            });
            ask(config, host, GET, &[address]).expect_err("refused")
        };
        let expired = refused(client(&authority), "server.test", 2001);
        assert!(expired.contains("expired"), "{expired}");
        let other = refused(client(&authority), "other.test", 2100);
        assert!(other.contains("not valid for name"), "{other}");
        let unknown = refused(client(&Authority::new().unwrap()), "server.test", 2100);
        assert!(unknown.contains("UnknownIssuer"), "{unknown}");
    }

    #[test]
    fn an_address_is_a_name_too() {
        let authority = Authority::new().unwrap();
        let address = serve(authority.server(&["127.0.0.1"], 2100).unwrap(), |stream| {
            head(stream);
            stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap();
        });
        assert!(ask(client(&authority), "127.0.0.1", GET, &[address]).is_ok());
    }

    #[test]
    fn addresses_are_tried_in_turn() {
        let authority = Authority::new().unwrap();
        let address = serve(authority.server(&["server.test"], 2100).unwrap(), |stream| {
            head(stream);
            stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap();
        });
        // Taken, and nobody listens there.
        let taken = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        bind(&taken, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0)).unwrap();
        let refusing = SocketAddr::try_from(getsockname(&taken).unwrap()).unwrap();
        assert!(ask(client(&authority), "server.test", GET, &[refusing, address]).is_ok());
        let refused = ask(client(&authority), "server.test", GET, &[refusing]).expect_err("refused");
        assert!(refused.contains("refused"), "{refused}");
    }

    #[test]
    fn what_is_no_tls_is_an_error() {
        let authority = Authority::new().unwrap();
        let address = serve(authority.server(&["server.test"], 2100).unwrap(), |stream| {
            stream.sock.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
            let _ = stream.sock.read(&mut [0; 4096]);
        });
        assert!(ask(client(&authority), "server.test", GET, &[address]).is_err());
    }

    #[test]
    fn what_is_no_name_or_port_is_refused() {
        let config = client(&Authority::new().unwrap());
        let ask = |host: &[u8], port: u32| {
            let none = |_: &str, _: u16| -> Result<Vec<SocketAddr>, String> { Ok(vec![]) };
            send(config.clone(), host, port, GET, none).expect_err("nothing to connect to")
        };
        assert!(matches!(ask(b"", 443), Error::Host(_)));
        assert!(matches!(ask(b"a b", 443), Error::Host(_)));
        assert!(matches!(ask(b"\xff", 443), Error::Host(_)));
        assert!(matches!(ask(b"server.test\0", 443), Error::Host(_)));
        assert!(matches!(ask(b"server.test", 65536), Error::Port(65536)));
        assert!(matches!(ask(b"[::1]", 443), Error::Name { .. }));
        assert!(matches!(ask(b"server.test", 443), Error::Name { .. }));
    }
}
