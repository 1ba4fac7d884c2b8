//! The command line: global flags, the verbs, and what becomes of an error.
//!
//! Flags are runc's, with crun's where engines pass them. A usage error ends with 1 and an unknown verb with
//! 3, as with runc; a failed `exec` with 255; every other failure with 1.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{ArgAction, ArgMatches, Args, Command, CommandFactory, FromArgMatches, Parser, Subcommand};

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
    verb: Verb,
}

#[derive(Args)]
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

/// Declares the verbs, each with the module of [`crate::commands`] that has its arguments and does it. By hand and not by
/// clap's own macro, which builds the arguments of every verb to parse those of one.
macro_rules! verbs {
    ($($(#[doc = $about:literal])+ $name:ident($module:ident),)+) => {
        enum Verb {
            $($(#[doc = $about])+ $name($module::Args),)+
        }

        impl Verb {
            fn run(&self, global: &Global) -> Result<u8, Error> {
                match self {
                    $(Self::$name(args) => $module::run(args, global),)+
                }
            }
        }

        impl Subcommand for Verb {
            fn augment_subcommands(command: Command) -> Command {
                command$(.subcommand({
                    const ABOUT: &str = concat!($($about),+).trim_ascii_start();
                    Command::new(stringify!($module))
                        .about(ABOUT)
                        .defer(|verb| $module::Args::augment_args(verb).about(ABOUT).long_about(None))
                }))+
            }

            fn augment_subcommands_for_update(command: Command) -> Command {
                Self::augment_subcommands(command)
            }

            fn has_subcommand(name: &str) -> bool {
                [$(stringify!($module)),+].contains(&name)
            }
        }

        impl FromArgMatches for Verb {
            fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
                match matches.subcommand() {
                    $(Some((name, matches)) if name == stringify!($module) => {
                        $module::Args::from_arg_matches(matches).map(Self::$name)
                    })+
                    _ => Err(clap::Error::new(ErrorKind::MissingSubcommand)),
                }
            }

            fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
                Self::from_arg_matches(matches).map(|verb| *self = verb)
            }
        }
    };
}

verbs! {
    /// Create a container: everything is set up, its program not yet started
    Create(create),
    /// Start the program of a created container
    Start(start),
    /// Create and start a container, and wait for its end
    Run(run),
    /// Run another program in a running container
    Exec(exec),
    /// Print the state of a container as JSON
    State(state),
    /// Send a signal to a container
    Kill(kill),
    /// Remove a stopped container
    Delete(delete),
    /// List containers
    List(list),
    /// List the processes of a container
    Ps(ps),
    /// Suspend every process of a container
    Pause(pause),
    /// Resume a paused container
    Resume(resume),
    /// Change the resource limits of a container
    Update(update),
    /// Print resource statistics and out-of-memory events of a container
    Events(events),
    /// Add mounts to a running container, or remove them
    Mounts(mounts),
    /// Save a running container to files
    Checkpoint(checkpoint),
    /// Run a container on from where a checkpoint left it
    Restore(restore),
    /// Write a config.json to start from
    Spec(spec),
    /// Print what this runtime supports, as JSON
    Features(features),
    /// Look after the cache of compiled modules
    Wasm(wasm),
    /// Print a completion script for a shell
    Completion(completion),
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
pub fn command() -> Command {
    Cli::command()
}

/// Parses the command line and runs the command; returns the exit code.
pub fn main() -> u8 {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    let level = if cli.flags.debug { "debug" } else { &cli.flags.log_level };
    if let Err(error) = log::init(cli.flags.log.as_deref(), cli.flags.log_format == "json", level) {
        log::fatal(&Error::new(error));
        return 1;
    }
    if cli.flags.criu.is_some() {
        eprintln!("WARNING: --criu ignored (criu binary from $PATH is used); do not use");
    }
    let failure = if matches!(cli.verb, Verb::Exec(_)) { 255 } else { 1 };
    let outcome = cli.flags.resolve().and_then(|global| cli.verb.run(&global));
    match outcome {
        Ok(code) => code,
        Err(error) => {
            log::fatal(&error);
            failure
        }
    }
}

/// Help and version are printed as they are; of an error only its first line, with where to read on.
fn usage(error: &clap::Error) -> u8 {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            // Nobody is left to be told that standard output is closed.
            let _ = error.print();
            0
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = error.print();
            1
        }
        kind => {
            if let (ErrorKind::InvalidSubcommand, Some(name)) =
                (kind, error.get(ContextKind::InvalidSubcommand))
            {
                eprintln!(
                    "coracle: No help topic for '{name}': there is no such command (see 'coracle --help')"
                );
                return 3;
            }
            if let (ErrorKind::InvalidValue, Some(flag), Some(ContextValue::String(value))) =
                (kind, error.get(ContextKind::InvalidArg), error.get(ContextKind::InvalidValue))
                && value.is_empty()
            {
                // The words of getopt_long(3), by which podman finds out which flags there are.
                eprintln!("coracle: option '{flag}' requires an argument (see 'coracle --help')");
                return 1;
            }
            let text = error.to_string();
            // A missing argument is named on the lines after the first, each by itself.
            let words: Vec<&str> = text
                .lines()
                .take_while(|line| !line.starts_with("Usage") && !line.starts_with("For more"))
                .flat_map(str::split_whitespace)
                .collect();
            eprintln!("coracle: {} (see 'coracle --help')", words.join(" ").trim_start_matches("error: "));
            1
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
