//! inspect: what an image is, for people and for scripts.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::common::{Host, MIB, SMALL, Tree, X86_64, digest, image, shell, tool};

/// A system that meets what the minimal one does not.
fn good(host: &Host) -> Result<Tree> {
    let tree = Tree::new(host)?;
    tree.program("usr/lib/systemd/systemd", X86_64)?
        .program("usr/sbin/sshd", X86_64)?
        .program("usr/bin/socat", X86_64)?;
    tree.file("etc/sudoers", "%wheel ALL=(ALL) NOPASSWD: ALL\n")?;
    tree.file(
        "etc/ssh/sshd_config.d/10.conf",
        "AuthorizedKeysFile .ssh/authorized_keys .ssh/authorized_keys.d/ignition\n",
    )?;
    let modules =
        "kernel/9p.ko.xz: \nkernel/virtiofs.ko: \nkernel/vsock.ko: \nkernel/button.ko: \nkernel/evdev.ko: \n";
    tree.file("usr/lib/modules/6.1.0/modules.dep", modules)?;
    tree.file("usr/lib/systemd/user/podman.socket", "")?;
    Ok(tree)
}

fn point<'a>(report: &'a Value, name: &str) -> Result<&'a Value> {
    let points = report["contract"].as_array().context("contract")?;
    points.iter().find(|point| point["point"] == name).with_context(|| format!("no {name} in {report}"))
}

#[test]
fn scripts_read_all_that_is_known() -> Result<()> {
    let host = Host::new()?;
    let disk = image(&host, &good(&host)?, "machine.qcow2")?;
    let before = digest(&disk)?;
    let report = host.inspect(&disk)?;
    assert_eq!(digest(&disk)?, before);
    assert_eq!(report["format"], json!({ "layout": "qcow2", "compression": "none" }));
    assert_eq!((&report["disktype"], &report["arch"]), (&json!("qemu"), &json!("x86_64")));
    assert_eq!((&report["root"], &report["layout"]), (&json!(3), &json!("plain")));
    let expected = json!({
        "system": "Test Linux 1", "podman": "5.4.2+ds1-2", "crun": "1.21-1", "ignition": null, "coracle": null,
    });
    assert_eq!(report["versions"], expected);
    let partitions = report["partitions"].as_array().context("partitions")?;
    let row = |number: usize| {
        let partition = &partitions[number - 1];
        (
            partition["number"].clone(),
            partition["name"].clone(),
            partition["file_system"].clone(),
            partition["label"].clone(),
        )
    };
    assert_eq!(partitions.len(), 3);
    assert_eq!(row(1), (json!(1), json!("esp"), json!(""), json!("")));
    assert_eq!(row(2), (json!(2), json!("boot"), json!("ext4"), json!("boot")));
    assert_eq!(row(3), (json!(3), json!("root"), json!("ext4"), json!("root")));
    assert_eq!((&partitions[2]["offset"], &partitions[2]["size"]), (&json!(6 * MIB), &json!(SMALL)));
    for met in [
        "sshd",
        "systemd",
        "sshd takes Ignition's keys",
        "sudo without a password",
        "podman, and its socket for users",
        "a kernel with volumes, sockets and a power button",
        "nothing in Ignition's way",
    ] {
        assert_eq!(point(&report, met)?["met"], true, "{met} in {report}");
    }
    for missed in [
        "boots",
        "the first boot's configuration is applied",
        "a runtime for Wasm",
        "the root file system grows",
    ] {
        assert_eq!(point(&report, missed)?["met"], false, "{missed} in {report}");
    }
    assert_eq!(point(&report, "a runtime for Wasm")?["found"], "no /usr/local/bin/coracle");
    Ok(())
}

#[test]
fn people_read_lines() -> Result<()> {
    let host = Host::new()?;
    let tree = good(&host)?;
    tree.file("etc/podman-machine", "")?;
    image(&host, &tree, "machine.raw.zst")?;
    let run = host.run(&["inspect", "machine.raw.zst"])?.ok()?;
    for line in [
        "format        raw.zst (applehv)",
        "architecture  x86_64",
        "system        Test Linux 1",
        "podman        5.4.2+ds1-2",
        "coracle       none",
        "partition     1: 1.00 MiB, esp",
        "partition     2: 4.00 MiB, ext4, boot, boot",
        "partition     3: 24.00 MiB, ext4, root, root (the system)",
        "contract of podman machine:",
        "  met     sshd: /usr/sbin/sshd",
        "  MISSED  boots: UEFI alone: not with QEMU on x86_64",
        "  MISSED  nothing in Ignition's way: /etc/podman-machine is there",
    ] {
        ensure!(run.stdout.lines().any(|there| there == line), "no {line:?} in {}", run.stdout);
    }
    Ok(())
}

#[test]
fn with_coracle_the_point_is_met() -> Result<()> {
    let host = Host::new()?;
    let base = image(&host, &Tree::new(&host)?, "machine.raw.xz")?;
    let new = host.path("new.raw.xz");
    host.inject(&base, &new, &host.programs()?)?.ok()?;
    let report = host.inspect(&new)?;
    assert_eq!(report["format"], json!({ "layout": "raw", "compression": "xz" }));
    assert_eq!(report["versions"]["coracle"], "0.1.0");
    assert_eq!(point(&report, "a runtime for Wasm")?["met"], true, "{report}");
    Ok(())
}

#[test]
fn archives_are_guests_of_wsl() -> Result<()> {
    let host = Host::new()?;
    let tree = good(&host)?;
    tree.file("usr/local/bin/rpm", "")?.directory("closed")?;
    // A directory that root alone may read, and a device that is left out.
    shell("chmod 000 \"$1/closed\"; mknod \"$1/dev/null\" c 1 3 2>&- || true", &[&tree.0])?;
    let (archive, packed) = (host.path("wsl.tar"), host.path("wsl.tar.gz"));
    tool(Command::new("tar").arg("-cf").arg(&archive).arg("-C").arg(&tree.0).arg("."))?;
    shell("gzip -c <\"$1\" >\"$2\"", &[&archive, &packed])?;
    for (file, compression) in [(&archive, "none"), (&packed, "gzip")] {
        let report = host.inspect(file)?;
        assert_eq!(report["format"], json!({ "layout": "tar", "compression": compression }));
        assert_eq!((&report["disktype"], &report["arch"]), (&json!("wsl"), &json!("x86_64")));
        assert_eq!((&report["partitions"], &report["root"]), (&json!([]), &Value::Null));
        assert_eq!(report["versions"]["podman"], "5.4.2+ds1-2");
        assert_eq!(point(&report, "podman's first command")?["met"], true);
        assert!(point(&report, "boots").is_err(), "WSL brings the kernel: {report}");
    }
    Ok(())
}

#[test]
fn rpm_says_versions_too() -> Result<()> {
    let host = Host::new()?;
    let tree = Tree::new(&host)?;
    tree.remove("var/lib/dpkg")?;
    tree.file(
        "usr/share/rpm/rpmdb.sqlite",
        "SQLite\0podman-docker\0podman-5.6.2-1.fc42.src.rpm\0crun-1.24-1.fc42.src.rpm\0",
    )?;
    let report = host.inspect(&image(&host, &tree, "machine.vhdx")?)?;
    assert_eq!(report["disktype"], "hyperv");
    assert_eq!(
        (&report["versions"]["podman"], &report["versions"]["crun"]),
        (&json!("5.6.2-1.fc42"), &json!("1.24-1.fc42"))
    );
    Ok(())
}

#[test]
fn errors_are_json_too() -> Result<()> {
    let host = Host::new()?;
    fs::write(host.path("text"), "text")?;
    for arguments in [["--json", "inspect", "text"], ["inspect", "text", "--json"]] {
        let run = host.run(&arguments)?;
        run.refuses(&["text: neither a disk image nor an archive"])?;
        assert_eq!(
            run.json()?["error"].as_str().map(|error| error.starts_with("text: ")),
            Some(true),
            "{run:?}"
        );
    }
    let run = host.run(&["inspect", "text"])?;
    run.refuses(&["text: neither"])?;
    assert_eq!(run.stdout, "", "without --json it is on standard error alone");
    Ok(())
}

#[test]
fn an_archive_without_a_system() -> Result<()> {
    let host = Host::new()?;
    fs::write(host.path("text"), "text")?;
    tool(Command::new("tar").arg("-cf").arg(host.path("a.tar")).arg("-C").arg(host.path(".")).arg("text"))?;
    host.run(&["inspect", "a.tar"])?.refuses(&["a.tar: no Linux system in the archive"])
}

#[test]
fn an_archive_cannot_write_outside() -> Result<()> {
    let host = Host::new()?;
    let tree = good(&host)?;
    let (archive, outside) = (host.path("wsl.tar"), host.path("outside"));
    fs::create_dir(&outside)?;
    // A link to the host, and then a file below it.
    let script = "ln -s \"$2\" \"$3/trap\"; tar -cf \"$1\" -C \"$3\" .; rm \"$3/trap\"; mkdir \"$3/trap\"; \
                  echo x >\"$3/trap/escaped\"; tar -rf \"$1\" -C \"$3\" ./trap/escaped";
    shell(script, &[&archive, &outside, &tree.0])?;
    // Whether it is an error depends on tar; that nothing is written does not.
    host.run(&["inspect", "wsl.tar"])?;
    assert_eq!(fs::read_dir(&outside)?.count(), 0);
    Ok(())
}
