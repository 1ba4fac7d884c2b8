//! Coracle, an OCI runtime: the life of a container, native or Wasm.
//!
//! `main.rs` turns arguments into one of the [`commands`]; these act on a [`container`]; what happens inside
//! the new namespaces is in [`init`], in execution order.

pub mod bits;
pub mod cgroup;
pub mod cli;
pub mod commands;
pub mod config;
pub mod console;
pub mod container;
pub mod criu;
pub mod error;
pub mod file;
pub mod foreground;
pub mod handler;
pub mod hooks;
pub mod init;
pub mod labels;
pub mod log;
pub mod net_devices;
pub mod notify;
pub mod passwd;
pub mod procfs;
pub mod program;
pub mod resctrl;
pub mod rootfs;
pub mod rootless;
pub mod seccomp;
pub mod unix;
pub mod userns;
pub mod wasm;

pub use error::Error;
pub use program::directory as program_dir;

/// The version, as `--version` prints it after our name.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
