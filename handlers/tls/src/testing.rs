//! Clients, and servers on loopback, for the tests of this crate.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::Arc,
    thread,
};

use rustls::{ClientConfig, RootCertStore, ServerConfig, ServerConnection, StreamOwned, crypto::ring};

pub use crate::authority::Authority;

/// A client that trusts this authority.
pub fn client(authority: &Authority) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(authority.der().clone()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let config = config.with_safe_default_protocol_versions().unwrap();
    Arc::new(config.with_root_certificates(roots).with_no_client_auth())
}

pub type Stream = StreamOwned<ServerConnection, TcpStream>;

/// Serves one connection.
pub fn serve(config: Arc<ServerConfig>, act: impl FnOnce(&mut Stream) + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        let (socket, _) = listener.accept().unwrap();
        act(&mut StreamOwned::new(ServerConnection::new(config).unwrap(), socket));
    });
    address
}

/// Reads a request's head.
pub fn head(stream: &mut Stream) -> String {
    let mut head = String::new();
    let mut byte = [0];
    while !head.ends_with("\r\n\r\n") && stream.read(&mut byte).is_ok_and(|it| it == 1) {
        head.push(char::from(byte[0]));
    }
    head
}

/// Says that no more follows.
pub fn close(stream: &mut Stream) {
    stream.conn.send_close_notify();
    let _ = stream.flush();
}
