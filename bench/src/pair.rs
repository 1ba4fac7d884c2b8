//! The same program twice, as a module and natively, each in a container of its own.

use anyhow::{Context, Result};
use coracle_integration::{Container, Host, native_package, package};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

/// A package of the guests' workspace with these arguments: first the module, then the native program.
pub fn pair<'h>(host: &'h Host, name: &str, arguments: &[&str]) -> Result<[Container<'h>; 2]> {
    let make = |program| {
        let mut container = host.empty_container(&[&["/program"], arguments].concat())?;
        container.install(program, "program")?;
        container.without_namespace("network");
        container.config["process"]["rlimits"] =
            json!([{"type": "RLIMIT_NOFILE", "soft": 4096, "hard": 4096}]);
        anyhow::Ok(container)
    };
    Ok([make(&package(name)?)?, make(&native_package(name)?)?])
}

/// The rate that a program of the package `work` has found for itself, and said on standard error.
pub fn rate(stderr: &str) -> Result<f64> {
    let rate = stderr.split_whitespace().next().and_then(|number| number.parse().ok());
    rate.with_context(|| format!("no rate: {stderr:?}"))
}

/// What is measured of both.
pub struct Case {
    /// Its name.
    pub what: &'static str,
    /// Arguments for the package `work`.
    pub arguments: &'static [&'static str],
    /// Of the rate.
    pub unit: &'static str,
    /// Runs one of the two, for its rate.
    pub run: fn(&Container) -> Result<f64>,
}

/// Measures all cases, so many rounds each, and prints a table.
pub fn table(host: &Host, title: &str, rounds: usize, cases: &[Case]) -> Result<()> {
    let bar = progress(cases.len() * rounds);
    let mut lines = vec![format!("{title}, {rounds} rounds in turn:")];
    lines.push(format!("  {:24} {:>10} {:>10} {:8} ratio", "", "module", "native", ""));
    for case in cases {
        bar.set_message(case.what);
        let containers = pair(host, "work", case.arguments)?;
        let mut rates = [Vec::new(), Vec::new()];
        for _ in 0..rounds {
            for (container, rates) in containers.iter().zip(&mut rates) {
                rates.push((case.run)(container).context(case.what)?);
            }
            bar.inc(1);
        }
        let [module, native] = rates.each_mut().map(|rates| median(rates));
        let (what, unit, ratio) = (case.what, case.unit, module / native);
        lines.push(format!("  {what:24} {module:10.0} {native:10.0} {unit:8} {ratio:5.2}"));
    }
    bar.finish_and_clear();
    println!("{}", lines.join("\n"));
    Ok(())
}

/// How far the measurements of one part are.
pub fn progress(steps: usize) -> ProgressBar {
    let bar = ProgressBar::new(steps as u64);
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} {msg}") {
        bar.set_style(style);
    }
    bar
}

/// The one in the middle.
pub fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
