//! System calls and forks of each command, beside what crun and runc make of it and beside a recorded budget.
//!
//! They hardly depend on the machine, and so tell what times cannot: that a change has made a command dearer. What does
//! count is the number of cgroup hierarchies; a budget is recorded with what each one more costs.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use coracle_integration::{Host, Run, repository, skip, wat};
use serde::{Deserialize, Serialize};

use crate::report::Report;
use crate::runtime::{Runtime, Subject};
use crate::sample::{Case, Goal, Series, progress};
use crate::strace::{Cost, Traced};

/// The fewest of so many are taken: what one more signal or a longer file has caused is not the command's. The others'
/// are only for comparison.
const ROUNDS: usize = 3;
/// One call in so many may be more than the budget says, or so many: a file that is longer takes one more read.
const HEADROOM: usize = 50;
const LEAST_HEADROOM: usize = 2;
const PROGRAM: [&str; 1] = ["/bin/true"];
const IDLE: [&str; 2] = ["/bin/sleep", "1000"];

/// What the file has.
#[derive(Debug, Serialize, Deserialize)]
struct Budget {
    /// How many cgroup hierarchies the host had, v1 and v2.
    hierarchies: usize,
    commands: BTreeMap<String, Line>,
}

/// One command.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Line {
    #[serde(flatten)]
    cost: Cost,
    /// Of these calls, for each hierarchy.
    per_hierarchy: f64,
}

impl Line {
    /// The most that the command may make on a host with so many more hierarchies.
    fn most(&self, more: isize) -> usize {
        #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let calls = (self.cost.calls as f64 + self.per_hierarchy * more as f64).max(0.0).round() as usize;
        calls + (calls / HEADROOM).max(LEAST_HEADROOM)
    }

    /// What is too much of a cost.
    fn complaint(&self, cost: Cost, more: isize) -> Option<String> {
        let most = self.most(more);
        if cost.calls > most {
            return Some(format!("{} system calls, at most {most} are allowed", cost.calls));
        }
        (cost.forks > self.cost.forks)
            .then(|| format!("{} forks, at most {} are allowed", cost.forks, self.cost.forks))
    }
}

type Measure = fn(&Host, &Runtime) -> Result<Cost>;

const COMMANDS: [(&str, Measure); 9] = [
    ("run", run),
    ("create", create),
    ("start", start),
    ("exec", exec),
    ("state", state),
    ("kill", kill),
    ("delete", delete),
    ("list", list),
    ("run of a module", module),
];

/// What a command costs each runtime that has it.
type Found = Vec<(&'static str, Vec<(Runtime, Cost)>)>;

/// A section of the document.
///
/// # Errors
/// A command of Coracle fails.
pub fn report(host: &Host, runtimes: &[Runtime]) -> Result<Report> {
    let case = |(what, costs): (&str, Vec<(Runtime, Cost)>)| {
        let series = costs.iter().map(|(runtime, cost)| {
            let goal = (what == "run" && runtime.name == "coracle").then_some(Goal::Most(450.0));
            #[allow(clippy::cast_precision_loss)]
            Series::once(runtime.name, cost.calls as f64, goal)
        });
        Case { what: what.to_owned(), unit: "calls", series: series.collect() }
    };
    let cases = find(host, runtimes)?.into_iter().map(case).collect();
    Ok(Report { title: "System calls".into(), cases, notes: Vec::new() })
}

/// Prints all costs, and fails when one is past its budget; or records them.
///
/// # Errors
/// A command of Coracle fails.
pub fn measure(update: bool) -> Result<()> {
    let host = Host::new()?;
    let found = find(&host, &Runtime::all()?)?;
    host.is_clean()?;
    println!("{:18}{:>14}{:>14}{:>14}", "", "calls", "forks", "others' calls");
    let mut own = BTreeMap::new();
    for (what, costs) in &found {
        let others: Vec<_> =
            costs[1..].iter().map(|(peer, cost)| format!("{} {}", peer.name, cost.calls)).collect();
        let cost = costs[0].1;
        println!("{what:18}{:14}{:14}   {}", cost.calls, cost.forks, others.join(", "));
        own.insert((*what).to_owned(), cost);
    }
    if update { record(&host, &found[0].1[0].0, &own) } else { check(&own) }
}

fn find(host: &Host, runtimes: &[Runtime]) -> Result<Found> {
    let bar = progress(COMMANDS.len());
    let mut found = Vec::new();
    for (what, measure) in COMMANDS {
        bar.set_message(what);
        let mut costs = Vec::new();
        for runtime in runtimes {
            match least(host, runtime, measure) {
                Ok(cost) => costs.push((runtime.clone(), cost)),
                Err(error) if runtime.name == "coracle" => return Err(error.context(what)),
                // The others run no module.
                Err(_) => {}
            }
        }
        found.push((what, costs));
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(found)
}

fn least(host: &Host, runtime: &Runtime, measure: Measure) -> Result<Cost> {
    let mut costs = Vec::new();
    let rounds = if runtime.name == "coracle" { ROUNDS } else { 1 };
    for _ in 0..rounds {
        costs.push(measure(host, runtime)?);
    }
    costs.into_iter().min_by_key(|cost| cost.calls).context("no round")
}

fn file() -> PathBuf {
    repository().join("bench/syscalls.toml")
}

fn check(found: &BTreeMap<String, Cost>) -> Result<()> {
    let budget: Budget = toml::from_str(&fs::read_to_string(file())?)?;
    let hierarchies = hierarchies()?;
    if (hierarchies == 1) != (budget.hierarchies == 1) {
        skip(
            "syscalls",
            "this host has cgroup v1 where the recorded one has v2 alone, or the other way round",
        );
        return Ok(());
    }
    let more = isize::try_from(hierarchies)? - isize::try_from(budget.hierarchies)?;
    let complaints: Vec<_> = found
        .iter()
        .filter_map(|(what, cost)| {
            let complaint = match budget.commands.get(what) {
                Some(line) => line.complaint(*cost, more)?,
                None => "no budget is recorded".into(),
            };
            Some(format!("{what}: {complaint}"))
        })
        .collect();
    if complaints.is_empty() {
        return Ok(());
    }
    bail!(
        "past the budget of bench/syscalls.toml (`make bench-syscalls UPDATE=1` records it):\n{}",
        complaints.join("\n")
    )
}

/// Records the costs, each with what a hierarchy adds.
fn record(host: &Host, coracle: &Runtime, found: &BTreeMap<String, Cost>) -> Result<()> {
    let hierarchies = hierarchies()?;
    let gone = hide_hierarchies()?;
    let mut commands = BTreeMap::new();
    for (what, measure) in COMMANDS {
        let cost = *found.get(what).context(what)?;
        let mut per_hierarchy = 0.0;
        if gone > 0 {
            let without = least(host, coracle, measure)?;
            #[allow(clippy::cast_precision_loss)]
            let added = cost.calls.saturating_sub(without.calls) as f64 / gone as f64;
            per_hierarchy = (added * 10.0).round() / 10.0;
        }
        commands.insert(what.to_owned(), Line { cost, per_hierarchy });
    }
    let text = toml::to_string(&Budget { hierarchies, commands })?;
    fs::write(file(), format!("{HEADER}\n{text}"))?;
    Ok(())
}

const HEADER: &str = "\
# System calls and forks of each command, as `make bench-syscalls UPDATE=1` has found them, on a host with so many cgroup
# hierarchies; and what each hierarchy adds. `make test` fails when a command needs 2 % more than that, and two calls at least.
";

/// Unmounts, for this process and those it makes, the hierarchies that a runtime does nothing special in.
fn hide_hierarchies() -> Result<usize> {
    const PLAIN: [&str; 8] =
        ["blkio", "cpuacct", "hugetlb", "misc", "net_cls", "net_prio", "perf_event", "rdma"];
    let mounts = Host::cgroup_dirs("/");
    let plain: Vec<_> = mounts
        .iter()
        .filter(|m| m.file_name().is_some_and(|name| PLAIN.iter().any(|p| name == *p)))
        .collect();
    // SAFETY: descriptors stay shared; a mount namespace of its own has no part in memory safety.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS) }?;
    rustix::mount::mount_change(
        "/",
        rustix::mount::MountPropagationFlags::PRIVATE | rustix::mount::MountPropagationFlags::REC,
    )?;
    for mount in &plain {
        rustix::mount::unmount(mount.as_path(), rustix::mount::UnmountFlags::DETACH)
            .with_context(|| mount.display().to_string())?;
    }
    Ok(plain.len())
}

fn hierarchies() -> Result<usize> {
    let count = Host::cgroup_dirs("/").len();
    anyhow::ensure!(count > 0, "no cgroups are mounted");
    Ok(count)
}

fn traced(host: &Host, command: std::process::Command) -> Result<Cost> {
    Traced { command, program: Some(&PROGRAM), attached: None, leaves: false }.cost(host.path())
}

fn run(host: &Host, runtime: &Runtime) -> Result<Cost> {
    let subject = runtime.container(host, &PROGRAM)?;
    subject.container.save()?;
    traced(host, subject.run())
}

fn create(host: &Host, runtime: &Runtime) -> Result<Cost> {
    let subject = runtime.container(host, &PROGRAM)?;
    subject.container.save()?;
    let command = subject.create();
    Traced { command, program: Some(&PROGRAM), attached: None, leaves: true }.cost(host.path())
}

/// With what the waiting container does until it is its program.
fn start(host: &Host, runtime: &Runtime) -> Result<Cost> {
    let subject = runtime.container(host, &PROGRAM)?;
    subject.container.save()?;
    subject.create().finish()?.ok()?;
    let attached = Some(subject.pid()?);
    let command = subject.verb("start", &[]);
    Traced { command, program: Some(&PROGRAM), attached, leaves: false }.cost(host.path())
}

fn running<'h>(host: &'h Host, runtime: &Runtime) -> Result<Subject<'h>> {
    let subject = runtime.container(host, &IDLE)?;
    subject.start()?;
    Ok(subject)
}

fn exec(host: &Host, runtime: &Runtime) -> Result<Cost> {
    let subject = running(host, runtime)?;
    let mut command = subject.verb("exec", &[]);
    command.args(PROGRAM);
    traced(host, command)
}

fn state(host: &Host, runtime: &Runtime) -> Result<Cost> {
    traced(host, running(host, runtime)?.verb("state", &[]))
}

fn kill(host: &Host, runtime: &Runtime) -> Result<Cost> {
    let subject = running(host, runtime)?;
    let mut command = subject.verb("kill", &[]);
    // The first process of a pid namespace does not get what it has no handler for.
    command.arg("USR1");
    traced(host, command)
}

fn delete(host: &Host, runtime: &Runtime) -> Result<Cost> {
    let subject = runtime.container(host, &PROGRAM)?;
    subject.start()?;
    subject.wait()?;
    traced(host, subject.verb("delete", &[]))
}

fn list(host: &Host, runtime: &Runtime) -> Result<Cost> {
    let subject = running(host, runtime)?;
    traced(host, subject.list())
}

/// The runner of modules is ours from its beginning to its end.
fn module(host: &Host, runtime: &Runtime) -> Result<Cost> {
    let subject = runtime.container(host, &["/hello.wasm"])?;
    subject.container.install(&wat("hello")?, "hello.wasm")?;
    subject.container.save()?;
    subject.run().finish()?.ok()?.prints("hello from a module")?;
    let command = subject.run();
    Traced { command, program: None, attached: None, leaves: false }.cost(host.path())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: Line = Line { cost: Cost { calls: 400, forks: 1 }, per_hierarchy: 10.0 };

    #[test]
    fn a_command_has_some_headroom() {
        assert_eq!(LINE.complaint(Cost { calls: 408, forks: 1 }, 0), None);
        assert!(LINE.complaint(Cost { calls: 409, forks: 1 }, 0).is_some());
        let small = Line { cost: Cost { calls: 30, forks: 0 }, per_hierarchy: 0.0 };
        assert_eq!(small.most(0), 32);
    }

    #[test]
    fn one_more_fork_is_too_many() {
        assert!(LINE.complaint(Cost { calls: 300, forks: 2 }, 0).is_some());
    }

    #[test]
    fn hierarchies_move_the_budget_in_both_directions() {
        assert_eq!(LINE.most(2), 428);
        assert_eq!(LINE.most(-2), 387);
    }

    #[test]
    fn the_recorded_budget_has_every_command() {
        let budget: Budget = toml::from_str(&fs::read_to_string(file()).unwrap()).unwrap();
        assert!(COMMANDS.iter().all(|(what, _)| budget.commands.contains_key(*what)), "{budget:?}");
    }
}
