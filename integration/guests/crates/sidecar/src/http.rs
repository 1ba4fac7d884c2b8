//! The server's end of HTTP/1.1, with a thread for each connection: whoever is invoked may itself have something to ask.

use std::io::{self, BufRead, BufReader, Error, ErrorKind, Read, Write};
use std::net::TcpStream;

pub struct Request {
    pub method: String,
    pub path: String,
    /// The etag that a value has to have.
    pub if_match: Option<String>,
    pub body: Vec<u8>,
}

/// Status, body and, for a value of the state, its etag.
pub struct Answer(pub u16, pub Vec<u8>, pub Option<String>);

/// Answers what comes on a connection, until the client closes it.
pub fn serve(stream: TcpStream, answer: impl Fn(Request) -> Answer) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream);
    while let Some(request) = receive(&mut reader)? {
        let Answer(status, body, etag) = answer(request);
        let mut reply = format!("HTTP/1.1 {} -\r\n", status);
        if let Some(etag) = etag {
            reply += &format!("etag: {}\r\n", etag);
        }
        if status != 204 {
            reply += &format!("content-type: application/json\r\ncontent-length: {}\r\n", body.len());
        }
        let mut reply = (reply + "\r\n").into_bytes();
        reply.extend(body);
        reader.get_mut().write_all(&reply)?;
    }
    Ok(())
}

fn receive(reader: &mut BufReader<TcpStream>) -> io::Result<Option<Request>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace().map(str::to_owned);
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let (mut length, mut if_match) = (0, None);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let (name, value) = match line.split_once(':') {
            Some((name, value)) => (name.to_ascii_lowercase(), value.trim()),
            None if line == "\r\n" => break,
            None => return Err(Error::new(ErrorKind::InvalidData, line)),
        };
        match name.as_str() {
            "content-length" => length = value.parse().map_err(|error| Error::new(ErrorKind::InvalidData, error))?,
            "transfer-encoding" => return Err(Error::new(ErrorKind::Unsupported, line)),
            "if-match" => if_match = Some(value.to_owned()),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok(Some(Request { method, path, if_match, body }))
}
