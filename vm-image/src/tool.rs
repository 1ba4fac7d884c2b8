//! The programs of the host that do part of the work: which Debian package each is in, and how they are run.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::interrupt::{self, Running};

/// A program, and where to get it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tool {
    program: &'static str,
    package: &'static str,
}

/// Names file systems.
pub const BLKID: Tool = Tool { program: "blkid", package: "util-linux" };
/// Copies with holes.
pub const CP: Tool = Tool { program: "cp", package: "coreutils" };
/// Reads and writes ext4 in a file.
pub const DEBUGFS: Tool = Tool { program: "debugfs", package: "e2fsprogs" };
/// Checks ext4 in a file.
pub const E2FSCK: Tool = Tool { program: "e2fsck", package: "e2fsprogs" };
/// Makes the boot loader.
pub const GRUB_MKIMAGE: Tool = Tool { program: "grub-mkimage", package: "grub-common" };
/// Decompresses older images.
pub const GZIP: Tool = Tool { program: "gzip", package: "gzip" };
/// Copies into a FAT file system.
pub const MCOPY: Tool = Tool { program: "mcopy", package: "mtools" };
/// Makes ext4 from a directory.
pub const MKE2FS: Tool = Tool { program: "mke2fs", package: "e2fsprogs" };
/// Makes the EFI system partition.
pub const MKFS_VFAT: Tool = Tool { program: "mkfs.vfat", package: "dosfstools" };
/// Makes a directory in a FAT file system.
pub const MMD: Tool = Tool { program: "mmd", package: "mtools" };
/// Installs Debian into a directory.
pub const MMDEBSTRAP: Tool = Tool { program: "mmdebstrap", package: "mmdebstrap" };
/// Mounts XFS and btrfs.
pub const MOUNT: Tool = Tool { program: "mount", package: "mount" };
/// Converts formats of disks.
pub const QEMU_IMG: Tool = Tool { program: "qemu-img", package: "qemu-utils" };
/// Reads and writes partition tables.
pub const SFDISK: Tool = Tool { program: "sfdisk", package: "fdisk" };
/// Archives.
pub const TAR: Tool = Tool { program: "tar", package: "tar" };
/// Decompresses images of Fedora CoreOS.
pub const XZ: Tool = Tool { program: "xz", package: "xz-utils" };
/// Compresses.
pub const ZSTD: Tool = Tool { program: "zstd", package: "zstd" };

/// An ordinary user's `PATH` lacks the directories of many of these.
const ALSO_IN: &str = "/usr/sbin:/sbin:/usr/bin:/bin";

impl Tool {
    fn find(self) -> Option<PathBuf> {
        which::which_in(self.program, Some(path()), "/").ok()
    }

    /// This program, yet without arguments. It has no standard input, and nothing of a locale.
    pub fn command(self) -> Command {
        let mut command = Command::new(self.find().unwrap_or_else(|| self.program.into()));
        command.env("PATH", path()).env("LC_ALL", "C").stdin(Stdio::null());
        command
    }
}

fn path() -> String {
    match std::env::var("PATH") {
        Ok(path) if !path.is_empty() => format!("{path}:{ALSO_IN}"),
        _ => ALSO_IN.to_owned(),
    }
}

/// Fails unless all of these are installed, and says which Debian packages are missing.
///
/// # Errors
/// One is not there.
pub fn require(tools: &[Tool]) -> Result<()> {
    let missing: Vec<_> = tools.iter().filter(|tool| tool.find().is_none()).collect();
    let programs: Vec<_> = missing.iter().map(|tool| tool.program).collect();
    need(&programs, missing.iter().map(|tool| tool.package).collect())
}

/// Fails unless all of these files are there, and says which Debian packages they are in.
///
/// # Errors
/// One is not there.
pub fn require_files(files: &[(&'static str, &'static str)]) -> Result<()> {
    let missing: Vec<_> = files.iter().filter(|(file, _)| !std::path::Path::new(file).exists()).collect();
    let names: Vec<_> = missing.iter().map(|(file, _)| *file).collect();
    need(&names, missing.iter().map(|(_, package)| *package).collect())
}

fn need(missing: &[&str], mut packages: Vec<&str>) -> Result<()> {
    packages.sort_unstable();
    packages.dedup();
    ensure!(
        missing.is_empty(),
        "not installed: {}; on Debian: apt-get install {}",
        missing.join(", "),
        packages.join(" ")
    );
    Ok(())
}

/// Runs a program to its end and returns what it wrote to standard output.
///
/// # Errors
/// It cannot be started, fails (its last words are in the error), or a signal came.
pub fn output(command: &mut Command) -> Result<Vec<u8>> {
    command.stdout(Stdio::piped());
    let mut out = Vec::new();
    watch(command, |child| {
        child.stdout.take().context("standard output")?.read_to_end(&mut out)?;
        Ok(())
    })?;
    Ok(out)
}

/// Runs a program to its end. What it writes to standard output goes where the command says.
///
/// # Errors
/// As [`output`].
pub fn run(command: &mut Command) -> Result<()> {
    watch(command, |_| Ok(()))
}

/// Runs a program to its end whose exit code is an answer. Returns that (none if a signal ended it), what it wrote to
/// standard output, and what [`run`] would.
///
/// # Errors
/// A signal came.
pub fn answer(command: &mut Command) -> Result<(Option<i32>, String, Result<()>)> {
    let (mut code, mut said) = (None, String::new());
    let done = watch(command.stdout(Stdio::piped()), |child| {
        child.stdout.take().context("standard output")?.read_to_string(&mut said)?;
        code = child.wait()?.code();
        Ok(())
    });
    interrupt::check()?;
    Ok((code, said, done))
}

/// Runs a program, does `meanwhile` with its streams, and waits for its end.
///
/// # Errors
/// As [`output`], and what `meanwhile` fails with.
pub fn watch(
    command: &mut Command,
    meanwhile: impl FnOnce(&mut std::process::Child) -> Result<()>,
) -> Result<()> {
    watch_lines(command, meanwhile, |_| {})
}

/// As [`watch`], and shows each line of its standard error to `line`.
///
/// # Errors
/// As [`watch`].
pub fn watch_lines(
    command: &mut Command,
    meanwhile: impl FnOnce(&mut std::process::Child) -> Result<()>,
    line: impl Fn(&str) + Send + Sync,
) -> Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let name = name.rsplit('/').next().unwrap_or_default().to_owned();
    let mut child =
        command.stderr(Stdio::piped()).process_group(0).spawn().with_context(|| format!("start {name}"))?;
    let running = Running::new(child.id());
    let stderr = child.stderr.take().context("standard error")?;
    let (done, said) = std::thread::scope(|scope| {
        let said = scope.spawn(|| last_words(stderr, &line));
        let done = meanwhile(&mut child);
        (done, said.join().unwrap_or_default())
    });
    let status = child.wait().with_context(|| format!("wait for {name}"))?;
    drop(running);
    interrupt::check()?;
    if !status.success() {
        // What went wrong meanwhile is then its fault, most often a broken pipe.
        bail!("{name}: {}", if said.is_empty() { status.to_string() } else { said });
    }
    done.with_context(|| name)
}

/// Reads to the end, and returns the last line that says something: errors come last.
fn last_words(stderr: impl Read, line: &(impl Fn(&str) + Sync)) -> String {
    let mut last = String::new();
    let mut reader = BufReader::new(stderr);
    let mut bytes = Vec::new();
    while reader.read_until(b'\n', &mut bytes).is_ok_and(|n| n > 0) {
        let text = String::from_utf8_lossy(&bytes).trim().to_owned();
        if !text.is_empty() {
            line(&text);
            last = text;
        }
        bytes.clear();
    }
    last
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named_with_its_package() {
        let missing = |program| Tool { program, package: "some-package" };
        let error = require(&[TAR, missing("no-such-a"), missing("no-such-b")]).unwrap_err().to_string();
        assert_eq!(error, "not installed: no-such-a, no-such-b; on Debian: apt-get install some-package");
        assert!(require(&[TAR]).is_ok());
        assert!(
            require_files(&[("/", "base-files"), ("/no/such/file", "x")])
                .unwrap_err()
                .to_string()
                .ends_with(" x")
        );
    }

    #[test]
    fn a_failure_has_the_programs_last_words() {
        let error =
            run(Command::new("sh").args(["-c", "echo first >&2; echo last >&2; exit 3"])).unwrap_err();
        assert_eq!(format!("{error:#}"), "sh: last");
        let error = run(Command::new("sh").args(["-c", "exit 3"])).unwrap_err();
        assert_eq!(format!("{error:#}"), "sh: exit status: 3");
        assert_eq!(output(Command::new("echo").arg("said")).unwrap(), b"said\n");
    }
}
