//! 500 containers, eight at a time, native and Wasm in turn: nothing may be left of them.

use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Result, ensure};
use coracle_integration::{Census, Host, Run, wat};

const CONTAINERS: usize = 500;
const AT_ONCE: usize = 8;

#[test]
fn five_hundred_containers_leave_nothing() -> Result<()> {
    // Modules cannot be run when the reference runtime is under test.
    let wasm = !coracle_integration::coracle().ends_with("runc");
    let before = Census::take()?;
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| -> Result<()> {
        let worker = || -> Result<()> {
            let host = Host::new()?;
            // One bundle for all of a worker's containers: their root file systems would fill the disk.
            let mut native = host.container(&["sh", "-c", "exit 3"])?;
            let mut module = host.container(&["/main.wasm"])?;
            module.install(&wat("exit7")?, "main.wasm")?;
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                if n >= CONTAINERS {
                    return host.is_clean();
                }
                let (c, code) = if wasm && n % 2 == 1 { (&mut module, 7) } else { (&mut native, 3) };
                c.id = format!("{}-{n}", host.name());
                c.config["linux"]["cgroupsPath"] = serde_json::json!(format!("/{}/{n}", host.name()));
                c.create()?.start()?;
                let found = c.wait_exit()?;
                ensure!(found == code, "container {n} ended with {found}");
                c.verb("delete").finish()?.ok()?;
            }
        };
        let workers: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(worker)).collect();
        for worker in workers {
            worker.join().map_err(|_| anyhow::anyhow!("a worker panicked"))??;
        }
        Ok(())
    })?;
    before.is_as_before()
}
