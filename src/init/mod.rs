//! Everything that runs inside the container's namespaces, in execution order.
//!
//! [`container`] is what `create` and `run` clone, [`join`] what `exec` clones. Both set the scene and end in
//! [`process::become_program`], where privileges are dropped and the program takes over. Until then they
//! talk to their parent over [`sync`]; whatever goes wrong is sent there as one line.

pub mod entrypoint;
pub mod identity;
pub mod limits;
pub mod namespaces;
pub mod personality;
pub mod process;
mod scene;
pub mod scheduling;
pub mod sync;

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Linux, LinuxNamespaceType, Process, Spec};

use crate::cgroup::{self, Entrance};
use crate::container::{State, Status};
use crate::error::Os;
use crate::handler::Choice;
use crate::procfs::Procfs;
use crate::{config, console, hooks, labels, rootfs};
use labels::Labels;
use namespaces::Namespaces;
use scheduling::Affinity;
use sync::{Message, Socket};

/// What can go wrong on the way into a container.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "each variant says itself what happened")]
pub enum Error {
    #[error("cloning the container's process: {0}")]
    Clone(Os),
    #[error("joining the {kind} namespace {path}: {reason}")]
    Namespace { kind: LinuxNamespaceType, path: PathBuf, reason: Os },
    #[error("making a {kind} namespace: {reason}")]
    NewNamespace { kind: LinuxNamespaceType, reason: Os },
    #[error("talking to the container's process: {0}")]
    Sync(Os),
    #[error("an unexpected message between the runtime and the container's process")]
    Unexpected,
    #[error("the runtime has ended")]
    ParentGone,
    #[error("the container's process ended before it was set up{0}")]
    ChildGone(String),
    /// What the process inside reported; it has its words already.
    #[error("{0}")]
    Reported(String),
    #[error("{step}: {reason}")]
    Step { step: &'static str, reason: Os },
    #[error("{call} {id}: {reason}")]
    Id { call: &'static str, id: u32, reason: Os },
    #[error("config.json: process is missing, so there is nothing to start")]
    NoProcess,
    #[error("unable to apply caps: {0}")]
    Capabilities(Os),
    #[error("writing {value:?} to {path}: {reason}")]
    Write { path: PathBuf, value: String, reason: Os },
    #[error("error setting rlimit {limit}: {reason}")]
    Rlimit { limit: String, reason: Os },
    #[error("process.scheduler: {0}")]
    Scheduler(String),
    #[error("process.env: {0:?}: invalid environment variable: {1}")]
    Environment(String, &'static str),
    #[error("exec: {name:?}: executable file not found in $PATH")]
    NotFound { name: String },
    #[error("exec: {name:?}: stat {name}: {reason}")]
    StatProgram { name: String, reason: Os },
    #[error("exec: {name:?}: {reason}")]
    NotExecutable { name: String, reason: Os },
    #[error("exec {path}: {reason}")]
    Exec { path: String, reason: Os },
    #[error("chdir to cwd ({cwd:?}) set in config.json failed: {reason}")]
    Cwd { cwd: PathBuf, reason: Os },
    #[error(
        "current working directory is outside of container mount namespace root -- possible container breakout attempt"
    )]
    CwdOutside,
    #[error("mapping ids: {0}")]
    IdMap(String),
    #[error(transparent)]
    Cgroup(#[from] cgroup::Error),
    #[error(transparent)]
    Rootfs(#[from] rootfs::Error),
    #[error(transparent)]
    Console(#[from] console::Error),
    #[error(transparent)]
    Hook(#[from] hooks::Error),
    #[error(transparent)]
    Config(#[from] config::Error),
    #[error(transparent)]
    Seccomp(#[from] coracle_seccomp::Error),
}

impl Error {
    fn step(step: &'static str, reason: impl Into<Os>) -> Self {
        Self::Step { step, reason: reason.into() }
    }

    fn id(call: &'static str, id: u32, reason: impl Into<Os>) -> Self {
        Self::Id { call, id, reason: reason.into() }
    }
}

/// How the terminal's master reaches whoever serves it.
#[derive(Debug)]
pub enum Terminal {
    /// Over `--console-socket`, to the engine.
    Engine(OwnedFd),
    /// Over [`sync`], to the parent, which stays in the foreground.
    Parent,
}

/// What every process that enters a container needs, be it the first or one of `exec`.
#[derive(Debug)]
pub struct Program<'a> {
    /// `process` of the configuration or of the exec request.
    pub process: &'a Process,
    /// The container's id.
    pub id: &'a str,
    /// The host's procfs, open until the process is in its namespaces.
    pub procfs: Procfs,
    /// What holds for every process of the container.
    pub linux: Option<&'a Linux>,
    /// Where it may run; the cgroup has a say in that too.
    pub affinity: Affinity,
    /// Stay in the engine's session keyring.
    pub no_new_keyring: bool,
    /// Keep the supplementary groups that the engine has.
    pub keep_groups: bool,
    /// What becomes of the terminal, when `process.terminal` is set.
    pub terminal: Option<Terminal>,
    /// The way into the container's v1 cgroups; without it the parent puts us there.
    pub cgroup: Option<Entrance>,
    /// The compiled seccomp profile.
    pub seccomp: Option<coracle_seccomp::Filter>,
    /// Who may run the program.
    pub handler: Choice,
    /// The value of the annotation [`crate::handler::DIRECTORIES`].
    pub wasm_directories: Option<String>,
    /// How many descriptors from 3 on belong to the program.
    pub preserve_fds: u32,
    /// How many of those are sockets for it (sd_listen_fds(3)).
    pub listen_fds: u32,
    /// The signal mask to go back to before the program runs.
    pub signals: Option<crate::foreground::SavedMask>,
}

/// What the first process of a container needs besides.
#[derive(Debug)]
pub struct Container<'a> {
    /// The configuration.
    pub spec: &'a Spec,
    /// The state, for hooks.
    pub state: &'a State,
    /// The namespaces to enter.
    pub namespaces: &'a Namespaces,
    /// Where the container's cgroup lies in every hierarchy.
    pub cgroup_mounts: &'a [(PathBuf, String)],
    /// `--no-pivot`.
    pub no_pivot: bool,
    /// Where hooks write.
    pub hooks: &'a hooks::Output,
    /// What `start` opens. Without it, the parent itself says when to go on.
    pub fifo: Option<OwnedFd>,
}

/// The life of a container's first process up to its program. Returns only when something failed.
///
/// # Errors
/// [`Error`], for the parent.
pub fn container(
    container: &Container<'_>,
    program: Program<'_>,
    socket: &Socket,
) -> Result<std::convert::Infallible, Error> {
    let Container { spec, state, .. } = container;
    scene::die_with_parent(true)?;
    program.cgroup.as_ref().map_or(Ok(()), Entrance::enter)?;
    // Ids are mapped by the parent.
    socket.await_continue()?;
    program.affinity.settle()?;
    let labels = Labels::open(program.process, &program.procfs)?;
    if container.namespaces.change_user() {
        namespaces::become_root()?;
        // With other ids, the kernel has forgotten it.
        scene::die_with_parent(true)?;
    }
    container.namespaces.enter()?;
    rustix::process::setsid().map_err(|e| Error::step("setsid", e))?;
    if !program.no_new_keyring {
        labels::apply_to_keys(program.process, &program.procfs)?;
        scene::new_session_keyring(program.id)?;
    }
    if container.namespaces.makes(LinuxNamespaceType::Network) {
        scene::raise_loopback()?;
    }
    scene::set_names(spec)?;
    scene::set_sysctls(spec, &program.procfs)?;

    // The root file system, up to the moment it becomes the root.
    let context = rootfs::Context {
        spec,
        rootfs: &state.rootfs,
        bundle: &state.bundle,
        user_namespace: container.namespaces.change_user(),
        new_mount_ns: config::has_namespace(spec, LinuxNamespaceType::Mount),
        cgroup_mounts: container.cgroup_mounts,
        cgroup_ns: config::has_namespace(spec, LinuxNamespaceType::Cgroup),
        no_pivot: container.no_pivot,
        outside: socket,
    };
    let prepared = rootfs::prepare(&context)?;
    run_hooks_before_pivot(container, socket)?;
    rootfs::enter(&context, &prepared)?;

    // Inside.
    scene::make_cwd(program.process.cwd())?;
    if let Some(terminal) = &program.terminal {
        scene::open_terminal(program.process, terminal, true, socket)?;
    }
    scene::set_streams(program.process.user(), true)?;
    rootfs::finish(&context, &prepared)?;
    process::become_program(program, Some(container), &labels, socket)
}

impl rootfs::Outside for Socket {
    fn ask(&self, request: rootfs::Request) -> Result<Option<OwnedFd>, rootfs::Error> {
        let answer = self.send(&Message::Ask(request)).and_then(|()| self.receive());
        match answer.map_err(|error| rootfs::Error::Outside(error.to_string()))? {
            Some(Message::Answer(given)) => Ok(given),
            Some(_) => Err(rootfs::Error::Outside(Error::Unexpected.to_string())),
            None => Err(rootfs::Error::Outside(Error::ParentGone.to_string())),
        }
    }
}

/// `prestart` and `createRuntime` run in the runtime's namespaces, so the parent runs them; `createContainer` runs here
/// (config.md, "POSIX-platform Hooks").
fn run_hooks_before_pivot(container: &Container<'_>, socket: &Socket) -> Result<(), Error> {
    let Some(hooks) = container.spec.hooks() else { return Ok(()) };
    #[allow(deprecated, reason = "docker still sets up its network in prestart")]
    let outside = [hooks.prestart(), hooks.create_runtime()];
    if outside.iter().any(|list| list.as_ref().is_some_and(|l| !l.is_empty())) {
        socket.send(&Message::RunHooks)?;
        socket.await_continue()?;
    }
    let moment = hooks::Moment {
        kind: "createContainer",
        state: container.state,
        status: Status::Creating,
        pid: Some(own_pid()),
        environment: Some(&[]),
        directory: None,
        output: container.hooks,
    };
    Ok(moment.run(hooks.create_container().as_ref())?)
}

/// Our pid, as the container sees it; that is how hooks inside are told (runtime.md, "State").
fn own_pid() -> i32 {
    std::process::id().cast_signed()
}

/// The life of an `exec`ed process up to its program. `enter` joins the container's namespaces, as far as the clone did
/// not. Returns only when something failed.
///
/// # Errors
/// [`Error`], for the parent.
pub fn join(
    program: Program<'_>,
    enter: impl FnOnce() -> Result<(), Error>,
    socket: &Socket,
) -> Result<std::convert::Infallible, Error> {
    program.cgroup.as_ref().map_or(Ok(()), Entrance::enter)?;
    socket.await_continue()?;
    program.affinity.settle()?;
    let labels = Labels::open(program.process, &program.procfs)?;
    enter()?;
    if !program.no_new_keyring {
        labels::apply_to_keys(program.process, &program.procfs)?;
        scene::new_session_keyring(program.id)?;
    }
    rustix::process::setsid().map_err(|e| Error::step("setsid", e))?;
    if let Some(terminal) = &program.terminal {
        scene::open_terminal(program.process, terminal, false, socket)?;
    }
    scene::set_streams(program.process.user(), false)?;
    process::become_program(program, None, &labels, socket)
}

/// Reports to the parent and ends this process. Once the program's start is up to `start`, there is no parent,
/// and the container's standard error gets the report.
pub fn fail(error: &Error, socket: Option<&Socket>) -> ! {
    match socket {
        // A parent that is gone has reported what ended it.
        Some(socket) => drop(socket.send(&Message::Failed(error.to_string()))),
        None => eprintln!("{error}"),
    }
    // SAFETY: ends this process without running what the parent registered to run at its own end.
    unsafe { libc::_exit(1) }
}

/// Changes to the root and directory of another process, for containers without a mount namespace of their own.
///
/// # Errors
/// [`Error::Step`].
pub fn chroot(root: &OwnedFd) -> Result<(), Error> {
    rustix::process::fchdir(root)
        .and_then(|()| rustix::process::chroot(Path::new(".")))
        .map_err(|e| Error::step("chroot into the container's root", e))
}
