//! `coracle-wasmc`: a WebAssembly module on standard input becomes a native artifact on standard output.
//!
//! The only program of Coracle that links a compiler. It goes into a [`sandbox`] before it reads the module, under
//! [`limits`] on memory, time and output, so that a module that upsets the compiler gains and breaks nothing. The same bytes
//! on the same CPU always give the same artifact, however many cores take part: the cache relies on it when it treats
//! the program's own digest as part of the key.
//!
//! Exit status 0, or 1: then the output holds one line that says what is wrong.

use std::io::{self, IsTerminal, Read};
use std::num::NonZero;
use std::panic::PanicHookInfo;
use std::process::ExitCode;

use clap::Parser;
use coracle_wasmc::{compile, imports, input};

use limits::Limits;

mod limits;
mod output;
mod sandbox;

#[global_allocator]
static ALLOCATOR: limits::Allocator = limits::Allocator;

/// Compiles the WebAssembly module on standard input (binary or text) to a native artifact on standard output.
///
/// If that cannot be done, one line on standard output says why, and the exit status is 1.
#[derive(Parser)]
#[command(name = "coracle-wasmc", version)]
struct Args {}

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("read the module: {0}")]
    Read(io::Error),
    #[error("the artifact has {0} bytes, {1} are allowed")]
    TooLarge(u64, u64),
    #[error("write the artifact: {0}")]
    Write(io::Error),
    #[error(transparent)]
    Sandbox(#[from] sandbox::Error),
    #[error(transparent)]
    Input(#[from] input::Error),
    #[error(transparent)]
    Imports(#[from] imports::Error),
    #[error(transparent)]
    Compile(#[from] compile::Error),
}

fn main() -> ExitCode {
    Args::parse();
    if io::stdout().is_terminal() {
        eprintln!("standard output is a terminal; an artifact is binary");
        return ExitCode::FAILURE;
    }
    std::panic::set_hook(Box::new(panicked));
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => refuse(&error.to_string()),
    }
}

fn run() -> Result<(), Error> {
    // Asked before: inside, only the affinity could be seen, not what the cgroup allows.
    let threads = std::thread::available_parallelism().unwrap_or(NonZero::<usize>::MIN);
    let machine = rustix::system::sysinfo();
    let memory = (machine.totalram as u64).saturating_mul(machine.mem_unit.into());
    let limits = Limits::new(sandbox::input_size(), memory).inherited();
    sandbox::enter(limits)?;

    let mut bytes = Vec::new();
    io::stdin().lock().read_to_end(&mut bytes).map_err(Error::Read)?;
    let module = input::module(&bytes)?;
    imports::check(&module)?;
    let artifact = compile::artifact(&module, threads, output::progress())?;
    let length = artifact.len() as u64;
    if length > limits.artifact() {
        return Err(Error::TooLarge(length, limits.artifact()));
    }
    output::artifact(&artifact).map_err(Error::Write)
}

/// An error of a parser may span lines and point into its input: the first line says it all. It may also quote the
/// module, which must not get to control the terminal.
fn refuse(text: &str) -> ! {
    let line = text.lines().next().unwrap_or("unknown error").replace(char::is_control, "?") + "\n";
    output::fail(line.as_bytes())
}

/// A panic is the compiler's defect, met with a module nobody tried before: the user gets one line about it,
/// whichever thread it strikes, and the caller a plain failure instead of a core dump.
fn panicked(info: &PanicHookInfo<'_>) {
    let what = info.payload_as_str().unwrap_or("no message");
    let place = info.location().map(ToString::to_string).unwrap_or_default();
    refuse(&format!("the compiler failed: {} ({place})", what.lines().next().unwrap_or_default()))
}
