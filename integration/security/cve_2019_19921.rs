//! CVE-2019-19921: an image whose /proc was a link to a volume had procfs mounted there, where another container could
//! exchange it for files of its own before the runtime wrote to it. procfs is only mounted on a directory that no link
//! leads to (`ordinary_directory` in src/rootfs/mount.rs). The test has the image bring along links of every kind.

use std::fs;
use std::os::unix::fs::symlink;

use anyhow::Result;
use coracle_integration::Host;

use crate::{bind, fake_proc};

#[test]
fn proc_is_no_link() -> Result<()> {
    let host = Host::new()?;
    let volume = fake_proc(&host, "volume")?;
    let outside = volume.path().display().to_string();
    let up = format!("../../../../../../../..{outside}");
    let mut c = host.container(&["true"])?;
    fs::remove_dir(c.rootfs().join("proc"))?;
    symlink("/volume", c.rootfs().join("second"))?;
    if let Some(mounts) = c.config["mounts"].as_array_mut() {
        mounts.insert(0, bind(volume.path(), "/volume", &["rbind"]));
    }
    for target in
        ["/volume", "volume", "/volume/nothing", "second", "../volume/..//volume", ".", "/", &outside, &up]
    {
        symlink(target, c.rootfs().join("proc"))?;
        c.run()?.exits(1)?.fails_with("must be mounted on ordinary directory")?;
        volume.is_untouched()?;
        fs::remove_file(c.rootfs().join("proc"))?;
    }
    host.is_clean()
}
