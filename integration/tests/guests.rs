//! Every program in `integration/guests` runs in a container of its own, but for those in `c/hostile`, which are for
//! `integration/security`.
//!
//! A guest checks itself and exits with 0. One that must end otherwise says so in its first comment:
//! `expect: exit N`, then perhaps `stdout` or `stderr`, each with texts in backquotes that must appear there; or
//! `expect: runs until a signal ends it`. Other expectations are left to the tests that know what they mean.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use coracle_integration::{Finished, Host, Run, c, repository, rust, wat};

fn all(language: &str, compile: fn(&str) -> Result<PathBuf>) -> Result<()> {
    let host = Host::new()?;
    let mut failures = Vec::new();
    let mut entries: Vec<_> = fs::read_dir(repository().join("integration/guests").join(language))?
        .map(|e| Ok(e?.path()))
        .collect::<Result<_>>()?;
    entries.sort();
    for source in entries.iter().filter(|p| p.is_file() && p.extension().is_some_and(|e| e != "h")) {
        if let Err(error) = one(&host, source, compile) {
            failures.push(format!("{}: {error:#}", source.display()));
        }
    }
    ensure!(failures.is_empty(), "{}", failures.join("\n"));
    host.is_clean()
}

fn one(host: &Host, source: &Path, compile: fn(&str) -> Result<PathBuf>) -> Result<()> {
    let text = fs::read_to_string(source)?;
    let expected = text.lines().take(3).find_map(|l| l.split_once("expect: ")).map_or("exit 0", |(_, e)| e);
    let module = compile(source.file_stem().and_then(|s| s.to_str()).context("name")?)?;
    let mut container = host.container(&["/main.wasm"])?;
    container.install(&module, "main.wasm")?;
    if expected.starts_with("runs until a signal") {
        container.create()?.start()?;
        std::thread::sleep(std::time::Duration::from_millis(100));
        ensure!(container.status()? == "running", "it has ended: {:?}", container.stderr());
        container.kill("TERM")?;
        let code = container.wait_exit()?;
        ensure!(code == 143, "exit code {code} after SIGTERM");
    } else if let Some(rest) = expected.strip_prefix("exit ") {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let done = container.run_command(&[])?.finish_with(b"")?.exits(rest[..digits].parse()?)?;
        check_streams(&done, &rest[digits..])?;
    }
    Ok(())
}

/// Looks for each text in backquotes on the stream that was named last before it.
fn check_streams(done: &Finished, expected: &str) -> Result<()> {
    let mut stream = &done.stdout;
    for (n, part) in expected.split('`').enumerate() {
        if n % 2 == 1 {
            ensure!(stream.contains(part), "no {part:?}: {done}");
        } else if part.contains("stderr") {
            stream = &done.stderr;
        }
    }
    Ok(())
}

#[test]
fn in_c() -> Result<()> {
    all("c", c)
}

#[test]
fn in_rust() -> Result<()> {
    all("rust", rust)
}

#[test]
fn in_text_format() -> Result<()> {
    all("wat", wat)
}
