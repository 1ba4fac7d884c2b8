//! One conversation with CRIU: a process `criu swrk` on a socket, a request, its questions, its answer.

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use protobuf::Message;
use rustix::io::{Errno, FdFlags, fcntl_setfd, retry_on_intr};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, SocketFlags, SocketType,
    recvmsg, send, socketpair,
};

use super::rpc::{Criu_features, Criu_notify, Criu_req, Criu_req_type, Criu_resp};
use super::{Error, MINIMUM_VERSION, log};

/// A message is one datagram; CRIU's are a few hundred bytes.
const LARGEST_ANSWER: usize = 40 * 1024;

/// A running `criu swrk`, which serves one request.
#[derive(Debug)]
pub struct Session {
    child: Child,
    socket: OwnedFd,
}

impl Session {
    /// Starts CRIU. It has our standard streams, for a restored process to take over, and every descriptor that
    /// is not closed on exec.
    ///
    /// # Errors
    /// [`Error::Missing`], [`Error::Talk`].
    pub fn start() -> Result<Self, Error> {
        let talk = |step| move |errno: Errno| Error::Talk { step, reason: errno.into() };
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .map_err(talk("make a socket"))?;
        // We have one thread, so nobody else executes a program just now.
        fcntl_setfd(&theirs, FdFlags::empty()).map_err(talk("pass a socket"))?;
        let mut command = Command::new("criu");
        command.arg("swrk").arg(theirs.as_raw_fd().to_string());
        let child = command.stdin(Stdio::inherit()).spawn().map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => Error::Missing,
            _ => Error::Talk { step: "start", reason: e.into() },
        })?;
        Ok(Self { child, socket: ours })
    }

    /// CRIU's pid: what it restores begins where it is, in its cgroups for one.
    pub fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    /// Sends the request, answers what CRIU asks on the way by calling `notified`, and returns its answer. A failure is
    /// told from the log.
    ///
    /// # Errors
    /// [`Error`], or whatever `notified` fails with: CRIU undoes what it did then.
    pub fn ask<E: From<Error>>(
        mut self,
        request: &Criu_req,
        log: &Path,
        mut notified: impl FnMut(&Criu_notify, Option<OwnedFd>) -> Result<(), E>,
    ) -> Result<Criu_resp, E> {
        tracing::debug!("criu: {request}");
        self.send(request, log)?;
        let answer = loop {
            let (answer, descriptor) = self.receive(log)?;
            if !answer.success() {
                return Err(failure(&answer, log).into());
            }
            if answer.type_() != Criu_req_type::NOTIFY {
                break answer;
            }
            tracing::debug!("criu: {}", answer.notify.script());
            let outcome = notified(&answer.notify, descriptor);
            let mut reply = Criu_req::new();
            reply.set_type(Criu_req_type::NOTIFY);
            reply.set_notify_success(outcome.is_ok());
            self.send(&reply, log)?;
            outcome?;
        };
        // After a pre-dump it waits for the next one, which it is not going to get: its exit code says nothing.
        let Self { mut child, socket } = self;
        drop(socket);
        child.wait().map_err(|e| Error::Talk { step: "wait", reason: e.into() })?;
        Ok(answer)
    }

    fn send(&self, request: &Criu_req, log: &Path) -> Result<(), Error> {
        let bytes = request.write_to_bytes().map_err(|e| Error::Answer(e.to_string()))?;
        retry_on_intr(|| send(&self.socket, &bytes, SendFlags::NOSIGNAL)).map(|_| ()).map_err(|errno| {
            match errno {
                Errno::PIPE | Errno::CONNRESET => Error::Gone { log: log.to_owned() },
                errno => Error::Talk { step: "send a request", reason: errno.into() },
            }
        })
    }

    /// The next answer, and the descriptor that may come with it.
    fn receive(&mut self, log: &Path) -> Result<(Criu_resp, Option<OwnedFd>), Error> {
        let mut bytes = vec![0; LARGEST_ANSWER];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let got = retry_on_intr(|| {
            let mut slices = [IoSliceMut::new(&mut bytes)];
            recvmsg(self.socket.as_fd(), &mut slices, &mut ancillary, RecvFlags::CMSG_CLOEXEC)
        });
        let length = match got {
            Ok(got) if got.bytes > 0 => got.bytes,
            Ok(_) | Err(Errno::CONNRESET) => return Err(Error::Gone { log: log.to_owned() }),
            Err(errno) => return Err(Error::Talk { step: "receive an answer", reason: errno.into() }),
        };
        let descriptor = ancillary.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
            _ => None,
        });
        let answer =
            Criu_resp::parse_from_bytes(&bytes[..length]).map_err(|e| Error::Answer(e.to_string()))?;
        Ok((answer, descriptor))
    }
}

fn failure(answer: &Criu_resp, path: &Path) -> Error {
    let errno = || match answer.cr_errno() {
        0 => format!("{:?}", answer.type_()),
        code => crate::error::Os(io::Error::from_raw_os_error(code)).to_string(),
    };
    // Without a log there is at least the first complaint.
    let told = || log::complaints(answer.cr_errmsg()).into_iter().next();
    let reason = log::reason(path).or_else(told).unwrap_or_else(errno);
    Error::Failed { reason, log: path.to_owned() }
}

/// A request without options, and its answer.
fn question(kind: Criu_req_type, features: Option<Criu_features>) -> Result<Criu_resp, Error> {
    let mut request = Criu_req::new();
    request.set_type(kind);
    request.features = features.into();
    Session::start()?.ask(&request, Path::new("standard error"), |_, _| Ok(()))
}

/// Makes sure that CRIU is there and new enough.
///
/// # Errors
/// [`Error::Missing`], [`Error::Version`].
pub fn require_version(wanted: u32) -> Result<(), Error> {
    let answer = question(Criu_req_type::VERSION, None)?;
    let part = |number: i32| u32::try_from(number).unwrap_or_default();
    let version = &answer.version;
    let found =
        part(version.major_number()) * 10000 + part(version.minor_number()) * 100 + part(version.sublevel());
    let wanted = wanted.max(MINIMUM_VERSION);
    if found < wanted { Err(Error::Version { found, wanted }) } else { Ok(()) }
}

/// Makes sure that CRIU and the kernel can do what `ask` asks for and `has` reads.
///
/// # Errors
/// [`Error::Feature`], with the name.
pub fn require_feature(
    name: &'static str,
    ask: fn(&mut Criu_features),
    has: fn(&Criu_features) -> bool,
) -> Result<(), Error> {
    let mut features = Criu_features::new();
    ask(&mut features);
    let answer = question(Criu_req_type::FEATURE_CHECK, Some(features))?;
    if has(&answer.features) { Ok(()) } else { Err(Error::Feature(name)) }
}
