//! `restore`: a container that runs on from a checkpoint.

use std::path::PathBuf;

use crate::cli::Global;
use crate::container::{self, Restore, Restored};
use crate::criu::Options;
use crate::{Error, foreground};

/// Arguments of `restore`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    options: Options,
    /// Directory of the bundle [default: the current one]
    #[arg(short, long, value_name = "DIR", default_value = ".", hide_default_value = true)]
    bundle: PathBuf,
    /// Return when the container runs
    #[arg(short, long)]
    detach: bool,
    /// File that receives the pid of the container's first process
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// Unix socket that receives the terminal's master
    #[arg(long, value_name = "SOCKET")]
    console_socket: Option<PathBuf>,
    /// Leave orphans of a container without a pid namespace to the host's init
    #[arg(long)]
    no_subreaper: bool,
    /// For runc's callers: CRIU chooses itself how it makes a directory the root
    #[arg(long)]
    no_pivot: bool,
    /// Close TCP connections instead of restoring them
    #[arg(long)]
    tcp_close: bool,
    /// Security label for the processes, as TYPE:NAME
    #[arg(long, value_name = "TYPE:NAME")]
    lsm_profile: Option<String>,
    /// SELinux label for the mounts
    #[arg(long, value_name = "CONTEXT")]
    lsm_mount_context: Option<String>,
    /// Id of the container
    id: String,
}

/// Restores the container; in the foreground the exit code is its program's.
///
/// # Errors
/// Those of [`container::restore`]; nothing is left of the container then.
pub fn run(args: &Args, global: &Global) -> Result<u8, Error> {
    let foreground = !args.detach;
    if foreground {
        foreground::block_signals()?;
        if !args.no_subreaper {
            foreground::adopt_orphans()?;
        }
    }
    let request = Restore {
        id: &args.id,
        bundle: &args.bundle,
        options: &args.options,
        pid_file: args.pid_file.as_deref(),
        console_socket: args.console_socket.as_deref(),
        foreground,
        tcp_close: args.tcp_close,
        lsm_profile: args.lsm_profile.as_deref(),
        lsm_mount_context: args.lsm_mount_context.as_deref(),
    };
    let Restored { container, pid, pidfd, terminal } = container::restore(&request, global)?;
    if args.detach {
        return Ok(0);
    }
    let code = foreground::wait(pid, pidfd, terminal)?;
    container.delete(true)?;
    Ok(code)
}
