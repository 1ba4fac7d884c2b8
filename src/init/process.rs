//! The last steps before a container's program runs, the same for its first process and for `exec`: labels,
//! identity, the program looked up, privileges dropped, the filter, and the exec.

use std::convert::Infallible;
use std::ffi::CString;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use oci_spec::runtime::{LinuxPersonalityDomain, Process};
use rustix::fs::Mode;

use super::entrypoint::{self, Entrypoint};
use super::identity::Identity;
use super::sync::{Message, Socket};
use super::{Container, Error, Program, scene};
use crate::container::Status;
use crate::error::Os;
use crate::{hooks, labels, passwd, program as own_program};

/// Where the handler finds its artifact: the number of a descriptor.
const ARTIFACT: &str = "_CORACLE_WASI_ARTIFACT";
/// The directories a module sees.
const DIRECTORIES: &str = "_CORACLE_WASI_DIRS";

/// personality(2); the libc crate does not have it for gnu.
const PER_LINUX32: libc::c_ulong = 8;

/// Turns this process into the program; `first` is the container whose first process it is, if it is one. Returns only
/// when something failed.
///
/// # Errors
/// [`Error`], for the parent.
pub fn become_program(
    program: Program<'_>,
    first: Option<&Container<'_>>,
    socket: Socket,
) -> Result<Infallible, Error> {
    let process = program.process;
    let user = process.user();
    let identity = Identity::new(user, process.capabilities().as_ref());

    labels::apply(process)?;
    set_habits(process, first)?;
    scene::own_stdio(identity.uid())?;

    // Hard limits are raised with the host's CAP_SYS_RESOURCE or not at all, and those of another user's process
    // cannot be set without it: so the parent does it, now.
    if process.rlimits().as_ref().is_some_and(|limits| !limits.is_empty()) {
        socket.send(&Message::SetLimits)?;
        socket.await_continue()?;
    }

    // From here on we are the container's user.
    identity.assume(user.additional_gids().as_deref().unwrap_or_default())?;
    identity.act()?;
    change_directory(process.cwd())?;
    let arguments = process.args().as_deref().unwrap_or_default();
    let environment = environment(&program, identity.uid());
    let name = arguments.first().map(String::as_str).unwrap_or_default();
    let entrypoint = entrypoint::find(name, &environment, program.handler)?;
    let target = choose_program(entrypoint, &socket)?;

    // What cannot be undone: no new privileges, the filter, the last capabilities.
    let no_new_privileges = process.no_new_privileges().unwrap_or(false);
    match (&program.seccomp, no_new_privileges) {
        (Some(filter), true) => {
            identity.settle()?;
            forbid_new_privileges()?;
            filter.install()?;
        }
        (Some(filter), false) => {
            Identity::regain()?;
            filter.install()?;
            identity.settle()?;
        }
        (None, _) => {
            identity.settle()?;
            if no_new_privileges {
                forbid_new_privileges()?;
            }
        }
    }

    socket.send(&Message::Ready)?;
    // After `start` there is no parent to report to, and what goes wrong goes to the container's standard error.
    let socket = await_start(first.and_then(|c| c.fifo.as_ref()), socket)?;
    if let Some(container) = first
        && let Some(hooks) = container.spec.hooks()
    {
        let hooks = hooks.start_container().as_ref();
        let pid = Some(scene::own_pid());
        if let Err(error) = hooks::run("startContainer", hooks, container.state, Status::Created, pid) {
            super::fail(&error.into(), socket.as_ref());
        }
    }
    restore_signals(&program);
    super::fail(&execute(&target, arguments, environment, &program), socket.as_ref())
}

/// What a process hands down to its program: umask, personality, priority.
fn set_habits(process: &Process, first: Option<&Container<'_>>) -> Result<(), Error> {
    // 0022 is runc's, whatever umask the engine has.
    rustix::process::umask(Mode::from_raw_mode(process.user().umask().unwrap_or(0o022)));
    if let Some(priority) = process.io_priority() {
        use oci_spec::runtime::IOPriorityClass;
        let class: i64 = match priority.class() {
            IOPriorityClass::IoprioClassRt => 1,
            IOPriorityClass::IoprioClassBe => 2,
            IOPriorityClass::IoprioClassIdle => 3,
        };
        // ioprio_set(2): 1 is IOPRIO_WHO_PROCESS, and the class stands above 13 bits of priority.
        // SAFETY: plain integers.
        let result = unsafe { libc::syscall(libc::SYS_ioprio_set, 1, 0, class << 13 | priority.priority()) };
        if result != 0 {
            return Err(Error::step("set the I/O priority", Os::last().0));
        }
    }
    let linux = first.and_then(|c| c.spec.linux().as_ref());
    if let Some(personality) = linux.and_then(|l| l.personality().as_ref()) {
        let domain = match personality.domain() {
            LinuxPersonalityDomain::PerLinux => 0,
            LinuxPersonalityDomain::PerLinux32 => PER_LINUX32,
        };
        // SAFETY: plain integers.
        if unsafe { libc::personality(domain) } < 0 {
            return Err(Error::step("set the personality", Os::last().0));
        }
    }
    Ok(())
}

/// Enters the working directory, and makes sure that it lies in the container: a descriptor of the host's that was left open
/// would make `/proc/self/fd/N` lead out (CVE-2024-21626).
fn change_directory(cwd: &Path) -> Result<(), Error> {
    rustix::process::chdir(cwd).map_err(|e| Error::Cwd { cwd: cwd.to_owned(), reason: e.into() })?;
    match rustix::process::getcwd(Vec::new()) {
        Ok(path) if path.to_bytes().starts_with(b"/") => Ok(()),
        // The kernel says "(unreachable)" for a directory outside our root, or ENOENT for a removed one.
        _ => Err(Error::CwdOutside),
    }
}

/// The program's environment: config.json's, and what runc adds to it.
fn environment(program: &Program<'_>, uid: u32) -> Vec<String> {
    let mut environment = program.process.env().clone().unwrap_or_default();
    if !environment.iter().any(|e| e.starts_with("HOME=")) {
        let home = passwd::home(uid).unwrap_or_else(|| "/".to_owned());
        environment.push(format!("HOME={home}"));
    }
    if program.listen_fds > 0 {
        environment.retain(|e| !e.starts_with("LISTEN_FDS=") && !e.starts_with("LISTEN_PID="));
        // sd_listen_fds(3): the variables are for the process whose pid they name, and ours is 1 in there.
        environment.push(format!("LISTEN_FDS={}", program.listen_fds));
        environment.push(format!("LISTEN_PID={}", std::process::id()));
    }
    environment
}

/// A module goes to the parent, who alone has the cache, and comes back as a handler with its artifact.
fn choose_program(entrypoint: Entrypoint, socket: &Socket) -> Result<entrypoint::Program, Error> {
    let path = CString::new(entrypoint.path.as_str())
        .map_err(|_| Error::NotFound { name: entrypoint.path.clone() })?;
    let Some(module) = entrypoint.module else { return Ok(entrypoint::Program::Path(path)) };
    socket.send(&Message::Module(entrypoint.path, module.into()))?;
    match socket.receive()? {
        Some(Message::Handler(program, artifact)) => Ok(entrypoint::Program::Handler { program, artifact }),
        Some(Message::Native) => Ok(entrypoint::Program::Path(path)),
        Some(_) => Err(Error::Unexpected),
        None => Err(Error::ParentGone),
    }
}

fn forbid_new_privileges() -> Result<(), Error> {
    rustix::thread::set_no_new_privs(true).map_err(|e| Error::step("set no_new_privs", e))
}

/// Waits until the program may run. Over a fifo, the runtime that made us may be long gone by then.
fn await_start(fifo: Option<&OwnedFd>, socket: Socket) -> Result<Option<Socket>, Error> {
    let Some(fifo) = fifo else {
        socket.await_continue()?;
        return Ok(Some(socket));
    };
    drop(socket);
    let fifo = fifo.try_clone().map_err(|e| Error::step("wait for start", Os::from(e).0))?;
    File::from(fifo).read_exact(&mut [0]).map_err(|e| Error::step("wait for start", Os::from(e).0))?;
    Ok(None)
}

/// Rust's runtime ignores SIGPIPE, and `run` blocks what it forwards; both would survive the exec.
fn restore_signals(program: &Program<'_>) {
    // SAFETY: sets a default action, which needs no code of ours.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    if let Some(mask) = &program.signals {
        mask.restore();
    }
}

/// The exec. Returns only when it failed.
fn execute(
    target: &entrypoint::Program,
    arguments: &[String],
    mut environment: Vec<String>,
    program: &Program<'_>,
) -> Error {
    let name = arguments.first().cloned().unwrap_or_default();
    let failed = |reason: std::io::Error| Error::Exec { path: name.clone(), reason: reason.into() };
    let strings =
        |list: &[String]| list.iter().map(|s| CString::new(s.as_str())).collect::<Result<Vec<_>, _>>();
    let Ok(arguments) = strings(arguments) else { return failed(std::io::ErrorKind::InvalidInput.into()) };
    match target {
        entrypoint::Program::Path(path) => match strings(&environment) {
            Ok(environment) => failed(own_program::execve(path, &arguments, &environment)),
            Err(_) => failed(std::io::ErrorKind::InvalidInput.into()),
        },
        entrypoint::Program::Handler { program: handler, artifact } => {
            let artifact = match inheritable(artifact, 3 + program.preserve_fds) {
                Ok(artifact) => artifact,
                Err(reason) => return failed(reason.0),
            };
            environment.push(format!("{ARTIFACT}={}", artifact.as_raw_fd()));
            if let Some(directories) = &program.wasm_directories {
                environment.push(format!("{DIRECTORIES}={directories}"));
            }
            block_signals();
            match strings(&environment) {
                Ok(environment) => failed(own_program::execveat(handler.as_fd(), &arguments, &environment)),
                Err(_) => failed(std::io::ErrorKind::InvalidInput.into()),
            }
        }
    }
}

/// A handler is PID 1 to the kernel, which drops signals that PID 1 has no handler for: until it has, they wait.
fn block_signals() {
    // SAFETY: fills in a set and passes it to the kernel; this process has one thread.
    unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const all, std::ptr::null_mut());
    }
}

/// A copy of a descriptor past those of the program, which survives the exec.
fn inheritable(file: &OwnedFd, first: u32) -> Result<OwnedFd, Os> {
    use std::os::fd::FromRawFd;
    // SAFETY: duplicates a descriptor that is open.
    let copy = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_DUPFD, first) };
    if copy < 0 {
        return Err(Os::last());
    }
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}
