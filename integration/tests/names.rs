//! Names in a module: its container's `/etc/hosts` and `/etc/resolv.conf`, and servers in its network namespace.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use coracle_integration::{Container, Engine, Host, Network, Run, c, eventually, package};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::json;
use simple_dns::rdata::{A, AAAA, CNAME, RData};
use simple_dns::{CLASS, Name, Packet, PacketFlag, QTYPE, RCODE, ResourceRecord, TYPE};

/// Flags of getaddrinfo(3), families and errors, in WasmEdge's numbers.
const CANONNAME: &str = "2";
const NUMERICHOST: &str = "4";
const ANY: &str = "0";
const INET4: &str = "1";
const INET6: &str = "2";
const AGAIN: u16 = 78;
const NODATA: u16 = 83;
const NONAME: u16 = 84;
const SERVICE: u16 = 85;
const SYSTEM: u16 = 87;

/// A container that sleeps, in which names can be looked up.
fn sleeping(host: &Host) -> Result<Container<'_>> {
    let mut container = host.container(&["sleep", "1000"])?;
    container.install(&c("sockets/lookup")?, "lookup.wasm")?;
    fs::create_dir_all(container.rootfs().join("etc"))?;
    container.create()?.start()?;
    Ok(container)
}

fn write(container: &Container, file: &str, text: &str) -> Result<()> {
    Ok(fs::write(container.rootfs().join("etc").join(file), text)?)
}

/// The lines that the guest prints for a name.
fn look_up(container: &Container, args: &[&str]) -> Result<Vec<String>> {
    let all: Vec<_> = std::iter::once("/lookup.wasm").chain(args.iter().copied()).collect();
    Ok(container.exec(&all)?.ok()?.stdout.lines().map(str::to_owned).collect())
}

fn error(number: u16) -> Vec<String> {
    vec![format!("error {number}")]
}

/// A name server on the loopback addresses of a container, until it is dropped.
struct NameServer {
    is_over: Arc<AtomicBool>,
    /// How many questions have come.
    asked: Arc<AtomicUsize>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl NameServer {
    fn start(container: &Container) -> Result<Self> {
        let (udp, tcp) = Network::of(container.pid()?)?.inside(|| {
            let udp =
                [UdpSocket::bind((Ipv4Addr::LOCALHOST, 53))?, UdpSocket::bind((Ipv6Addr::LOCALHOST, 53))?];
            Ok((udp, TcpListener::bind((Ipv4Addr::LOCALHOST, 53))?))
        })?;
        udp.iter().try_for_each(|it| it.set_nonblocking(true))?;
        tcp.set_nonblocking(true)?;
        let is_over = Arc::new(AtomicBool::new(false));
        let asked = Arc::new(AtomicUsize::new(0));
        let (over, count) = (is_over.clone(), asked.clone());
        let thread = std::thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                let mut query = [0; 512];
                for socket in &udp {
                    let Ok((len, peer)) = socket.recv_from(&mut query) else { continue };
                    count.fetch_add(1, Ordering::Relaxed);
                    if let Some(reply) = answer(&query[..len], false)? {
                        socket.send_to(&reply, peer)?;
                    }
                }
                if let Ok((stream, _)) = tcp.accept() {
                    serve(stream)?;
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            Ok(())
        });
        Ok(Self { is_over, asked, thread: Some(thread) })
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        if let Some(Ok(Err(error))) = self.thread.take().map(JoinHandle::join)
            && !std::thread::panicking()
        {
            panic!("the name server failed: {error:#}");
        }
    }
}

fn serve(mut stream: TcpStream) -> Result<()> {
    stream.set_nonblocking(false)?;
    let mut len = [0; 2];
    stream.read_exact(&mut len)?;
    let mut query = vec![0; u16::from_be_bytes(len).into()];
    stream.read_exact(&mut query)?;
    let reply = answer(&query, true)?.context("no answer over TCP")?;
    stream.write_all(&u16::try_from(reply.len())?.to_be_bytes())?;
    Ok(stream.write_all(&reply)?)
}

/// `web.test` has an address of each kind, `alias.test` is another name of it, `large.test` has more addresses than a
/// datagram holds, `empty.test` has none, and for `silent.test` there is no answer. There are no other names.
fn answer(query: &[u8], over_tcp: bool) -> Result<Option<Vec<u8>>> {
    let query = Packet::parse(query)?;
    let question = query.questions.first().context("no question")?;
    let mut reply = Packet::new_reply(query.id());
    reply.set_flags(PacketFlag::RECURSION_AVAILABLE);
    reply.questions.push(question.clone());
    let name = question.qname.to_string();
    let mut add = |owner: &str, data: RData<'static>| -> Result<()> {
        reply.answers.push(ResourceRecord::new(Name::new(owner)?.into_owned(), CLASS::IN, 60, data));
        Ok(())
    };
    let is_v4 = question.qtype == QTYPE::TYPE(TYPE::A);
    let mut address = |owner: &str| match is_v4 {
        true => add(owner, RData::A(A { address: Ipv4Addr::new(192, 0, 2, 1).into() })),
        false => add(owner, RData::AAAA(AAAA { address: "2001:db8::1".parse::<Ipv6Addr>()?.into() })),
    };
    match name.as_str() {
        "silent.test" => return Ok(None),
        "empty.test" => {}
        "web.test" => address("web.test")?,
        "alias.test" => {
            address("web.test")?;
            add("alias.test", RData::CNAME(CNAME(Name::new("web.test")?.into_owned())))?;
        }
        "large.test" if over_tcp => (0..100).try_for_each(|_| address("large.test"))?,
        "large.test" => reply.set_flags(PacketFlag::TRUNCATION),
        _ => *reply.rcode_mut() = RCODE::NameError,
    }
    Ok(Some(reply.build_bytes_vec_compressed()?))
}

#[test]
fn the_containers_own_files() -> Result<()> {
    let host = Host::new()?;
    let container = sleeping(&host)?;
    // None of these files is there: nobody answers, at once.
    let start = Instant::now();
    assert_eq!(look_up(&container, &["web.test", "80"])?, error(AGAIN));
    assert!(start.elapsed() < Duration::from_secs(9), "{:?}", start.elapsed());
    assert_eq!(look_up(&container, &["localhost", "http", INET4])?, ["stream 1 80 127.0.0.1"]);
    assert_eq!(look_up(&container, &["localhost", "nosuch", INET4])?, error(SERVICE));
    write(&container, "hosts", "192.0.2.7 db db.test # comment\n2001:db8::7 db\n")?;
    write(&container, "services", "nosuch 1234/udp\n")?;
    assert_eq!(
        look_up(&container, &["db", "nosuch", ANY, CANONNAME])?,
        ["dgram 2 1234 192.0.2.7 db", "dgram 2 1234 2001:db8:0:0:0:0:0:7"]
    );
    assert_eq!(look_up(&container, &["DB.test", "80", INET6, "0", "2"])?, error(AGAIN));
    assert_eq!(look_up(&container, &["db", "80", INET6, "0", "2"])?, ["stream 1 80 2001:db8:0:0:0:0:0:7"]);
    assert_eq!(look_up(&container, &["db", "http"])?, error(SERVICE));
    assert_eq!(look_up(&container, &["db", "80", ANY, NUMERICHOST])?, error(NONAME));
    assert_eq!(look_up(&container, &["", ""])?, error(NONAME));
    drop(container);
    host.is_clean()
}

#[test]
fn servers_in_the_containers_network() -> Result<()> {
    let host = Host::new()?;
    let container = sleeping(&host)?;
    let _server = NameServer::start(&container)?;
    let both = ["stream 1 80 192.0.2.1", "stream 1 80 2001:db8:0:0:0:0:0:1"];
    let stream = |name: &'static str, flags: &'static str| {
        look_up(&container, &[name, "80", ANY, flags, "2"]).with_context(|| name)
    };
    // Without the file, the server is on this host.
    assert_eq!(stream("web.test", "0")?, both);
    write(&container, "resolv.conf", "nameserver 127.0.0.1\nsearch nosuch.test test\n")?;
    assert_eq!(stream("web", "0")?, both);
    assert_eq!(
        stream("alias", CANONNAME)?,
        ["stream 1 80 192.0.2.1 web.test", "stream 1 80 2001:db8:0:0:0:0:0:1"]
    );
    assert_eq!(stream("nosuch.test", "0")?, error(NONAME));
    assert_eq!(stream("empty.test", "0")?, error(NODATA));
    assert_eq!(stream("large.test", "0")?, vec!["stream 1 80 192.0.2.1"; 16]);
    // Over IPv6; after a server that is not there; and with a limit to how long nobody answers.
    write(&container, "resolv.conf", "nameserver ::1\n")?;
    assert_eq!(stream("web.test", "0")?, both);
    let two = "nameserver 127.0.0.9\nnameserver 127.0.0.1\noptions timeout:1 attempts:1\n";
    write(&container, "resolv.conf", two)?;
    assert_eq!(stream("web.test", "0")?, both);
    let start = Instant::now();
    assert_eq!(stream("silent.test", "0")?, error(AGAIN));
    assert!((1.0..8.0).contains(&start.elapsed().as_secs_f64()), "{:?}", start.elapsed());
    Ok(())
}

/// A FIFO that nobody writes to, devices, directories, what is not text: an answer each time, and no wait.
#[test]
fn files_that_are_none() -> Result<()> {
    let host = Host::new()?;
    let container = sleeping(&host)?;
    let etc = container.rootfs().join("etc");
    let asked = |container: &Container| look_up(container, &["web.test", "80"]);
    for name in ["hosts", "resolv.conf"] {
        let path = etc.join(name);
        mknodat(CWD, &path, FileType::Fifo, Mode::from(0o666), 0)?;
        assert_eq!(asked(&container)?, error(SYSTEM), "{name}");
        fs::remove_file(&path)?;
        fs::create_dir(&path)?;
        assert_eq!(asked(&container)?, error(AGAIN), "{name}");
        fs::remove_dir(&path)?;
        for (target, number) in
            [("/dev/zero", SYSTEM), (name, AGAIN), ("/proc/self/environ", AGAIN), ("/proc/self/fd/0", AGAIN)]
        {
            std::os::unix::fs::symlink(target, &path)?;
            assert_eq!(asked(&container)?, error(number), "{name} -> {target}");
            fs::remove_file(&path)?;
        }
        File::create(&path)?.set_len(1 << 40)?;
        assert_eq!(asked(&container)?, error(SYSTEM), "{name}");
        fs::write(&path, (0..=255).cycle().take(100_000).collect::<Vec<u8>>())?;
        assert_eq!(asked(&container)?, error(AGAIN), "{name}");
        fs::remove_file(&path)?;
    }
    Ok(())
}

/// A guest that waits for a name ends at once on SIGTERM.
#[test]
fn waiting_for_a_name_ends_by_a_signal() -> Result<()> {
    let host = Host::new()?;
    let mut container = host.empty_container(&["/lookup.wasm", "silent.test", "80"])?;
    container.install(&c("sockets/lookup")?, "lookup.wasm")?;
    container.config["process"]["noNewPrivileges"] = json!(true);
    container.create()?;
    let server = NameServer::start(&container)?;
    container.start()?;
    eventually("the question", || Ok(server.asked.load(Ordering::Relaxed) > 0))?;
    let start = Instant::now();
    container.kill("TERM")?;
    assert_eq!(container.wait_exit()?, 143);
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    Ok(())
}

/// The names as the published crates ask for them; the newer also asks the server itself.
#[test]
fn published_crates() -> Result<()> {
    let host = Host::new()?;
    let container = sleeping(&host)?;
    let server = NameServer::start(&container)?;
    write(&container, "hosts", "192.0.2.7 db\n")?;
    for name in ["sockets-old", "sockets-new"] {
        container.install(&package(name)?, "crate.wasm")?;
        let done =
            container.exec(&["/crate.wasm", "names", "db", "web.test", "large.test", "nosuch.test"])?.ok()?;
        let lines: Vec<_> = done.stdout.lines().collect();
        assert_eq!(lines[..2], ["db: [192.0.2.7:80]", "web.test: [192.0.2.1:80]"]);
        // The crate has room for ten.
        assert_eq!(lines[2].matches("192.0.2.1:80").count(), 10);
        assert!(lines[3].contains("84"), "{done}");
    }
    let asked = server.asked.load(Ordering::Relaxed);
    let own = ["--env", "DNS_SERVER=127.0.0.1:53"];
    let done = container.exec_with(&own, &["/crate.wasm", "names", "web.test"])?.ok()?;
    assert!(done.stdout.contains("192.0.2.1"), "{done}");
    assert_eq!(server.asked.load(Ordering::Relaxed), asked, "over TCP");
    Ok(())
}

/// What podman writes into a container counts, for whoever the guest runs as.
#[test]
fn hosts_by_podman() -> Result<()> {
    let engine = Engine::new()?;
    engine.wasm_image("lookup", &c("sockets/lookup")?)?;
    let confined = ["--user", "1000:1000", "--read-only", "--cap-drop", "all", "--add-host", "db:192.0.2.7"];
    let run = |args: &[&str]| engine.run(&[&confined[..], &["lookup"], args].concat()).finish()?.ok();
    assert_eq!(run(&["db", "80", INET4, CANONNAME, "2"])?.stdout, "stream 1 80 192.0.2.7 db\n");
    assert_eq!(run(&["nosuch.test", "80"])?.stdout, "error 78\n");
    engine.is_clean()
}
