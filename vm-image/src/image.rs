//! An image that exists, opened: its disk, the partition with the system, and the system's files.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::filesystem::{self, Access, Mounted};
use crate::format::{self, Format, Layout};
use crate::partition::{self, Partition};
use crate::tool::{self, BLKID, CP, DEBUGFS, E2FSCK, QEMU_IMG, SFDISK, TAR, Tool};
use crate::tree::{self, Tree};
use crate::{output, progress};

/// A copy of an image's contents, in which its files can be looked at and added to.
pub struct Image {
    /// The image's format.
    pub format: Format,
    /// The disk's partitions; none of an archive.
    pub partitions: Vec<Partition>,
    /// Which of them has the system.
    pub root: Option<usize>,
    /// The system's files. Before the directory they are in: a mount must go first.
    pub tree: Tree,
    /// The raw disk; none of an archive.
    pub disk: Option<PathBuf>,
    /// Where all that is.
    pub work: TempDir,
}

const TOOLS: [Tool; 6] = [BLKID, CP, DEBUGFS, E2FSCK, QEMU_IMG, SFDISK];

impl Image {
    /// Opens one. The file itself is only read.
    ///
    /// # Errors
    /// It is no image, has no system that is known here, or a tool is missing.
    pub fn open(path: &Path, access: Access) -> Result<Self> {
        tool::require(&TOOLS)?;
        let format = Format::of_file(path)?;
        let work = output::workspace()?;
        if format.layout == Layout::Tar {
            return Self::unpack(path, format, work);
        }
        let disk = work.path().join("disk.raw");
        format::to_raw(path, format, &disk)?;
        let partitions = partition::partitions(&disk).with_context(|| path.display().to_string())?;
        let mut reasons = Vec::new();
        for partition in &partitions {
            if filesystem::tools(&partition.file_system).is_none() {
                continue;
            }
            let scratch = tempfile::tempdir_in(work.path())?.keep();
            // Only the one that is to be changed is checked and repaired for that.
            let find = |access| filesystem::open(&disk, partition, access, &scratch).and_then(Tree::find);
            let mut found = find(Access::Read);
            if access == Access::Write && matches!(found, Ok(Some(_))) {
                // Not mounted twice.
                drop(found);
                found = find(Access::Write);
            }
            match found {
                Ok(Some(tree)) => {
                    let root = Some(partition.number);
                    return Ok(Self { format, partitions, root, tree, disk: Some(disk), work });
                }
                Ok(None) => {}
                Err(error) => reasons.push(error.context(format!("partition {}", partition.number))),
            }
        }
        if let Some(reason) = reasons.pop() {
            return Err(reason.context(path.display().to_string()));
        }
        let seen: Vec<_> = partitions
            .iter()
            .map(|p| if p.file_system.is_empty() { "unknown" } else { &p.file_system })
            .collect();
        bail!(
            "{}: no Linux system found: its file systems are {}; ext4, xfs and btrfs can be read",
            path.display(),
            if seen.is_empty() { "none".to_owned() } else { seen.join(", ") }
        )
    }

    fn unpack(path: &Path, format: Format, work: TempDir) -> Result<Self> {
        tool::require(&[TAR])?;
        let archive = work.path().join("archive.tar");
        format::decompress(format.compression, path, &archive)?;
        let root = work.path().join("root");
        std::fs::create_dir(&root)?;
        {
            let _step = progress::step("unpacking");
            let mut tar = TAR.command();
            // Devices and owners are of no interest; a directory that nobody may write to would be in the way.
            tar.args(["--no-same-owner", "--mode=u+rwX", "--exclude=./dev/*", "--exclude=dev/*"]);
            tool::run(tar.args(["--delay-directory-restore", "-xf"]).arg(&archive).arg("-C").arg(&root))?;
        }
        std::fs::remove_file(&archive)?;
        let fs = Box::new(Mounted::directory(&root));
        let tree =
            Tree::find(fs)?.with_context(|| format!("{}: no Linux system in the archive", path.display()))?;
        Ok(Self { format, partitions: Vec::new(), root: None, tree, disk: None, work })
    }

    /// How the system is laid out, for people.
    pub fn system(&self) -> String {
        match self.tree.layout() {
            tree::Layout::Plain(root) if root.is_empty() => "plain".to_owned(),
            tree::Layout::Plain(root) => format!("plain, in {root}"),
            tree::Layout::Ostree(deployment, _) => format!("OSTree, in {deployment}"),
        }
    }
}
