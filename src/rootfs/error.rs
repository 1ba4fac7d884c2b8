//! What can go wrong with a container's file system.

use std::path::{Path, PathBuf};

use oci_spec::runtime::Mount;
use rustix::io::Errno;

use crate::error::Os;

/// What can go wrong with a container's file system. Paths are the container's unless said otherwise.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A mount that the kernel refused.
    #[error("mount {source_} to {}: {reason}", .dest.display())]
    Mount {
        /// What was to be mounted: a path of the host, or the name of a file system.
        source_: String,
        /// Where.
        dest: PathBuf,
        /// Why not.
        reason: Os,
    },
    /// The place of a mount can be neither found nor created.
    #[error("create mount point {}: {reason}", .dest.display())]
    MountPoint {
        /// The place.
        dest: PathBuf,
        /// Why not.
        reason: Os,
    },
    /// The flags or the propagation of a mount cannot be changed.
    #[error("set options of mount {}: {reason}", .dest.display())]
    Attributes {
        /// The mount.
        dest: PathBuf,
        /// Why not.
        reason: Os,
    },
    /// The ids of a mount cannot be mapped.
    #[error("mount {}: failed to set MOUNT_ATTR_IDMAP: {reason}{}", .dest.display(), if reason.errno() == Some(libc::EINVAL) { " (maybe the filesystem used doesn't support idmap mounts on this kernel?)" } else { "" })]
    Idmap {
        /// The mount.
        dest: PathBuf,
        /// Why not.
        reason: Os,
    },
    /// A mount that cannot be taken away.
    #[error("unmount {}: {reason}", .dest.display())]
    Unmount {
        /// The mount.
        dest: PathBuf,
        /// Why not.
        reason: Os,
    },
    /// What the runtime could not do for the container's process.
    #[error("{0}")]
    Outside(String),
    /// The contents of the directory below a tmpfs cannot be copied into it.
    #[error("mount {}: tmpcopyup: {path}: {reason}", .dest.display())]
    CopyUp {
        /// The mount.
        dest: PathBuf,
        /// The file, relative to the mount.
        path: String,
        /// Why not.
        reason: Os,
    },
    /// An entry of `mounts` that is wrong or not supported.
    #[error("mount {}: {problem}", .dest.display())]
    Unsupported {
        /// Its destination.
        dest: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A mount onto `/`.
    #[error("mount {}: it is on top of the root file system", .0.display())]
    OnRoot(PathBuf),
    /// procfs or sysfs at the end of a symbolic link.
    #[error("mount {}: filesystem {fs:?} must be mounted on ordinary directory", .dest.display())]
    NotOrdinary {
        /// Where.
        dest: PathBuf,
        /// The type of the file system.
        fs: String,
    },
    /// Something else mounted where programs and the runtime look for procfs.
    #[error("{:?} cannot be mounted because it is not of type proc", .0)]
    NotProc(PathBuf),
    /// Something mounted over a file of procfs.
    #[error("{:?} cannot be mounted because it is inside /proc", .0)]
    InsideProc(PathBuf),
    /// A value of the annotation for labels.
    #[error(
        "annotation run.oci.mount_context_type: invalid mount context type {0:?} (must be one of: context, fscontext, defcontext, rootcontext)"
    )]
    LabelKind(String),
    /// Restrictions without a namespace to make them in.
    #[error("maskedPaths and readonlyPaths need a namespace of type mount in linux.namespaces")]
    NoMountNamespace,
    /// A value of `linux.rootfsPropagation`.
    #[error("linux.rootfsPropagation: unknown value {0:?}")]
    Propagation(String),
    /// The propagation of the whole tree cannot be set.
    #[error("set mount propagation of {}: {reason}", .path.display())]
    SetPropagation {
        /// The mount, a path of the host before the change of root.
        path: PathBuf,
        /// Why not.
        reason: Os,
    },
    /// The root file system itself.
    #[error("root file system {}: {reason}", .path.display())]
    Root {
        /// Its path on the host.
        path: PathBuf,
        /// Why not.
        reason: Os,
    },
    /// A step of the change of root.
    #[error("change to the root file system: {call}: {reason}")]
    Enter {
        /// The system call.
        call: &'static str,
        /// Why not.
        reason: Os,
    },
    /// An entry of `linux.devices` that is wrong.
    #[error("linux.devices: {}: {problem}", .path.display())]
    BadDevice {
        /// Its path.
        path: PathBuf,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A device, or a link in /dev, that cannot be made.
    #[error("create {}: {reason}", .path.display())]
    Device {
        /// Its path.
        path: PathBuf,
        /// Why not.
        reason: Os,
    },
    /// A path that cannot be made read-only.
    #[error("make {} read-only: {reason}", .path.display())]
    ReadOnly {
        /// The path.
        path: PathBuf,
        /// Why not.
        reason: Os,
    },
    /// A path that cannot be hidden.
    #[error("mask {path}: {reason}")]
    Mask {
        /// The path.
        path: String,
        /// Why not.
        reason: Os,
    },
    /// What would hide files is not the null device.
    #[error("cannot mask paths: the container's /dev/null is not the null device")]
    NotNull,
}

impl Error {
    pub(super) fn mount(source: impl Into<String>, dest: &Path) -> impl FnOnce(Errno) -> Self {
        move |errno| Self::Mount { source_: source.into(), dest: dest.to_owned(), reason: errno.into() }
    }

    pub(super) fn mount_point(dest: &Path) -> impl FnOnce(Errno) -> Self {
        move |errno| Self::MountPoint { dest: dest.to_owned(), reason: errno.into() }
    }

    pub(super) fn attributes(dest: &Path) -> impl FnOnce(Errno) -> Self {
        move |errno| Self::Attributes { dest: dest.to_owned(), reason: errno.into() }
    }

    pub(super) fn root(path: &Path) -> impl FnOnce(Errno) -> Self {
        move |errno| Self::Root { path: path.to_owned(), reason: errno.into() }
    }

    pub(super) fn unsupported(mount: &Mount) -> impl FnOnce(String) -> Self {
        move |problem| Self::Unsupported { dest: mount.destination().clone(), problem }
    }

    pub(super) fn device(path: &Path) -> impl FnOnce(Errno) -> Self {
        move |errno| Self::Device { path: path.to_owned(), reason: errno.into() }
    }
}
