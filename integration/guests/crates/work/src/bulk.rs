//! Bytes from one place to another, in pieces as large as a pipe.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::time::Instant;

#[cfg(not(target_os = "wasi"))]
use std::net::{TcpListener, TcpStream};
#[cfg(target_os = "wasi")]
use wasmedge_wasi_socket::{TcpListener, TcpStream};

use crate::report;

const PIECE: usize = 64 << 10;
const MIB: usize = 1 << 20;

pub fn write_file(path: &str, mib: usize) -> io::Result<()> {
    let mut file = File::create(path)?;
    pour(&mut file, mib)
}

pub fn read_file(path: &str) -> io::Result<()> {
    drain(&mut File::open(path)?)
}

/// Standard input to standard output.
pub fn copy() -> io::Result<()> {
    // The descriptors themselves: std's own objects have buffers.
    let (mut stdin, mut stdout) = (descriptor(0), descriptor(1));
    let mut buffer = vec![0; PIECE];
    let mut length = stdin.read(&mut buffer)?;
    let (start, mut copied) = (Instant::now(), 0);
    while length > 0 {
        stdout.write_all(&buffer[..length])?;
        copied += length;
        length = stdin.read(&mut buffer)?;
    }
    report(start, copied as f64 / MIB as f64, "MiB");
    Ok(())
}

/// All that a client sends.
pub fn receive() -> io::Result<()> {
    drain(&mut client()?)
}

/// So much to a client.
pub fn send(mib: usize) -> io::Result<()> {
    pour(&mut client()?, mib)
}

fn pour(to: &mut impl Write, mib: usize) -> io::Result<()> {
    let buffer: Vec<u8> = (0..PIECE).map(|position| position as u8).collect();
    let start = Instant::now();
    for _ in 0..mib * MIB / PIECE {
        to.write_all(&buffer)?;
    }
    report(start, mib as f64, "MiB");
    Ok(())
}

fn drain(from: &mut impl Read) -> io::Result<()> {
    let mut buffer = vec![0; PIECE];
    let mut length = from.read(&mut buffer)?;
    let (start, mut read) = (Instant::now(), 0);
    while length > 0 {
        read += length;
        length = from.read(&mut buffer)?;
    }
    report(start, read as f64 / MIB as f64, "MiB");
    Ok(())
}

fn client() -> io::Result<TcpStream> {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    #[cfg(not(target_os = "wasi"))]
    let listener = TcpListener::bind(any)?;
    #[cfg(target_os = "wasi")]
    let listener = TcpListener::bind(any, false)?;
    println!("listening on {}", listener.local_addr()?);
    #[cfg(not(target_os = "wasi"))]
    let (stream, _) = listener.accept()?;
    #[cfg(target_os = "wasi")]
    let (stream, _) = listener.accept(false)?;
    Ok(stream)
}

fn descriptor(number: i32) -> File {
    #[cfg(not(target_os = "wasi"))]
    use std::os::unix::io::FromRawFd;
    #[cfg(target_os = "wasi")]
    use std::os::wasi::io::FromRawFd;
    // SAFETY: nothing else uses standard input and output.
    unsafe { File::from_raw_fd(number) }
}
