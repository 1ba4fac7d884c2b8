//! Running `coracle-wasmc`: module in, artifact out, both in memory that nobody can change afterwards.

use std::ffi::CStr;
use std::fs::File;
use std::io::{self, IsTerminal, Read, Seek};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::io::Errno;

use super::Error;
use crate::program;

/// No line of the compiler's is longer.
const LONGEST_MESSAGE: u64 = 4096;

/// An empty file in memory.
pub fn memory_file(name: &CStr) -> io::Result<File> {
    // Where vm.memfd_noexec is set, only files that can never be executed may be made. It is about exec
    // alone: such a file can still be mapped as code.
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let fd = match rustix::fs::memfd_create(name, flags | MemfdFlags::NOEXEC_SEAL) {
        // Before Linux 6.3.
        Err(Errno::INVAL) => rustix::fs::memfd_create(name, flags),
        made => made,
    };
    Ok(File::from(fd?))
}

/// Makes a file in memory unchangeable.
pub fn seal(file: &File) -> io::Result<()> {
    Ok(rustix::fs::fcntl_add_seals(
        file,
        SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL,
    )?)
}

/// Compiles the module in `module`, which is read from its start. `name` is for messages. With `progress`, a bar
/// is drawn on standard error if that is a terminal.
pub fn compile(compiler: &Path, module: &File, name: &str, progress: bool) -> Result<File, Error> {
    let memory = |e: io::Error| Error::Memory { name: name.to_owned(), reason: e.into() };
    let mut input = module.try_clone().map_err(memory)?;
    input.rewind().map_err(memory)?;
    let output = memory_file(c"artifact").map_err(memory)?;
    let mut message = memory_file(c"message").map_err(memory)?;
    let status = run(compiler, input, &output, &message, progress && io::stderr().is_terminal())
        .map_err(|e| Error::Program { path: compiler.to_owned(), reason: e.into() })?;
    let mut text = String::new();
    // A message that cannot be read is as good as none.
    let _ = message.rewind().and_then(|()| message.take(LONGEST_MESSAGE).read_to_string(&mut text));
    if !status.success() {
        return Err(failure(name, status, text.lines().next().unwrap_or_default()));
    }
    if output.metadata().map_err(memory)?.len() == 0 {
        return Err(Error::Compiler { name: name.to_owned(), what: "produced nothing".to_owned() });
    }
    seal(&output).map_err(memory)?;
    Ok(output)
}

fn failure(name: &str, status: ExitStatus, message: &str) -> Error {
    let name = name.to_owned();
    if let Some(signal) = status.signal() {
        return Error::Compiler { name, what: format!("was killed by signal {signal}") };
    }
    match message {
        "" => Error::Compiler { name, what: format!("failed with {status}") },
        message => Error::Refused { name, message: message.to_owned() },
    }
}

fn run(compiler: &Path, input: File, output: &File, message: &File, bar: bool) -> io::Result<ExitStatus> {
    let mut command = Command::new(compiler);
    command.env_clear().stdin(input).stdout(output.try_clone()?);
    let mut inherited = None;
    if bar {
        // The bar goes to the terminal, so the message needs a way of its own.
        inherited = Some(message.as_raw_fd());
        command.args(["--progress", "--message-fd", &message.as_raw_fd().to_string()]);
        // Without it the bar takes the terminal for a dumb one.
        command.envs(std::env::var_os("TERM").map(|term| ("TERM", term)));
    } else {
        command.stderr(Stdio::from(message.try_clone()?));
    }
    program::end_with_us(&mut command);
    // SAFETY: only system calls are made between fork and exec.
    unsafe {
        command.pre_exec(move || {
            // The caller may have blocked signals, to take them from a signalfd; blocked, they pass exec.
            let mut none = std::mem::zeroed();
            libc::sigemptyset(&raw mut none);
            libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
            if let Some(fd) = inherited {
                rustix::io::fcntl_setfd(BorrowedFd::borrow_raw(fd), rustix::io::FdFlags::empty())?;
            }
            Ok(())
        });
    }
    let _waitable = Waitable::new();
    command.status()
}

/// Children can be waited for while this lives, even if we were started with SIGCHLD ignored: the kernel then
/// throws their exit statuses away.
struct Waitable(libc::sigaction);

impl Waitable {
    fn new() -> Self {
        // SAFETY: the structures are plain data, zero is SIG_DFL with no flags, and SIGCHLD's default is to do nothing.
        unsafe {
            let default: libc::sigaction = std::mem::zeroed();
            let mut before: libc::sigaction = std::mem::zeroed();
            libc::sigaction(libc::SIGCHLD, &raw const default, &raw mut before);
            Self(before)
        }
    }
}

impl Drop for Waitable {
    fn drop(&mut self) {
        // SAFETY: puts back what was there.
        unsafe { libc::sigaction(libc::SIGCHLD, &raw const self.0, std::ptr::null_mut()) };
    }
}

/// A copy of a module's bytes that stays as it is: a container's file may change while we look at it, and what is
/// compiled must be what was hashed. At most `limit` bytes; `None` if there are more.
pub fn snapshot(module: BorrowedFd<'_>, limit: u64) -> io::Result<Option<File>> {
    let mut source = File::from(module.as_fd().try_clone_to_owned()?);
    source.rewind()?;
    let mut copy = memory_file(c"module")?;
    if io::copy(&mut source.take(limit + 1), &mut copy)? > limit {
        return Ok(None);
    }
    seal(&copy)?;
    Ok(Some(copy))
}

/// A copy of an artifact that can be mapped as code although its file cannot.
pub fn executable_copy(artifact: &OwnedFd) -> io::Result<OwnedFd> {
    let mut source = File::from(artifact.try_clone()?);
    source.rewind()?;
    let mut copy = memory_file(c"artifact")?;
    io::copy(&mut source, &mut copy)?;
    seal(&copy)?;
    Ok(copy.into())
}
