//! The cache of compiled modules: hits, and what must lead to a clean recompile. Damage and attacks are in
//! `security/cache.rs`.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use coracle_integration::{Container, Host, Run, command, wat};

fn hello(host: &Host) -> Result<Container<'_>> {
    let container = host.empty_container(&["/main.wasm"])?;
    container.install(&wat("hello")?, "main.wasm")?;
    Ok(container)
}

fn runs(host: &Host) -> Result<()> {
    hello(host)?.run()?.ok()?.prints("hello from a module").map(drop)
}

/// The files below the cache that are compiled modules: ELF files.
fn artifacts(host: &Host) -> Result<Vec<PathBuf>> {
    let found = command("find").arg(host.cache_dir()).args(["-type", "f"]).finish()?.ok()?;
    Ok(found
        .lines()
        .map(PathBuf::from)
        .filter(|p| fs::read(p).is_ok_and(|bytes| bytes.starts_with(b"\x7fELF")))
        .collect())
}

fn only_artifact(host: &Host) -> Result<PathBuf> {
    let mut all = artifacts(host)?;
    ensure!(all.len() == 1, "one artifact expected: {all:?}");
    all.pop().context("artifact")
}

#[test]
fn the_second_start_finds_the_artifact() -> Result<()> {
    let host = Host::new()?;
    runs(&host)?;
    let artifact = only_artifact(&host)?;
    let before = fs::metadata(&artifact)?;
    runs(&host)?;
    let after = fs::metadata(only_artifact(&host)?)?;
    assert_eq!((before.ino(), before.mtime_nsec()), (after.ino(), after.mtime_nsec()));
    // The digest decides, not the file: a copy with other times is the same module.
    let copy = hello(&host)?;
    fs::set_permissions(copy.rootfs().join("main.wasm"), fs::Permissions::from_mode(0o555))?;
    copy.run()?.ok()?;
    only_artifact(&host)?;
    Ok(())
}

#[test]
fn a_changed_module_in_the_same_file_is_compiled() -> Result<()> {
    let host = Host::new()?;
    let container = hello(&host)?;
    container.run()?.ok()?.prints("hello from a module")?;
    let path = container.rootfs().join("main.wasm");
    let times = fs::metadata(&path)?;
    let changed = fs::read(&path)?;
    let at = changed.windows(5).position(|w| w == b"hello").context("text")?;
    let mut changed = changed;
    changed[at..at + 5].copy_from_slice(b"HELLO");
    fs::write(&path, changed)?;
    // The same inode, size and modification time: only the change time tells.
    let file = fs::File::options().write(true).open(&path)?;
    file.set_modified(times.modified()?)?;
    container.run()?.ok()?.prints("HELLO from a module")?;
    Ok(())
}

#[test]
fn the_directory_is_private() -> Result<()> {
    let host = Host::new()?;
    runs(&host)?;
    let mode = fs::metadata(host.cache_dir())?.mode() & 0o777;
    assert_eq!(mode & 0o077, 0, "{mode:o}");
    Ok(())
}

#[test]
fn concurrent_starts_compile_once() -> Result<()> {
    let host = Host::new()?;
    let containers = (0..6).map(|_| hello(&host)).collect::<Result<Vec<_>>>()?;
    let mut jobs = containers.iter().map(Container::run_job).collect::<Result<Vec<_>>>()?;
    for job in &mut jobs {
        job.wait()?.ok()?.prints("hello from a module")?;
    }
    only_artifact(&host)?;
    host.is_clean()
}

#[test]
fn leftovers_of_an_interrupted_compilation_do_no_harm() -> Result<()> {
    let host = Host::new()?;
    runs(&host)?;
    let artifact = only_artifact(&host)?;
    fs::remove_file(&artifact)?;
    fs::write(artifact.with_extension("tmp"), b"\x7fELF half")?;
    runs(&host)?;
    runs(&host)
}

#[test]
fn compile_list_verify_and_prune() -> Result<()> {
    let host = Host::new()?;
    let module = wat("hello")?;
    let wasm = |args: &[&str]| {
        let mut command = host.runtime();
        command.arg("wasm").args(args);
        command
    };
    wasm(&["compile"]).arg(&module).finish()?.ok()?;
    let artifact = only_artifact(&host)?;
    let inode = fs::metadata(&artifact)?.ino();
    runs(&host)?;
    assert_eq!(fs::metadata(&artifact)?.ino(), inode, "compiled beforehand");
    let list = wasm(&["ls"]).finish()?.ok()?;
    assert!(list.lines().count() >= 1, "{list}");
    wasm(&["verify"]).finish()?.ok()?;

    let mut bytes = fs::read(&artifact)?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::set_permissions(&artifact, fs::Permissions::from_mode(0o600))?;
    fs::write(&artifact, bytes)?;
    let bad = wasm(&["verify"]).finish()?;
    assert_ne!(bad.code, 0, "{bad}");
    wasm(&["prune", "--all"]).finish()?.ok()?;
    assert_eq!(artifacts(&host)?, Vec::<PathBuf>::new());
    runs(&host)
}

#[test]
fn text_format_is_compiled_too() -> Result<()> {
    let host = Host::new()?;
    let source = coracle_integration::repository().join("integration/guests/wat/hello.wat");
    host.runtime().args(["wasm", "compile"]).arg(source).finish()?.ok()?;
    Ok(())
}
