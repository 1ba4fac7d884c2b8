//! Attributes and propagation of a mount that exists already, named by a descriptor of its root.
//!
//! mount_setattr(2) changes only what it is told to. Linux before 5.12 lacks it and is served by mount(2), except for
//! what works on a whole tree.

use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::fs::{Mode, OFlags, StatVfsMountFlags, fstatvfs, open};
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, MountFlags, MountPropagationFlags, mount_change, mount_remount};
use rustix::process::fchdir;

use super::resolve::is_directory;
use crate::procfs::Procfs;

/// Per-mount flags to set and to clear.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attributes {
    pub set: MountAttrFlags,
    pub clear: MountAttrFlags,
}

/// A flag of mount(2), and its names in mount_setattr(2) and statvfs(3).
const FLAGS: [(MountFlags, MountAttrFlags, StatVfsMountFlags); 8] = [
    (MountFlags::RDONLY, MountAttrFlags::MOUNT_ATTR_RDONLY, StatVfsMountFlags::RDONLY),
    (MountFlags::NOSUID, MountAttrFlags::MOUNT_ATTR_NOSUID, StatVfsMountFlags::NOSUID),
    (MountFlags::NODEV, MountAttrFlags::MOUNT_ATTR_NODEV, StatVfsMountFlags::NODEV),
    (MountFlags::NOEXEC, MountAttrFlags::MOUNT_ATTR_NOEXEC, StatVfsMountFlags::NOEXEC),
    (MountFlags::NODIRATIME, MountAttrFlags::MOUNT_ATTR_NODIRATIME, StatVfsMountFlags::NODIRATIME),
    (
        MountFlags::NOSYMFOLLOW,
        MountAttrFlags::MOUNT_ATTR_NOSYMFOLLOW,
        StatVfsMountFlags::from_bits_retain(0x2000),
    ),
    (MountFlags::NOATIME, MountAttrFlags::MOUNT_ATTR_NOATIME, StatVfsMountFlags::NOATIME),
    // statvfs has no bit for it, and says RELATIME when that is so.
    (MountFlags::STRICTATIME, MountAttrFlags::MOUNT_ATTR_STRICTATIME, StatVfsMountFlags::empty()),
];

const ATIME_MODES: MountAttrFlags =
    MountAttrFlags::MOUNT_ATTR_NOATIME.union(MountAttrFlags::MOUNT_ATTR_STRICTATIME);

/// What a mount does not inherit from its source when it has options of its own.
const REPLACED: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_RDONLY
    .union(MountAttrFlags::MOUNT_ATTR_NOSUID)
    .union(MountAttrFlags::MOUNT_ATTR_NODEV)
    .union(MountAttrFlags::MOUNT_ATTR_NOEXEC)
    .union(MountAttrFlags::MOUNT_ATTR_NOSYMFOLLOW);

impl Attributes {
    pub const READ_ONLY: Self =
        Self { set: MountAttrFlags::MOUNT_ATTR_RDONLY, clear: MountAttrFlags::empty() };
    const NONE: Self = Self { set: MountAttrFlags::empty(), clear: MountAttrFlags::empty() };

    /// From flags of mount(2). Those of a superblock (sync, lazytime, ...) are not a mount's and fall away.
    pub fn new(set: MountFlags, clear: MountFlags) -> Self {
        let mut attributes = Self::NONE;
        for (flag, attribute, _) in FLAGS {
            if set.contains(flag) {
                attributes.set |= attribute;
            }
            if clear.contains(flag) {
                attributes.clear |= attribute;
            }
        }
        // The mode of access times is a field, not a set of bits: a change names the whole field.
        if set.contains(MountFlags::RELATIME) || (attributes.set | attributes.clear).intersects(ATIME_MODES) {
            attributes.clear |= MountAttrFlags::MOUNT_ATTR__ATIME;
        }
        attributes
    }

    pub fn is_empty(self) -> bool {
        self.set.is_empty() && self.clear.is_empty()
    }

    /// Gives a new bind mount its flags as mount(2) does, and so runc and crun: with any of its own, those of the
    /// source are gone, but for access times, and, in a user namespace, for what is locked there
    /// (mount_namespaces(7)).
    pub fn replace(self, mount: BorrowedFd, user_namespace: bool) -> Result<(), Errno> {
        let replaced = if user_namespace { MountAttrFlags::MOUNT_ATTR_NOSYMFOLLOW } else { REPLACED };
        let exact = Self { clear: self.clear | (replaced - self.set), ..self };
        match setattr(mount, false, exact, MountPropagationFlags::empty()) {
            // The runtime itself may be in a user namespace.
            Err(Errno::PERM) => self.apply(mount, false),
            Err(Errno::NOSYS) => exact.remount(mount),
            result => result,
        }
    }

    /// Sets and clears on the mount, or on all mounts of the tree below it.
    pub fn apply(self, mount: BorrowedFd, recursive: bool) -> Result<(), Errno> {
        match setattr(mount, recursive, self, MountPropagationFlags::empty()) {
            // In a user namespace, what the source's owner has locked cannot be cleared: it stays as it is.
            Err(Errno::PERM) if !self.clear.is_empty() && !self.set.intersects(ATIME_MODES) => setattr(
                mount,
                recursive,
                Self { clear: MountAttrFlags::empty(), ..self },
                MountPropagationFlags::empty(),
            ),
            Err(Errno::NOSYS) if !recursive => self.remount(mount),
            result => result,
        }
    }

    fn remount(self, mount: BorrowedFd) -> Result<(), Errno> {
        let now = fstatvfs(mount)?.f_flag;
        let mut flags = MountFlags::BIND;
        for (flag, attribute, current) in FLAGS {
            let kept = !current.is_empty() && now.contains(current) && !self.clear.contains(attribute);
            if kept || self.set.contains(attribute) {
                flags |= flag;
            }
        }
        at(mount, |path| mount_remount(path, flags, c""))
    }
}

/// Changes how mounts below this one are seen in other namespaces (mount_namespaces(7)).
pub(super) fn set_propagation(mount: BorrowedFd, propagation: MountPropagationFlags) -> Result<(), Errno> {
    let recursive = propagation.contains(MountPropagationFlags::REC);
    let kind = propagation - MountPropagationFlags::REC;
    match setattr(mount, recursive, Attributes::NONE, kind) {
        Err(Errno::NOSYS) => at(mount, |path| mount_change(path, propagation)),
        result => result,
    }
}

/// Does something with a path of a mount, and comes back to the working directory. A directory is the path `.`, a file
/// one below a procfs that is proven to be one.
fn at(mount: BorrowedFd, change: impl FnOnce(&str) -> Result<(), Errno>) -> Result<(), Errno> {
    let here = open(c".", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let changed = if is_directory(mount)? {
        fchdir(mount).and_then(|()| change("."))
    } else {
        let procfs = Procfs::find()?;
        fchdir(&procfs).and_then(|()| change(&format!("self/fd/{}", mount.as_raw_fd())))
    };
    fchdir(&here)?;
    changed
}

/// `struct mount_attr`, version 0.
#[repr(C)]
struct MountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

/// mount_setattr(2), which rustix does not have.
fn setattr(
    mount: BorrowedFd,
    recursive: bool,
    attributes: Attributes,
    propagation: MountPropagationFlags,
) -> Result<(), Errno> {
    call_setattr(
        mount,
        recursive,
        &MountAttr {
            attr_set: attributes.set.bits().into(),
            attr_clr: attributes.clear.bits().into(),
            propagation: propagation.bits().into(),
            userns_fd: 0,
        },
    )
}

/// Maps the ids of a detached mount, and of everything mounted below it, as the user namespace has them.
pub(super) fn map_ids(mount: BorrowedFd, users: BorrowedFd, recursive: bool) -> Result<(), Errno> {
    const MOUNT_ATTR_IDMAP: u64 = 0x0010_0000;
    let attr = MountAttr {
        attr_set: MOUNT_ATTR_IDMAP,
        attr_clr: 0,
        propagation: 0,
        userns_fd: u64::from(users.as_raw_fd().cast_unsigned()),
    };
    call_setattr(mount, recursive, &attr)
}

fn call_setattr(mount: BorrowedFd, recursive: bool, attr: &MountAttr) -> Result<(), Errno> {
    const AT_RECURSIVE: libc::c_int = 0x8000;
    let flags = libc::AT_EMPTY_PATH | if recursive { AT_RECURSIVE } else { 0 };
    // SAFETY: the path is NUL-terminated, and the kernel reads `size_of::<MountAttr>()` bytes of a structure
    // that lives through the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            std::ptr::from_ref(attr),
            size_of::<MountAttr>(),
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO))
    }
}
