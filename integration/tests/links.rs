//! What the programs are made of: static executables, and no engine in the runtime.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use coracle_integration::{coracle, skip};

fn program(name: &str) -> Result<(PathBuf, Vec<u8>)> {
    let path = coracle().parent().context("directory")?.join(name);
    let bytes = fs::read(&path).context(path.display().to_string())?;
    Ok((path, bytes))
}

/// The types of an ELF file's program headers.
fn headers(elf: &[u8]) -> Result<Vec<u32>> {
    ensure!(elf.starts_with(b"\x7fELF\x02\x01"), "not a 64-bit little-endian ELF file");
    let word = |at: usize, n: usize| -> Result<usize> {
        let bytes = elf.get(at..at + n).context("short ELF file")?;
        Ok(bytes.iter().rev().fold(0, |all, byte| all << 8 | usize::from(*byte)))
    };
    let (start, size, count) = (word(0x20, 8)?, word(0x36, 2)?, word(0x38, 2)?);
    (0..count).map(|n| Ok(u32::try_from(word(start + n * size, 4)?)?)).collect()
}

fn contains(bytes: &[u8], text: &str) -> bool {
    String::from_utf8_lossy(bytes).contains(text)
}

#[test]
fn every_program_is_a_static_executable() -> Result<()> {
    const INTERPRETER: u32 = 3;
    const DYNAMIC: u32 = 2;
    for name in ["coracle", "coracle-wasmc", "coracle-wasi"] {
        let (path, elf) = program(name)?;
        let headers = headers(&elf)?;
        ensure!(!headers.contains(&INTERPRETER), "{} asks for a dynamic linker", path.display());
        ensure!(!headers.contains(&DYNAMIC), "{} has a dynamic section", path.display());
    }
    Ok(())
}

#[test]
fn the_runtime_links_no_engine() -> Result<()> {
    let (path, elf) = program("coracle")?;
    for text in ["cranelift", "wasmer_", "wasmer-", "/wasmparser-", "wasmtime_"] {
        ensure!(!contains(&elf, text), "{} contains {text:?}", path.display());
    }
    Ok(())
}

#[test]
fn the_runner_links_no_compiler() -> Result<()> {
    let (path, elf) = program("coracle-wasi")?;
    for text in ["cranelift-codegen", "regalloc2"] {
        ensure!(!contains(&elf, text), "{} contains {text:?}", path.display());
    }
    // The check itself must be able to find something.
    let (_, compiler) = program("coracle-wasmc")?;
    ensure!(contains(&compiler, "cranelift"), "the compiler is expected to contain cranelift");
    Ok(())
}

/// Every start reads these files; what grows has to be noticed.
#[test]
fn sizes() -> Result<()> {
    if coracle().to_string_lossy().contains("/debug/") {
        skip("sizes", "a debug build");
        return Ok(());
    }
    for (name, mebibytes) in [("coracle", 8), ("coracle-wasi", 4), ("coracle-wasmc", 20)] {
        let (path, elf) = program(name)?;
        ensure!(elf.len() < mebibytes << 20, "{} has {} bytes", path.display(), elf.len());
    }
    Ok(())
}
