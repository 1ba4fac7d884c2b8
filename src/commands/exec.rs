//! `exec`: another program in a running container.

use std::path::PathBuf;

use oci_spec::runtime::{Capability, LinuxCapabilities, Process, Spec, User};

use crate::cgroup::Place;
use crate::cli::Global;
use crate::container::{self, Container, Exec};
use crate::init::identity;
use crate::{Error, config, foreground, log, program};

/// Arguments of `exec`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// File with a `process` object (config.md); instead of arguments
    #[arg(short, long, value_name = "FILE")]
    process: Option<PathBuf>,
    /// Return when the program runs
    #[arg(short, long)]
    detach: bool,
    /// Give the program a terminal
    #[arg(short, long)]
    tty: bool,
    /// File that receives the pid of the program
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// Unix socket that receives the terminal's master
    #[arg(long, value_name = "SOCKET")]
    console_socket: Option<PathBuf>,
    /// Pass this many descriptors, from 3 on, to the program
    #[arg(long, value_name = "N", default_value_t = 0)]
    preserve_fds: u32,
    /// Working directory in the container
    #[arg(long, value_name = "DIR")]
    cwd: Option<PathBuf>,
    /// Add to the environment
    #[arg(short, long, value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// Run as this user
    #[arg(short, long, value_name = "UID[:GID]")]
    user: Option<String>,
    /// Add to the supplementary groups
    #[arg(short = 'g', long, value_name = "GID")]
    additional_gids: Vec<u32>,
    /// Add to all capability sets
    #[arg(short, long, value_name = "CAP")]
    cap: Vec<String>,
    /// SELinux label of the program
    #[arg(long, value_name = "LABEL")]
    process_label: Option<String>,
    /// AppArmor profile of the program
    #[arg(long, value_name = "PROFILE")]
    apparmor: Option<String>,
    /// Forbid the program to gain privileges
    #[arg(long)]
    no_new_privs: bool,
    /// Run it in a cgroup below the container's, which must exist; on cgroup v1 also for named controllers only
    #[arg(long, value_name = "[CONTROLLER:]PATH")]
    cgroup: Vec<String>,
    /// Unix socket that receives a descriptor of the program's process (pidfd_open(2))
    #[arg(long, value_name = "SOCKET")]
    pidfd_socket: Option<PathBuf>,
    /// Run it in a paused container; it stands still until `resume`
    #[arg(long)]
    ignore_paused: bool,
    /// Id of the container
    id: String,
    /// The program and its arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

/// Runs the program; in the foreground the exit code is its own.
///
/// # Errors
/// Those of [`container::exec`].
pub fn run(args: &Args, global: &Global) -> Result<u8, Error> {
    program::protect()?;
    let container = Container::load(&global.root, &args.id)?;
    let ended = || match container.ended()? {
        container::Error::NotRunning => Some(container::Error::ExecStopped),
        gone => Some(gone),
    };
    let spec = container.spec().map_err(|error| ended().unwrap_or(error))?;
    let process = process(&spec, args).map_err(|error| ended().map_or(error, Error::from))?;
    config::check_process(&process)?;
    let cgroup = Place::parse(&args.cgroup).map_err(Error::new)?;
    let foreground = !args.detach;
    let signals = if foreground { Some(foreground::block_signals()?) } else { None };
    let request = Exec {
        spec: &spec,
        process: &process,
        pid_file: args.pid_file.as_deref(),
        console_socket: args.console_socket.as_deref(),
        foreground,
        preserve_fds: args.preserve_fds,
        pidfd_socket: args.pidfd_socket.as_deref(),
        cgroup: cgroup.as_ref(),
        ignore_paused: args.ignore_paused,
        signals,
    };
    let executed = container::exec(&container, request, global).map_err(|error| {
        let error = ended().unwrap_or(error);
        Error::new(format_args!("exec failed: unable to start container process: {error}"))
    })?;
    if args.detach {
        return Ok(0);
    }
    Ok(foreground::wait(executed.pid, executed.pidfd, executed.terminal)?)
}

/// The container's own `process`, with the arguments of this command line; or the one of a file.
fn process(spec: &Spec, args: &Args) -> Result<Process, Error> {
    let own = config::process(spec)?;
    if let Some(path) = &args.process {
        let mut process = config::read_process(path)?;
        inherit(&mut process, own);
        return with_flags(process, args);
    }
    if args.command.is_empty() {
        return Err(Error::new("exec: give a program to run, or --process FILE"));
    }
    let mut process = own.clone();
    process.set_args(Some(args.command.clone()));
    process.set_terminal(Some(args.tty));
    with_flags(process, args)
}

/// What a file does not say is as for the container's own process; so it is with runc.
fn inherit(process: &mut Process, own: &Process) {
    let empty = |text: &Option<String>| text.as_deref().is_none_or(str::is_empty);
    if process.capabilities().is_none() {
        process.set_capabilities(own.capabilities().clone());
    }
    if empty(process.apparmor_profile()) {
        process.set_apparmor_profile(own.apparmor_profile().clone());
    }
    if empty(process.selinux_label()) {
        process.set_selinux_label(own.selinux_label().clone());
    }
    if process.rlimits().as_ref().is_none_or(Vec::is_empty) {
        process.set_rlimits(own.rlimits().clone());
    }
    if process.io_priority().is_none() {
        process.set_io_priority(*own.io_priority());
    }
    if process.scheduler().is_none() {
        process.set_scheduler(own.scheduler().clone());
    }
    if process.exec_cpu_affinity().is_none() {
        process.set_exec_cpu_affinity(own.exec_cpu_affinity().clone());
    }
    if process.user().umask().is_none() {
        process.user_mut().set_umask(own.user().umask());
    }
}

fn with_flags(mut process: Process, args: &Args) -> Result<Process, Error> {
    if args.tty {
        process.set_terminal(Some(true));
    }
    if let Some(cwd) = &args.cwd {
        process.set_cwd(cwd.clone());
    }
    if !args.env.is_empty() {
        let mut env = process.env().clone().unwrap_or_default();
        for entry in &args.env {
            let Some((name, _)) = entry.split_once('=') else {
                return Err(Error::new(format_args!("--env {entry}: not NAME=VALUE")));
            };
            env.retain(|e| e.split('=').next() != Some(name));
            env.push(entry.clone());
        }
        process.set_env(Some(env));
    }
    if args.user.is_some() || !args.additional_gids.is_empty() {
        process.set_user(user(process.user(), args)?);
    }
    if !args.cap.is_empty() {
        add_capabilities(&mut process, &args.cap)?;
    }
    if args.process_label.is_some() {
        process.set_selinux_label(args.process_label.clone());
    }
    if args.apparmor.is_some() {
        process.set_apparmor_profile(args.apparmor.clone());
    }
    if args.no_new_privs {
        process.set_no_new_privileges(Some(true));
    }
    Ok(process)
}

fn user(current: &User, args: &Args) -> Result<User, Error> {
    let mut user = current.clone();
    if let Some(text) = &args.user {
        let wrong = || Error::new(format_args!("--user {text}: not UID or UID:GID in numbers"));
        let (uid, gid) = text.split_once(':').map_or((text.as_str(), None), |(uid, gid)| (uid, Some(gid)));
        user.set_uid(uid.parse().map_err(|_| wrong())?);
        if let Some(gid) = gid {
            user.set_gid(gid.parse().map_err(|_| wrong())?);
        }
    }
    if !args.additional_gids.is_empty() {
        let mut groups = user.additional_gids().clone().unwrap_or_default();
        groups.extend(&args.additional_gids);
        user.set_additional_gids(Some(groups));
    }
    Ok(user)
}

/// As runc: into the bounding, effective and permitted sets, and the ambient one where the container has inheritable
/// capabilities. What is inheritable stays as the container's configuration has it: more of it would be an ordinary
/// user's by way of a file with inheritable capabilities (CVE-2022-29162).
fn add_capabilities(process: &mut Process, names: &[String]) -> Result<(), Error> {
    let mut capabilities = process.capabilities().clone().unwrap_or_else(|| {
        let mut none = LinuxCapabilities::default();
        none.set_bounding(None)
            .set_effective(None)
            .set_permitted(None)
            .set_inheritable(None)
            .set_ambient(None);
        none
    });
    for name in names {
        let upper = name.to_ascii_uppercase();
        let full = if upper.starts_with("CAP_") { upper } else { format!("CAP_{upper}") };
        let Ok(capability) = serde_json::from_value::<Capability>(full.into()) else {
            // As those of config.json, for the next kernel may have it.
            log::warn(&identity::unavailable(std::slice::from_ref(name)));
            continue;
        };
        let with = |set: &Option<std::collections::HashSet<Capability>>| {
            let mut set = set.clone().unwrap_or_default();
            set.insert(capability);
            Some(set)
        };
        let (bounding, effective, permitted) =
            (with(capabilities.bounding()), with(capabilities.effective()), with(capabilities.permitted()));
        capabilities.set_bounding(bounding).set_effective(effective).set_permitted(permitted);
        if capabilities.inheritable().as_ref().is_some_and(|set| !set.is_empty()) {
            let ambient = with(capabilities.ambient());
            capabilities.set_ambient(ambient);
        }
    }
    process.set_capabilities(Some(capabilities));
    Ok(())
}
