//! What containers need of memory.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use coracle_integration::{Container, Host, Run, command};
use serde_json::json;

use crate::pair::pair;
use crate::programs;
use crate::report::Report;
use crate::runtime::{Runtime, Subject};
use crate::sample::{Case, Contestant, Goal, Series, progress, take_turns};

const ROUNDS: usize = 5;
/// Memory limits that are tried, in KiB.
const LIMITS: [u32; 17] =
    [24576, 16384, 12288, 8192, 6144, 4096, 3072, 2048, 1536, 1024, 768, 512, 384, 256, 192, 128, 64];
/// A limit starts a container if it does so every time.
const TRIES: usize = 3;
/// A container that is so short of memory that it does not end has not been started.
const PATIENCE: Duration = Duration::from_secs(5);

/// Measures all.
pub fn measure(host: &Host, runtimes: &[Runtime]) -> Result<Report> {
    let cases =
        vec![peak(host, runtimes)?, created(host, runtimes)?, idle_server(host)?, limits(host, runtimes)?];
    Ok(Report { title: "Memory".into(), cases, notes: Vec::new() })
}

/// Of the process that the engine waits for, or of one that this waits for itself.
fn peak(host: &Host, runtimes: &[Runtime]) -> Result<Case> {
    let program = programs::native("peak")?;
    let file = host.path().join("peak");
    let subjects = created_by(host, runtimes)?;
    let once = |subject: &Subject| {
        let create = subject.create();
        let mut peak = command(&program);
        peak.arg(&file).arg(create.get_program()).args(create.get_args());
        peak.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
        anyhow::ensure!(peak.status()?.success(), "{create:?} failed");
        let kib: f64 = fs::read_to_string(&file)?.parse()?;
        subject.remove()?;
        Ok((kib / 1024.0).into())
    };
    let contestants = subjects
        .iter()
        .map(|subject| Contestant::new(subject.runtime.name, || once(subject)).with(own(subject, 2.5)))
        .collect();
    take_turns("peak of create (RSS)", "MiB", ROUNDS, contestants)
}

/// Of the process that waits for `start`.
fn created(host: &Host, runtimes: &[Runtime]) -> Result<Case> {
    let subjects = created_by(host, runtimes)?;
    let once = |subject: &Subject| {
        // Not in a file of ours: it would be a container's.
        subject.create().status()?;
        let mib = rollup(subject.pid()?, &["Pss:"])?;
        subject.remove()?;
        Ok(mib.into())
    };
    let contestants = subjects
        .iter()
        .map(|subject| Contestant::new(subject.runtime.name, move || once(subject)).with(own(subject, 0.5)))
        .collect();
    take_turns("a created container (PSS)", "MiB", ROUNDS, contestants)
}

/// Beside another one of the same image: the pages that a program has of its file are private to nobody then.
fn idle_server(host: &Host) -> Result<Case> {
    let mut others = pair(host, "server", &["127.0.0.1:0"])?;
    for other in &mut others {
        serve(other)?;
    }
    let mut containers = pair(host, "server", &["127.0.0.1:0"])?;
    for (container, other) in containers.iter().zip(&others) {
        let name = container.config["process"]["args"][0].as_str().context("args")?.trim_start_matches('/');
        let [program, its] = [container, other].map(|container| container.rootfs().join(name));
        fs::remove_file(&program)?;
        fs::hard_link(its, &program)?;
    }
    let once = |container: &mut Container| {
        serve(container)?;
        let mib = rollup(container.pid()?, &["Private_Clean:", "Private_Dirty:"])?;
        container.delete()?;
        container.wait_exit()?;
        Ok(mib.into())
    };
    let contestants = containers
        .iter_mut()
        .zip([("module", Some(Goal::Most(1.0))), ("native", None)])
        .map(|(container, (who, goal))| Contestant::new(who, move || once(container)).with(goal))
        .collect();
    take_turns("an idle HTTP server (private)", "MiB", ROUNDS, contestants)
}

fn serve(container: &mut Container) -> Result<()> {
    container.create()?.start()?;
    container.expect("\n")
}

fn limits(host: &Host, runtimes: &[Runtime]) -> Result<Case> {
    let bar = progress(runtimes.len() + 1);
    bar.set_message("memory limits");
    let mut series = Vec::new();
    for runtime in runtimes {
        let subject = runtime.container(host, &["/hello"])?;
        let goal = own(&subject, 0.25);
        if let Some(mib) = least_limit(subject, &programs::native("hello")?)? {
            series.push(Series::once(runtime.name, mib, goal));
        }
        bar.inc(1);
    }
    let subject = runtimes[0].container(host, &["/hello"])?;
    // Compiling has the container's limit, or not: the module is to be in the cache.
    let hello = programs::module("hello")?;
    subject.container.install(&hello, "hello")?;
    subject.container.save()?;
    subject.run().finish()?.ok()?;
    let module = least_limit(subject, &hello)?.context("no limit is enough for a module")?;
    series.push(Series::once("module", module, Some(Goal::Most(2.0))));
    bar.finish_and_clear();
    Ok(Case { what: "the smallest limit that runs hello".into(), unit: "MiB", series })
}

/// In MiB.
fn least_limit(mut subject: Subject, program: &Path) -> Result<Option<f64>> {
    subject.container.install(program, "hello")?;
    let mut least = None;
    for kib in LIMITS {
        subject.container.config["linux"]["resources"]["memory"] = json!({"limit": u64::from(kib) << 10});
        subject.container.save()?;
        for _ in 0..TRIES {
            let done = subject.run().job()?.wait_for(PATIENCE);
            if !done.is_ok_and(|done| done.code == 0 && done.stdout == "hello\n") {
                let _ = subject.remove();
                return Ok(least);
            }
        }
        least = Some(f64::from(kib) / 1024.0);
    }
    Ok(least)
}

fn own(subject: &Subject, most: f64) -> Option<Goal> {
    (subject.runtime.name == "coracle").then_some(Goal::Most(most))
}

fn created_by<'h>(host: &'h Host, runtimes: &[Runtime]) -> Result<Vec<Subject<'h>>> {
    let make = |runtime: &Runtime| {
        let subject = runtime.container(host, &["/bin/true"])?;
        subject.container.save()?;
        Ok(subject)
    };
    runtimes.iter().map(make).collect()
}

/// The sum of fields of a process, in MiB.
pub fn rollup(pid: i32, fields: &[&str]) -> Result<f64> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = fs::read_to_string(&path).context(path)?;
    Ok(kib(&text, fields)? / 1024.0)
}

/// The sum of these fields, as files of /proc have them.
pub fn kib(text: &str, fields: &[&str]) -> Result<f64> {
    let mut sum = 0.0;
    for field in fields {
        let line = text.lines().find_map(|line| line.strip_prefix(field));
        let value =
            line.and_then(|line| line.split_whitespace().next()).with_context(|| format!("no {field}"))?;
        sum += value.parse::<f64>()?;
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_added() {
        let text =
            "0-f ---p 0 00:00 0 [rollup]\nPss:      120 kB\nPss_Dirty:    7 kB\nPrivate_Clean:   8 kB\n";
        assert_eq!(kib(text, &["Pss:", "Private_Clean:"]).unwrap(), 128.0);
        assert!(kib(text, &["Swap:"]).is_err());
    }
}
