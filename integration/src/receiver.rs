//! The receiving end of a socket over which a runtime hands descriptors.

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

/// A socket that somebody sends a descriptor to.
pub struct Receiver {
    listener: UnixListener,
    path: PathBuf,
}

impl Receiver {
    /// Binds the socket.
    ///
    /// # Errors
    /// The path is in use.
    pub fn bind(path: &Path) -> Result<Self> {
        let listener = UnixListener::bind(path)?;
        listener.set_nonblocking(true)?;
        Ok(Self { listener, path: path.to_owned() })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &str {
        self.path.to_str().unwrap_or_default()
    }

    /// What the next one who connects sends: data, and a descriptor beside it.
    ///
    /// # Errors
    /// Nobody connects within ten seconds, or sends no descriptor.
    pub fn receive(&self) -> Result<(String, OwnedFd)> {
        let end = Instant::now() + Duration::from_secs(10);
        let stream = loop {
            match self.listener.accept() {
                Ok((stream, _)) => break stream,
                Err(error) => ensure!(Instant::now() < end, "nobody connects to {}: {error}", self.path()),
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        stream.set_nonblocking(false)?;
        receive(&stream)
    }
}

fn receive(stream: &UnixStream) -> Result<(String, OwnedFd)> {
    let mut data = [0; 8192];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let parts = &mut [IoSliceMut::new(&mut data)];
    let length = recvmsg(stream, parts, &mut control, RecvFlags::CMSG_CLOEXEC)?.bytes;
    let descriptor = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    Ok((String::from_utf8_lossy(&data[..length]).into_owned(), descriptor.context("no descriptor")?))
}
