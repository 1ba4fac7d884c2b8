//! Every socket function of WasmEdge's, in a container with a network of its own: what it does, and what it answers to
//! what makes no sense. The guests in `guests/c/sockets` check themselves.

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;

use anyhow::Result;
use coracle_integration::{Container, Host, c};

fn guest<'h>(host: &'h Host, name: &str) -> Result<Container<'h>> {
    let container = host.empty_container(&["/main.wasm"])?;
    container.install(&c(&format!("sockets/{name}"))?, "main.wasm")?;
    Ok(container)
}

/// Runs a guest that checks itself.
fn checks_itself(name: &str) -> Result<()> {
    let host = Host::new()?;
    guest(&host, name)?.run()?.ok()?.prints("ok")?;
    host.is_clean()
}

#[test]
fn connections() -> Result<()> {
    checks_itself("tcp")
}

#[test]
fn datagrams() -> Result<()> {
    checks_itself("udp")
}

#[test]
fn options() -> Result<()> {
    checks_itself("options")
}

#[test]
fn waiting() -> Result<()> {
    checks_itself("poll")
}

#[test]
fn waiting_for_changes() -> Result<()> {
    checks_itself("edges")
}

/// Sockets in the file system are where the guest's directories are, and nowhere else.
#[test]
fn paths() -> Result<()> {
    let host = Host::new()?;
    let mut container = guest(&host, "unix")?;
    let root = container.rootfs();
    for dir in ["run", "shut"] {
        fs::create_dir(root.join(dir))?;
    }
    fs::write(root.join("run/file"), "")?;
    symlink("/shut", root.join("run/link"))?;
    // One that would answer.
    let shut = fs::File::open(root.join("shut"))?;
    let short = format!("/proc/self/fd/{}/server", std::os::fd::AsRawFd::as_raw_fd(&shut));
    let _listener = UnixListener::bind(short)?;
    container.annotate("org.coracle.wasm.dirs", "/run::/").run()?.ok()?.prints("ok")?;
    assert_eq!(fs::read_dir(root.join("shut"))?.count(), 1);
    Ok(())
}

#[test]
fn what_makes_no_sense() -> Result<()> {
    checks_itself("misuse")
}
