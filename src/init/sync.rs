//! What the parent and the process inside the new namespaces tell each other while a container is made.
//!
//! A socket pair that keeps message boundaries: each message is one letter, its text, and the descriptors it
//! brings. When either side dies the other sees the end of the stream, and gives up.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};

use super::Error;
use crate::rootfs::Request;

/// The longest text: an error, which may hold paths of PATH_MAX bytes.
const LONGEST: usize = 32 * 1024;

/// A message, in the order in which they are sent.
#[derive(Debug)]
pub enum Message {
    /// From the helper that joins namespaces: the pid of the container's process.
    Pid(i32),
    /// From that helper: map my ids, which are to be the container's.
    MapIds,
    /// To the container's process: your ids are mapped and your cgroup is joined. Later: carry on.
    Continue,
    /// From the container's process: do this for me.
    Ask(Request),
    /// The answer; nothing when the runtime may not either.
    Answer(Option<OwnedFd>),
    /// From the container's process: the mounts are made, run the hooks of the runtime's namespace.
    RunHooks,
    /// From the container's process: set my resource limits, before I am somebody else's.
    SetLimits,
    /// From the container's process: this descriptor of mine is for who answers calls that its filter hands on.
    Listener(i32),
    /// From the container's process: the terminal's master.
    Terminal(OwnedFd),
    /// From the container's process: this program, of this name, is or should be a Wasm module.
    Module(String, OwnedFd),
    /// The answer: run it by this program, with this artifact.
    Handler(OwnedFd, OwnedFd),
    /// The answer: it is no module, let the kernel run it.
    Native,
    /// From the container's process: all is set up.
    Ready,
    /// From the container's process: this is worth a warning.
    Warning(String),
    /// From the container's process: this went wrong.
    Failed(String),
}

/// One end of the connection.
#[derive(Debug)]
pub struct Socket(OwnedFd);

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Makes a connection: the parent's end, and the end of the process inside.
///
/// # Errors
/// [`Error::Sync`].
pub fn pair() -> Result<(Socket, Socket), Error> {
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .map_err(|e| Error::Sync(e.into()))?;
    Ok((Socket(ours), Socket(theirs)))
}

impl Socket {
    /// Another handle of the same end.
    ///
    /// # Errors
    /// [`Error::Sync`].
    pub fn try_clone(&self) -> Result<Self, Error> {
        self.0.try_clone().map(Self).map_err(|e| Error::Sync(e.into()))
    }

    /// Sends a message.
    ///
    /// # Errors
    /// [`Error::Sync`]: the other side is gone.
    pub fn send(&self, message: &Message) -> Result<(), Error> {
        let (number, request);
        let (letter, text, descriptors): (u8, &[u8], Vec<BorrowedFd<'_>>) = match message {
            Message::Pid(value) => {
                number = value.to_ne_bytes();
                (b'p', &number, vec![])
            }
            Message::Listener(value) => {
                number = value.to_ne_bytes();
                (b's', &number, vec![])
            }
            Message::MapIds => (b'i', &[], vec![]),
            Message::Continue => (b'c', &[], vec![]),
            Message::Ask(asked) => {
                let (kind, index) = match asked {
                    Request::Source(index) => (b's', index),
                    Request::Device(index) => (b'd', index),
                };
                request = [&[kind], &index.to_ne_bytes()[..]].concat();
                (b'a', &request, vec![])
            }
            Message::Answer(given) => (b'o', &[], given.iter().map(AsFd::as_fd).collect()),
            Message::RunHooks => (b'h', &[], vec![]),
            Message::SetLimits => (b'l', &[], vec![]),
            Message::Terminal(master) => (b't', &[], vec![master.as_fd()]),
            Message::Module(name, file) => (b'm', name.as_bytes(), vec![file.as_fd()]),
            Message::Handler(program, artifact) => (b'w', &[], vec![program.as_fd(), artifact.as_fd()]),
            Message::Native => (b'n', &[], vec![]),
            Message::Ready => (b'r', &[], vec![]),
            Message::Warning(text) => (b'g', &text.as_bytes()[..text.len().min(LONGEST - 1)], vec![]),
            Message::Failed(text) => (b'f', &text.as_bytes()[..text.len().min(LONGEST - 1)], vec![]),
        };
        if descriptors.is_empty() {
            // The container's filter, when it is in force, lets write(2) pass rather than sendmsg(2).
            let whole = [&[letter], text].concat();
            rustix::io::write(&self.0, &whole).map_err(|e| Error::Sync(e.into()))?;
            return Ok(());
        }
        let letter = [letter];
        let parts = [IoSlice::new(&letter), IoSlice::new(text)];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        // The space is for two descriptors, and no message brings more.
        ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
        sendmsg(&self.0, &parts, &mut ancillary, SendFlags::NOSIGNAL).map_err(|e| Error::Sync(e.into()))?;
        Ok(())
    }

    /// Waits for the next message; `None` when the other side has closed its end.
    ///
    /// # Errors
    /// [`Error::Sync`]; [`Error::Unexpected`] for something that is no message.
    pub fn receive(&self) -> Result<Option<Message>, Error> {
        // Most messages are one letter: pages that none of them fills are never touched.
        static BUFFER: Mutex<[u8; LONGEST]> = Mutex::new([0; LONGEST]);
        let mut buffer = BUFFER.lock().unwrap_or_else(PoisonError::into_inner);
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let length = loop {
            let mut parts = [IoSliceMut::new(&mut buffer[..])];
            match recvmsg(&self.0, &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
                Ok(message) => break message.bytes,
                // The other side has ended without reading all that we sent. What it sent before is there still.
                Err(Errno::INTR | Errno::CONNRESET) => {}
                Err(errno) => return Err(Error::Sync(errno.into())),
            }
        };
        let mut descriptors = Vec::new();
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(received) = message {
                descriptors.extend(received);
            }
        }
        let Some((letter, text)) = buffer[..length].split_first() else { return Ok(None) };
        let words = || String::from_utf8_lossy(text).into_owned();
        let mut descriptors = descriptors.into_iter();
        Ok(Some(match (letter, descriptors.next(), descriptors.next()) {
            (b'p', None, None) => Message::Pid(number(text)?),
            (b's', None, None) => Message::Listener(number(text)?),
            (b'a', None, None) => Message::Ask(request(text).ok_or(Error::Unexpected)?),
            (b'o', given, None) => Message::Answer(given),
            (b'i', None, None) => Message::MapIds,
            (b'c', None, None) => Message::Continue,
            (b'h', None, None) => Message::RunHooks,
            (b'l', None, None) => Message::SetLimits,
            (b't', Some(master), None) => Message::Terminal(master),
            (b'm', Some(file), None) => Message::Module(words(), file),
            (b'w', Some(program), Some(artifact)) => Message::Handler(program, artifact),
            (b'n', None, None) => Message::Native,
            (b'r', None, None) => Message::Ready,
            (b'g', None, None) => Message::Warning(words()),
            (b'f', None, None) => Message::Failed(words()),
            _ => return Err(Error::Unexpected),
        }))
    }

    /// Waits for leave to carry on, inside the container's process.
    ///
    /// # Errors
    /// [`Error::ParentGone`] when there is nobody left to report to.
    pub fn await_continue(&self) -> Result<(), Error> {
        let mut letter = [0];
        // By read(2), as in `send`.
        match rustix::io::retry_on_intr(|| rustix::io::read(&self.0, &mut letter)) {
            Ok(1) if letter == *b"c" => Ok(()),
            Ok(0) | Err(Errno::CONNRESET) => Err(Error::ParentGone),
            Ok(_) => Err(Error::Unexpected),
            Err(errno) => Err(Error::Sync(errno.into())),
        }
    }
}

fn request(text: &[u8]) -> Option<Request> {
    let (kind, index) = text.split_first()?;
    let index = usize::from_ne_bytes(index.try_into().ok()?);
    match kind {
        b's' => Some(Request::Source(index)),
        b'd' => Some(Request::Device(index)),
        _ => None,
    }
}

fn number(text: &[u8]) -> Result<i32, Error> {
    Ok(i32::from_ne_bytes(text.try_into().map_err(|_| Error::Unexpected)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_arrive_as_they_were_sent() {
        let (ours, theirs) = pair().expect("a pair");
        let file = || OwnedFd::from(std::fs::File::open("/dev/null").expect("open"));
        ours.send(&Message::Pid(42)).expect("sent");
        ours.send(&Message::Module("/a b".into(), file())).expect("sent");
        ours.send(&Message::Handler(file(), file())).expect("sent");
        ours.send(&Message::Failed("x".repeat(LONGEST * 2))).expect("sent");
        ours.send(&Message::Ask(Request::Device(7))).expect("sent");
        ours.send(&Message::Answer(Some(file()))).expect("sent");
        ours.send(&Message::Answer(None)).expect("sent");
        drop(ours);
        assert!(matches!(theirs.receive(), Ok(Some(Message::Pid(42)))));
        assert!(matches!(theirs.receive(), Ok(Some(Message::Module(name, _))) if name == "/a b"));
        assert!(matches!(theirs.receive(), Ok(Some(Message::Handler(_, _)))));
        assert!(matches!(theirs.receive(), Ok(Some(Message::Failed(text))) if text.len() == LONGEST - 1));
        assert!(matches!(theirs.receive(), Ok(Some(Message::Ask(Request::Device(7))))));
        assert!(matches!(theirs.receive(), Ok(Some(Message::Answer(Some(_))))));
        assert!(matches!(theirs.receive(), Ok(Some(Message::Answer(None)))));
        assert!(matches!(theirs.receive(), Ok(None)));
        assert!(matches!(theirs.await_continue(), Err(Error::ParentGone)));
    }
}
