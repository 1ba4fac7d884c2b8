//! ext4 by debugfs(8), which reads and writes it inside a file: no mount, no device, no privilege.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use super::{Access, Addition, Entry, FileSystem, Kind, What};
use crate::format;
use crate::partition::Partition;
use crate::tool::{self, DEBUGFS, E2FSCK};

/// An ext2, ext3 or ext4 file system at an offset in a file.
pub struct Ext4 {
    /// The file, with the offset in libext2fs' notation.
    device: String,
    scratch: PathBuf,
}

/// Permission and type bits of `st_mode`.
const TYPE: u32 = 0o170_000;

impl Ext4 {
    /// Opens it.
    ///
    /// # Errors
    /// It is damaged, or was not unmounted cleanly and cannot be repaired; or the path is none that libext2fs can be told.
    pub fn open(disk: &Path, partition: &Partition, access: Access, scratch: &Path) -> Result<Self> {
        let name = disk.to_str().context("a path that is not UTF-8")?;
        ensure!(!name.contains('?'), "{name}: libext2fs ends a path at a `?`: use another place (TMPDIR)");
        let it = Self { device: format!("{name}?offset={}", partition.offset), scratch: scratch.to_owned() };
        if access == Access::Write {
            // Of a system that was not shut down; debugfs would write past it.
            if has_journal_to_replay(disk, partition)? {
                it.replay(disk, partition).context("its journal")?;
            }
            it.check("-fp").context("the file system is damaged")?;
        }
        Ok(it)
    }

    /// Replays the journal, in a copy of the partition: e2fsck (1.47) opens the file once more after that, and at its
    /// beginning.
    fn replay(&self, disk: &Path, partition: &Partition) -> Result<()> {
        let path = self.scratch.join("partition");
        let whole = File::options().read(true).write(true).open(disk)?;
        let part = File::options().read(true).write(true).create_new(true).open(&path)?;
        part.set_len(partition.size)?;
        carry((&whole, partition.offset), (&part, 0), partition.size)?;
        let device = path.to_str().context("a path that is not UTF-8")?.to_owned();
        Self { device, scratch: self.scratch.clone() }.check("-fp")?;
        carry((&part, 0), (&whole, partition.offset), partition.size)?;
        Ok(fs::remove_file(path)?)
    }

    fn check(&self, how: &str) -> Result<()> {
        let (code, said, done) = tool::answer(E2FSCK.command().arg(how).arg(&self.device))?;
        // 1: errors, all repaired (e2fsck(8)).
        match code {
            Some(0 | 1) => Ok(()),
            _ => {
                let last = said.lines().map(str::trim).rfind(|line| !line.is_empty());
                done.context(last.unwrap_or("e2fsck failed").to_owned())
            }
        }
    }

    /// What one request prints.
    fn ask(&self, request: &str) -> Result<Vec<u8>> {
        tool::output(DEBUGFS.command().args(["-R", request, &self.device]))
    }
}

/// Whether the superblock says `needs_recovery` (the kernel's Documentation/filesystems/ext4/super.rst).
fn has_journal_to_replay(disk: &Path, partition: &Partition) -> Result<bool> {
    const FEATURE_INCOMPAT: u64 = 1024 + 0x60;
    let features = format::read_at(disk, partition.offset + FEATURE_INCOMPAT, 1)?;
    Ok(features[0] & 4 != 0)
}

/// Copies what is different, so that holes stay.
fn carry(from: (&File, u64), to: (&File, u64), size: u64) -> Result<()> {
    let (mut new, mut old) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    let mut at = 0;
    while at < size {
        crate::interrupt::check()?;
        let length = usize::try_from(size - at)?.min(new.len());
        let (new, old) = (&mut new[..length], &mut old[..length]);
        from.0.read_exact_at(new, from.1 + at)?;
        to.0.read_exact_at(old, to.1 + at)?;
        if new != old {
            to.0.write_all_at(new, to.1 + at)?;
        }
        at += length as u64;
    }
    Ok(())
}

/// A name as debugfs reads it.
fn quoted(path: &str) -> Result<String> {
    ensure!(!path.contains(['"', '\n', '\\']), "{path:?}: debugfs cannot be told this name");
    Ok(format!("\"{path}\""))
}

impl FileSystem for Ext4 {
    fn list(&self, directory: &str) -> Result<Vec<Entry>> {
        let rows = self.ask(&format!("ls -p {}", quoted(directory)?))?;
        // /inode/mode/uid/gid/name/size/
        let mut entries = Vec::new();
        for row in String::from_utf8_lossy(&rows).lines().filter(|row| !row.is_empty()) {
            let columns: Vec<_> = row.split('/').collect();
            let [_, inode, mode, _, _, name, ..] = columns.as_slice() else {
                bail!("{directory}: debugfs says {row:?}");
            };
            let mode = u32::from_str_radix(mode, 8).with_context(|| format!("{directory}: {row:?}"))?;
            let kind = match mode & TYPE {
                0o100_000 => Kind::File,
                0o040_000 => Kind::Directory,
                0o120_000 => Kind::Link,
                _ => Kind::Other,
            };
            // The inode number is 0 where a name was.
            if *inode != "0" && *name != "." && *name != ".." {
                entries.push(Entry { name: (*name).to_owned(), kind, mode: mode & !TYPE });
            }
        }
        Ok(entries)
    }

    fn target(&self, link: &str) -> Result<String> {
        let stat = self.ask(&format!("stat {}", quoted(link)?))?;
        let stat = String::from_utf8_lossy(&stat);
        if let Some((_, rest)) = stat.split_once("Fast link dest: \"") {
            return rest
                .split_once('"')
                .map(|(target, _)| target.to_owned())
                .context("a link without an end");
        }
        // A longer one is in a block like a file's contents.
        let target = self.ask(&format!("cat {}", quoted(link)?))?;
        String::from_utf8(target).with_context(|| link.to_owned())
    }

    fn read(&self, file: &str) -> Result<Vec<u8>> {
        self.ask(&format!("cat {}", quoted(file)?))
    }

    fn free(&self) -> Result<u64> {
        let stats = self.ask("stats -h")?;
        let stats = String::from_utf8_lossy(&stats);
        let number = |key: &str| -> Result<u64> {
            let value = stats.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
            value.context(key.to_owned())?.trim().parse().with_context(|| key.to_owned())
        };
        let blocks = number("Free blocks")?.saturating_sub(number("Reserved block count")?);
        Ok(blocks * number("Block size")?)
    }

    fn add(&mut self, additions: &[Addition]) -> Result<()> {
        let mut script = String::new();
        for (number, addition) in additions.iter().enumerate() {
            let path = quoted(&addition.path)?;
            let (directory, name) = addition.path.rsplit_once('/').context("a path without a directory")?;
            let name = quoted(name)?;
            writeln!(script, "cd {}", quoted(if directory.is_empty() { "/" } else { directory })?)?;
            if addition.replaces {
                writeln!(script, "rm {name}")?;
            }
            match &addition.what {
                What::Directory => writeln!(script, "mkdir {name}")?,
                What::Link(target) => writeln!(script, "symlink {name} {}", quoted(target)?)?,
                What::File(source, mode) => {
                    let source = source.to_str().context("a path that is not UTF-8")?;
                    writeln!(script, "write {} {name}", quoted(source)?)?;
                    writeln!(script, "set_inode_field {path} mode 0100{mode:03o}")?;
                }
            }
            if let Some(label) = &addition.label {
                let file = self.scratch.join(format!("label-{number}"));
                // The kernel keeps the terminating zero.
                fs::write(&file, format!("{label}\0"))?;
                let file = file.to_str().context("a path that is not UTF-8")?;
                writeln!(script, "ea_set -f {} {path} security.selinux", quoted(file)?)?;
            }
        }
        let file = self.scratch.join("additions");
        fs::write(&file, script)?;
        tool::output(DEBUGFS.command().arg("-w").arg("-f").arg(&file).arg(&self.device))?;
        // debugfs goes on after an error, and ends with 0.
        self.check("-fn").context("what was written does not check")?;
        for addition in additions {
            let written = match &addition.what {
                What::Directory => !self.ask(&format!("ls -p {}", quoted(&addition.path)?))?.is_empty(),
                What::Link(target) => self.target(&addition.path)? == *target,
                What::File(source, _) => self.read(&addition.path)? == fs::read(source)?,
            };
            ensure!(written, "{}: could not be written", addition.path);
        }
        Ok(())
    }
}
