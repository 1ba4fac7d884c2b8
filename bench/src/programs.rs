//! Programs in C beside this crate, compiled anew each time.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use coracle_integration::{Run, command, repository};

/// A native program, static: it runs in an empty root file system.
///
/// # Errors
/// gcc is missing or finds an error.
pub fn native(name: &str) -> Result<PathBuf> {
    let flags = ["-static", "-O2", "-Wall", "-Wextra", "-Werror", "-Wno-format-truncation"];
    compile("gcc", &flags, name, name)
}

/// The same program as a module.
///
/// # Errors
/// clang or wasi-libc is missing, or it finds an error.
pub fn module(name: &str) -> Result<PathBuf> {
    let flags = ["--target=wasm32-wasi", "-Os", "-Wall", "-Wextra", "-Werror", "-Wl,--strip-all"];
    compile("clang", &flags, name, &format!("{name}.wasm"))
}

fn compile(compiler: &str, flags: &[&str], source: &str, output: &str) -> Result<PathBuf> {
    let program = std::env::current_exe()?;
    let directory = program.parent().unwrap_or(Path::new(".")).join("bench-programs");
    fs::create_dir_all(&directory)?;
    let output = directory.join(output);
    let source = repository().join("bench").join(source).with_extension("c");
    let mut command = command(compiler);
    command.args(flags).arg("-o").arg(&output).arg(&source);
    command.finish()?.ok().with_context(|| source.display().to_string())?;
    Ok(output)
}
