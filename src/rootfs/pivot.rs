//! The root file system as a mount of its own, and the change to it.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;
use rustix::fs::{CWD, Mode, OFlags, open, openat};
use rustix::io::Errno;
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, UnmountFlags, mount, mount_change, move_mount, unmount,
};
use rustix::process::{chdir, chroot, fchdir, pivot_root};

use super::attributes::set_propagation;
use super::resolve::{Root, open_canonical};
use super::{Context, Error, bind, options};

const SLAVE: MountPropagationFlags = MountPropagationFlags::DOWNSTREAM;
const REC: MountPropagationFlags = MountPropagationFlags::REC;

/// `linux.rootfsPropagation`.
pub(super) fn propagation(spec: &Spec) -> Result<Option<MountPropagationFlags>, Error> {
    match spec.linux().as_ref().and_then(|linux| linux.rootfs_propagation().as_deref()) {
        None | Some("") => Ok(None),
        Some(name) => options::propagation(name).map(Some).ok_or_else(|| Error::Propagation(name.to_owned())),
    }
}

/// Opens the root file system, in a new mount namespace as a mount that nothing outside sees. Its path is looked up this
/// one time.
pub(super) fn open_root(ctx: &Context) -> Result<Root, Error> {
    let directory = open_canonical(ctx.rootfs).map_err(Error::root(ctx.rootfs))?;
    if !ctx.new_mount_ns {
        if ctx.spec.mounts().as_ref().is_some_and(|mounts| !mounts.is_empty()) {
            // What is mounted now is the host's, and stays when the container is gone. As with runc, all of it lies
            // on one mount, which can be taken away at once.
            let tree = over_itself(&directory).map_err(Error::root(ctx.rootfs))?;
            set_propagation(tree.as_fd(), MountPropagationFlags::PRIVATE | REC)
                .map_err(Error::root(ctx.rootfs))?;
            return Ok(Root::new(tree));
        }
        return Ok(Root::new(directory));
    }
    // The namespace starts as a copy whose mounts propagate to the host and back. Slave is the default: volumes
    // that ask for `rslave` see what the host mounts later, the host sees nothing. `shared` stays as it is, for
    // volumes whose mounts the host must see.
    let wanted = propagation(ctx.spec)?.unwrap_or(SLAVE | REC);
    mount_change("/", wanted)
        .map_err(|errno| Error::SetPropagation { path: "/".into(), reason: errno.into() })?;
    let shared = reaches_host(wanted);
    if shared || wanted.contains(MountPropagationFlags::UNBINDABLE) {
        // pivot_root(2) demands it, and the next mount would otherwise appear on the host; nor could the root be
        // cloned.
        parent_private(&directory).map_err(Error::root(ctx.rootfs))?;
    }

    let tree = over_itself(&directory).map_err(Error::root(ctx.rootfs))?;
    if shared {
        set_propagation(tree.as_fd(), MountPropagationFlags::PRIVATE).map_err(Error::root(ctx.rootfs))?;
    }
    Ok(Root::new(tree))
}

/// Makes the directory a mount, as pivot_root(2) wants it: a clone of it with everything mounted below.
fn over_itself(directory: &OwnedFd) -> Result<OwnedFd, Errno> {
    let tree = bind::clone_all(directory, Path::new(""))?;
    bind::put(&tree, directory)?;
    Ok(tree)
}

/// Whether some of the mounts, at first copies of the host's, still propagate to the host.
fn reaches_host(propagation: MountPropagationFlags) -> bool {
    !propagation.contains(REC) || propagation.contains(MountPropagationFlags::SHARED)
}

/// Makes the mount that holds a directory private. Only the top of a mount can be named, so this looks upwards.
fn parent_private(directory: &OwnedFd) -> Result<(), Errno> {
    let mut above = Root::below(directory)?;
    loop {
        let changed = set_propagation(above.as_fd(), MountPropagationFlags::PRIVATE);
        let parent =
            openat(&above, c"..", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        if changed != Err(Errno::INVAL) || above.is(parent.as_fd())? {
            return changed;
        }
        above = Root::new(parent);
    }
}

/// Makes the root the working directory.
pub(super) fn go_to(root: &Root) -> Result<(), Error> {
    step("fchdir", fchdir(root))
}

/// Makes the prepared root `/`, and the working directory.
pub(super) fn enter(ctx: &Context, root: &Root) -> Result<(), Error> {
    let wanted = propagation(ctx.spec)?;
    if !ctx.new_mount_ns {
        step("chroot", chroot(c"."))?;
    } else if ctx.no_pivot {
        move_root(ctx.rootfs, root)?;
    } else {
        pivot(wanted)?;
    }
    step("chdir", chdir(c"/"))?;

    // After the change of root: before it, the host's mount would have been changed. The root is private or a
    // slave already.
    change_root(wanted.filter(|flags| flags.contains(MountPropagationFlags::SHARED)))
}

/// Makes `/` unbindable if it is to be: the last step, for paths become read-only by a bind mount of themselves.
pub(super) fn finish(ctx: &Context) -> Result<(), Error> {
    change_root(propagation(ctx.spec)?.filter(|flags| flags.contains(MountPropagationFlags::UNBINDABLE)))
}

fn change_root(propagation: Option<MountPropagationFlags>) -> Result<(), Error> {
    propagation
        .map_or(Ok(()), |flags| mount_change(c"/", flags))
        .map_err(|errno| Error::SetPropagation { path: "/".into(), reason: errno.into() })
}

/// With "." for both, the old root ends up on top of the new one, at the place we are in: no directory is
/// needed to put it (pivot_root(2), NOTES).
fn pivot(wanted: Option<MountPropagationFlags>) -> Result<(), Error> {
    if wanted.is_some_and(reaches_host) {
        // What is unmounted here must not be unmounted on the host, of whose mounts some are still peers.
        let old =
            step("open /", open(c"/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()))?;
        step("pivot_root", pivot_root(c".", c"."))?;
        step("fchdir", fchdir(&old))?;
        step("mount", mount_change(c".", SLAVE | REC))?;
    } else {
        step("pivot_root", pivot_root(c".", c"."))?;
    }
    step("umount", unmount(c".", UnmountFlags::DETACH))
}

/// Moves the root over `/`. The host's file systems stay mounted below it, so a process that gets out of the
/// chroot finds them: its procfs and sysfs are taken away first, as runc does.
fn move_root(rootfs: &Path, root: &Root) -> Result<(), Error> {
    for mounted in kernel_mounts(rootfs)? {
        match mount_change(&mounted, SLAVE | REC) {
            Err(Errno::NOENT) => continue,
            result => step("mount", result)?,
        }
        match unmount(&mounted, UnmountFlags::DETACH) {
            // Locked in a user namespace: it is covered instead.
            Err(Errno::INVAL | Errno::PERM) => {
                step("mount", mount(c"tmpfs", &mounted, c"tmpfs", MountFlags::empty(), None))?;
            }
            result => step("umount", result)?,
        }
    }
    step("move_mount", move_mount(root, c"", CWD, c"/", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH))?;
    step("chroot", chroot(c"."))
}

/// Where the whole of a procfs or sysfs is mounted, outside the root file system: proc(5), mountinfo.
fn kernel_mounts(rootfs: &Path) -> Result<Vec<PathBuf>, Error> {
    let mountinfo = fs::read_to_string("/proc/self/mountinfo")
        .map_err(|error| Error::Enter { call: "read /proc/self/mountinfo", reason: error.into() })?;
    Ok(mountinfo.lines().filter_map(|line| kernel_mount(line, rootfs)).collect())
}

fn kernel_mount(line: &str, rootfs: &Path) -> Option<PathBuf> {
    let (mount, superblock) = line.split_once(" - ")?;
    let mut fields = mount.split(' ').skip(3);
    let (top, place) = (fields.next()?, unescape(fields.next()?));
    let kind = superblock.split(' ').next()?;
    (top == "/" && matches!(kind, "proc" | "sysfs") && !place.starts_with(rootfs)).then_some(place)
}

/// mountinfo writes blanks and backslashes as three octal digits.
fn unescape(field: &str) -> PathBuf {
    let mut parts = field.split('\\');
    let mut path = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                path.push(byte.into());
                path.push_str(&part[3..]);
            }
            None => path.push_str(part),
        }
    }
    path.into()
}

fn step<T>(call: &'static str, result: Result<T, Errno>) -> Result<T, Error> {
    result.map_err(|errno| Error::Enter { call, reason: errno.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_kernel_file_systems_are_found() {
        let rootfs = Path::new("/c/rootfs");
        let found = |line| kernel_mount(line, rootfs);
        assert_eq!(found("22 1 0:20 / /a\\040b rw shared:5 - proc proc rw"), Some("/a b".into()));
        assert_eq!(found("22 1 0:20 / /sys rw - sysfs sysfs rw"), Some("/sys".into()));
        assert_eq!(found("22 1 0:20 /fs /x rw - sysfs sysfs rw"), None);
        assert_eq!(found("22 1 0:20 / /c/rootfs/proc rw - proc proc rw"), None);
        assert_eq!(found("22 1 0:20 / /x rw - ext4 /dev/vda rw"), None);
    }
}
