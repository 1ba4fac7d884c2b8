//! Work for the processor alone, as a module and natively.

use anyhow::Result;
use coracle_integration::{Container, Host};

use crate::pair::{self, Case, rate};
use crate::report::Report;
use crate::runtime::Runtime;

const ROUNDS: usize = 5;

const KERNELS: [Case; 3] = [
    Case { what: "SHA-256", arguments: &["sha256", "200"], unit: "MiB/s", run },
    Case { what: "product of matrices", arguments: &["matrix", "512"], unit: "MFlop/s", run },
    Case { what: "sorting and counting", arguments: &["sort", "2000000"], unit: "k/s", run },
];

/// Measures all.
pub fn measure(host: &Host, _: &[Runtime]) -> Result<Report> {
    pair::measure(host, "Work for the processor", ROUNDS, &KERNELS)
}

fn run(container: &Container) -> Result<f64> {
    rate(&container.run()?.ok()?.stderr)
}
