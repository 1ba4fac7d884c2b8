//! Files inside a disk that nobody has booted: looked at, and added.
//!
//! Paths here are a file system's own: absolute, and without symbolic links on the way, which [`Tree`](crate::tree::Tree)
//! resolves. Nothing of the host is ever reached through an image's links.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use crate::partition::Partition;
use crate::tool::{DEBUGFS, E2FSCK, MOUNT, Tool};

mod ext4;
mod mounted;

pub use mounted::Mounted;

/// What a name in a directory stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Link,
    /// A device, a socket or a pipe.
    Other,
}

/// A name in a directory.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The name.
    pub name: String,
    /// What it stands for.
    pub kind: Kind,
    /// The permission bits.
    pub mode: u32,
}

/// Something to be added.
#[derive(Debug)]
pub struct Addition {
    /// Where. Its directory is there, or comes before it in the list.
    pub path: String,
    /// What.
    pub what: What,
    /// Whether something else has the name until then.
    pub replaces: bool,
    /// `security.selinux`, where the system has a policy.
    pub label: Option<String>,
}

/// The contents of an [`Addition`].
#[derive(Debug)]
pub enum What {
    /// A directory, mode 0755.
    Directory,
    /// A copy of a file of the host, with these permission bits.
    File(PathBuf, u32),
    /// A symbolic link to this.
    Link(String),
}

/// A file system in an image. Everything added belongs to root.
pub trait FileSystem {
    /// The names in a directory.
    ///
    /// # Errors
    /// It is none, or cannot be read.
    fn list(&self, directory: &str) -> Result<Vec<Entry>>;

    /// Where a symbolic link leads.
    ///
    /// # Errors
    /// It is none, or cannot be read.
    fn target(&self, link: &str) -> Result<String>;

    /// The contents of a regular file.
    ///
    /// # Errors
    /// It cannot be read.
    fn read(&self, file: &str) -> Result<Vec<u8>>;

    /// How many bytes it can still take.
    ///
    /// # Errors
    /// It cannot be read.
    fn free(&self) -> Result<u64>;

    /// Adds all of these, in this order, and makes sure that they are there.
    ///
    /// # Errors
    /// It cannot be written to, or is damaged. What is there then is undefined.
    fn add(&mut self, additions: &[Addition]) -> Result<()>;
}

/// Whether a file system is opened to be changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// It stays as it is.
    Read,
    /// It is a copy of ours.
    Write,
}

/// The programs that a kind of file system takes; none if it is unknown here.
pub fn tools(kind: &str) -> Option<&'static [Tool]> {
    match kind {
        "ext2" | "ext3" | "ext4" => Some(&[DEBUGFS, E2FSCK]),
        "xfs" | "btrfs" => Some(&[MOUNT]),
        _ => None,
    }
}

/// Opens the file system on a partition of a raw disk. `scratch` is a directory for what it needs.
///
/// # Errors
/// Its kind is unknown, the host cannot mount it, or it is damaged.
pub fn open(
    disk: &Path,
    partition: &Partition,
    access: Access,
    scratch: &Path,
) -> Result<Box<dyn FileSystem>> {
    let kind = partition.file_system.as_str();
    crate::tool::require(tools(kind).unwrap_or_default())?;
    match kind {
        "ext2" | "ext3" | "ext4" => Ok(Box::new(ext4::Ext4::open(disk, partition, access, scratch)?)),
        "xfs" | "btrfs" => Ok(Box::new(Mounted::mount(disk, partition, access)?)),
        "" => bail!("partition {}: no known file system", partition.number),
        other => bail!("partition {}: {other} can be neither read nor changed here", partition.number),
    }
}
