//! Measurements: `make bench`, or `make bench PARTS="start server"` for some of them.
//!
//! Whatever is compared takes turns, so that a change of the machine's load meets all of it; medians are shown.

use anyhow::{Result, bail};
use coracle_integration::Host;

mod bulk;
mod pair;
mod processor;
mod server;
mod start;
mod wrk;

type Part = (&'static str, fn(&Host) -> Result<()>);

const PARTS: [Part; 4] = [
    ("start", start::measure),
    ("server", server::measure),
    ("bulk", bulk::measure),
    ("cpu", processor::measure),
];

fn main() -> Result<()> {
    let wanted: Vec<_> = std::env::args().skip(1).collect();
    if let Some(unknown) = wanted.iter().find(|name| !PARTS.iter().any(|(part, _)| part == name)) {
        bail!("unknown part {unknown} (known: {})", PARTS.map(|(part, _)| part).join(" "));
    }
    let host = Host::new()?;
    for (part, measure) in PARTS {
        if wanted.is_empty() || wanted.iter().any(|name| name == part) {
            measure(&host)?;
        }
    }
    Ok(())
}
