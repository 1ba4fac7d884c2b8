//! What CRIU has to be told about a root file system that it saves or restores: what comes from the host, and
//! where it goes.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;
use rustix::fs::{CWD, Mode, OFlags, open};
use rustix::io::Errno;
use rustix::mount::{MountPropagationFlags, mount_change};
use rustix::thread::{UnshareFlags, unshare_unsafe};

use super::mount::mount_point;
use super::options::Options;
use super::resolve::{Kind, Root, clean, is_directory, open_canonical};
use super::{Error, bind, devices};

/// A bind mount of config.json.
#[derive(Debug)]
pub struct Bound {
    /// Where it is mounted in the container, symbolic links resolved.
    pub destination: PathBuf,
    /// What is mounted there, relative to the bundle.
    pub source: PathBuf,
}

/// The bind mounts, in order.
///
/// # Errors
/// A root file system that is gone.
pub fn bound(spec: &Spec, rootfs: &Path) -> Result<Vec<Bound>, Error> {
    let root = open_root(rootfs)?;
    let binds = spec.mounts().iter().flatten().filter(|mount| {
        let options = Options::of(mount);
        options.bind.is_some() && !options.remount
    });
    Ok(binds
        .map(|mount| Bound {
            destination: resolved(&root, rootfs, &clean(mount.destination())),
            source: mount.source().clone().unwrap_or_default(),
        })
        .collect())
}

/// Whether a path of a container, whose root this is, leads to something that is no directory.
pub fn is_file_in(root: &Path, path: &Path) -> bool {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let found = open(root, flags, Mode::empty()).and_then(|root| Root::new(root).open(path, OFlags::PATH));
    found.and_then(|found| is_directory(found.as_fd())) == Ok(false)
}

/// Where a path of the container ends. One that is not there, for it is on a mount, ends where it says.
fn resolved(root: &Root, rootfs: &Path, path: &Path) -> PathBuf {
    use std::os::fd::AsRawFd;
    let end = root.open(path, OFlags::PATH).ok().and_then(|fd| {
        let link = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).ok()?;
        Some(Path::new("/").join(link.strip_prefix(rootfs).ok()?))
    });
    end.unwrap_or_else(|| path.to_owned())
}

/// The devices of the container: in a user namespace they are bound from the host.
pub fn device_paths(spec: &Spec) -> Vec<String> {
    devices::paths(spec).into_iter().map(|path| path.display().to_string()).collect()
}

/// Makes the mount points that `create` would have made, those on bind mounts included; a tmpfs is restored with its
/// content.
///
/// For that, bind mounts have to be in place. They are made in a mount namespace of a thread, with which they vanish.
///
/// # Errors
/// As for mounting them.
pub fn make_mount_points(spec: &Spec, rootfs: &Path, bundle: &Path) -> Result<(), Error> {
    let made = std::thread::scope(|scope| scope.spawn(|| in_own_namespace(spec, rootfs, bundle)).join());
    made.unwrap_or_else(|_| Err(Error::mount_point(rootfs)(Errno::IO)))
}

fn in_own_namespace(spec: &Spec, rootfs: &Path, bundle: &Path) -> Result<(), Error> {
    // SAFETY: nothing of this thread's depends on the host's mounts; the descriptors it opens are its own.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }.map_err(Error::mount_point(rootfs))?;
    mount_change(c"/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)
        .map_err(Error::mount_point(rootfs))?;
    let root = open_root(rootfs)?;
    let mounts = spec.mounts().as_deref().unwrap_or_default();
    let tmpfs: Vec<PathBuf> = mounts
        .iter()
        .filter(|mount| mount.typ().as_deref() == Some("tmpfs"))
        .map(|mount| clean(mount.destination()))
        .collect();
    for mount in mounts {
        let dest = clean(mount.destination());
        let options = Options::of(mount);
        let cgroup = matches!(mount.typ().as_deref(), Some("cgroup" | "cgroup2"));
        if cgroup || options.remount || tmpfs.iter().any(|top| dest != *top && dest.starts_with(top)) {
            continue;
        }
        if options.bind.is_none() {
            mount_point(&root, &dest, Kind::Directory)?;
            continue;
        }
        let source = bundle.join(mount.source().as_deref().unwrap_or(Path::new("")));
        let name = source.to_string_lossy();
        let failed = |errno| Error::mount(name.as_ref(), &dest)(errno);
        let tree = bind::clone(CWD, &source, &options).map_err(failed)?;
        let kind = if is_directory(tree.as_fd()).map_err(failed)? { Kind::Directory } else { Kind::File };
        let (target, _) = mount_point(&root, &dest, kind)?;
        bind::put(&tree, &target).map_err(failed)?;
    }
    Ok(())
}

fn open_root(rootfs: &Path) -> Result<Root, Error> {
    open_canonical(rootfs).map(Root::new).map_err(Error::mount_point(rootfs))
}
