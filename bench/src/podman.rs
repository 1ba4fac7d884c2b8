//! `podman run` from its beginning to its end.

use std::process::Stdio;

use anyhow::Result;
use coracle_integration::{Engine, Host};

use crate::report::Report;
use crate::runtime::Runtime;
use crate::sample::{Contestant, Goal, take_turns, timed};

const ROUNDS: usize = 20;

/// Measures all.
pub fn measure(_: &Host, runtimes: &[Runtime]) -> Result<Report> {
    let engine = Engine::new()?;
    let run = |runtime: &Runtime, arguments: &[&str]| {
        let mut command = engine.podman_by_default();
        command.arg("--runtime").arg(&runtime.program).args(["run", "--rm"]).args(engine.common());
        timed(command.args(arguments).stdout(Stdio::null()))
    };
    let against = |who: &str| (who == "crun").then_some(Goal::Ratio(1.0));
    let native = runtimes
        .iter()
        .map(|runtime| {
            Contestant::new(runtime.name, || run(runtime, &["native", "true"])).with(against(runtime.name))
        })
        .collect();
    let mut module = vec![Contestant::new("coracle, a module", || run(&runtimes[0], &["hello"]))];
    for peer in runtimes.iter().filter(|runtime| runtime.name == "crun") {
        module.push(Contestant::new("crun", || run(peer, &["native", "true"])).with(against(peer.name)));
    }
    let cases = vec![
        take_turns("podman run of true", "ms", ROUNDS, native)?,
        take_turns("podman run of a module", "ms", ROUNDS, module)?,
    ];
    engine.is_clean()?;
    Ok(Report { title: "podman run".into(), cases, notes: Vec::new() })
}
