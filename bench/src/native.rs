//! Native containers: whole lives, and single commands.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result};
use coracle_integration::{Engine, Host, Run};
use serde_json::{Value, json};

use crate::programs;
use crate::report::Report;
use crate::runtime::{Runtime, Subject};
use crate::sample::{Case, Contestant, Goal, Sample, take_turns, timed, wait};

const TRUE: [&str; 1] = ["/bin/true"];
const IDLE: [&str; 2] = ["/bin/sleep", "1000"];

/// From nothing to the end of `true`, in several ways.
pub fn start(host: &Host, runtimes: &[Runtime]) -> Result<Report> {
    let engine = Engine::new()?;
    let cases = vec![
        run(host, runtimes)?,
        run_as_podman(host, runtimes, &engine)?,
        life(host, runtimes)?,
        exec(host, runtimes)?,
    ];
    engine.is_clean()?;
    Ok(Report { title: "Starting native containers".into(), cases, notes: Vec::new() })
}

/// What an engine asks for in between.
pub fn commands(host: &Host, runtimes: &[Runtime]) -> Result<Report> {
    let cases = vec![
        on_running(host, runtimes, "state", |subject| subject.verb("state", &[]))?,
        on_running(host, runtimes, "kill (a signal that is ignored)", |subject| {
            let mut command = subject.verb("kill", &[]);
            command.arg("USR1");
            command
        })?,
        delete(host, runtimes)?,
        create(host, runtimes)?,
    ];
    Ok(Report { title: "Single commands".into(), cases, notes: Vec::new() })
}

fn run(host: &Host, runtimes: &[Runtime]) -> Result<Case> {
    let floor = programs::native("floor")?;
    let root = host.container(&TRUE)?;
    let subjects = subjects(host, runtimes, &TRUE)?;
    let mut contestants: Vec<_> =
        subjects.iter().map(|subject| contestant(subject, 0.6, || timed(&mut subject.run()))).collect();
    let once = || timed(Command::new(&floor).arg(root.rootfs()));
    contestants.push(Contestant::new("floor", once).with(Some(Goal::Ratio(1.4))));
    take_turns("run true", "ms", 100, contestants)
}

fn run_as_podman(host: &Host, runtimes: &[Runtime], engine: &Engine) -> Result<Case> {
    let config = podmans(engine)?;
    let subjects = runtimes
        .iter()
        .map(|runtime| {
            let mut container = host.container(&TRUE)?;
            container.config = config.clone();
            let subject = runtime.subject(container);
            subject.container.save()?;
            Ok(subject)
        })
        .collect::<Result<Vec<_>>>()?;
    let contestants =
        subjects.iter().map(|subject| contestant(subject, 0.6, || timed(&mut subject.run()))).collect();
    take_turns("run true as podman has it", "ms", 60, contestants)
}

/// The configuration that podman writes for a container of busybox. What it mounts is there as long as the engine.
fn podmans(engine: &Engine) -> Result<Value> {
    let create =
        engine.podman().arg("create").args(engine.common()).args(["native", TRUE[0]]).finish()?.ok()?;
    let id = create.stdout.trim();
    engine.do_podman(&["init", id])?.ok()?;
    let file = engine.inspect(id, "{{.OCIConfigPath}}")?;
    let mut config: Value = serde_json::from_slice(&fs::read(&file).context(file)?)?;
    config["root"]["path"] = json!("rootfs");
    Ok(config)
}

/// The three commands of an engine, and the processor time of the container's first process with theirs.
fn life(host: &Host, runtimes: &[Runtime]) -> Result<Case> {
    let subjects = subjects(host, runtimes, &TRUE)?;
    let once = |subject: &Subject| {
        let create = timed(&mut subject.create())?;
        let start = timed(&mut subject.verb("start", &[]))?;
        let (_, init) = wait(subject.pid()?)?;
        let delete = timed(&mut subject.verb("delete", &[]))?;
        let all = [create, start, delete];
        let cpu = all.iter().filter_map(|sample| sample.cpu).sum::<f64>() + init;
        Ok(Sample { value: all.iter().map(|sample| sample.value).sum(), cpu: Some(cpu) })
    };
    let contestants =
        subjects.iter().map(|subject| contestant(subject, 0.6, move || once(subject))).collect();
    take_turns("create + start + delete", "ms", 60, contestants)
}

fn exec(host: &Host, runtimes: &[Runtime]) -> Result<Case> {
    let subjects = running(host, runtimes)?;
    let once = |subject: &Subject| timed(subject.verb("exec", &[]).args(TRUE));
    let contestants =
        subjects.iter().map(|subject| contestant(subject, 0.6, move || once(subject))).collect();
    take_turns("exec true", "ms", 60, contestants)
}

fn on_running(
    host: &Host,
    runtimes: &[Runtime],
    what: &str,
    command: fn(&Subject) -> Command,
) -> Result<Case> {
    let subjects = running(host, runtimes)?;
    let contestants = subjects
        .iter()
        .map(|subject| {
            contestant(subject, 1.0, move || timed(command(subject).stdout(std::process::Stdio::null())))
        })
        .collect();
    take_turns(what, "ms", 60, contestants)
}

fn delete(host: &Host, runtimes: &[Runtime]) -> Result<Case> {
    let subjects = subjects(host, runtimes, &TRUE)?;
    let once = |subject: &Subject| {
        subject.start()?;
        subject.wait()?;
        timed(&mut subject.verb("delete", &[]))
    };
    let contestants =
        subjects.iter().map(|subject| contestant(subject, 1.0, move || once(subject))).collect();
    take_turns("delete (of a stopped container)", "ms", 40, contestants)
}

/// Its processor time alone, and with that of the process that waits for `start`.
fn create(host: &Host, runtimes: &[Runtime]) -> Result<Case> {
    let subjects = subjects(host, runtimes, &TRUE)?;
    let once = |subject: &Subject| {
        let create = timed(&mut subject.create())?;
        let scheduled = fs::read_to_string(format!("/proc/{}/schedstat", subject.pid()?))?;
        let nanoseconds: f64 = scheduled.split(' ').next().context("schedstat")?.parse()?;
        subject.remove()?;
        let own = create.cpu.context("no processor time")?;
        Ok(Sample { value: own, cpu: Some(own + nanoseconds / 1e6) })
    };
    let contestants = subjects
        .iter()
        .map(|subject| {
            let goal = (subject.runtime.name == "coracle").then_some(Goal::Most(5.0));
            Contestant::new(subject.runtime.name, move || once(subject)).with(goal)
        })
        .collect();
    take_turns("create, its own CPU", "ms", 40, contestants)
}

/// The goals are in relation to crun.
fn contestant<'a>(
    subject: &Subject,
    ratio: f64,
    once: impl FnMut() -> Result<Sample> + 'a,
) -> Contestant<'a> {
    let name = subject.runtime.name;
    Contestant::new(name, once).with((name == "crun").then_some(Goal::Ratio(ratio)))
}

fn subjects<'h>(host: &'h Host, runtimes: &[Runtime], args: &[&str]) -> Result<Vec<Subject<'h>>> {
    let make = |runtime: &Runtime| {
        let subject = runtime.container(host, args)?;
        subject.container.save()?;
        Ok(subject)
    };
    runtimes.iter().map(make).collect()
}

fn running<'h>(host: &'h Host, runtimes: &[Runtime]) -> Result<Vec<Subject<'h>>> {
    let subjects = subjects(host, runtimes, &IDLE)?;
    subjects.iter().try_for_each(Subject::start)?;
    Ok(subjects)
}
