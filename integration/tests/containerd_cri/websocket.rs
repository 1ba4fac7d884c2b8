//! Streams of `Exec` and `Attach`: containerd's streaming server, over a WebSocket as kubectl uses it.
//!
//! In the protocol `v4.channel.k8s.io` the first byte of each message names a channel.

use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use coracle_integration::Containerd;
use serde_json::{Value, json};
use tungstenite::client::IntoClientRequest;
use tungstenite::http::HeaderValue;
use tungstenite::{Message, WebSocket};

const PROTOCOL: &str = "v4.channel.k8s.io";
const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const STATUS: u8 = 3;
const RESIZE: u8 = 4;

/// One stream to a process.
pub struct Stream {
    socket: WebSocket<TcpStream>,
    /// What the process has written so far.
    pub stdout: String,
    pub stderr: String,
    status: Option<Value>,
}

impl Stream {
    /// Connects to the URL that `Exec` or `Attach` has answered.
    pub fn open(containerd: &Containerd, url: &str) -> Result<Stream> {
        let mut request = url.replacen("http://", "ws://", 1).into_client_request()?;
        request.headers_mut().insert("Sec-WebSocket-Protocol", HeaderValue::from_static(PROTOCOL));
        let address = request.uri().authority().context("a URL without a host")?.to_string();
        let stream = containerd.in_network(|| Ok(TcpStream::connect(address)?))?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        let (socket, _) = tungstenite::client(request, stream)?;
        Ok(Stream { socket, stdout: String::new(), stderr: String::new(), status: None })
    }

    /// Types.
    pub fn type_in(&mut self, text: &str) -> Result<()> {
        self.send(STDIN, text.as_bytes())
    }

    /// Says the size of the user's terminal.
    pub fn resize(&mut self, rows: u16, columns: u16) -> Result<()> {
        self.send(RESIZE, json!({"Height": rows, "Width": columns}).to_string().as_bytes())
    }

    fn send(&mut self, channel: u8, data: &[u8]) -> Result<()> {
        Ok(self.socket.send(Message::binary([&[channel], data].concat()))?)
    }

    /// Reads until standard output contains this, and drops everything up to it.
    pub fn expect(&mut self, needle: &str) -> Result<()> {
        loop {
            if let Some(at) = self.stdout.find(needle) {
                self.stdout.drain(..at + needle.len());
                return Ok(());
            }
            let more = self.read();
            if !matches!(more, Ok(true)) {
                let Stream { stdout, stderr, status, .. } = self;
                bail!("no {needle:?} but {more:?}: {stdout:?}, {stderr:?}, status {status:?}");
            }
        }
    }

    /// Reads to the end, and returns the exit code.
    pub fn wait(&mut self) -> Result<i32> {
        while self.read()? {}
        let status = self.status.take().context("no status")?;
        if status["status"] == "Success" {
            return Ok(0);
        }
        let cause = status["details"]["causes"][0].clone();
        if status["reason"] != "NonZeroExitCode" || cause["reason"] != "ExitCode" {
            bail!("{status}");
        }
        Ok(cause["message"].as_str().context("no exit code")?.parse()?)
    }

    /// Reads one message; false at the end.
    fn read(&mut self) -> Result<bool> {
        let message = match self.socket.read() {
            Ok(Message::Binary(message)) => message,
            Ok(Message::Close(_)) => return Ok(false),
            Ok(_) => return Ok(true),
            Err(tungstenite::Error::ConnectionClosed | tungstenite::Error::AlreadyClosed) => {
                return Ok(false);
            }
            Err(error) => return Err(error.into()),
        };
        let Some((channel, data)) = message.split_first() else { return Ok(true) };
        match *channel {
            STDOUT => self.stdout.push_str(&String::from_utf8_lossy(data)),
            STDERR => self.stderr.push_str(&String::from_utf8_lossy(data)),
            STATUS if !data.is_empty() => self.status = Some(serde_json::from_slice(data)?),
            // Every channel is opened by an empty message.
            _ => {}
        }
        Ok(true)
    }
}
