//! `coracle-vm-image`: virtual machine images for podman machine that run WebAssembly modules.
//!
//! One file of `commands/` for each command. [`debian`] makes a root tree, [`disk`] a disk of it, [`format`] an image of
//! that; [`partition`], [`filesystem`] and [`tree`] look into an image that exists; [`runtime`] is what Coracle is inside
//! one, and [`contract`] what podman machine asks of it.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use serde_json::json;

mod arch;
mod commands;
mod contract;
mod debian;
mod disk;
mod filesystem;
mod format;
mod image;
mod interrupt;
mod output;
mod overlay;
mod partition;
mod progress;
mod runtime;
mod tool;
mod tree;

use commands::{build, containerfile, inject, inspect, pack};

/// Makes images for podman machine in which `podman run` runs WebAssembly modules, and puts Coracle into existing ones.
#[derive(Parser)]
#[command(name = "coracle-vm-image", version, propagate_version = true)]
struct Cli {
    /// Write what was done or found to standard output as one JSON object, an error included
    #[arg(long, global = true)]
    json: bool,

    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Build(build::Build),
    Inject(inject::Inject),
    Containerfile(containerfile::Containerfile),
    Pack(pack::Pack),
    Inspect(inspect::Inspect),
}

fn main() -> ExitCode {
    let Cli { json, command } = Cli::parse();
    let done = interrupt::listen().and_then(|()| match command {
        Command::Build(build) => build.run(),
        Command::Inject(inject) => inject.run(),
        Command::Containerfile(containerfile) => containerfile.run(),
        Command::Pack(pack) => pack.run(),
        Command::Inspect(inspect) => inspect.run(),
    });
    match done {
        Ok(report) => {
            use std::io::Write;
            let text = if json { format!("{}\n", report.json) } else { report.text };
            // Nobody is left to be told that nobody reads.
            let _ = std::io::stdout().write_all(text.as_bytes());
            ExitCode::SUCCESS
        }
        Err(error) => {
            let interrupted = error.downcast_ref::<interrupt::Interrupted>();
            let message = interrupted.map_or_else(|| format!("{error:#}"), ToString::to_string);
            if json {
                println!("{}", json!({ "error": message }));
            }
            eprintln!("coracle-vm-image: {message}");
            ExitCode::from(interrupted.map_or(1, interrupt::Interrupted::exit_code))
        }
    }
}
