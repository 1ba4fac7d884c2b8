//! inject into XFS and btrfs, which takes a host that can mount files.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};

use crate::common::{
    Host, MIB, PROGRAM, ROOT, Tree, X86_64, digest, mounted, pack, partitioned, shell, skip, sparse, tool,
};

/// The smallest that mkfs.xfs makes.
const XFS: u64 = 300 * MIB;
const BTRFS: u64 = 128 * MIB;

/// Puts a file system of a file into the last partition of a new disk, with holes.
fn install(disk: &Path, file_system: &Path) -> Result<()> {
    partitioned(disk, fs::metadata(file_system)?.len())?;
    let script = format!(
        "dd if=\"$1\" of=\"$2\" bs=1M seek={} conv=notrunc,sparse status=none; rm \"$1\"",
        ROOT / MIB
    );
    shell(&script, &[file_system, disk])?;
    Ok(())
}

/// A file system in a file, with a tree in it; none, and the reason on standard error, where the host cannot make or mount
/// one.
fn filled(host: &Host, test: &str, mkfs: &str, size: u64, tree: &Tree) -> Result<Option<PathBuf>> {
    let file_system = host.path("file-system");
    sparse(&file_system, size)?;
    let made = tool(Command::new(mkfs).arg("-q").arg(&file_system));
    if let Err(error) = made.and_then(|_| mounted(host, &file_system, 0, "true", &[])) {
        skip(test, &format!("no {mkfs}, or no mount of what it makes: {error:#}"));
        return Ok(None);
    }
    mounted(host, &file_system, 0, "cp -a \"$1\"/. .", &[&tree.0])?;
    Ok(Some(file_system))
}

/// The same, on a disk with partitions.
fn disk(host: &Host, test: &str, mkfs: &str, size: u64, tree: &Tree) -> Result<Option<PathBuf>> {
    let Some(file_system) = filled(host, test, mkfs, size, tree)? else { return Ok(None) };
    let disk = host.path("disk.raw");
    install(&disk, &file_system)?;
    Ok(Some(disk))
}

/// What [`injected`] sees of a file: its type, mode and owner; then all that is to be the same as on the host.
const LOOK: &str = r#"
    for path in etc/containers/containers.conf.d/10-coracle.conf usr/share/containers/containers.conf.d/10-coracle.conf \
        usr/local usr/local/lib/coracle/bin usr/local/lib/coracle/bin/coracle usr/local/bin/coracle-wasm; do
        stat -c '%n %F %a %u %g' "$path"
    done
    readlink usr/local/bin/coracle usr/local/bin/coracle-wasm
    grep -x 'runtime = "coracle"' etc/containers/containers.conf.d/10-coracle.conf
    for name in coracle coracle-wasi coracle-wasmc; do cmp "usr/local/lib/coracle/bin/$name" "$1/$name"; done
"#;

const SEEN: &str = r#"etc/containers/containers.conf.d/10-coracle.conf regular file 644 0 0
usr/share/containers/containers.conf.d/10-coracle.conf regular file 644 0 0
usr/local directory 755 0 0
usr/local/lib/coracle/bin directory 755 0 0
usr/local/lib/coracle/bin/coracle regular file 755 0 0
usr/local/bin/coracle-wasm symbolic link 777 0 0
../lib/coracle/bin/coracle
../lib/coracle/bin/coracle
runtime = "coracle"
"#;

/// Injects into a disk in some format, twice, and looks.
fn injected(host: &Host, disk: &Path, name: &str) -> Result<()> {
    let (base, old) = (host.path(name), host.programs_for("old", X86_64, "0.0.9")?);
    pack(disk, &base)?;
    let (before, programs) = (digest(&base)?, host.programs()?);
    let (first, second) = (host.path(&format!("first-{name}")), host.path(&format!("second-{name}")));
    host.inject(&base, &first, &old)?.ok()?;
    host.inject(&first, &second, &programs)?.ok()?;
    assert_eq!(digest(&base)?, before, "the base changed");
    assert_eq!(mounted(host, &host.raw(&second)?, ROOT, LOOK, &[&programs])?, SEEN);
    assert_eq!(host.inspect(&second)?["versions"]["coracle"], "0.1.0");
    Ok(())
}

#[test]
fn xfs_is_mounted_and_changed() -> Result<()> {
    let host = Host::new()?;
    match disk(&host, "xfs_is_mounted_and_changed", "mkfs.xfs", XFS, &Tree::new(&host)?)? {
        Some(disk) => injected(&host, &disk, "base.qcow2"),
        None => Ok(()),
    }
}

#[test]
fn btrfs_is_mounted_and_changed() -> Result<()> {
    let host = Host::new()?;
    match disk(&host, "btrfs_is_mounted_and_changed", "mkfs.btrfs", BTRFS, &Tree::new(&host)?)? {
        Some(disk) => injected(&host, &disk, "base.raw.zst"),
        None => Ok(()),
    }
}

#[test]
fn links_of_an_image_do_not_lead_to_the_host() -> Result<()> {
    let host = Host::new()?;
    let tree = Tree::new(&host)?;
    let (outside, victim) = (host.path("outside"), host.path("victim"));
    fs::create_dir(&outside)?;
    fs::write(&victim, "the host's")?;
    tree.remove("usr/local")?.link("usr/local", outside.to_str().unwrap())?;
    tree.link("etc/containers/containers.conf.d/10-coracle.conf", victim.to_str().unwrap())?;
    tree.link("usr/share/containers", "../../../../../../../../../../tmp/../var")?;
    let test = "links_of_an_image_do_not_lead_to_the_host";
    let Some(base) = disk(&host, test, "mkfs.btrfs", BTRFS, &tree)? else { return Ok(()) };
    let report = host.inject(&base, &host.path("new.raw"), &host.programs()?)?.ok()?.json()?;
    assert_eq!(fs::read_dir(&outside)?.count(), 0);
    assert_eq!(fs::read_to_string(&victim)?, "the host's");
    ensure!(!Path::new("/var/containers.conf.d/10-coracle.conf").exists());
    // The paths are the image's own.
    assert_eq!(report["added"][0], format!("{}/lib/coracle/bin/coracle", outside.display()));
    assert_eq!(report["added"][6], "/var/containers.conf.d/10-coracle.conf");
    let script = "cat .\"$1\"/lib/coracle/bin/coracle-wasi; stat -c %F etc/containers/containers.conf.d/10-coracle.conf";
    let seen = mounted(&host, &host.path("new.raw"), ROOT, script, &[&outside])?;
    ensure!(seen.ends_with("wasi 0.1.0regular file\n"), "{seen:?}");
    Ok(())
}

#[test]
fn labels_and_subvolumes_of_fedora() -> Result<()> {
    let host = Host::new()?;
    // As Fedora installs it: the system in a subvolume of this name.
    let (tree, outer) = (Tree::at(host.path("outer/root"))?, Tree(host.path("outer")));
    tree.file("etc/selinux/config", "SELINUX=permissive\n")?;
    let test = "labels_and_subvolumes_of_fedora";
    let Some(base) = disk(&host, test, "mkfs.btrfs", BTRFS, &outer)? else { return Ok(()) };
    let report = host.inject(&base, &host.path("new.raw"), &host.programs()?)?.ok()?.json()?;
    assert_eq!((&report["layout"], &report["selinux"]), (&"plain, in /root".into(), &true.into()));
    // A shell has no tool for attributes that is installed everywhere.
    let script = "exec python3 -c 'import os; print(os.getxattr(\"root/usr/local/bin/coracle\", \"security.selinux\", \
                  follow_symlinks=False))'";
    match mounted(&host, &host.path("new.raw"), ROOT, script, &[]) {
        Ok(seen) => assert_eq!(seen, "b'system_u:object_r:bin_t:s0\\x00'\n"),
        Err(error) => skip("the labels of labels_and_subvolumes_of_fedora", &format!("{error:#}")),
    }
    Ok(())
}

#[test]
fn xfs_without_partitions_and_not_unmounted() -> Result<()> {
    let host = Host::new()?;
    let test = "xfs_without_partitions_and_not_unmounted";
    let Some(file_system) = filled(&host, test, "mkfs.xfs", XFS, &Tree::new(&host)?)? else { return Ok(()) };
    let base = host.path("base.raw");
    // A copy while it is mounted has a log that is not empty, and this file in it alone.
    let script = "echo late >etc/late; sync -f etc/late; cp --sparse=always \"$1\" \"$2\"";
    mounted(&host, &file_system, 0, script, &[&file_system, &base])?;
    let before = digest(&base)?;
    ensure!(host.inspect(&base)?["versions"]["podman"] == "5.4.2+ds1-2", "looked at without the log");
    host.inject(&base, &host.path("new.raw"), &host.programs()?)?.ok()?;
    assert_eq!(digest(&base)?, before, "the base changed");
    let seen =
        mounted(&host, &host.path("new.raw"), 0, "cat etc/late usr/local/bin/coracle | tail -c 30", &[])?;
    ensure!(seen.ends_with("version 0.1.0\nspec: 1.3.0\n"), "{seen:?}");
    assert_eq!(mounted(&host, &host.path("new.raw"), 0, "cat etc/late", &[])?, "late\n");
    Ok(())
}

#[test]
fn without_privileges_the_reason_is_said() -> Result<()> {
    let host = Host::new()?;
    let (base, program) = (host.path("base.raw"), host.path("coracle-vm-image"));
    sparse(&base, XFS)?;
    if let Err(error) = tool(Command::new("mkfs.xfs").arg("-q").arg(&base)) {
        skip("without_privileges_the_reason_is_said", &format!("{error:#}"));
        return Ok(());
    }
    fs::copy(PROGRAM, &program)?;
    let nobody = 65534;
    for path in [host.path("."), host.temporary()] {
        std::os::unix::fs::chown(path, Some(nobody), Some(nobody))?;
    }
    let programs = host.programs()?;
    let mut command = Command::new(&program);
    command.arg("inject").arg("--base").arg(&base).arg("--output").arg(host.path("new.raw"));
    command
        .arg("--programs")
        .arg(&programs)
        .env("TMPDIR", host.temporary())
        .current_dir("/")
        .uid(nobody)
        .gid(nobody);
    let parts = [
        "base.raw: ",
        "xfs can be looked at and changed only where the host can mount a file (as root, with loop devices)",
    ];
    host.finish(&mut command)?.refuses(&parts)?;
    ensure!(!host.path("new.raw").exists());
    Ok(())
}
