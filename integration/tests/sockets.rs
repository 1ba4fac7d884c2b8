//! Every socket function of WasmEdge's, in a container with a network of its own: what it does, and what it answers to
//! what makes no sense. The guests in `guests/c/sockets` check themselves.

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

use anyhow::Result;
use coracle_integration::{Container, Host, Run, c, eventually, package};
use serde_json::json;

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

/// What the published crates make of it, neither of which connects over IPv6: the generation that has but first versions,
/// and does not learn who sent a datagram, and the one after.
#[test]
fn published_crates() -> Result<()> {
    let host = Host::new()?;
    let run = |name: &str, args: &[&str]| -> Result<String> {
        let all: Vec<_> = std::iter::once("/main.wasm").chain(args.iter().copied()).collect();
        let container = host.empty_container(&all)?;
        container.install(&package(name)?, "main.wasm")?;
        Ok(container.run()?.ok()?.stdout)
    };
    for name in ["sockets-old", "sockets-new"] {
        assert_eq!(run(name, &["tcp", "127.0.0.1:0"])?, "127.0.0.1 ok\n");
    }
    assert_eq!(run("sockets-old", &["udp", "127.0.0.1:0"])?, "127.0.0.1 ok, from nobody\n");
    assert_eq!(
        run("sockets-new", &["udp", "127.0.0.1:0", "[::1]:0"])?,
        "127.0.0.1 ok, from somebody\n::1 ok, from somebody\n"
    );
    host.is_clean()
}

/// Waiting in any function that can wait, or asking without end, a guest ends at once on SIGTERM.
#[test]
fn waiting_ends_by_a_signal() -> Result<()> {
    let host = Host::new()?;
    for what in ["accept", "recv", "waitall", "recv_from", "send", "connect", "poll", "epoll", "busy"] {
        let mut container = host.empty_container(&["/main.wasm", what])?;
        container.install(&c("sockets/block")?, "main.wasm")?;
        container.create()?.start()?;
        container.expect("waiting")?;
        // Asleep or busy: not on the way there any more.
        let state = if what == "busy" { 'R' } else { 'S' };
        eventually(what, || Ok(container.proc("stat")?.contains(&format!(") {state} "))))?;
        let start = Instant::now();
        container.kill("TERM")?;
        assert_eq!(container.wait_exit()?, 143, "{what}: {:?}", container.stdout());
        assert!(start.elapsed() < Duration::from_secs(2), "{what}: {:?}", start.elapsed());
    }
    host.is_clean()
}

/// A stop and a pause are nothing that a guest would hear of; but who waits for all of something then gets what there is.
#[test]
fn waiting_goes_on_after_a_stop() -> Result<()> {
    let host = Host::new()?;
    let all =
        ["accept", "recv", "limited", "recv_from", "send", "connect", "limited connect", "poll", "epoll"];
    for what in all {
        let mut container = host.empty_container(&["/main.wasm", what])?;
        container.install(&c("sockets/block")?, "main.wasm")?;
        container.create()?.start()?;
        container.expect("waiting")?;
        let is =
            |state: char| eventually(what, || Ok(container.proc("stat")?.contains(&format!(") {state} "))));
        for _ in 0..3 {
            is('S')?;
            container.kill("STOP")?;
            is('T')?;
            container.kill("CONT")?;
            is('S')?;
            container.verb("pause").finish()?.ok()?;
            container.verb("resume").finish()?.ok()?;
        }
        is('S')?;
        assert_eq!(container.stdout()?, "waiting\n", "{what}");
        container.kill("KILL")?;
        assert_eq!(container.wait_exit()?, 137, "{what}");
    }
    host.is_clean()
}

/// A port below 1024 is for those who have the capability; a module keeps it as a native program does.
#[test]
fn low_ports() -> Result<()> {
    let host = Host::new()?;
    let bind = |port: &str, capabilities: &[&str]| -> Result<String> {
        let mut container = host.empty_container(&["/main.wasm", "bind", port])?;
        container.install(&c("sockets/block")?, "main.wasm")?;
        for set in ["bounding", "effective", "permitted"] {
            container.config["process"]["capabilities"][set] = json!(capabilities);
        }
        Ok(container.run()?.ok()?.stdout)
    };
    assert_eq!(bind("80", &["CAP_NET_BIND_SERVICE"])?, "0\n");
    assert_eq!(bind("80", &["CAP_KILL"])?, "2\n", "access");
    assert_eq!(bind("8080", &[])?, "0\n");
    Ok(())
}
