//! The command line: global flags, the verbs, and what becomes of an error.

use std::process::ExitCode;

/// Parses the command line and runs the command.
pub fn main() -> ExitCode {
    ExitCode::SUCCESS
}
