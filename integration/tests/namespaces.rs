//! Namespaces: new ones, joined ones, user namespaces with mappings.

use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};

use anyhow::Result;
use coracle_integration::{Container, Host, Run};
use serde_json::json;

fn link(pid: &str, kind: &str) -> Result<String> {
    Ok(fs::read_link(format!("/proc/{pid}/ns/{kind}"))?.to_string_lossy().into_owned())
}

const FILES: [(&str, &str); 6] = [
    ("mount", "mnt"),
    ("pid", "pid"),
    ("network", "net"),
    ("ipc", "ipc"),
    ("uts", "uts"),
    ("cgroup", "cgroup"),
];

#[test]
fn new_ones_and_the_hosts() -> Result<()> {
    let host = Host::new()?;
    let mut c = host.container(&["sleep", "1000"])?;
    c.namespace("cgroup", None);
    c.create()?;
    for (kind, file) in FILES {
        assert_ne!(link(&c.pid()?.to_string(), file)?, link("self", file)?, "{kind}");
    }
    let mut c = host.container(&["sleep", "1000"])?;
    for kind in ["pid", "network", "ipc", "uts", "cgroup"] {
        c.without_namespace(kind);
    }
    // A hostname needs a namespace, and sysfs a network namespace.
    if let Some(config) = c.config.as_object_mut() {
        config.remove("hostname");
    }
    c.create()?;
    for (kind, file) in FILES.into_iter().filter(|f| f.0 != "mount") {
        assert_eq!(link(&c.pid()?.to_string(), file)?, link("self", file)?, "{kind}");
    }
    Ok(())
}

#[test]
fn joined_by_path() -> Result<()> {
    let host = Host::new()?;
    let mut first = host.container(&["sleep", "1000"])?;
    first.create()?.start()?;
    let pid = first.pid()?.to_string();
    let mut second = host.container(&["sh", "-c", "ps | grep -c 'sleep 1000'; echo $$; sleep 1000"])?;
    for (kind, file) in [("pid", "pid"), ("network", "net"), ("ipc", "ipc"), ("uts", "uts")] {
        second.namespace(kind, Some(&PathBuf::from(format!("/proc/{pid}/ns/{file}"))));
    }
    if let Some(config) = second.config.as_object_mut() {
        config.remove("hostname");
    }
    second.create()?.start()?;
    for file in ["pid", "net", "ipc", "uts"] {
        assert_eq!(link(&second.pid()?.to_string(), file)?, link(&pid, file)?, "{file}");
    }
    second.wait_status("running")?;
    second.kill("KILL")?;
    assert_eq!(second.wait_exit()?, 137);
    assert_eq!(first.status()?, "running");
    Ok(())
}

#[test]
fn a_network_namespace_with_a_name() -> Result<()> {
    let host = Host::new()?;
    let ip = |args: &[&str]| coracle_integration::command("ip").args(args).finish()?.ok();
    if ip(&["netns", "add", host.name()]).is_err() {
        coracle_integration::skip("a_network_namespace_with_a_name", "no `ip netns` here");
        return Ok(());
    }
    let path = PathBuf::from(format!("/run/netns/{}", host.name()));
    let run = || -> Result<()> {
        ip(&["-n", host.name(), "link", "set", "lo", "up"])?;
        let mut c = host.container(&["sh", "-c", "ip link show lo | grep -o LOOPBACK,UP"])?;
        c.namespace("network", Some(&path));
        c.run()?.ok()?.prints("LOOPBACK,UP").map(drop)
    };
    let result = run();
    ip(&["netns", "delete", host.name()])?;
    result
}

#[test]
fn a_path_that_is_no_namespace() -> Result<()> {
    let host = Host::new()?;
    let mut c = host.container(&["true"])?;
    c.namespace("network", Some(Path::new("/nosuch/ns")));
    c.try_create(&[])?.exits(1)?.fails_with("/nosuch/ns")?;
    let mut c = host.container(&["true"])?;
    c.namespace("network", Some(Path::new("/etc/passwd")));
    c.try_create(&[])?.exits(1)?;
    host.is_clean()
}

fn mapped<'h>(host: &'h Host, args: &[&str]) -> Result<Container<'h>> {
    let mut c = host.container(args)?;
    c.namespace("user", None);
    let map = json!([{"containerID": 0, "hostID": 200_000, "size": 1000}, {"containerID": 1000, "hostID": 300_000, "size": 10}]);
    c.config["linux"]["uidMappings"] = map.clone();
    c.config["linux"]["gidMappings"] = map;
    chown(c.rootfs(), Some(200_000), Some(200_000))?;
    Ok(c)
}

#[test]
fn user_namespaces_with_mappings() -> Result<()> {
    let host = Host::new()?;
    let mut c = mapped(
        &host,
        &[
            "sh",
            "-c",
            "id -u; cat /proc/self/uid_map | tr -s ' '; touch /mine; stat -c %u /mine; ls /proc/sys >/dev/null && echo x > /dev/null && echo dev",
        ],
    )?;
    c.run()?.ok()?.prints("0\n 0 200000 1000\n 1000 300000 10\n0\ndev")?;
    let owner = std::os::unix::fs::MetadataExt::uid(&fs::metadata(c.rootfs().join("mine"))?);
    assert_eq!(owner, 200_000);
    c.config["process"]["user"] = json!({"uid": 1001, "gid": 1002});
    c.config["process"]["args"] =
        json!(["sh", "-c", "id -u; id -g; grep -c . /proc/1/status >/dev/null; sleep 1000"]);
    c.create()?.start()?;
    c.expect("1001\n1002\n")?;
    let status = c.proc("status")?;
    assert!(status.contains("Uid:\t300001\t"), "{status}");
    c.delete()?;
    host.is_clean()
}

#[test]
fn bind_mounts_that_only_the_host_root_may_reach() -> Result<()> {
    let host = Host::new()?;
    let private = host.path().join("private");
    fs::create_dir(&private)?;
    fs::create_dir(private.join("data"))?;
    fs::write(private.join("data/f"), "reached")?;
    fs::set_permissions(&private, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
    let mut c = mapped(&host, &["cat", "/data/f"])?;
    c.mount(
        json!({"destination": "/data", "type": "bind", "source": private.join("data"), "options": ["rbind"]}),
    );
    c.run()?.ok()?.prints("reached")?;
    host.is_clean()
}

#[test]
fn a_user_namespace_joined_by_path() -> Result<()> {
    let host = Host::new()?;
    let mut first = mapped(&host, &["sleep", "1000"])?;
    first.create()?.start()?;
    let pid = first.pid()?;
    let mut second =
        host.container(&["sh", "-c", "id -u; readlink /proc/self/ns/user; readlink /proc/self/ns/net"])?;
    chown(second.rootfs(), Some(200_000), Some(200_000))?;
    for (kind, file) in [("user", "user"), ("network", "net")] {
        second.namespace(kind, Some(&PathBuf::from(format!("/proc/{pid}/ns/{file}"))));
    }
    second.config["linux"]["uidMappings"] = first.config["linux"]["uidMappings"].clone();
    second.config["linux"]["gidMappings"] = first.config["linux"]["gidMappings"].clone();
    let expected = format!("0\n{}\n{}", link(&pid.to_string(), "user")?, link(&pid.to_string(), "net")?);
    second.run()?.ok()?.prints(&expected)?;
    assert_eq!(first.status()?, "running");
    Ok(())
}

const OFFSETS: &str = "awk '{ print $1, $2, $3 }' /proc/self/timens_offsets | tr '\\n' ' '";

#[test]
fn clocks_have_their_offsets() -> Result<()> {
    let host = Host::new()?;
    for users in [false, true] {
        let mut c = host.container(&["sh", "-c", "cut -d. -f1 /proc/uptime; sleep 1000"])?;
        if users {
            c.namespace("user", None);
            let mappings = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
            c.config["linux"]["uidMappings"] = mappings.clone();
            c.config["linux"]["gidMappings"] = mappings;
        }
        c.namespace("time", None);
        c.config["linux"]["timeOffsets"] =
            json!({"monotonic": {"secs": 7881, "nanosecs": 2718}, "boottime": {"secs": 900_000_000}});
        c.create()?.start()?;
        c.expect("\n")?;
        assert!(c.stdout()?.trim().parse::<u64>()? > 900_000_000, "{}", c.stdout()?);
        let expected = "monotonic 7881 2718 boottime 900000000 0";
        c.exec(&["sh", "-c", OFFSETS])?.ok()?.prints(expected)?;

        // By path, as another container of the same pod would.
        if !users {
            let mut second = host.container(&["sh", "-c", OFFSETS])?;
            second.namespace("time", Some(format!("/proc/{}/ns/time", c.pid()?).as_ref()));
            second.run()?.ok()?.prints(expected)?;
        } else {
            // A new one that belongs to a user namespace which exists.
            let mut second = host.container(&["sh", "-c", OFFSETS])?;
            second.namespace("user", Some(format!("/proc/{}/ns/user", c.pid()?).as_ref()));
            second.namespace("time", None);
            second.config["linux"]["timeOffsets"] = json!({"monotonic": {"secs": 5}});
            second.run()?.ok()?.prints("monotonic 5 0 boottime 0 0")?;
        }
    }
    Ok(())
}

#[test]
fn offsets_that_nobody_would_have_are_refused() -> Result<()> {
    let host = Host::new()?;
    let mut c = host.container(&["true"])?;
    c.config["linux"]["timeOffsets"] = json!({"monotonic": {"secs": 1}});
    c.try_create(&[])?.exits(1)?.fails_with("time namespace isn't enabled")?;
    c.namespace("time", Some("/proc/self/ns/time".as_ref()));
    c.try_create(&[])?.exits(1)?.fails_with("you may only provide one")?;
    c.namespace("time", None);
    c.config["linux"]["timeOffsets"] = json!({"realtime": {"secs": 1}});
    c.try_create(&[])?.exits(1)?.fails_with("realtime: is neither monotonic nor boottime")?;
    host.is_clean()
}
