//! The last steps before a container's program runs, the same for its first process and for `exec`: labels,
//! identity, the program looked up, privileges dropped, the filter, and the exec.

use std::collections::HashSet;
use std::convert::Infallible;
use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use coracle_seccomp::Filter;
use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::process::DumpableBehavior;

use super::entrypoint::{self, Entrypoint};
use super::identity::Identity;
use super::sync::{Message, Socket};
use super::{Container, Error, Program, limits, personality, scene, scheduling};
use crate::container::Status;
use crate::error::Os;
use crate::hooks::Moment;
use crate::labels::Labels;
use crate::{foreground, passwd, program as own_program};

/// Where the handler finds its artifact: the number of a descriptor.
const ARTIFACT: &str = "_CORACLE_WASI_ARTIFACT";
/// The directories a module sees.
const DIRECTORIES: &str = "_CORACLE_WASI_DIRS";

/// The variables of sd_listen_fds(3).
const LISTEN: [&str; 3] = ["LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"];

/// Turns this process into the program; `first` is the container whose first process it is, if it is one. Returns only
/// when something failed.
///
/// # Errors
/// [`Error`], for the parent.
pub fn become_program(
    program: Program<'_>,
    first: Option<&Container<'_>>,
    labels: &Labels,
    socket: &Socket,
) -> Result<Infallible, Error> {
    let process = program.process;
    let user = process.user();
    let mut identity = Identity::new(user, process.capabilities().as_ref());

    labels.apply()?;
    set_habits(&program)?;

    limits::apply(process, program.linux, socket)?;

    // From here on paths of the container are looked up, and `/proc/self/fd/N` in one of them would lead to whatever the
    // engine or we still have open, until the exec itself is done (CVE-2024-21626). An error ends the process at once,
    // for there are owners of what is closed.
    let fifo = first.and_then(|container| container.fifo.as_ref());
    let mut keep = vec![socket.as_fd()];
    keep.extend(fifo.map(AsFd::as_fd));
    keep.extend(first.iter().flat_map(|container| container.hooks.descriptors()));
    scene::close_others(program.preserve_fds, &keep);
    let (target, arguments, environment) = match get_ready(&program, first, &mut identity, socket) {
        Ok(ready) => ready,
        Err(error) => super::fail(&error, Some(socket)),
    };
    // After `start` there is no parent to report to, and what goes wrong goes to the container's standard error.
    let socket = match fifo {
        Some(fifo) => {
            if let Err(error) = await_start(fifo, program.seccomp.is_some()) {
                super::fail(&error, None);
            }
            None
        }
        None => Some(socket),
    };
    if let Some(container) = first
        && let Some(hooks) = container.spec.hooks()
    {
        let moment = Moment {
            kind: "startContainer",
            state: container.state,
            status: Status::Created,
            pid: Some(super::own_pid()),
            environment: Some(&environment),
            directory: None,
            output: container.hooks,
        };
        if let Err(error) = moment.run(hooks.start_container().as_ref()) {
            super::fail(&error.into(), socket);
        }
    }
    foreground::restore_signals(program.signals.as_ref());
    super::fail(&execute(&target, arguments, environment, &program), socket)
}

/// The way from the container's root to its program with all privileges gone, up to the parent's last word. Returns the
/// program, its arguments and its environment.
fn get_ready<'a>(
    program: &Program<'a>,
    first: Option<&Container<'_>>,
    identity: &mut Identity,
    socket: &Socket,
) -> Result<(entrypoint::Program, &'a [String], Vec<String>), Error> {
    let process = program.process;
    let mut environment = environment(program)?;
    let has_home = environment.iter().any(|e| e.starts_with("HOME="));
    let home = if has_home { None } else { passwd::home(identity.uid()) };

    // Before, in case that only we may enter it; or after, in case that only the container's user may.
    let entered = enter_directory(process.cwd())?;
    // From here on we are the container's user, and no more than any other process of the container: such a one must not
    // take hold of our descriptors and memory by /proc/PID (CVE-2016-9962). The exec ends this by itself.
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(|e| Error::step("become undumpable", e))?;
    let groups = process.user().additional_gids().as_deref().unwrap_or_default();
    identity.assume((!program.keep_groups).then_some(groups))?;
    let missing = identity.act()?;
    if !entered {
        rustix::process::chdir(process.cwd()).map_err(|e| cannot_enter(process.cwd(), e))?;
    }
    check_directory()?;
    let arguments = process.args().as_deref().unwrap_or_default();
    let (target, arguments) = match entrypoint::choose(arguments, &environment, program.handler)? {
        Some((found, arguments)) => (choose_program(found, socket)?, arguments),
        None => (entrypoint::Program::Nothing, arguments),
    };
    if !has_home {
        // The "/" of a user without a home is for programs that take one for granted. WASI knows no users: a module gets no
        // more than there is.
        let is_module = matches!(target, entrypoint::Program::Handler { .. });
        let home = home.or_else(|| (!is_module).then(|| "/".to_owned()));
        environment.extend(home.map(|home| format!("HOME={home}")));
    }

    if let Some(container) = first {
        scene::die_with_parent(false)?;
        if container.fifo.is_some() && program.seccomp.is_some() {
            // Under the filter, that may be forbidden.
            own_program::forget_pages();
        }
    }
    let warnings = drop_privileges(program, identity, socket)?;
    missing.into_iter().chain(warnings).try_for_each(|warning| socket.send(&Message::Warning(warning)))?;
    socket.send(&Message::Ready)?;
    // A parent that ends without this word has not noted who we are, and nobody would find us.
    socket.await_continue()?;
    Ok((target, arguments, environment))
}

/// What cannot be undone: no new privileges, the filter, the last capabilities.
fn drop_privileges(
    program: &Program<'_>,
    identity: &Identity,
    socket: &Socket,
) -> Result<Vec<String>, Error> {
    let no_new_privileges = program.process.no_new_privileges().unwrap_or(false);
    match (&program.seccomp, no_new_privileges) {
        (Some(filter), true) => {
            let warnings = identity.settle()?;
            forbid_new_privileges()?;
            install(filter, socket)?;
            Ok(warnings)
        }
        (Some(filter), false) => {
            Identity::regain()?;
            install(filter, socket)?;
            identity.settle()
        }
        (None, _) => {
            let warnings = identity.settle()?;
            if no_new_privileges {
                forbid_new_privileges()?;
            }
            Ok(warnings)
        }
    }
}

/// What a process hands down to its program: umask, scheduling, personality.
fn set_habits(program: &Program<'_>) -> Result<(), Error> {
    let process = program.process;
    // 0022 is runc's, whatever umask the engine has.
    rustix::process::umask(Mode::from_raw_mode(process.user().umask().unwrap_or(0o022)));
    let cpu = program.linux.and_then(|l| l.resources().as_ref()).and_then(|r| r.cpu().as_ref());
    let confined = cpu.and_then(|c| c.cpus().as_ref()).is_some_and(|cpus| !cpus.is_empty());
    scheduling::apply(process, confined)?;
    let Some(linux) = program.linux else { return Ok(()) };
    linux.memory_policy().as_ref().map_or(Ok(()), scheduling::set_memory_policy)?;
    linux.personality().as_ref().map_or(Ok(()), personality::assume)
}

/// Puts us under the filter. Who answers the calls that it hands on must get its descriptor before there are any.
fn install(filter: &Filter, socket: &Socket) -> Result<(), Error> {
    let Some(listener) = filter.install()? else { return Ok(()) };
    socket.send(&Message::Listener(listener.as_raw_fd()))?;
    socket.await_continue()
}

/// Enters the working directory; false when we may not.
fn enter_directory(cwd: &Path) -> Result<bool, Error> {
    match rustix::process::chdir(cwd) {
        Ok(()) => Ok(true),
        Err(Errno::ACCESS | Errno::PERM) => Ok(false),
        Err(errno) => Err(cannot_enter(cwd, errno)),
    }
}

fn cannot_enter(cwd: &Path, errno: Errno) -> Error {
    Error::Cwd { cwd: cwd.to_owned(), reason: errno.into() }
}

/// Makes sure that the working directory lies in the container: a descriptor of the host's that was left open would make
/// `/proc/self/fd/N` lead out (CVE-2024-21626).
fn check_directory() -> Result<(), Error> {
    match rustix::process::getcwd(Vec::new()) {
        Ok(path) if path.to_bytes().starts_with(b"/") => Ok(()),
        // The kernel says "(unreachable)" for a directory outside our root, or ENOENT for a removed one.
        _ => Err(Error::CwdOutside),
    }
}

/// The program's environment but for a missing `HOME`: config.json's, of whose repeated variables the last counts, and what
/// runc adds to it.
fn environment(program: &Program<'_>) -> Result<Vec<String>, Error> {
    let mut environment: Vec<String> = Vec::new();
    let mut seen = HashSet::new();
    for entry in program.process.env().iter().flatten().rev() {
        let wrong = |problem| Error::Environment(entry.clone(), problem);
        let (name, value) = entry.split_once('=').ok_or_else(|| wrong("missing '='"))?;
        if name.is_empty() {
            return Err(wrong("name cannot be empty"));
        }
        let outdated = program.listen_fds > 0 && LISTEN.contains(&name);
        if seen.insert(name) && !outdated && !(name == "HOME" && value.is_empty()) {
            environment.push(entry.clone());
        }
    }
    environment.reverse();
    if program.listen_fds > 0 {
        // sd_listen_fds(3): the variables are for the process whose pid they name, and ours is 1 in there.
        environment.push(format!("LISTEN_FDS={}", program.listen_fds));
        environment.push(format!("LISTEN_PID={}", std::process::id()));
        environment
            .extend(std::env::var("LISTEN_FDNAMES").ok().map(|names| format!("LISTEN_FDNAMES={names}")));
    }
    Ok(environment)
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

/// Waits until the program may run. That may be long, and the runtime that made us is gone by then.
fn await_start(fifo: &OwnedFd, is_filtered: bool) -> Result<(), Error> {
    foreground::die_of_signals();
    if !is_filtered {
        own_program::forget_pages();
    }
    match rustix::io::retry_on_intr(|| rustix::io::read(fifo, &mut [0])) {
        Ok(_) => Ok(()),
        Err(errno) => Err(Error::step("wait for start", errno)),
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
        entrypoint::Program::Nothing => Error::NoProcess,
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
