//! Idmapped mounts, and what the runtime does for a container whose user namespace has no rights on the host.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::PathBuf;

use anyhow::Result;
use coracle_integration::{Container, Host, Run, command, skip};
use serde_json::{Value, json};

/// A volume with a file of host uid 0 and one of 1000:1000; `None` where the file system cannot map ids.
fn volume(host: &Host, test: &str) -> Result<Option<PathBuf>> {
    let dir = host.path().join("volume");
    fs::create_dir(&dir)?;
    for (name, id) in [("root", 0), ("user", 1000)] {
        fs::write(dir.join(name), name)?;
        chown(dir.join(name), Some(id), Some(id))?;
    }
    let mut probe = host.container(&["true"])?;
    probe.mount(json!({"destination": "/v", "source": dir, "options": ["bind"],
        "uidMappings": range(0, 0, 1), "gidMappings": range(0, 0, 1)}));
    let done = probe.run()?;
    if done.stderr.contains("MOUNT_ATTR_IDMAP") {
        skip(test, "the file system of the temporary directory has no idmapped mounts");
        return Ok(None);
    }
    done.ok()?;
    Ok(Some(dir))
}

fn range(inside: u32, outside: u32, size: u32) -> Value {
    json!([{"containerID": inside, "hostID": outside, "size": size}])
}

/// Ids of the container are those of the host from 100000 on.
fn with_users<'h>(host: &'h Host, args: &[&str]) -> Result<Container<'h>> {
    let mut c = host.container(args)?;
    // Inside, root owns nothing of this root file system.
    for place in ["v", "a", "b"] {
        fs::create_dir(c.rootfs().join(place))?;
    }
    c.namespace("user", None);
    c.config["linux"]["uidMappings"] = range(0, 100_000, 65536);
    c.config["linux"]["gidMappings"] = range(0, 100_000, 65536);
    Ok(c)
}

const OWNERS: [&str; 3] = ["sh", "-c", "stat -c %u:%g /v/root /v/user | tr '\\n' ' '"];

#[test]
fn ids_are_mapped_as_the_mount_says() -> Result<()> {
    let host = Host::new()?;
    let Some(dir) = volume(&host, "ids_are_mapped_as_the_mount_says")? else { return Ok(()) };
    // Without a user namespace; the option may be left out, and be given in crun's form.
    for mount in [
        json!({"options": ["bind"], "uidMappings": range(1000, 7, 1), "gidMappings": range(1000, 8, 1)}),
        json!({"options": ["rbind", "ridmap"], "uidMappings": range(1000, 7, 1), "gidMappings": range(1000, 8, 1)}),
        json!({"options": ["bind", "idmap=uids=1000-7-1;gids=1000-8-1"]}),
    ] {
        let mut c = host.container(&OWNERS)?;
        let mut entry = json!({"destination": "/v", "type": "bind", "source": dir});
        for (key, value) in mount.as_object().into_iter().flatten() {
            entry[key] = value.clone();
        }
        c.mount(entry);
        c.run()?.ok()?.prints("65534:65534 7:8")?;
    }
    host.is_clean()
}

#[test]
fn ids_are_those_of_the_containers_users() -> Result<()> {
    let host = Host::new()?;
    let Some(dir) = volume(&host, "ids_are_those_of_the_containers_users")? else { return Ok(()) };
    let cases = [
        (json!({"options": ["bind"]}), "65534:65534 65534:65534"),
        (json!({"options": ["bind", "idmap"]}), "0:0 1000:1000"),
        (json!({"options": ["bind", "idmap=uids=1000-@"]}), ""),
        (json!({"options": ["bind", "idmap=uids=@1000-5-1;gids=@1000-6-1"]}), "65534:65534 5:6"),
        (
            json!({"options": ["bind"], "uidMappings": range(0, 100_001, 1), "gidMappings": range(0, 100_002, 1)}),
            "1:2 65534:65534",
        ),
    ];
    for (mount, expected) in &cases {
        let mut c = with_users(&host, &OWNERS)?;
        let mut entry = json!({"destination": "/v", "type": "bind", "source": dir});
        for (key, value) in mount.as_object().into_iter().flatten() {
            entry[key] = value.clone();
        }
        c.mount(entry);
        let done = c.run()?;
        if expected.is_empty() {
            done.fails_with("/v: option idmap: invalid mapping")?;
        } else {
            done.ok()?.prints(expected)?;
        }
    }
    // A user namespace that is joined has mappings too.
    let mut first = with_users(&host, &["sleep", "1000"])?;
    first.create()?.start()?;
    let mut second = host.container(&OWNERS)?;
    fs::create_dir(second.rootfs().join("v"))?;
    second.namespace("user", Some(format!("/proc/{}/ns/user", first.pid()?).as_ref()));
    second.mount(json!({"destination": "/v", "type": "bind", "source": dir, "options": ["bind", "idmap"]}));
    second.run()?.ok()?.prints("0:0 1000:1000")?;
    Ok(())
}

#[test]
fn only_the_recursive_option_maps_what_is_mounted_below() -> Result<()> {
    let host = Host::new()?;
    let test = "only_the_recursive_option_maps_what_is_mounted_below";
    let Some(dir) = volume(&host, test)? else { return Ok(()) };
    let (outer, inner) = (host.path().join("outer"), host.path().join("outer/inner"));
    fs::create_dir_all(&inner)?;
    command("mount").arg("--bind").arg(&dir).arg(&inner).finish()?.ok()?;
    for (option, expected) in [("idmap", "1000"), ("ridmap", "7")] {
        let mut c = host.container(&["stat", "-c", "%u", "/v/inner/user"])?;
        c.mount(json!({"destination": "/v", "source": outer, "options": ["rbind", option],
            "uidMappings": range(1000, 7, 1), "gidMappings": range(1000, 7, 1)}));
        c.run()?.ok()?.prints(expected)?;
    }
    Ok(())
}

#[test]
fn what_cannot_be_mapped_is_refused() -> Result<()> {
    let host = Host::new()?;
    for (mount, problem) in [
        (json!({"source": "/tmp", "options": ["bind", "idmap"]}), "both uid and gid mappings"),
        (
            json!({"source": "/tmp", "options": ["bind"], "uidMappings": range(0, 0, 1)}),
            "both uid and gid mappings",
        ),
        (json!({"type": "tmpfs", "options": ["idmap"]}), "only supported for bind-mounts"),
    ] {
        let mut c = host.container(&["true"])?;
        let mut mount = mount.clone();
        mount["destination"] = json!("/v");
        c.mount(mount);
        c.try_create(&[])?.exits(1)?.fails_with(problem)?;
    }
    host.is_clean()
}

/// What only the host's root can reach is opened by the runtime, also where an earlier mount put it.
#[test]
fn closed_sources_reach_a_user_namespace() -> Result<()> {
    let host = Host::new()?;
    let closed = host.path().join("closed");
    fs::create_dir_all(closed.join("data"))?;
    fs::write(closed.join("data/f"), "reached")?;
    symlink("data", closed.join("link"))?;
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o700))?;
    let mut c = with_users(&host, &["cat", "/a/f", "/b/f"])?;
    let first = c.rootfs().join("a");
    c.mount(json!({"destination": "/a", "source": closed.join("link"), "options": ["bind", "ro"]}));
    c.mount(json!({"destination": "/b", "source": first, "options": ["bind"]}));
    c.run()?.ok()?.prints("reachedreached")?;
    host.is_clean()
}

#[test]
fn devices_of_a_user_namespace_are_made() -> Result<()> {
    let host = Host::new()?;
    let mut c = with_users(
        &host,
        &[
            "sh",
            "-c",
            "stat -c '%a %u %g %t:%T' /dev/own /dev/pipe; echo x > /dev/own; \
         ls /dev | tr '\\n' ' '",
        ],
    )?;
    c.config["linux"]["devices"] = json!([
        {"path": "/dev/own", "type": "c", "major": 1, "minor": 3, "fileMode": 0o624, "uid": 7, "gid": 8},
        {"path": "/dev/pipe", "type": "p", "fileMode": 0o600},
    ]);
    let out = c.run()?.ok()?.stdout;
    assert!(out.starts_with("624 7 8 1:3\n600 0 0 0:0\n"), "{out}");
    assert!(out.contains("null") && out.contains("tty"), "{out}");
    host.is_clean()
}

#[test]
fn a_user_namespace_without_mappings_has_the_callers() -> Result<()> {
    let host = Host::new()?;
    let mut c = host.container(&["cat", "/proc/self/uid_map"])?;
    c.namespace("user", None);
    // The group of terminals may be none of the caller's.
    c.config["mounts"] = json!([{"destination": "/proc", "type": "proc", "source": "proc"}]);
    let out = c.run()?.ok()?.stdout;
    let first: Vec<&str> = out.lines().next().unwrap_or_default().split_whitespace().collect();
    assert_eq!(first[..2], ["0", "0"], "{out}");
    Ok(())
}
