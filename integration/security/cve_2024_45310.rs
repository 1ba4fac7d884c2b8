//! CVE-2024-45310: a container that shared a volume with another could have runc create empty files and directories on the
//! host, by exchanging a directory of a mount's path for a link while the path was being made. Here `Root::create` in
//! src/rootfs/resolve.rs makes each name in a directory that is open, and resolves every path below the root. The tests
//! exchange, from the host and from another container, while mounts, devices and a working directory are made there.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use coracle_integration::{Container, Host};
use serde_json::json;

use crate::canary::{Canary, SECRET};
use crate::swap::{Swapper, attempts, exchange};

/// A volume with a directory, and a link that leads to the canary for whoever resolves it outside.
fn volume(host: &Host, name: &str, link: &Path) -> Result<PathBuf> {
    let volume = host.path().join(name);
    fs::create_dir_all(volume.join("dir"))?;
    symlink(link, volume.join("link"))?;
    Ok(volume)
}

/// Runs a container that needs all kinds of things to be made in the directory. It may fail, with the directory coming and
/// going; whether it did not is returned.
fn make_there(host: &Host, volume: &Path, round: u32) -> Result<bool> {
    let look = "cat /volume/dir/file /volume/link/file /volume/*/*/*/*/file 2>/dev/null; true";
    let mut c = host.container(&["sh", "-c", look])?;
    let there = |name: &str| format!("/volume/dir/{round}/{name}");
    c.mount(json!({"destination": "/volume", "source": volume, "options": ["bind"]}));
    c.mount(json!({"destination": there("a/directory"), "source": volume, "options": ["bind"]}));
    c.mount(json!({"destination": there("b/file"), "source": "/bin/busybox", "options": ["bind"]}));
    c.mount(json!({"destination": there("c/tmpfs"), "type": "tmpfs", "source": "tmpfs"}));
    c.mount(json!({"destination": there("d/mqueue"), "type": "mqueue", "source": "mqueue"}));
    c.config["linux"]["devices"] =
        json!([{"path": there("e/device"), "type": "c", "major": 1, "minor": 3, "uid": 7, "gid": 7}]);
    c.config["process"]["cwd"] = json!(there("f/cwd"));
    let done = c.run()?;
    ensure!(!done.stdout.contains(SECRET), "the canary is seen: {done}");
    Ok(done.code == 0)
}

fn race(host: &Host, canary: &Canary, volume: &Path) -> Result<()> {
    attempts(|round| {
        let made = make_there(host, volume, round)?;
        canary.is_untouched()?;
        Ok(made)
    })
}

#[test]
fn nothing_is_made_through_a_link_that_comes_and_goes() -> Result<()> {
    let host = Host::new()?;
    let canary = Canary::plant(&host, "canary")?;
    let up = Path::new("../../../../../../../..");
    let links = [canary.path().to_owned(), up.join(canary.path().strip_prefix("/")?)];
    for (number, link) in links.iter().enumerate() {
        let volume = volume(&host, &format!("volume{number}"), link)?;
        let _swapper = Swapper::start(&volume, "dir", "link")?;
        race(&host, &canary, &volume)?;
    }
    host.is_clean()
}

#[test]
fn a_container_leads_no_other_astray() -> Result<()> {
    let host = Host::new()?;
    let canary = Canary::plant(&host, "canary")?;
    let volume = volume(&host, "volume", canary.path())?;
    let mut attacker: Container = host.empty_container(&["/exchange", "/volume/dir", "/volume/link"])?;
    attacker.install(&exchange()?, "exchange")?;
    attacker.mount(json!({"destination": "/volume", "source": volume, "options": ["bind"]}));
    attacker.create()?.start()?;
    race(&host, &canary, &volume)?;
    ensure!(attacker.status()? == "running", "it exchanges no more: {}", attacker.stderr()?);
    Ok(())
}
