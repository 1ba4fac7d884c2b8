//! CVE-2023-27561: CVE-2019-19921 once more, as the check for a link and the mount resolved the path one after the other.
//! `ordinary_directory` in src/rootfs/mount.rs opens the directory once, without links, and mounts on what it has open.
//! The test exchanges /proc for a link to a volume while a container is created: it has the true procfs, or fails.

use std::fs;
use std::os::unix::fs::symlink;

use anyhow::{Result, ensure};
use coracle_integration::Host;
use serde_json::json;

use crate::swap::{Swapper, rounds};
use crate::{bind, fake_proc};

#[test]
fn proc_becomes_a_link_meanwhile() -> Result<()> {
    let host = Host::new()?;
    let volume = fake_proc(&host, "volume")?;
    let mut c = host.container(&[])?;
    // A sysctl is what can be written by name through procfs on every host.
    c.config["linux"]["sysctl"] = json!({"net.ipv4.ip_default_ttl": "77"});
    c.config["process"]["args"] = json!([
        "sh",
        "-c",
        "cat /volume/sys/net/ipv4/ip_default_ttl; \
        mount | grep -c ' on /volume/*.* type proc'; \
        grep -q ' /proc .* - proc ' /proc/self/mountinfo && cat /proc/sys/net/ipv4/ip_default_ttl"
    ]);
    symlink("/volume", c.rootfs().join("link"))?;
    if let Some(mounts) = c.config["mounts"].as_array_mut() {
        mounts.insert(0, bind(volume.path(), "/volume", &["rbind"]));
    }
    let (id, mut made) = (c.id.clone(), 0);
    for round in 0..rounds() {
        let swapper = Swapper::start(&c.rootfs(), "proc", "link")?;
        c.id = format!("{id}-{round}");
        let created = c.try_create(&[])?;
        drop(swapper);
        if created.code == 0 {
            // Settled, so that the container finds what was mounted under its name again.
            c.start()?;
            let code = c.wait_exit()?;
            ensure!(code == 0 && c.stdout()? == "64\n0\n77\n", "{code}: {} {}", c.stdout()?, c.stderr()?);
            made += 1;
        }
        c.delete()?;
        volume.is_untouched()?;
    }
    ensure!(made > 0, "no container was ever made");
    ensure!(fs::symlink_metadata(c.rootfs().join("proc"))?.is_dir());
    host.is_clean()
}
