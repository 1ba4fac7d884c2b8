//! Somebody exchanges a directory that a container is made of for a link, while it is made. What was looked up once is held
//! by a descriptor (src/rootfs/pivot.rs, `open_root`; src/rootfs/resolve.rs, `top`): the container has its own root file
//! system or is not made, and nothing outside changes.

use std::fs;
use std::os::unix::fs::symlink;

use anyhow::{Result, ensure};
use coracle_integration::{Container, Host};
use serde_json::{Value, json};

use crate::canary::{Canary, SECRET};
use crate::swap::{Swapper, attempts};

/// A bundle whose root file system can be exchanged for a link to the canary, as a whole or by the directory that it is in.
fn with_links<'h>(host: &'h Host, canary: &Canary) -> Result<Container<'h>> {
    let c = host.container(&["cat", "/own"])?;
    fs::write(c.rootfs().join("own"), "own")?;
    fs::create_dir(c.bundle().join("parent"))?;
    fs::rename(c.rootfs(), c.bundle().join("parent/below"))?;
    symlink(canary.path().join("dir/below"), c.bundle().join("parent/link"))?;
    symlink(canary.path().join("dir"), c.bundle().join("link"))?;
    Ok(c)
}

/// Runs the container while both exchanges go on, one after the other.
fn race(change: fn(&mut Container)) -> Result<()> {
    let host = Host::new()?;
    let canary = Canary::plant(&host, "canary")?;
    let mut c = with_links(&host, &canary)?;
    change(&mut c);
    let (bundle, id) = (c.bundle().to_owned(), c.id.clone());
    for (directory, name) in [(bundle.clone(), "parent"), (bundle.join("parent"), "below")] {
        c.id = format!("{id}-{name}");
        c.config["root"]["path"] = json!("parent/below");
        c.run()?.ok()?.prints("own")?;
        let _swapper = Swapper::start(&directory, name, "link")?;
        attempts(|round| {
            let relative = round % 2 == 0;
            let root = if relative { "parent/below".into() } else { bundle.join("parent/below") };
            c.config["root"]["path"] = json!(root);
            c.id = format!("{id}-{name}-{round}");
            let done = c.run()?;
            ensure!(!done.stdout.contains(SECRET), "the canary is seen: {done}");
            ensure!(done.code != 0 || done.stdout == "own", "another root file system: {done}");
            Ok(done.code == 0)
        })?;
    }
    canary.is_untouched()?;
    host.is_clean()
}

#[test]
fn the_root_file_system() -> Result<()> {
    race(|_| {})
}

/// Propagation is changed on the mount that holds the directory, which has to be found.
#[test]
fn the_root_file_system_of_a_shared_mount() -> Result<()> {
    race(|c| c.config["linux"]["rootfsPropagation"] = json!("shared"))
}

/// What is mounted over the root is the root from then on.
#[test]
fn a_root_file_system_that_is_covered() -> Result<()> {
    race(|c| {
        let covering =
            json!({"destination": "/", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup"]});
        if let Some(mounts) = c.config["mounts"].as_array_mut() {
            mounts.insert(0, covering);
        }
    })
}

/// The runtime makes the devices of a user namespace, on a mount below the root file system.
#[test]
fn devices_of_a_user_namespace() -> Result<()> {
    race(|c| {
        c.namespace("user", None);
        let mappings = json!([{"containerID": 0, "hostID": 0, "size": 65536}]);
        c.config["linux"]["uidMappings"] = mappings.clone();
        c.config["linux"]["gidMappings"] = mappings;
        c.config["linux"]["devices"] = json!([{"path": "/dev/one", "type": "c", "major": 1, "minor": 3}]);
    })
}

/// A link is no root file system in the first place.
#[test]
fn a_link_is_refused() -> Result<()> {
    let host = Host::new()?;
    let canary = Canary::plant(&host, "canary")?;
    let mut c = with_links(&host, &canary)?;
    for path in ["link/below", "parent/link", "parent/../link/below"] {
        for path in [json!(path), json!(c.bundle().join(path))] {
            c.config["root"]["path"] = path;
            c.run()?.fails_with("root.path")?.fails_with("is a symlink, or lies behind one")?;
        }
    }
    canary.is_untouched()
}

/// The place of a mount is exchanged for a link to another volume, which the other side cannot reach.
fn race_in_volume(mount: Value, check: fn(&Container) -> Result<()>) -> Result<()> {
    let host = Host::new()?;
    let canary = Canary::plant(&host, "canary")?;
    let volume = host.path().join("volume");
    fs::create_dir_all(volume.join("dir"))?;
    fs::write(volume.join("dir/planted"), "planted")?;
    symlink("/other/empty", volume.join("link"))?;
    let _swapper = Swapper::start(&volume, "dir", "link")?;
    attempts(|_| {
        let mut c = host.container(&["true"])?;
        c.mount(json!({"destination": "/volume", "source": volume, "options": ["bind"]}));
        c.mount(json!({"destination": "/other", "source": canary.path(), "options": ["bind"]}));
        // Many, for the moment that matters is short.
        for _ in 0..20 {
            c.mount(mount.clone());
        }
        let made = c.try_create(&[])?.code == 0;
        if made {
            check(&c)?;
            c.delete()?;
            c.wait_exit()?;
        }
        canary.is_untouched()?;
        Ok(made)
    })?;
    host.is_clean()
}

#[test]
fn what_is_copied_up_goes_into_the_new_mount() -> Result<()> {
    let options = ["tmpcopyup"];
    let mount = json!({"destination": "/volume/dir", "type": "tmpfs", "source": "tmpfs", "options": options});
    race_in_volume(mount, |_| Ok(()))
}

/// A tmpfs becomes read-only after everything else.
#[test]
fn the_new_mount_becomes_read_only() -> Result<()> {
    let mount = json!({"destination": "/volume/dir", "type": "tmpfs", "source": "late", "options": ["ro"]});
    race_in_volume(mount, |c| {
        for line in c.proc("mountinfo")?.lines() {
            let options = line.split(' ').nth(5).unwrap_or_default();
            ensure!(
                options.starts_with("ro") || !line.contains(" tmpfs late "),
                "it can be written to: {line}"
            );
            ensure!(options.starts_with("rw") || !line.contains(" /other "), "another one became so: {line}");
        }
        Ok(())
    })
}
