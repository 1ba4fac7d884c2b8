//! The client wrk, and what it prints.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use coracle_integration::{Run, command};

/// What one run of wrk has found.
pub struct Load {
    /// Requests per second.
    pub rate: f64,
    /// What one request in a hundred takes longer than, in milliseconds.
    pub p99: f64,
}

/// Asks a server for `/` as fast as it answers, for some seconds.
pub fn load(address: SocketAddr, connections: usize, seconds: u32) -> Result<Load> {
    let done = command("wrk")
        .args(["--threads", "1", "--latency", "--connections", &connections.to_string()])
        .args(["--duration", &format!("{seconds}s"), &format!("http://{address}/")])
        .finish()?
        .ok()?;
    ensure!(!done.stdout.contains("Socket errors") && !done.stdout.contains("Non-2xx"), "{done}");
    let field = |name: &str| {
        let value = done.lines().find_map(|line| line.trim().strip_prefix(name));
        value.map(str::trim).with_context(|| format!("no {name} in {done}"))
    };
    Ok(Load { rate: field("Requests/sec:")?.parse()?, p99: milliseconds(field("99%")?)? })
}

fn milliseconds(value: &str) -> Result<f64> {
    for (unit, factor) in [("us", 1e-3), ("ms", 1.0), ("s", 1e3)] {
        if let Some(number) = value.strip_suffix(unit) {
            return Ok(number.parse::<f64>()? * factor);
        }
    }
    Err(anyhow::anyhow!("no time: {value}"))
}
