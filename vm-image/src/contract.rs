//! What podman machine asks of a guest, as far as an image's files tell. docs/podman-machine.md says where each point comes
//! from.

use anyhow::Result;
use serde::Serialize;

use crate::filesystem::Kind;
use crate::format::Layout;
use crate::image::Image;
use crate::tree::Tree;
use crate::{disk, runtime};

/// One point of the contract.
#[derive(Debug, Serialize)]
pub struct Point {
    /// What is asked.
    pub point: &'static str,
    /// Whether the image has it.
    pub met: bool,
    /// What was found, or what is missing.
    pub found: String,
}

/// Files that Ignition writes only if they are not there, and fails else.
const LEFT_TO_IGNITION: &[&str] = &[
    "/etc/containers/containers.conf",
    "/etc/containers/podman-machine",
    "/etc/containers/registries.conf.d/999-podman-machine.conf",
    "/etc/podman-machine",
    "/etc/profile.d/docker-host.sh",
    "/etc/systemd/system/user@.service.d/delegate.conf",
    "/etc/tmpfiles.d/podman-docker.conf",
];

/// Looks at an image point by point.
///
/// # Errors
/// It cannot be read.
pub fn check(image: &Image) -> Result<Vec<Point>> {
    let tree = &image.tree;
    let is_disk = image.format.layout != Layout::Tar;
    let mut points = Vec::new();
    let mut add = |point, (met, found): (bool, String)| points.push(Point { point, met, found });
    if let Some(raw) = &image.disk {
        let (bios, uefi) = disk::boots(raw, &image.partitions)?;
        let found = match (bios, uefi) {
            (true, true) => "BIOS and UEFI",
            (true, false) => "BIOS alone: not on Apple's hypervisor, Hyper-V or arm64",
            (false, true) => "UEFI alone: not with QEMU on x86_64",
            (false, false) => "neither BIOS nor UEFI",
        };
        add("boots", (bios && uefi, found.to_owned()));
        add("a kernel with volumes, sockets and a power button", kernel(tree)?);
        add(
            "the first boot's configuration is applied",
            one_of(tree, &["/usr/lib/dracut/modules.d/30ignition/ignition", "/usr/bin/ignition"])?,
        );
        add("the root file system grows", grows(tree)?);
        add("an address by DHCP", {
            let networks = [
                "/usr/lib/systemd/network/50-podman-machine.network",
                "/usr/lib/systemd/system/NetworkManager.service",
            ];
            one_of(tree, &networks)?
        });
        add("nothing in Ignition's way", left_to_ignition(tree)?);
        add("time zones, and no choice among them", time_zone(tree)?);
        add("ready is said by a virtual socket", one_of(tree, &["/usr/bin/socat"])?);
        add("directories below an immutable root", one_of(tree, &["/usr/bin/chattr"])?);
    } else {
        add("podman's first command", one_of(tree, &["/usr/bin/rpm", "/usr/local/bin/rpm"])?);
        add("a service for ssh by Fedora's name", one_of(tree, &["/usr/lib/systemd/system/sshd.service"])?);
    }
    add("systemd", one_of(tree, &["/usr/lib/systemd/systemd"])?);
    add("sshd", one_of(tree, &["/usr/sbin/sshd", "/usr/bin/sshd"])?);
    if is_disk {
        add("sshd takes Ignition's keys", ssh_keys(tree)?);
    }
    add("sudo without a password", sudo(tree)?);
    add("users can be made", one_of(tree, &["/usr/sbin/useradd", "/usr/bin/useradd"])?);
    add("podman, and its socket for users", one_of(tree, &["/usr/lib/systemd/user/podman.socket"])?);
    add("directories that are written into", directories(tree)?);
    add("a runtime for Wasm", wasm(tree)?);
    Ok(points)
}

fn one_of(tree: &Tree, paths: &[&str]) -> Result<(bool, String)> {
    for path in paths {
        if tree.look_up(path, true)?.is_some() {
            return Ok((true, (*path).to_owned()));
        }
    }
    Ok((false, format!("no {}", paths.join(" and no "))))
}

fn kernel(tree: &Tree) -> Result<(bool, String)> {
    let versions = tree.list("/usr/lib/modules")?;
    let Some(version) = versions.last() else { return Ok((false, "no /usr/lib/modules".to_owned())) };
    let modules = format!("/usr/lib/modules/{}", version.name);
    let known =
        tree.text(&format!("{modules}/modules.dep"))? + &tree.text(&format!("{modules}/modules.builtin"))?;
    let missing: Vec<_> = ["9p", "virtiofs", "vsock", "button", "evdev"]
        .into_iter()
        .filter(|name| !known.contains(&format!("/{name}.ko")))
        .collect();
    let found = if missing.is_empty() {
        version.name.clone()
    } else {
        format!("{} without {}", version.name, missing.join(", "))
    };
    Ok((missing.is_empty(), found))
}

fn grows(tree: &Tree) -> Result<(bool, String)> {
    let repart = tree.list("/usr/lib/repart.d")?.iter().any(|entry| entry.name.ends_with(".conf"));
    if repart && tree.look_up("/usr/bin/systemd-repart", true)?.is_some() {
        return Ok((true, "/usr/lib/repart.d".to_owned()));
    }
    one_of(
        tree,
        &["/usr/libexec/ignition-ostree-growfs", "/usr/bin/growpart", "/usr/sbin/ignition-ostree-growfs"],
    )
}

fn left_to_ignition(tree: &Tree) -> Result<(bool, String)> {
    let mut there = Vec::new();
    for path in LEFT_TO_IGNITION {
        if tree.exists(path)? {
            there.push(*path);
        }
    }
    let found =
        if there.is_empty() { "no such file".to_owned() } else { format!("{} is there", there.join(", ")) };
    Ok((there.is_empty(), found))
}

fn time_zone(tree: &Tree) -> Result<(bool, String)> {
    if tree.exists("/etc/localtime")? {
        return Ok((false, "/etc/localtime is there".to_owned()));
    }
    one_of(tree, &["/usr/share/zoneinfo/Europe/Berlin"])
}

/// sshd's configuration, with its drop-ins.
fn sshd_configuration(tree: &Tree) -> Result<String> {
    let mut text = tree.text("/etc/ssh/sshd_config")?;
    for directory in ["/etc/ssh/sshd_config.d", "/usr/lib/ssh/sshd_config.d"] {
        for entry in tree.list(directory)? {
            text += &tree.text(&format!("{directory}/{}", entry.name))?;
        }
    }
    Ok(text)
}

fn ssh_keys(tree: &Tree) -> Result<(bool, String)> {
    let text = sshd_configuration(tree)?;
    let line = text.lines().find(|line| {
        line.trim_start().starts_with("Authorized") && line.contains("authorized_keys.d")
            || line.contains("ssh-key-dir")
    });
    Ok(match line {
        Some(line) => (true, line.trim().to_owned()),
        None => (false, "AuthorizedKeysFile does not name .ssh/authorized_keys.d/ignition".to_owned()),
    })
}

fn sudo(tree: &Tree) -> Result<(bool, String)> {
    let mut files = vec!["/etc/sudoers".to_owned()];
    files.extend(tree.list("/etc/sudoers.d")?.iter().map(|entry| format!("/etc/sudoers.d/{}", entry.name)));
    for file in files {
        let text = tree.text(&file)?;
        let grants =
            |line: &str| line.starts_with('%') && line.contains("NOPASSWD:") && line.ends_with("ALL");
        if text.lines().map(str::trim).any(grants) {
            return Ok((true, file));
        }
    }
    Ok((false, "no group of /etc/sudoers has NOPASSWD".to_owned()))
}

fn directories(tree: &Tree) -> Result<(bool, String)> {
    let mut missing = Vec::new();
    for path in ["/etc/containers/registries.conf.d", "/etc/environment.d", "/etc/systemd/system.conf.d"] {
        if !tree.is_directory(path)? {
            missing.push(path);
        }
    }
    let found =
        if missing.is_empty() { "all there".to_owned() } else { format!("no {}", missing.join(", no ")) };
    Ok((missing.is_empty(), found))
}

fn wasm(tree: &Tree) -> Result<(bool, String)> {
    for command in runtime::COMMANDS {
        let program = tree.look_up(command, true)?;
        if !program.is_some_and(|found| found.entry.kind == Kind::File && found.entry.mode & 0o111 == 0o111) {
            return Ok((false, format!("no {command}")));
        }
    }
    for place in runtime::CONFIGURATION {
        if !tree.text(place)?.lines().any(|line| line.trim() == "runtime = \"coracle\"") {
            return Ok((false, format!("{place} does not make Coracle the default")));
        }
    }
    Ok((true, "Coracle is the default, and crun-wasm".to_owned()))
}
