//! Guest programs, compiled from `integration/guests` once for all tests and kept beside the test programs.
//!
//! A compiled guest is named after its source's digest and renamed into place, so tests that run at the same time
//! never see a half-written or an old one.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::command::{Run, command};
use crate::repository;

mod package;

pub use package::{native_package, package};

/// A C guest, compiled with Debian's clang and wasi-libc.
///
/// # Errors
/// The compiler is missing or finds an error.
pub fn c(name: &str) -> Result<PathBuf> {
    build(&source("c", name, "c"), |source, to| {
        let mut clang = command("clang");
        clang.args(["--target=wasm32-wasi", "-Os", "-Wall", "-Wl,--strip-all", "-o"]).arg(to).arg(source);
        run(clang)
    })
}

/// A Rust guest with std, compiled with Debian's rustc: rustup's has no WASI target on an offline machine.
///
/// # Errors
/// The compiler is missing or finds an error.
pub fn rust(name: &str) -> Result<PathBuf> {
    build(&source("rust", name, "rs"), |source, to| {
        let mut rustc = command("/usr/bin/rustc");
        // An outer cargo's settings are for another compiler.
        for (key, _) in std::env::vars().filter(|(k, _)| k.starts_with("CARGO") || k.starts_with("RUST")) {
            rustc.env_remove(key);
        }
        rustc
            .args(["--edition=2021", "--target=wasm32-wasi", "-Copt-level=s", "-Cstrip=symbols", "-o"])
            .arg(to)
            .arg(source);
        run(rustc)
    })
}

/// A guest in WebAssembly's text format.
///
/// # Errors
/// The text has an error.
pub fn wat(name: &str) -> Result<PathBuf> {
    build(&source("wat", name, "wat"), |source, to| Ok(fs::write(to, wat::parse_file(source)?)?))
}

/// A native program in C, statically linked: it runs in an empty root file system.
///
/// # Errors
/// The compiler is missing or finds an error.
pub fn native(name: &str) -> Result<PathBuf> {
    build(&source("native", name, "c"), |source, to| {
        let mut gcc = command("gcc");
        gcc.args(["-static", "-O1", "-Wall", "-Werror", "-o"]).arg(to).arg(source);
        run(gcc)
    })
}

fn source(language: &str, name: &str, extension: &str) -> PathBuf {
    repository().join("integration/guests").join(language).join(name).with_extension(extension)
}

fn run(mut compiler: Command) -> Result<()> {
    compiler.finish()?.ok().map(drop)
}

/// The directory of what is made once, for the test programs and those that stand one directory above them.
pub(crate) fn directory() -> Result<PathBuf> {
    let program = std::env::current_exe()?;
    let beside = program.parent().context("test program without a directory")?;
    let above = beside.parent().filter(|_| beside.ends_with("deps"));
    let dir = above.unwrap_or(beside).join("guests");
    fs::create_dir_all(&dir)?;
    Ok(dir)
}

fn build(source: &Path, compile: impl FnOnce(&Path, &Path) -> Result<()>) -> Result<PathBuf> {
    let mut hasher = DefaultHasher::new();
    fs::read(source).with_context(|| source.display().to_string())?.hash(&mut hasher);
    // It includes some of the headers beside it, and of those above them.
    for dir in source.ancestors().skip(1).take(2) {
        let mut headers: Vec<_> = fs::read_dir(dir)?.map(|e| Ok(e?.path())).collect::<Result<_>>()?;
        headers.sort();
        for header in headers.iter().filter(|p| p.extension().is_some_and(|e| e == "h")) {
            fs::read(header)?.hash(&mut hasher);
        }
    }
    let stem = source.file_stem().context("guest without a name")?.to_string_lossy();
    let dir = directory()?;
    let compiled = dir.join(format!("{stem}-{:016x}.wasm", hasher.finish()));
    if !compiled.exists() {
        let half = tempfile::Builder::new().prefix("half").tempdir_in(&dir)?;
        let output = half.path().join("out.wasm");
        compile(source, &output).with_context(|| format!("compile {}", source.display()))?;
        fs::rename(&output, &compiled)?;
    }
    Ok(compiled)
}
