//! Many bytes at once through files, pipes and sockets, as a module and natively.

use std::io::{Read, Seek, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use coracle_integration::{Container, Host, Job};

use crate::pair::{self, Case, rate};
use crate::report::Report;
use crate::runtime::Runtime;

const ROUNDS: usize = 5;
const MIB: usize = 1 << 20;
/// Of each transfer, in MiB; the arguments below say it too.
const AMOUNT: usize = 512;
const PIECE: usize = 64 << 10;

const UNIT: &str = "MiB/s";

const TRANSFERS: [Case; 5] = [
    Case { what: "write a file", arguments: &["write-file", "/file", "512"], unit: UNIT, run: file },
    Case { what: "read a file", arguments: &["read-file", "/file"], unit: UNIT, run: file },
    Case { what: "stdin to stdout", arguments: &["copy"], unit: UNIT, run: pipes },
    Case { what: "receive from a socket", arguments: &["receive"], unit: UNIT, run: receive },
    Case { what: "send to a socket", arguments: &["send", "512"], unit: UNIT, run: send },
];

/// Measures all.
pub fn measure(host: &Host, _: &[Runtime]) -> Result<Report> {
    let title = format!("Bulk input and output, {AMOUNT} MiB in pieces of 64 KiB");
    pair::measure(host, &title, ROUNDS, &TRANSFERS)
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
