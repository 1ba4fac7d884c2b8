//! Saving a running container to files, from which [`restore`](super::restore()) makes it run again.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxNamespaceType, Spec};

use super::{Container, Error, Status, io_error};
use crate::criu::external::{self, add_mount};
use crate::criu::rpc::{Criu_notify, Criu_opts, Criu_page_server_info, Criu_req, Criu_req_type};
use crate::criu::{self, Session};
use crate::{cgroup, config, rootfs, wasm};

/// Where a checkpoint says what its standard streams were; runc's name for it.
pub(super) const DESCRIPTORS: &str = "descriptors.json";

/// What `checkpoint` is asked for.
#[derive(Debug)]
pub struct Checkpoint<'a> {
    /// What `restore` has as well.
    pub options: &'a criu::Options,
    /// The images of the pre-dump before, relative to ours.
    pub parent_path: Option<&'a Path>,
    /// Let the container go on.
    pub leave_running: bool,
    /// Save memory only, and let the container go on.
    pub pre_dump: bool,
    /// Leave out connections that are not established yet.
    pub tcp_skip_in_flight: bool,
    /// Give deleted files that are open a name again.
    pub link_remap: bool,
    /// Address and port to serve memory pages from.
    pub page_server: Option<(&'a str, u16)>,
    /// Descriptor that gets a zero byte once pages can be asked for.
    pub status_fd: Option<i32>,
}

impl Container {
    /// Saves the container, and removes it unless it is to go on.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] for a container that does not run, [`Error::Criu`] with CRIU's reason; the container
    /// goes on then.
    pub fn checkpoint(self, request: &Checkpoint) -> Result<(), Error> {
        let status = self.status()?;
        let init = match (status, self.state.init) {
            (Status::Running | Status::Paused, Some(init)) => init,
            _ => {
                return Err(Error::Checkpoint(format!("container cannot be checkpointed in {status} state")));
            }
        };
        if wasm::is_handler(init.pid) {
            return Err(Error::Checkpoint("a running Wasm module cannot be checkpointed: its code is mapped from the host's cache of compiled modules, which is not in the container".into()));
        }
        let images = request.options.images().map_err(io_error(Path::new(".")))?;
        criu::make_directory(&images).map_err(io_error(&images))?;
        check_parent(request.parent_path, &images)?;
        criu::require_version(criu::MINIMUM_VERSION)?;
        if request.pre_dump {
            criu::require_feature("memory tracking", |f| f.set_mem_track(true), |f| f.mem_track())?;
        }
        if request.options.lazy_pages {
            criu::require_feature("lazy pages", |f| f.set_lazy_pages(true), |f| f.lazy_pages())?;
        }
        let spec = self.spec()?;
        let directories = request.options.open("dump.log").map_err(|(path, e)| io_error(&path)(e))?;
        let config = criu::config_annotation(&self.state.annotations);
        let mut opts = request.options.request(&directories, config);
        opts.set_pid(init.pid);
        request.fill(&mut opts);
        external::omit_namespaces(&mut opts, &spec).map_err(|(path, e)| io_error(&path)(e))?;
        opts.root = Some(self.state.rootfs.display().to_string());
        if let Some(freezer) = self.state.cgroup.as_ref().and_then(cgroup::Cgroup::freezer) {
            opts.freeze_cgroup = Some(freezer.display().to_string());
        }
        if !request.pre_dump {
            self.omit_mounts(&mut opts, &spec, init.pid)?;
            let path = images.join(DESCRIPTORS);
            let streams = serde_json::to_vec(&external::streams(init.pid)).map_err(io::Error::from);
            streams.and_then(|json| fs::write(&path, json)).map_err(io_error(&path))?;
        }

        let mut criu_request = Criu_req::new();
        criu_request.set_type(if request.pre_dump { Criu_req_type::PRE_DUMP } else { Criu_req_type::DUMP });
        criu_request.opts = Some(opts).into();
        Session::start()?.ask(&criu_request, &directories.log, |notify, _| request.notified(notify))?;
        if request.leave_running || request.pre_dump { Ok(()) } else { self.delete(true) }
    }

    /// Names every mount that the host provides. Of a path that leads through symbolic links, CRIU sees the end.
    fn omit_mounts(&self, opts: &mut Criu_opts, spec: &Spec, pid: i32) -> Result<(), Error> {
        for path in rootfs::bound(spec, &self.state.rootfs)?.into_iter().map(|bound| bound.destination) {
            add_mount(opts, path.display().to_string(), path.display().to_string());
        }
        for (path, _) in self.bound_cgroups(spec) {
            add_mount(opts, &path, &path);
        }
        for path in rootfs::device_paths(spec) {
            add_mount(opts, &path, &path);
        }
        let masked = spec.linux().as_ref().and_then(|linux| linux.masked_paths().as_ref());
        for path in masked.into_iter().flatten() {
            if rootfs::is_file_in(Path::new(&format!("/proc/{pid}/root")), Path::new(path)) {
                add_mount(opts, path, NULL);
            }
        }
        Ok(())
    }

    /// The container's directories of cgroup v1, which are bound below its /sys/fs/cgroup: where, and what.
    pub(super) fn bound_cgroups(&self, spec: &Spec) -> Vec<(String, PathBuf)> {
        let mount = spec.mounts().iter().flatten().find(|m| m.typ().as_deref() == Some("cgroup"));
        let (Some(mount), Some(cgroup)) = (mount, &self.state.cgroup) else { return Vec::new() };
        // In a namespace of its own, or of the one hierarchy of v2, they are mounted, which CRIU can do.
        if cgroup::is_unified() || config::has_namespace(spec, LinuxNamespaceType::Cgroup) {
            return Vec::new();
        }
        let place = |name: &str| mount.destination().join(name).display().to_string();
        cgroup.mounts().into_iter().map(|(path, name)| (place(&name), path)).collect()
    }
}

/// What masked files are covered with, and the name of that.
const NULL: &str = "/dev/null";

impl Checkpoint<'_> {
    fn fill(&self, opts: &mut Criu_opts) {
        opts.set_leave_running(self.leave_running);
        opts.set_tcp_skip_in_flight(self.tcp_skip_in_flight);
        opts.set_link_remap(self.link_remap);
        if let Some(parent) = self.parent_path {
            opts.parent_img = Some(parent.display().to_string());
        }
        if self.pre_dump || self.parent_path.is_some() {
            opts.set_track_mem(true);
        }
        if let Some((address, port)) = self.page_server {
            let mut server = Criu_page_server_info::new();
            server.set_address(address.to_owned());
            server.set_port(port.into());
            opts.ps = Some(server).into();
        }
    }

    fn notified(&self, notify: &Criu_notify) -> Result<(), Error> {
        match self.status_fd {
            Some(number) if notify.script() == "status-ready" => {
                // SAFETY: the caller of this program gave us the descriptor for this byte, and nothing else uses it;
                // closed, so that a reader sees the end.
                let written = unsafe {
                    let written = libc::write(number, [0u8].as_ptr().cast(), 1);
                    libc::close(number);
                    written
                };
                if written != 1 {
                    tracing::warn!("--status-fd {number}: {}", crate::error::Os::last());
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

/// The parent of incremental images lies beside them, so that both can be moved together.
fn check_parent(parent: Option<&Path>, images: &Path) -> Result<(), Error> {
    let Some(parent) = parent else { return Ok(()) };
    if parent.is_absolute() {
        return Err(Error::Checkpoint(format!("--parent-path {}: must be relative", parent.display())));
    }
    let invalid = |e: io::Error| {
        Error::Checkpoint(format!("invalid --parent-path {}: {}", parent.display(), crate::error::Os(e)))
    };
    match fs::metadata(images.join(parent)) {
        Ok(found) if found.is_dir() => Ok(()),
        Ok(_) => Err(invalid(io::Error::from_raw_os_error(libc::ENOTDIR))),
        Err(e) => Err(invalid(e)),
    }
}
