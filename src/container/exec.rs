//! The parent's side of running another program in a container.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use oci_spec::runtime::{LinuxNamespaceType, Process as SpecProcess, Spec};
use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, WaitOptions};
use rustix::thread::{ThreadNameSpaceType, move_into_thread_name_spaces};

use super::create::{keep_groups, plan_seccomp, write_pid_file};
use super::given::{JoinCgroup, set_oom_score};
use super::pidfd::PidfdSocket;
use super::served::{Request, Served, hand_over};
use super::{Container, Error, Status};
use crate::cgroup;
use crate::cli::Global;
use crate::foreground::SavedMask;
use crate::handler;
use crate::init::namespaces::{self, Cloned, WayBack, clone_flag, clone_into_pid_namespace};
use crate::init::scheduling::Affinity;
use crate::init::sync::{self, Message};
use crate::init::{self, Program, Terminal, limits};
use crate::procfs::Procfs;
use crate::{config, console};

/// What `exec` is asked for.
#[derive(Debug)]
pub struct Exec<'a> {
    /// The container's configuration.
    pub spec: &'a Spec,
    /// The program.
    pub process: &'a SpecProcess,
    /// Where the pid goes.
    pub pid_file: Option<&'a Path>,
    /// The engine's socket for the terminal's master.
    pub console_socket: Option<&'a Path>,
    /// Whether we stay until the program ends.
    pub foreground: bool,
    /// Descriptors from 3 on that go to the program.
    pub preserve_fds: u32,
    /// The engine's socket for a descriptor of the process.
    pub pidfd_socket: Option<&'a Path>,
    /// A place below the container's cgroup.
    pub cgroup: Option<&'a cgroup::Place>,
    /// Run it in a paused container, where it will stand still too.
    pub ignore_paused: bool,
    /// The signal mask before `exec` blocked what it forwards.
    pub signals: Option<SavedMask>,
}

/// A program that runs.
#[derive(Debug)]
pub struct Executed {
    /// Its process.
    pub pid: i32,
    /// The same, as a descriptor.
    pub pidfd: OwnedFd,
    /// The terminal's master, when we are to serve it.
    pub terminal: Option<OwnedFd>,
}

/// Kills the process unless it is let go.
struct Child(Option<i32>);

impl Drop for Child {
    fn drop(&mut self) {
        if let Some(pid) = self.0.and_then(Pid::from_raw) {
            // There is an error already, and it is the one to report.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            let _ = rustix::process::waitpid(Some(pid), WaitOptions::empty());
        }
    }
}

/// Runs a program in a container, and returns when it runs.
///
/// # Errors
/// [`Error`]; whatever went wrong, no process is left.
pub fn exec(container: &Container, request: Exec<'_>, global: &Global) -> Result<Executed, Error> {
    match container.status()? {
        Status::Created | Status::Running => {}
        Status::Paused if request.ignore_paused => {}
        Status::Paused => return Err(Error::ExecPaused),
        Status::Creating | Status::Stopped => return Err(Error::ExecStopped),
    }
    let init = container.state.init.ok_or(Error::ExecStopped)?;
    let Exec { spec, process, .. } = request;
    let target = init.open()?.ok_or(Error::ExecStopped)?;
    let root = root_of(spec, init.pid)?;
    let terminal =
        plan_terminal(process.terminal().unwrap_or(false), request.console_socket, request.foreground)?;
    let annotations = &container.state.annotations;
    let (filter, listener) = plan_seccomp(spec, annotations, global)?;
    let pidfd_socket = request.pidfd_socket.map(PidfdSocket::connect).transpose()?;
    let affinity = process.exec_cpu_affinity().as_ref().map(Affinity::parse).transpose()?.unwrap_or_default();
    let choice = exec_choice(spec)?;

    let (ours, theirs) = sync::pair()?;
    let procfs = Procfs::open()?;
    let kinds = namespace_flags(spec);
    let pid_kind = kinds & ThreadNameSpaceType::PROCESS_ID;
    let change_user = kinds.contains(ThreadNameSpaceType::USER);
    let back = if change_user || pid_kind.is_empty() { None } else { WayBack::find() };
    let with_helper = change_user || !(pid_kind.is_empty() || back.is_some());
    let cgroup = match request.cgroup {
        None => JoinCgroup::open(container.state.cgroup.as_ref(), !with_helper, Some(init.pid))?,
        Some(_) => JoinCgroup::default(),
    };
    let before = affinity.initial.as_ref().map(|initial| initial.visit()).transpose()?;
    let join = |flags: ThreadNameSpaceType| {
        if flags.is_empty() {
            return Ok(());
        }
        move_into_thread_name_spaces(target.as_fd(), flags)
            .map_err(|e| init::Error::Step { step: "join the container's namespaces", reason: e.into() })
    };
    // As in `create`: a helper where a user namespace is involved or there is no way back, else the clone itself enters
    // the pid namespace; and the new process the others.
    let (cloned, rest) = if with_helper {
        let first = if change_user { kinds } else { pid_kind };
        let enter =
            || join(first).and_then(|()| if change_user { namespaces::become_root() } else { Ok(()) });
        let unmapped = |_| Err(init::Error::Unexpected);
        (namespaces::with_helper(enter, 0, &ours, &theirs, unmapped)?, kinds - first)
    } else {
        let beside = || match &container.state.cgroup {
            Some(cgroup) => Ok(cgroup.beside_fd(init.pid)?),
            None => Ok(None),
        };
        let cgroup = cgroup.v2.as_ref().map(AsFd::as_fd);
        (clone_into_pid_namespace(|| join(pid_kind), back.as_ref(), 0, cgroup, beside)?, kinds - pid_kind)
    };
    if let Some(before) = before.filter(|_| matches!(cloned, Cloned::Parent { .. })) {
        before.assume()?;
    }
    let (pid, pidfd) = match cloned {
        Cloned::Parent { pid, pidfd } => (pid, pidfd),
        Cloned::Child => {
            drop(ours);
            let program = Program {
                process,
                id: &container.state.id,
                procfs,
                linux: spec.linux().as_ref(),
                affinity,
                no_new_keyring: container.state.no_new_keyring,
                keep_groups: keep_groups(annotations),
                terminal,
                cgroup: cgroup.v1,
                seccomp: filter,
                handler: choice,
                wasm_directories: container.state.annotations.get(handler::DIRECTORIES).cloned(),
                preserve_fds: request.preserve_fds,
                listen_fds: 0,
                signals: request.signals,
            };
            let enter = || {
                join(rest)?;
                root.as_ref().map_or(Ok(()), init::chroot)
            };
            match init::join(program, enter, &theirs) {
                Err(error) => init::fail(&error, Some(&theirs)),
            }
        }
    };
    let mut child = Child(Some(pid));
    tracing::debug!("container {}: process {pid}", container.state.id);
    drop(theirs);
    match request.cgroup {
        Some(place) => container.cgroup()?.add_below(pid, place)?,
        None => match cgroup.finish(container.state.cgroup.as_ref(), pid) {
            // An ordinary user who is not below the same manager may not bring anybody in; runc leaves the process
            // outside then, too.
            Err(Error::Cgroup(error)) if global.rootless && error.is_permission() => {
                tracing::debug!("{error}")
            }
            result => result?,
        },
    }
    container.state.intel_rdt.as_ref().map_or(Ok(()), |group| group.add(pid))?;
    set_oom_score(pid, process, &procfs, global.rootless)?;
    ours.send(&Message::Continue)?;
    let mut served = Served::new(choice, process.args().iter().flatten().next());
    let answer = |request: Request| match request {
        Request::Hooks => Err(init::Error::Unexpected.into()),
        Request::Limits => Ok(limits::set(pid, process)?),
        Request::Listener(number) => {
            let state = container.state.published(Status::Running, Some(init.pid));
            Ok(hand_over(listener.as_ref(), number, (pid, &pidfd), state)?)
        }
    };
    while !served.next(&ours, answer)? {}
    if let Some(path) = request.pid_file {
        write_pid_file(path, pid)?;
    }
    ours.send(&Message::Continue)?;
    // The stream ends with the exec; before that there can only be an error.
    match ours.receive()? {
        None => {}
        Some(Message::Failed(text)) => return Err(init::Error::Reported(text).into()),
        Some(_) => return Err(init::Error::Unexpected.into()),
    }
    if let Some(socket) = pidfd_socket {
        socket.send("setns", &pidfd)?;
    }
    child.0 = None;
    Ok(Executed { pid, pidfd, terminal: served.terminal })
}

/// In a running container the program decides: a native shell in a Wasm container is as welcome as a second
/// module, so a demand for Wasm counts as detection here.
fn exec_choice(spec: &Spec) -> Result<handler::Choice, Error> {
    let called = std::env::args_os().next().unwrap_or_default();
    Ok(match handler::choose(spec.annotations().as_ref(), Path::new(&called))? {
        handler::Choice::Native => handler::Choice::Native,
        handler::Choice::Wasm | handler::Choice::Detect => handler::Choice::Detect,
    })
}

/// The namespaces that the container does not share with us.
fn namespace_flags(spec: &Spec) -> ThreadNameSpaceType {
    let listed = spec.linux().as_ref().and_then(|l| l.namespaces().as_ref());
    let flags = listed.into_iter().flatten().fold(0, |flags, n| flags | clone_flag(n.typ()));
    ThreadNameSpaceType::from_bits_retain(flags)
}

/// Without a mount namespace of its own a container has nothing but its root directory.
fn root_of(spec: &Spec, pid: i32) -> Result<Option<OwnedFd>, Error> {
    if config::has_namespace(spec, LinuxNamespaceType::Mount) {
        return Ok(None);
    }
    let path = std::path::PathBuf::from(format!("/proc/{pid}/root"));
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    match rustix::fs::open(&path, flags, Mode::empty()) {
        Ok(root) => Ok(Some(root)),
        Err(errno) => Err(Error::Io { path, reason: errno.into() }),
    }
}

/// Checks terminal and console socket against each other, in runc's words.
///
/// # Errors
/// [`Error::Config`] for a combination that leaves nobody to serve the terminal; [`Error::Console`].
pub(super) fn plan_terminal(
    wanted: bool,
    socket: Option<&Path>,
    foreground: bool,
) -> Result<Option<Terminal>, Error> {
    let wrong = |problem| {
        let value = wanted.to_string();
        Error::Config(config::Error::Wrong { field: "process.terminal", value, problem })
    };
    match (wanted, socket) {
        (false, None) => Ok(None),
        (false, Some(_)) => {
            Err(wrong("cannot use console socket if the runtime will not detach or allocate tty"))
        }
        (true, Some(path)) => Ok(Some(Terminal::Engine(console::connect(path)?))),
        (true, None) if foreground => Ok(Some(Terminal::Parent)),
        (true, None) => {
            Err(wrong("cannot allocate tty if the runtime will detach without setting console socket"))
        }
    }
}
