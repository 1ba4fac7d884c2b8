//! CRIU, the program that saves trees of processes and restores them, asked over its RPC (criu.org/RPC).
//!
//! CRIU knows nothing of containers. What a checkpoint does not hold, because the host or the bundle provides it
//! (bind mounts, devices, masked files, joined namespaces), is declared under a name when it is saved and found
//! by the same name when it is restored; [`external`] is where both sides agree. A failure is told in CRIU's own
//! words, from its log ([`log`]).

pub mod external;
pub mod log;
mod options;
mod session;

use std::path::PathBuf;

use crate::error::Os;

pub use options::{CgroupsMode, Directories, NetworkLock, Options, config_annotation, make_directory};
pub use rust_criu::rust_criu_protobuf::rpc;
pub use session::{Session, require_feature, require_version};

/// 3.15 has all that is asked for here, but for [`LSM_VERSION`].
pub const MINIMUM_VERSION: u32 = 31500;
/// The first version in which another security label can be given to what is restored.
pub const LSM_VERSION: u32 = 31600;

/// What goes wrong with CRIU.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum Error {
    #[error("criu: executable file not found in $PATH (Debian's package criu has it)")]
    Missing,
    #[error("criu: {step}: {reason}")]
    Talk { step: &'static str, reason: Os },
    #[error("criu: an answer that is not understood: {0}")]
    Answer(String),
    #[error("criu ended without an answer; see {log}", log = log.display())]
    Gone { log: PathBuf },
    #[error("criu version {found} is too old: {wanted} or newer is needed")]
    Version { found: u32, wanted: u32 },
    #[error("criu or this kernel lacks {0}")]
    Feature(&'static str),
    #[error("criu failed: {reason} (log: {log})", log = log.display())]
    Failed { reason: String, log: PathBuf },
}
