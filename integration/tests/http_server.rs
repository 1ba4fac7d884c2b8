//! An asynchronous HTTP server as a guest: `integration/guests/crates/server`, on hyper and tokio for WasmEdge's sockets.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use coracle_integration::http::Client;
use coracle_integration::{Container, Engine, Host, Run, after, command, eventually, package};
use serde_json::json;

/// The server in a container with the host's network, and where it listens.
struct Server<'h> {
    container: Container<'h>,
    address: SocketAddr,
}

impl<'h> Server<'h> {
    fn start(host: &'h Host) -> Result<Server<'h>> {
        Self::start_on(host, "127.0.0.1:0", 4096)
    }

    fn start_on(host: &'h Host, address: &str, descriptors: u64) -> Result<Server<'h>> {
        let mut container = host.empty_container(&["/server.wasm", address])?;
        container.install(&package("server")?, "server.wasm")?;
        container.without_namespace("network");
        container.config["process"]["rlimits"] =
            json!([{"type": "RLIMIT_NOFILE", "soft": descriptors, "hard": descriptors}]);
        container.create()?.start()?;
        container.expect("\n")?;
        let said = container.stdout()?;
        let address = said.trim().strip_prefix("listening on ").context(said.clone())?.parse()?;
        Ok(Server { container, address })
    }

    fn connect(&self) -> Result<Client> {
        Client::connect(self.address)
    }

    /// It still answers, on a new connection.
    fn is_alive(&self) -> Result<()> {
        let answer = self.connect()?.request("GET", "/", b"")?.is(200)?;
        ensure!(answer.text() == "hello\n", "{answer:?}");
        Ok(())
    }

    fn descriptors(&self) -> Result<usize> {
        Ok(fs::read_dir(format!("/proc/{}/fd", self.container.pid()?))?.count())
    }

    /// The processor time that it has used.
    fn cpu(&self) -> Result<Duration> {
        let stat = self.container.proc("stat")?;
        // Fields 14 and 15; the name in parentheses is the second.
        let (_, rest) = stat.rsplit_once(") ").context("stat")?;
        let ticks: Vec<u64> = rest.split(' ').skip(11).take(2).map(str::parse).collect::<Result<_, _>>()?;
        Ok(Duration::from_millis(ticks.iter().sum::<u64>() * 1000 / rustix::param::clock_ticks_per_second()))
    }

    /// The processor time that it uses while nobody asks anything of it.
    fn cpu_in(&self, time: Duration) -> Result<Duration> {
        let before = self.cpu()?;
        std::thread::sleep(time);
        Ok(self.cpu()? - before)
    }

    /// Ends it by a signal, which it obeys at once.
    fn terminate(self) -> Result<()> {
        let start = Instant::now();
        self.container.kill("TERM")?;
        assert_eq!(self.container.wait_exit()?, 143);
        assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
        self.container.delete()?;
        self.container.host.is_clean()
    }
}

/// The bytes of a download, from a position on.
fn pattern(from: usize) -> impl Iterator<Item = u8> {
    (from..).map(|position| (position % 251) as u8)
}

/// Receives so many bytes of a download.
fn receive(client: &mut Client, from: usize, length: usize) -> Result<()> {
    let mut bytes = vec![0; length];
    client.reader().read_exact(&mut bytes)?;
    ensure!(
        bytes.into_iter().eq(pattern(from).take(length)),
        "other bytes between {from} and {}",
        from + length
    );
    Ok(())
}

#[test]
fn requests_follow_each_other_on_a_connection() -> Result<()> {
    let host = Host::new()?;
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let server = Server::start_on(&host, address, 64)?;
        assert_eq!(server.address.is_ipv6(), address.starts_with('['));
        let mut client = server.connect()?;
        for _ in 0..100 {
            assert_eq!(client.request("GET", "/", b"")?.is(200)?.text(), "hello\n");
        }
        client.request("GET", "/nowhere", b"")?.is(404)?;
        client.request("DELETE", "/", b"")?.is(404)?;
        let body: Vec<u8> = pattern(7).take(3_000_000).collect();
        // Both sides' buffers are full long before the last byte is sent: one thread has to receive meanwhile.
        let mut sender = client.stream().try_clone()?;
        let echoed = std::thread::scope(|scope| {
            scope.spawn(|| {
                let head =
                    format!("POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", body.len());
                sender.write_all(head.as_bytes()).and_then(|()| sender.write_all(&body))
            });
            client.receive()
        })?;
        assert!(echoed.is(200)?.body == body);
        // In pieces, of which neither side knows the number.
        client.stream().write_all(b"POST /echo HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")?;
        for piece in ["4\r\nwasi\r\n", "1\r\n \r\n", "7\r\nsockets\r\n", "0\r\n\r\n"] {
            client.stream().write_all(piece.as_bytes())?;
        }
        assert_eq!(client.receive()?.is(200)?.text(), "wasi sockets");
        // Pipelined: all sent before the first is received.
        for path in ["/", "/bytes/1000", "/after/20", "/nowhere", "/"] {
            client.send("GET", path, b"")?;
        }
        let answers: Vec<_> = (0..5).map(|_| client.receive()).collect::<Result<_>>()?;
        assert_eq!(answers.iter().map(|it| it.status).collect::<Vec<_>>(), [200, 200, 200, 404, 200]);
        assert!(answers[1].body.iter().copied().eq(pattern(0).take(1000)));
        assert_eq!(answers[2].text(), "hello at last\n");
        // The last one, as its client says.
        client.stream().write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")?;
        client.receive()?.is(200)?;
        client.is_closed()?;
        // What is no HTTP at all.
        let mut client = server.connect()?;
        client.stream().write_all(b"\x16\x03\x01\x00\xff\r\n\r\n")?;
        client.receive()?.is(400)?;
        client.is_closed()?;
        server.terminate()?;
    }
    Ok(())
}

#[test]
fn a_thousand_connections_at_once() -> Result<()> {
    let host = Host::new()?;
    let server = Server::start(&host)?;
    let before = server.descriptors()?;
    let mut clients: Vec<_> = (0..1000).map(|_| server.connect()).collect::<Result<_>>()?;
    for round in 0..2 {
        for (number, client) in clients.iter_mut().enumerate() {
            client.send("POST", "/echo", format!("{round} {number}").as_bytes())?;
        }
        // The last ones first: nobody has to wait for anybody.
        for (number, client) in clients.iter_mut().enumerate().rev() {
            assert_eq!(client.receive()?.is(200)?.text(), format!("{round} {number}"));
        }
        assert_eq!(server.descriptors()?, before + 1000);
    }
    drop(clients);
    eventually("all connections to be closed", || Ok(server.descriptors()? == before))?;
    server.is_alive()?;
    server.terminate()
}

#[test]
fn more_connections_than_descriptors() -> Result<()> {
    let host = Host::new()?;
    let server = Server::start_on(&host, "127.0.0.1:0", 32)?;
    let mut clients: Vec<_> = (0..50).map(|_| server.connect()).collect::<Result<_>>()?;
    for client in &mut clients {
        client.send("GET", "/", b"")?;
    }
    // Those that wait get their turn when others have gone.
    for mut client in clients {
        client.receive()?.is(200)?;
    }
    server.is_alive()?;
    server.terminate()
}

#[test]
fn a_slow_reader_holds_up_nobody() -> Result<()> {
    const LENGTH: usize = 100 << 20;
    const STEP: usize = 10 << 20;
    let host = Host::new()?;
    let server = Server::start(&host)?;
    let mut slow = server.connect()?;
    slow.send("GET", &format!("/bytes/{LENGTH}"), b"")?;
    slow.head()?;
    for read in (0..LENGTH).step_by(STEP) {
        server.is_alive()?;
        // What a client does not take is not made.
        let resident = server.container.proc("status")?;
        let resident = resident.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
        let kib: usize = resident.trim().trim_end_matches(" kB").parse()?;
        assert!(kib < 64 << 10, "{kib} KiB after {read} bytes");
        receive(&mut slow, read, STEP)?;
    }
    slow.request("GET", "/", b"")?.is(200)?;
    server.terminate()
}

#[test]
fn connections_end_in_all_ways() -> Result<()> {
    let host = Host::new()?;
    let server = Server::start(&host)?;
    let before = server.descriptors()?;
    // Half closed: whoever has said all still gets an answer, and then the end.
    for path in ["/after/100", "/", "/bytes/10000000"] {
        let mut client = server.connect()?;
        client.send("GET", path, b"")?;
        client.stream().shutdown(Shutdown::Write)?;
        client.receive()?.is(200).context(path)?;
        client.is_closed().context(path)?;
    }
    // Half closed in the middle of a request, and before one.
    for start in ["POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\nfour", "GET / HT", ""] {
        let client = server.connect()?;
        client.stream().write_all(start.as_bytes())?;
        client.stream().shutdown(Shutdown::Write)?;
        // With an answer or without.
        let _ = client.stream().read_to_end(&mut Vec::new());
    }
    // Reset: before, in and after a request, and in the answer.
    for start in [
        "",
        "GET / HT",
        "POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 10000000\r\n\r\nfour",
        "GET / HTTP/1.1\r\nhost: x\r\n\r\n",
        "GET /after/50 HTTP/1.1\r\nhost: x\r\n\r\n",
        "GET /bytes/100000000 HTTP/1.1\r\nhost: x\r\n\r\n",
    ] {
        for pause in [0, 10] {
            let client = server.connect()?;
            client.stream().write_all(start.as_bytes())?;
            std::thread::sleep(Duration::from_millis(pause));
            rustix::net::sockopt::set_socket_linger(client.stream(), Some(Duration::ZERO))?;
            drop(client);
            server.is_alive().with_context(|| format!("after {start:?}"))?;
        }
    }
    eventually("all connections to be closed", || Ok(server.descriptors()? == before))?;
    server.terminate()
}

#[test]
fn a_stop_lets_running_requests_end() -> Result<()> {
    let host = Host::new()?;
    let server = Server::start(&host)?;
    let (mut idle, mut late, mut slow) = (server.connect()?, server.connect()?, server.connect()?);
    idle.request("GET", "/", b"")?.is(200)?;
    late.send("GET", "/after/700", b"")?;
    slow.send("GET", "/bytes/30000000", b"")?;
    slow.head()?;
    server.connect()?.request("POST", "/stop", b"")?.is(200)?;
    idle.is_closed()?;
    eventually("nobody to listen", || Ok(server.connect().is_err()))?;
    assert_eq!(late.receive()?.is(200)?.text(), "hello at last\n");
    assert_eq!(server.container.status()?, "running");
    receive(&mut slow, 0, 30_000_000)?;
    assert_eq!(server.container.wait_exit()?, 0);
    assert!(server.container.stdout()?.ends_with("\nstopped\n"));
    server.container.delete()?;
    host.is_clean()
}

#[test]
fn sigterm_ends_a_busy_server_at_once() -> Result<()> {
    let host = Host::new()?;
    let server = Server::start(&host)?;
    let (address, mut late) = (server.address, server.connect()?);
    late.send("GET", "/after/100000", b"")?;
    let mut blocked = server.connect()?;
    blocked.send("GET", "/bytes/1000000000", b"")?;
    let busy: Vec<_> = (0..4)
        .map(|_| {
            std::thread::spawn(move || {
                let Ok(mut client) = Client::connect(address) else { return 0 };
                std::iter::from_fn(|| client.request("GET", "/bytes/100000", b"").ok()).count()
            })
        })
        .collect();
    blocked.head()?;
    std::thread::sleep(Duration::from_millis(300));
    server.terminate()?;
    for client in busy {
        assert!(client.join().is_ok_and(|answers| answers > 0));
    }
    assert!(late.receive().is_err());
    Ok(())
}

#[test]
fn an_idle_server_uses_no_processor_time() -> Result<()> {
    let host = Host::new()?;
    let server = Server::start(&host)?;
    let mut clients: Vec<_> = (0..20).map(|_| server.connect()).collect::<Result<_>>()?;
    for client in &mut clients {
        client.request("GET", "/", b"")?.is(200)?;
    }
    // Connections that are kept open for later cost next to nothing, and wake it at once.
    assert!(server.cpu_in(Duration::from_secs(2))? <= Duration::from_millis(60));
    let start = Instant::now();
    for client in &mut clients {
        client.request("GET", "/", b"")?.is(200)?;
    }
    assert!(start.elapsed() < Duration::from_millis(500), "{:?}", start.elapsed());
    drop(clients);
    eventually("all connections to be closed", || Ok(server.descriptors()? <= 8))?;
    assert!(server.cpu_in(Duration::from_secs(2))? <= Duration::from_millis(10));
    server.terminate()
}

#[test]
fn in_a_network_of_its_own() -> Result<()> {
    let host = Host::new()?;
    let mut container = host.container(&["/server.wasm", "127.0.0.1:80"])?;
    container.install(&package("server")?, "server.wasm")?;
    container.create()?.start()?;
    container.expect("listening on 127.0.0.1:80\n")?;
    let url = "http://127.0.0.1/";
    container.exec(&["wget", "-q", "-O", "-", url])?.ok()?.prints("hello")?;
    let post = ["wget", "-q", "-O", "-", "--post-data", "some text", "http://127.0.0.1/echo"];
    container.exec(&post)?.ok()?.prints("some text")?;
    let post = ["wget", "-q", "-O", "-", "--post-data", "", "http://127.0.0.1/stop"];
    // The container's end may be its own, before it has said anything.
    container.exec(&post)?;
    assert_eq!(container.wait_exit()?, 0);
    assert!(container.stdout()?.ends_with("\nstopped\n"));
    container.delete()?;
    host.is_clean()
}

#[test]
fn on_podman() -> Result<()> {
    let engine = Engine::new()?;
    engine.wasm_image("server", &package("server")?)?;
    engine.start(&["--name", "server", "--network", "host", "server", "127.0.0.1:0"])?;
    engine.logged("server", "listening on")?;
    let said = engine.do_podman(&["logs", "server"])?.ok()?.stdout;
    let address = said.trim().rsplit(' ').next().context("no address")?.parse()?;
    assert_eq!(Client::connect(address)?.request("GET", "/", b"")?.is(200)?.text(), "hello\n");
    let start = Instant::now();
    engine.do_podman(&["stop", "--time=20", "server"])?.ok()?;
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    assert_eq!(engine.inspect("server", "{{.State.ExitCode}}")?, "143");
    engine.is_clean()
}

/// In a network namespace that plays the host: podman's bridge and its rules would stay on the real one.
#[test]
fn on_a_published_port() -> Result<()> {
    const SCRIPT: &str = r#"
        set -e
        ip link set lo up
        "$@" run --detach --name server --pull=never "$0" --network podman --publish 127.0.0.1:80:8080 server > /dev/null
        tries=0
        until /bin/busybox wget -q -O - http://127.0.0.1/; do
            tries=$((tries + 1)); [ $tries -lt 100 ]; sleep 0.1
        done
        /bin/busybox wget -q -O - --post-data "some text" http://127.0.0.1/echo
        "$@" rm --force --time=0 server > /dev/null
    "#;
    let engine = Engine::new()?;
    engine.wasm_image("server", &package("server")?)?;
    let script = after(SCRIPT, &engine.cgroup_parent(), &engine.podman());
    let mut inside = command("unshare");
    inside.args(["--net", "/bin/sh"]).args(script.get_args());
    inside.envs(script.get_envs().filter_map(|(key, value)| Some((key, value?))));
    inside.finish()?.ok()?.prints("hello\nsome text")?;
    engine.is_clean()
}
