//! Attacks on the runtime, each by the means that an attacker has.
//!
//! A module that is named after a CVE does what its exploit does, and says in its head what the hole was, what closes
//! it here, and what the test measures. [`canary`] is what lies outside of every container and must stay as it is.

mod cache;
mod canary;
mod compiler;
mod cve_2016_9962;
mod cve_2019_16884;
mod cve_2019_19921;
mod cve_2019_5736;
mod cve_2021_30465;
mod cve_2022_29162;
mod cve_2023_25809;
mod cve_2023_27561;
mod cve_2023_28642;
mod cve_2024_21626;
mod cve_2024_45310;
mod cve_2025_31133;
mod cve_2025_52565;
mod cve_2025_52881;
mod guests;
mod handler;
mod links;
mod swap;
mod swapped;

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use coracle_integration::Host;
use serde_json::{Value, json};

use canary::Canary;

/// A bind mount for config.json.
fn bind(source: &Path, destination: &str, options: &[&str]) -> Value {
    json!({"destination": destination, "type": "bind", "source": source, "options": options})
}

/// A directory that looks like procfs to who writes there by name.
fn fake_proc(host: &Host, name: &str) -> Result<Canary> {
    let path = host.path().join(name);
    for (file, content) in [
        ("self/attr/exec", ""),
        ("self/attr/apparmor/exec", ""),
        ("thread-self/attr/exec", ""),
        ("thread-self/attr/keycreate", ""),
        ("self/mountinfo", "1 1 0:1 / /proc rw - proc proc rw\n"),
        ("sys/net/ipv4/ip_default_ttl", "64\n"),
    ] {
        let file = path.join(file);
        fs::create_dir_all(file.parent().unwrap_or(&path))?;
        fs::write(file, content)?;
    }
    Canary::watch(&path)
}

/// The values of one line of /proc/PID/status.
fn status(pid: i32, name: &str) -> Result<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    Ok(line.context("no such line")?.split_whitespace().map(str::to_owned).collect())
}
