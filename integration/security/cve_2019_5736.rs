//! CVE-2019-5736: an image had the runtime run itself (by a program or interpreter /proc/self/exe, with a library that
//! waits), and a process of the container then wrote to the runtime's file through /proc/PID/exe. Here what enters a
//! container is a static program that runs from a read-only view which nobody can remount (`protect` and `reopen` in
//! src/program.rs), and so do handlers (`open_handler` in src/wasm/mod.rs). The tests hold such files in every state of
//! a container, by a process with the capabilities to remount, and write to them by every call there is.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use coracle_integration::{Container, Host, Run, command, eventually, native, reap, wat};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::canary::Canary;

/// More than an image should ever get; without CAP_DAC_READ_SEARCH, with which any file of a host can be opened by its
/// number.
const CAPABILITIES: [&str; 12] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_LINUX_IMMUTABLE",
    "CAP_MKNOD",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_SYS_ADMIN",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
];

/// A container with these capabilities.
fn strong<'h>(host: &'h Host, args: &[&str]) -> Result<Container<'h>> {
    let mut c = host.container(args)?;
    for set in ["bounding", "effective", "permitted"] {
        c.config["process"]["capabilities"][set] = json!(CAPABILITIES);
    }
    Ok(c)
}

/// Where the attacker is, whose processes outlive their prey.
fn attacker(host: &Host) -> Result<Container<'_>> {
    let mut c = strong(host, &["sleep", "1000"])?;
    c.install(&native("overwrite")?, "/overwrite")?;
    c.create()?.start()?;
    Ok(c)
}

/// A container whose processes the attacker sees, as in a pod.
fn prey<'h>(host: &'h Host, attacker: &Container, args: &[&str]) -> Result<Container<'h>> {
    let mut c = strong(host, args)?;
    c.namespace("pid", Some(Path::new(&format!("/proc/{}/ns/pid", attacker.pid()?))));
    symlink("/proc/self/exe", c.rootfs().join("link"))?;
    fs::write(c.rootfs().join("script"), "#!/proc/self/exe --root\n")?;
    fs::set_permissions(c.rootfs().join("script"), fs::Permissions::from_mode(0o755))?;
    // The runtime waits where it is told to write its log.
    command("mkfifo").arg(c.rootfs().join("wait")).finish()?.ok()?;
    // What a dynamic linker would read.
    for (name, value) in [("LD_PRELOAD", "/library.so"), ("LD_LIBRARY_PATH", "/")] {
        c.config["process"]["env"].as_array_mut().context("env")?.push(json!(format!("{name}={value}")));
    }
    fs::write(c.rootfs().join("etc/ld.so.preload"), "/library.so\n")?;
    fs::write(c.rootfs().join("library.so"), "")?;
    Ok(c)
}

/// Ends a container. Until its zombie is gone too, the pid namespace cannot end.
fn end(c: &Container) -> Result<()> {
    c.delete()?;
    reap(c.pid()?).map(drop)
}

/// Command lines that make the runtime run itself and wait.
const RECURSIONS: [&[&str]; 3] = [
    &["/proc/self/exe", "--log", "/wait", "list"],
    &["/link", "--log", "/wait", "list"],
    &["/script", "--log", "/wait", "list"],
];

/// The number that a process has in its own pid namespace.
fn inside(pid: i32) -> Result<String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let numbers = status.lines().find_map(|l| l.strip_prefix("NSpid:")).context("NSpid")?;
    Ok(numbers.split_whitespace().last().context("NSpid")?.to_owned())
}

/// An attack on files, by their paths inside.
struct Attack<'a> {
    c: &'a Container<'a>,
    number: usize,
    pid: i32,
}

impl<'a> Attack<'a> {
    /// Takes hold of a process's program, and of all its descriptors but the standard streams, and tries them.
    fn on(c: &'a Container<'a>, number: usize, pid: i32) -> Result<Self> {
        let inside = inside(pid)?;
        let script = format!(
            "fds=$(ls /proc/{inside}/fd | grep -v '^[012]$' | sed 's|^|/proc/{inside}/fd/|'); \
             exec /overwrite /go{number} /proc/{inside}/exe $fds > /report{number} 2>&1"
        );
        let file = c.bundle().join("attack.pid");
        c.exec_with(&["--detach", "--pid-file", file.to_str().context("path")?], &["sh", "-c", &script])?
            .ok()?;
        let attack = Attack { c, number, pid: fs::read_to_string(file)?.parse()? };
        eventually("the first attack", || Ok(attack.report().contains("ready")))?;
        let holds = format!("holds /proc/{inside}/exe");
        ensure!(attack.report().contains(&holds), "no hold on the program: {}", attack.report());
        Ok(attack)
    }

    fn report(&self) -> String {
        fs::read_to_string(self.c.rootfs().join(format!("report{}", self.number))).unwrap_or_default()
    }

    /// Tries again, when no process runs the programs any more.
    fn has_failed(self) -> Result<()> {
        eventually("idle programs", || Ok(!is_busy(self.c.host.programs())?))?;
        fs::write(self.c.rootfs().join(format!("go{}", self.number)), "")?;
        eventually("the second attack", || Ok(self.report().contains("done")))?;
        reap(self.pid)?;
        ensure!(!self.report().contains("WON"), "{}", self.report());
        Ok(())
    }
}

/// Whether a process runs a program of this directory, through whatever mount.
fn is_busy(programs: &Path) -> Result<bool> {
    let inode = |path: &Path| fs::metadata(path).map(|file| (file.dev(), file.ino())).ok();
    let files: Vec<_> = fs::read_dir(programs)?.flatten().filter_map(|entry| inode(&entry.path())).collect();
    let running = fs::read_dir("/proc")?.flatten().filter_map(|entry| inode(&entry.path().join("exe")));
    Ok(running.into_iter().any(|program| files.contains(&program)))
}

/// Everything that is mapped from a file is of the program's own file.
fn has_no_library(pid: i32) -> Result<()> {
    let program = fs::metadata(format!("/proc/{pid}/exe"))?.ino();
    let maps = fs::read_to_string(format!("/proc/{pid}/maps"))?;
    let inodes: BTreeSet<u64> =
        maps.lines().filter_map(|l| l.split_whitespace().nth(4)?.parse().ok()).filter(|i| *i != 0).collect();
    ensure!(inodes == BTreeSet::from([program]), "mapped:\n{maps}");
    Ok(())
}

/// Whether a process waits for the other side of a fifo that it opens.
fn waits(pid: i32) -> Result<bool> {
    Ok(fs::read_to_string(format!("/proc/{pid}/wchan"))?.contains("wait_for_partner"))
}

fn runs_the_runtime(pid: i32, host: &Host) -> Result<bool> {
    let runtime = fs::metadata(host.programs().join("coracle"))?.ino();
    Ok(fs::metadata(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe.ino() == runtime))
}

#[test]
fn by_a_container_that_is_created() -> Result<()> {
    let host = Host::with_own_programs()?;
    let canary = Canary::watch(host.programs())?;
    let attacker = attacker(&host)?;
    let mut c = prey(&host, &attacker, &["sleep", "1000"])?;
    c.create()?;
    has_no_library(c.pid()?)?;
    let attack = Attack::on(&attacker, 0, c.pid()?)?;
    end(&c)?;
    attack.has_failed()?;
    canary.is_untouched()
}

#[test]
fn by_init() -> Result<()> {
    let host = Host::with_own_programs()?;
    let canary = Canary::watch(host.programs())?;
    let attacker = attacker(&host)?;
    for (number, args) in RECURSIONS.iter().enumerate() {
        let mut c = prey(&host, &attacker, args)?;
        c.create()?.start()?;
        let pid = c.pid()?;
        eventually("the log to be opened", || waits(pid))?;
        ensure!(runs_the_runtime(pid, &host)?, "{args:?} runs something else");
        has_no_library(pid)?;
        let attack = Attack::on(&attacker, number, pid)?;
        end(&c)?;
        attack.has_failed()?;
    }
    canary.is_untouched()
}

/// The process beside init, once it waits.
fn executed(c: &Container) -> Result<i32> {
    let mut found = None;
    eventually("the process of exec", || {
        let pids = c.verb_with("ps", &["--format", "json"]).finish()?.ok()?;
        let pids: Vec<i32> = serde_json::from_str(&pids.stdout)?;
        found = pids.into_iter().find(|pid| waits(*pid).unwrap_or(false));
        Ok(found.is_some())
    })?;
    found.context("no process")
}

#[test]
fn by_exec() -> Result<()> {
    let host = Host::with_own_programs()?;
    let canary = Canary::watch(host.programs())?;
    let attacker = attacker(&host)?;
    let mut c = prey(&host, &attacker, &["sleep", "1000"])?;
    c.create()?.start()?;
    for (number, args) in RECURSIONS.iter().enumerate() {
        let mut job = c.verb("exec").args(*args).job()?;
        let pid = executed(&c)?;
        ensure!(runs_the_runtime(pid, &host)?, "{args:?} runs something else");
        has_no_library(pid)?;
        let attack = Attack::on(&attacker, number, pid)?;
        c.verb("kill").args(["--all", "KILL"]).finish()?;
        job.wait()?.exits(137)?;
        end(&c)?;
        attack.has_failed()?;
        c.create()?.start()?;
    }
    canary.is_untouched()
}

/// What runs a module is a program of the host's too, in the container from its creation to its end.
#[test]
fn by_modules() -> Result<()> {
    let host = Host::with_own_programs()?;
    let canary = Canary::watch(host.programs())?;
    let attacker = attacker(&host)?;
    let mut c = prey(&host, &attacker, &["/main.wasm"])?;
    c.install(&wat("busy")?, "/main.wasm")?;
    c.create()?;
    let created = Attack::on(&attacker, 0, c.pid()?)?;
    c.start()?;
    let handler = fs::metadata(host.programs().join("coracle-wasi"))?.ino();
    let runs = |pid: i32| fs::metadata(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe.ino() == handler);
    eventually("the module to run", || Ok(runs(c.pid()?)))?;
    let running = Attack::on(&attacker, 1, c.pid()?)?;
    let mut native = prey(&host, &attacker, &["sleep", "1000"])?;
    native.install(&wat("busy")?, "/main.wasm")?;
    native.create()?.start()?;
    let file = native.bundle().join("exec.pid");
    let flags = ["--detach", "--pid-file", file.to_str().context("path")?];
    native.exec_with(&flags, &["/main.wasm"])?.ok()?;
    let pid = fs::read_to_string(file)?.parse()?;
    eventually("the executed module to run", || Ok(runs(pid)))?;
    let executed = Attack::on(&attacker, 2, pid)?;
    end(&native)?;
    reap(pid)?;
    end(&c)?;
    for attack in [created, running, executed] {
        attack.has_failed()?;
    }
    canary.is_untouched()
}

/// Root of an ordinary user's container owns what that user owns, which may be the runtime. The user may mount nothing, so
/// that it runs from a sealed copy.
#[test]
fn by_an_ordinary_users_container() -> Result<()> {
    const USER: u32 = 64_126;
    let host = Host::with_own_programs()?;
    let mut c = host.container(&[])?;
    c.install(&native("overwrite")?, "/overwrite")?;
    symlink("/proc/self/exe", c.rootfs().join("link"))?;
    command("mkfifo").arg(c.rootfs().join("wait")).finish()?.ok()?;
    command("chown").arg("-R").arg(format!("{USER}:{USER}")).arg(host.path()).finish()?.ok()?;
    let canary = Canary::watch(host.programs())?;

    let spec = c.bundle().join("spec");
    fs::create_dir(&spec)?;
    host.runtime().args(["spec", "--rootless"]).current_dir(&spec).finish()?.ok()?;
    c.config = serde_json::from_slice(&fs::read(spec.join("config.json"))?)?;
    for mappings in ["uidMappings", "gidMappings"] {
        c.config["linux"][mappings] = json!([{"containerID": 0, "hostID": USER, "size": 1}]);
    }
    c.config["process"]["args"] = json!(["sleep", "1000"]);
    c.config["process"]["terminal"] = json!(false);
    c.config["root"]["readonly"] = json!(false);
    let as_user = |mut command: Command| {
        command.env("XDG_RUNTIME_DIR", host.path()).env("HOME", host.path()).uid(USER).gid(USER);
        command
    };
    as_user(c.run_command(&["--detach"])?).finish()?.ok()?;
    let file = c.bundle().join("exec.pid");
    let flags = ["--detach", "--pid-file", file.to_str().context("path")?];
    let mut exec = as_user(c.verb_with("exec", &flags));
    exec.args(RECURSIONS[1]).finish()?.ok()?;
    let prey: i32 = fs::read_to_string(&file)?.parse()?;
    eventually("the log to be opened", || waits(prey))?;
    ensure!(!runs_the_runtime(prey, &host)?, "it runs the user's own file");

    let program = format!("/proc/{}/exe", inside(prey)?);
    let mut attack = as_user(c.verb("exec")).args(["/overwrite", "/go", &program]).job()?;
    attack.expect("ready")?;
    kill_process(Pid::from_raw(prey).context("pid")?, Signal::KILL)?;
    reap(prey)?;
    fs::write(c.rootfs().join("go"), "")?;
    let done = attack.wait()?.ok()?;
    as_user(c.verb_with("delete", &["--force"])).finish()?.ok()?;
    ensure!(done.stdout.contains("holds") && done.stdout.contains("done"), "no attack: {done}");
    for how in ["path", "place", "write", "truncate", "map", "remount"] {
        ensure!(!done.stdout.contains(&format!("WON {how}")), "{done}");
    }
    canary.is_untouched()
}
