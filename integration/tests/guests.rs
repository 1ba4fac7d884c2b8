//! Every program in `integration/guests` runs in a container of its own.
//!
//! What it should do stands in the comments it begins with (`//` or `;;`): `exit: N` (default 0), `stdout: TEXT` and
//! `stderr: TEXT` that must appear, `args: WORDS`, `stdin: TEXT`. `run: REASON` leaves it to another test.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use coracle_integration::{Host, c, repository, rust, wat};
use serde_json::json;

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
    let directive = |name: &str| {
        let mut comments = text.lines().map_while(|l| l.strip_prefix("//").or_else(|| l.strip_prefix(";;")));
        comments.find_map(|l| l.trim().strip_prefix(name)?.strip_prefix(':')).map(str::trim)
    };
    let module = compile(source.file_stem().and_then(|s| s.to_str()).context("name")?)?;
    if directive("run").is_some() {
        return Ok(());
    }
    let mut container = host.container(&["/main.wasm"])?;
    container.install(&module, "main.wasm")?;
    if let Some(args) = directive("args") {
        let args: Vec<_> = std::iter::once("/main.wasm").chain(args.split_whitespace()).collect();
        container.config["process"]["args"] = json!(args);
    }
    let stdin = directive("stdin").unwrap_or_default();
    let done = coracle_integration::Run::finish_with(&mut container.run_command(&[])?, stdin.as_bytes())?;
    let done = done.exits(directive("exit").map_or(Ok(0), str::parse)?)?;
    let expected = |stream: &str, name| directive(name).is_none_or(|text| stream.contains(text));
    ensure!(expected(&done.stdout, "stdout") && expected(&done.stderr, "stderr"), "other output: {done}");
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
