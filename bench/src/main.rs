//! Measurements: `make bench`, or `make bench PARTS="start memory"` for some of them; and `make bench-syscalls`.
//!
//! Whatever is compared takes turns, so that a change of the machine's load meets all of it. What comes of it is written
//! to docs/benchmarks.md.

use std::time::Instant;

use anyhow::{Context, Result, bail};
use coracle_integration::Host;

mod bulk;
mod density;
mod hugetlb;
mod memory;
mod module;
mod native;
mod pair;
mod plot;
mod podman;
mod processor;
mod programs;
mod report;
mod runtime;
mod sample;
mod server;
mod strace;
mod syscalls;
mod wrk;

use hugetlb::Hugetlb;
use report::{Report, circumstances};
use runtime::Runtime;

type Part = (&'static str, fn(&Host, &[Runtime]) -> Result<Report>);

const PARTS: [Part; 10] = [
    ("start", native::start),
    ("commands", native::commands),
    ("calls", syscalls::report),
    ("modules", module::measure),
    ("memory", memory::measure),
    ("density", density::measure),
    ("podman", podman::measure),
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
    let _hugetlb = Hugetlb::move_to_v1();
    let runtimes = Runtime::all()?;
    for (part, measure) in PARTS {
        if wanted.is_empty() || wanted.iter().any(|name| name == part) {
            let start = Instant::now();
            let circumstances = circumstances(&runtimes)?;
            let host = Host::new()?;
            let report = measure(&host, &runtimes).context(part)?;
            host.is_clean()?;
            println!("{} ({} s)\n\n{}", report.title, start.elapsed().as_secs(), report.table());
            report.write(part, &circumstances)?;
        }
    }
    Ok(())
}
