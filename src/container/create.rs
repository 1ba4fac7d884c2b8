//! The parent's side of making a container, from config.json to a process that waits to be started.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use coracle_seccomp::Filter;
use oci_spec::runtime::{Process as SpecProcess, ProcessBuilder, Spec};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::net::SocketType;
use rustix::process::{Pid, WaitOptions};

use super::exec::plan_terminal;
use super::{CONFIG_FILE, Container, Error, Process, State, Status, directory_of};
use crate::cgroup::{self, Cgroup};
use crate::cli::Global;
use crate::error::Os;
use crate::foreground::SavedMask;
use crate::handler::{self, Choice};
use crate::init::namespaces::{Cloned, Namespaces};
use crate::init::scheduling::Affinity;
use crate::init::sync::{self, Message, Socket};
use crate::init::{self, Program};
use crate::seccomp::{self, Listener};
use crate::{config, file, hooks, log, net_devices, notify, passwd, resctrl, rootfs, unix, userns, wasm};

/// What `create` and `run` are asked for.
#[derive(Debug)]
pub struct Create<'a> {
    /// The container's id.
    pub id: &'a str,
    /// Directory of the bundle.
    pub bundle: &'a Path,
    /// The configuration, when it is not the bundle's `config.json`.
    pub config: Option<&'a Path>,
    /// Where the pid goes, in decimal and without a newline.
    pub pid_file: Option<&'a Path>,
    /// The engine's socket for the terminal's master.
    pub console_socket: Option<&'a Path>,
    /// Move the root file system over `/` instead of pivot_root.
    pub no_pivot: bool,
    /// Stay in the engine's session keyring.
    pub no_new_keyring: bool,
    /// Descriptors from 3 on that go to the program.
    pub preserve_fds: u32,
    /// The engine's socket for a descriptor of the container's first process.
    pub pidfd_socket: Option<&'a Path>,
    /// `run`: the caller says when the program runs, by the socket that comes back, and not `start`.
    pub attended: Option<Attended>,
}

/// What `run` adds.
#[derive(Debug)]
pub struct Attended {
    /// Whether `run` stays, and serves the terminal.
    pub foreground: bool,
    /// The signal mask before `run` blocked what it forwards.
    pub signals: Option<SavedMask>,
}

/// A container that is set up.
#[derive(Debug)]
pub struct Created {
    /// The container.
    pub container: Container,
    /// Its configuration.
    pub spec: Spec,
    /// Its first process.
    pub pid: i32,
    /// The same, as a descriptor.
    pub pidfd: OwnedFd,
    /// The connection on which an attended process waits for leave to run.
    pub socket: Socket,
    /// The terminal's master, when we are to serve it.
    pub terminal: Option<OwnedFd>,
    /// The socket on which the container says that it is ready, when `run` has been given one.
    pub notify: Option<notify::Proxy>,
}

/// What is undone when `create` or `restore` does not get to its end.
#[derive(Debug, Default)]
pub(super) struct Undo {
    pub(super) directory: Option<PathBuf>,
    pub(super) cgroup: Option<Cgroup>,
    pub(super) intel_rdt: Option<resctrl::Group>,
    pub(super) pid: Option<i32>,
    pub(super) pid_file: Option<PathBuf>,
}

impl Drop for Undo {
    fn drop(&mut self) {
        // There is an error already, and it is the one to report.
        if let Some(pid) = self.pid.and_then(Pid::from_raw) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            let _ = rustix::process::waitpid(Some(pid), WaitOptions::empty());
        }
        if let Some(cgroup) = &self.cgroup {
            let _ = cgroup.remove();
        }
        if let Some(group) = &self.intel_rdt {
            let _ = group.remove();
        }
        if let Some(path) = &self.pid_file {
            let _ = fs::remove_file(path);
        }
        if let Some(directory) = &self.directory {
            let _ = fs::remove_dir_all(directory);
        }
    }
}

impl Undo {
    pub(super) fn keep(mut self) {
        std::mem::take(&mut self.directory);
        std::mem::take(&mut self.cgroup);
        std::mem::take(&mut self.intel_rdt);
        std::mem::take(&mut self.pid);
        std::mem::take(&mut self.pid_file);
    }
}

/// Makes a container, up to the moment before its program runs. On an error, nothing of it is left.
///
/// # Errors
/// Everything that can be wrong with a configuration, a host or a program: see [`Error`].
pub fn create(request: Create<'_>, global: &Global) -> Result<Created, Error> {
    let (listen_fds, preserve_fds) = passed_descriptors(request.preserve_fds)?;
    let bundle = fs::canonicalize(request.bundle).map_err(|e| io_error(request.bundle, e))?;
    let config_path = request.config.map_or_else(|| bundle.join(CONFIG_FILE), Path::to_owned);
    let mut spec = config::read(&config_path)?;
    config::check(&spec)?;
    rootfs::check(&spec)?;
    net_devices::check(&spec)?;
    if spec.process().is_none() && request.attended.is_none() {
        spec.set_process(Some(no_process()?));
    }
    config::process(&spec)?;
    let rootfs = find_rootfs(&spec, &bundle)?;
    let choice = handler::choose(spec.annotations().as_ref(), &called_name())?;
    let namespaces = Namespaces::open(&spec)?;
    let attended = request.attended.is_some();
    let foreground = request.attended.as_ref().is_some_and(|a| a.foreground);
    let wanted = config::process(&spec)?.terminal().unwrap_or(false);
    let terminal = plan_terminal(wanted, request.console_socket, foreground)?;
    let annotations = spec.annotations().clone().unwrap_or_default();
    let (filter, listener) = plan_seccomp(&spec, &annotations, global)?;
    let output = hooks::Output::open(spec.hooks().as_ref(), &annotations)?;
    let pidfd_socket = request.pidfd_socket.map(PidfdSocket::connect).transpose()?;

    // From here on there are things to undo.
    let mut undo = Undo::default();
    let directory = make_directory(global, request.id)?;
    undo.directory = Some(directory.clone());
    let copy = directory.join(CONFIG_FILE);
    fs::copy(&config_path, &copy).map_err(|e| io_error(&copy, e))?;
    notify::add(&mut spec, &directory)?;
    let process = config::process(&spec)?;
    let cgroup = make_cgroup(&spec, request.id, global)?;
    undo.cgroup.clone_from(&cgroup);
    let mut container = Container { directory, state: new_state(&spec, request.id, bundle, rootfs, cgroup) };
    container.state.no_new_keyring = request.no_new_keyring;
    if let Some(rdt) = spec.linux().as_ref().and_then(|l| l.intel_rdt().as_ref()) {
        container.state.intel_rdt = Some(resctrl::Group::create(&resctrl::mount_point()?, rdt, request.id)?);
        undo.intel_rdt.clone_from(&container.state.intel_rdt);
    }
    container.save()?;
    let fifo = if request.attended.is_none() { Some(make_fifo(&container.fifo())?) } else { None };

    // The container's process.
    let (ours, theirs) = sync::pair()?;
    let cgroup = JoinCgroup::open(container.state.cgroup.as_ref(), !namespaces.needs_helper(), None)?;
    let into = cgroup.v2.as_ref().map(AsFd::as_fd);
    let map_ids = |pid| userns::map_ids(pid, &spec);
    let (pid, pidfd) = match namespaces.clone_into(into, &ours, &theirs, map_ids)? {
        Cloned::Parent { pid, pidfd } => (pid, pidfd),
        Cloned::Child => {
            // Nothing of the container is ours to undo in here.
            undo.keep();
            drop(ours);
            let cgroup_mounts = container.state.cgroup.as_ref().map(Cgroup::mounts).unwrap_or_default();
            let inside = init::Container {
                spec: &spec,
                state: &container.state,
                namespaces: &namespaces,
                cgroup_mounts: &cgroup_mounts,
                no_pivot: request.no_pivot,
                hooks: &output,
                fifo,
            };
            let program = Program {
                process,
                id: request.id,
                linux: spec.linux().as_ref(),
                affinity: Affinity::default(),
                no_new_keyring: request.no_new_keyring,
                keep_groups: keep_groups(&container.state.annotations),
                terminal,
                cgroup: cgroup.v1,
                seccomp: filter,
                handler: choice,
                wasm_directories: container.state.annotations.get(handler::DIRECTORIES).cloned(),
                preserve_fds,
                listen_fds,
                signals: request.attended.and_then(|a| a.signals),
            };
            let reporter = theirs.try_clone().ok();
            match init::container(&inside, program, theirs) {
                Err(error) => init::fail(&error, reporter.as_ref()),
            }
        }
    };
    undo.pid = Some(pid);
    tracing::debug!(pid, "container {}: process cloned", request.id);
    drop((theirs, fifo));
    if namespaces.unmapped() {
        map_ids(pid)?;
    }
    net_devices::attach(&spec, pid)?;
    cgroup.finish(container.state.cgroup.as_ref(), pid)?;
    container.state.intel_rdt.as_ref().map_or(Ok(()), |group| group.add(pid))?;
    set_oom_score(pid, process, global.rootless)?;
    ours.send(&Message::Continue).map_err(|e| child_gone(&ours, e))?;
    let mut served = Served::new(choice, rustix::fs::stat(&container.state.rootfs).ok().map(|s| s.st_dev));
    served.outside = Some(rootfs::Server {
        spec: &spec,
        bundle: &container.state.bundle,
        rootfs: &container.state.rootfs,
        pid,
    });
    let answer = |request: Request| match request {
        Request::Hooks => run_runtime_hooks(&spec, &container.state, pid),
        Request::Limits => set_rlimits(pid, process),
        Request::Listener(number) => {
            let state = container.state.published(Status::Creating, Some(pid));
            Ok(hand_over(listener.as_ref(), number, (pid, &pidfd), state)?)
        }
    };
    while !served.next(&ours, answer)? {}
    let terminal = served.terminal;

    if let Some(cgroup) = &container.state.cgroup {
        cgroup.delegate(&spec, pid)?;
    }
    tracing::debug!(pid, "container {}: process is set up", request.id);
    container.state.init = Process::find(pid);
    container.save()?;
    if let Some(socket) = pidfd_socket {
        socket.send("standard", &pidfd)?;
    }
    send_to_receiver(&container.state.annotations, &pidfd)?;
    let notify = if attended { notify::Proxy::open(&container.directory)? } else { None };
    if let Some(path) = request.pid_file {
        write_pid_file(path, pid)?;
        undo.pid_file = Some(path.to_owned());
    }
    undo.keep();
    Ok(Created { container, pid, pidfd, socket: ours, terminal, spec, notify })
}

/// Stands for a `process` that is missing: its container can be created, and then `start` is an error (runtime.md,
/// "Start").
fn no_process() -> Result<SpecProcess, Error> {
    let process = ProcessBuilder::default().args(Vec::new()).env(Vec::new()).cwd("/").build();
    process.map_err(|_| config::Error::Missing("process").into())
}

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

/// What is known of a container before its first process is there.
pub(super) fn new_state(
    spec: &Spec,
    id: &str,
    bundle: PathBuf,
    rootfs: PathBuf,
    cgroup: Option<Cgroup>,
) -> State {
    State {
        oci_version: spec.version().clone(),
        id: id.to_owned(),
        init: None,
        bundle,
        rootfs,
        created: chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Nanos, true),
        owner: owner(),
        annotations: spec.annotations().clone().unwrap_or_default(),
        no_new_keyring: false,
        intel_rdt: None,
        cgroup,
    }
}

/// As runc's `list` shows it: the name, or the number of a user who has none.
fn owner() -> String {
    let uid = rustix::process::getuid().as_raw();
    passwd::name(uid).unwrap_or_else(|| format!("#{uid}"))
}

/// The parent's half of the conversation, until the process is ready.
#[derive(Debug)]
pub(super) struct Served<'a> {
    choice: Choice,
    /// What the process may ask for while it makes its root file system.
    outside: Option<rootfs::Server<'a>>,
    /// The device of the root file system, where only its engine can have mounted anything.
    rootfs: Option<u64>,
    /// The terminal's master, once it came.
    pub(super) terminal: Option<OwnedFd>,
}

impl Served<'_> {
    pub(super) fn new(choice: Choice, rootfs: Option<u64>) -> Self {
        Self { choice, rootfs, outside: None, terminal: None }
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
                let answer = prepare_module(&name, &file, self.choice, self.rootfs)?;
                socket.send(&answer)?;
            }
            Some(Message::Failed(text)) => return Err(init::Error::Reported(text).into()),
            Some(_) => return Err(init::Error::Unexpected.into()),
            None => return Err(init::Error::ChildGone(String::new()).into()),
        }
        Ok(false)
    }
}

/// A message could not be sent because the process is gone; it may have said why.
fn child_gone(socket: &Socket, error: init::Error) -> Error {
    match socket.receive() {
        Ok(Some(Message::Failed(text))) => init::Error::Reported(text).into(),
        _ => error.into(),
    }
}

/// The handler and artifact for what is, or was said to be, a module.
fn prepare_module(name: &str, file: &OwnedFd, choice: Choice, rootfs: Option<u64>) -> Result<Message, Error> {
    use std::io::IsTerminal;
    let kind = wasm::sniff(file.as_fd()).map_err(|e| io_error(Path::new(name), e))?;
    if kind == wasm::Kind::NotWasm && choice != Choice::Wasm {
        return Ok(Message::Native);
    }
    let progress = io::stderr().is_terminal();
    let wasm::Handler { program, artifact } = wasm::prepare(file.as_fd(), name, progress, rootfs)?;
    Ok(Message::Handler(program, artifact))
}

fn io_error(path: &Path, reason: io::Error) -> Error {
    Error::Io { path: path.to_owned(), reason: reason.into() }
}

/// Descriptors for the program: sockets after sd_listen_fds(3), and those of `--preserve-fds`. Returns the number of
/// sockets, and of all.
fn passed_descriptors(preserve_fds: u32) -> Result<(u32, u32), Error> {
    let number = |name| std::env::var(name).ok().and_then(|n| n.parse::<u32>().ok());
    // Sockets that were meant for us, or, as engines write it, for the container's first process.
    let ours = number("LISTEN_PID").is_none_or(|pid| pid == 1 || pid == std::process::id());
    let listen_fds = number("LISTEN_FDS").filter(|_| ours).unwrap_or(0);
    let first = 3u32.saturating_add(listen_fds);
    // Sockets need not be there, for the service manager may have closed some since. The first of the others must.
    // SAFETY: reads a flag of a descriptor, or fails because there is none.
    if preserve_fds > 0 && unsafe { libc::fcntl(first.cast_signed(), libc::F_GETFD) } < 0 {
        let path = PathBuf::from(format!("--preserve-fds {preserve_fds}: descriptor {first}"));
        return Err(Error::Io { path, reason: Os::last() });
    }
    Ok((listen_fds, listen_fds.saturating_add(preserve_fds)))
}

fn called_name() -> PathBuf {
    std::env::args_os().next().unwrap_or_default().into()
}

pub(super) fn find_rootfs(spec: &Spec, bundle: &Path) -> Result<PathBuf, Error> {
    let root = spec.root().as_ref().ok_or(config::Error::Missing("root"))?;
    let path = bundle.join(root.path());
    let path = fs::canonicalize(&path).map_err(|e| Error::Io {
        path: PathBuf::from(format!("config.json: root.path: {}", path.display())),
        reason: e.into(),
    })?;
    if !path.is_dir() {
        return Err(Error::Io { path, reason: io::Error::from_raw_os_error(libc::ENOTDIR).into() });
    }
    Ok(path)
}

/// The filter of a container's processes, and who answers for it.
///
/// # Errors
/// [`Error::Seccomp`].
pub(super) fn plan_seccomp(
    spec: &Spec,
    annotations: &HashMap<String, String>,
    global: &Global,
) -> Result<(Option<Filter>, Option<Listener>), Error> {
    // Beside the containers: a cache that the same user owns, and that a reboot empties.
    let plan = seccomp::plan(spec, annotations, &global.root.join(".seccomp"))?;
    Ok(plan.map_or((None, None), |(filter, listener)| (Some(filter), listener)))
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

/// crun's: a value other than "0" leaves a container's processes in the groups of the engine.
pub(super) fn keep_groups(annotations: &HashMap<String, String>) -> bool {
    annotations.get("run.oci.keep_original_groups").is_some_and(|value| value != "0")
}

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
fn send_to_receiver(annotations: &HashMap<String, String>, pidfd: &OwnedFd) -> Result<(), Error> {
    const ANNOTATION: &str = "run.oci.pidfd_receiver";
    let Some(path) = annotations.get(ANNOTATION) else { return Ok(()) };
    let sent = unix::connect(Path::new(path), SocketType::STREAM)
        .and_then(|socket| unix::send(&socket, " ", pidfd.as_fd()));
    sent.map_err(|e| Error::Receiver { annotation: ANNOTATION, path: path.clone(), reason: e.into() })
}

pub(super) fn make_directory(global: &Global, id: &str) -> Result<PathBuf, Error> {
    let directory = directory_of(&global.root, id)?;
    let mut builder = fs::DirBuilder::new();
    builder.mode(0o700);
    match builder.create(&directory) {
        Ok(()) => return Ok(directory),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Err(Error::Exists),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(io_error(&directory, e)),
    }
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&global.root)
        .map_err(|e| io_error(&global.root, e))?;
    match builder.create(&directory) {
        Ok(()) => Ok(directory),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Err(Error::Exists),
        Err(e) => Err(io_error(&directory, e)),
    }
}

pub(super) fn make_cgroup(spec: &Spec, id: &str, global: &Global) -> Result<Option<Cgroup>, Error> {
    let cgroup = Cgroup::create(spec, id, global.cgroup_manager, global.rootless)?;
    // Without one, only limits that were asked for are an error.
    Ok((global.cgroup_manager != cgroup::Manager::Disabled).then_some(cgroup))
}

/// How a new process gets into its container's cgroup: on v2 by the clone, on v1 by itself, for a parent that moves it
/// would take a lock of the whole kernel, which costs milliseconds.
#[derive(Debug, Default)]
pub(super) struct JoinCgroup {
    /// What is cloned into.
    pub(super) v2: Option<OwnedFd>,
    /// What the process itself enters.
    pub(super) v1: Option<cgroup::Entrance>,
    by_parent: bool,
    /// The process to go to where the container's own cgroup takes none.
    beside: Option<i32>,
}

impl JoinCgroup {
    /// Opens the ways in; `cloned` says whether the process can be cloned into a cgroup.
    pub(super) fn open(cgroup: Option<&Cgroup>, cloned: bool, beside: Option<i32>) -> Result<Self, Error> {
        let Some(cgroup) = cgroup else { return Ok(Self::default()) };
        let v2 = cgroup.into_fd();
        let v1 = cgroup.entrance()?;
        // A systemd scope begins with its first process, which the parent names.
        let by_parent = v1.is_none() || (v2.is_some() && !cloned);
        Ok(Self { v2, v1, by_parent, beside })
    }

    /// What is left for the parent to do.
    pub(super) fn finish(self, cgroup: Option<&Cgroup>, pid: i32) -> Result<(), Error> {
        match cgroup {
            Some(cgroup) if self.by_parent => {
                match self.beside {
                    Some(other) => cgroup.add_beside(pid, other)?,
                    None => cgroup.add(pid)?,
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

/// The fifo that init waits on. Open for both directions, so that neither its open nor that of `start` waits.
fn make_fifo(path: &Path) -> Result<OwnedFd, Error> {
    let error = |e: rustix::io::Errno| Error::Io { path: path.to_owned(), reason: e.into() };
    rustix::fs::mknodat(rustix::fs::CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).map_err(error)?;
    rustix::fs::open(path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).map_err(error)
}

/// Written from outside: in a user namespace, the process itself could not lower it.
pub(super) fn set_oom_score(pid: i32, process: &SpecProcess, rootless: bool) -> Result<(), Error> {
    let Some(score) = process.oom_score_adj() else { return Ok(()) };
    let path = PathBuf::from(format!("/proc/{pid}/oom_score_adj"));
    let value = score.to_string();
    match fs::write(&path, &value) {
        Ok(()) => Ok(()),
        // An ordinary user may only raise it, and podman passes down what its own process has.
        Err(e) if rootless && e.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        Err(e) => Err(init::Error::Write { path, value, reason: e.into() }.into()),
    }
}

/// The resource limits of a process, set from outside: setrlimit(2), by prlimit(2).
pub(super) fn set_rlimits(pid: i32, process: &SpecProcess) -> Result<(), Error> {
    use oci_spec::runtime::PosixRlimitType as Type;
    for limit in process.rlimits().iter().flatten() {
        let resource = match limit.typ() {
            Type::RlimitCpu => libc::RLIMIT_CPU,
            Type::RlimitFsize => libc::RLIMIT_FSIZE,
            Type::RlimitData => libc::RLIMIT_DATA,
            Type::RlimitStack => libc::RLIMIT_STACK,
            Type::RlimitCore => libc::RLIMIT_CORE,
            Type::RlimitRss => libc::RLIMIT_RSS,
            Type::RlimitNproc => libc::RLIMIT_NPROC,
            Type::RlimitNofile => libc::RLIMIT_NOFILE,
            Type::RlimitMemlock => libc::RLIMIT_MEMLOCK,
            Type::RlimitAs => libc::RLIMIT_AS,
            Type::RlimitLocks => libc::RLIMIT_LOCKS,
            Type::RlimitSigpending => libc::RLIMIT_SIGPENDING,
            Type::RlimitMsgqueue => libc::RLIMIT_MSGQUEUE,
            Type::RlimitNice => libc::RLIMIT_NICE,
            Type::RlimitRtprio => libc::RLIMIT_RTPRIO,
            Type::RlimitRttime => libc::RLIMIT_RTTIME,
        };
        let value = libc::rlimit { rlim_cur: limit.soft(), rlim_max: limit.hard() };
        // SAFETY: reads one structure, which outlives the call.
        let result = unsafe { libc::prlimit(pid, resource, &raw const value, std::ptr::null_mut()) };
        if result != 0 {
            return Err(init::Error::Rlimit { limit: limit.typ().to_string(), reason: Os::last() }.into());
        }
    }
    Ok(())
}

pub(super) fn run_runtime_hooks(spec: &Spec, state: &State, pid: i32) -> Result<(), Error> {
    let Some(hooks) = spec.hooks() else { return Ok(()) };
    let output = hooks::Output::open(Some(hooks), &state.annotations)?;
    let moment = |kind, status| hooks::Moment {
        kind,
        state,
        status,
        pid: Some(pid),
        environment: None,
        directory: Some(&state.bundle),
        output: &output,
    };
    #[allow(deprecated, reason = "docker still sets up its network in prestart")]
    let prestart = hooks.prestart();
    // To the specification, `create` is done before these and not before those (config.md, "POSIX-platform Hooks").
    moment("prestart", Status::Created).run(prestart.as_ref())?;
    Ok(moment("createRuntime", Status::Creating).run(hooks.create_runtime().as_ref())?)
}

/// Writes a pid in decimal, without a newline: containerd takes the file's whole content for the number. By
/// rename, so that nobody reads half of it.
///
/// # Errors
/// [`Error::PidFile`].
pub(super) fn write_pid_file(path: &Path, pid: i32) -> Result<(), Error> {
    file::replace(path, pid.to_string().as_bytes())
        .map_err(|e| Error::PidFile { path: path.to_owned(), reason: e.into() })
}
