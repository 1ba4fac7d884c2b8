//! CVE-2025-52881 (and CVE-2019-16884, CVE-2019-19921): what runc wrote to procfs, labels and sysctls among it, went to a file
//! of an attacker's, or to another one of procfs, when mounts were raced or a fake procfs lay in the way. Here `Procfs`
//! (src/procfs.rs) is the host's, opened before any namespace is joined and proven to be procfs; and `masks` (src/rootfs/)
//! looks below the mount that was made. The tests bring a fake procfs, and exchange the real one for it.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use coracle_integration::{Container, Host, Job, Run, command};
use rustix::fs::{StatVfsMountFlags, statvfs};
use serde_json::{Value, json};

use crate::canary::Canary;
use crate::cve_2025_31133::is_masked;
use crate::swap::{Swapper, attempts};

/// A process in namespaces of its own, in which links to the canary lie where procfs has these files.
fn fake_procfs(canary: &Canary, unshare: &[&str], files: &[&str]) -> Result<Job> {
    let mut script = String::from("mount -t tmpfs fake /proc && ");
    for file in files {
        let directory = std::path::Path::new(file).parent().context("a file")?.display();
        script += &format!("mkdir -p {directory} && ln -s {}/file {file} && ", canary.path().display());
    }
    let mut attacker = command("unshare");
    attacker.args(unshare).args(["sh", "-c", &(script + "echo faked && exec sleep 1000")]);
    // It must not outlive this test program.
    let mut attacker = attacker_dies_with_us(attacker).job()?;
    attacker.expect("faked")?;
    Ok(attacker)
}

fn attacker_dies_with_us(attacker: Command) -> Command {
    let mut wrapped = command("setpriv");
    wrapped.args(["--pdeathsig", "KILL"]).arg(attacker.get_program()).args(attacker.get_args());
    wrapped
}

fn join(c: &mut Container, kind: &str, name: &str, attacker: &Job) {
    c.namespace(kind, Some(PathBuf::from(format!("/proc/{}/ns/{name}", attacker.pid())).as_path()));
}

/// The mount namespace that a container joins is another one's, and so is its /proc.
#[test]
fn sysctls_are_the_kernels() -> Result<()> {
    let host = Host::new()?;
    let canary = Canary::plant(&host, "canary")?;
    let files = ["/proc/sys/net/ipv4/ip_default_ttl", "/proc/sys/kernel/shm_rmid_forced"];
    let attacker = fake_procfs(&canary, &["--mount", "--propagation=private"], &files)?;
    let mut c = host.container(&["cat", files[0], files[1]])?;
    join(&mut c, "mount", "mnt", &attacker);
    c.config["linux"]["sysctl"] = json!({"net.ipv4.ip_default_ttl": "77", "kernel.shm_rmid_forced": "1"});
    c.run()?.ok()?.prints("77\n1")?;
    canary.is_untouched()
}

#[test]
fn clocks_are_set_in_the_kernel() -> Result<()> {
    let host = Host::new()?;
    let canary = Canary::plant(&host, "canary")?;
    let flags = ["--user", "--map-root-user", "--mount", "--propagation=private"];
    let attacker = fake_procfs(&canary, &flags, &["/proc/self/timens_offsets"])?;
    let mut c = host.container(&["uptime"])?;
    join(&mut c, "user", "user", &attacker);
    join(&mut c, "mount", "mnt", &attacker);
    c.namespace("time", None);
    c.config["linux"]["timeOffsets"] = json!({"boottime": {"secs": 864_000_000}});
    // procfs cannot be mounted where there is none.
    c.config["mounts"] = json!([]);
    c.config["linux"]["maskedPaths"] = json!([]);
    c.config["linux"]["readonlyPaths"] = json!([]);
    c.run()?.ok()?.prints_some("up 100")?;
    canary.is_untouched()
}

/// The procfs of a container, wherever it is by now.
fn procfs(c: &Container) -> Result<PathBuf> {
    let mounts = c.proc("mountinfo")?;
    let mount = mounts.lines().find(|line| line.contains(" - proc ") && line.split(' ').nth(3) == Some("/"));
    let place = mount.and_then(|line| line.split(' ').nth(4)).context("no procfs")?;
    Ok(PathBuf::from(format!("/proc/{}/root{place}", c.pid()?)))
}

/// Somebody who shares the root file system moves the procfs that was just mounted aside, and has a fake one masked.
#[test]
fn the_procfs_that_is_masked_is_the_one_that_was_mounted() -> Result<()> {
    let host = Host::new()?;
    let mut c = host.container(&["sleep", "1000"])?;
    let fake = c.rootfs().join("fake");
    let paths = |name: &str| -> Vec<String> {
        let list = c.config["linux"][name].as_array().into_iter().flatten().filter_map(Value::as_str);
        list.filter_map(|path| path.strip_prefix("/proc/")).map(str::to_owned).collect()
    };
    let (masked, read_only) = (paths("maskedPaths"), paths("readonlyPaths"));
    for path in masked.iter().chain(&read_only) {
        fs::create_dir_all(fake.join(path))?;
    }
    let id = c.id.clone();
    attempts(|round| {
        let swapper = Swapper::start(&c.rootfs(), "proc", "fake")?;
        c.id = format!("{id}-{round}");
        let done = c.try_create(&[])?;
        drop(swapper);
        if done.code != 0 {
            return Ok(false);
        }
        let procfs = procfs(&c)?;
        for path in &masked {
            ensure!(is_masked(&procfs.join(path))?, "{path} below {} is not masked", procfs.display());
        }
        for path in read_only.iter().map(|path| procfs.join(path)).filter(|path| path.exists()) {
            let flags = statvfs(&path)?.f_flag;
            ensure!(flags.contains(StatVfsMountFlags::RDONLY), "{} can be written to", path.display());
        }
        c.delete()?;
        c.wait_exit()?;
        Ok(procfs.ends_with("fake"))
    })
}
