//! How engines read an error: where they look for it, and what they conclude from its words.

use anyhow::{Context, Result, ensure};
use coracle_integration::Finished;
use serde_json::Value;

/// podman's `readConmonPipeData`: the whole log must be one JSON object.
pub fn podman_log(log: &str) -> Result<String> {
    let entry: Value = serde_json::from_str(log).with_context(|| format!("not one JSON object: {log:?}"))?;
    message(&entry)
}

/// containerd's `getLastRuntimeError`: the last of many, if every one has a time that Go can read.
pub fn containerd_log(log: &str) -> Result<String> {
    let mut last = None;
    for entry in serde_json::Deserializer::from_str(log).into_iter::<Value>() {
        let entry = entry?;
        let time = entry["time"].as_str().context("time")?;
        ensure!(is_rfc3339(time), "not RFC 3339: {time}");
        if entry["level"] == "error" {
            last = Some(message(&entry)?);
        }
    }
    last.with_context(|| format!("no error in {log:?}"))
}

fn message(entry: &Value) -> Result<String> {
    ensure!(entry["level"] == "error", "{entry}");
    Ok(entry["msg"].as_str().context("msg")?.to_owned())
}

/// What Go's `time.RFC3339` parses.
fn is_rfc3339(time: &str) -> bool {
    let shape: String = time.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    let Some(rest) = shape.strip_prefix("0000-00-00T00:00:00") else { return false };
    let zone = rest.strip_prefix('.').map_or(rest, |fraction| fraction.trim_start_matches('0'));
    ["Z", "+00:00", "-00:00"].contains(&zone)
}

/// The message in a line of stderr without a log: what conmon, buildah and CRI-O pass on is the line itself, and people
/// read the message in it.
pub fn stderr_message(done: &Finished) -> Result<String> {
    let line = done.stderr.trim_end();
    ensure!(line.lines().count() == 1, "one line, not {line:?}");
    let (time, rest) = line.strip_prefix("time=\"").and_then(|l| l.split_once('"')).context("time")?;
    ensure!(is_rfc3339(time), "not RFC 3339: {time}");
    let quoted = rest.strip_prefix(" level=error msg=").with_context(|| line.to_owned())?;
    // Its quotes are those of a JSON string as long as there is nothing but text in it.
    let quoted = if quoted.starts_with('"') { quoted.to_owned() } else { format!("\"{quoted}\"") };
    Ok(serde_json::from_str(&quoted)?)
}

/// podman's `getOCIRuntimeError`: the exit code of `podman run` and `podman exec`.
pub fn podman(message: &str) -> i32 {
    let lower = message.to_lowercase();
    let any = |words: &[&str]| words.iter().any(|word| lower.contains(word));
    if any(&["permission denied", "operation not permitted"]) {
        126
    } else if any(&["executable file not found in", "no such file or directory"]) {
        127
    } else {
        126
    }
}

/// podman 5's `ExitCode`, of whatever reached it.
pub fn podman5(message: &str) -> i32 {
    let any = |words: &[&str]| words.iter().any(|word| message.contains(word));
    if any(&["not found", "no such file", "executable path is empty"]) { 127 } else { 126 }
}

/// podman 4.3 after a failed `state`: the container is gone.
pub fn podman_gone(stderr: &str) -> bool {
    stderr.contains("does not exist") || stderr.contains("No such file")
}

/// dockerd's `translateContainerdStartErr`: the exit code that the container gets, if any.
pub fn dockerd(message: &str, program: &str) -> Option<i32> {
    let lower = message.to_lowercase();
    let any = |words: &[&str]| words.iter().any(|word| lower.contains(word));
    if any(&["not a directory"]) {
        Some(127)
    } else if any(&["permission denied"]) {
        Some(126)
    } else if any(&["executable file not found", "no such file or directory"]) && any(&[program]) {
        Some(127)
    } else {
        None
    }
}

/// The docker client's `runStartContainerErr`: its exit code. Case-sensitive.
pub fn docker_client(message: &str) -> i32 {
    let any = |words: &[&str]| words.iter().any(|word| message.contains(word));
    if any(&[
        "executable file not found",
        "no such file or directory",
        "system cannot find the file specified",
    ]) {
        127
    } else if any(&["permission denied"]) {
        126
    } else {
        125
    }
}

/// What a failed `kill` means.
#[derive(Debug, PartialEq, Eq)]
pub enum Gone {
    /// The process has ended: a stop that comes too late is a success.
    Process,
    /// There is no such container.
    Container,
    /// Something else: an error that the user sees.
    No,
}

/// containerd's `checkKillError`, on standard output and error together.
pub fn containerd_kill(output: &str) -> Gone {
    let ended = ["os: process already finished", "container not running"];
    if ended.iter().any(|word| output.contains(word)) || output.to_lowercase().contains("no such process") {
        Gone::Process
    } else if output.contains("does not exist") {
        Gone::Container
    } else {
        Gone::No
    }
}

/// CRI-O's reading of a failed `kill`.
pub fn crio_kill(stderr: &str) -> Gone {
    let ended = ["no such process", "container not running", "invalid process"];
    if ended.iter().any(|word| stderr.contains(word)) { Gone::Process } else { Gone::No }
}

/// containerd's `delete`: an error to be ignored.
pub fn containerd_delete_ignores(output: &str) -> bool {
    output.contains("does not exist")
}
