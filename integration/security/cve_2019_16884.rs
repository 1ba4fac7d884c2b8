//! CVE-2019-16884: an image had a volume mounted over /proc, and what the runtime then wrote for the security module went
//! into files of the image. `check_proc_text` and `mount_point` in src/rootfs/mount.rs let nothing but procfs lie there,
//! and labels go through the host's procfs (`Labels::open` in src/labels.rs). The test asks for such mounts by every name.

use std::os::unix::fs::symlink;

use anyhow::{Result, ensure};
use coracle_integration::Host;
use serde_json::json;

use crate::{bind, fake_proc};

#[test]
fn nothing_but_procfs_lies_on_proc() -> Result<()> {
    let host = Host::new()?;
    let volume = fake_proc(&host, "volume")?;
    let (directory, file) = (volume.path().to_owned(), volume.path().join("self/attr/exec"));
    let mut c = host.container(&["true"])?;
    for (target, name) in [
        ("/proc", "to-proc"),
        ("proc/self/attr", "to-attr"),
        ("proc/self/attr/exec", "to-exec"),
        ("..", "above"),
    ] {
        symlink(target, c.rootfs().join(name))?;
    }
    let mounts = c.config["mounts"].clone();
    for mount in [
        bind(&directory, "/proc", &["rbind"]),
        bind(&directory, "/x/../proc/.", &["bind"]),
        bind(&directory, "/proc/self", &["bind"]),
        bind(&directory, "/proc/1", &["bind"]),
        bind(&directory, "/proc/thread-self/attr", &["bind"]),
        bind(&file, "/proc/self/attr/exec", &["bind"]),
        bind(&file, "/proc/sysrq-trigger", &["bind"]),
        bind(&directory, "/to-proc/self", &["bind"]),
        bind(&file, "/to-attr/exec", &["bind"]),
        bind(&file, "/to-exec", &["bind"]),
        bind(&file, "/to-exec", &["bind", "dest-nofollow"]),
        bind(&directory, "/above/proc/self", &["bind"]),
        json!({"destination": "/proc", "type": "tmpfs", "source": "tmpfs"}),
        json!({"destination": "/proc", "type": "tmpfs", "source": "proc", "options": ["tmpcopyup"]}),
        json!({"destination": "/proc", "type": "sysfs", "source": "proc"}),
        json!({"destination": "/proc", "type": "cgroup", "source": "proc"}),
        json!({"destination": "/proc/self/attr", "type": "tmpfs", "source": "tmpfs"}),
        json!({"destination": "/to-attr", "type": "tmpfs", "source": "tmpfs"}),
        json!({"destination": "/to-proc/sys", "type": "sysfs", "source": "sysfs"}),
    ] {
        // With dest-nofollow the link itself is covered, which is no more than the image could do.
        let covers_link = mount["options"][1] == "dest-nofollow";
        c.config["mounts"] = mounts.clone();
        c.mount(mount.clone());
        let done = c.run()?;
        ensure!(covers_link || done.code != 0, "{mount}: {done}");
        volume.is_untouched()?;
    }
    host.is_clean()
}
