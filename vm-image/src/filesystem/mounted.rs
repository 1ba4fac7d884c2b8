//! File systems that only the kernel can write: XFS and btrfs, on a loop device; and a directory of the host.

use std::fs;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustix::mount::{MountPropagationFlags, UnmountFlags, mount_change, unmount};

use super::{Access, Addition, Entry, FileSystem, Kind, What};
use crate::output;
use crate::partition::Partition;
use crate::tool::{self, MOUNT};

/// A directory of the host, with the file system in it or not.
pub struct Mounted {
    directory: PathBuf,
    /// Unmounted at the end.
    mount: Option<tempfile::TempDir>,
}

impl Mounted {
    /// A directory as it is.
    pub fn directory(directory: &Path) -> Self {
        Self { directory: directory.to_owned(), mount: None }
    }

    /// Mounts a partition of a raw disk where no other process sees it.
    ///
    /// # Errors
    /// The host cannot, or not without more privileges.
    pub fn mount(disk: &Path, partition: &Partition, access: Access) -> Result<Self> {
        let kind = &partition.file_system;
        let cannot = || {
            format!(
                "{kind} can be looked at and changed only where the host can mount a file (as root, with loop devices)"
            )
        };
        // SAFETY: only this thread's view of mounts changes.
        unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS) }
            .with_context(cannot)?;
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
            .with_context(cannot)?;
        let mount = output::workspace()?;
        let options = match (access, kind.as_str()) {
            // The host may have another copy of it.
            (Access::Write, "xfs") => "rw,nouuid",
            (Access::Write, _) => "rw",
            // Not even the journal is replayed.
            (Access::Read, "xfs") => "ro,norecovery,nouuid",
            (Access::Read, _) => "ro",
        };
        let Partition { offset, size, .. } = partition;
        let mut command = MOUNT.command();
        command.args([
            "-t",
            kind,
            "-o",
            &format!("loop,offset={offset},sizelimit={size},{options},nodev,nosuid,noexec"),
        ]);
        tool::run(command.arg("--").arg(disk).arg(mount.path())).with_context(cannot)?;
        Ok(Self { directory: mount.path().to_owned(), mount: Some(mount) })
    }

    fn at(&self, path: &str) -> PathBuf {
        self.directory.join(path.trim_start_matches('/'))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Some(mount) = self.mount.take() {
            // Removing the directory with the file system still in it would empty the image.
            if unmount(mount.path(), UnmountFlags::empty()).is_err() {
                let _ = unmount(mount.path(), UnmountFlags::DETACH);
            }
            let _ = fs::remove_dir(mount.path());
            let _ = mount.keep();
        }
    }
}

impl FileSystem for Mounted {
    fn list(&self, directory: &str) -> Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(self.at(directory)).with_context(|| directory.to_owned())? {
            let entry = entry?;
            let metadata = entry.metadata()?;
            let kind = match metadata.file_type() {
                kind if kind.is_file() => Kind::File,
                kind if kind.is_dir() => Kind::Directory,
                kind if kind.is_symlink() => Kind::Link,
                _ => Kind::Other,
            };
            let name = entry.file_name().to_string_lossy().into_owned();
            entries.push(Entry { name, kind, mode: metadata.mode() & 0o7777 });
        }
        Ok(entries)
    }

    fn target(&self, link: &str) -> Result<String> {
        Ok(fs::read_link(self.at(link)).with_context(|| link.to_owned())?.to_string_lossy().into_owned())
    }

    fn read(&self, file: &str) -> Result<Vec<u8>> {
        fs::read(self.at(file)).with_context(|| file.to_owned())
    }

    fn free(&self) -> Result<u64> {
        let stat = rustix::fs::statvfs(&self.directory)?;
        Ok(stat.f_bavail * stat.f_frsize)
    }

    fn add(&mut self, additions: &[Addition]) -> Result<()> {
        for addition in additions {
            self.add_one(addition).with_context(|| addition.path.clone())?;
        }
        Ok(())
    }
}

impl Mounted {
    fn add_one(&self, addition: &Addition) -> Result<()> {
        let path = self.at(&addition.path);
        if addition.replaces {
            fs::remove_file(&path)?;
        }
        match &addition.what {
            What::Directory => {
                fs::create_dir(&path)?;
                fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
            }
            What::Link(target) => symlink(target, &path)?,
            What::File(source, mode) => {
                let mut to = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
                std::io::copy(&mut fs::File::open(source)?, &mut to)?;
                to.set_permissions(fs::Permissions::from_mode(*mode))?;
                // A full disk may say so only now.
                to.sync_all()?;
            }
        }
        std::os::unix::fs::lchown(&path, Some(0), Some(0))?;
        if let Some(label) = &addition.label {
            let value = format!("{label}\0");
            rustix::fs::lsetxattr(
                &path,
                "security.selinux",
                value.as_bytes(),
                rustix::fs::XattrFlags::empty(),
            )?;
        }
        Ok(())
    }
}
