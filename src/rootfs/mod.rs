//! A container's file system: built in the new namespaces, before and after the change of root.
//!
//! Three steps, in the order in which init takes them: [`prepare`] mounts everything below the root file
//! system while the host's files are still in reach, [`enter`] makes it `/` and lets go of the host, and
//! [`finish`] takes away what the container may not see or write. [`check`] comes before, in the runtime's own
//! process, which also does what init has no right to: [`Outside`].
//!
//! Invariant: no path that somebody else could change is looked at and then used by name. Every destination
//! is resolved to a descriptor by [`resolve`], and the mount is made on that descriptor: a new file system by
//! mount(2) on `.` after fchdir(2), which resolves nothing and needs no /proc; a bind mount by open_tree(2) and
//! move_mount(2). Linux 5.6 has all of these; only mount_setattr(2) is newer, see [`attributes`].

mod attributes;
mod bind;
mod cgroup;
mod copyup;
mod devices;
mod error;
mod external;
mod idmap;
pub mod live;
mod masks;
mod mount;
mod options;
mod outside;
mod pivot;
mod resolve;
#[cfg(test)]
mod tests;

use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxNamespaceType, Spec};
use rustix::fs::{CWD, Mode, OFlags, open};
use rustix::io::Errno;
use rustix::process::umask;

pub use error::Error;
pub use external::{Bound, bound, device_paths, is_file_in, make_mount_points};
pub use options::MOUNT_OPTIONS;
pub use outside::{Outside, Request, Server};
pub use resolve::clean;

use resolve::Root;

/// What there is to know about a container besides its config.json.
#[derive(Debug)]
pub struct Context<'a> {
    /// The container's configuration.
    pub spec: &'a Spec,
    /// The root file system on the host, an absolute path.
    pub rootfs: &'a Path,
    /// The bundle, an absolute path: relative bind sources are relative to it.
    pub bundle: &'a Path,
    /// Whether init is in a user namespace of the container's own, new or joined.
    pub user_namespace: bool,
    /// Whether the mount namespace is new: in any other, mounts are somebody else's as well.
    pub new_mount_ns: bool,
    /// The container's cgroup in every hierarchy: its path on the host, and the hierarchy's name in the
    /// container (`memory`, `cpu,cpuacct`, `systemd`, `unified`), which is empty for the only one of cgroup v2.
    pub cgroup_mounts: &'a [(PathBuf, String)],
    /// Whether init is in a cgroup namespace of the container's own.
    pub cgroup_ns: bool,
    /// Move the root file system over `/` instead of pivot_root(2), for a host that runs from its initramfs.
    pub no_pivot: bool,
    /// Who does what init may not.
    pub outside: &'a dyn Outside,
}

/// A root file system with everything mounted in it, not yet `/`.
#[derive(Debug)]
pub struct Prepared {
    root: Root,
    kept: mount::Kept,
}

/// Refuses by name what cannot be done.
pub fn check(spec: &Spec) -> Result<(), Error> {
    let mounts = spec.mounts().as_deref().unwrap_or_default();
    for mount in mounts {
        mount::check(mount, spec)?;
    }
    mount::label_kind(spec)?;
    let Some(linux) = spec.linux() else { return Ok(()) };
    pivot::propagation(spec)?;
    devices::check(linux)?;

    let mount_namespace =
        linux.namespaces().iter().flatten().any(|namespace| namespace.typ() == LinuxNamespaceType::Mount);
    let restricted =
        [linux.masked_paths(), linux.readonly_paths()].into_iter().flatten().any(|p| !p.is_empty());
    if !mount_namespace && restricted {
        return Err(Error::NoMountNamespace);
    }
    Ok(())
}

/// Makes a mount read-only, also one that is attached nowhere.
///
/// # Errors
/// Those of mount_setattr(2).
pub fn make_read_only(mount: BorrowedFd) -> Result<(), Errno> {
    attributes::Attributes::READ_ONLY.apply(mount, false)
}

/// Makes a directory below the root, in which we are, and those that lead to it, through no link of procfs.
///
/// # Errors
/// Those of openat2(2) and mkdirat(2).
pub fn make_directory(path: &Path) -> Result<(), Errno> {
    if path == Path::new("/") {
        return Ok(());
    }
    match resolve::open(CWD, path, OFlags::PATH) {
        Err(Errno::NOENT) => {}
        result => return result.map(drop),
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = Root::new(open(c".", flags, Mode::empty())?);
    root.create(path, resolve::Kind::Directory).map(drop)
}

/// Mounts everything of config.json below the root file system, and makes the devices. The working directory
/// is the root file system afterwards, which is where runc runs `createContainer` hooks.
pub fn prepare(ctx: &Context) -> Result<Prepared, Error> {
    // Modes are meant as they are written. The process's own umask is set much later.
    let saved = umask(Mode::empty());
    let result = pivot::open_root(ctx).and_then(|mut root| {
        let kept = mount::all(ctx, &mut root)?;
        if !kept.dev_of_host {
            devices::create(ctx, &root)?;
        }
        pivot::go_to(&root)?;
        Ok(Prepared { root, kept })
    });
    umask(saved);
    result
}

/// Makes the prepared root file system `/`. The host's is out of reach from here on.
pub fn enter(ctx: &Context, prepared: &Prepared) -> Result<(), Error> {
    pivot::enter(ctx, &prepared.root)
}

/// Takes away what the container may not write or see. It runs after hooks, sysctls and the console, which
/// need to write.
pub fn finish(ctx: &Context, Prepared { root, kept }: &Prepared) -> Result<(), Error> {
    kept.make_read_only()?;
    if ctx.spec.root().as_ref().is_some_and(|root| root.readonly() == Some(true)) {
        masks::read_only_root(root)?;
    }
    if let Some(linux) = ctx.spec.linux() {
        masks::read_only(root, &kept.kernel, linux.readonly_paths().as_deref().unwrap_or_default())?;
        let hidden = linux.masked_paths().as_deref().unwrap_or_default();
        masks::hide(root, &kept.kernel, hidden, mount::label(ctx.spec))?;
    }
    pivot::finish(ctx)
}
