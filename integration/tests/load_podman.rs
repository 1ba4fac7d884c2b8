//! Many short containers through podman, sixteen at a time, native and Wasm in turn: nothing may be left of them.

use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Result, ensure};
use coracle_integration::{Census, Engine, Run};

const AT_ONCE: usize = 16;

#[test]
fn short_containers_leave_nothing() -> Result<()> {
    // podman takes a third of a second of processor time for each.
    let containers = if std::env::var_os("CORACLE_FULL").is_some() { 1000 } else { 60 };
    let engine = Engine::new()?;
    let one = |n: usize| -> Result<()> {
        let native = ["-i", "native", "sh", "-c", "read word; echo $word; exit 3"];
        let (image, code) = if n.is_multiple_of(2) {
            (native.as_slice(), 3)
        } else {
            (["-i", "show", "stdin", "7"].as_slice(), 7)
        };
        let word = format!("container {n}\n");
        engine.run(image).finish_with(word.as_bytes())?.exits(code)?.prints(&word).map(drop)
    };
    // The first of each makes what stays: podman's cgroups and mount, the compiled module.
    (0..2).try_for_each(one)?;
    engine.reap()?;
    let before = Census::take()?;
    let next = AtomicUsize::new(2);
    let worker = || -> Result<()> {
        loop {
            let n = next.fetch_add(1, Ordering::Relaxed);
            if n >= containers {
                return Ok(());
            }
            one(n)?;
        }
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(worker)).collect();
        workers
            .into_iter()
            .try_for_each(|w| -> Result<()> { w.join().map_err(|_| anyhow::anyhow!("a worker panicked"))? })
    })?;
    engine.reap()?;
    before.is_as_before()?;
    let left = engine.do_podman(&["ps", "--all", "--quiet"])?.ok()?;
    ensure!(left.stdout.is_empty(), "{left}");
    engine.is_clean()
}
