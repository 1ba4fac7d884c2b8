//! `state`: what runtime.md calls the state of a container, as JSON.

use std::collections::HashMap;
use std::path::PathBuf;

use serde::Serialize;

use crate::Error;
use crate::cli::Global;
use crate::container::{Container, Status};

/// Arguments of `state`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Id of the container
    id: String,
}

/// The state of a container, with the fields that runc adds.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report {
    oci_version: String,
    pub(super) id: String,
    /// 0 when no process runs.
    pub(super) pid: i32,
    pub(super) status: Status,
    pub(super) bundle: PathBuf,
    rootfs: PathBuf,
    pub(super) created: String,
    #[serde(skip_serializing_if = "HashMap::is_empty")]
    annotations: HashMap<String, String>,
    pub(super) owner: String,
}

impl Report {
    /// Reads the state of a container.
    pub(super) fn of(container: Container) -> Result<Self, Error> {
        let status = container.status()?;
        let state = container.state;
        let pid = match status {
            Status::Stopped => 0,
            _ => state.init.map_or(0, |p| p.pid),
        };
        Ok(Self {
            oci_version: state.oci_version,
            id: state.id,
            pid,
            status,
            bundle: state.bundle,
            rootfs: state.rootfs,
            created: state.created,
            annotations: state.annotations,
            owner: state.owner,
        })
    }
}

/// Prints the state of a container.
///
/// # Errors
/// An id that is not known; a state that cannot be read.
pub fn run(args: &Args, global: &Global) -> Result<u8, Error> {
    let report = Report::of(Container::load(&global.root, &args.id)?)?;
    super::print(serde_json::to_string_pretty(&report).map_err(Error::new)?)?;
    Ok(0)
}
