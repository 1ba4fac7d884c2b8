//! Bind mounts: a tree of the host's, cloned and put into the container.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Mount, Spec};
use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{MountPropagationFlags, MoveMountFlags, OpenTreeFlags, move_mount, open_tree};

use super::attributes::{Attributes, set_propagation};
use super::mount::{delayed_read_only, is_procfs, mount_point, propagate};
use super::options::Options;
use super::resolve::{Kind, Root, is_directory};
use super::{Context, Error};

/// The sources of bind mounts that were opened before the clone, one entry for each mount of config.json.
///
/// In a user namespace, init is root by name only: it may be unable to reach a source that belongs to the
/// host's root, which the runtime can. What the runtime may not open either is left to init.
#[derive(Debug)]
pub struct Sources(pub(super) Vec<Option<OwnedFd>>);

impl Sources {
    /// Opens, in the runtime's own process, what a container in a user namespace could not.
    pub fn open(spec: &Spec, bundle: &Path, user_namespace: bool) -> Result<Self, Error> {
        let mut allowed = user_namespace;
        let mut sources = Vec::new();
        for mount in spec.mounts().iter().flatten() {
            let options = Options::of(mount);
            let recursive = options.bind.filter(|_| allowed && !options.remount);
            let tree = match recursive {
                None => None,
                Some(recursive) => match for_user_namespace(&source(mount, bundle), recursive) {
                    // An ordinary user's runtime has no right to clone mounts, its container has.
                    // ENOSYS: no mount_setattr(2).
                    Err(Errno::PERM | Errno::NOSYS) => {
                        allowed = false;
                        None
                    }
                    result => Some(result.map_err(Error::mount(
                        source(mount, bundle).to_string_lossy(),
                        mount.destination(),
                    ))?),
                },
            };
            sources.push(tree);
        }
        Ok(Self(sources))
    }
}

/// A clone made here is a peer of the host's mount, where one made by init would be a slave.
fn for_user_namespace(source: &Path, recursive: bool) -> Result<OwnedFd, Errno> {
    let tree = clone(CWD, source, recursive)?;
    set_propagation(tree.as_fd(), MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)?;
    Ok(tree)
}

fn source(mount: &Mount, bundle: &Path) -> PathBuf {
    bundle.join(mount.source().as_deref().unwrap_or(Path::new("")))
}

/// A detached clone of what is mounted at a path, or of one directory or file of it.
pub(super) fn clone(dir: impl AsFd, path: &Path, recursive: bool) -> Result<OwnedFd, Errno> {
    let mut flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    open_tree(dir, path, flags)
}

/// Puts a detached tree where the descriptor points.
pub(super) fn put(tree: impl AsFd, target: impl AsFd) -> Result<(), Errno> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    match move_mount(&tree, c"", &target, c"", flags) {
        // The kernel's word for a file on a directory, or the reverse. Engines look for the other one.
        Err(Errno::INVAL) if is_directory(tree.as_fd())? != is_directory(target.as_fd())? => {
            Err(Errno::NOTDIR)
        }
        result => result,
    }
}

/// A bind mount of config.json.
pub(super) fn mount(
    ctx: &Context,
    root: &Root,
    mount: &Mount,
    dest: &Path,
    options: &Options,
    tree: Option<OwnedFd>,
) -> Result<(), Error> {
    let source = source(mount, ctx.bundle);
    let name = source.to_string_lossy();
    let failed = |errno| Error::mount(name.as_ref(), dest)(errno);
    let tree = match tree {
        Some(tree) => tree,
        None => clone(CWD, &source, options.bind == Some(true)).map_err(failed)?,
    };
    if dest == Path::new("/proc") && !is_procfs(tree.as_fd()).map_err(failed)? {
        return Err(Error::NotProc(dest.to_owned()));
    }
    let kind = if is_directory(tree.as_fd()).map_err(failed)? { Kind::Directory } else { Kind::File };
    let (target, _) = mount_point(root, dest, kind)?;
    attach(&tree, &target, dest, options, &name)
}

/// Puts a tree into the container and gives it the options of its mount.
pub(super) fn attach(
    tree: &OwnedFd,
    target: &OwnedFd,
    dest: &Path,
    options: &Options,
    source: &str,
) -> Result<(), Error> {
    put(tree, target).map_err(Error::mount(source, dest))?;
    let mut attributes = options.attributes();
    if delayed_read_only("bind", dest) {
        attributes.set.remove(Attributes::READ_ONLY.set);
    }
    for (attributes, recursive) in [(attributes, false), (options.recursive_attributes(), true)] {
        if !attributes.is_empty() {
            attributes.apply(tree.as_fd(), recursive).map_err(Error::attributes(dest))?;
        }
    }
    propagate(tree.as_fd(), dest, options)
}
