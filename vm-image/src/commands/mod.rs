//! The commands, a file each.

pub mod build;
pub mod containerfile;
pub mod inject;
pub mod inspect;
pub mod pack;

/// What a command has to say at its end: to people, and to scripts.
pub struct Report {
    /// Lines, each with its end.
    pub text: String,
    /// The same.
    pub json: serde_json::Value,
}
