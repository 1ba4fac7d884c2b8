//! The HTTP server of the guests' workspace, as a module and natively.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use coracle_integration::{Container, Host};

use crate::pair::{median, pair, progress};
use crate::wrk::{Load, load};

const ROUNDS: usize = 5;
const SECONDS: u32 = 2;
const CONNECTIONS: [usize; 3] = [1, 32, 256];

/// Measures and prints.
pub fn measure(host: &Host) -> Result<()> {
    let mut containers = pair(host, "server", &["127.0.0.1:0"])?;
    let addresses: Vec<_> = containers.iter_mut().map(start).collect::<Result<_>>()?;
    let mut found = CONNECTIONS.map(|_| [Vec::new(), Vec::new()]);
    let bar = progress(ROUNDS * CONNECTIONS.len());
    for _ in 0..ROUNDS {
        for (connections, found) in CONNECTIONS.into_iter().zip(&mut found) {
            bar.set_message(format!("{connections} connections"));
            for (address, found) in addresses.iter().zip(found) {
                found.push(load(*address, connections, SECONDS)?);
            }
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    println!("HTTP server, {ROUNDS} rounds of {SECONDS} s in turn, requests/s (ms for half, for 99 of 100):");
    for (connections, [module, native]) in CONNECTIONS.into_iter().zip(&found) {
        let ratio = middle(module, |it| it.rate) / middle(native, |it| it.rate);
        println!("  {connections:3} connections   {}   native {}   {ratio:5.2}", line(module), line(native));
    }
    Ok(())
}

fn start(container: &mut Container) -> Result<SocketAddr> {
    container.create()?.start()?;
    container.expect("\n")?;
    let said = container.stdout()?;
    Ok(said.trim().strip_prefix("listening on ").context(said.clone())?.parse()?)
}

fn line(found: &[Load]) -> String {
    let (rate, half, most) =
        (middle(found, |it| it.rate), middle(found, |it| it.median), middle(found, |it| it.p99));
    format!("{rate:7.0} ({half:6.2} {most:6.2})")
}

fn middle(found: &[Load], field: impl Fn(&Load) -> f64) -> f64 {
    median(&mut found.iter().map(field).collect::<Vec<_>>())
}
