//! JavaScript in a container: an image with the guest `quickjs`, the interpreter, and scripts for it.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use coracle_integration::{Container, Engine, Host, Run, package, repository};
use rustix::process::Signal;
use serde_json::json;

/// Scripts of the source tree.
const LIBRARY: [&str; 3] = ["http.js", "net.js", "server.js"];

fn install(root: &Path) -> Result<()> {
    fs::create_dir_all(root.join("data"))?;
    fs::write(root.join("data/page.txt"), "a page of the image\n")?;
    for name in LIBRARY {
        fs::copy(repository().join("integration/guests/js").join(name), root.join(name))?;
    }
    Ok(())
}

/// A container that runs `/script.js` of these files, in the host's network.
fn container<'h>(host: &'h Host, files: &[(&str, &str)], args: &[&str]) -> Result<Container<'h>> {
    let mut container = host.empty_container(&[&["/quickjs.wasm"], args].concat())?;
    container.install(&package("quickjs")?, "quickjs.wasm")?;
    install(&container.rootfs())?;
    for (name, text) in files {
        let file = container.rootfs().join(name);
        fs::create_dir_all(file.parent().context("a directory")?)?;
        fs::write(file, text)?;
    }
    container.without_namespace("network");
    Ok(container)
}

fn script<'h>(host: &'h Host, text: &str) -> Result<Container<'h>> {
    container(host, &[("script.js", text)], &["/script.js"])
}

#[test]
fn files_arguments_and_modules_of_the_image() -> Result<()> {
    let host = Host::new()?;
    let main = r#"
        import { appendFile, decode, env, makeDir, readDir, readFile, remove, scriptArgs, writeFile } from "host";
        import { shout } from "./lib/shout.js";
        console.log(shout(scriptArgs[1]), scriptArgs.length, env.GREETING);
        console.log(decode(readFile("data/page.txt")).trim());
        makeDir("/made");
        writeFile("/made/f", "one ");
        appendFile("/made/f", new Uint8Array([0xc3, 0xa4, 10]));
        console.log(decode(readFile("/made/f")).trim(), readFile("/made/f").length, readDir("/made"));
        for (const attempt of [() => readFile("/nosuch"), () => remove("/made"), () => makeDir("/made")])
            try { attempt() } catch (error) { console.log(error.message) }
        remove("/made/f");
        writeFile("/made/g", "kept");
        const { default: late } = await import("/lib/late.js");
        console.log(late);
    "#;
    let files = [
        ("app/main.js", main),
        (
            "app/lib/shout.js",
            "import { mark } from '../../lib/mark.js'; export const shout = s => s.toUpperCase() + mark;",
        ),
        ("lib/mark.js", "export const mark = '!';"),
        ("lib/late.js", "export default 'imported late';"),
    ];
    let mut container = container(&host, &files, &["/app/main.js", "hello", "two words"])?;
    container.config["process"]["env"] = json!(["GREETING=grüß dich"]);
    let done = container.run()?.ok()?;
    assert_eq!(
        done.lines().collect::<Vec<_>>(),
        [
            "HELLO! 3 grüß dich",
            "a page of the image",
            "one ä 7 [\"f\"]",
            "/nosuch: No such file or directory",
            "/made: Directory not empty",
            "/made: File exists",
            "imported late",
        ],
        "{done}"
    );
    assert_eq!(fs::read_to_string(container.rootfs().join("made/g"))?, "kept");
    host.is_clean()
}

#[test]
fn timers_in_order() -> Result<()> {
    let host = Host::new()?;
    let done = script(
        &host,
        r#"
        const start = Date.now();
        setTimeout(() => console.log("40 ms", Date.now() - start >= 40), 40);
        setTimeout((a, b) => console.log("20 ms", a, b), 20, "x", 2);
        setTimeout(() => console.log("20 ms, later"), 20);
        const never = setTimeout(() => console.log("never"), 10);
        clearTimeout(never);
        let times = 0;
        const interval = setInterval(() => {
            console.log(`interval ${++times}`);
            if (times === 3) clearInterval(interval);
        }, 100);
        setTimeout(() => console.log("next turn"), 0);
        Promise.resolve().then(() => console.log("job"));
        queueMicrotask(() => console.log("another job"));
        console.log("now");
        await new Promise(resolve => setTimeout(resolve, 5));
        console.log("awaited");
        "#,
    )?
    .run()?
    .ok()?;
    let expected = "now\njob\nanother job\nnext turn\nawaited\n20 ms x 2\n20 ms, later\n40 ms true\ninterval 1\ninterval 2\ninterval 3";
    done.prints(expected)?;
    host.is_clean()
}

#[test]
fn how_scripts_end() -> Result<()> {
    let host = Host::new()?;
    for (text, code, message) in [
        ("console.log('fine')", 0, ""),
        ("import { exit } from 'host'; setTimeout(() => exit(7), 1)", 7, ""),
        (
            "console.log('before'); throw new TypeError('wrong')",
            1,
            "Uncaught TypeError: wrong\n    at <anonymous> (/script.js:1",
        ),
        ("setTimeout(() => nothing.there, 1)", 1, "ReferenceError: nothing is not defined"),
        ("Promise.reject(new Error('nobody cares'))", 1, "Uncaught Error: nobody cares"),
        ("const late = Promise.reject(1); late.catch(() => {}); console.log('caught')", 0, ""),
        ("let x = ;", 1, "SyntaxError"),
        ("import './nosuch.js'", 1, "nosuch.js: No such file or directory"),
        ("await new Promise(() => {})", 13, "awaits what never comes"),
        ("(function deeper() { return deeper() + 1 })()", 134, "call stack exhausted"),
        ("new Uint8Array(2 ** 32 - 1)", 1, "RangeError: invalid array buffer length"),
    ] {
        let done = script(&host, text)?.run()?;
        ensure!(done.code == code && done.stderr.contains(message), "{text}: {done}");
        ensure!(code != 0 || done.stderr.is_empty(), "{text}: {done}");
    }
    host.is_clean()
}

#[test]
fn a_busy_script_and_one_that_waits_end_on_sigterm() -> Result<()> {
    let host = Host::new()?;
    for text in ["console.log('up'); for (;;);", "console.log('up'); setTimeout(() => {}, 1e6)"] {
        let container = script(&host, text)?;
        let mut job = container.run_job()?;
        job.expect("up")?;
        let start = Instant::now();
        job.signal(Signal::TERM)?;
        job.wait()?.exits(143)?;
        assert!(start.elapsed() < Duration::from_secs(5), "{text}");
    }
    host.is_clean()
}

/// One connection, and what comes back on it.
struct Client(BufReader<TcpStream>);

impl Client {
    fn to(port: u16) -> Result<Client> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        Ok(Client(BufReader::new(stream)))
    }

    fn send(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(self.0.get_mut().write_all(bytes)?)
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.0.read_line(&mut line)?;
        Ok(line.trim_end().to_owned())
    }

    fn exactly(&mut self, len: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        self.0.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    /// Status and body of the next response.
    fn response(&mut self) -> Result<(u16, Vec<u8>)> {
        let status = self.line()?.split(' ').nth(1).context("no status")?.parse()?;
        let (mut len, mut chunked) = (0, false);
        loop {
            match self.line()?.to_lowercase().split_once(": ") {
                None => break,
                Some(("content-length", value)) => len = value.parse()?,
                Some(("transfer-encoding", value)) => chunked = value == "chunked",
                Some(_) => {}
            }
        }
        if !chunked {
            return Ok((status, self.exactly(len)?));
        }
        let mut body = Vec::new();
        loop {
            let len = usize::from_str_radix(&self.line()?, 16)?;
            body.extend(self.exactly(len)?);
            ensure!(self.line()?.is_empty(), "a chunk's end");
            if len == 0 {
                return Ok((status, body));
            }
        }
    }

    fn request(&mut self, method: &str, target: &str, body: &[u8]) -> Result<(u16, Vec<u8>)> {
        self.send(
            format!("{method} {target} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", body.len())
                .as_bytes(),
        )?;
        self.send(body)?;
        self.response()
    }
}

fn port(stdout: &str) -> Result<u16> {
    Ok(stdout
        .trim()
        .strip_prefix("listening on ")
        .with_context(|| format!("no port: {stdout:?}"))?
        .parse()?)
}

#[test]
fn an_http_server() -> Result<()> {
    let host = Host::new()?;
    let container = container(&host, &[], &["/server.js", "127.0.0.1"])?;
    let mut job = container.run_job()?;
    job.expect("listening on ")?;
    let port = port(&job.stdout()?)?;
    let mut client = Client::to(port)?;
    assert_eq!(client.request("GET", "/", b"")?, (200, b"hello from a script\n".to_vec()));
    assert_eq!(client.request("GET", "/file", b"")?, (200, b"a page of the image\n".to_vec()));
    assert_eq!(client.request("POST", "/sum", b"[1, 2, 39]")?, (200, b"42".to_vec()));
    assert_eq!(client.request("GET", "/nosuch", b"")?.0, 404);
    assert_eq!(client.request("POST", "/sum", b"[1, ")?, (500, b"internal error\n".to_vec()));
    let big: Vec<u8> = (0..2_000_003_u32).map(|n| (n ^ n >> 7) as u8).collect();
    ensure!(client.request("POST", "/echo", &big)? == (200, big), "a large body comes back");
    let counted = (1..=5).map(|n| format!("{n}\n")).collect::<String>();
    assert_eq!(client.request("GET", "/count?5", b"")?, (200, counted.into_bytes()));
    // Chunks, cut where nobody expects it, and two requests at once.
    client.send(b"POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nab")?;
    client.send(b"cd\r\n1;x=y\r\ne\r\n0\r\n\r\nGET / HTTP/1.1\r\n\r\nGET /nosuch HTTP/1.1\r\n\r\n")?;
    assert_eq!(client.response()?.1, b"abcde");
    assert_eq!(client.response()?.1, b"hello from a script\n");
    assert_eq!(client.response()?.0, 404);
    for (refused, status) in [
        ("nonsense\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nno colon\r\n\r\n", 400),
        ("POST /echo HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
        ("POST /echo HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n", 413),
        ("POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", 400),
    ] {
        let mut client = Client::to(port)?;
        client.send(refused.as_bytes())?;
        ensure!(client.response()?.0 == status, "{refused:?}");
        ensure!(client.line()?.is_empty(), "the connection is closed after {refused:?}");
    }
    // A client that says no more still gets its answer; those that go are nobody else's concern.
    let mut half = Client::to(port)?;
    half.send(b"GET /sleep?50 HTTP/1.1\r\n\r\n")?;
    half.0.get_ref().shutdown(Shutdown::Write)?;
    assert_eq!(half.response()?.1, b"slept\n");
    for _ in 0..20 {
        Client::to(port)?.send(b"GET /count?1000 HTTP/1.1\r\n\r\n")?;
    }
    assert_eq!(client.request("GET", "/", b"")?.0, 200);
    assert_eq!(client.request("POST", "/stop", b"")?, (200, b"bye\n".to_vec()));
    job.wait()?.exits(0)?;
    host.is_clean()
}

/// Who waits does not hold up the others, and timers go on.
#[test]
fn requests_at_the_same_time() -> Result<()> {
    let host = Host::new()?;
    let container = container(&host, &[], &["/server.js", "127.0.0.1"])?;
    let mut job = container.run_job()?;
    job.expect("listening on ")?;
    let port = port(&job.stdout()?)?;
    let start = Instant::now();
    let mut sleepers = (0..100).map(|_| Client::to(port)).collect::<Result<Vec<_>>>()?;
    for sleeper in &mut sleepers {
        sleeper.send(b"GET /sleep?1000 HTTP/1.1\r\n\r\n")?;
    }
    let workers: Vec<_> = (0..8_u8)
        .map(|worker| {
            thread::spawn(move || -> Result<BTreeSet<u16>> {
                let mut client = Client::to(port)?;
                (0..50)
                    .map(|n| {
                        let sent = vec![worker ^ n; usize::from(n) * 100];
                        let (status, body) = client.request("POST", "/echo", &sent)?;
                        ensure!(body == sent, "another one's body");
                        Ok(status)
                    })
                    .collect()
            })
        })
        .collect();
    for worker in workers {
        assert_eq!(worker.join().expect("no panic")?, [200].into());
    }
    for sleeper in &mut sleepers {
        assert_eq!(sleeper.response()?, (200, b"slept\n".to_vec()));
    }
    let elapsed = start.elapsed();
    ensure!(elapsed < Duration::from_secs(20), "one after the other: {elapsed:?}");
    let stats: serde_json::Value =
        serde_json::from_slice(&Client::to(port)?.request("GET", "/stats", b"")?.1)?;
    assert_eq!(stats["served"], 501);
    assert!(stats["ticks"].as_u64() > Some(10), "{stats}");
    job.signal(Signal::TERM)?;
    job.wait()?.exits(143)?;
    host.is_clean()
}

#[test]
fn an_image_of_interpreter_and_scripts() -> Result<()> {
    let engine = Engine::new()?;
    let root = engine.path().join("root");
    fs::create_dir(&root)?;
    fs::copy(package("quickjs")?, root.join("quickjs.wasm"))?;
    install(&root)?;
    fs::write(
        root.join("hello.js"),
        "import { scriptArgs } from 'host'; console.log(...scriptArgs); throw 1",
    )?;
    engine.import(
        "javascript",
        &root,
        &["ENTRYPOINT [\"/quickjs.wasm\"]", "CMD [\"/server.js\", \"127.0.0.1\"]"],
    )?;
    engine
        .run(&["--annotation", "run.oci.handler=wasm", "javascript", "/hello.js", "a b"])
        .finish()?
        .exits(1)?
        .prints("/hello.js a b")?;
    engine.start(&["--name", "served", "--network=host", "javascript"])?;
    engine.logged("served", "listening on ")?;
    let port = port(&engine.do_podman(&["logs", "served"])?.ok()?.stdout)?;
    assert_eq!(Client::to(port)?.request("GET", "/", b"")?, (200, b"hello from a script\n".to_vec()));
    let start = Instant::now();
    engine.do_podman(&["stop", "--time=30", "served"])?.ok()?;
    assert!(start.elapsed() < Duration::from_secs(15), "SIGTERM ends it");
    assert_eq!(engine.inspect("served", "{{.State.ExitCode}}")?, "143");
    engine.is_clean()
}
