//! Mounts of a container that runs already.
//!
//! A mount is made complete outside, where its source and the rights to map its ids are, and moved into the
//! container's mount namespace, which this process enters for good: nothing is left for it to do outside. Paths are
//! resolved below the container's root, which its processes may be changing at this moment.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use oci_spec::runtime::{Mount, Spec};
use rustix::fs::{CWD, Mode, OFlags, open};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, UnmountFlags,
    fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, unmount,
};
use rustix::process::fchdir;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::attributes::{map_ids, set_propagation};
use super::mount::{check, mount_point};
use super::options::Options;
use super::resolve::{Kind, Root, clean, is_directory};
use super::{Error, bind, idmap};

/// Adds mounts, given as config.json's `mounts`, to the container that has the process `pid`.
///
/// # Errors
/// Those of a mount; the ones before it stay.
pub fn add(spec: &Spec, bundle: &Path, pid: i32, mounts: &[Mount]) -> Result<(), Error> {
    let mut trees = Vec::new();
    for mount in mounts {
        check(mount, spec)?;
        trees.push(detached(mount, spec, bundle, pid)?);
    }
    let root = enter(pid)?;
    for (mount, tree) in mounts.iter().zip(&trees) {
        let dest = clean(mount.destination());
        let failed = |errno| Error::mount(name(mount), &dest)(errno);
        if dest == Path::new("/") {
            return Err(Error::OnRoot(dest));
        }
        let kind = if is_directory(tree.as_fd()).map_err(failed)? { Kind::Directory } else { Kind::File };
        let (target, _) = mount_point(&root, &dest, kind)?;
        bind::put(tree, target).map_err(failed)?;
    }
    Ok(())
}

/// Removes what is mounted at the destinations.
///
/// # Errors
/// The first destination where nothing is mounted; the ones before it are gone.
pub fn remove(pid: i32, mounts: &[Mount]) -> Result<(), Error> {
    let root = enter(pid)?;
    for mount in mounts {
        let dest = clean(mount.destination());
        let failed = |errno: Errno| Error::Unmount { dest: dest.clone(), reason: errno.into() };
        let (Some(parent), Some(name)) = (dest.parent(), dest.file_name()) else {
            return Err(Error::OnRoot(dest));
        };
        let directory = root.open(parent, OFlags::PATH | OFlags::DIRECTORY).map_err(failed)?;
        fchdir(directory).map_err(failed)?;
        unmount(name, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW).map_err(failed)?;
    }
    Ok(())
}

fn name(mount: &Mount) -> String {
    let typ = mount.typ().as_deref().unwrap_or_default();
    mount.source().as_deref().map_or_else(|| typ.to_owned(), |source| source.display().to_string())
}

/// Enters the container's mount namespace, whose root becomes ours.
fn enter(pid: i32) -> Result<Root, Error> {
    let path = format!("/proc/{pid}/ns/mnt");
    let failed = |reason: crate::error::Os| Error::Outside(format!("{path}: {reason}"));
    let namespace = File::open(&path).map_err(|e| failed(e.into()))?;
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Mount))
        .and_then(|()| open(c"/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()))
        .map(Root::new)
        .map_err(|errno| failed(errno.into()))
}

/// The mount with all of its options, attached nowhere.
fn detached(mount: &Mount, spec: &Spec, bundle: &Path, pid: i32) -> Result<OwnedFd, Error> {
    let options = Options::of(mount);
    let dest = mount.destination();
    let refuse = |problem: &str| Err(Error::Unsupported { dest: dest.clone(), problem: problem.into() });
    if options.remount || options.copy_up || options.copy_symlink || options.dest_no_follow {
        return refuse(
            "remount, tmpcopyup, copy-symlink and dest-nofollow need a container that is being created",
        );
    }
    let tree = if options.bind.is_some() {
        bind::clone(CWD, &bind::source(mount, bundle), &options)
    } else {
        let typ = mount.typ().as_deref().unwrap_or_default();
        if matches!(typ, "proc" | "sysfs" | "mqueue" | "cgroup" | "cgroup2") {
            return refuse("the file system would show the host's processes and devices");
        }
        file_system(typ, &name(mount), &options)
    }
    .map_err(Error::mount(name(mount), dest))?;

    let idmap = idmap::Idmap::of(mount, &options, spec).map_err(Error::unsupported(mount))?;
    if let Some(idmap) = idmap {
        let users = idmap.user_namespace(pid)?;
        map_ids(tree.as_fd(), users.as_fd(), idmap.recursive)
            .map_err(|errno| Error::Idmap { dest: dest.clone(), reason: errno.into() })?;
    }
    // A clone is a peer of the host's mount.
    let own = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    for propagation in std::iter::once(own).chain(options.propagation.iter().copied()) {
        set_propagation(tree.as_fd(), propagation).map_err(Error::attributes(dest))?;
    }
    for (attributes, recursive) in [(options.attributes(), false), (options.recursive_attributes(), true)] {
        if !attributes.is_empty() {
            attributes.apply(tree.as_fd(), recursive).map_err(Error::attributes(dest))?;
        }
    }
    Ok(tree)
}

fn file_system(typ: &str, source: &str, options: &Options) -> Result<OwnedFd, Errno> {
    let context = fsopen(typ, FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, c"source", source)?;
    for option in &options.data {
        match option.split_once('=') {
            Some((key, value)) => fsconfig_set_string(&context, key, value)?,
            None => fsconfig_set_flag(&context, option.as_str())?,
        }
    }
    for (flag, name) in [
        (MountFlags::SYNCHRONOUS, c"sync"),
        (MountFlags::DIRSYNC, c"dirsync"),
        (MountFlags::LAZYTIME, c"lazytime"),
    ] {
        if options.new_mount_flags().contains(flag) {
            fsconfig_set_flag(&context, name)?;
        }
    }
    fsconfig_create(&context)?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
}
