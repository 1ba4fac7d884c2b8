//! /sys/fs/cgroup of a container: its own cgroup and what is below it.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Mode, mkdirat, statfs, symlinkat};
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount as mount_fs};
use rustix::process::fchdir;

use super::attributes::Attributes;
use super::mount::{mount_point, new, propagate};
use super::options::Options;
use super::resolve::{Kind, Root, leave, top};
use super::{Context, Error, bind};

const HOST: &str = "/sys/fs/cgroup";
/// Flags every hierarchy has, as in runc.
const FLAGS: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC);

/// crun's annotation: the destination at which a systemd that does not know cgroup v2 finds the one hierarchy of v1
/// that it needs.
const FORCE_V1: &str = "run.oci.systemd.force_cgroup_v1";

/// A mount of type `cgroup` or `cgroup2`. Both mean what the host has.
pub(super) fn mount(ctx: &Context, root: &Root, dest: &Path, options: &Options) -> Result<OwnedFd, Error> {
    let (target, _) = mount_point(root, dest, Kind::Directory)?;
    let forced = ctx.spec.annotations().as_ref().and_then(|annotations| annotations.get(FORCE_V1));
    if forced.is_some_and(|at| Path::new(at) == dest) {
        systemds_v1(&target, dest, options)
    } else if unified(ctx) {
        v2(ctx, &target, dest, options)
    } else {
        v1(ctx, &target, dest, options)
    }
}

/// Whether the host has cgroup v2 alone.
fn unified(ctx: &Context) -> bool {
    const CGROUP2_MAGIC: i64 = 0x6367_7270;
    match ctx.cgroup_mounts {
        [(_, name)] if name.is_empty() => true,
        [] => statfs(HOST).is_ok_and(|fs| fs.f_type == CGROUP2_MAGIC),
        _ => false,
    }
}

/// One file system. A cgroup namespace makes the container's cgroup its top; without one, or without the right
/// to mount it, the container's directory is bound.
fn v2(ctx: &Context, target: &OwnedFd, dest: &Path, options: &Options) -> Result<OwnedFd, Error> {
    if ctx.cgroup_ns {
        match new(target, Path::new("cgroup"), "cgroup2", options.new_mount_flags(), &options.data) {
            Err(Errno::PERM | Errno::BUSY) => {}
            result => {
                result.map_err(Error::mount("cgroup2", dest))?;
                let mounted = top(target.as_fd()).map_err(Error::mount_point(dest))?;
                propagate(mounted.as_fd(), dest, options)?;
                return Ok(mounted);
            }
        }
    }
    // Without a cgroup of its own, an ordinary user's container is where its runtime was: the host's tree.
    let source = ctx.cgroup_mounts.first().map_or(Path::new(HOST), |(path, _)| path);
    let name = source.to_string_lossy();
    let tree = bind::clone_all(CWD, source).map_err(Error::mount(name.as_ref(), dest))?;
    bind::attach(ctx, &tree, target, dest, options, &name)?;
    Ok(tree)
}

/// A tmpfs with a directory for each hierarchy, and a link for each controller that shares one.
fn v1(ctx: &Context, target: &OwnedFd, dest: &Path, options: &Options) -> Result<OwnedFd, Error> {
    new(target, Path::new("tmpfs"), "tmpfs", FLAGS, &["mode=755".to_owned()])
        .map_err(Error::mount("tmpfs", dest))?;
    // From here on, names are relative to a tmpfs that nobody else has seen yet.
    let top = top(target.as_fd()).map_err(Error::mount_point(dest))?;
    fchdir(&top).map_err(Error::mount_point(dest))?;
    for (own, name) in ctx.cgroup_mounts {
        let dest = dest.join(name);
        mkdirat(CWD, name, Mode::from_raw_mode(0o755)).map_err(Error::mount_point(&dest))?;
        if !(ctx.cgroup_ns && hierarchy(name, options).map_err(Error::mount(name, &dest))?) {
            let failed = |errno| Error::mount(own.to_string_lossy(), &dest)(errno);
            let tree = bind::clone_all(CWD, own).map_err(failed)?;
            bind::put_in(&tree, &top, name).map_err(failed)?;
            bind::set_options(ctx, &tree, &dest, options)?;
            leave(tree);
        }
        for controller in name.split(',').filter(|controller| controller != name) {
            match symlinkat(name, CWD, controller) {
                Err(Errno::EXIST) => {}
                result => result.map_err(Error::device(&dest.with_file_name(controller)))?,
            }
        }
    }
    if options.read_only() {
        Attributes::READ_ONLY.apply(top.as_fd(), false).map_err(Error::attributes(dest))?;
    }
    propagate(top.as_fd(), dest, options)?;
    Ok(top)
}

/// A tmpfs with the v1 hierarchy that has no controllers. The host must have it mounted already: the kernel makes
/// none from inside a namespace.
fn systemds_v1(target: &OwnedFd, dest: &Path, options: &Options) -> Result<OwnedFd, Error> {
    let flags = options.new_mount_flags().difference(MountFlags::RDONLY);
    new(target, Path::new("tmpfs"), "tmpfs", flags, &["size=1024k".to_owned()])
        .map_err(Error::mount("tmpfs", dest))?;
    let top = top(target.as_fd()).map_err(Error::mount_point(dest))?;
    fchdir(&top).map_err(Error::mount_point(dest))?;
    let dest = dest.join("systemd");
    mkdirat(CWD, "systemd", Mode::from_raw_mode(0o755)).map_err(Error::mount_point(&dest))?;
    mount_fs(c"cgroup", "systemd", c"cgroup", options.new_mount_flags(), c"none,name=systemd,xattr")
        .map_err(Error::mount("cgroup", &dest))?;
    propagate(top.as_fd(), &dest, options)?;
    Ok(top)
}

/// Mounts one hierarchy as the cgroup namespace shows it; `false` if that is not allowed here.
fn hierarchy(name: &str, options: &Options) -> Result<bool, Errno> {
    let flags = FLAGS | options.new_mount_flags() & MountFlags::RDONLY;
    let result = match name {
        "unified" => mount_fs(c"cgroup2", name, c"cgroup2", flags, None),
        "systemd" => mount_fs(c"systemd", name, c"cgroup", flags, c"name=systemd"),
        _ => {
            let controllers = std::ffi::CString::new(name).map_err(|_| Errno::INVAL)?;
            mount_fs(c"cgroup", name, c"cgroup", flags, controllers.as_c_str())
        }
    };
    match result {
        Err(Errno::PERM | Errno::BUSY) => Ok(false),
        result => result.map(|()| true),
    }
}
