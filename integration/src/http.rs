//! The client's end of an HTTP/1.1 connection, as far as tests of servers need it: one byte after the other is theirs.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

/// A server that says nothing for so long hangs.
const SILENCE: Duration = Duration::from_secs(30);

/// A connection to a server, on which requests can follow each other.
pub struct Client(BufReader<TcpStream>);

/// What a server has answered.
#[derive(Debug)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// Header lines, with names in lower case.
    pub headers: Vec<(String, String)>,
    /// The whole body.
    pub body: Vec<u8>,
}

impl Client {
    /// Connects.
    ///
    /// # Errors
    /// Nobody listens there.
    pub fn connect(address: SocketAddr) -> Result<Client> {
        let stream = TcpStream::connect_timeout(&address, SILENCE).with_context(|| address.to_string())?;
        stream.set_read_timeout(Some(SILENCE))?;
        stream.set_write_timeout(Some(SILENCE))?;
        stream.set_nodelay(true)?;
        Ok(Client(BufReader::new(stream)))
    }

    /// The socket, to write to it and close it in other ways.
    #[must_use]
    pub fn stream(&self) -> &TcpStream {
        self.0.get_ref()
    }

    /// Sends a request, all at once.
    ///
    /// # Errors
    /// The server has closed the connection.
    pub fn send(&mut self, method: &str, path: &str, body: &[u8]) -> Result<()> {
        let mut request =
            format!("{method} {path} HTTP/1.1\r\nhost: test\r\ncontent-length: {}\r\n\r\n", body.len())
                .into_bytes();
        request.extend(body);
        Ok(self.0.get_mut().write_all(&request)?)
    }

    /// Receives the next answer.
    ///
    /// # Errors
    /// The connection ends before it has.
    pub fn receive(&mut self) -> Result<Answer> {
        let (status, headers) = self.head()?;
        // By their status these have none, and say nothing of its length.
        let body = if matches!(status, 204 | 304) { Vec::new() } else { self.body(&headers)? };
        Ok(Answer { status, headers, body })
    }

    /// Sends a request and receives the answer.
    ///
    /// # Errors
    /// As [`Client::send`] and [`Client::receive`].
    pub fn request(&mut self, method: &str, path: &str, body: &[u8]) -> Result<Answer> {
        self.send(method, path, body)?;
        self.receive()
    }

    /// Receives status and header lines; the body can be read from the reader then.
    ///
    /// # Errors
    /// The connection ends, or something else comes.
    pub fn head(&mut self) -> Result<(u16, Vec<(String, String)>)> {
        let status = self.line()?;
        let code = status.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
        let code = code.with_context(|| format!("no status line: {status:?}"))?;
        let mut headers = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Ok((code, headers));
            }
            let (name, value) = line.split_once(':').with_context(|| format!("no header: {line:?}"))?;
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
    }

    /// What comes next.
    pub fn reader(&mut self) -> &mut impl Read {
        &mut self.0
    }

    /// Requires that the server sends nothing more and closes.
    ///
    /// # Errors
    /// It does something else.
    pub fn is_closed(&mut self) -> Result<()> {
        let mut rest = Vec::new();
        self.0.read_to_end(&mut rest)?;
        ensure!(rest.is_empty(), "more after the end: {:?}", String::from_utf8_lossy(&rest));
        Ok(())
    }

    fn body(&mut self, headers: &[(String, String)]) -> Result<Vec<u8>> {
        let header = |wanted| headers.iter().find(|(name, _)| name == wanted).map(|(_, value)| value);
        let mut body = Vec::new();
        if header("transfer-encoding").is_some_and(|value| value == "chunked") {
            loop {
                let length = u64::from_str_radix(&self.line()?, 16).context("length of a chunk")?;
                self.exactly(length, &mut body)?;
                ensure!(self.line()?.is_empty(), "a chunk is longer than it says");
                if length == 0 {
                    return Ok(body);
                }
            }
        }
        match header("content-length") {
            Some(length) => self.exactly(length.parse()?, &mut body)?,
            None => {
                self.0.read_to_end(&mut body)?;
            }
        }
        Ok(body)
    }

    fn exactly(&mut self, length: u64, body: &mut Vec<u8>) -> Result<()> {
        let read = self.0.by_ref().take(length).read_to_end(body)?;
        ensure!(read as u64 == length, "the connection ends after {read} of {length} bytes");
        Ok(())
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.0.read_line(&mut line)?;
        line.strip_suffix("\r\n").map(str::to_owned).with_context(|| format!("the connection ends: {line:?}"))
    }
}

impl Answer {
    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Requires this status.
    ///
    /// # Errors
    /// Any other status.
    pub fn is(self, status: u16) -> Result<Answer> {
        ensure!(self.status == status, "expected {status}, got {}: {:?}", self.status, self.text());
        Ok(self)
    }
}
