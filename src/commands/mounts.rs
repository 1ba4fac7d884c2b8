//! `mounts`: mounts that come to a running container, and go (crun(1)).

use std::path::PathBuf;

use oci_spec::runtime::{LinuxNamespaceType, Mount};

use crate::Error;
use crate::cli::Global;
use crate::container::Container;
use crate::{config, rootfs};

/// Arguments of `mounts`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Add mounts
    Add(Target),
    /// Remove what is mounted at the destinations
    Remove(Target),
}

#[derive(Debug, clap::Args)]
struct Target {
    /// Id of the container
    #[arg(value_name = "CONTAINER")]
    id: String,
    /// File with a list of mounts, as in config.json
    file: PathBuf,
}

/// Adds or removes mounts.
///
/// # Errors
/// The container does not run or has the host's mounts; a mount that cannot be made or is not there.
pub fn run(args: &Args, global: &Global) -> Result<u8, Error> {
    let (Action::Add(target) | Action::Remove(target)) = &args.action;
    let container = Container::load(&global.root, &target.id)?;
    let mounts: Vec<Mount> = config::read_mounts(&target.file)?;
    let spec = container.spec()?;
    if !config::has_namespace(&spec, LinuxNamespaceType::Mount) {
        return Err(Error::new("the container has no mount namespace of its own"));
    }
    let pid = match container.state.init {
        Some(init) if init.is_alive()? => init.pid,
        _ => return Err(crate::container::Error::NotRunning.into()),
    };
    match args.action {
        Action::Add(_) => rootfs::live::add(&spec, &container.state.bundle, pid, &mounts),
        Action::Remove(_) => rootfs::live::remove(pid, &mounts),
    }
    .map_err(Error::new)?;
    Ok(0)
}
