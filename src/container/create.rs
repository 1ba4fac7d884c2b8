//! The parent's side of making a container, from config.json to a process that waits to be started.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use coracle_seccomp::Filter;
use oci_spec::runtime::{LinuxNamespaceType, Process as SpecProcess, ProcessBuilder, Spec};
use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;
use rustix::process::{Pid, WaitOptions};

use super::delete::remove_directory;
use super::exec::plan_terminal;
use super::given::{JoinCgroup, plan_cgroup, set_oom_score};
use super::pidfd::{PidfdSocket, send_to_receiver};
use super::process::boot_id;
use super::served::{Request, Served, child_gone, hand_over};
use super::turn::Turn;
use super::{CONFIG_FILE, Container, Error, Process, STATE_FILE, State, Status, directory_of, io_error};
use crate::cgroup::Cgroup;
use crate::cli::Global;
use crate::error::Os;
use crate::foreground::SavedMask;
use crate::handler;
use crate::init::namespaces::{Cloned, Namespaces};
use crate::init::scheduling::Affinity;
use crate::init::sync::{self, Message, Socket};
use crate::init::{self, Program, limits};
use crate::procfs::Procfs;
use crate::seccomp::{self, Listener};
use crate::{config, file, hooks, net_devices, notify, passwd, resctrl, rootfs, userns};

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
    /// What was saved in there, once that was.
    pub(super) container: Option<Container>,
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
        if let Some(path) = &self.pid_file {
            let _ = fs::remove_file(path);
        }
        let Some(directory) = &self.directory else { return };
        let _turn = Turn::take_or_go_on(directory);
        // What has the name by now, and the cgroup, is somebody else's.
        if self.was_deleted() && directory.exists() {
            return;
        }
        if let Some(cgroup) = &self.cgroup {
            let _ = cgroup.remove();
        }
        if let Some(group) = &self.intel_rdt {
            let _ = group.remove();
        }
        let _ = remove_directory(directory);
    }
}

impl Undo {
    /// Whether `delete --force` took everything away under our hands.
    fn was_deleted(&self) -> bool {
        let saved = self.container.as_ref().map(Container::is_gone);
        saved.or_else(|| self.directory.as_ref().map(|directory| !directory.exists())).unwrap_or(false)
    }

    /// The error of what is to be undone.
    pub(super) fn explain(&self, error: Error) -> Error {
        // That may still be at work.
        let _turn = self.directory.as_deref().map(Turn::take);
        if self.was_deleted() { Error::DeletedMeanwhile } else { error }
    }

    pub(super) fn keep(&mut self) {
        std::mem::take(&mut self.directory);
        std::mem::take(&mut self.container);
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
    let mut undo = Undo::default();
    make(request, global, &mut undo).map_err(|error| undo.explain(error))
}

fn make(request: Create<'_>, global: &Global, undo: &mut Undo) -> Result<Created, Error> {
    let (listen_fds, preserve_fds) = passed_descriptors(request.preserve_fds)?;
    let bundle = fs::canonicalize(request.bundle).map_err(io_error(request.bundle))?;
    let config_path = request.config.map_or_else(|| bundle.join(CONFIG_FILE), Path::to_owned);
    let (mut spec, configuration) = config::read(&config_path)?;
    config::check(&spec)?;
    rootfs::check(&spec)?;
    net_devices::check(&spec)?;
    if spec.process().is_none() && request.attended.is_none() {
        spec.set_process(Some(no_process()?));
    }
    let wanted = config::process(&spec)?.terminal().unwrap_or(false);
    let rootfs = find_rootfs(&spec, &bundle)?;
    let choice = handler::choose(spec.annotations().as_ref(), &called_name())?;
    let namespaces = Namespaces::open(&spec)?;
    let attended = request.attended.is_some();
    let foreground = request.attended.as_ref().is_some_and(|a| a.foreground);
    let terminal = plan_terminal(wanted, request.console_socket, foreground)?;
    let annotations = spec.annotations().clone().unwrap_or_default();
    let (filter, listener) = plan_seccomp(&spec, &annotations, global)?;
    let output = hooks::Output::open(spec.hooks().as_ref(), &annotations)?;
    let pidfd_socket = request.pidfd_socket.map(PidfdSocket::connect).transpose()?;

    // From here on there are things to undo.
    let directory = make_directory(global, request.id)?;
    undo.directory = Some(directory.clone());
    notify::add(&mut spec, &directory)?;
    let process = config::process(&spec)?;
    let cgroup = plan_cgroup(&spec, request.id, global)?;
    let mut container = Container { directory, state: new_state(&spec, request.id, bundle, rootfs, cgroup) };
    container.state.no_new_keyring = request.no_new_keyring;
    let rdt = spec.linux().as_ref().and_then(|l| l.intel_rdt().as_ref());
    if let Some(rdt) = rdt {
        container.state.intel_rdt = Some(resctrl::Group::plan(&resctrl::mount_point()?, rdt, request.id));
    }
    // Before anything is made outside the directory: should we be killed, `delete --force` finds it by this.
    container.save()?;
    undo.container = Some(container.clone());
    if let Some(cgroup) = &mut container.state.cgroup {
        cgroup.make(&spec, global.rootless)?;
        undo.cgroup = Some(cgroup.clone());
    }
    if let (Some(group), Some(rdt)) = (&container.state.intel_rdt, rdt) {
        group.make(rdt)?;
        undo.intel_rdt = Some(group.clone());
    }
    let fifo = if request.attended.is_none() { Some(make_fifo(&container.fifo())?) } else { None };

    // The container's process.
    let (ours, theirs) = sync::pair()?;
    let cgroup = JoinCgroup::open(container.state.cgroup.as_ref(), !namespaces.needs_helper(), None)?;
    let into = cgroup.v2.as_ref().map(AsFd::as_fd);
    let procfs = Procfs::open()?;
    let map_ids = |pid| userns::map_ids(pid, &spec, &procfs);
    let (pid, pidfd) = match namespaces.clone_into(into, &ours, &theirs, &procfs, map_ids)? {
        Cloned::Parent { pid, pidfd } => (pid, pidfd),
        Cloned::Child => {
            // Nothing of the container is ours to undo in here. Nor is it to be freed: that would copy pages.
            std::mem::forget(std::mem::take(undo));
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
                procfs,
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
            match init::container(&inside, program, &theirs) {
                Err(error) => init::fail(&error, Some(&theirs)),
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
    set_oom_score(pid, process, &procfs, global.rootless)?;
    ours.send(&Message::Continue).map_err(|e| child_gone(&ours, e))?;

    // What the process does not wait for.
    drop(cgroup);
    container.keep_config(&configuration)?;
    container.state.init = Process::find(pid)?;
    let running = container.prepare(STATE_FILE, &container.state)?;
    let mut served = Served::new(choice, process.args().iter().flatten().next());
    served.outside = Some(rootfs::Server {
        spec: &spec,
        bundle: &container.state.bundle,
        rootfs: &container.state.rootfs,
        pid,
    });
    let answer = |request: Request| match request {
        Request::Hooks => run_runtime_hooks(&spec, &container.state, pid),
        Request::Limits => Ok(limits::set(pid, process)?),
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
    let gone = || init::Error::ChildGone(String::new());
    // Without a cgroup, nobody who deletes it before this is saved finds the process.
    let turn = match container.state.cgroup.as_ref().and_then(Cgroup::freezer) {
        Some(_) => None,
        None => Some(container.take_turn()?.ok_or(Error::DeletedMeanwhile)?),
    };
    // It is alive, unless it had said why not.
    container.state.init.ok_or_else(gone)?;
    running.commit()?;
    drop(turn);
    if let Some(socket) = pidfd_socket {
        socket.send("standard", &pidfd)?;
    }
    send_to_receiver(&container.state.annotations, &pidfd)?;
    let notify = if attended { notify::Proxy::open(&container.directory)? } else { None };
    if let Some(path) = request.pid_file {
        write_pid_file(path, pid)?;
        undo.pid_file = Some(path.to_owned());
    }
    if !attended {
        // From here on it lives without us.
        ours.send(&Message::Continue).map_err(|e| child_gone(&ours, e))?;
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
        own_pids: config::makes_namespace(spec, LinuxNamespaceType::Pid),
        poststop: spec.hooks().as_ref().is_some_and(|hooks| hooks.poststop().is_some()),
        no_new_keyring: false,
        intel_rdt: None,
        cgroup,
        boot: boot_id(),
    }
}

/// As runc's `list` shows it: the name, or the number of a user who has none. Nobody needs to look up root's.
fn owner() -> String {
    match rustix::process::getuid().as_raw() {
        0 => "root".to_owned(),
        uid => passwd::name(uid).unwrap_or_else(|| format!("#{uid}")),
    }
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
    let path = rootfs::clean(&bundle.join(root.path()));
    // As with runc: who puts a link there would otherwise choose what the container sees of the host.
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    match openat2(CWD, &path, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS) {
        Ok(_) => Ok(path),
        Err(Errno::LOOP) => {
            Err(config::wrong("root.path", path.display(), "is a symlink, or lies behind one").into())
        }
        Err(errno) => Err(Error::Io {
            path: PathBuf::from(format!("config.json: root.path: {}", path.display())),
            reason: errno.into(),
        }),
    }
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

/// crun's: a value other than "0" leaves a container's processes in the groups of the engine.
pub(super) fn keep_groups(annotations: &HashMap<String, String>) -> bool {
    annotations.get("run.oci.keep_original_groups").is_some_and(|value| value != "0")
}

pub(super) fn make_directory(global: &Global, id: &str) -> Result<PathBuf, Error> {
    let directory = directory_of(&global.root, id)?;
    let mut builder = fs::DirBuilder::new();
    builder.mode(0o700);
    match builder.create(&directory) {
        Ok(()) => return Ok(directory),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Err(Error::Exists),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(io_error(&directory)(e)),
    }
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&global.root).map_err(io_error(&global.root))?;
    match builder.create(&directory) {
        Ok(()) => Ok(directory),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Err(Error::Exists),
        Err(e) => Err(io_error(&directory)(e)),
    }
}

/// The fifo that init waits on. Open for both directions, so that neither its open nor that of `start` waits.
fn make_fifo(path: &Path) -> Result<OwnedFd, Error> {
    let error = |e: rustix::io::Errno| Error::Io { path: path.to_owned(), reason: e.into() };
    rustix::fs::mknodat(rustix::fs::CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).map_err(error)?;
    rustix::fs::open(path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).map_err(error)
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

/// Writes a pid in decimal, without a newline: containerd takes the file's whole content for the number.
///
/// # Errors
/// [`Error::PidFile`].
pub(super) fn write_pid_file(path: &Path, pid: i32) -> Result<(), Error> {
    file::publish(path, pid.to_string().as_bytes())
        .map_err(|e| Error::PidFile { path: path.to_owned(), reason: e.into() })
}
