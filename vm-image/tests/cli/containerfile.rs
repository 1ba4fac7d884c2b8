//! containerfile: text for buildah and podman.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};

use crate::common::{Host, tool};

#[test]
fn it_derives_from_the_upstream_image() -> Result<()> {
    let host = Host::new()?;
    let run = host.run(&["containerfile"])?.ok()?;
    ensure!(run.stderr.is_empty(), "{run:?}");
    ensure!(run.stdout.lines().any(|line| line.starts_with("FROM quay.io/podman/machine-os:")), "{run:?}");
    Ok(())
}

#[test]
fn another_base_is_taken() -> Result<()> {
    let host = Host::new()?;
    let base = "registry.example/machine-os@sha256:0123";
    let text = host.run(&["containerfile", "--base", base])?.ok()?.stdout;
    ensure!(text.lines().any(|line| line == format!("FROM {base}")), "{text}");
    let report = host.run(&["--json", "containerfile", "--base", base])?.ok()?.json()?;
    assert_eq!((&report["base"], &report["containerfile"]), (&base.into(), &text.into()));
    Ok(())
}

#[test]
fn buildah_makes_an_image_of_it() -> Result<()> {
    let host = Host::new()?;
    let context = host.path("context");
    fs::create_dir(&context)?;
    // A program that says that it has been run, where it was put.
    let program = "#!/bin/sh\necho \"$0 $*\" >> /ran\n";
    for name in ["coracle", "coracle-wasi", "coracle-wasmc"] {
        fs::write(context.join(name), program)?;
    }
    fs::copy("/bin/busybox", context.join("busybox"))?;
    fs::write(
        context.join("Base"),
        "FROM scratch\nCOPY busybox /bin/\nRUN [\"/bin/busybox\", \"--install\", \"/bin\"]\n",
    )?;
    let text = host.run(&["containerfile", "--base", "localhost/base"])?.ok()?.stdout;
    fs::write(context.join("Containerfile"), text)?;
    // A directory without a space, which storage options do not take.
    let storage = tempfile::tempdir_in("/var/tmp")?;
    let buildah = |arguments: &[&str]| {
        let mut buildah = Command::new("buildah");
        buildah.current_dir(&context).arg("--storage-driver=vfs");
        buildah
            .arg("--root")
            .arg(storage.path().join("root"))
            .arg("--runroot")
            .arg(storage.path().join("run"));
        tool(buildah.args(arguments))
    };
    let build =
        |file, name| buildah(&["build", "--isolation=chroot", "--pull-never", "-f", file, "-t", name, "."]);
    build("Base", "localhost/base")?;
    build("Containerfile", "localhost/derived")?;

    let container = buildah(&["from", "--pull-never", "localhost/derived"])?;
    let tree = buildah(&["mount", container.trim()])?;
    let tree = Path::new(tree.trim());
    assert_eq!(fs::read_to_string(tree.join("ran"))?, "/usr/bin/coracle --version\n");
    for program_of_it in
        ["usr/bin/coracle", "usr/libexec/coracle/coracle-wasi", "usr/libexec/coracle/coracle-wasmc"]
    {
        let path = tree.join(program_of_it);
        assert_eq!(fs::read_to_string(&path)?, program, "{program_of_it}");
        assert_eq!(path.metadata()?.permissions().mode() & 0o7777, 0o755, "{program_of_it}");
    }
    assert_eq!(fs::read_link(tree.join("usr/bin/coracle-wasm"))?.as_os_str(), "coracle");
    // What an injected image has, to the letter.
    let packaged = include_str!("../../../packaging/podman/containers.conf");
    let chosen = packaged.replace("# runtime = \"coracle\"", "runtime = \"coracle\"");
    for place in ["usr/share", "etc"] {
        let path = tree.join(place).join("containers/containers.conf.d/10-coracle.conf");
        assert_eq!(fs::read_to_string(path)?, chosen, "{place}");
    }
    buildah(&["umount", "--all"])?;
    Ok(())
}
