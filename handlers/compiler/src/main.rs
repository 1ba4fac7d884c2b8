//! `coracle-wasmc`: a WebAssembly module on standard input becomes a native artifact on standard output.
//!
//! The only program of Coracle that links a compiler. It runs as a process of its own, with an empty
//! environment, so that nothing of a module that upsets the compiler reaches the runtime. The same bytes on the
//! same CPU always give the same artifact, however many cores take part: the cache relies on it when it treats
//! the program's own digest as part of the key.
//!
//! Exit status 0, or 1 with one line that says what is wrong.

use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::{AsFd, FromRawFd, OwnedFd, RawFd};
use std::panic::PanicHookInfo;
use std::process::ExitCode;

use clap::Parser;

mod compile;
mod imports;
mod input;

/// Compiles the WebAssembly module on standard input (binary or text) to a native artifact on standard output.
#[derive(Parser)]
#[command(name = "coracle-wasmc", version)]
struct Args {
    /// Show a progress bar on standard error, if that is a terminal
    #[arg(long)]
    progress: bool,
    /// Write the error message to this descriptor instead of standard error
    #[arg(long, value_name = "FD", value_parser = clap::value_parser!(i32).range(3..))]
    message_fd: Option<RawFd>,
}

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("read the module: {0}")]
    Read(io::Error),
    #[error("write the artifact: {0}")]
    Write(io::Error),
    #[error("standard output is a terminal; an artifact is binary")]
    Terminal,
    #[error(transparent)]
    Input(#[from] input::Error),
    #[error(transparent)]
    Imports(#[from] imports::Error),
    #[error(transparent)]
    Compile(#[from] compile::Error),
}

fn main() -> ExitCode {
    std::panic::set_hook(Box::new(panicked));
    let args = Args::parse();
    let Err(error) = run(args.progress) else {
        return ExitCode::SUCCESS;
    };
    // An error of a parser may span lines and point into its input: the first line says it all. It may also
    // quote the module, which must not get to control the terminal.
    let text = error.to_string();
    let line = text.lines().next().unwrap_or("unknown error").replace(char::is_control, "?") + "\n";
    match args.message_fd {
        // SAFETY: the caller gave the descriptor to us by this number, and nothing else here uses it.
        Some(fd) => drop(File::from(unsafe { OwnedFd::from_raw_fd(fd) }).write_all(line.as_bytes())),
        None => eprint!("{line}"),
    }
    ExitCode::FAILURE
}

fn run(progress: bool) -> Result<(), Error> {
    if io::stdout().is_terminal() {
        return Err(Error::Terminal);
    }
    let mut bytes = Vec::new();
    io::stdin().lock().read_to_end(&mut bytes).map_err(Error::Read)?;
    let module = input::module(&bytes)?;
    imports::check(&module)?;
    let artifact = compile::artifact(&module, progress && io::stderr().is_terminal())?;
    let stdout = io::stdout().as_fd().try_clone_to_owned().map_err(Error::Write)?;
    File::from(stdout).write_all(artifact.as_ref()).map_err(Error::Write)
}

/// A panic is the compiler's defect, met with a module nobody tried before: the user gets one line about it,
/// whichever thread it strikes, and the caller a plain failure instead of a core dump.
fn panicked(info: &PanicHookInfo<'_>) {
    let what = info.payload_as_str().unwrap_or("no message");
    let place = info.location().map(ToString::to_string).unwrap_or_default();
    eprintln!("the compiler failed: {} ({place})", what.lines().next().unwrap_or_default());
    std::process::exit(1);
}
