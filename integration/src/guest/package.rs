//! Guests that need published crates: the packages of the workspace `integration/guests/crates`.
//!
//! They are built by Debian's cargo and rustc, which has a WASI target. That cargo is too old for the registry, so
//! today's fetches the crates, into a directory that the older one takes for the registry. Crates, what is compiled of
//! them, and a lock lie beside the test programs: one build at a time, whatever test asks for it.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::fs::{FlockOperation, flock};

use super::directory;
use crate::command::{Run, command};
use crate::repository;

/// For all crates that all packages need, on a machine that has other things to do.
const DEADLINE: Duration = Duration::from_secs(1800);

/// A package of the guests' workspace as a module.
///
/// # Errors
/// A crate cannot be fetched, or the compiler is missing or finds an error.
pub fn package(name: &str) -> Result<PathBuf> {
    build(name, "wasm32-wasi", ".wasm", "")
}

/// The same package as a native program, by the same compiler, statically linked: it runs in an empty root file system.
///
/// # Errors
/// As [`package`].
pub fn native_package(name: &str) -> Result<PathBuf> {
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    build(name, &target, "", "-Ctarget-feature=+crt-static -Crelocation-model=static")
}

fn build(name: &str, target: &str, extension: &str, flags: &str) -> Result<PathBuf> {
    let source = repository().join("integration/guests/crates");
    let compiled = directory()?.join(format!("{name}-{:016x}{extension}", digest(&source)?));
    if compiled.exists() {
        return Ok(compiled);
    }
    let place = directory()?.join("crates");
    fs::create_dir_all(&place)?;
    let lock = File::create(place.join("lock"))?;
    flock(&lock, FlockOperation::LockExclusive)?;
    // Somebody else has been quicker.
    if compiled.exists() {
        return Ok(compiled);
    }
    let vendor = fetch(&source, &place)?;
    let mut cargo = cargo("/usr/bin/cargo", &source);
    cargo
        .args([
            "build",
            "--quiet",
            "--offline",
            "--locked",
            "--release",
            "--target",
            target,
            "--package",
            name,
        ])
        .arg("--config")
        .arg("source.crates-io.replace-with='vendor'")
        .arg("--config")
        .arg(format!("source.vendor.directory='{}'", vendor.display()))
        .arg("--target-dir")
        .arg(place.join("target"))
        .env("CARGO_HOME", place.join("home"))
        // For a build script that wants a crate's C sources.
        .env("VENDOR", &vendor)
        .env("RUSTC", "/usr/bin/rustc")
        // Those of the project's own configuration do not count then.
        .env("RUSTFLAGS", flags);
    run(&mut cargo)?;
    let built = place.join("target").join(target).join("release").join(format!("{name}{extension}"));
    let half = place.join("half");
    fs::copy(&built, &half).with_context(|| built.display().to_string())?;
    fs::rename(half, &compiled)?;
    Ok(compiled)
}

/// Has the crates of the lock file in a directory.
fn fetch(source: &Path, place: &Path) -> Result<PathBuf> {
    let (vendor, note) = (place.join("vendor"), place.join("vendored"));
    let lock = fs::read(source.join("Cargo.lock"))?;
    if fs::read(&note).ok().as_ref() != Some(&lock) {
        let mut cargo = cargo("cargo", source);
        cargo.args(["vendor", "--quiet", "--locked", "--versioned-dirs"]).arg(&vendor);
        run(&mut cargo)?;
        fs::write(note, lock)?;
    }
    Ok(vendor)
}

/// A cargo without the settings of the cargo that runs this.
fn cargo(program: &str, directory: &Path) -> Command {
    let mut cargo = command(program);
    for (key, _) in std::env::vars().filter(|(k, _)| k.starts_with("CARGO") || k.starts_with("RUST")) {
        if !matches!(key.as_str(), "CARGO_HOME" | "RUSTUP_HOME" | "RUSTUP_TOOLCHAIN") {
            cargo.env_remove(key);
        }
    }
    cargo.current_dir(directory);
    cargo
}

fn run(cargo: &mut Command) -> Result<()> {
    cargo.job()?.wait_for(DEADLINE)?.ok().map(drop)
}

/// Of all files below a directory, by name and content.
fn digest(directory: &Path) -> Result<u64> {
    let mut hasher = DefaultHasher::new();
    for path in files(directory)? {
        path.hash(&mut hasher);
        fs::read(&path).with_context(|| path.display().to_string())?.hash(&mut hasher);
    }
    Ok(hasher.finish())
}

fn files(directory: &Path) -> Result<BTreeSet<PathBuf>> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(directory).with_context(|| directory.display().to_string())? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.extend(files(&entry.path())?);
        } else {
            found.insert(entry.path());
        }
    }
    Ok(found)
}
