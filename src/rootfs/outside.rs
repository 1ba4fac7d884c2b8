//! What the runtime does for a container's process that the process may not do itself.
//!
//! In a user namespace, init is root by name only: it may be unable to reach a bind source that belongs to the
//! host's root, it may make no device files, and the ids of a mount are mapped with the rights of its file
//! system's owner. The runtime has all these rights. Where it matters, it works in init's mount namespace while init
//! waits: a source may lie on an earlier mount of the same container.

use std::fmt;
use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use oci_spec::runtime::{LinuxIdMapping, Spec};
use rustix::fs::{AtFlags, CWD, Gid, Mode, OFlags, Uid, chmodat, chownat, mknodat, openat};
use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, unmount};
use rustix::process::{chroot, fchdir};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::devices::Node;
use super::options::Options;
use super::resolve::{NOFOLLOW, clean, open_canonical, top};
use super::{Error, attributes, bind, idmap};
use crate::userns;

/// The kernel's overflowuid and overflowgid.
const NOBODY: u32 = 65534;

/// What init asks for, as an index in config.json's list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// A detached clone of the source of an entry of `mounts`, its ids mapped.
    Source(usize),
    /// A detached mount of a new device file, an entry of `linux.devices`.
    Device(usize),
}

/// The way from init to the runtime.
pub trait Outside: fmt::Debug {
    /// What was asked for; `None` when the runtime may not do it either.
    ///
    /// # Errors
    /// [`Error::Outside`].
    fn ask(&self, request: Request) -> Result<Option<OwnedFd>, Error>;
}

/// The runtime's side: what it needs to know of a container to answer.
#[derive(Clone, Copy, Debug)]
pub struct Server<'a> {
    /// The container's configuration.
    pub spec: &'a Spec,
    /// The bundle, an absolute path.
    pub bundle: &'a Path,
    /// The root file system on the host, an absolute path.
    pub rootfs: &'a Path,
    /// The process that asks.
    pub pid: i32,
}

impl Server<'_> {
    /// Does what was asked for.
    ///
    /// # Errors
    /// Those of the mount or device.
    pub fn serve(&self, request: Request) -> Result<Option<OwnedFd>, Error> {
        match request {
            Request::Source(index) => self.source(index),
            Request::Device(index) => self.device(index),
        }
    }

    fn source(&self, index: usize) -> Result<Option<OwnedFd>, Error> {
        let Some(mount) = self.spec.mounts().as_ref().and_then(|mounts| mounts.get(index)) else {
            return Err(Error::Outside(format!("mounts[{index}] does not exist")));
        };
        let options = Options::of(mount);
        let source = bind::source(mount, self.bundle);
        let failed = |errno| Error::mount(source.to_string_lossy(), mount.destination())(errno);
        let Some(idmap) = idmap::Idmap::of(mount, &options, self.spec).map_err(Error::unsupported(mount))?
        else {
            // An ordinary user's runtime has no right to clone mounts, its container has.
            return match self.clone(&source, &options) {
                Err(Errno::PERM) => Ok(None),
                result => result.map(Some).map_err(failed),
            };
        };
        let users = idmap.user_namespace(self.pid)?;
        let tree = self.clone(&source, &options).map_err(failed)?;
        attributes::map_ids(tree.as_fd(), users.as_fd(), idmap.recursive)
            .map_err(|errno| Error::Idmap { dest: mount.destination().clone(), reason: errno.into() })?;
        Ok(Some(tree))
    }

    /// Clones the source. What lies below the root file system may be covered by a mount that init has made, and
    /// is cloned as init sees it. Everything else is better cloned here: in there, the host's read-only mounts and
    /// the like are locked, and its mounts below the source cannot be left out (mount_namespaces(7)).
    fn clone(&self, source: &Path, options: &Options) -> Result<OwnedFd, Errno> {
        let real = fs::canonicalize(source).unwrap_or_else(|_| clean(source));
        if real.starts_with(self.rootfs) {
            return visit(self.pid, || bind::clone(CWD, source, options))?;
        }
        let tree = bind::clone(CWD, source, options)?;
        // It is a peer of the host's mount, where one made by init would be a slave.
        let slave = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
        attributes::set_propagation(tree.as_fd(), slave)?;
        Ok(tree)
    }

    /// On a file system of its own, that is covered by nothing and seen by nobody while it is attached.
    fn device(&self, index: usize) -> Result<Option<OwnedFd>, Error> {
        let linux = self.spec.linux().as_ref();
        let Some(device) = linux.and_then(|linux| linux.devices().as_ref()?.get(index)) else {
            return Err(Error::Outside(format!("linux.devices[{index}] does not exist")));
        };
        let node = Node::of(device);
        // An id that is not mapped belongs to nobody (user_namespaces(7)).
        let mapped = |list: Option<&Vec<LinuxIdMapping>>, id| {
            userns::on_host(list.map_or(&[], Vec::as_slice), id).unwrap_or(NOBODY)
        };
        let uid = mapped(linux.and_then(|linux| linux.uid_mappings().as_ref()), node.owner.0);
        let gid = mapped(linux.and_then(|linux| linux.gid_mappings().as_ref()), node.owner.1);
        let make = || {
            let below = open_canonical(self.rootfs)?;
            fchdir(&below)?;
            mount(c"tmpfs", c".", c"tmpfs", MountFlags::NOEXEC, None)?;
            let top = top(below.as_fd())?;
            let made = (|| {
                mknodat(&top, c"device", node.kind, node.mode, node.dev)?;
                // The umask is the caller's.
                chmodat(&top, c"device", node.mode, AtFlags::empty())?;
                chownat(&top, c"device", Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)), NOFOLLOW)?;
                bind::clone(&top, Path::new("device"), &Options::default())
            })();
            fchdir(&top).and_then(|()| unmount(c".", UnmountFlags::DETACH))?;
            made
        };
        match visit(self.pid, make).and_then(|made| made) {
            Err(Errno::PERM) => Ok(None),
            result => result.map(Some).map_err(Error::device(device.path())),
        }
    }
}

/// Does something in the mount namespace of another process, and comes back. Entering it changes root and
/// working directory, which are those of the namespace before and ours again after.
fn visit<T>(pid: i32, work: impl FnOnce() -> T) -> Result<T, Errno> {
    let open = |path: &str| openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
    let (root, cwd) = (open("/")?, open(".")?);
    let namespace = |path: &str| {
        openat(CWD, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(|errno| match errno {
            // An ordinary user's container is root of its namespace, whose files in /proc he may not open.
            Errno::ACCESS => Errno::PERM,
            errno => errno,
        })
    };
    let (ours, theirs) = (namespace("/proc/self/ns/mnt")?, namespace(&format!("/proc/{pid}/ns/mnt"))?);
    let enter = |file: BorrowedFd| move_into_link_name_space(file, Some(LinkNameSpaceType::Mount));
    enter(theirs.as_fd())?;
    let outcome = work();
    enter(ours.as_fd())?;
    fchdir(&root)?;
    chroot(c".")?;
    fchdir(&cwd)?;
    Ok(outcome)
}
