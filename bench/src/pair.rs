//! The same program twice, as a module and natively, each in a container of its own.

use anyhow::{Context, Result};
use coracle_integration::{Container, Host, native_package, package};
use serde_json::json;

use crate::report::Report;
use crate::sample::{Contestant, take_turns};

/// A package of the guests' workspace with these arguments: first the module, then the native program.
pub fn pair<'h>(host: &'h Host, name: &str, arguments: &[&str]) -> Result<[Container<'h>; 2]> {
    let make = |path: &std::path::Path, name: &str| {
        let mut container = host.empty_container(&[&[&*format!("/{name}")], arguments].concat())?;
        container.install(path, name)?;
        container.without_namespace("network");
        container.config["process"]["rlimits"] =
            json!([{"type": "RLIMIT_NOFILE", "soft": 4096, "hard": 4096}]);
        anyhow::Ok(container)
    };
    Ok([make(&package(name)?, "program.wasm")?, make(&native_package(name)?, "program")?])
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

/// Measures all cases, so many rounds each.
///
/// # Errors
/// A container fails.
pub fn measure(host: &Host, title: &str, rounds: usize, cases: &[Case]) -> Result<Report> {
    let measure = |case: &Case| {
        let containers = pair(host, "work", case.arguments)?;
        let [module, native] = &containers;
        let once = |container| Ok((case.run)(container)?.into());
        let contestants =
            vec![Contestant::new("module", || once(module)), Contestant::new("native", || once(native))];
        take_turns(case.what, case.unit, rounds, contestants)
    };
    let cases = cases.iter().map(measure).collect::<Result<_>>()?;
    Ok(Report { title: title.into(), cases, notes: Vec::new() })
}
