//! The parent's half of the conversation with a new process, until that is ready (`init::sync`).

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use super::{Error, io_error};
use crate::handler::Choice;
use crate::init::sync::{Message, Socket};
use crate::seccomp::{self, Listener};
use crate::{init, log, rootfs, wasm};

/// What the process inside wants to have done before it goes on.
#[derive(Clone, Copy, Debug)]
pub(super) enum Request {
    /// Run the hooks of the runtime's namespace.
    Hooks,
    /// Set its resource limits.
    Limits,
    /// Give this descriptor of its filter to who listens.
    Listener(i32),
}

/// The parent's half of the conversation, until the process is ready.
#[derive(Debug)]
pub(super) struct Served<'a> {
    choice: Choice,
    /// What a module needs, if one is expected: had while the process is busy.
    tools: Option<wasm::Tools>,
    /// What the process may ask for while it makes its root file system.
    pub(super) outside: Option<rootfs::Server<'a>>,
    /// The terminal's master, once it came.
    pub(super) terminal: Option<OwnedFd>,
}

impl Served<'_> {
    /// `program` is the name of what the process will execute.
    pub(super) fn new(choice: Choice, program: Option<&String>) -> Self {
        let is_expected = choice.expects_module(program.map_or("", String::as_str));
        // What is wrong is said if there is a module.
        let tools = if is_expected { wasm::Tools::get().ok() } else { None };
        Self { choice, tools, outside: None, terminal: None }
    }

    /// Answers one message; true when the process is ready.
    ///
    /// # Errors
    /// What the process reported, or what answering it failed with.
    pub(super) fn next(
        &mut self,
        socket: &Socket,
        answer: impl Fn(Request) -> Result<(), Error>,
    ) -> Result<bool, Error> {
        let granted = |request| answer(request).and_then(|()| Ok(socket.send(&Message::Continue)?));
        match socket.receive()? {
            Some(Message::Ready) => return Ok(true),
            Some(Message::Ask(request)) => {
                let outside = self.outside.ok_or(init::Error::Unexpected)?;
                let answer = outside.serve(request).map_err(init::Error::from)?;
                socket.send(&Message::Answer(answer))?;
            }
            Some(Message::RunHooks) => granted(Request::Hooks)?,
            Some(Message::SetLimits) => granted(Request::Limits)?,
            Some(Message::Listener(number)) => granted(Request::Listener(number))?,
            Some(Message::Warning(text)) => log::warn(&text),
            Some(Message::Terminal(master)) => self.terminal = Some(master),
            Some(Message::Module(name, file)) => {
                let answer = self.prepare_module(&name, &file)?;
                socket.send(&answer)?;
            }
            Some(Message::Failed(text)) => return Err(init::Error::Reported(text).into()),
            Some(_) => return Err(init::Error::Unexpected.into()),
            None => return Err(init::Error::ChildGone(String::new()).into()),
        }
        Ok(false)
    }

    /// The handler and artifact for what is, or was said to be, a module.
    fn prepare_module(&mut self, name: &str, file: &OwnedFd) -> Result<Message, Error> {
        use std::io::IsTerminal;
        let kind = wasm::sniff(file.as_fd()).map_err(io_error(Path::new(name)))?;
        if kind == wasm::Kind::NotWasm && self.choice != Choice::Wasm {
            return Ok(Message::Native);
        }
        let progress = io::stderr().is_terminal();
        let tools = self.tools.take().map_or_else(wasm::Tools::get, Ok)?;
        // The device of the root file system, where only its engine can have mounted anything.
        let rootfs = self.outside.and_then(|outside| Some(rustix::fs::stat(outside.rootfs).ok()?.st_dev));
        let wasm::Handler { program, artifact } = tools.prepare(file.as_fd(), name, progress, rootfs)?;
        Ok(Message::Handler(program, artifact))
    }
}

/// A message could not be sent. If that is because the process is gone, it may have said why.
pub(super) fn child_gone(socket: &Socket, error: init::Error) -> Error {
    let is_gone =
        matches!(&error, init::Error::Sync(os) if matches!(os.errno(), Some(libc::EPIPE | libc::ECONNRESET)));
    match if is_gone { socket.receive() } else { Ok(None) } {
        Ok(Some(Message::Failed(text))) => init::Error::Reported(text).into(),
        _ => error.into(),
    }
}

/// Takes descriptor `number` of a process that has just been put under its filter, and gives it to the listener.
pub(super) fn hand_over(
    listener: Option<&Listener>,
    number: i32,
    (pid, pidfd): (i32, &OwnedFd),
    state: Result<oci_spec::runtime::State, oci_spec::OciSpecError>,
) -> Result<(), seccomp::Error> {
    let listener = listener.ok_or(seccomp::Error::NoListener)?;
    let state = state.map_err(|e| seccomp::Error::State(e.to_string()))?;
    listener.hand_over(&Listener::take(pidfd, number)?, pid, state)
}
