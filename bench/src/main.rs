//! Measurements: `make bench`, or `make bench PARTS="start server"` for some of them; and `make bench-syscalls`.
//!
//! Whatever is compared takes turns, so that a change of the machine's load meets all of it; medians are shown.

use anyhow::{Result, bail};
use coracle_integration::Host;

mod bulk;
mod pair;
mod processor;
mod runtime;
mod server;
mod start;
mod strace;
mod syscalls;
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
    if wanted.first().is_some_and(|first| first == "syscalls") {
        return syscalls::measure(wanted.get(1).is_some_and(|flag| flag == "--update"));
    }
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
