//! The command line: global flags, the verbs, and what becomes of an error.
//!
//! Flags are runc's, with crun's where engines pass them. A usage error ends with 1 and an unknown verb with
//! 3, as with runc; a failed `exec` with 255; every other failure with 1.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{ArgAction, CommandFactory, Parser, Subcommand};

use crate::cgroup;
use crate::commands::{
    checkpoint, completion, create, delete, events, exec, features, kill, list, mounts, pause, ps, restore,
    resume, run, spec, start, state, update, wasm,
};
use crate::error::Error;
use crate::{log, rootless};

/// Version of the runtime and, each on a line of its own, of the specification and what is built in, in crun's words:
/// people and scripts look for `+WASM` there.
const VERSION: &str = concat!(
    "version ",
    env!("CARGO_PKG_VERSION"),
    "\nspec: 1.3.0\n+SYSTEMD +SELINUX +APPARMOR +CAP +SECCOMP +EBPF +CRIU +WASM:wasmer"
);

#[derive(Parser)]
#[command(
    name = "coracle",
    // What runc prints, for those who take it apart.
    version = VERSION,
    disable_version_flag = true,
    about = "An OCI runtime for native programs and WebAssembly modules",
    disable_help_subcommand = true
)]
struct Cli {
    #[command(flatten)]
    flags: GlobalFlags,
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Args)]
struct GlobalFlags {
    /// Directory that holds the state of containers [default: /run/coracle, or $XDG_RUNTIME_DIR/coracle]
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// What receives errors instead of standard error: [file:]PATH, journald:NAME or syslog:NAME
    #[arg(long, value_name = "DESTINATION")]
    log: Option<OsString>,
    /// Form of what is logged
    #[arg(long, value_name = "FORMAT", default_value = "text", value_parser = ["text", "json"])]
    log_format: String,
    /// How much is logged
    #[arg(long, value_name = "LEVEL", default_value = "error", value_parser = ["error", "warning", "debug"])]
    log_level: String,
    /// Log what the runtime does, step by step: --log-level debug
    #[arg(long)]
    debug: bool,
    /// For old callers of runc: criu is found by $PATH
    #[arg(long, value_name = "FILE", hide = true)]
    criu: Option<PathBuf>,
    /// Print version
    #[arg(short = 'v', short_alias = 'V', long, action = ArgAction::Version)]
    version: Option<bool>,
    /// Put containers into systemd scopes; cgroupsPath is then "slice:prefix:name"
    #[arg(long)]
    systemd_cgroup: bool,
    /// Who manages cgroups
    #[arg(long, value_name = "MANAGER", value_parser = ["cgroupfs", "systemd", "disabled"])]
    cgroup_manager: Option<String>,
    /// Ignore cgroups that may not be written, as an ordinary user must
    #[arg(long, value_name = "BOOL", default_value = "auto", value_parser = ["true", "false", "auto"])]
    rootless: String,
}

#[derive(Subcommand)]
enum Command {
    /// Create a container: everything is set up, its program not yet started
    Create(create::Args),
    /// Start the program of a created container
    Start(start::Args),
    /// Create and start a container, and wait for its end
    Run(run::Args),
    /// Run another program in a running container
    Exec(exec::Args),
    /// Print the state of a container as JSON
    State(state::Args),
    /// Send a signal to a container
    Kill(kill::Args),
    /// Remove a stopped container
    Delete(delete::Args),
    /// List containers
    List(list::Args),
    /// List the processes of a container
    Ps(ps::Args),
    /// Suspend every process of a container
    Pause(pause::Args),
    /// Resume a paused container
    Resume(resume::Args),
    /// Change the resource limits of a container
    Update(update::Args),
    /// Print resource statistics and out-of-memory events of a container
    Events(events::Args),
    /// Add mounts to a running container, or remove them
    Mounts(mounts::Args),
    /// Save a running container to files
    Checkpoint(checkpoint::Args),
    /// Run a container on from where a checkpoint left it
    Restore(restore::Args),
    /// Write a config.json to start from
    Spec(spec::Args),
    /// Print what this runtime supports, as JSON
    Features(features::Args),
    /// Look after the cache of compiled modules
    Wasm(wasm::Args),
    /// Print a completion script for a shell
    Completion(completion::Args),
}

/// What the global flags say, with their defaults filled in.
#[derive(Debug)]
pub struct Global {
    /// Directory of the containers' state directories.
    pub root: PathBuf,
    /// Whether `--debug` was given.
    pub debug: bool,
    /// Who manages the cgroups of containers made by this command.
    pub cgroup_manager: cgroup::Manager,
    /// Whether we are an ordinary user, or root of a user namespace only.
    pub rootless: bool,
}

impl GlobalFlags {
    fn resolve(self) -> Result<Global, Error> {
        let confined = rootless::is_rootless();
        let rootless = match self.rootless.as_str() {
            "true" => true,
            "false" => false,
            _ => confined,
        };
        let cgroup_manager = match self.cgroup_manager.as_deref() {
            Some("disabled") => cgroup::Manager::Disabled,
            Some("systemd") => cgroup::Manager::Systemd,
            Some(_) => cgroup::Manager::Cgroupfs,
            None if self.systemd_cgroup => cgroup::Manager::Systemd,
            None => cgroup::Manager::Cgroupfs,
        };
        let root = match self.root {
            // Later steps change directory, so a relative path is bound to where we are now.
            Some(root) => {
                let absolute = std::path::absolute(&root)
                    .map_err(|e| Error::new(format_args!("--root {}: {e}", root.display())))?;
                if absolute == Path::new("/") {
                    return Err(Error::new("Option --root argument should not be set to /"));
                }
                absolute
            }
            None => rootless::default_root(confined),
        };
        Ok(Global { root, debug: self.debug, cgroup_manager, rootless })
    }
}

/// The command line as clap knows it, for completions and manual pages.
pub fn command() -> clap::Command {
    Cli::command()
}

/// Parses the command line and runs the command.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    let level = if cli.flags.debug { "debug" } else { &cli.flags.log_level };
    if let Err(error) = log::init(cli.flags.log.as_deref(), cli.flags.log_format == "json", level) {
        log::fatal(&Error::new(error));
        return ExitCode::FAILURE;
    }
    if cli.flags.criu.is_some() {
        eprintln!("WARNING: --criu ignored (criu binary from $PATH is used); do not use");
    }
    let failure = if matches!(cli.command, Command::Exec(_)) { 255 } else { 1 };
    let outcome = cli.flags.resolve().and_then(|global| dispatch(&cli.command, &global));
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            log::fatal(&error);
            ExitCode::from(failure)
        }
    }
}

fn dispatch(command: &Command, global: &Global) -> Result<u8, Error> {
    match command {
        Command::Create(args) => create::run(args, global),
        Command::Start(args) => start::run(args, global),
        Command::Run(args) => run::run(args, global),
        Command::Exec(args) => exec::run(args, global),
        Command::State(args) => state::run(args, global),
        Command::Kill(args) => kill::run(args, global),
        Command::Delete(args) => delete::run(args, global),
        Command::List(args) => list::run(args, global),
        Command::Ps(args) => ps::run(args, global),
        Command::Pause(args) => pause::run(args, global),
        Command::Resume(args) => resume::run(args, global),
        Command::Update(args) => update::run(args, global),
        Command::Events(args) => events::run(args, global),
        Command::Mounts(args) => mounts::run(args, global),
        Command::Checkpoint(args) => checkpoint::run(args, global),
        Command::Restore(args) => restore::run(args, global),
        Command::Spec(args) => spec::run(args, global),
        Command::Features(args) => features::run(args, global),
        Command::Wasm(args) => wasm::run(args, global),
        Command::Completion(args) => completion::run(args, global),
    }
}

/// Help and version are printed as they are; of an error only its first line, with where to read on.
fn usage(error: &clap::Error) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            // Nobody is left to be told that standard output is closed.
            let _ = error.print();
            ExitCode::SUCCESS
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = error.print();
            ExitCode::FAILURE
        }
        kind => {
            if let (ErrorKind::InvalidSubcommand, Some(name)) =
                (kind, error.get(ContextKind::InvalidSubcommand))
            {
                eprintln!(
                    "coracle: No help topic for '{name}': there is no such command (see 'coracle --help')"
                );
                return ExitCode::from(3);
            }
            if let (ErrorKind::InvalidValue, Some(flag), Some(ContextValue::String(value))) =
                (kind, error.get(ContextKind::InvalidArg), error.get(ContextKind::InvalidValue))
                && value.is_empty()
            {
                // The words of getopt_long(3), by which podman finds out which flags there are.
                eprintln!("coracle: option '{flag}' requires an argument (see 'coracle --help')");
                return ExitCode::FAILURE;
            }
            let text = error.to_string();
            // A missing argument is named on the lines after the first, each by itself.
            let words: Vec<&str> = text
                .lines()
                .take_while(|line| !line.starts_with("Usage") && !line.starts_with("For more"))
                .flat_map(str::split_whitespace)
                .collect();
            eprintln!("coracle: {} (see 'coracle --help')", words.join(" ").trim_start_matches("error: "));
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        command().debug_assert();
        assert!(VERSION.contains(&format!("\nspec: {}\n", features::OCI_VERSION)));
    }
}
