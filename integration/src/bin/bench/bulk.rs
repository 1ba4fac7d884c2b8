//! Many bytes at once through files, pipes and sockets, as a module and natively.

use std::io::{Read, Seek, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use coracle_integration::{Container, Host, Job};

use crate::pair::{head, pair, print, progress, rate};

const ROUNDS: usize = 5;
const MIB: usize = 1 << 20;
/// Of each transfer, in MiB; the arguments below say it too.
const AMOUNT: usize = 512;
const PIECE: usize = 64 << 10;

type Transfer = fn(&Container) -> Result<f64>;

const TRANSFERS: [(&str, &[&str], Transfer); 5] = [
    ("write a file", &["write-file", "/file", "512"], file),
    ("read a file", &["read-file", "/file"], file),
    ("stdin to stdout", &["copy"], pipes),
    ("receive from a socket", &["receive"], receive),
    ("send to a socket", &["send", "512"], send),
];

/// Measures and prints.
pub fn measure(host: &Host) -> Result<()> {
    let bar = progress(TRANSFERS.len() * ROUNDS);
    let mut results = Vec::new();
    for (what, arguments, transfer) in TRANSFERS {
        bar.set_message(what);
        let containers = pair(host, "work", arguments)?;
        let mut rates = [Vec::new(), Vec::new()];
        for _ in 0..ROUNDS {
            for (container, rates) in containers.iter().zip(&mut rates) {
                rates.push(transfer(container).context(what)?);
            }
            bar.inc(1);
        }
        results.push((what, rates));
    }
    bar.finish_and_clear();
    head(&format!("bulk input and output, {AMOUNT} MiB in pieces of 64 KiB, {ROUNDS} rounds in turn"));
    for (what, rates) in &mut results {
        print(what, "MiB/s", rates);
    }
    Ok(())
}

/// The container does all itself. The file stays in the page cache.
fn file(container: &Container) -> Result<f64> {
    let file = container.rootfs().join("file");
    if container.config["process"]["args"][1] == "read-file" {
        if !file.exists() {
            std::fs::write(&file, vec![1; AMOUNT * MIB])?;
        }
    } else if file.exists() {
        // Making a new file is measured, not truncating an old one.
        std::fs::remove_file(&file)?;
    }
    rate(&container.run()?.ok()?.stderr)
}

fn pipes(container: &Container) -> Result<f64> {
    let mut stderr = tempfile::tempfile()?;
    let mut command = container.run_command(&[])?;
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(stderr.try_clone()?);
    let mut child = command.spawn()?;
    let mut stdin = child.stdin.take().context("stdin")?;
    let feeder = std::thread::spawn(move || pour(&mut stdin));
    drain(child.stdout.as_mut().context("stdout")?)?;
    ensure!(child.wait()?.success() && feeder.join().is_ok_and(|it| it.is_ok()), "the container failed");
    let mut said = String::new();
    stderr.rewind()?;
    stderr.read_to_string(&mut said)?;
    rate(&said)
}

fn receive(container: &Container) -> Result<f64> {
    let (mut job, mut stream) = connect(container)?;
    pour(&mut stream)?;
    drop(stream);
    rate(&job.wait()?.ok()?.stderr)
}

fn send(container: &Container) -> Result<f64> {
    let (mut job, mut stream) = connect(container)?;
    drain(&mut stream)?;
    rate(&job.wait()?.ok()?.stderr)
}

fn connect(container: &Container) -> Result<(Job, TcpStream)> {
    let mut job = container.run_job()?;
    job.expect("\n")?;
    let said = job.stdout()?;
    let address: SocketAddr = said.trim().strip_prefix("listening on ").context(said.clone())?.parse()?;
    Ok((job, TcpStream::connect(address)?))
}

fn pour(to: &mut impl Write) -> Result<()> {
    let piece = vec![1; PIECE];
    for _ in 0..AMOUNT * MIB / PIECE {
        to.write_all(&piece)?;
    }
    Ok(())
}

fn drain(from: &mut impl Read) -> Result<()> {
    let mut piece = vec![0; PIECE];
    while from.read(&mut piece)? > 0 {}
    Ok(())
}
