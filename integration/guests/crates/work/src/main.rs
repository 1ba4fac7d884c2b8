//! A program that measures itself at work: `work KIND ARGUMENT...` ends with a line on standard error, `NUMBER UNIT`, of
//! how much it did in a second. The time before the first byte has come does not count.

use std::io;
use std::time::Instant;

mod bulk;
mod kernels;

fn main() -> io::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["write-file", path, mib] => bulk::write_file(path, number(mib)?),
        ["read-file", path] => bulk::read_file(path),
        ["copy"] => bulk::copy(),
        ["receive"] => bulk::receive(),
        ["send", mib] => bulk::send(number(mib)?),
        ["sha256", mib] => Ok(kernels::sha256(number(mib)?)),
        ["matrix", size] => Ok(kernels::matrix(number(size)?)),
        ["sort", count] => Ok(kernels::sort(number(count)?)),
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "unknown kind of work")),
    }
}

fn number(argument: &str) -> io::Result<usize> {
    argument.parse().map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))
}

/// Says how much of something was done since.
fn report(start: Instant, amount: f64, unit: &str) {
    eprintln!("{:.3} {}/s", amount / start.elapsed().as_secs_f64(), unit);
}
