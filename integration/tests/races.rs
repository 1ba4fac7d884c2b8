//! Two commands on one container at the same time, again and again and with a varying lead of one before the other:
//! each has its way or one clear reason, what holds afterwards is what one of the two orders makes, and nothing is
//! left. Others look at the containers all the while and never see half of one.

use std::fs;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use coracle_integration::{Container, Finished, Host, Run, eventually, reap, wat};
use serde_json::{Value, json};

const NOT_THERE: &str = "container does not exist";
const NOT_RUNNING: &str = "container not running";
const STARTED: &str = "cannot start an already running container";
const STOPPED: &str = "cannot start a container that has stopped";
const NO_EXEC: &str = "cannot exec in a stopped container";
const NOT_STOPPED: &str = "that is not stopped";

/// `create`, of which nobody but us waits for the container's first process.
const CREATE: &[&str] = &["create", "--bundle", "BUNDLE", "--pid-file", "PID-FILE", "ID"];

/// How often each race is run.
fn rounds() -> u32 {
    if std::env::var_os("CORACLE_FULL").is_some() { 400 } else { 17 }
}

/// Where a container is when the race begins.
#[derive(Clone, Copy, PartialEq)]
enum Stage {
    Nothing,
    Created,
    Running,
    Stopped,
}

/// A racer: its command line, with the id put in after the flags, and the messages with which it may fail.
type Racer<'a> = (&'a [&'a str], &'a [&'a str]);

/// One race of two commands.
struct Race<'a> {
    stage: Stage,
    racers: [Racer<'a>; 2],
    /// Checks what came of the two.
    verdict: fn(&Container, &[Finished; 2]) -> Result<()>,
}

/// At least one has its way.
fn one_or_both(_: &Container, ends: &[Finished; 2]) -> Result<()> {
    ensure!(ends.iter().any(|end| end.code == 0), "none of the two succeeded");
    Ok(())
}

fn exactly_one(_: &Container, ends: &[Finished; 2]) -> Result<()> {
    ensure!(ends.iter().filter(|end| end.code == 0).count() == 1, "one of the two was to succeed");
    Ok(())
}

fn both(_: &Container, ends: &[Finished; 2]) -> Result<()> {
    ensure!(ends.iter().all(|end| end.code == 0), "both were to succeed");
    Ok(())
}

/// The second one is never in the wrong.
fn the_second(_: &Container, ends: &[Finished; 2]) -> Result<()> {
    ensure!(ends[1].code == 0, "the second was to succeed");
    Ok(())
}

impl Race<'_> {
    /// Runs the race with a native container and, in every third round, a module.
    fn run(&self) -> Result<()> {
        let host = Host::new()?;
        let mut native = host.container(&["sleep", "1000"])?;
        let mut module = host.container(&["/main.wasm"])?;
        module.install(&wat("blocked")?, "main.wasm")?;
        module.install(&wat("exit7")?, "bin/true")?;
        let watching = AtomicBool::new(true);
        std::thread::scope(|scope| {
            let watcher = scope.spawn(|| watch(&host, &watching));
            let raced = (0..rounds()).try_for_each(|round| {
                let c = if wasm() && round % 3 == 2 { &mut module } else { &mut native };
                c.id = format!("{}-{round}", host.name());
                c.config["linux"]["cgroupsPath"] = json!(format!("/{}/{round}", host.name()));
                self.round(c, round).with_context(|| format!("round {round}"))
            });
            watching.store(false, Ordering::Relaxed);
            watcher.join().map_err(|_| anyhow::anyhow!("the watcher panicked"))??;
            raced
        })?;
        host.is_clean()
    }

    fn round(&self, c: &mut Container, round: u32) -> Result<()> {
        match self.stage {
            Stage::Nothing => c.save()?,
            Stage::Created => drop(c.create()?),
            Stage::Running => drop(c.create()?.start()?),
            Stage::Stopped => {
                c.create()?.start()?;
                c.kill("KILL")?;
                c.wait_exit()?;
            }
        }
        // The lead goes from -4 to 4 ms, a command's own length being about that.
        let lead = i64::from(round * 7 % 17 * 500) - 4000;
        let pause = Duration::from_micros(lead.unsigned_abs());
        let (first, second) = if lead < 0 { (1, 0) } else { (0, 1) };
        let mut jobs = [None, None];
        jobs[first] = Some(self.command(c, first).job()?);
        std::thread::sleep(pause);
        jobs[second] = Some(self.command(c, second).job()?);
        let [Some(mut one), Some(mut two)] = jobs else { bail!("a job is missing") };
        let ends = [one.wait()?, two.wait()?];
        let judged = self.judge(c, &ends);
        judged.with_context(|| format!("with a lead of {pause:?}:\n{}\n{}", ends[0], ends[1]))?;
        c.delete()?;
        match self.stage {
            Stage::Nothing => {
                let pid_file = c.bundle().join("race.pid");
                if let Ok(pid) = fs::read_to_string(&pid_file) {
                    reap(pid.parse()?)?;
                    fs::remove_file(pid_file)?;
                }
            }
            Stage::Created | Stage::Running => drop(c.wait_exit()?),
            Stage::Stopped => {}
        }
        Ok(())
    }

    fn command(&self, c: &Container, racer: usize) -> Command {
        let (line, _) = self.racers[racer];
        let mut command = c.host.runtime();
        for word in line {
            match *word {
                "ID" => command.arg(&c.id),
                "BUNDLE" => command.arg(c.bundle()),
                "PID-FILE" => command.arg(c.bundle().join("race.pid")),
                word => command.arg(word),
            };
        }
        command
    }

    fn judge(&self, c: &Container, ends: &[Finished; 2]) -> Result<()> {
        for ((line, reasons), end) in self.racers.iter().zip(ends) {
            // The program of an `exec`, which ended by itself or with the container: the module's code is 7.
            if end.code == 0 || (line[0] == "exec" && [7, 137].contains(&end.code)) {
                ensure!(end.stderr.is_empty(), "a success that complains");
                continue;
            }
            ensure!(end.stderr.lines().count() == 1, "not one clear line");
            ensure!(
                reasons.iter().any(|reason| end.stderr.contains(reason)),
                "another reason than {reasons:?}"
            );
        }
        (self.verdict)(c, ends)
    }
}

/// Modules cannot be run when another runtime is under test.
fn wasm() -> bool {
    coracle_integration::coracle().file_name().is_some_and(|name| name == "coracle")
}

/// Looks at all containers, again and again.
fn watch(host: &Host, watching: &AtomicBool) -> Result<()> {
    while watching.load(Ordering::Relaxed) {
        let list = host.runtime().args(["list", "--format=json"]).finish()?.ok()?;
        ensure!(list.stderr.is_empty(), "a warning: {list}");
        let all: Vec<Value> = serde_json::from_str::<Option<_>>(&list.stdout)?.unwrap_or_default();
        for id in all.iter().filter_map(|entry| entry["id"].as_str()) {
            let state = host.runtime().args(["state", id]).finish()?;
            match state.code {
                0 => {
                    let json: Value = serde_json::from_str(&state.stdout)?;
                    ensure!(json["id"] == id && state.stderr.is_empty(), "{state}");
                }
                _ => drop(state.fails_with(NOT_THERE)?),
            }
        }
    }
    Ok(())
}

#[test]
fn start_and_start() -> Result<()> {
    let start: Racer = (&["start", "ID"], &[STARTED]);
    Race { stage: Stage::Created, racers: [start, start], verdict: exactly_one }.run()
}

#[test]
fn create_and_create() -> Result<()> {
    let create: Racer = (CREATE, &["container with given ID already exists"]);
    Race { stage: Stage::Nothing, racers: [create, create], verdict: exactly_one }.run()
}

#[test]
fn delete_and_delete() -> Result<()> {
    let delete: Racer = (&["delete", "ID"], &[NOT_THERE]);
    Race { stage: Stage::Stopped, racers: [delete, delete], verdict: exactly_one }.run()?;
    Race { stage: Stage::Created, racers: [delete, delete], verdict: exactly_one }.run()?;
    let force: Racer = (&["delete", "--force", "ID"], &[]);
    Race { stage: Stage::Running, racers: [force, force], verdict: both }.run()
}

/// A container that was never started is deleted without force, but not when it was started meanwhile.
#[test]
fn start_and_delete() -> Result<()> {
    let racers: [Racer; 2] = [(&["start", "ID"], &[NOT_THERE, STOPPED]), (&["delete", "ID"], &[NOT_STOPPED])];
    Race { stage: Stage::Created, racers, verdict: exactly_one }.run()?;
    let racers: [Racer; 2] = [(&["start", "ID"], &[NOT_THERE, STOPPED]), (&["delete", "--force", "ID"], &[])];
    Race { stage: Stage::Created, racers, verdict: the_second }.run()
}

#[test]
fn create_and_delete() -> Result<()> {
    let create: Racer = (CREATE, &["deleted while it was being created"]);
    let racers = [create, (&["delete", "--force", "ID"], &[])];
    let verdict = |c: &Container, ends: &[Finished; 2]| {
        the_second(c, ends)?;
        let state = c.verb("state").finish()?;
        if ends[0].code == 0 && state.code == 0 {
            // Created after the other found nothing to delete.
            ensure!(state.stdout.contains("\"created\""), "{state}");
            return Ok(());
        }
        state.fails_with(NOT_THERE)?;
        ensure!(Host::cgroup_dirs(c.cgroup()).is_empty(), "a cgroup is left");
        Ok(())
    };
    Race { stage: Stage::Nothing, racers, verdict }.run()
}

#[test]
fn create_and_start() -> Result<()> {
    let create: Racer = (CREATE, &[]);
    let racers = [create, (&["start", "ID"], &[NOT_THERE, "still being created"] as &[&str])];
    let verdict = |c: &Container, ends: &[Finished; 2]| {
        let expected = if ends[1].code == 0 { "running" } else { "created" };
        ensure!(ends[0].code == 0 && c.status()? == expected, "not {expected}");
        Ok(())
    };
    Race { stage: Stage::Nothing, racers, verdict }.run()
}

#[test]
fn start_and_kill() -> Result<()> {
    let racers: [Racer; 2] = [(&["start", "ID"], &[STOPPED]), (&["kill", "ID", "KILL"], &[])];
    Race { stage: Stage::Created, racers, verdict: the_second }.run()
}

#[test]
fn kill_and_delete() -> Result<()> {
    let kill: Racer = (&["kill", "ID", "KILL"], &[NOT_THERE, NOT_RUNNING]);
    Race { stage: Stage::Running, racers: [kill, (&["delete", "--force", "ID"], &[])], verdict: the_second }
        .run()?;
    let all: Racer = (&["kill", "--all", "ID", "KILL"], &[NOT_THERE]);
    Race { stage: Stage::Running, racers: [all, (&["delete", "--force", "ID"], &[])], verdict: the_second }
        .run()?;
    let racers = [kill, (&["delete", "ID"], &[NOT_STOPPED] as &[&str])];
    Race { stage: Stage::Running, racers, verdict: one_or_both }.run()
}

#[test]
fn exec_and_the_end() -> Result<()> {
    let exec: Racer = (&["exec", "ID", "/bin/true"], &[NOT_THERE, NO_EXEC]);
    Race { stage: Stage::Running, racers: [exec, (&["kill", "ID", "KILL"], &[])], verdict: the_second }
        .run()?;
    Race { stage: Stage::Running, racers: [exec, (&["delete", "--force", "ID"], &[])], verdict: the_second }
        .run()
}

#[test]
fn pause_resume_update_and_delete() -> Result<()> {
    let delete: Racer = (&["delete", "--force", "ID"], &[]);
    let gone: &[&str] = &[NOT_THERE, NOT_RUNNING];
    let verdict = the_second;
    let stage = Stage::Running;
    Race { stage, racers: [(&["pause", "ID"], gone), delete], verdict }.run()?;
    let gone: &[&str] = &[NOT_THERE, "container not paused"];
    Race { stage, racers: [(&["resume", "ID"], gone), delete], verdict }.run()?;
    let gone: &[&str] = &[NOT_THERE, NOT_RUNNING];
    Race { stage, racers: [(&["update", "--pids-limit=77", "ID"], gone), delete], verdict }.run()?;
    Race { stage, racers: [(&["ps", "--format=json", "ID"], gone), delete], verdict }.run()
}

#[test]
fn pause_and_others() -> Result<()> {
    let pause: Racer = (&["pause", "ID"], &[NOT_RUNNING]);
    Race { stage: Stage::Running, racers: [pause, pause], verdict: exactly_one }.run()?;
    // A killed container does not stay in the freezer.
    let verdict = |c: &Container, ends: &[Finished; 2]| {
        the_second(c, ends)?;
        eventually("the end of the killed container", || Ok(c.status()? != "running"))
    };
    Race { stage: Stage::Running, racers: [pause, (&["kill", "ID", "KILL"], &[])], verdict }.run()?;
    // The started container goes on when it is resumed, whichever came first.
    let verdict = |c: &Container, ends: &[Finished; 2]| {
        both(c, ends)?;
        ensure!(c.status()? == "paused", "not paused");
        c.verb("resume").finish()?.ok()?;
        c.wait_status("running")
    };
    Race { stage: Stage::Created, racers: [pause, (&["start", "ID"], &[])], verdict }.run()
}

/// What came in before the pause ends after it, and nothing waits for ever.
#[test]
fn exec_and_pause() -> Result<()> {
    let host = Host::new()?;
    let mut c = host.container(&["sleep", "1000"])?;
    c.create()?.start()?;
    for round in 0..rounds() {
        let mut exec = c.verb("exec").arg("true").job()?;
        std::thread::sleep(Duration::from_micros(u64::from(round * 7 % 17 * 400)));
        c.verb("pause").finish()?.ok()?;
        assert_eq!(c.status()?, "paused");
        c.verb("resume").finish()?.ok()?;
        let exec = exec.wait()?;
        if exec.code != 0 {
            exec.exits(255)?.fails_with("cannot exec in a paused container")?;
        }
    }
    c.delete()?;
    c.wait_exit()?;
    host.is_clean()
}

/// A signal for every process freezes them for a moment; that does not undo a pause.
#[test]
fn kill_all_and_pause() -> Result<()> {
    let racers: [Racer; 2] = [(&["pause", "ID"], &[]), (&["kill", "--all", "ID", "CONT"], &[])];
    let verdict = |c: &Container, ends: &[Finished; 2]| {
        both(c, ends)?;
        ensure!(c.status()? == "paused", "not paused");
        Ok(())
    };
    Race { stage: Stage::Running, racers, verdict }.run()
}

/// A container in the foreground goes away once, whoever removes it.
#[test]
fn run_and_delete() -> Result<()> {
    let host = Host::new()?;
    let mut c = host.container(&["sleep", "1000"])?;
    for round in 0..rounds() {
        c.id = format!("{}-{round}", host.name());
        let mut run = c.run_job()?;
        let state = host.state_dir().join(&c.id).join("state.json");
        eventually("its state", || Ok(state.exists()))?;
        std::thread::sleep(Duration::from_micros(u64::from(round * 7 % 17 * 500)));
        c.delete()?;
        let run = run.wait()?;
        if run.code != 137 {
            let run = run.exits(1)?;
            let reasons = ["deleted while it was being created", NOT_THERE, NOT_RUNNING];
            ensure!(reasons.iter().any(|reason| run.stderr.contains(reason)), "{run}");
        }
        c.verb("state").finish()?.fails_with(NOT_THERE)?;
    }
    host.is_clean()
}

/// Of two that change the limits, none undoes what the other has saved.
#[test]
fn update_and_update() -> Result<()> {
    let racers: [Racer; 2] =
        [(&["update", "--pids-limit=77", "ID"], &[]), (&["update", "--cpu-share=99", "ID"], &[])];
    let verdict = |c: &Container, ends: &[Finished; 2]| {
        both(c, ends)?;
        let saved = fs::read(c.host.state_dir().join(&c.id).join("config.json"))?;
        let saved: Value = serde_json::from_slice(&saved)?;
        let resources = &saved["linux"]["resources"];
        ensure!(resources["pids"]["limit"] == 77 && resources["cpu"]["shares"] == 99, "{resources}");
        Ok(())
    };
    Race { stage: Stage::Running, racers, verdict }.run()
}

/// Whoever reads the state file sees a whole one.
#[test]
fn the_state_file_is_never_half_written() -> Result<()> {
    let host = Host::new()?;
    let mut c = host.container(&["sleep", "1000"])?;
    let directory = host.state_dir().join(&c.id);
    let reading = AtomicBool::new(true);
    let read = || -> Result<u32> {
        let whole = |name: &str| -> Result<Option<Value>> {
            let Ok(bytes) = fs::read(directory.join(name)) else { return Ok(None) };
            let text = String::from_utf8_lossy(&bytes);
            Ok(Some(serde_json::from_str(&text).with_context(|| format!("{name}: {text:?}"))?))
        };
        let mut seen = 0;
        while reading.load(Ordering::Relaxed) {
            let (before, config, after) = (whole("state.json")?, whole("config.json"), whole("state.json")?);
            // The configuration is there before the container is, so only in one that is it must be whole.
            if let (Some(before), Some(after)) = (before, after)
                && before["created"] == after["created"]
            {
                config?;
                seen += 1;
            }
        }
        Ok(seen)
    };
    std::thread::scope(|scope| {
        let readers = [scope.spawn(read), scope.spawn(read)];
        let changed = (0..rounds()).try_for_each(|round| -> Result<()> {
            c.create()?.start()?;
            let limit = format!("--pids-limit={}", 50 + round * 1111 % 5000);
            c.verb_with("update", &[&limit]).finish()?.ok()?;
            c.verb("pause").finish()?.ok()?;
            c.verb("resume").finish()?.ok()?;
            c.delete()?;
            c.wait_exit().map(drop)
        });
        reading.store(false, Ordering::Relaxed);
        for reader in readers {
            let seen = reader.join().map_err(|_| anyhow::anyhow!("a reader panicked"))??;
            ensure!(seen > rounds(), "read only {seen} times");
        }
        changed
    })
}
