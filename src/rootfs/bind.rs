//! Bind mounts: a tree of the host's, cloned and put into the container.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use oci_spec::runtime::Mount;
use rustix::fs::{AtFlags, CWD, FileType, OFlags, readlinkat, statat, symlinkat};
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};

use super::attributes::Attributes;
use super::mount::{delayed_read_only, is_kernel, mount_point, propagate};
use super::options::Options;
use super::resolve::{Kind, Root, is_directory};
use super::{Context, Error, Request};
use crate::procfs::is_procfs;

/// Where a bind source lies, outside.
pub(super) fn source(mount: &Mount, bundle: &Path) -> PathBuf {
    bundle.join(mount.source().as_deref().unwrap_or(Path::new("")))
}

/// A detached clone of what is mounted at a path, or of one directory or file of it.
pub(super) fn clone(dir: impl AsFd, path: &Path, options: &Options) -> Result<OwnedFd, Errno> {
    let mut flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    if options.bind == Some(true) {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    if options.source_no_follow {
        flags |= OpenTreeFlags::AT_SYMLINK_NOFOLLOW;
    }
    open_tree(dir, path, flags)
}

/// A clone with everything mounted below.
pub(super) fn clone_all(dir: impl AsFd, path: &Path) -> Result<OwnedFd, Errno> {
    let mut options = Options::default();
    options.bind = Some(true);
    clone(dir, path, &options)
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

/// Puts a detached tree on what has this name in a directory that only we have seen.
pub(super) fn put_in(tree: impl AsFd, dir: impl AsFd, name: &str) -> Result<(), Errno> {
    move_mount(tree, c"", dir, name, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
}

/// A bind mount of config.json, the entry of this index. A link that was copied is none.
pub(super) fn mount(
    ctx: &Context,
    root: &Root,
    (index, mount): (usize, &Mount),
    dest: &Path,
    options: &Options,
) -> Result<Option<OwnedFd>, Error> {
    let source = source(mount, ctx.bundle);
    let name = source.to_string_lossy();
    let failed = |errno| Error::mount(name.as_ref(), dest)(errno);
    if options.copy_symlink && is_symlink(&source).map_err(failed)? {
        return copy_symlink(root, &source, dest).map(|()| None).map_err(failed);
    }
    let idmapped =
        super::idmap::Idmap::of(mount, options, ctx.spec).map_err(Error::unsupported(mount))?.is_some();
    let tree = if ctx.user_namespace || idmapped { ctx.outside.ask(Request::Source(index))? } else { None };
    let tree = match tree {
        Some(tree) => tree,
        None if idmapped => return Err(failed(Errno::PERM)),
        None => clone(CWD, &source, options).map_err(failed)?,
    };
    if dest == Path::new("/proc") && !is_procfs(tree.as_fd()).map_err(failed)? {
        return Err(Error::NotProc(dest.to_owned()));
    }
    if options.dest_no_follow {
        let target = root.open(dest, OFlags::PATH | OFlags::NOFOLLOW).map_err(Error::mount_point(dest))?;
        if is_kernel(target.as_fd()).map_err(Error::mount_point(dest))? {
            return Err(Error::InsideProc(dest.to_owned()));
        }
        attach(ctx, &tree, &target, dest, options, &name)?;
        return Ok(Some(tree));
    }
    let kind = if is_directory(tree.as_fd()).map_err(failed)? { Kind::Directory } else { Kind::File };
    let (target, _) = mount_point(root, dest, kind)?;
    attach(ctx, &tree, &target, dest, options, &name)?;
    Ok(Some(tree))
}

fn is_symlink(path: &Path) -> Result<bool, Errno> {
    let stat = statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(FileType::from_raw_mode(stat.st_mode) == FileType::Symlink)
}

/// The option `copy-symlink`. The same link there already is fine, anything else is not replaced.
fn copy_symlink(root: &Root, source: &Path, dest: &Path) -> Result<(), Errno> {
    let target = readlinkat(CWD, source, Vec::new())?;
    let (dir, name) = root.create_parent(dest)?;
    match symlinkat(&*target, &dir, &name) {
        Err(Errno::EXIST) if readlinkat(&dir, &name, Vec::new()).as_ref() == Ok(&target) => Ok(()),
        result => result,
    }
}

/// Puts a tree into the container and gives it the options of its mount.
pub(super) fn attach(
    ctx: &Context,
    tree: &OwnedFd,
    target: &OwnedFd,
    dest: &Path,
    options: &Options,
    source: &str,
) -> Result<(), Error> {
    put(tree, target).map_err(Error::mount(source, dest))?;
    set_options(ctx, tree, dest, options)
}

/// Gives a tree the options of its mount, when it is in its place: Linux before 5.12 changes no detached one.
pub(super) fn set_options(
    ctx: &Context,
    tree: &OwnedFd,
    dest: &Path,
    options: &Options,
) -> Result<(), Error> {
    let mut attributes = options.attributes();
    if delayed_read_only("bind", dest) {
        attributes.set.remove(Attributes::READ_ONLY.set);
    }
    if !options.attributes().is_empty() {
        attributes.replace(tree.as_fd(), ctx.user_namespace).map_err(Error::attributes(dest))?;
    }
    let recursive = options.recursive_attributes();
    if !recursive.is_empty() {
        recursive.apply(tree.as_fd(), true).map_err(Error::attributes(dest))?;
    }
    propagate(tree.as_fd(), dest, options)
}
