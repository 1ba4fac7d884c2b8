//! CVE-2025-31133: runc hid files behind the container's /dev/null without looking at it. One that was replaced by a link to
//! a file of procfs had that mounted where the container can write to it; one that was taken away left everything open.
//! Here `open_null` in src/rootfs/masks.rs opens it once and proves it to be the null device. The tests replace it, also
//! while it is used, and look at what covers the masked files.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use coracle_integration::{Container, Host, Run, command};
use rustix::fs::makedev;
use serde_json::json;

use crate::canary::Canary;
use crate::swap::{Swapper, attempts};

/// Where the container could write, if it were mounted over a masked file.
const TARGET: &str = "/proc/sys/kernel/core_pattern";

/// A container whose /dev is what its image has.
fn with_own_dev(host: &Host) -> Result<Container<'_>> {
    let mut c = host.container(&["sleep", "1000"])?;
    if let Some(mounts) = c.config["mounts"].as_array_mut() {
        mounts.retain(|mount| !mount["destination"].as_str().is_some_and(|dest| dest.starts_with("/dev")));
    }
    Ok(c)
}

fn node(path: &Path, kind: &str, numbers: &[&str]) -> Result<()> {
    command("mknod").arg(path).arg(kind).args(numbers).finish()?.ok().map(drop)
}

/// Whether a file is hidden by the null device, or a directory empty. A path that is not there needs no mask.
pub fn is_masked(path: &Path) -> Result<bool> {
    let Ok(found) = fs::metadata(path) else { return Ok(true) };
    let is_null = found.file_type().is_char_device() && found.rdev() == makedev(1, 3);
    Ok(is_null || found.is_dir() && fs::read_dir(path)?.next().is_none())
}

/// Fails unless every masked path of a created container is.
fn all_is_masked(c: &Container) -> Result<()> {
    let root = PathBuf::from(format!("/proc/{}/root", c.pid()?));
    ensure!(root.join("proc/keys").exists(), "no file to be masked");
    let masked = c.config["linux"]["maskedPaths"].as_array().into_iter().flatten();
    for path in masked.filter_map(|path| path.as_str()) {
        ensure!(is_masked(&root.join(path.trim_start_matches('/')))?, "{path} is not masked");
    }
    Ok(())
}

#[test]
fn what_is_not_the_null_device_masks_nothing() -> Result<()> {
    type Replace = fn(&Path, &Canary) -> Result<()>;
    let replacements: [Replace; 8] = [
        |null, _| Ok(symlink(TARGET, null)?),
        |null, _| Ok(symlink("../proc/sysrq-trigger", null)?),
        |null, canary| Ok(symlink(canary.path().join("file"), null)?),
        |null, _| Ok(symlink("/dev/zero", null)?),
        |null, _| Ok(fs::write(null, "")?),
        |null, _| Ok(fs::create_dir(null)?),
        |null, _| node(null, "p", &[]),
        |null, _| node(null, "c", &["1", "5"]),
    ];
    let host = Host::new()?;
    let canary = Canary::plant(&host, "canary")?;
    for (number, replace) in replacements.iter().enumerate() {
        let mut c = with_own_dev(&host)?;
        replace(&c.rootfs().join("dev/null"), &canary)?;
        let done = c.try_create(&[])?;
        ensure!(done.code != 0, "replacement {number}: {done}");
        done.fails_with("/dev/null")?;
    }
    // A volume where there is none, and nothing that would make one.
    let empty = host.path().join("empty");
    fs::create_dir(&empty)?;
    let mut c = with_own_dev(&host)?;
    c.mount(json!({"destination": "/dev", "source": empty, "options": ["bind"]}));
    c.try_create(&[])?.fails_with("/dev/null")?;
    canary.is_untouched()?;

    // The image's own one will do.
    let mut c = with_own_dev(&host)?;
    node(&c.rootfs().join("dev/null"), "c", &["1", "3"])?;
    c.create()?;
    all_is_masked(&c)
}

#[test]
fn the_null_device_is_exchanged() -> Result<()> {
    let host = Host::new()?;
    let dev = host.path().join("dev");
    fs::create_dir(&dev)?;
    node(&dev.join("null"), "c", &["1", "3"])?;
    symlink(TARGET, dev.join("link"))?;
    let _swapper = Swapper::start(&dev, "null", "link")?;
    attempts(|_| {
        let mut c = with_own_dev(&host)?;
        c.mount(json!({"destination": "/dev", "source": dev, "options": ["bind"]}));
        let made = c.try_create(&[])?.code == 0;
        if made {
            all_is_masked(&c)?;
            let mounts = c.proc("mountinfo")?;
            ensure!(!mounts.contains("core_pattern"), "a file of procfs is mounted: {mounts}");
            c.delete()?;
            c.wait_exit()?;
        }
        Ok(made)
    })?;
    host.is_clean()
}
