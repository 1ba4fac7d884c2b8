//! A container that runs on from where a checkpoint left it.
//!
//! CRIU makes the processes, as our children; around them, a container is made as by `create`, and undone in the same way
//! when something fails.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxNamespace, LinuxNamespaceType, Spec};
use rustix::mount::{UnmountFlags, mount_bind_recursive, unmount};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::checkpoint::DESCRIPTORS;
use super::create::{Undo, find_rootfs, make_directory, new_state, run_runtime_hooks, write_pid_file};
use super::exec::plan_terminal;
use super::given::plan_cgroup;
use super::{CONFIG_FILE, Container, Error, Process, io_error};
use crate::cli::Global;
use crate::criu::external::{self, add_mount};
use crate::criu::rpc::{Cgroup_root, Criu_notify, Criu_opts, Criu_req, Criu_req_type};
use crate::criu::{self, Session};
use crate::error::Os;
use crate::init::Terminal;
use crate::{config, console, rootfs};

/// What `restore` is asked for.
#[derive(Debug)]
pub struct Restore<'a> {
    /// The id of the new container, the old one's or another.
    pub id: &'a str,
    /// Directory of the bundle.
    pub bundle: &'a Path,
    /// What `checkpoint` has as well.
    pub options: &'a criu::Options,
    /// Where the pid goes.
    pub pid_file: Option<&'a Path>,
    /// The engine's socket for the terminal's master.
    pub console_socket: Option<&'a Path>,
    /// Whether we stay, and serve the terminal.
    pub foreground: bool,
    /// Close connections instead of restoring them.
    pub tcp_close: bool,
    /// `TYPE:NAME` of the processes' security label.
    pub lsm_profile: Option<&'a str>,
    /// SELinux label of the mounts.
    pub lsm_mount_context: Option<&'a str>,
}

/// A container that runs again.
#[derive(Debug)]
pub struct Restored {
    /// The container.
    pub container: Container,
    /// Its first process.
    pub pid: i32,
    /// The same, as a descriptor.
    pub pidfd: OwnedFd,
    /// The terminal's master, when we are to serve it.
    pub terminal: Option<OwnedFd>,
}

/// Makes a container out of a checkpoint, and returns when it runs. On an error, nothing of it is left.
///
/// # Errors
/// [`Error::Criu`] with CRIU's reason, and everything that can be wrong with a bundle.
pub fn restore(request: &Restore<'_>, global: &Global) -> Result<Restored, Error> {
    let mut undo = Undo::default();
    make(request, global, &mut undo).map_err(|error| undo.explain(error))
}

fn make(request: &Restore<'_>, global: &Global, undo: &mut Undo) -> Result<Restored, Error> {
    let bundle = fs::canonicalize(request.bundle).map_err(io_error(request.bundle))?;
    let config_path = bundle.join(CONFIG_FILE);
    let (spec, configuration) = config::read(&config_path)?;
    config::check(&spec)?;
    rootfs::check(&spec)?;
    let process = config::process(&spec)?;
    let rootfs = find_rootfs(&spec, &bundle)?;
    let wanted = process.terminal().unwrap_or(false);
    let terminal = plan_terminal(wanted, request.console_socket, request.foreground)?;
    let directories = request.options.open("restore.log").map_err(|(path, e)| io_error(&path)(e))?;
    let labelled = request.lsm_profile.is_some() || request.lsm_mount_context.is_some();
    criu::require_version(if labelled { criu::LSM_VERSION } else { criu::MINIMUM_VERSION })?;

    // From here on there are things to undo.
    let directory = make_directory(global, request.id)?;
    undo.directory = Some(directory.clone());
    let cgroup = plan_cgroup(&spec, request.id, global)?;
    let mut container = Container { directory, state: new_state(&spec, request.id, bundle, rootfs, cgroup) };
    container.save()?;
    undo.container = Some(container.clone());
    if let Some(cgroup) = &mut container.state.cgroup {
        cgroup.make(&spec, global.rootless)?;
        undo.cgroup = Some(cgroup.clone());
    }
    container.keep_config(&configuration)?;

    let opts = request.options.request(&directories, criu::config_annotation(&container.state.annotations));
    let mut opts = request.fill(opts);
    rootfs::make_mount_points(&spec, &container.state.rootfs, &container.state.bundle)?;
    container.provide_mounts(&mut opts, &spec)?;
    let images = request.options.images().map_err(io_error(Path::new(".")))?;
    let streams = saved_streams(&images.join(DESCRIPTORS))?;
    external::inherit_streams(&mut opts, &streams);
    let _namespaces = external::join_namespaces(&mut opts, &spec).map_err(|(path, e)| io_error(&path)(e))?;
    let root = Root::mount(&container.state.rootfs, &Root::place(&container.directory))?;
    opts.root = Some(root.0.display().to_string());

    let session = Session::start()?;
    if let Some(cgroup) = &container.state.cgroup {
        cgroup.add(session.pid())?;
        opts.cg_root = cgroup_roots(session.pid())?;
    }
    let mut criu_request = Criu_req::new();
    criu_request.set_type(Criu_req_type::RESTORE);
    criu_request.opts = Some(opts).into();
    let mut master = None;
    let answer = session.ask(&criu_request, &directories.log, |notify, descriptor| {
        notified(notify, descriptor, &spec, &container, terminal.as_ref(), &mut master)
    })?;
    drop(root);

    let pid = answer.restore.pid();
    undo.pid = Some(pid);
    let pidfd =
        Pid::from_raw(pid).ok_or(rustix::io::Errno::SRCH).and_then(|p| pidfd_open(p, PidfdFlags::empty()));
    let pidfd =
        pidfd.map_err(|e| Error::Io { path: PathBuf::from(format!("process {pid}")), reason: e.into() })?;
    container.state.init = Some(Process::find(pid)?.ok_or(Error::ExecStopped)?);
    container.save()?;
    container.note_time_namespace(spec, pid)?;
    if let Some(path) = request.pid_file {
        write_pid_file(path, pid)?;
        undo.pid_file = Some(path.to_owned());
    }
    undo.keep();
    Ok(Restored { container, pid, pidfd, terminal: master })
}

impl Restore<'_> {
    fn fill(&self, mut opts: Criu_opts) -> Criu_opts {
        // A child of ours and not of CRIU's, which ends.
        opts.set_rst_sibling(true);
        opts.set_evasive_devices(true);
        opts.set_tcp_close(self.tcp_close);
        opts.lsm_profile = self.lsm_profile.map(str::to_owned);
        opts.lsm_mount_context = self.lsm_mount_context.map(str::to_owned);
        opts
    }
}

impl Container {
    /// CRIU puts what it restores into a time namespace, so that clocks go on; `exec` is to join that too.
    fn note_time_namespace(&self, mut spec: Spec, pid: i32) -> Result<(), Error> {
        let clock = |process: &str| fs::read_link(format!("/proc/{process}/ns/time")).ok();
        let known = config::has_namespace(&spec, LinuxNamespaceType::Time);
        if known || clock("self") == clock(&pid.to_string()) {
            return Ok(());
        }
        let mut time = LinuxNamespace::default();
        time.set_typ(LinuxNamespaceType::Time);
        if let Some(linux) = spec.linux_mut() {
            linux.namespaces_mut().get_or_insert_default().push(time);
        }
        self.prepare_spec(&spec)?.commit()
    }

    /// The host's part of every mount that the checkpoint left out.
    fn provide_mounts(&self, opts: &mut Criu_opts, spec: &Spec) -> Result<(), Error> {
        for bound in rootfs::bound(spec, &self.state.rootfs)? {
            let source = self.state.bundle.join(bound.source);
            // CRIU looks for the mount that it lies on by comparing paths.
            let source = fs::canonicalize(&source).map_err(io_error(&source))?;
            add_mount(opts, bound.destination.display().to_string(), source.display().to_string());
        }
        for (path, own) in self.bound_cgroups(spec) {
            add_mount(opts, path, own.display().to_string());
        }
        // /dev/null among them, which is what masked files were covered with.
        for path in rootfs::device_paths(spec) {
            add_mount(opts, &path, &path);
        }
        Ok(())
    }
}

/// What CRIU asks for on its way.
fn notified(
    notify: &Criu_notify,
    descriptor: Option<OwnedFd>,
    spec: &Spec,
    container: &Container,
    terminal: Option<&Terminal>,
    master: &mut Option<OwnedFd>,
) -> Result<(), Error> {
    match (notify.script(), descriptor, terminal) {
        ("setup-namespaces", _, _) => run_runtime_hooks(spec, &container.state, notify.pid()),
        ("orphan-pts-master", Some(descriptor), Some(Terminal::Engine(socket))) => {
            Ok(console::send(&descriptor, socket)?)
        }
        ("orphan-pts-master", Some(descriptor), Some(Terminal::Parent)) => {
            *master = Some(descriptor);
            Ok(())
        }
        _ => Ok(()),
    }
}

/// What the standard streams were. A checkpoint of crun's has the same file.
fn saved_streams(path: &Path) -> Result<Vec<String>, Error> {
    parse_streams(path, &fs::read(path).map_err(io_error(path))?)
}

/// The standard streams that a file of this path in a checkpoint names.
///
/// # Errors
/// [`Error::Checkpoint`].
pub fn parse_streams(path: &Path, bytes: &[u8]) -> Result<Vec<String>, Error> {
    serde_json::from_slice(bytes)
        .map_err(|e| Error::Checkpoint(format!("{}: not a list of standard streams: {e}", path.display())))
}

/// The cgroups of a process, as those that CRIU puts the restored ones below: proc_pid_cgroup(5).
fn cgroup_roots(pid: i32) -> Result<Vec<Cgroup_root>, Error> {
    let path = PathBuf::from(format!("/proc/{pid}/cgroup"));
    let text = fs::read_to_string(&path).map_err(io_error(&path))?;
    let entries = text.lines().filter_map(|line| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        Some(controllers.split(',').map(move |controller| {
            let mut root = Cgroup_root::new();
            root.set_ctrl(controller.to_owned());
            root.set_path(path.to_owned());
            root
        }))
    });
    Ok(entries.flatten().collect())
}

/// The root file system as CRIU wants it: a mount of its own. Not in the container's directory, which is removed with
/// everything in it.
struct Root(PathBuf);

impl Root {
    /// Beside the container's directory.
    fn place(directory: &Path) -> PathBuf {
        let id = directory.file_name().unwrap_or_default();
        directory.with_file_name(".criu").join(id)
    }

    fn mount(rootfs: &Path, place: &Path) -> Result<Self, Error> {
        let failed = |errno: rustix::io::Errno| Error::Io { path: place.to_owned(), reason: Os::from(errno) };
        criu::make_directory(place).map_err(io_error(place))?;
        // What a killed `restore` left.
        let _ = unmount(place, UnmountFlags::DETACH);
        mount_bind_recursive(rootfs, place).map_err(failed)?;
        Ok(Self(place.to_owned()))
    }
}

/// Takes back what a killed `restore` left outside the directory of its container.
pub(super) fn forget(directory: &Path) {
    drop(Root(Root::place(directory)));
}

impl Drop for Root {
    fn drop(&mut self) {
        // The container has mounts of its own by now; a leftover hides nothing.
        let _ = unmount(&self.0, UnmountFlags::DETACH);
        let _ = fs::remove_dir(&self.0);
        // The directory of these goes with the last.
        let _ = self.0.parent().map(fs::remove_dir);
    }
}
