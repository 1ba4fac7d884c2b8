//! What inject does not take: one line says which file and why, nothing is written, and the base stays as it is.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};

use crate::common::{
    AARCH64, Host, MIB, ROOT, SMALL, Tree, X86_64, digest, ext4, image, pack, partitioned, shell, sparse,
    tool,
};

/// Injects what must fail, and looks that nothing came of it.
fn refuse(host: &Host, base: &Path, output: &str, programs: &Path, parts: &[&str]) -> Result<()> {
    let (before, output) = (digest(base)?, host.path(output));
    let run = host.inject(base, &output, programs)?;
    ensure!(run.code == Some(1), "{run:?}");
    run.refuses(parts)?;
    run.json()?;
    ensure!(!output.is_file(), "{} was written", output.display());
    assert_eq!(digest(base)?, before, "the base changed");
    Ok(())
}

/// A refused image of a tree.
fn refuse_tree(host: &Host, tree: &Tree, parts: &[&str]) -> Result<()> {
    let base = image(host, tree, "base.qcow2")?;
    refuse(host, &base, "new.qcow2", &host.programs()?, &[&["base.qcow2: "], parts].concat())
}

/// A refused raw disk.
fn refuse_disk(host: &Host, name: &str, parts: &[&str]) -> Result<PathBuf> {
    let base = host.path(name);
    refuse(host, &base, "new.raw", &host.programs()?, &[&[&*format!("{name}: ")], parts].concat())?;
    Ok(base)
}

#[test]
fn a_base_without_podman() -> Result<()> {
    let host = Host::new()?;
    let tree = Tree::new(&host)?;
    tree.remove("usr/bin/podman")?;
    refuse_tree(&host, &tree, &["there is no podman in it (/usr/bin/podman, /usr/local/bin/podman)"])
}

#[test]
fn a_temporary_directory_that_libext2fs_cannot_be_told() -> Result<()> {
    let host = Host::new()?;
    let base = image(&host, &Tree::new(&host)?, "base.qcow2")?;
    let temporary = host.path("what?");
    fs::create_dir(&temporary)?;
    let output = host.path("new.qcow2");
    let mut inject = host.injection(&base, &output, &host.programs()?);
    let run = host.finish(inject.env("TMPDIR", &temporary))?;
    ensure!(run.code == Some(1), "{run:?}");
    run.refuses(&["base.qcow2: ", "what?", "libext2fs ends a path at a `?`", "TMPDIR"])?;
    ensure!(!output.exists() && fs::read_dir(&temporary)?.next().is_none(), "something was left");
    Ok(())
}

#[test]
fn a_podman_that_is_no_program() -> Result<()> {
    let host = Host::new()?;
    let tree = Tree::new(&host)?;
    tree.file("usr/bin/podman", "#!/bin/sh\n")?;
    refuse_tree(&host, &tree, &["not a 64-bit ELF program"])
}

#[test]
fn a_base_for_another_machine_than_the_programs() -> Result<()> {
    let host = Host::new()?;
    let base = image(&host, &Tree::new(&host)?, "base.qcow2")?;
    let programs = host.programs_for("arm", AARCH64, "0.1.0")?;
    let parts = ["arm/coracle is for aarch64, the image for x86_64", "--programs"];
    refuse(&host, &base, "new.qcow2", &programs, &parts)?;
    // One of the three is enough.
    let mixed = host.programs()?;
    fs::copy(programs.join("coracle-wasmc"), mixed.join("coracle-wasmc"))?;
    refuse(&host, &base, "new.qcow2", &mixed, &["programs/coracle-wasmc is for aarch64"])
}

#[test]
fn programs_that_are_missing_or_none() -> Result<()> {
    let host = Host::new()?;
    let base = image(&host, &Tree::new(&host)?, "base.qcow2")?;
    let programs = host.programs()?;
    fs::write(programs.join("coracle-wasi"), "#!/bin/sh\n")?;
    refuse(&host, &base, "new.qcow2", &programs, &["programs/coracle-wasi: not a 64-bit ELF program"])?;
    fs::remove_file(programs.join("coracle-wasi"))?;
    refuse(&host, &base, "new.qcow2", &programs, &["there is no coracle-wasi in", "/programs"])?;
    refuse(&host, &base, "new.qcow2", &host.path("nowhere"), &["there is no coracle in", "/nowhere"])
}

#[test]
fn a_base_without_room() -> Result<()> {
    let host = Host::new()?;
    let tree = Tree::new(&host)?;
    tree.file("usr/lib/large", &"x".repeat(10 << 20))?;
    let base = host.path("base.raw");
    sparse(&base, 16 * MIB)?;
    ext4(&tree, &base, 0, 16 * MIB)?;
    refuse_disk(&host, "base.raw", &["no room: ", " are needed, ", " are free"])?;
    Ok(())
}

#[test]
fn a_base_without_inodes() -> Result<()> {
    let host = Host::new()?;
    let tree = Tree::new(&host)?;
    let base = host.path("base.raw");
    sparse(&base, SMALL)?;
    // Room, but no more files: that is seen only when they are written. mke2fs rounds up, and takes some for itself.
    let script = "mke2fs -q -t ext4 -N $(($(find \"$2\" | wc -l) + 40)) -d \"$2\" \"$1\" && \
                  for i in $(seq 64); do echo \"mkdir /filler$i\"; done | debugfs -w -f - \"$1\" 2>&1";
    let said = shell(script, &[&base, &tree.0])?;
    ensure!(said.contains("Could not allocate inode"), "{said}");
    refuse_disk(&host, "base.raw", &["could not be written"])?;
    Ok(())
}

#[test]
fn a_directory_where_a_file_is_to_be() -> Result<()> {
    let host = Host::new()?;
    let tree = Tree::new(&host)?;
    tree.directory("usr/local/bin/coracle")?;
    refuse_tree(&host, &tree, &["/usr/local/bin/coracle: is a directory"])
}

#[test]
fn a_file_where_a_directory_is_to_be() -> Result<()> {
    let host = Host::new()?;
    let tree = Tree::new(&host)?;
    tree.file("usr/local/lib", "")?;
    refuse_tree(&host, &tree, &["/usr/local/lib: is no directory"])
}

#[test]
fn links_that_go_round() -> Result<()> {
    let host = Host::new()?;
    let tree = Tree::new(&host)?;
    tree.remove("usr/local")?.link("usr/local", "round")?.link("usr/round", "local")?;
    refuse_tree(&host, &tree, &["too many levels of symbolic links"])
}

#[test]
fn two_deployments_of_ostree() -> Result<()> {
    let host = Host::new()?;
    let root = Tree(host.path("tree"));
    for name in ["abc.0", "def.0"] {
        Tree::at(root.0.join("ostree/deploy/os/deploy").join(name))?;
    }
    refuse_tree(&host, &root, &["more than one deployment", "deploy/abc.0, ", "deploy/def.0"])
}

#[test]
fn a_disk_with_no_system_that_can_be_read() -> Result<()> {
    let host = Host::new()?;
    partitioned(&host.path("empty.raw"), SMALL)?;
    refuse_disk(&host, "empty.raw", &["no Linux system found: its file systems are unknown, ext4, unknown"])?;

    let fat = host.path("fat.raw");
    sparse(&fat, SMALL)?;
    match tool(Command::new("mkfs.vfat").arg(&fat)) {
        Ok(_) => {
            refuse_disk(
                &host,
                "fat.raw",
                &["no Linux system found", "vfat", "ext4, xfs and btrfs can be read"],
            )?;
        }
        Err(error) => crate::common::skip("a FAT disk", &format!("{error:#}")),
    }

    // cryptsetup's magic number and version, in the system's place.
    partitioned(&host.path("locked.raw"), SMALL)?;
    let mut header = vec![0; 592];
    header[..8].copy_from_slice(b"LUKS\xba\xbe\0\x01");
    header[168..204].copy_from_slice(b"01234567-89ab-cdef-0123-456789abcdef");
    let disk = File::options().write(true).open(host.path("locked.raw"))?;
    std::os::unix::fs::FileExt::write_all_at(&disk, &header, ROOT)?;
    refuse_disk(&host, "locked.raw", &["no Linux system found", "crypto_LUKS"])?;
    Ok(())
}

#[test]
fn a_file_system_that_is_damaged() -> Result<()> {
    let host = Host::new()?;
    let base = host.path("base.raw");
    sparse(&base, SMALL)?;
    // Two files with one block: nothing that is repaired without a question.
    let script = "mke2fs -q -t ext4 -O ^extents,^64bit -d \"$2\" \"$1\" && b=$(debugfs -R 'blocks /etc/motd' \"$1\" 2>&-) && \
                  debugfs -w -R \"set_inode_field /usr/lib/os-release block[0] $b\" \"$1\" 2>&1";
    shell(script, &[&base, &Tree::new(&host)?.0])?;
    refuse_disk(&host, "base.raw", &["damaged"])?;
    Ok(())
}

#[test]
fn no_image_at_all() -> Result<()> {
    let host = Host::new()?;
    fs::write(host.path("text.raw"), "not an image\n".repeat(10_000))?;
    fs::write(host.path("empty.raw"), "")?;
    fs::write(host.path("compressed"), "not an image\n".repeat(100))?;
    shell("gzip -c <\"$1\" >\"$2\"", &[&host.path("compressed"), &host.path("text.raw.gz")])?;
    let none = "neither a disk image nor an archive";
    for name in ["text.raw", "empty.raw", "text.raw.gz"] {
        refuse_disk(&host, name, &[none])?;
    }
    let programs = host.programs()?;
    let run = |base: &Path| host.inject(base, &host.path("new.raw"), &programs);
    run(&host.path("absent.raw"))?.refuses(&["absent.raw: No such file or directory"])?;
    run(&programs)?.refuses(&["programs: Is a directory"])?;
    ensure!(!host.path("new.raw").exists());
    Ok(())
}

/// Cuts a file short.
fn cut(path: &Path, length: u64) -> Result<()> {
    Ok(File::options().write(true).open(path)?.set_len(length)?)
}

#[test]
fn a_qcow2_that_ends_early() -> Result<()> {
    let host = Host::new()?;
    let tree = Tree::new(&host)?;
    // Contents of a file are what no check of a file system misses.
    fs::write(tree.0.join("usr/bin/crun"), (0..8_u32 << 18).flat_map(u32::to_le_bytes).collect::<Vec<_>>())?;
    let base = image(&host, &tree, "base.qcow2")?;
    cut(&base, fs::metadata(&base)?.len() - MIB)?;
    let programs = host.programs()?;
    refuse(&host, &base, "new.qcow2", &programs, &["base.qcow2: truncated or damaged"])?;
    shell("zstd -q \"$1\" -o \"$2\"", &[&base, &host.path("base.qcow2.zst")])?;
    let parts = ["base.qcow2.zst: truncated or damaged"];
    refuse(&host, &host.path("base.qcow2.zst"), "new.qcow2.zst", &programs, &parts)?;
    cut(&base, 4096)?;
    refuse(&host, &base, "new.qcow2", &programs, &["base.qcow2: "])
}

#[test]
fn other_formats_that_end_early() -> Result<()> {
    let host = Host::new()?;
    let (tree, programs) = (Tree::new(&host)?, host.programs()?);
    let disk = image(&host, &tree, "base.raw")?;
    cut(&disk, ROOT + SMALL / 2)?;
    refuse(&host, &disk, "new.raw", &programs, &["base.raw: ", "the image is truncated"])?;
    for name in ["base.vhdx", "base.raw.zst", "base.raw.gz", "base.raw.xz"] {
        let base = image(&host, &tree, name)?;
        cut(&base, fs::metadata(&base)?.len() / 2)?;
        let output = name.replace("base", "new");
        refuse(&host, &base, &output, &programs, &[&format!("{name}: ")])?;
    }
    Ok(())
}

#[test]
fn a_file_system_larger_than_its_disk() -> Result<()> {
    let host = Host::new()?;
    let base = host.path("base.raw");
    sparse(&base, SMALL)?;
    ext4(&Tree::new(&host)?, &base, 0, SMALL)?;
    cut(&base, SMALL / 2)?;
    refuse_disk(&host, "base.raw", &["damaged"])?;
    Ok(())
}

#[test]
fn an_output_name_of_another_format() -> Result<()> {
    let host = Host::new()?;
    let base = image(&host, &Tree::new(&host)?, "base.qcow2")?;
    let programs = host.programs()?;
    for name in ["new.raw", "new.qcow2.zst", "new.vhdx"] {
        refuse(&host, &base, name, &programs, &[&format!("{name}: "), "base.qcow2 is qcow2, and stays so"])?;
    }
    // What counts is the base's contents and not its name.
    let misnamed = host.path("base.raw");
    fs::rename(&base, &misnamed)?;
    refuse(&host, &misnamed, "new.raw", &programs, &["base.raw is qcow2"])
}

#[test]
fn an_output_that_is_the_base() -> Result<()> {
    let host = Host::new()?;
    let base = image(&host, &Tree::new(&host)?, "base.qcow2")?;
    let (programs, before) = (host.programs()?, digest(&base)?);
    std::os::unix::fs::symlink("base.qcow2", host.path("link.qcow2"))?;
    for output in [base.clone(), host.path("./base.qcow2"), host.path("link.qcow2")] {
        host.inject(&base, &output, &programs)?.refuses(&["base.qcow2: is the base: name another output"])?;
    }
    assert_eq!(digest(&base)?, before);
    ensure!(host.path("link.qcow2").is_symlink());
    Ok(())
}

#[test]
fn an_output_that_cannot_be() -> Result<()> {
    let host = Host::new()?;
    let base = image(&host, &Tree::new(&host)?, "base.qcow2")?;
    let programs = host.programs()?;
    refuse(&host, &base, "nowhere/new.qcow2", &programs, &["/nowhere: no such directory"])?;
    fs::create_dir(host.path("new.qcow2"))?;
    refuse(&host, &base, "new.qcow2", &programs, &["/new.qcow2: is a directory"])
}

#[test]
fn an_archive() -> Result<()> {
    let host = Host::new()?;
    let tree = Tree::new(&host)?;
    let (base, packed) = (host.path("base.tar"), host.path("base.tar.zst"));
    tool(Command::new("tar").arg("-cf").arg(&base).arg("-C").arg(&tree.0).arg("."))?;
    shell("zstd -q \"$1\" -o \"$2\"", &[&base, &packed])?;
    let programs = host.programs()?;
    refuse(&host, &base, "new.tar", &programs, &["base.tar: an archive", "use `build` for WSL"])?;
    refuse(&host, &packed, "new.tar.zst", &programs, &["base.tar.zst: an archive"])
}

#[test]
fn a_place_for_temporary_files_that_is_missing() -> Result<()> {
    let host = Host::new()?;
    let base = image(&host, &Tree::new(&host)?, "base.qcow2")?;
    let mut command = host.injection(&base, &host.path("new.qcow2"), &host.programs()?);
    host.finish(command.env("TMPDIR", host.path("nowhere")))?
        .refuses(&["/nowhere: cannot make a temporary directory"])?;
    ensure!(!host.path("new.qcow2").exists());
    Ok(())
}

#[test]
fn a_disk_of_the_host_that_is_full() -> Result<()> {
    let host = Host::new()?;
    let (base, programs) = (host.path("base.raw"), host.programs()?);
    let disk = image(&host, &Tree::new(&host)?, "disk.raw")?;
    fs::rename(disk, &base)?;
    let script = "mount -t tmpfs -o size=64k none \"$1\"; exec \"$2\" inject --base \"$3\" --output \"$4\" --programs \"$5\"";
    let mut command = host.command();
    let program = PathBuf::from(command.get_program());
    command = Command::new("unshare");
    command.args(["--mount", "sh", "-ec", script, "sh"]).arg(host.temporary()).arg(program).arg(&base);
    command.arg(host.path("new.raw")).arg(&programs).env("TMPDIR", host.temporary());
    host.finish(&mut command)?.refuses(&["No space left on device"])?;
    ensure!(!host.path("new.raw").exists());
    Ok(())
}

#[test]
fn programs_for_a_machine_without_images() -> Result<()> {
    let host = Host::new()?;
    let tree = Tree::new(&host)?;
    let riscv = 243;
    tree.program("usr/bin/podman", riscv)?;
    refuse_tree(&host, &tree, &["a program for neither x86_64 nor aarch64"])?;
    // Arm is as good as x86.
    tree.program("usr/bin/podman", AARCH64)?;
    let base = image(&host, &tree, "base.qcow2")?;
    refuse(&host, &base, "new.qcow2", &host.programs_for("x86", X86_64, "1")?, &["the image for aarch64"])?;
    let arm = host.programs_for("arm", AARCH64, "0.1.0")?;
    assert_eq!(host.inject(&base, &host.path("new.qcow2"), &arm)?.ok()?.json()?["arch"], "aarch64");
    Ok(())
}

#[test]
fn a_backing_file_is_not_taken_along() -> Result<()> {
    let host = Host::new()?;
    let below = image(&host, &Tree::new(&host)?, "below.raw")?;
    let base = host.path("base.qcow2");
    tool(
        Command::new("qemu-img")
            .args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b"])
            .arg(&below)
            .arg(&base),
    )?;
    // The new image stands alone, as the file that is handed on does.
    host.inject(&base, &host.path("new.qcow2"), &host.programs()?)?.ok()?;
    fs::remove_file(below)?;
    let info = tool(Command::new("qemu-img").args(["info", "--output=json"]).arg(host.path("new.qcow2")))?;
    ensure!(!info.contains("backing"), "{info}");
    pack(&host.raw(&host.path("new.qcow2"))?, &host.path("again.qcow2"))
}
