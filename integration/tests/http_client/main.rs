//! Guests as HTTP(S) clients, with the crates that WasmEdge's images were made with, of servers in the test.
//!
//! TLS is the host's in two ways (`rustls_client`, `wasmedge_httpsreq`), with the certificates of the container.

mod body;
mod server;

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use coracle_integration::{Container, Finished, Host, package};
use coracle_tls::authority::Authority;
use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::net::{AddressFamily, SocketType, bind, getsockname, socket};
use serde_json::json;

use crate::body::Sum;
use crate::server::Server;

/// What every kind of client can do.
const KINDS: [&str; 3] = ["rustls", "httpsreq", "hyper"];
/// Those with TLS.
const TLS: [&str; 2] = ["rustls", "httpsreq"];

const NAME: &str = "server.test";
/// A year that certificates are good until.
const GOOD: i32 = 2100;

/// A container in the host's network with the client, whose root file system has nothing else but `server.test`.
fn client<'h>(host: &'h Host, args: &[&str]) -> Result<Container<'h>> {
    let all: Vec<_> = std::iter::once("/client.wasm").chain(args.iter().copied()).collect();
    let mut container = host.empty_container(&all)?;
    container.without_namespace("network").install(&package("client")?, "client.wasm")?;
    write(&container, "etc/hosts", &format!("127.0.0.1 localhost\n127.0.0.1 {NAME} other.test\n"))?;
    Ok(container)
}

fn write(container: &Container, name: &str, text: &str) -> Result<()> {
    let path = container.rootfs().join(name);
    fs::create_dir_all(path.parent().unwrap_or(&path))?;
    Ok(fs::write(path, text)?)
}

/// Where Debian has its bundle.
fn trust(container: &Container, authority: &Authority) -> Result<()> {
    write(container, "etc/ssl/certs/ca-certificates.crt", &authority.pem())
}

/// The guest's line for a reply with this body.
fn reply(status: u16, sum: Sum) -> String {
    format!("{status} {sum}")
}

/// A client of a server with TLS, which it trusts.
fn ask_tls(host: &Host, kind: &str, method: &str, path: &str, bytes: &str) -> Result<Finished> {
    let authority = Authority::new()?;
    let server = Server::start(authority.server(&[NAME], GOOD).ok())?;
    let url = format!("https://{NAME}:{}{path}", server.port());
    let container = client(host, &[kind, method, &url, bytes])?;
    trust(&container, &authority)?;
    container.run()
}

#[test]
fn by_name_and_by_address() -> Result<()> {
    let host = Host::new()?;
    let server = Server::start(None)?;
    for kind in KINDS {
        for name in [NAME, "127.0.0.1", "localhost"] {
            let url = format!("http://{name}:{}/bytes/5", server.port());
            client(&host, &[kind, "GET", &url])?.run()?.ok()?.prints(&reply(200, Sum::of(5)?))?;
        }
    }
    host.is_clean()
}

#[test]
fn replies_of_every_form() -> Result<()> {
    let host = Host::new()?;
    let server = Server::start(None)?;
    for kind in KINDS {
        for (method, path, line) in [
            ("GET", "/chunked/100000", reply(200, Sum::of(100_000)?)),
            ("GET", "/close/100000", reply(200, Sum::of(100_000)?)),
            ("HEAD", "/bytes/100000", reply(200, Sum::of(0)?)),
            ("GET", "/missing", reply(404, Sum::of(0)?)),
        ] {
            let url = format!("http://{NAME}:{}{path}", server.port());
            client(&host, &[kind, method, &url])?.run()?.ok()?.prints(&line)?;
        }
    }
    host.is_clean()
}

#[test]
fn redirections() -> Result<()> {
    let host = Host::new()?;
    let (server, other) = (Server::start(None)?, Server::start(None)?);
    for kind in KINDS {
        let url = format!("http://{NAME}:{}/redirect/1", server.port());
        let lines = format!("302 /redirect/0\n302 /bytes/5\n{}", reply(200, Sum::of(5)?));
        client(&host, &[kind, "GET", &url])?.run()?.ok()?.prints(&lines)?;
        // The request is repeated with its body, on another server by another name.
        let there = format!("http://other.test:{}/check", other.port());
        let url = format!("http://{NAME}:{}/to/{there}", server.port());
        let sum = Sum::of_text(&Sum::of(9)?.to_string())?;
        let lines = format!("307 {there}\n{}", reply(200, sum));
        client(&host, &[kind, "POST", &url, "9"])?.run()?.ok()?.prints(&lines)?;
        let url = format!("http://{NAME}:{}/redirect/9", server.port());
        client(&host, &[kind, "GET", &url])?.run()?.exits(1)?.fails_with("too many redirections")?;
    }
    host.is_clean()
}

#[test]
fn a_hundred_megabytes_each_way() -> Result<()> {
    const BYTES: u64 = 100_000_000;
    let host = Host::new()?;
    let server = Server::start(None)?;
    let sum = Sum::of(BYTES)?;
    let ask = |kind: &str, method: &str, path: &str, bytes: u64| {
        let url = format!("http://{NAME}:{}{path}", server.port());
        client(&host, &[kind, method, &url, &bytes.to_string()])?.run()?.ok()
    };
    for kind in ["rustls", "hyper"] {
        ask(kind, "GET", &format!("/bytes/{BYTES}"), 0)?.prints(&reply(200, sum))?;
        ask(kind, "POST", "/check", BYTES)?.prints(&reply(200, Sum::of_text(&sum.to_string())?))?;
    }
    // Both at once; http_req would not read before it has written.
    ask("hyper", "POST", "/echo", BYTES)?.prints(&reply(200, sum))?;
    host.is_clean()
}

#[test]
fn nobody_listens() -> Result<()> {
    let host = Host::new()?;
    // Taken, so that nobody else listens there meanwhile.
    let taken = socket(AddressFamily::INET, SocketType::STREAM, None)?;
    bind(&taken, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0))?;
    let address = SocketAddrV4::try_from(getsockname(&taken)?)?;
    for kind in KINDS {
        let url = format!("http://{address}/");
        // hyper's fork takes a connection for made that is not, and says less.
        let reason = if kind == "hyper" { "hyper::Error" } else { "refused" };
        client(&host, &[kind, "GET", &url])?.run()?.exits(1)?.fails_with(reason)?;
    }
    host.is_clean()
}

#[test]
fn a_silent_server_is_given_up() -> Result<()> {
    let host = Host::new()?;
    let server = Server::start(None)?;
    let url = format!("http://{NAME}:{}/silence", server.port());
    let start = Instant::now();
    client(&host, &["hyper", "GET", &url, "0", "700"])?.run()?.exits(1)?.fails_with("Elapsed")?;
    ensure!(start.elapsed() >= Duration::from_millis(700), "too soon");
    // The kernel completes connections that nobody accepts, as many as the backlog has room for.
    let deaf = TcpListener::bind("127.0.0.1:0")?;
    let url = format!("http://127.0.0.1:{}/", deaf.local_addr()?.port());
    client(&host, &["hyper", "GET", &url, "0", "300"])?.run()?.exits(1)?.fails_with("Elapsed")?;
    host.is_clean()
}

/// Whatever it waits for, in whosever code: the peer has heard the first byte and says nothing.
#[test]
fn a_client_that_waits_ends_at_once() -> Result<()> {
    let host = Host::new()?;
    let authority = Authority::new()?;
    for (kind, scheme) in [("rustls", "http"), ("rustls", "https"), ("httpsreq", "https"), ("hyper", "http")]
    {
        let silent = TcpListener::bind("127.0.0.1:0")?;
        let url = format!("{scheme}://127.0.0.1:{}/", silent.local_addr()?.port());
        let mut container = client(&host, &[kind, "GET", &url])?;
        trust(&container, &authority)?;
        container.create()?.start()?;
        // http_req 0.10 connects by itself first, for nothing.
        let unused = (kind == "httpsreq").then(|| silent.accept()).transpose()?;
        let (mut socket, _) = silent.accept()?;
        socket.read_exact(&mut [0])?;
        let start = Instant::now();
        container.kill("TERM")?;
        ensure!(container.wait_exit()? == 143, "{kind} {url}");
        ensure!(start.elapsed() < Duration::from_secs(2), "{kind} {url} took its time");
        container.delete()?;
        drop(unused);
    }
    host.is_clean()
}

#[test]
fn tls_with_the_containers_bundle() -> Result<()> {
    let host = Host::new()?;
    for kind in TLS {
        let sum = reply(200, Sum::of(100_000)?);
        for path in ["/bytes/100000", "/chunked/100000", "/close/100000"] {
            ask_tls(&host, kind, "GET", path, "0")?.ok()?.prints(&sum)?;
        }
        let line = format!("302 /redirect/0\n302 /bytes/5\n{}", reply(200, Sum::of(5)?));
        ask_tls(&host, kind, "GET", "/redirect/1", "0")?.ok()?.prints(&line)?;
        ask_tls(&host, kind, "HEAD", "/bytes/100000", "0")?.ok()?.prints(&reply(200, Sum::of(0)?))?;
    }
    host.is_clean()
}

#[test]
fn tls_with_large_bodies() -> Result<()> {
    const BYTES: u64 = 100_000_000;
    let host = Host::new()?;
    let sum = Sum::of(BYTES)?;
    for kind in TLS {
        ask_tls(&host, kind, "GET", &format!("/bytes/{BYTES}"), "0")?.ok()?.prints(&reply(200, sum))?;
        let checked = reply(200, Sum::of_text(&sum.to_string())?);
        ask_tls(&host, kind, "POST", "/check", &BYTES.to_string())?.ok()?.prints(&checked)?;
    }
    ask_tls(&host, "httpsreq", "POST", "/echo", &BYTES.to_string())?.ok()?.prints(&reply(200, sum))?;
    host.is_clean()
}

#[test]
fn a_certificate_that_is_not_good() -> Result<()> {
    let host = Host::new()?;
    let (authority, stranger) = (Authority::new()?, Authority::new()?);
    for (what, names, until, trusted, reason) in [
        ("expired", [NAME, "127.0.0.1"], 2001, &authority, "expired"),
        ("of another name", ["third.test", "127.0.0.2"], GOOD, &authority, "not valid for name"),
        ("of an unknown issuer", [NAME, "127.0.0.1"], GOOD, &stranger, "UnknownIssuer"),
    ] {
        let server = Server::start(authority.server(&names, until).ok())?;
        for name in [NAME, "127.0.0.1"] {
            let url = format!("https://{name}:{}/bytes/5", server.port());
            let ask = |kind: &str| {
                let container = client(&host, &[kind, "GET", &url])?;
                trust(&container, trusted)?;
                container.run()
            };
            // The guest's number for it is -16.
            let failed = ask("rustls")?.exits(1)?.fails_with("InvalidCertificateData")?;
            ensure!(failed.stdout.is_empty(), "{what}: {failed}");
            let failed = ask("httpsreq")?.exits(134)?.fails_with(reason)?;
            ensure!(failed.stdout.is_empty(), "{what}: {failed}");
        }
    }
    host.is_clean()
}

#[test]
fn certificates_where_the_environment_says() -> Result<()> {
    let host = Host::new()?;
    let (authority, stranger) = (Authority::new()?, Authority::new()?);
    let server = Server::start(authority.server(&["127.0.0.1"], GOOD).ok())?;
    let url = format!("https://127.0.0.1:{}/bytes/5", server.port());
    for kind in TLS {
        for variable in ["SSL_CERT_FILE=/own/ca.pem", "SSL_CERT_DIR=/own"] {
            let mut container = client(&host, &[kind, "GET", &url])?;
            trust(&container, &stranger)?;
            write(&container, "own/ca.pem", &authority.pem())?;
            container.config["process"]["env"] = json!([variable]);
            container.run()?.ok()?.prints(&reply(200, Sum::of(5)?))?;
        }
    }
    host.is_clean()
}

#[test]
fn without_certificates_nobody_is_trusted() -> Result<()> {
    let host = Host::new()?;
    let authority = Authority::new()?;
    let server = Server::start(authority.server(&["127.0.0.1"], GOOD).ok())?;
    let url = format!("https://127.0.0.1:{}/bytes/5", server.port());
    for kind in TLS {
        client(&host, &[kind, "GET", &url])?.run()?.fails_with("no CA certificates")?;
        // Neither a FIFO that nobody writes to nor a file without end keeps it waiting.
        for special in ["/fifo", "/dev/zero"] {
            let mut container = client(&host, &[kind, "GET", &url])?;
            mknodat(CWD, container.rootfs().join("fifo"), FileType::Fifo, Mode::from_raw_mode(0o666), 0)?;
            container.config["process"]["env"] = json!([format!("SSL_CERT_FILE={special}")]);
            container.run()?.fails_with(special)?;
        }
    }
    host.is_clean()
}

#[test]
fn a_server_that_does_not_speak_tls() -> Result<()> {
    let host = Host::new()?;
    let authority = Authority::new()?;
    for (kind, code, reason) in [
        ("rustls", 1, "CorruptMessage"),
        ("httpsreq", 134, "wasm trap: wasmedge_httpsreq: 127.0.0.1: received corrupt message"),
    ] {
        let plain = TcpListener::bind("127.0.0.1:0")?;
        let url = format!("https://127.0.0.1:{}/", plain.local_addr()?.port());
        let container = client(&host, &[kind, "GET", &url])?;
        trust(&container, &authority)?;
        let mut job = container.run_job()?;
        let unused = (kind == "httpsreq").then(|| plain.accept()).transpose()?;
        plain.accept()?.0.write_all(b"220 mail.test ESMTP\r\n")?;
        job.wait()?.exits(code)?.fails_with(reason)?;
        drop(unused);
    }
    host.is_clean()
}
