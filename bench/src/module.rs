//! Modules from `run` to what they are run for, beside the same programs natively.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use coracle_integration::http::Client;
use coracle_integration::{Container, Host, Run, command, package};

use crate::pair::pair;
use crate::programs;
use crate::report::Report;
use crate::runtime::Runtime;
use crate::sample::{Case, Contestant, Goal, Sample, milliseconds, take_turns, wait};

/// Compiles a module with wasmtime's library; prints its version and the milliseconds.
const WASMTIME: &str = "\
import importlib.metadata, sys, time, wasmtime
module = open(sys.argv[1], 'rb').read()
engine = wasmtime.Engine()
start = time.perf_counter()
wasmtime.Module(engine, module)
print(importlib.metadata.version('wasmtime'))
print((time.perf_counter() - start) * 1e3)
";

/// How long a module has to be as it is for its digest to be remembered, and a little more.
const AT_REST: Duration = Duration::from_millis(2500);

/// Measures all.
pub fn measure(host: &Host, runtimes: &[Runtime]) -> Result<Report> {
    let mut notes = Vec::new();
    let cases = vec![hello(host, runtimes)?, server(host)?, compiled(host, &mut notes)?];
    Ok(Report { title: "Starting modules".into(), cases, notes })
}

fn hello(host: &Host, runtimes: &[Runtime]) -> Result<Case> {
    let module = hello_with(host, &runtimes[0], true)?;
    let natives: Vec<_> =
        runtimes.iter().map(|runtime| hello_with(host, runtime, false)).collect::<Result<_>>()?;
    let mut contestants = vec![Contestant::new("module, cached", || first_byte(&mut module.run()))];
    for native in &natives {
        let name = native.runtime.name;
        let who = if name == "coracle" { "native".into() } else { format!("native, {name}") };
        let goal = (name == "coracle").then_some(Goal::Ratio(1.12));
        contestants.push(Contestant::new(&who, || first_byte(&mut native.run())).with(goal));
    }
    take_turns("hello: run to the first byte", "ms", 100, contestants)
}

fn hello_with<'h>(host: &'h Host, runtime: &Runtime, as_module: bool) -> Result<crate::runtime::Subject<'h>> {
    let (program, name) = match as_module {
        true => (programs::module("hello")?, "hello.wasm"),
        false => (programs::native("hello")?, "hello"),
    };
    let subject = runtime.container(host, &[&format!("/{name}")])?;
    subject.container.install(&program, name)?;
    subject.container.save()?;
    Ok(subject)
}

fn first_byte(command: &mut Command) -> Result<Sample> {
    let start = Instant::now();
    let mut child = command.stdout(Stdio::piped()).spawn()?;
    let mut byte = [0];
    child.stdout.as_mut().context("stdout")?.read_exact(&mut byte)?;
    let value = milliseconds(start.elapsed());
    let (status, cpu) = wait(child.id().try_into()?)?;
    ensure!(status == 0, "{command:?} ended with the status {status:#x}");
    Ok(Sample { value, cpu: Some(cpu) })
}

fn server(host: &Host) -> Result<Case> {
    let [module, native] = pair(host, "server", &["127.0.0.1:0"])?;
    first_answer(&mut module.run_command(&[])?)?;
    // Until then it is hashed at every start: the digest of what has just been written is not remembered.
    sleep(AT_REST);
    let contestants = vec![
        Contestant::new("module, cached", || first_answer(&mut module.run_command(&[])?)),
        Contestant::new("native", || first_answer(&mut native.run_command(&[])?)).with(Some(Goal::More(2.0))),
    ];
    take_turns("HTTP server: run to the first answer", "ms", 40, contestants)
}

/// Until the server has answered its first request with 200; then it is asked to end.
fn first_answer(command: &mut Command) -> Result<Sample> {
    let start = Instant::now();
    let mut child = command.stdout(Stdio::piped()).spawn()?;
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().context("stdout")?).read_line(&mut line)?;
    let address: SocketAddr = line.trim().strip_prefix("listening on ").context(line.clone())?.parse()?;
    let mut client = Client::connect(address)?;
    client.request("GET", "/", b"")?.is(200)?;
    let value = milliseconds(start.elapsed());
    client.request("POST", "/stop", b"")?.is(200)?;
    drop(client);
    let (status, cpu) = wait(child.id().try_into()?)?;
    ensure!(status == 0, "{command:?} ended with the status {status:#x}");
    Ok(Sample { value, cpu: Some(cpu) })
}

fn compiled(host: &Host, notes: &mut Vec<String>) -> Result<Case> {
    let [container, _] = pair(host, "server", &["127.0.0.1:0"])?;
    let module = package("server")?;
    let python = std::env::var_os("BENCH_PYTHON").unwrap_or_else(|| "python3".into());
    let wasmtime = || command(&python).args(["-c", WASMTIME]).arg(&module).finish()?.ok();
    let mut contestants = vec![Contestant::new("module, not cached", || uncached(&container))];
    match wasmtime() {
        Ok(said) => {
            notes.push(format!("wasmtime {}.", said.lines().next().unwrap_or_default()));
            let once = || Ok(wasmtime()?.lines().nth(1).context("no time")?.parse::<f64>()?.into());
            contestants.push(Contestant::new("wasmtime, compiling alone", once).with(Some(Goal::Ratio(1.1))));
        }
        Err(error) => {
            eprintln!("without wasmtime: {error}");
            notes.push(
                "Without wasmtime: BENCH_PYTHON names a Python that has it (`pip install wasmtime`).".into(),
            );
        }
    }
    take_turns("HTTP server: the same, not cached", "ms", 7, contestants)
}

/// With a cache of its own: what goes on behind the last round may still write to that one's.
fn uncached(container: &Container) -> Result<Sample> {
    let directory = tempfile::tempdir_in(container.host.path())?;
    let cache = directory.path().join("cache");
    let sample = first_answer(container.run_command(&[])?.env("CORACLE_CACHE_DIR", &cache))?;
    ensure!(fs::read_dir(&cache)?.next().is_some(), "nothing has been compiled");
    Ok(sample)
}
