//! Codecs: TLS connections without a socket.

use std::{
    io::{Read, Write},
    sync::Arc,
};

use rustls::{ClientConfig, ClientConnection, pki_types::ServerName};

use crate::errors::TlsError;

/// What a codec has to say after new packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    /// Bytes that the guest should write to its socket.
    pub tls_to_write: u32,
    /// Bytes that it can read as plain text.
    pub plain_to_read: u32,
    /// Whether the peer has said that it sends no more.
    pub peer_closed: bool,
}

impl State {
    /// The record as the guest has it.
    #[must_use]
    pub fn layout(self) -> [u8; 12] {
        let mut bytes = [0; 12];
        bytes[..4].copy_from_slice(&self.tls_to_write.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.plain_to_read.to_le_bytes());
        bytes[8] = u8::from(self.peer_closed);
        bytes
    }
}

/// The codecs of a guest, by number: the lowest that is free.
#[derive(Debug)]
pub struct Codecs {
    config: Arc<ClientConfig>,
    open: Vec<Option<ClientConnection>>,
}

type Result<T> = std::result::Result<T, TlsError>;

impl Codecs {
    /// The one configuration there is, by the number that the guest has for it.
    pub const DEFAULT_CONFIG: u32 = 0;

    /// None yet.
    #[must_use]
    pub fn new(config: Arc<ClientConfig>) -> Self {
        Self { config, open: vec![] }
    }

    /// `new_codec`: a client's end of a connection to the server of that name, whose certificate it is to show.
    ///
    /// # Errors
    /// Another configuration than the default one, or no such name.
    pub fn open(&mut self, config: u32, server: &[u8]) -> Result<u32> {
        if config != Self::DEFAULT_CONFIG {
            return Err(TlsError::Parameter);
        }
        let name = str::from_utf8(server).map_err(|_| TlsError::Parameter)?;
        let name = ServerName::try_from(name).map_err(|_| TlsError::Parameter)?.to_owned();
        let codec = ClientConnection::new(self.config.clone(), name)?;
        let free = self.open.iter().position(Option::is_none).unwrap_or(self.open.len());
        // Below zero is an error to the guest.
        let number = i32::try_from(free).map_err(|_| TlsError::Parameter)?;
        if free == self.open.len() {
            self.open.push(None);
        }
        self.open[free] = Some(codec);
        Ok(number.unsigned_abs())
    }

    /// `delete_codec`. One that is not there is no error: it was none either.
    pub fn delete(&mut self, codec: u32) {
        if let Some(slot) = self.open.get_mut(codec as usize) {
            *slot = None;
        }
    }

    /// `codec_is_handshaking`.
    ///
    /// # Errors
    /// No such codec.
    pub fn is_handshaking(&mut self, codec: u32) -> Result<bool> {
        Ok(self.get(codec)?.is_handshaking())
    }

    /// `codec_wants`: bit 0 for reading from the socket, bit 1 for writing to it.
    ///
    /// # Errors
    /// No such codec.
    pub fn wants(&mut self, codec: u32) -> Result<u32> {
        let codec = self.get(codec)?;
        Ok(u32::from(codec.wants_read()) | u32::from(codec.wants_write()) << 1)
    }

    /// `send_close_notify`.
    ///
    /// # Errors
    /// No such codec.
    pub fn send_close_notify(&mut self, codec: u32) -> Result<()> {
        self.get(codec)?.send_close_notify();
        Ok(())
    }

    /// `process_new_packets`, those that [`Codecs::read_tls`] took.
    ///
    /// # Errors
    /// No such codec, or the peer did something wrong; then there may be an alert to write to it.
    pub fn process(&mut self, codec: u32) -> Result<State> {
        let state = self.get(codec)?.process_new_packets()?;
        let count = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX);
        Ok(State {
            tls_to_write: count(state.tls_bytes_to_write()),
            plain_to_read: count(state.plaintext_bytes_to_read()),
            peer_closed: state.peer_has_closed(),
        })
    }

    /// `read_tls`: takes what came from the socket, not necessarily all of it; nothing means that the socket has ended.
    ///
    /// # Errors
    /// No such codec, or it wants to be read first.
    pub fn read_tls(&mut self, codec: u32, mut from: &[u8]) -> Result<usize> {
        Ok(self.get(codec)?.read_tls(&mut from)?)
    }

    /// `write_tls`: hands out what should go to the socket.
    ///
    /// # Errors
    /// No such codec.
    pub fn write_tls(&mut self, codec: u32, mut to: &mut [u8]) -> Result<usize> {
        Ok(self.get(codec)?.write_tls(&mut to)?)
    }

    /// `read_raw`: hands out plain text; none when the peer has closed.
    ///
    /// # Errors
    /// No such codec, nothing there yet, or the socket ended before the peer closed.
    pub fn read_raw(&mut self, codec: u32, to: &mut [u8]) -> Result<usize> {
        Ok(self.get(codec)?.reader().read(to)?)
    }

    /// `write_raw`: takes plain text, not necessarily all of it.
    ///
    /// # Errors
    /// No such codec.
    pub fn write_raw(&mut self, codec: u32, from: &[u8]) -> Result<usize> {
        Ok(self.get(codec)?.writer().write(from)?)
    }

    fn get(&mut self, codec: u32) -> Result<&mut ClientConnection> {
        self.open.get_mut(codec as usize).and_then(Option::as_mut).ok_or(TlsError::Parameter)
    }
}

#[cfg(test)]
mod tests {
    use std::{io::ErrorKind, net::TcpStream};

    use super::*;
    use crate::testing::{Authority, Stream, client, close, head, serve};

    /// A guest: a codec and a socket, and what the guest's library does with them.
    struct Guest {
        codecs: Codecs,
        codec: u32,
        socket: TcpStream,
    }

    impl Guest {
        fn connect(
            authority: &Authority,
            name: &str,
            until: i32,
            act: impl FnOnce(&mut Stream) + Send + 'static,
        ) -> Self {
            let socket =
                TcpStream::connect(serve(authority.server(&["server.test"], until).unwrap(), act)).unwrap();
            let mut codecs = Codecs::new(client(authority));
            let codec = codecs.open(0, name.as_bytes()).unwrap();
            Self { codecs, codec, socket }
        }

        /// Sends what is to be sent, then receives once. Says whether the peer has closed the socket.
        fn turn(&mut self) -> Result<bool> {
            let mut buffer = [0; 4096];
            while self.codecs.wants(self.codec)? & 2 != 0 {
                let len = self.codecs.write_tls(self.codec, &mut buffer)?;
                self.socket.write_all(&buffer[..len])?;
            }
            if self.codecs.wants(self.codec)? & 1 == 0 {
                return Ok(false);
            }
            let len = self.socket.read(&mut buffer)?;
            let mut rest = &buffer[..len];
            loop {
                rest = &rest[self.codecs.read_tls(self.codec, rest)?..];
                self.codecs.process(self.codec)?;
                if rest.is_empty() {
                    return Ok(len == 0);
                }
            }
        }

        fn handshake(&mut self) -> Result<()> {
            while self.codecs.is_handshaking(self.codec)? {
                self.turn()?;
            }
            Ok(())
        }

        fn receive(&mut self) -> Result<Vec<u8>> {
            let mut received = vec![];
            let mut buffer = [0; 1000];
            loop {
                match self.codecs.read_raw(self.codec, &mut buffer) {
                    Ok(0) => return Ok(received),
                    Ok(len) => received.extend_from_slice(&buffer[..len]),
                    Err(error) if error.number() == -25 => drop(self.turn()?),
                    Err(error) => return Err(error),
                }
            }
        }
    }

    #[test]
    fn what_goes_in_comes_out() {
        let authority = Authority::new().unwrap();
        let mut guest = Guest::connect(&authority, "server.test", 2100, |stream| {
            assert_eq!(head(stream), "question\r\n\r\n");
            stream.write_all(&[b'x'; 100_000]).unwrap();
            close(stream);
            assert_eq!(stream.read(&mut [0]).unwrap(), 0, "the guest closes too");
        });
        assert_eq!(guest.codecs.wants(0).unwrap(), 2, "a client speaks first");
        guest.handshake().unwrap();
        assert_eq!(guest.codecs.read_raw(0, &mut [0; 9]).unwrap_err().number(), -25);
        assert_eq!(guest.codecs.write_raw(0, b"question\r\n\r\n").unwrap(), 12);
        assert_eq!(guest.receive().unwrap(), [b'x'; 100_000]);
        assert!(guest.codecs.process(0).unwrap().peer_closed);
        guest.codecs.send_close_notify(0).unwrap();
        let mut buffer = [0; 100];
        let len = guest.codecs.write_tls(0, &mut buffer).unwrap();
        guest.socket.write_all(&buffer[..len]).unwrap();
    }

    #[test]
    fn a_connection_that_is_cut_off_is_an_error() {
        let authority = Authority::new().unwrap();
        let mut guest = Guest::connect(&authority, "server.test", 2100, |stream| {
            stream.write_all(b"half").unwrap();
        });
        guest.handshake().unwrap();
        let error = guest.receive().unwrap_err();
        assert_eq!(error.number(), -26);
        assert!(matches!(error, TlsError::Io(it) if it.kind() == ErrorKind::UnexpectedEof));
    }

    #[test]
    fn the_certificate_must_be_good() {
        let authority = Authority::new().unwrap();
        let refused = |name: &str, until: i32| {
            let mut guest = Guest::connect(&authority, name, until, |stream| {
                assert_eq!(head(stream), "", "the guest went on");
            });
            let error = guest.handshake().unwrap_err();
            // There is an alert for the server.
            assert_eq!(guest.codecs.wants(0).unwrap() & 2, 2);
            error.number()
        };
        assert_eq!(refused("server.test", 2001), -16);
        assert_eq!(refused("other.test", 2100), -16);
    }

    #[test]
    fn what_is_no_tls_has_a_number() {
        let mut codecs = Codecs::new(client(&Authority::new().unwrap()));
        let codec = codecs.open(0, b"server.test").unwrap();
        codecs.read_tls(codec, b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
        assert_eq!(codecs.process(codec).unwrap_err().number(), -4);
    }

    #[test]
    fn numbers_are_used_again() {
        let mut codecs = Codecs::new(client(&Authority::new().unwrap()));
        assert_eq!([0, 1, 2].map(|_| codecs.open(0, b"server.test").unwrap()), [0, 1, 2]);
        codecs.delete(1);
        codecs.delete(1);
        codecs.delete(u32::MAX);
        assert_eq!(codecs.wants(1).unwrap_err().number(), -1);
        assert_eq!(codecs.open(0, b"127.0.0.1").unwrap(), 1);
        assert_eq!(codecs.open(0, b"server.test").unwrap(), 3);
    }

    #[test]
    fn what_is_not_there_is_an_error() {
        let mut codecs = Codecs::new(client(&Authority::new().unwrap()));
        for (config, name) in [(1, "server.test"), (u32::MAX, "server.test"), (0, ""), (0, "a b"), (0, "é")]
        {
            assert_eq!(codecs.open(config, name.as_bytes()).unwrap_err().number(), -1, "{name}");
        }
        assert_eq!(codecs.open(0, b"\xff").unwrap_err().number(), -1);
        for codec in [0, 7, u32::MAX] {
            assert_eq!(codecs.is_handshaking(codec).unwrap_err().number(), -1);
            assert_eq!(codecs.process(codec).unwrap_err().number(), -1);
            assert_eq!(codecs.send_close_notify(codec).unwrap_err().number(), -1);
            assert_eq!(codecs.read_tls(codec, b"x").unwrap_err().number(), -1);
            assert_eq!(codecs.write_tls(codec, &mut [0]).unwrap_err().number(), -1);
            assert_eq!(codecs.read_raw(codec, &mut [0]).unwrap_err().number(), -1);
            assert_eq!(codecs.write_raw(codec, b"x").unwrap_err().number(), -1);
        }
    }
}
