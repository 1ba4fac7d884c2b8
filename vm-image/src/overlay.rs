//! Files of `overlay/` that every image of a kind has, carried inside this program.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use anyhow::{Context, Result};

/// A file: its path in the tree, its permission bits, its contents.
type File = (&'static str, u32, &'static str);

macro_rules! file {
    ($directory:literal, $path:literal, $mode:literal) => {
        ($path, $mode, include_str!(concat!("../overlay/", $directory, "/", $path)))
    };
}

/// Both kinds'.
pub const COMMON: &[File] = &[
    file!("common", "etc/ssh/sshd_config.d/10-podman-machine.conf", 0o644),
    file!("common", "etc/sudoers.d/podman-machine", 0o440),
    file!("common", "usr/lib/systemd/system/sshd-keygen.service.d/10-podman-machine.conf", 0o644),
    file!("common", "usr/lib/systemd/system/user@.service.d/10-podman-machine.conf", 0o644),
];

/// Those of a disk that boots.
pub const MACHINE: &[File] = &[
    file!("machine", "etc/initramfs-tools/conf.d/podman-machine.conf", 0o644),
    file!("machine", "etc/selinux/config", 0o644),
    file!("machine", "usr/lib/ignition/base.d/00-core.ign", 0o644),
    file!("machine", "usr/lib/podman-machine/bin/setfiles", 0o755),
    file!("machine", "usr/lib/podman-machine/firstboot", 0o755),
    file!("machine", "usr/lib/repart.d/50-root.conf", 0o644),
    file!("machine", "usr/lib/systemd/network/50-podman-machine.network", 0o644),
    file!("machine", "usr/lib/systemd/system/etc-containers.mount.d/10-podman-machine.conf", 0o644),
    file!("machine", "usr/lib/systemd/system/ready.service.d/10-podman-machine.conf", 0o644),
    file!(
        "machine",
        "usr/lib/systemd/system/systemd-networkd-wait-online.service.d/10-podman-machine.conf",
        0o644
    ),
    file!("machine", "usr/share/initramfs-tools/hooks/podman-machine", 0o755),
    file!("machine", "usr/share/initramfs-tools/scripts/init-bottom/ignition", 0o755),
];

/// Those of a WSL distribution.
pub const WSL: &[File] = &[file!("wsl", "usr/local/bin/rpm", 0o755)];

/// Writes files into a tree, with the directories they lack.
///
/// # Errors
/// One cannot be written.
pub fn copy(files: &[File], root: &Path) -> Result<()> {
    for (path, mode, contents) in files {
        let place = root.join(path);
        let write = || {
            place.parent().map_or(Ok(()), fs::create_dir_all)?;
            fs::write(&place, contents)?;
            fs::set_permissions(&place, fs::Permissions::from_mode(*mode))
        };
        write().with_context(|| format!("write {path} in the tree"))?;
    }
    Ok(())
}

/// Makes a symbolic link in a tree, instead of what has its name.
///
/// # Errors
/// It cannot be made.
pub fn link(root: &Path, path: &str, target: &str) -> Result<()> {
    let place = root.join(path);
    let make = || {
        place.parent().map_or(Ok(()), fs::create_dir_all)?;
        if place.symlink_metadata().is_ok() {
            fs::remove_file(&place)?;
        }
        symlink(target, &place)
    };
    make().with_context(|| format!("link {path} in the tree"))
}
