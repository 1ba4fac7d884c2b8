//! `completion`: the shells' own way of knowing our flags.

use clap_complete::Shell;

use crate::Error;
use crate::cli::{self, Global};

/// Arguments of `completion`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Shell to complete for
    shell: Shell,
}

/// Prints the script, to be sourced or installed: `coracle completion bash > /etc/bash_completion.d/coracle`.
///
/// # Errors
/// Standard output cannot be written.
pub fn run(args: &Args, _: &Global) -> Result<u8, Error> {
    // Into memory first: clap_complete panics when it cannot write, as into a pipe that `head` has closed.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut cli::command(), "coracle", &mut script);
    std::io::Write::write_all(&mut std::io::stdout(), &script)
        .map_err(|e| Error::new(format_args!("write the script: {}", crate::error::Os(e))))?;
    Ok(0)
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_shell_gets_a_script_that_knows_the_verbs() {
        for shell in <clap_complete::Shell as clap::ValueEnum>::value_variants() {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut crate::cli::command(), "coracle", &mut script);
            assert!(String::from_utf8(script).unwrap().contains("delete"), "{shell}");
        }
    }
}
