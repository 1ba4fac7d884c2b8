//! Engines that want a descriptor of a container's process: `--pidfd-socket`, and crun's annotation.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::net::SocketType;

use super::Error;
use crate::unix;

/// The engine's socket for a descriptor of a process.
#[derive(Debug)]
pub(super) struct PidfdSocket<'a> {
    path: &'a Path,
    socket: OwnedFd,
}

impl<'a> PidfdSocket<'a> {
    pub(super) fn connect(path: &'a Path) -> Result<Self, Error> {
        let failed = |e: rustix::io::Errno| Error::PidfdSocket { path: path.to_owned(), reason: e.into() };
        Ok(Self { path, socket: unix::connect(path, SocketType::STREAM).map_err(failed)? })
    }

    /// `kind` is runc's word for how the process was made.
    pub(super) fn send(&self, kind: &str, pidfd: &OwnedFd) -> Result<(), Error> {
        let failed =
            |e: rustix::io::Errno| Error::PidfdSocket { path: self.path.to_owned(), reason: e.into() };
        unix::send(&self.socket, kind, pidfd.as_fd()).map_err(failed)
    }
}

/// crun's annotation for the same.
pub(super) fn send_to_receiver(annotations: &HashMap<String, String>, pidfd: &OwnedFd) -> Result<(), Error> {
    const ANNOTATION: &str = "run.oci.pidfd_receiver";
    let Some(path) = annotations.get(ANNOTATION) else { return Ok(()) };
    let sent = unix::connect(Path::new(path), SocketType::STREAM)
        .and_then(|socket| unix::send(&socket, " ", pidfd.as_fd()));
    sent.map_err(|e| Error::Receiver { annotation: ANNOTATION, path: path.clone(), reason: e.into() })
}
