//! `coracle`: arguments in, exit code out.

use std::process::ExitCode;

fn main() -> ExitCode {
    coracle::cli::main()
}
