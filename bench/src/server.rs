//! The HTTP server of the guests' workspace under load, as a module and natively.

use std::cell::RefCell;
use std::net::SocketAddr;

use anyhow::{Context, Result};
use coracle_integration::{Container, Host};

use crate::pair::pair;
use crate::report::Report;
use crate::runtime::Runtime;
use crate::sample::{Case, Contestant, Sample, Series, take_turns};
use crate::wrk::load;

const ROUNDS: usize = 5;
const SECONDS: u32 = 2;
const CONNECTIONS: [usize; 3] = [1, 32, 256];

/// Measures all.
pub fn measure(host: &Host, _: &[Runtime]) -> Result<Report> {
    let mut containers = pair(host, "server", &["127.0.0.1:0"])?;
    let addresses: Vec<_> = containers.iter_mut().map(start).collect::<Result<_>>()?;
    let (mut rates, mut latencies) = (Vec::new(), Vec::new());
    for connections in CONNECTIONS {
        let slow = RefCell::new([Vec::new(), Vec::new()]);
        let once = |index: usize| {
            let load = load(addresses[index], connections, SECONDS)?;
            slow.borrow_mut()[index].push(Sample::from(load.p99));
            Ok(load.rate.into())
        };
        let contestants = vec![Contestant::new("module", || once(0)), Contestant::new("native", || once(1))];
        let plural = if connections == 1 { "" } else { "s" };
        rates.push(take_turns(
            &format!("{connections} connection{plural}"),
            "requests/s",
            ROUNDS,
            contestants,
        )?);
        let series = ["module", "native"].into_iter().zip(slow.into_inner()).map(|(who, samples)| {
            // Not the round that does not count.
            Series { who: who.into(), goal: None, samples: samples[1..].to_vec() }
        });
        let what = format!("{connections} connection{plural}, 99 of 100 within");
        latencies.push(Case { what, unit: "ms", series: series.collect() });
    }
    rates.append(&mut latencies);
    Ok(Report { title: "HTTP server under load".into(), cases: rates, notes: Vec::new() })
}

fn start(container: &mut Container) -> Result<SocketAddr> {
    container.create()?.start()?;
    container.expect("\n")?;
    let said = container.stdout()?;
    Ok(said.trim().strip_prefix("listening on ").context(said.clone())?.parse()?)
}
