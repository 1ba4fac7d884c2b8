//! Many containers, native and Wasm in turn: one after the other with sixteen at a time, and two hundred at once. The
//! host is afterwards as it was before: descriptors, mounts, cgroups, processes, memory.

use std::fs;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, anyhow, ensure};
use coracle_integration::{Census, Container, Host, Run, eventually, reap, wat};
use serde_json::json;

/// A census is about the whole program, so one test at a time.
static ALONE: Mutex<()> = Mutex::new(());

/// Modules cannot be run when another runtime is under test.
fn wasm() -> bool {
    coracle_integration::coracle().file_name().is_some_and(|name| name == "coracle")
}

/// Does something with each, at the same time.
fn with_each<T: Send>(all: &mut [T], act: impl Fn(&mut T) -> Result<()> + Sync) -> Result<()> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = all.iter_mut().map(|one| scope.spawn(|| act(one))).collect();
        // All are waited for before the first error counts.
        let ends: Vec<_> =
            threads.into_iter().map(|t| t.join().unwrap_or_else(|_| Err(anyhow!("panic")))).collect();
        ends.into_iter().collect()
    })
}

/// Two bundles for all the containers of a host: a root file system for each would fill the disk.
fn bundles<'h>(host: &'h Host, command: &[&str], module: &str) -> Result<[Container<'h>; 2]> {
    let native = host.container(command)?;
    let wasm = host.empty_container(&["/main.wasm"])?;
    wasm.install(&wat(module)?, "main.wasm")?.install(&wat("exit7")?, "exit7.wasm")?;
    Ok([native, wasm])
}

/// Makes the bundle that of container `n`.
fn number(c: &mut Container, n: usize) {
    c.id = format!("{}-{n}", c.host.name());
    c.config["linux"]["cgroupsPath"] = json!(format!("/{}/{n}", c.host.name()));
}

fn hosts(count: usize) -> Result<Vec<Host>> {
    (0..count).map(|_| Host::new()).collect()
}

#[test]
fn a_thousand_short_containers() -> Result<()> {
    let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let containers = if std::env::var_os("CORACLE_FULL").is_some() { 5000 } else { 1000 };
    let before = Census::take()?;
    let next = AtomicUsize::new(0);
    with_each(&mut hosts(16)?, |host| {
        let mut both = bundles(host, &["sh", "-c", "exit 3"], "exit7")?;
        loop {
            let n = next.fetch_add(1, Ordering::Relaxed);
            if n >= containers {
                return host.is_clean();
            }
            let kind = if wasm() { n % 2 } else { 0 };
            let c = &mut both[kind];
            number(c, n);
            c.create()?.start()?;
            let code = c.wait_exit()?;
            ensure!(code == [3, 7][kind], "container {n} ended with {code}");
            c.verb("delete").finish()?.ok()?;
        }
    })?;
    before.is_as_before()
}

/// A host with its share of the containers: their ids, pids, and whether it is a module.
struct Share {
    host: Host,
    running: Vec<(String, i32, bool)>,
}

#[test]
fn two_hundred_at_once() -> Result<()> {
    let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let (hosts_of, each) = if std::env::var_os("CORACLE_FULL").is_some() { (10, 50) } else { (8, 25) };
    let before = Census::take()?;
    let mut shares: Vec<_> =
        hosts(hosts_of)?.into_iter().map(|host| Share { host, running: Vec::new() }).collect();
    with_each(&mut shares, |Share { host, running }| {
        let mut both = bundles(host, &["sleep", "1000"], "blocked")?;
        for n in 0..each {
            let is_module = wasm() && n % 2 == 1;
            let c = &mut both[usize::from(is_module)];
            number(c, n);
            c.create()?.start()?;
            running.push((c.id.clone(), c.pid()?, is_module));
        }
        // Dropped, a bundle deletes the container that it has been last.
        both.iter_mut().for_each(|c| "none".clone_into(&mut c.id));
        Ok(())
    })?;
    with_each(&mut shares, |Share { host, running }| {
        let list = host.runtime().args(["list", "--format=json"]).finish()?.ok()?;
        let list: Vec<serde_json::Value> = serde_json::from_str(&list.stdout)?;
        ensure!(list.len() == each && list.iter().all(|entry| entry["status"] == "running"), "{list:?}");
        for (id, _, is_module) in running {
            let program = if *is_module { "/exit7.wasm" } else { "true" };
            let exec = host.runtime().args(["exec", id, program]).finish()?;
            exec.exits(if *is_module { 7 } else { 0 })?;
        }
        Ok(())
    })?;
    with_each(&mut shares, |Share { host, running }| {
        for (id, pid, _) in running {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).context("it has ended early")?;
            ensure!(!stat.contains(") Z "), "{id} has ended early");
            host.runtime().args(["kill", id, "TERM"]).finish()?.ok()?;
            host.runtime().args(["kill", id, "KILL"]).finish()?;
            reap(*pid)?;
            host.runtime().args(["delete", id]).finish()?.ok()?;
        }
        eventually("the end of everything", || Ok(host.leftovers()?.is_empty()))
    })?;
    drop(shares);
    before.is_as_before()
}
