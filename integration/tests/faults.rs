//! Commands that are killed, or whose system calls fail, at every system call in turn.
//!
//! After a kill, `delete --force` leaves nothing; after a failure there is one line that says what went wrong, and nothing
//! is left, or the command has done all that it should have. In either case no other container notices.
//!
//! All calls are tried when `CORACLE_FULL` is set (`make test-faults`), a part of them otherwise. What came of them is a
//! table of docs/reliability.md; it is written to the file that `CORACLE_FAULTS` names.
#![cfg(target_arch = "x86_64")]

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, ensure};
use coracle_integration::fault::{self, Fault, Faulted, Whose};
use coracle_integration::{Container, Host, Run, eventually, wat};
use nix::errno::Errno;
use serde_json::json;
use syscalls::Sysno;

const FAULTS: [(&str, Fault); 5] = [
    ("SIGKILL", Fault::Kill),
    ("ENOSPC", Fault::Fails(Errno::ENOSPC)),
    ("EMFILE", Fault::Fails(Errno::EMFILE)),
    ("ENOMEM", Fault::Fails(Errno::ENOMEM)),
    ("EIO", Fault::Fails(Errno::EIO)),
];

/// Of how many calls one is tried in the short form; each fault tries others.
const STRIDE: usize = 17;

/// How many calls a container's process may make from reading `create`'s last word on. There is no other such read.
const AFTER_CREATE: usize = 12;

/// What tells a container that is as it was asked for from one that is not.
const PICTURE: &str = r"
    grep -E '^(Uid|Gid|Groups|Cap|NoNewPrivs|Seccomp:|Umask|SigBlk)' /proc/self/status
    mkdir /tmp/forbidden 2>&1
    hostname; pwd; env | sort; ulimit -a; cat /proc/self/oom_score_adj
    cat /proc/sys/net/ipv4/ip_unprivileged_port_start
    cut -d' ' -f5,6 /proc/self/mountinfo; cut -d: -f2,3 /proc/self/cgroup; ls -l /dev /data | sed 's/[A-Z][a-z][a-z] .*:[0-9][0-9] //'
    ls -l /proc/self/fd 2>/dev/null | sed 's/.* //; s/[0-9]//g'
    cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null || true";

/// A container that asks for something of everything.
fn demanding<'h>(host: &'h Host, script: &str) -> Result<Container<'h>> {
    let mut c = host.container(&["sh", "-c", script])?;
    let data = c.bundle().join("data");
    fs::create_dir(&data)?;
    fs::write(data.join("file"), "")?;
    c.mount(json!({"destination": "/data", "type": "bind", "source": data, "options": ["rbind", "ro"]}));
    let config = &mut c.config;
    config["process"]["noNewPrivileges"] = json!(true);
    config["process"]["oomScoreAdj"] = json!(500);
    config["process"]["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "soft": 512, "hard": 512}]);
    config["process"]["user"] = json!({"uid": 7, "gid": 8, "additionalGids": [9], "umask": 0o27});
    config["hostname"] = json!("demanding");
    config["hooks"] = json!({"createRuntime": [{"path": "/bin/true"}]});
    config["linux"]["sysctl"] = json!({"net.ipv4.ip_unprivileged_port_start": "80"});
    config["linux"]["resources"]["memory"] = json!({"limit": 64 << 20});
    config["linux"]["devices"] = json!([{"path": "/dev/mine", "type": "c", "major": 1, "minor": 3}]);
    config["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38}]});
    c.save()?;
    Ok(c)
}

/// What there is beside the container in question: a container that must not notice anything, and files.
struct Scene<'h> {
    bystander: Container<'h>,
    before: BTreeSet<String>,
}

impl<'h> Scene<'h> {
    /// To be set when the container in question has been made and deleted once, so that all caches are filled.
    fn set(host: &'h Host, bundle: &Path) -> Result<Self> {
        let mut bystander = host.container(&["sleep", "100000"])?;
        bystander.create()?.start()?;
        let before = things(host, bundle)?;
        Ok(Scene { bystander, before })
    }

    /// Requires that everything is as before, but for what ends by itself in a moment.
    fn is_unchanged(&self, bundle: &Path) -> Result<()> {
        let mut found = BTreeSet::new();
        let same = eventually("all to be as before", || {
            found = things(self.bystander.host, bundle)?;
            Ok(found == self.before)
        });
        same.with_context(|| {
            let new: Vec<_> = found.difference(&self.before).collect();
            let gone: Vec<_> = self.before.difference(&found).collect();
            format!("left behind: {new:#?}, gone: {gone:#?}")
        })?;
        ensure!(self.bystander.status()? == "running", "the bystander");
        Ok(())
    }
}

/// What a container leaves, and the files beside it.
fn things(host: &Host, bundle: &Path) -> Result<BTreeSet<String>> {
    let mut things: BTreeSet<_> = host.leftovers()?.into_iter().collect();
    for dir in [bundle.to_owned(), host.state_dir(), host.state_dir().join(".seccomp"), host.cache_dir()] {
        let files = fs::read_dir(&dir)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path().display().to_string());
        // A module that is compiled by the time of the failure may stay so.
        let files = files.filter(|file| dir != host.cache_dir() || file.ends_with(".new"));
        things.extend(files.map(|file| format!("file {file}")));
    }
    Ok(things)
}

/// How often each came of a fault.
#[derive(Default)]
struct Tally {
    killed: usize,
    errors: usize,
    /// By the call that failed without consequence.
    ignored: BTreeMap<String, usize>,
}

/// A row of the table.
struct Row {
    case: String,
    calls: usize,
    tallies: Vec<(&'static str, Tally)>,
}

/// Adds a row to the table, and writes it as it is by now.
fn publish(row: Row) -> Result<()> {
    static ROWS: Mutex<Vec<Row>> = Mutex::new(Vec::new());
    let mut rows = ROWS.lock().unwrap_or_else(PoisonError::into_inner);
    rows.push(row);
    rows.sort_by(|a, b| a.case.cmp(&b.case));
    let Some(path) = std::env::var_os("CORACLE_FAULTS") else { return Ok(()) };
    let mut table = String::from("| Command | Calls |");
    for (name, _) in FAULTS {
        write!(table, " {name} |")?;
    }
    table += "\n|---|---|---|---|---|---|---|\n";
    let mut ignored: BTreeMap<&str, usize> = BTreeMap::new();
    for Row { case, calls, tallies } in rows.iter() {
        write!(table, "| {case} | {calls} |")?;
        for (_, Tally { killed, errors, ignored: without }) in tallies {
            match (killed, without.values().sum::<usize>()) {
                (0, count) => write!(table, " {errors} / {count} |")?,
                (killed, 0) => write!(table, " {killed} |")?,
                (killed, count) => write!(table, " {killed} / {count} |")?,
            }
            without.iter().for_each(|(call, count)| *ignored.entry(call).or_default() += count);
        }
        table.push('\n');
    }
    let ignored: Vec<_> = ignored.iter().map(|(call, count)| format!("{call} {count}")).collect();
    write!(
        table,
        "\nCalls, then how many kills; or how many errors / failures without consequence. The latter were of: {}.\n",
        ignored.join(", ")
    )?;
    Ok(fs::write(path, table)?)
}

/// What is tried: `prepare` makes what the command needs, `check` sees whether it has done all when it says so, and
/// `clean` takes back what it has done.
struct Case<'a> {
    name: &'a str,
    whose: Whose,
    scene: &'a Scene<'a>,
    bundle: &'a Path,
    prepare: &'a mut dyn FnMut() -> Result<Command>,
    check: &'a mut dyn FnMut(&Faulted) -> Result<()>,
    clean: &'a mut dyn FnMut() -> Result<()>,
    /// Whether a command that fails has itself to see that nothing stays, as `create` and `exec` have.
    alone: bool,
}

impl Case<'_> {
    /// Tries every fault at every system call, or at some.
    fn sweep(mut self) -> Result<()> {
        let full = std::env::var_os("CORACLE_FULL").is_some();
        let whole = fault::run(&mut (self.prepare)()?, self.whose, None)?;
        (self.check)(&whole).with_context(|| format!("{} without a fault", self.name))?;
        (self.clean)()?;
        let calls = whole.calls;
        ensure!(calls > 10, "only {calls} calls");
        let mut failures = Vec::new();
        let mut tallies = Vec::new();
        for (number, (name, fault)) in FAULTS.into_iter().enumerate() {
            let mut tally = Tally::default();
            let stride = if full { 1 } else { STRIDE };
            for at in (number * 3 % stride..calls).step_by(stride) {
                if let Err(error) = self.once(at, fault, &mut tally) {
                    failures.push(format!("{name} at call {at} of {calls}: {error:#}"));
                    (self.clean)()
                        .and_then(|()| self.scene.is_unchanged(self.bundle))
                        .with_context(|| failures.join("\n"))?;
                }
            }
            tallies.push((name, tally));
        }
        ensure!(failures.is_empty(), "{}:\n{}", self.name, failures.join("\n"));
        publish(Row { case: self.name.to_owned(), calls, tallies })
    }

    fn once(&mut self, at: usize, fault: Fault, tally: &mut Tally) -> Result<()> {
        let faulted = fault::run(&mut (self.prepare)()?, self.whose, Some((at, fault)))?;
        let Some(hit) = faulted.hit else {
            // Calls that wait for others are not always as many.
            return (self.clean)();
        };
        let done = &faulted.finished;
        let outcome = if faulted.hung {
            Err(anyhow::anyhow!("it hangs: {done}"))
        } else if self.whose == Whose::Program && fault == Fault::Kill {
            tally.killed += 1;
            ensure!(done.code == 137, "not killed: {done}");
            Ok(())
        } else if faulted.starting && done.code != 0 {
            tally.errors += 1;
            if self.alone { self.scene.is_unchanged(self.bundle) } else { Ok(()) }
        } else if fault == Fault::Kill && done.code == 137 && at + 1 == faulted.calls {
            // It was the program already that was killed, as far as one can tell from outside.
            tally.killed += 1;
            Ok(())
        } else if done.code == 0 {
            match faulted.killed {
                true => tally.killed += 1,
                false => *tally.ignored.entry(hit.to_string()).or_default() += 1,
            }
            (self.check)(&faulted)
        } else {
            if fault == Fault::Kill {
                tally.killed += 1
            } else {
                tally.errors += 1
            }
            is_one_error(&faulted).and_then(|()| match self.alone {
                true => self.scene.is_unchanged(self.bundle),
                false => Ok(()),
            })
        };
        outcome
            .and_then(|()| (self.clean)())
            .and_then(|()| self.scene.is_unchanged(self.bundle))
            .with_context(|| hit.to_string())
    }
}

/// One line on standard error, of more than a word.
fn is_one_error(faulted: &Faulted) -> Result<()> {
    let done = &faulted.finished;
    ensure!(done.code == 1 || done.code == 255, "{done}");
    let lines: Vec<_> = done.stderr.lines().collect();
    ensure!(lines.len() == 1 && lines[0].contains("level=error msg="), "not one error: {done}");
    Ok(())
}

/// The picture that a container shows when nothing is wrong.
fn picture_of(c: &mut Container, expected: &str) -> Result<String> {
    c.create()?.start()?;
    ensure!(c.wait_exit()? == 0, "{:?}", c.stderr()?);
    let picture = c.stdout()?;
    ensure!(picture.contains(expected), "{picture}");
    remove(c)?;
    Ok(picture)
}

/// Removes the container, whatever it has come to, and its pid file.
fn remove(c: &Container) -> Result<()> {
    c.delete()?;
    if c.pid_file().exists() {
        fs::remove_file(c.pid_file())?;
    }
    c.host.reap_orphans()
}

fn is_same(picture: &str, expected: &str) -> Result<()> {
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<BTreeSet<_>>();
    let (found, wanted) = (lines(picture), lines(expected));
    let (new, gone): (Vec<_>, Vec<_>) =
        (found.difference(&wanted).collect(), wanted.difference(&found).collect());
    ensure!(picture == expected, "another picture: {new:?} instead of {gone:?}");
    Ok(())
}

/// `create`: up to a container that shows the right picture when it is started.
fn create(name: &str, whose: Whose, mut c: Container, expected: &str, fresh_cache: bool) -> Result<()> {
    let picture = picture_of(&mut c, expected)?;
    let clear = || match fresh_cache {
        true => c.host.runtime().args(["wasm", "prune", "--all"]).finish()?.ok().map(drop),
        false => Ok(()),
    };
    clear()?;
    let whole = Cell::new(0);
    let case = Case {
        name,
        whose,
        scene: &Scene::set(c.host, c.bundle())?,
        bundle: c.bundle(),
        prepare: &mut || Ok(c.create_command(&[])),
        check: &mut |faulted| {
            faulted.finished.clone().ok()?;
            if faulted.hit.is_none() {
                whole.set(faulted.calls);
            }
            // Its process was killed when `create` had done its part, or could not read the word that says so.
            let last_word = faulted.hit == Some(Sysno::read) && faulted.at + AFTER_CREATE >= whole.get();
            if whose == Whose::Child && (faulted.killed || last_word) {
                c.wait_status("stopped")?;
                return c
                    .verb("start")
                    .finish()?
                    .fails_with("cannot start a container that has stopped")
                    .map(drop);
            }
            c.start()?;
            let pid = fs::read_to_string(c.pid_file())?.parse()?;
            ensure!(coracle_integration::reap(pid)? == 0, "{}", faulted.stdout()?);
            is_same(&faulted.stdout()?, &picture)
        },
        clean: &mut || remove(&c).and_then(|()| clear()),
        alone: true,
    };
    case.sweep()
}

/// `start` of a created container.
fn start(name: &str, mut c: Container, expected: &str) -> Result<()> {
    let picture = picture_of(&mut c, expected)?;
    let scene = Scene::set(c.host, c.bundle())?;
    let (bundle, c) = (c.bundle().to_owned(), RefCell::new(c));
    let case = Case {
        name,
        whose: Whose::Program,
        scene: &scene,
        bundle: &bundle,
        prepare: &mut || {
            let mut c = c.borrow_mut();
            c.create()?;
            Ok(c.verb("start"))
        },
        check: &mut |faulted| {
            faulted.finished.clone().ok()?;
            ensure!(c.borrow().wait_exit()? == 0);
            is_same(&c.borrow().stdout()?, &picture)
        },
        clean: &mut || remove(&c.borrow()),
        alone: false,
    };
    case.sweep()
}

/// `exec` in a running container, in which nothing may stay of it.
fn exec(name: &str, whose: Whose, mut c: Container, program: &[&str], expected: &str) -> Result<()> {
    c.create()?.start()?;
    let picture = c.exec(program)?.ok()?.stdout;
    ensure!(picture.contains(expected), "{picture}");
    let case = Case {
        name,
        whose,
        scene: &Scene::set(c.host, c.bundle())?,
        bundle: c.bundle(),
        prepare: &mut || {
            let mut command = c.verb("exec");
            command.args(program);
            Ok(command)
        },
        check: &mut |faulted| is_same(&faulted.finished.clone().ok()?.stdout, &picture),
        clean: &mut || c.host.reap_orphans(),
        alone: true,
    };
    case.sweep()?;
    ensure!(c.status()? == "running");
    remove(&c)
}

/// `delete --force` of a running container.
fn delete(name: &str, mut c: Container) -> Result<()> {
    c.create()?.start()?;
    remove(&c)?;
    let scene = Scene::set(c.host, c.bundle())?;
    let (bundle, c) = (c.bundle().to_owned(), RefCell::new(c));
    let case = Case {
        name,
        whose: Whose::Program,
        scene: &scene,
        bundle: &bundle,
        prepare: &mut || {
            let mut c = c.borrow_mut();
            c.create()?.start()?;
            fs::remove_file(c.pid_file())?;
            Ok(c.verb_with("delete", &["--force"]))
        },
        check: &mut |faulted| {
            faulted.finished.clone().ok()?;
            scene.is_unchanged(&bundle)
        },
        clean: &mut || remove(&c.borrow()),
        alone: false,
    };
    case.sweep()
}

/// A module in the place of the script.
fn module<'h>(host: &'h Host, guest: &str) -> Result<Container<'h>> {
    let mut c = demanding(host, "")?;
    c.config["process"]["args"] = json!(["/main.wasm"]);
    c.install(&wat(guest)?, "main.wasm")?;
    c.save()?;
    Ok(c)
}

const CONFINED: &str = "NoNewPrivs:\t1";
const HELLO: &str = "hello from a module";
const WAIT: &str = "exec sleep 100000";

#[test]
fn create_native() -> Result<()> {
    let host = Host::new()?;
    create("`create`", Whose::Program, demanding(&host, PICTURE)?, CONFINED, false)
}

#[test]
fn create_native_inside() -> Result<()> {
    let host = Host::new()?;
    create("`create`, its child", Whose::Child, demanding(&host, PICTURE)?, CONFINED, false)
}

#[test]
fn create_wasm() -> Result<()> {
    let host = Host::new()?;
    create("`create`, Wasm, compiled", Whose::Program, module(&host, "hello")?, HELLO, true)
}

#[test]
fn create_wasm_inside() -> Result<()> {
    let host = Host::new()?;
    create("`create`, Wasm, its child", Whose::Child, module(&host, "hello")?, HELLO, false)
}

#[test]
fn start_native() -> Result<()> {
    let host = Host::new()?;
    start("`start`", demanding(&host, PICTURE)?, CONFINED)
}

#[test]
fn start_wasm() -> Result<()> {
    let host = Host::new()?;
    start("`start`, Wasm", module(&host, "hello")?, HELLO)
}

#[test]
fn exec_native() -> Result<()> {
    let host = Host::new()?;
    exec("`exec`", Whose::Program, demanding(&host, WAIT)?, &["sh", "-c", PICTURE], CONFINED)
}

#[test]
fn exec_native_inside() -> Result<()> {
    let host = Host::new()?;
    exec("`exec`, its child", Whose::Child, demanding(&host, WAIT)?, &["sh", "-c", PICTURE], CONFINED)
}

#[test]
fn exec_wasm() -> Result<()> {
    let host = Host::new()?;
    let c = demanding(&host, WAIT)?;
    c.install(&wat("hello")?, "main.wasm")?;
    exec("`exec`, Wasm", Whose::Program, c, &["/main.wasm"], HELLO)
}

#[test]
fn delete_native() -> Result<()> {
    let host = Host::new()?;
    delete("`delete --force`", demanding(&host, WAIT)?)
}

#[test]
fn delete_wasm() -> Result<()> {
    let host = Host::new()?;
    delete("`delete --force`, Wasm", module(&host, "busy")?)
}
