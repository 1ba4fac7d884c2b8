//! Work for the processor alone, as a module and natively.

use anyhow::Result;
use coracle_integration::Host;

use crate::pair::{head, pair, print, progress, rate};

const ROUNDS: usize = 5;

const KERNELS: [(&str, &[&str], &str); 3] = [
    ("SHA-256", &["sha256", "200"], "MiB/s"),
    ("product of matrices", &["matrix", "512"], "MFlop/s"),
    ("sorting and counting", &["sort", "2000000"], "k/s"),
];

/// Measures and prints.
pub fn measure(host: &Host) -> Result<()> {
    let bar = progress(KERNELS.len() * ROUNDS);
    let mut results = Vec::new();
    for (what, arguments, unit) in KERNELS {
        bar.set_message(what);
        let containers = pair(host, "work", arguments)?;
        let mut rates = [Vec::new(), Vec::new()];
        for _ in 0..ROUNDS {
            for (container, rates) in containers.iter().zip(&mut rates) {
                rates.push(rate(&container.run()?.ok()?.stderr)?);
            }
            bar.inc(1);
        }
        results.push((what, unit, rates));
    }
    bar.finish_and_clear();
    head(&format!("processor, {ROUNDS} rounds in turn"));
    for (what, unit, rates) in &mut results {
        print(what, unit, rates);
    }
    Ok(())
}
