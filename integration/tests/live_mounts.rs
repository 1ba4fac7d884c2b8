//! `mounts add` and `mounts remove`.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use anyhow::Result;
use coracle_integration::{Container, Host, Run};
use serde_json::{Value, json};

fn mounts(c: &Container, action: &str, list: &Value) -> Result<Command> {
    let file = c.host.path().join("mounts.json");
    fs::write(&file, list.to_string())?;
    let mut command = c.host.runtime();
    command.args(["mounts", action, &c.id]).arg(file);
    Ok(command)
}

#[test]
fn mounts_come_and_go() -> Result<()> {
    let host = Host::new()?;
    let volume = host.path().join("volume");
    fs::create_dir(&volume)?;
    fs::write(volume.join("f"), "data")?;
    for users in [false, true] {
        let mut c = host.container(&["sleep", "1000"])?;
        if users {
            c.namespace("user", None);
            let mappings = json!([{"containerID": 0, "hostID": 0, "size": 65536}]);
            c.config["linux"]["uidMappings"] = mappings.clone();
            c.config["linux"]["gidMappings"] = mappings;
        }
        c.create()?.start()?;
        let list = json!([
            {"destination": "/new/dir", "type": "bind", "source": volume, "options": ["bind", "ro"]},
            {"destination": "/new/file", "type": "bind", "source": volume.join("f"), "options": ["bind"]},
            {"destination": "/new/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "size=64k", "mode=711"]},
        ]);
        mounts(&c, "add", &list)?.finish()?.ok()?;
        let look = "cat /new/dir/f /new/file; touch /new/dir/x 2>/dev/null || echo ' ro'; stat -c %a /new/tmp; \
             grep -c 'nosuid.* - tmpfs tmpfs rw,size=64k' /proc/self/mountinfo";
        c.exec(&["sh", "-c", look])?.ok()?.prints("datadata ro\n711\n1")?;

        mounts(&c, "remove", &list)?.finish()?.ok()?;
        c.exec(&["sh", "-c", "ls /new/dir; cat /new/file; grep -c /new /proc/self/mountinfo; true"])?
            .ok()?
            .prints("0")?;
        mounts(&c, "remove", &list)?.finish()?.exits(1)?.fails_with("unmount /new/dir")?;
    }
    Ok(())
}

#[test]
fn links_in_the_container_lead_nowhere_else() -> Result<()> {
    let host = Host::new()?;
    let mut c = host.container(&["sleep", "1000"])?;
    symlink("../../../../../../../../etc", c.rootfs().join("link"))?;
    c.create()?.start()?;
    let list = json!([{"destination": "/link/new", "type": "tmpfs"}]);
    mounts(&c, "add", &list)?.finish()?.ok()?;
    c.exec(&["grep", "-c", " /etc/new ", "/proc/self/mountinfo"])?.ok()?.prints("1")?;
    assert!(c.rootfs().join("etc/new").is_dir() && !Path::new("/etc/new").exists());
    Ok(())
}

#[test]
fn what_cannot_be_added_is_refused() -> Result<()> {
    let host = Host::new()?;
    let mut c = host.container(&["sleep", "1000"])?;
    c.create()?.start()?;
    for (mount, problem) in [
        (json!({"destination": "/x", "type": "proc"}), "would show the host's processes"),
        (json!({"destination": "/x", "type": "nonsense"}), "mount nonsense to /x"),
        (json!({"destination": "/", "type": "tmpfs"}), "on top of the root file system"),
        (
            json!({"destination": "/x", "source": "/no/such", "options": ["bind"]}),
            "no such file or directory",
        ),
        (json!({"destination": "/x", "type": "tmpfs", "options": ["tmpcopyup"]}), "tmpcopyup"),
    ] {
        mounts(&c, "add", &json!([mount]))?.finish()?.exits(1)?.fails_with(problem)?;
    }
    c.kill("KILL")?;
    c.wait_exit()?;
    let list = json!([{"destination": "/x", "type": "tmpfs"}]);
    mounts(&c, "add", &list)?.finish()?.exits(1)?.fails_with("container not running")?;
    Ok(())
}
