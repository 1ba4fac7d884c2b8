//! CVE-2025-52565: runc mounted the container's terminal on /dev/console by the path of its slave, /dev/pts/N, which an
//! image could make a link to a file of procfs, and created the mount point through links. Here `pair` in
//! src/console/mod.rs has the slave from its master, and `bind` mounts it by its descriptor on one in a real /dev. The tests
//! put links, files and directories in those places, also while they are used.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use anyhow::{Result, ensure};
use coracle_integration::{ConsoleSocket, Container, Host, Run, command};
use serde_json::json;

use crate::canary::Canary;
use crate::swap::{Swapper, attempts};

const TARGET: &str = "/proc/sys/kernel/core_pattern";

/// A container with a terminal, whose /dev is a volume. /dev/pts is the usual one, if `pts`.
fn with_terminal<'h>(host: &'h Host, dev: &Path, pts: bool) -> Result<Container<'h>> {
    let mut c = host.container(&["sh", "-c", "test -c /dev/console && tty && echo ready; sleep 1000"])?;
    c.config["process"]["terminal"] = json!(true);
    if let Some(mounts) = c.config["mounts"].as_array_mut() {
        let wanted = |dest: &str| !dest.starts_with("/dev") || pts && dest == "/dev/pts";
        mounts.retain(|mount| mount["destination"].as_str().is_some_and(wanted));
        mounts.insert(0, json!({"destination": "/dev", "source": dev, "options": ["bind"]}));
    }
    Ok(c)
}

/// Creates it. When that has its way, everything that is mounted in /dev is a terminal, or the directory of terminals.
fn create(host: &Host, c: &mut Container, number: u32) -> Result<bool> {
    let path = host.path().join(format!("console{number}"));
    let socket = ConsoleSocket::bind(&path)?;
    if c.try_create(&["--console-socket", socket.path()])?.code != 0 {
        return Ok(false);
    }
    let _terminal = socket.accept()?;
    let mounts = c.proc("mountinfo")?;
    for line in mounts.lines() {
        let mut fields = line.split(' ').skip(3);
        let (top, place) = (fields.next().unwrap_or_default(), fields.next().unwrap_or_default());
        let in_dev = place.starts_with("/dev/");
        ensure!(!in_dev || line.contains(" - devpts "), "no terminal: {line}");
        ensure!(in_dev || !line.contains(" - devpts "), "a terminal elsewhere: {line}");
        ensure!(!top.contains("core_pattern"), "a file of procfs is mounted: {line}");
    }
    c.delete()?;
    c.wait_exit()?;
    Ok(true)
}

fn dev(host: &Host, name: &str) -> Result<std::path::PathBuf> {
    let dev = host.path().join(name);
    fs::create_dir_all(dev.join("pts"))?;
    command("mknod").arg(dev.join("null")).args(["c", "1", "3"]).finish()?.ok()?;
    Ok(dev)
}

#[test]
fn what_is_no_terminal_is_not_mounted() -> Result<()> {
    type Place = fn(&Path, &Canary) -> Result<()>;
    // What is there, and whether there is a devpts besides.
    let places: [(Place, bool); 9] = [
        (|dev, _| Ok(symlink(TARGET, dev.join("console"))?), true),
        (|dev, canary| Ok(symlink(canary.path().join("file"), dev.join("console"))?), true),
        (|dev, canary| Ok(symlink(canary.path().join("empty/new"), dev.join("console"))?), true),
        (|dev, _| Ok(fs::create_dir(dev.join("console"))?), true),
        (|dev, _| Ok(fs::write(dev.join("pts/ptmx"), "")?), false),
        (|dev, _| Ok(symlink(TARGET, dev.join("pts/ptmx"))?), false),
        (|dev, canary| Ok(symlink(canary.path().join("null"), dev.join("pts/ptmx"))?), false),
        (
            |dev, _| {
                command("mknod").arg(dev.join("pts/ptmx")).args(["c", "5", "2"]).finish()?.ok().map(drop)
            },
            false,
        ),
        (
            |dev, canary| {
                fs::remove_dir(dev.join("pts"))?;
                Ok(symlink(canary.path(), dev.join("pts"))?)
            },
            true,
        ),
    ];
    let host = Host::new()?;
    let canary = Canary::plant(&host, "canary")?;
    for (number, (place, pts)) in (0..).zip(places) {
        let dev = dev(&host, &format!("dev{number}"))?;
        place(&dev, &canary)?;
        let mut c = with_terminal(&host, &dev, pts)?;
        let made = create(&host, &mut c, number)?;
        ensure!(pts || !made, "place {number}: a terminal from nowhere");
        canary.is_untouched()?;
    }
    ensure!(create(&host, &mut with_terminal(&host, &dev(&host, "dev")?, true)?, 100)?, "the usual one");
    host.is_clean()
}

#[test]
fn the_mount_points_are_exchanged() -> Result<()> {
    let host = Host::new()?;
    let canary = Canary::plant(&host, "canary")?;
    let mut number = 0;
    for (name, target) in [
        ("console", TARGET.into()),
        ("console", canary.path().join("file")),
        ("pts", "/proc/sys/kernel".into()),
        ("pts", canary.path().to_owned()),
    ] {
        let dev = dev(&host, &format!("dev{number}"))?;
        fs::write(dev.join("console"), "")?;
        symlink(&target, dev.join("link"))?;
        let _swapper = Swapper::start(&dev, name, "link")?;
        attempts(|_| {
            number += 1;
            let made = create(&host, &mut with_terminal(&host, &dev, true)?, number)?;
            canary.is_untouched()?;
            Ok(made)
        })?;
    }
    host.is_clean()
}
