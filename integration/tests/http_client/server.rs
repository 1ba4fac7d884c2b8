//! The other side: an HTTP server in threads of the test, with or without TLS.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use anyhow::Result;
use coracle_tls::authority::{ServerConfig, ServerConnection, StreamOwned};
use rustix::net::{Shutdown, shutdown};

use crate::body::{Sum, write_body};

/// A server on loopback; dropping it stops it.
///
/// | path | answers |
/// |---|---|
/// | `/bytes/N` | N bytes, with their length |
/// | `/chunked/N`, `/close/N` | the same in chunks, or until it closes |
/// | `/check` | with length and checksum of the request's body |
/// | `/echo` | the request's body, as it comes |
/// | `/redirect/N` | to `/redirect/N-1`, and from 0 to `/bytes/5` |
/// | `/to/URL` | to that URL, the request to be repeated there |
/// | `/silence` | nothing, ever |
pub struct Server {
    address: SocketAddr,
    listener: Arc<TcpListener>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Starts one, on a port of its own.
    pub fn start(tls: Option<Arc<ServerConfig>>) -> Result<Self> {
        let listener = Arc::new(TcpListener::bind("127.0.0.1:0")?);
        let accepting = listener.clone();
        let thread = thread::spawn(move || {
            for socket in accepting.incoming().map_while(Result::ok) {
                let tls = tls.clone();
                // A client that breaks off, as it has to when it is shown a bad certificate, is none of ours to report.
                thread::spawn(move || drop(serve(socket, tls)));
            }
        });
        Ok(Self { address: listener.local_addr()?, listener, thread: Some(thread) })
    }

    /// The port that it listens on.
    pub fn port(&self) -> u16 {
        self.address.port()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = shutdown(&self.listener, Shutdown::Both);
        drop(self.thread.take().map(JoinHandle::join));
    }
}

fn serve(socket: TcpStream, tls: Option<Arc<ServerConfig>>) -> io::Result<()> {
    let Some(config) = tls else { return converse(socket).map(drop) };
    let connection = ServerConnection::new(config).map_err(io::Error::other)?;
    let mut stream = converse(StreamOwned::new(connection, socket))?;
    stream.conn.send_close_notify();
    stream.flush()
}

/// Answers requests until the client wants no more.
fn converse<S: Read + Write>(mut stream: S) -> io::Result<S> {
    while let Some(head) = head(&mut stream)? {
        let close = answer(&mut stream, &head)? || head.contains("connection: close");
        stream.flush()?;
        if close {
            break;
        }
    }
    Ok(stream)
}

/// The head of a request, in small letters.
fn head(stream: &mut impl Read) -> io::Result<Option<String>> {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte)? == 0 {
            return Ok(None);
        }
        head.push(byte[0].to_ascii_lowercase());
    }
    String::from_utf8(head).map(Some).map_err(io::Error::other)
}

/// Says whether the connection ends with this answer.
fn answer<S: Read + Write>(stream: &mut S, head: &str) -> io::Result<bool> {
    let path = head.split(' ').nth(1).unwrap_or_default();
    let length =
        head.split_once("content-length: ").and_then(|(_, it)| it.split("\r\n").next()?.parse().ok());
    let length = length.unwrap_or(0);
    let (route, rest) = path[1..].split_once('/').unwrap_or((&path[1..], ""));
    let number = rest.parse().unwrap_or(0);
    // Nobody waits for the body of a request that is redirected.
    if !matches!(route, "check" | "echo") {
        io::copy(&mut Read::by_ref(stream).take(length), &mut io::sink())?;
    }
    match route {
        "bytes" => {
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {number}\r\n\r\n")?;
            if !head.starts_with("head ") {
                write_body(stream, number)?;
            }
        }
        "chunked" => {
            write!(stream, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{number:x}\r\n")?;
            write_body(stream, number)?;
            write!(stream, "\r\n0\r\n\r\n")?;
        }
        "close" => {
            write!(stream, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")?;
            write_body(stream, number)?;
            return Ok(true);
        }
        "check" => {
            let mut sum = Sum::default();
            io::copy(&mut Read::by_ref(stream).take(length), &mut sum)?;
            let text = sum.to_string();
            write!(
                stream,
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nX-Sum: {text}\r\n\r\n{text}",
                text.len()
            )?;
        }
        "echo" => {
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n")?;
            let (mut left, mut buffer) = (length, [0; 16384]);
            while left > 0 {
                let len = stream.read(&mut buffer)?;
                if len == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                stream.write_all(&buffer[..len])?;
                left -= len as u64;
            }
        }
        "redirect" => {
            let to = number.checked_sub(1).map_or("/bytes/5".into(), |it| format!("/redirect/{it}"));
            write!(stream, "HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n")?;
        }
        "to" => write!(
            stream,
            "HTTP/1.1 307 Temporary Redirect\r\nLocation: {rest}\r\nContent-Length: 0\r\n\r\n"
        )?,
        "silence" => {
            let _ = stream.read(&mut [0]);
            return Ok(true);
        }
        _ => write!(stream, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")?,
    }
    Ok(false)
}
