//! CVE-2021-30465: two containers shared a volume, and one exchanged a directory in it for a link while the other was
//! having something mounted there: the mount went to a path of the host, and so into the source of the next one.
//! `mount_point` in src/rootfs/mount.rs resolves below the root and mounts on what it has open. The test has another
//! container exchange the directory for links to the source of the next mount, which has to be what it is.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use anyhow::{Result, ensure};
use coracle_integration::Host;
use serde_json::json;

use crate::bind;
use crate::canary::{Canary, SECRET};
use crate::swap::{exchange, rounds};

#[test]
fn a_mount_does_not_reach_the_source_of_the_next() -> Result<()> {
    let host = Host::new()?;
    let (source, secret) = (Canary::plant(&host, "source")?, Canary::plant(&host, "secret")?);
    let bait = host.path().join("bait");
    fs::create_dir(&bait)?;
    fs::write(bait.join("file"), "bait")?;
    let outside = source.path().join("dir");
    let up = Path::new("../../../../../../../../../..").join(outside.strip_prefix("/")?);
    for (number, link) in [outside.clone(), up].iter().enumerate() {
        let volume = host.path().join(format!("volume{number}"));
        fs::create_dir_all(volume.join("dir"))?;
        symlink(link, volume.join("link"))?;
        let mut attacker = host.empty_container(&["/exchange", "/volume/dir", "/volume/link"])?;
        attacker.install(&exchange()?, "exchange")?;
        attacker.mount(bind(&volume, "/volume", &["bind"]));
        attacker.create()?.start()?;

        let script =
            "cat /next/file /next/below/file; test ! -e /next/empty; grep -c ' /next ' /proc/self/mountinfo";
        let mut c = host.container(&["sh", "-c", script])?;
        c.mount(bind(&volume, "/volume", &["bind"]));
        for mount in [
            bind(&bait, "/volume/dir", &["bind"]),
            json!({"destination": "/volume/dir", "type": "tmpfs", "source": "tmpfs"}),
            bind(secret.path(), "/volume/dir", &["bind", "ro"]),
        ] {
            c.mount(mount);
            c.mount(bind(&outside, "/next", &["rbind", "ro"]));
        }
        let (id, mut made) = (c.id.clone(), 0);
        for round in 0..rounds() {
            c.id = format!("{id}-{round}");
            let done = c.run()?;
            ensure!(
                done.code != 0 || done.stdout == format!("{SECRET}{SECRET}3\n"),
                "another source: {done}"
            );
            made += u32::from(done.code == 0);
            source.is_untouched()?;
            secret.is_untouched()?;
        }
        ensure!(made > 0, "no container was ever made");
        ensure!(attacker.status()? == "running", "it exchanges no more: {}", attacker.stderr()?);
    }
    host.is_clean()
}
