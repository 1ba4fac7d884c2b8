//! CVE-2023-28642: with /proc and /sys links in the image and mounts in a certain order, a container ran without the
//! labels and masks it should have. procfs and sysfs lie where their paths say, or there is no container
//! (`ordinary_directory` in src/rootfs/mount.rs). The test tries links at the end and in the middle of both paths.

use std::fs;
use std::os::unix::fs::symlink;

use anyhow::{Result, ensure};
use coracle_integration::{Container, Host};
use serde_json::json;

/// An image with a link in the place of a directory.
fn with_link<'h>(host: &'h Host, name: &str, target: &str) -> Result<Container<'h>> {
    let c = host.container(&["true"])?;
    for directory in ["x/proc", "x/sys"] {
        fs::create_dir_all(c.rootfs().join(directory))?;
    }
    let link = c.rootfs().join(name);
    if link.exists() {
        fs::remove_dir(&link)?;
    }
    symlink(target, link)?;
    Ok(c)
}

#[test]
fn kernel_file_systems_lie_where_their_paths_say() -> Result<()> {
    let host = Host::new()?;
    for (link, target) in [
        ("proc", "/x/proc"),
        ("proc", "x/proc"),
        ("proc", "/sys"),
        ("proc", "/dev/shm"),
        ("sys", "/x/sys"),
        ("sys", "/proc"),
        ("sys", "proc/sys"),
        ("sys", "."),
        ("sys", "/nowhere"),
    ] {
        let mut c = with_link(&host, link, target)?;
        for readonly in [false, true] {
            c.config["root"]["readonly"] = json!(readonly);
            let done = c.run()?.exits(1)?.fails_with("must be mounted on ordinary directory")?;
            ensure!(done.stdout.is_empty(), "{link} -> {target}: {done}");
        }
    }
    // In the middle of a path, existing and not.
    for (target, directory) in [("/x", "/middle/proc"), ("x", "/middle/new/proc"), (".", "/middle/x/proc")] {
        let mut c = with_link(&host, "middle", target)?;
        let mounts = c.config["mounts"].clone();
        for fs in ["proc", "sysfs"] {
            c.config["mounts"] = mounts.clone();
            c.mount(json!({"destination": directory, "type": fs, "source": fs}));
            c.run()?.exits(1)?.fails_with("must be mounted on ordinary directory")?;
        }
    }
    host.is_clean()
}

/// Masks hold for the procfs that is there, whatever else the image calls by its names.
#[test]
fn masks_are_on_the_procfs() -> Result<()> {
    let host = Host::new()?;
    let mut c =
        host.container(&["sh", "-c", "wc -c < /proc/keys; echo 1 > /proc/sys/vm/drop_caches || echo kept"])?;
    for (name, target) in [("key", "/proc/keys"), ("sy", "proc/sys")] {
        symlink(target, c.rootfs().join(name))?;
    }
    c.config["linux"]["maskedPaths"] = json!(["/key"]);
    c.config["linux"]["readonlyPaths"] = json!(["/sy"]);
    c.run()?.ok()?.prints("0\nkept")?;
    Ok(())
}
