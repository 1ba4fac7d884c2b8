//! The socket crate that guests are made with, in one process: `tcp ADDRESS...`, `udp ADDRESS...` or `names NODE...`.
//!
//! There are two packages of this program, one for each generation of the crate: the older takes the first version of
//! every host function, the newer some of the second. A program cannot have both, for their imports have the same names.

use std::io::{Read, Result, Write};
use std::net::SocketAddr;

use wasmedge_wasi_socket::{nslookup, Shutdown, TcpListener, TcpStream, UdpSocket};

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().collect();
    args[2..].iter().try_for_each(|it| match args[1].as_str() {
        "tcp" => tcp(it),
        "udp" => udp(it),
        _ => names(it),
    })
}

/// Both ends of a connection, and what each says of itself and of the other.
fn tcp(address: &str) -> Result<()> {
    let listener = TcpListener::bind(address, false)?;
    let address = listener.local_addr()?;
    let mut client = TcpStream::connect(address)?;
    let (mut server, peer) = listener.accept(false)?;
    assert_eq!((peer, server.local_addr()?), (client.local_addr()?, address));
    assert_eq!(client.peer_addr()?, address);

    client.write_all(b"question")?;
    let mut text = [0; 8];
    server.read_exact(&mut text)?;
    assert_eq!(&text, b"question");
    server.set_nonblocking(true)?;
    assert_eq!(server.read(&mut text).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    client.shutdown(Shutdown::Write)?;
    server.set_nonblocking(false)?;
    assert_eq!(server.read(&mut text)?, 0);
    server.write_all(b"an answer")?;
    drop(server);
    let mut answer = String::new();
    client.read_to_string(&mut answer)?;
    assert_eq!(answer, "an answer");

    // One that does not block from the start.
    let again = TcpStream::connect(address)?;
    let (accepted, _) = listener.accept(true)?;
    assert_eq!((&accepted).read(&mut text).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    drop(again);
    drop(listener);
    let refused = TcpStream::connect(address).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    println!("{} ok", address.ip());
    Ok(())
}

/// Two sockets, the second with a port that others know: the crate cannot ask for one's own.
fn udp(address: &str) -> Result<()> {
    let mut text = [0; 16];
    let one = UdpSocket::bind(address)?;
    let host = address.rsplit_once(':').map_or("", |it| it.0);
    let (two, known) = (20_000..)
        .find_map(|port| {
            let known: SocketAddr = format!("{host}:{port}").parse().ok()?;
            Some((UdpSocket::bind(known).ok()?, known))
        })
        .expect("a port that is free");
    assert_eq!(one.send_to(b"question", known)?, 8);
    let (len, sender) = two.recv_from(&mut text)?;
    assert_eq!(&text[..len], b"question");
    // The older crate looks for the sender in a form that no host has given it since.
    let is_known = sender.ip() == known.ip();
    if is_known {
        assert_eq!(two.send_to(b"answer", sender)?, 6);
        let (len, sender) = one.recv_from(&mut text)?;
        assert_eq!((&text[..len], sender), (&b"answer"[..], known));
    }
    println!("{} ok, from {}", known.ip(), if is_known { "somebody" } else { "nobody" });
    Ok(())
}

fn names(node: &str) -> Result<()> {
    match nslookup(node, "http") {
        Ok(found) => println!("{node}: {found:?}"),
        Err(error) => println!("{node}: {error}"),
    }
    Ok(())
}
