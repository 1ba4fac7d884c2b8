//! Shared pieces of the end-to-end tests.
//!
//! Every test owns a [`Host`] (or an [`Engine`], a [`Docker`] or a [`Containerd`], which have one): a temporary
//! directory with a state directory, a module cache, a cgroup and container ids that nobody else uses. Tests can so run
//! in parallel, and dropping the host removes everything a test made, whether it passed, failed or panicked.
//!
//! The binary under test is `bin/coracle` of this repository, or the one that `CORACLE_BIN` names. Pointing that at
//! runc tells what the reference does with a native container.

mod artifact;
mod census;
mod command;
mod console;
mod container;
mod containerd;
mod docker;
mod engine;
#[cfg(target_arch = "x86_64")]
pub mod fault;
mod guest;
mod host;
pub mod http;
mod image;
mod network;
mod receiver;

pub use artifact::forge;
pub use census::Census;
pub use command::{Finished, Job, Run, after, command, eventually, words};
pub use console::{ConsoleSocket, Terminal};
pub use container::{Container, reap};
pub use containerd::{Containerd, KUBERNETES, PAUSE};
pub use docker::Docker;
pub use engine::Engine;
pub use guest::{c, native, native_package, package, rust, wat};
pub use host::{Host, busybox_root};
pub use image::{Image, archive};
pub use network::Network;
pub use receiver::Receiver;

use std::io::Write;
use std::path::{Path, PathBuf};

/// The runtime under test.
#[must_use]
pub fn coracle() -> PathBuf {
    std::env::var_os("CORACLE_BIN").map_or_else(|| repository().join("bin/coracle"), PathBuf::from)
}

/// The root of the source tree.
#[must_use]
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map_or_else(PathBuf::new, Path::to_path_buf)
}

/// Says that a test (or a part of one) could not be done here. `make test` counts these lines, so they bypass the
/// capture of a passing test's output.
pub fn skip(test: &str, reason: &str) {
    // A closed stderr is no reason to fail a test that is skipped anyway.
    let _ = std::io::stderr().write_all(format!("SKIP {test}: {reason}\n").as_bytes());
}
