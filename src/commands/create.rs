//! `create`: everything up to the program, which waits for `start`.

use std::path::PathBuf;

use crate::cli::Global;
use crate::container::{self, Create};
use crate::{Error, program};

/// Arguments of `create`.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub struct Args {
    /// Directory of the bundle [default: the current one]
    #[arg(short, long, value_name = "DIR", default_value = ".", hide_default_value = true)]
    pub(super) bundle: PathBuf,
    /// Configuration to read instead of the bundle's config.json
    #[arg(short = 'f', long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// File that receives the pid of the container's first process
    #[arg(long, value_name = "FILE")]
    pub(super) pid_file: Option<PathBuf>,
    /// Unix socket that receives the terminal's master
    #[arg(long, value_name = "SOCKET")]
    pub(super) console_socket: Option<PathBuf>,
    /// Move the root file system over / instead of using pivot_root, for a root on a ramdisk
    #[arg(long)]
    pub(super) no_pivot: bool,
    /// Keep the caller's session keyring
    #[arg(long)]
    pub(super) no_new_keyring: bool,
    /// Pass this many descriptors, from 3 on, to the container's program
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(super) preserve_fds: u32,
    /// Unix socket that receives a descriptor of the container's first process (pidfd_open(2))
    #[arg(long, value_name = "SOCKET")]
    pub(super) pidfd_socket: Option<PathBuf>,
    /// Id of the container: a name of its own on this host
    pub(super) id: String,
}

impl Args {
    pub(super) fn request(&self) -> Create<'_> {
        Create {
            id: &self.id,
            bundle: &self.bundle,
            config: self.config.as_deref(),
            pid_file: self.pid_file.as_deref(),
            console_socket: self.console_socket.as_deref(),
            no_pivot: self.no_pivot,
            no_new_keyring: self.no_new_keyring,
            preserve_fds: self.preserve_fds,
            pidfd_socket: self.pidfd_socket.as_deref(),
            attended: None,
        }
    }
}

/// Creates a container.
///
/// # Errors
/// Those of [`container::create`]; nothing is left of the container then.
pub fn run(args: &Args, global: &Global) -> Result<u8, Error> {
    program::protect()?;
    container::create(args.request(), global)
        .map_err(|e| Error::new(format_args!("unable to start container process: {e}")))?;
    Ok(0)
}
