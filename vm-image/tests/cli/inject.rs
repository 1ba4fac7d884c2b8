//! inject on ext4: what the new image has, and what the base keeps.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::common::{
    Ext4, Host, MIB, PROGRAM, ROOT, SMALL, Tree, X86_64, digest, ext4, head, image, pack, partitioned, roots,
    shell, sparse,
};

const LOCAL: &str = "/usr/local";

/// Injects into an image with this name, and looks at all that can be seen of the new one.
fn stays(name: &str, magic: &[u8]) -> Result<()> {
    let host = Host::new()?;
    let (base, programs) = (image(&host, &Tree::new(&host)?, name)?, host.programs()?);
    ensure!(head(&base, magic.len())? == magic, "the test's own {name}");
    let (before, output) = (digest(&base)?, host.path(&format!("new.{}", name.trim_start_matches("base."))));
    let report = host.inject(&base, &output, &programs)?.ok()?.json()?;
    assert_eq!(digest(&base)?, before, "the base changed");
    assert_eq!(head(&output, magic.len())?, magic);
    assert_eq!(fs::metadata(&output)?.permissions().mode() & 0o111, 0);
    assert_eq!(report["output"].as_str().map(Path::new), Some(&*output));
    assert_eq!(
        (&report["arch"], &report["layout"], &report["selinux"]),
        (&"x86_64".into(), &"plain".into(), &false.into())
    );
    let added = report["added"].as_array().context("added")?;
    assert_eq!(added.len(), 7, "{report}");
    ensure!(added.iter().any(|path| path == "/usr/local/lib/coracle/bin/coracle-wasmc"), "{report}");

    let there = Ext4::new(&host.raw(&output)?, ROOT)?;
    there.has_coracle("", LOCAL, &programs)?;
    assert_eq!(there.read("/etc/motd")?, b"welcome\n");
    assert_eq!(there.label("/usr/local/bin")?, None);
    assert_eq!(host.inspect(&output)?["versions"]["coracle"], "0.1.0");
    Ok(())
}

#[test]
fn qcow2_stays_qcow2() -> Result<()> {
    stays("base.qcow2", b"QFI\xfb")
}

#[test]
fn a_raw_disk_stays_one() -> Result<()> {
    // Nothing but a partition table: no code for BIOS.
    stays("base.raw", &[0; 16])
}

#[test]
fn vhdx_stays_vhdx() -> Result<()> {
    stays("base.vhdx", b"vhdxfile")
}

#[test]
fn compressed_with_zstd_stays_so() -> Result<()> {
    stays("base.qcow2.zst", &[0x28, 0xb5, 0x2f, 0xfd])
}

#[test]
fn compressed_with_gzip_stays_so() -> Result<()> {
    stays("base.raw.gz", &[0x1f, 0x8b])
}

#[test]
fn compressed_with_xz_stays_so() -> Result<()> {
    stays("base.raw.xz", b"\xfd7zXZ\0")
}

#[test]
fn a_name_without_an_ending_takes_the_base_format() -> Result<()> {
    let host = Host::new()?;
    let base = image(&host, &Tree::new(&host)?, "base.qcow2")?;
    host.inject(&base, &host.path("new"), &host.programs()?)?.ok()?;
    assert_eq!(head(&host.path("new"), 4)?, b"QFI\xfb");
    Ok(())
}

#[test]
fn people_read_what_was_added() -> Result<()> {
    let host = Host::new()?;
    image(&host, &Tree::new(&host)?, "base.qcow2")?;
    host.programs()?;
    let run = host
        .run(&["inject", "--base", "base.qcow2", "--output", "new.qcow2", "--programs", "programs"])?
        .ok()?;
    ensure!(run.stdout.starts_with("new.qcow2: qcow2, base.qcow2 with\n"), "{run:?}");
    ensure!(run.stdout.contains("\n  /etc/containers/containers.conf.d/10-coracle.conf\n"), "{run:?}");
    Ok(())
}

#[test]
fn a_second_injection_replaces_the_first() -> Result<()> {
    let host = Host::new()?;
    let base = image(&host, &Tree::new(&host)?, "base.qcow2")?;
    let (first, second) = (host.path("first.qcow2"), host.path("second.qcow2"));
    host.inject(&base, &first, &host.programs_for("old", X86_64, "0.0.9-with-a-longer-name")?)?.ok()?;
    let new = host.programs()?;
    host.inject(&first, &second, &new)?.ok()?;
    let there = Ext4::new(&host.raw(&second)?, ROOT)?;
    there.has_coracle("", LOCAL, &new)?;
    assert_eq!(host.inspect(&first)?["versions"]["coracle"], "0.0.9-with-a-longer-name");
    assert_eq!(host.inspect(&second)?["versions"]["coracle"], "0.1.0");
    Ok(())
}

#[test]
fn an_output_that_exists_is_replaced() -> Result<()> {
    let host = Host::new()?;
    let base = image(&host, &Tree::new(&host)?, "base.qcow2")?;
    let output = host.path("new.qcow2");
    fs::write(&output, "old")?;
    host.inject(&base, &output, &host.programs()?)?.ok()?;
    assert_eq!(head(&output, 4)?, b"QFI\xfb");
    Ok(())
}

#[test]
fn a_disk_without_partitions() -> Result<()> {
    let host = Host::new()?;
    let (base, output) = (host.path("base.raw"), host.path("new.raw"));
    sparse(&base, SMALL)?;
    ext4(&Tree::new(&host)?, &base, 0, SMALL)?;
    let programs = host.programs()?;
    host.inject(&base, &output, &programs)?.ok()?;
    Ext4::new(&output, 0)?.has_coracle("", LOCAL, &programs)?;
    let found = host.inspect(&output)?;
    assert_eq!(found["root"], 0);
    assert_eq!(found["partitions"][0]["file_system"], "ext4");
    Ok(())
}

#[test]
fn a_raw_disk_keeps_its_holes() -> Result<()> {
    use std::os::unix::fs::MetadataExt;
    let host = Host::new()?;
    let disk = host.path("base.raw");
    partitioned(&disk, 256 * MIB)?;
    ext4(&Tree::new(&host)?, &disk, ROOT, 256 * MIB)?;
    let output = host.path("new.raw");
    host.inject(&disk, &output, &host.programs()?)?.ok()?;
    let metadata = fs::metadata(&output)?;
    assert_eq!(metadata.len(), fs::metadata(&disk)?.len());
    ensure!(metadata.blocks() * 512 < 64 * MIB, "{} bytes on the disk", metadata.blocks() * 512);
    Ok(())
}

/// OSTree's layout: the system in a deployment, `/var` beside it, and `/usr/local` a link into `/var` that leads nowhere
/// before the first boot.
fn ostree(host: &Host) -> Result<Tree> {
    let root = Tree(host.path("tree"));
    let deployment = Tree::at(root.0.join("ostree/deploy/os/deploy/abc.0"))?;
    deployment.remove("usr/local")?.link("usr/local", "../var/usrlocal")?;
    root.directory("ostree/deploy/os/var/lib")?.directory("boot")?;
    Ok(root)
}

#[test]
fn ostree_has_usr_local_in_var() -> Result<()> {
    let host = Host::new()?;
    let base = image(&host, &ostree(&host)?, "base.qcow2")?;
    let (output, programs) = (host.path("new.qcow2"), host.programs()?);
    let report = host.inject(&base, &output, &programs)?.ok()?.json()?;
    assert_eq!(report["layout"], "OSTree, in /ostree/deploy/os/deploy/abc.0");
    assert_eq!(report["added"][0], "/var/usrlocal/lib/coracle/bin/coracle");
    let there = Ext4::new(&host.raw(&output)?, ROOT)?;
    let (system, local) = ("/ostree/deploy/os/deploy/abc.0", "/ostree/deploy/os/var/usrlocal");
    there.has_coracle(system, local, &programs)?;
    assert_eq!(there.target(&format!("{system}/usr/local"))?, "../var/usrlocal", "the link itself stays");
    assert_eq!(there.label(&format!("{local}/bin/coracle"))?, None, "without a policy there are no labels");
    assert_eq!(host.inspect(&output)?["versions"]["coracle"], "0.1.0");
    Ok(())
}

#[test]
fn a_system_with_selinux_gets_labels() -> Result<()> {
    let host = Host::new()?;
    let tree = ostree(&host)?;
    tree.file(
        "ostree/deploy/os/deploy/abc.0/etc/selinux/config",
        "# comment\nSELINUX=enforcing\nSELINUXTYPE=targeted\n",
    )?;
    let base = image(&host, &tree, "base.qcow2")?;
    let (output, programs) = (host.path("new.qcow2"), host.programs()?);
    let report = host.inject(&base, &output, &programs)?.ok()?.json()?;
    assert_eq!(report["selinux"], true);
    let there = Ext4::new(&host.raw(&output)?, ROOT)?;
    let (system, local) = ("/ostree/deploy/os/deploy/abc.0", "/ostree/deploy/os/var/usrlocal");
    there.has_coracle(system, local, &programs)?;
    for (path, kind) in [
        (format!("{local}/lib/coracle/bin/coracle"), "bin_t"),
        (format!("{local}/lib/coracle/bin/coracle-wasi"), "bin_t"),
        (format!("{local}/lib/coracle/bin"), "bin_t"),
        (format!("{local}/lib/coracle"), "lib_t"),
        (format!("{local}/bin"), "bin_t"),
        (format!("{local}/bin/coracle-wasm"), "bin_t"),
        (local.to_owned(), "usr_t"),
        (format!("{system}/etc/containers/containers.conf.d"), "etc_t"),
        (format!("{system}/etc/containers/containers.conf.d/10-coracle.conf"), "etc_t"),
        (format!("{system}/usr/share/containers/containers.conf.d/10-coracle.conf"), "usr_t"),
    ] {
        // debugfs shows the zero at the end, which the kernel expects.
        assert_eq!(there.label(&path)?, Some(format!("system_u:object_r:{kind}:s0\\000")), "{path}");
    }
    assert_eq!(there.label(&format!("{system}/usr/bin/podman"))?, None, "what was there keeps what it had");
    Ok(())
}

#[test]
fn a_disabled_policy_is_none() -> Result<()> {
    let host = Host::new()?;
    let tree = Tree::new(&host)?;
    tree.file("etc/selinux/config", "#SELINUX=enforcing\nSELINUX=disabled\n")?;
    let base = image(&host, &tree, "base.qcow2")?;
    let output = host.path("new.qcow2");
    assert_eq!(host.inject(&base, &output, &host.programs()?)?.ok()?.json()?["selinux"], false);
    assert_eq!(Ext4::new(&host.raw(&output)?, ROOT)?.label("/usr/local/bin/coracle")?, None);
    Ok(())
}

#[test]
fn a_journal_is_replayed_first() -> Result<()> {
    let host = Host::new()?;
    let disk = host.path("base.raw");
    partitioned(&disk, SMALL)?;
    ext4(&Tree::new(&host)?, &disk, ROOT, SMALL)?;
    // A transaction of a system that was not shut down: the block of /etc/motd with another text.
    let device = format!("{}?offset={ROOT}", disk.display());
    let block = shell("debugfs -R 'blocks /etc/motd' \"$1\" 2>&-", &[Path::new(&device)])?;
    let mut text = b"changed\n".to_vec();
    text.resize(4096, 0);
    fs::write(host.path("block"), text)?;
    fs::write(host.path("requests"), format!("jo\njw -b {} block\njc\n", block.trim()))?;
    let mut debugfs = Command::new("debugfs");
    debugfs.arg("-w").arg("-f").arg(host.path("requests")).arg(&device).current_dir(host.path("."));
    crate::common::tool(&mut debugfs)?;
    let features = shell("debugfs -R features \"$1\" 2>&-", &[Path::new(&device)])?;
    ensure!(features.contains("needs_recovery"), "{features}");

    let (output, programs) = (host.path("new.raw"), host.programs()?);
    let before = digest(&disk)?;
    host.inject(&disk, &output, &programs)?.ok()?;
    assert_eq!(digest(&disk)?, before);
    let there = Ext4::new(&output, ROOT)?;
    there.has_coracle("", LOCAL, &programs)?;
    assert_eq!(there.read("/etc/motd")?, b"changed\n");
    ensure!(!there.ask("features")?.contains("needs_recovery"));
    Ok(())
}

#[test]
fn links_in_the_way_are_followed_and_files_replaced() -> Result<()> {
    let host = Host::new()?;
    let tree = Tree::new(&host)?;
    tree.link("etc/containers/containers.conf.d", "/data/drop-ins")?;
    tree.directory("data/drop-ins")?;
    // A link at the place itself is replaced and not written through.
    tree.link("data/drop-ins/10-coracle.conf", "/etc/motd")?;
    tree.directory("usr/local/bin")?.file("usr/local/bin/coracle", "another")?;
    let base = image(&host, &tree, "base.qcow2")?;
    let (output, programs) = (host.path("new.qcow2"), host.programs()?);
    let report = host.inject(&base, &output, &programs)?.ok()?.json()?;
    ensure!(
        report["added"].as_array().unwrap().iter().any(|p| p == "/data/drop-ins/10-coracle.conf"),
        "{report}"
    );
    let there = Ext4::new(&host.raw(&output)?, ROOT)?;
    assert_eq!(there.read("/etc/motd")?, b"welcome\n");
    assert_eq!(there.stat("/data/drop-ins/10-coracle.conf")?, roots("regular", "0644"));
    assert_eq!(there.target("/usr/local/bin/coracle")?, "../lib/coracle/bin/coracle");
    assert_eq!(there.target("/etc/containers/containers.conf.d")?, "/data/drop-ins");
    Ok(())
}

#[test]
fn ext4_takes_no_privileges() -> Result<()> {
    let host = Host::new()?;
    let base = image(&host, &Tree::new(&host)?, "base.qcow2")?;
    let (programs, program) = (host.programs()?, host.path("coracle-vm-image"));
    // Where the build is may be nobody else's business.
    fs::copy(PROGRAM, &program)?;
    let nobody = 65534;
    for path in [host.path("."), host.temporary()] {
        chown(path, Some(nobody), Some(nobody))?;
    }
    let output = host.path("new.qcow2");
    let mut command = Command::new(&program);
    command
        .arg("inject")
        .arg("--base")
        .arg(&base)
        .arg("--output")
        .arg(&output)
        .arg("--programs")
        .arg(&programs);
    command.env("TMPDIR", host.temporary()).env("PATH", "").current_dir("/").uid(nobody).gid(nobody);
    host.finish(&mut command)?.ok()?;
    Ext4::new(&host.raw(&output)?, ROOT)?.has_coracle("", LOCAL, &programs)
}

#[test]
fn programs_are_found_where_they_are_installed() -> Result<()> {
    let host = Host::new()?;
    let base = image(&host, &Tree::new(&host)?, "base.qcow2")?;
    fs::create_dir(host.path("bin"))?;
    fs::copy(PROGRAM, host.path("bin/coracle-vm-image"))?;
    let run = |output: &str| {
        let mut command = Command::new(host.path("bin/coracle-vm-image"));
        command.arg("inject").arg("--base").arg(&base).arg("--output").arg(host.path(output));
        host.finish(command.env("TMPDIR", host.temporary()))
    };
    run("none.qcow2")?.refuses(&["there is no coracle in", "/bin or", "--programs"])?;
    let installed = host.programs_for("libexec/coracle", X86_64, "0.1.0")?;
    // `make install` has the runtime beside this program.
    fs::rename(installed.join("coracle"), host.path("bin/coracle"))?;
    run("new.qcow2")?.ok()?;
    fs::copy(host.path("bin/coracle"), installed.join("coracle"))?;
    Ext4::new(&host.raw(&host.path("new.qcow2"))?, ROOT)?.has_coracle("", LOCAL, &installed)
}

#[test]
fn vhdx_in_zstd_is_what_podman_ships() -> Result<()> {
    let host = Host::new()?;
    let disk = host.path("disk");
    partitioned(&disk, SMALL)?;
    ext4(&Tree::new(&host)?, &disk, ROOT, SMALL)?;
    let (base, output) = (host.path("base.vhdx.zst"), host.path("new.vhdx.zst"));
    pack(&disk, &base)?;
    let programs = host.programs()?;
    host.inject(&base, &output, &programs)?.ok()?;
    Ext4::new(&host.raw(&output)?, ROOT)?.has_coracle("", LOCAL, &programs)?;
    assert_eq!(host.inspect(&output)?["disktype"], "hyperv");
    Ok(())
}
