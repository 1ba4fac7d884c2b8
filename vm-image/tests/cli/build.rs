//! build, as far as it comes without a network: what it does not take. Nothing is made then.

use std::fs;
use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Result, ensure};

use crate::common::{AARCH64, Host, PROGRAM, X86_64};

/// Builds what must fail, and looks that nothing came of it.
fn refuse(host: &Host, arguments: &[&str], parts: &[&str]) -> Result<()> {
    let before = fs::read_dir(host.path("."))?.count();
    let run = host.run(&[&["--json", "build", "--arch", "x86_64"], arguments].concat())?;
    run.refuses(parts)?;
    run.json()?;
    assert_eq!(fs::read_dir(host.path("."))?.count(), before, "files stay");
    Ok(())
}

#[test]
fn names_that_say_no_format() -> Result<()> {
    let host = Host::new()?;
    host.programs()?;
    for name in ["machine", "machine.img", "machine.zst", "machine.qcow2.bz2", "qcow2"] {
        refuse(
            &host,
            &["--programs", "programs", name],
            &[&format!("{name}: the name says no format"), ".qcow2, .raw"],
        )?;
    }
    // One of several is enough.
    refuse(
        &host,
        &["--programs", "programs", "machine.raw", "machine.img"],
        &["machine.img: the name says no format"],
    )
}

#[test]
fn what_debian_has_no_guest_for() -> Result<()> {
    let host = Host::new()?;
    host.programs()?;
    refuse(
        &host,
        &["--programs", "programs", "machine.vhdx.zst"],
        &["vhdx: ", "gvforwarder", "use `inject`"],
    )?;
    refuse(&host, &["--programs", "programs", "machine.tar", "machine.raw"], &["build its .tar by itself"])
}

#[test]
fn programs_that_do_not_fit() -> Result<()> {
    let host = Host::new()?;
    refuse(&host, &["--programs", "nowhere", "machine.raw"], &["there is no coracle in nowhere"])?;
    host.programs_for("arm", AARCH64, "0.1.0")?;
    refuse(
        &host,
        &["--programs", "arm", "machine.raw"],
        &["arm/coracle is for aarch64, the image for x86_64"],
    )?;
    host.programs_for("x86", X86_64, "0.1.0")?;
    let run = host.run(&["build", "--arch", "arm64", "--programs", "x86", "machine.raw"])?;
    run.refuses(&["x86/coracle is for x86_64, the image for aarch64"])?;
    fs::remove_file(host.path("x86/coracle-wasmc"))?;
    refuse(&host, &["--programs", "x86", "machine.raw"], &["there is no coracle-wasmc in x86"])
}

#[test]
fn users_without_privileges() -> Result<()> {
    let host = Host::new()?;
    let (program, programs) = (host.path("coracle-vm-image"), host.programs()?);
    fs::copy(PROGRAM, &program)?;
    let nobody = 65534;
    std::os::unix::fs::chown(host.path("."), Some(nobody), Some(nobody))?;
    let mut command = Command::new(&program);
    command.args(["build", "--arch", "x86_64", "machine.raw", "--programs"]).arg(programs);
    command.env("TMPDIR", host.temporary()).current_dir(host.path(".")).uid(nobody).gid(nobody);
    host.finish(&mut command)?.refuses(&["building needs root"])?;
    ensure!(!host.path("machine.raw").exists());
    Ok(())
}

#[test]
fn options_that_contradict_each_other() -> Result<()> {
    let host = Host::new()?;
    for arguments in [
        &["build"][..],
        &["build", "--without-coracle", "--programs", "p", "machine.raw"],
        &["build", "--disk-size", "1", "machine.raw"],
        &["build", "--arch", "riscv64", "machine.raw"],
    ] {
        let run = host.run(arguments)?;
        ensure!(
            run.code == Some(2) && run.stderr.contains("Usage:") | run.stderr.contains("--help"),
            "{run:?}"
        );
    }
    Ok(())
}
