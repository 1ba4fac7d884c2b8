//! Running `coracle-wasmc`: module in, artifact out, both in memory that nobody can change afterwards.

use std::ffi::CStr;
use std::fs::File;
use std::io::{self, IsTerminal, Read, Seek};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

use coracle_abi::compiler::Progress;
use indicatif::{ProgressBar, ProgressStyle};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::Error;
use crate::program;

/// No line of the compiler's is longer.
const LONGEST_MESSAGE: usize = 4096;
/// How often the bar is drawn.
const INTERVAL: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

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
    let status = run(compiler, input, &output, progress && io::stderr().is_terminal())
        .map_err(|e| Error::Program { path: compiler.to_owned(), reason: e.into() })?;
    if !status.success() {
        return Err(failure(name, status, &output));
    }
    if output.metadata().map_err(memory)?.len() == 0 {
        return Err(Error::Compiler { name: name.to_owned(), what: "produced nothing".to_owned() });
    }
    seal(&output).map_err(memory)?;
    Ok(output)
}

/// What the compiler left in its output is a message only if it ended by itself. It has seen the module, so its word
/// is not for a terminal to obey.
fn failure(name: &str, status: ExitStatus, output: &File) -> Error {
    let name = name.to_owned();
    if let Some(signal) = status.signal() {
        return Error::Compiler { name, what: format!("was killed by signal {signal}") };
    }
    let mut bytes = vec![0; LONGEST_MESSAGE];
    // A message that cannot be read is as good as none.
    let length = output.read_at(&mut bytes, 0).unwrap_or(0);
    let text = String::from_utf8_lossy(&bytes[..length]);
    match text.lines().next().unwrap_or_default().replace(char::is_control, "?") {
        line if line.is_empty() => Error::Compiler { name, what: format!("failed with {status}") },
        message => Error::Refused { name, message },
    }
}

fn run(compiler: &Path, input: File, output: &File, bar: bool) -> io::Result<ExitStatus> {
    let mut command = Command::new(compiler);
    command.env_clear().stdin(input).stdout(output.try_clone()?).stderr(Stdio::null());
    program::attach_to_us(&mut command);
    // SAFETY: only system calls are made between fork and exec.
    unsafe {
        command.pre_exec(|| {
            // The caller may have blocked signals, to take them from a signalfd; blocked, they pass exec.
            let mut none = std::mem::zeroed();
            libc::sigemptyset(&raw mut none);
            libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
            Ok(())
        });
    }
    let _waitable = Waitable::new();
    if bar { watch(&mut command.spawn()?, output) } else { command.status() }
}

/// Waits for the compiler, and draws how far it says it is.
fn watch(compiler: &mut Child, output: &File) -> io::Result<ExitStatus> {
    let style = ProgressStyle::with_template("compiling [{bar:40}] {percent}% {eta}")
        .map_or_else(|_| ProgressStyle::default_bar(), |style| style.progress_chars("=> "));
    let bar = ProgressBar::no_length().with_style(style);
    let pidfd = pidfd_open(Pid::from_child(compiler), PidfdFlags::empty())?;
    let ended = loop {
        if let Some(status) = compiler.try_wait()? {
            break status;
        }
        let mut record = [0; Progress::LENGTH];
        if output.read_exact_at(&mut record, 0).is_ok()
            && let Some(Progress { done, total }) = Progress::from_bytes(&record)
        {
            bar.set_length(total);
            bar.set_position(done);
        }
        // Returns at once when the compiler ends.
        poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&INTERVAL))?;
    };
    bar.finish_and_clear();
    Ok(ended)
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
