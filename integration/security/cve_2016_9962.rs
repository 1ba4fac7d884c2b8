//! CVE-2016-9962: a process of the container took hold of the runtime's own in it, which is not yet its program, by
//! /proc/PID, and with that of descriptors of the host's. `get_ready` in src/init/process.rs makes that process
//! undumpable before it has the container's identity. The test looks from inside at a container that is created, and
//! tries to start it from there.

use anyhow::{Result, ensure};
use coracle_integration::Host;

#[test]
fn a_created_container_has_no_open_doors() -> Result<()> {
    let host = Host::new()?;
    let mut c = host.container(&["sleep", "1000"])?;
    c.create()?;
    let look = "for f in /proc/1/exe /proc/1/cwd /proc/1/root /proc/1/fd/*; do readlink $f && echo reached $f; done; \
         for f in mem environ maps auxv io stack; do head -c1 /proc/1/$f > /dev/null && echo read $f; done; \
         for n in $(seq 0 40); do echo > /proc/1/fd/$n && echo written $n; done; echo looked";
    c.exec(&["sh", "-c", look])?.ok()?.prints("looked")?;
    ensure!(c.status()? == "created", "it was started from inside");
    c.start()?;
    c.wait_status("running")
}
