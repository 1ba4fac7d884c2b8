//! Many idle containers of one image with a module.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use coracle_integration::{Container, Host, Run, package, reap};

use crate::memory::{kib, rollup};
use crate::report::Report;
use crate::runtime::Runtime;
use crate::sample::{Case, Goal, Series, progress, quantile, timed};

/// Unless `DENSITY` says how many.
const COUNT: usize = 1000;
/// So many are started alone before.
const ALONE: usize = 20;
/// In MiB, for a thousand containers with the runtime's share.
const MEMORY: f64 = 1536.0;

/// Measures all.
pub fn measure(host: &Host, _: &[Runtime]) -> Result<Report> {
    let count = std::env::var("DENSITY").map_or(Ok(COUNT), |count| count.parse())?;
    let container = host.empty_container(&["/server.wasm", "127.0.0.1:0"])?;
    container.install(&package("server")?, "server.wasm")?;
    let mut crowd = Crowd { container, pid_file: host.path().join("crowd.pid"), members: Vec::new() };
    crowd.container.config["linux"]["cgroupsPath"] = serde_json::Value::Null;
    crowd.container.save()?;
    // The first one compiles.
    crowd.start()?;
    crowd.end()?;
    let mut alone = Vec::new();
    for _ in 0..ALONE {
        alone.push(crowd.start()?);
        crowd.end()?;
    }
    let before = available()?;
    let bar = progress(count);
    bar.set_message(format!("{count} servers"));
    let mut together = Vec::new();
    for _ in 0..count {
        together.push(crowd.start()?);
        bar.inc(1);
    }
    bar.finish_and_clear();
    let shares = crowd.members.iter().map(|(_, pid)| rollup(*pid, &["Pss:"]));
    let shares: f64 = shares.collect::<Result<Vec<_>>>()?.iter().sum();
    let needed = before - available()?;
    crowd.end()?;
    #[allow(clippy::cast_precision_loss)]
    let (alone, all, part) = (quantile(alone, 0.5), together.iter().sum::<f64>(), count as f64 / 1000.0);
    let cases = vec![
        Case {
            what: format!("starting {count} servers"),
            unit: "s",
            series: vec![
                Series::once("one after the other", all / 1e3, None),
                Series::once(
                    &format!("{count} × the median of one alone"),
                    alone * part,
                    Some(Goal::Ratio(1.0)),
                ),
            ],
        },
        Case {
            what: "their memory".into(),
            unit: "MiB",
            series: vec![
                Series::once("no longer available on the host", needed, Some(Goal::Most(MEMORY * part))),
                Series::once("sum of PSS", shares, None),
            ],
        },
    ];
    Ok(Report { title: format!("{count} idle HTTP servers, as modules"), cases, notes: Vec::new() })
}

/// Containers of one bundle; deleted on drop.
struct Crowd<'h> {
    container: Container<'h>,
    pid_file: PathBuf,
    /// By id and first process.
    members: Vec<(String, i32)>,
}

impl Crowd<'_> {
    /// One more, for the time of `run --detach`.
    fn start(&mut self) -> Result<f64> {
        let id = format!("{}-{}", self.container.id, self.members.len());
        let mut command = self.container.host.runtime();
        command.args(["run", "--detach", "--pid-file"]).arg(&self.pid_file).arg("--bundle");
        command.arg(self.container.bundle()).arg(&id).stdout(Stdio::null());
        let sample = timed(&mut command)?;
        self.members.push((id, pid(&self.pid_file)?));
        Ok(sample.value)
    }

    /// Ends all of them, of which each has to have been there until now.
    fn end(&mut self) -> Result<()> {
        for (id, pid) in &self.members {
            self.on("kill", id).arg("KILL").finish()?.ok()?;
            ensure!(reap(*pid)? == 137, "{id} had ended");
        }
        while let Some((id, _)) = self.members.pop() {
            self.on("delete", &id).finish()?.ok()?;
        }
        Ok(())
    }

    fn on(&self, verb: &str, id: &str) -> Command {
        let mut command = self.container.host.runtime();
        command.arg(verb).arg(id);
        command
    }
}

impl Drop for Crowd<'_> {
    fn drop(&mut self) {
        for (id, _) in &self.members {
            let _ = self.container.host.runtime().args(["delete", "--force", id]).finish();
        }
    }
}

fn pid(file: &Path) -> Result<i32> {
    Ok(fs::read_to_string(file).with_context(|| file.display().to_string())?.parse()?)
}

/// Memory that programs could have, in MiB.
fn available() -> Result<f64> {
    Ok(kib(&fs::read_to_string("/proc/meminfo")?, &["MemAvailable:"])? / 1024.0)
}
