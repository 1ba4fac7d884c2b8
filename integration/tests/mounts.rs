//! Mounts, devices, masks and the root file system, seen from inside.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;

use anyhow::{Context, Result};
use coracle_integration::{Container, Host, Run};
use serde_json::{Value, json};

fn script(c: &mut Container, script: &str) -> Result<String> {
    c.config["process"]["args"] = json!(["sh", "-c", script]);
    Ok(c.run()?.ok()?.stdout.trim().to_owned())
}

/// A directory on the host to mount, with one file `f`.
fn volume(host: &Host, name: &str) -> Result<PathBuf> {
    let dir = host.path().join(name);
    fs::create_dir(&dir)?;
    fs::write(dir.join("f"), name)?;
    Ok(dir)
}

fn bind(source: &std::path::Path, destination: &str, options: &[&str]) -> Value {
    json!({"destination": destination, "type": "bind", "source": source, "options": options})
}

/// The per-mount options of a mount point inside, sorted.
fn options(c: &mut Container, at: &str) -> Result<Vec<String>> {
    let line =
        script(c, &format!("awk '$5 == \"{at}\" {{ print $6 \",\" $NF }}' /proc/self/mountinfo | tail -n1"))?;
    let mut options: Vec<_> = line.split(',').map(str::to_owned).collect();
    options.sort();
    Ok(options)
}

#[test]
fn bind_mounts_read_and_write() -> Result<()> {
    let host = Host::new()?;
    let dir = volume(&host, "data")?;
    let mut c = host.container(&[])?;
    c.mount(bind(&dir, "/data", &["rbind", "rw"]));
    c.mount(bind(&dir.join("f"), "/etc/single", &["bind", "ro"]));
    let out =
        script(&mut c, "cat /data/f /etc/single; echo new > /data/g; echo x > /etc/single || echo refused")?;
    assert!(out.starts_with("datadata") && out.ends_with("refused"), "{out}");
    assert_eq!(fs::read_to_string(dir.join("g"))?, "new\n");
    assert!(c.rootfs().join("etc/single").exists(), "the mount point is made");
    host.is_clean()
}

#[test]
fn mount_options_apply() -> Result<()> {
    let host = Host::new()?;
    let dir = volume(&host, "data")?;
    for (given, expected) in [
        (&["bind", "ro"][..], &["ro", "relatime"][..]),
        (&["rbind", "nosuid", "nodev", "noexec"], &["rw", "nosuid", "nodev", "noexec"]),
        (&["rbind", "ro", "noatime"], &["ro", "noatime"]),
        (&["bind", "nodiratime"], &["rw", "nodiratime"]),
    ] {
        let mut c = host.container(&[])?;
        c.mount(bind(&dir, "/data", given));
        let found = options(&mut c, "/data")?;
        for option in expected {
            assert!(found.iter().any(|f| f == option), "{given:?}: no {option} in {found:?}");
        }
    }
    Ok(())
}

#[test]
fn noexec_and_nodev_have_their_effect() -> Result<()> {
    let host = Host::new()?;
    let dir = volume(&host, "data")?;
    fs::copy("/bin/busybox", dir.join("busybox"))?;
    let mut c = host.container(&[])?;
    c.mount(bind(&dir, "/data", &["rbind", "noexec"]));
    assert_eq!(script(&mut c, "/data/busybox true 2>/dev/null || echo no")?, "no");
    Ok(())
}

#[test]
fn recursive_binds_and_recursive_read_only() -> Result<()> {
    let host = Host::new()?;
    let dir = volume(&host, "data")?;
    let inner = volume(&host, "inner")?;
    fs::create_dir(dir.join("sub"))?;
    let mount = |source: &std::path::Path, target: &std::path::Path| {
        coracle_integration::command("mount").arg("--bind").arg(source).arg(target).finish()?.ok()
    };
    mount(&inner, &dir.join("sub"))?;
    for (options, expected) in [
        (&["rbind", "rw"][..], "inner\nwritten"),
        (&["rbind", "ro"], "inner\nwritten"),
        (&["rbind", "rro"], "inner\nrefused"),
        (&["bind", "rw"], ""),
    ] {
        let mut c = host.container(&[])?;
        c.mount(bind(&dir, "/data", options));
        let out = script(
            &mut c,
            "test -e /data/sub/f || exit 0; cat /data/sub/f; echo; touch /data/sub/w 2>/dev/null && echo written || echo refused",
        )?;
        assert_eq!(out, expected, "{options:?}");
    }
    Ok(())
}

#[test]
fn the_hosts_mounts_stay_as_they_are() -> Result<()> {
    let host = Host::new()?;
    let mounts = || -> Result<Vec<String>> {
        let all = fs::read_to_string("/proc/self/mountinfo")?;
        Ok(all.lines().filter(|l| !l.contains("coracle-test")).map(str::to_owned).collect())
    };
    let before = mounts()?;
    let mut c = host.container(&[])?;
    script(&mut c, "mount -t tmpfs tmpfs /tmp; true")?;
    assert_eq!(mounts()?, before);
    host.is_clean()
}

#[test]
fn tmpfs_with_size_mode_and_copied_content() -> Result<()> {
    let host = Host::new()?;
    let mut c = host.container(&[])?;
    fs::write(c.rootfs().join("var/empty/below"), "")?;
    c.mount(json!({"destination": "/var/empty", "type": "tmpfs", "source": "tmpfs",
        "options": ["nosuid", "nodev", "size=1m", "mode=711"]}));
    let out = script(
        &mut c,
        "stat -c %a /var/empty; ls /var/empty; head -c 2000000 /dev/zero > /var/empty/f 2>/dev/null || echo full; stat -c %s /var/empty/f",
    )?;
    assert_eq!(out, "711\nfull\n1048576");

    let mut c = host.container(&[])?;
    fs::create_dir(c.rootfs().join("seed"))?;
    fs::write(c.rootfs().join("seed/f"), "copied")?;
    c.mount(json!({"destination": "/seed", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup"]}));
    assert_eq!(script(&mut c, "cat /seed/f")?, "copied");
    Ok(())
}

#[test]
fn propagation_of_the_root_and_of_mounts() -> Result<()> {
    let host = Host::new()?;
    for (option, field) in [("rprivate", ""), ("rslave", "master:"), ("rshared", "shared:")] {
        // The source has to be a shared mount of its own for this to show.
        let source = volume(&host, option)?;
        for args in [vec!["--bind"], vec!["--make-shared"]] {
            let mut mount = coracle_integration::command("mount");
            mount.args(&args).arg(&source);
            if args == ["--bind"] {
                mount.arg(&source);
            }
            mount.finish()?.ok()?;
        }
        let mut c = host.container(&[])?;
        c.config["linux"]["rootfsPropagation"] = json!(if option == "rshared" { "shared" } else { "rslave" });
        c.mount(bind(&source, "/data", &["rbind", option]));
        let line = script(&mut c, "grep ' /data ' /proc/self/mountinfo")?;
        let fields: Vec<_> = line.split(' ').skip(6).take_while(|f| *f != "-").collect();
        if field.is_empty() {
            assert!(fields.is_empty(), "{option}: {line}");
        } else {
            assert!(fields.iter().any(|f| f.starts_with(field)), "{option}: {line}");
        }
    }
    Ok(())
}

#[test]
fn the_root_can_be_read_only() -> Result<()> {
    let host = Host::new()?;
    let mut c = host.container(&[])?;
    c.config["root"]["readonly"] = json!(true);
    c.mount(json!({"destination": "/tmp", "type": "tmpfs", "source": "tmpfs"}));
    let out = script(&mut c, "touch /f 2>&1; touch /tmp/f && echo tmp; echo x > /dev/null && echo dev")?;
    assert!(out.contains("Read-only file system") && out.ends_with("tmp\ndev"), "{out}");
    assert!(!c.rootfs().join("f").exists());
    Ok(())
}

#[test]
fn masked_and_read_only_paths() -> Result<()> {
    let host = Host::new()?;
    let mut c = host.container(&[])?;
    c.config["linux"]["maskedPaths"] = json!(["/etc/passwd", "/root", "/nosuch", "/proc/keys"]);
    c.config["linux"]["readonlyPaths"] = json!(["/etc", "/proc/sys", "/nosuch"]);
    fs::write(c.rootfs().join("root/secret"), "s")?;
    let out = script(
        &mut c,
        "wc -c < /etc/passwd; ls -A /root; wc -c < /proc/keys; touch /etc/x 2>&1; \
         echo 1 > /proc/sys/net/ipv4/ip_forward 2>&1 || echo kept; touch /root/x 2>/dev/null || echo masked",
    )?;
    assert_eq!(
        out.lines().filter(|l| !l.contains("ip_forward")).collect::<Vec<_>>(),
        ["0", "0", "touch: /etc/x: Read-only file system", "kept", "masked"],
        "{out}"
    );
    Ok(())
}

#[test]
fn the_default_devices_and_links() -> Result<()> {
    let host = Host::new()?;
    let mut c = host.container(&[])?;
    let out = script(
        &mut c,
        "cd /dev; for d in null zero full random urandom tty; do stat -c '%n %a %F %t %T' $d; done; \
         for l in ptmx fd stdin stdout stderr; do echo $l $(readlink $l); done; \
         head -c 3 zero | wc -c; echo x > null; echo x > full 2>/dev/null || echo full",
    )?;
    let expected = "null 666 character special file 1 3\nzero 666 character special file 1 5\n\
        full 666 character special file 1 7\nrandom 666 character special file 1 8\n\
        urandom 666 character special file 1 9\ntty 666 character special file 5 0\n\
        ptmx pts/ptmx\nfd /proc/self/fd\nstdin /proc/self/fd/0\nstdout /proc/self/fd/1\nstderr /proc/self/fd/2\n\
        3\nfull";
    assert_eq!(out, expected);
    Ok(())
}

#[test]
fn devices_of_the_configuration() -> Result<()> {
    let host = Host::new()?;
    let mut c = host.container(&[])?;
    c.config["linux"]["devices"] = json!([
        {"path": "/dev/sub/mynull", "type": "c", "major": 1, "minor": 3, "fileMode": 0o666, "uid": 7, "gid": 8},
        {"path": "/dev/pipe", "type": "p", "fileMode": 0o600},
    ]);
    let out = script(
        &mut c,
        "stat -c '%a %u %g %t:%T' /dev/sub/mynull; stat -c '%a %F' /dev/pipe; echo x > /dev/sub/mynull && echo ok",
    )?;
    assert_eq!(out, "666 7 8 1:3\n600 fifo\nok");
    Ok(())
}

#[test]
fn devices_that_the_cgroup_forbids() -> Result<()> {
    let host = Host::new()?;
    let mut c = host.container(&[])?;
    // Any block device does; 7:0 is the first loop device.
    let out = script(
        &mut c,
        "mknod /tmp/loop b 7 0 2>/dev/null; head -c1 /tmp/loop 2>&1 >/dev/null; head -c1 /dev/zero | wc -c",
    )?;
    assert!(out.ends_with('1') && !out.starts_with('1'), "{out}");
    Ok(())
}

#[test]
fn special_file_systems() -> Result<()> {
    let host = Host::new()?;
    let mut c = host.container(&[])?;
    let out = script(
        &mut c,
        "for m in /proc /dev /dev/pts /dev/shm /dev/mqueue /sys; do grep \" $m \" /proc/mounts | cut -d' ' -f2,3; done",
    )?;
    assert_eq!(
        out,
        "/proc proc\n/dev tmpfs\n/dev/pts devpts\n/dev/shm tmpfs\n/dev/mqueue mqueue\n/sys sysfs"
    );
    Ok(())
}

#[test]
fn the_cgroup_mount_shows_the_containers_own() -> Result<()> {
    let host = Host::new()?;
    let mut c = host.container(&[])?;
    c.without_namespace("cgroup");
    let out = script(
        &mut c,
        "ls /sys/fs/cgroup; cat /sys/fs/cgroup/memory/cgroup.procs 2>/dev/null || cat /sys/fs/cgroup/cgroup.procs; mkdir /sys/fs/cgroup/x 2>/dev/null || echo read-only",
    )?;
    assert!(out.lines().any(|l| l == "1") && out.ends_with("read-only"), "{out}");
    c.namespace("cgroup", None);
    let out = script(
        &mut c,
        "cat /proc/self/cgroup; cat /sys/fs/cgroup/memory/cgroup.procs 2>/dev/null || cat /sys/fs/cgroup/cgroup.procs",
    )?;
    assert!(!out.contains("coracle-test") && out.lines().any(|l| l == "1"), "{out}");
    host.is_clean()
}

/// Symbolic links in the image must not lead out of it.
#[test]
fn links_in_the_root_file_system_stay_inside() -> Result<()> {
    let host = Host::new()?;
    let outside = volume(&host, "outside")?;
    let data = volume(&host, "data")?;
    let mut c = host.container(&[])?;
    symlink(&outside, c.rootfs().join("absolute"))?;
    symlink(
        "../../../../../../../../..".to_owned() + outside.to_str().context("path")?,
        c.rootfs().join("relative"),
    )?;
    c.mount(bind(&data, "/absolute/a", &["rbind"]));
    c.mount(bind(&data, "/relative/r", &["rbind"]));
    assert_eq!(script(&mut c, "cat /absolute/a/f /relative/r/f")?, "datadata");
    assert_eq!(fs::read_dir(&outside)?.count(), 1, "nothing may be made outside");
    host.is_clean()
}

#[test]
fn a_mount_over_a_link_to_proc_is_refused() -> Result<()> {
    let host = Host::new()?;
    let data = volume(&host, "data")?;
    let mut c = host.container(&["true"])?;
    c.mount(bind(&data, "/proc/self", &["rbind"]));
    c.try_create(&[])?.exits(1)?;
    host.is_clean()
}

#[test]
fn unknown_mount_options_are_refused_for_binds() -> Result<()> {
    let host = Host::new()?;
    let mut c = host.container(&["true"])?;
    c.mount(json!({"destination": "/x", "type": "tmpfs", "source": "tmpfs", "options": ["nonsense=1"]}));
    c.try_create(&[])?.exits(1)?.fails_with("/x")?;
    host.is_clean()
}

#[test]
fn mounts_keep_their_order() -> Result<()> {
    let host = Host::new()?;
    let (one, two) = (volume(&host, "one")?, volume(&host, "two")?);
    let mut c = host.container(&[])?;
    fs::set_permissions(&two, fs::Permissions::from_mode(0o700))?;
    c.mount(bind(&one, "/data", &["rbind"])).mount(bind(&two, "/data/two", &["rbind"]));
    assert_eq!(script(&mut c, "cat /data/f /data/two/f")?, "onetwo");
    let mut c = host.container(&[])?;
    c.mount(bind(&two, "/data/two", &["rbind"])).mount(bind(&one, "/data", &["rbind"]));
    assert_eq!(
        script(&mut c, "cat /data/f; ls /data/two 2>/dev/null")?,
        "one",
        "the later mount hides the earlier"
    );
    Ok(())
}

#[test]
fn without_pivot_root() -> Result<()> {
    let host = Host::new()?;
    let c = host.container(&["sh", "-c", "ls -d /bin/busybox; ls /home 2>/dev/null; true"])?;
    c.run_command(&["--no-pivot"])?.finish()?.prints("/bin/busybox")?;
    host.is_clean()
}

#[test]
fn a_tmpfs_gets_everything_that_it_covers() -> Result<()> {
    let host = Host::new()?;
    let mut c = host.container(&[])?;
    let seed = c.rootfs().join("seed");
    fs::create_dir_all(seed.join("dir"))?;
    fs::write(seed.join("dir/a"), "linked")?;
    fs::hard_link(seed.join("dir/a"), seed.join("b"))?;
    std::os::unix::fs::chown(seed.join("b"), Some(7), Some(8))?;
    fs::set_permissions(seed.join("b"), fs::Permissions::from_mode(0o4751))?;
    fs::set_permissions(seed.join("dir"), fs::Permissions::from_mode(0o1730))?;
    coracle_integration::command("mkfifo").arg(seed.join("pipe")).finish()?.ok()?;
    coracle_integration::command("touch").args(["-d", "@86400"]).arg(seed.join("b")).finish()?.ok()?;
    coracle_integration::command("touch").args(["-d", "@172800"]).arg(seed.join("dir")).finish()?.ok()?;
    let attribute =
        rustix::fs::setxattr(seed.join("b"), c"trusted.seed", b"kept", rustix::fs::XattrFlags::empty());
    c.mount(json!({"destination": "/seed", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup"]}));
    let out = script(
        &mut c,
        "cd /seed; stat -c '%a %u:%g %h %Y' b; stat -c '%a %Y' dir; stat -c %F pipe; \
         test b -ef dir/a && echo same; grep -c ' /seed .* tmpfs ' /proc/self/mountinfo",
    )?;
    assert_eq!(out, "4751 7:8 2 86400\n1730 172800\nfifo\nsame\n1");
    if attribute.is_ok() {
        // Seen from the host, where the capability to read it is.
        c.config["process"]["args"] = json!(["sleep", "1000"]);
        c.create()?.start()?;
        let copy = format!("/proc/{}/root/seed/b", c.pid()?);
        let mut value = [0; 16];
        let length = rustix::fs::getxattr(copy, c"trusted.seed", &mut value)?;
        assert_eq!(&value[..length], b"kept");
    }
    Ok(())
}

#[test]
fn links_are_followed_or_not_as_the_options_say() -> Result<()> {
    let host = Host::new()?;
    let dir = volume(&host, "data")?;
    symlink("f", dir.join("link"))?;
    symlink("nowhere", dir.join("broken"))?;

    let mut c = host.container(&[])?;
    c.mount(bind(&dir.join("broken"), "/a/link", &["bind", "copy-symlink"]));
    assert_eq!(script(&mut c, "readlink /a/link")?, "nowhere");

    for (options, expected) in
        [(&["bind", "dest-nofollow"][..], "data"), (&["bind", "dest-nofollow", "src-nofollow"], "f")]
    {
        let mut c = host.container(&[])?;
        symlink("elsewhere", c.rootfs().join("target"))?;
        c.mount(bind(&dir.join("link"), "/target", options));
        assert_eq!(script(&mut c, "cat /target 2>/dev/null || readlink /target")?, expected, "{options:?}");
        assert!(!c.rootfs().join("elsewhere").exists());
    }
    let mut c = host.container(&["true"])?;
    c.mount(bind(&dir.join("link"), "/x", &["bind", "copy-symlink", "src-nofollow"]));
    c.try_create(&[])?.exits(1)?.fails_with("/x: copy-symlink excludes")?;
    Ok(())
}

#[test]
fn recursive_options_reach_what_is_mounted_below() -> Result<()> {
    let host = Host::new()?;
    let dir = volume(&host, "data")?;
    let inner = dir.join("inner");
    fs::create_dir(&inner)?;
    coracle_integration::command("mount").args(["-t", "tmpfs", "tmpfs"]).arg(&inner).finish()?.ok()?;
    for (option, expected) in [
        ("rro", "ro"),
        ("rnosuid", "nosuid"),
        ("rnodev", "nodev"),
        ("rnoexec", "noexec"),
        ("rnoatime", "noatime"),
        ("rnodiratime", "nodiratime"),
        ("rnosymfollow", "nosymfollow"),
    ] {
        let mut c = host.container(&[])?;
        c.mount(bind(&dir, "/data", &["rbind", option]));
        for at in ["/data", "/data/inner"] {
            let found = options(&mut c, at)?;
            assert!(found.iter().any(|f| f == expected), "{option}: {at} has {found:?}");
        }
    }
    // The strict mode is the absence of all others.
    let mut c = host.container(&[])?;
    c.mount(bind(&dir, "/data", &["rbind", "rstrictatime"]));
    let found = options(&mut c, "/data/inner")?;
    assert!(!found.iter().any(|f| f.ends_with("atime")), "{found:?}");
    // And each has its opposite, here for what the host's mount has.
    for (given, opposite, option) in [
        ("ro", "rrw", "ro"),
        ("nosuid", "rsuid", "nosuid"),
        ("nodev", "rdev", "nodev"),
        ("noexec", "rexec", "noexec"),
        ("noatime", "ratime", "noatime"),
        ("nodiratime", "rdiratime", "nodiratime"),
    ] {
        let remount = format!("remount,bind,{given}");
        coracle_integration::command("mount").args(["-o", &remount]).arg(&inner).finish()?.ok()?;
        let mut c = host.container(&[])?;
        c.mount(bind(&dir, "/data", &["rbind", opposite]));
        let found = options(&mut c, "/data/inner")?;
        assert!(!found.iter().any(|f| f == option), "{opposite}: {found:?}");
    }
    let mut c = host.container(&["true"])?;
    c.mount(bind(&dir, "/data", &["rbind", "rsync"]));
    c.try_create(&[])?.exits(1)?.fails_with("/data: rsync")?;
    Ok(())
}

#[test]
fn options_of_file_systems_have_their_effect() -> Result<()> {
    let host = Host::new()?;
    for (option, expected) in [
        ("sync", "sync"),
        ("dirsync", "dirsync"),
        ("lazytime", "lazytime"),
        ("rro", "ro"),
        ("rnoexec", "noexec"),
        ("nosymfollow", "nosymfollow"),
    ] {
        let mut c = host.container(&[])?;
        c.mount(json!({"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": [option]}));
        let found = options(&mut c, "/tmp")?;
        assert!(found.iter().any(|f| f == expected), "{option}: {found:?}");
    }
    Ok(())
}

#[test]
fn the_root_can_be_covered() -> Result<()> {
    let host = Host::new()?;
    let mut c = host.container(&[])?;
    let covering = json!({"destination": "/", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup"]});
    if let Some(mounts) = c.config["mounts"].as_array_mut() {
        mounts.insert(0, covering);
    }
    let out = script(&mut c, "touch /new; grep ' / / ' /proc/self/mountinfo | tail -n1 | cut -d- -f2")?;
    assert!(out.starts_with("tmpfs"), "{out}");
    assert!(!c.rootfs().join("new").exists());
    host.is_clean()
}

/// Engines without a mount namespace name the root file system in their paths.
#[test]
fn destinations_may_name_the_root_file_system() -> Result<()> {
    let host = Host::new()?;
    let dir = volume(&host, "data")?;
    let mut c = host.container(&[])?;
    let dest = c.rootfs().join("mnt/here");
    c.mount(json!({"destination": dest, "source": dir, "options": ["bind"]}));
    assert_eq!(script(&mut c, "cat /mnt/here/f")?, "data");
    Ok(())
}

#[test]
fn mounts_in_the_hosts_namespace_can_be_taken_away_at_once() -> Result<()> {
    let host = Host::new()?;
    let dir = volume(&host, "data")?;
    let mut c = host.container(&["cat", "/data/f"])?;
    c.without_namespace("mount");
    c.config["linux"]["maskedPaths"] = json!([]);
    c.config["linux"]["readonlyPaths"] = json!([]);
    c.config["mounts"] = json!([
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/data", "type": "bind", "source": dir, "options": ["bind"]},
    ]);
    let done = c.run()?;
    coracle_integration::command("umount").arg("-l").arg(c.rootfs()).finish()?.ok()?;
    done.ok()?.prints("data")?;
    host.is_clean()
}

#[test]
fn kinds_of_labels_are_checked() -> Result<()> {
    let host = Host::new()?;
    let mut c = host.container(&["true"])?;
    c.annotate("run.oci.mount_context_type", "nonsense");
    c.try_create(&[])?
        .exits(1)?
        .fails_with("run.oci.mount_context_type: invalid mount context type \"nonsense\"")?;
    c.annotate("run.oci.mount_context_type", "rootcontext");
    c.run()?.ok()?;
    host.is_clean()
}

#[test]
fn the_root_has_every_propagation() -> Result<()> {
    let host = Host::new()?;
    for (value, expected) in [
        ("private", ""),
        ("rprivate", ""),
        ("slave", "master:"),
        ("rslave", "master:"),
        ("shared", "shared:"),
        ("rshared", "shared:"),
        ("unbindable", "unbindable"),
        ("runbindable", "unbindable"),
    ] {
        let mut c = host.container(&[])?;
        c.config["linux"]["rootfsPropagation"] = json!(value);
        // Nothing of the host can be bound with the last one, its cgroups neither.
        if let Some(mounts) = c.config["mounts"].as_array_mut() {
            mounts.retain(|mount| mount["type"] != "cgroup");
        }
        let line = script(&mut c, "grep ' / / \\| /[^ ]*rootfs / ' /proc/self/mountinfo | tail -n1")?;
        let fields: Vec<_> = line.split(' ').skip(6).take_while(|f| *f != "-").collect();
        // A slave has a master only where the host's mount is shared.
        let slave_of_none = expected == "master:" && fields.is_empty();
        let found = if expected.is_empty() {
            fields.is_empty()
        } else {
            fields.iter().any(|f| f.starts_with(expected))
        };
        assert!(found || slave_of_none, "{value}: {line}");
    }
    let mut c = host.container(&["true"])?;
    c.config["linux"]["rootfsPropagation"] = json!("nonsense");
    c.try_create(&[])?.exits(1)?.fails_with("linux.rootfsPropagation: unknown value \"nonsense\"")?;
    host.is_clean()
}

/// The host's sysfs stands in for one that the user namespace may not mount, and nothing of it can be written.
#[test]
fn sysfs_without_a_network_namespace() -> Result<()> {
    let host = Host::new()?;
    let mut c = host.container(&[])?;
    c.namespace("user", None).without_namespace("network");
    let mappings = json!([{"containerID": 0, "hostID": 0, "size": 65536}]);
    c.config["linux"]["uidMappings"] = mappings.clone();
    c.config["linux"]["gidMappings"] = mappings;
    if let Some(mounts) = c.config["mounts"].as_array_mut() {
        mounts.retain(|mount| mount["type"] != "cgroup");
    }
    let out =
        script(&mut c, "ls -d /sys/kernel; awk '$5 ~ \"^/sys\" && $6 !~ \"^ro\"' /proc/self/mountinfo")?;
    assert_eq!(out, "/sys/kernel");
    host.is_clean()
}
