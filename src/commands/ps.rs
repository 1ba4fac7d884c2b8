//! `ps`: the processes of a container, as ps(1) of the host shows them, or their ids as JSON.

use std::process::Command;

use crate::Error;
use crate::cli::Global;
use crate::container::Container;

/// Arguments of `ps`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Form of the output: table or json
    #[arg(short, long, value_name = "FORMAT", default_value = "table", value_parser = ["table", "json"])]
    format: String,
    /// Id of the container
    id: String,
    /// Options of ps(1) for the table [default: -ef]
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "PS OPTIONS")]
    options: Vec<String>,
}

/// Lists the processes.
///
/// # Errors
/// A cgroup that cannot be read; for the table, no ps(1), or one whose output has no column `PID`.
pub fn run(args: &Args, global: &Global) -> Result<u8, Error> {
    let container = Container::load(&global.root, &args.id)?;
    let pids = container.pids()?;
    if args.format == "json" {
        super::print(serde_json::to_string(&pids).map_err(Error::new)?)?;
        return Ok(0);
    }
    let options = if args.options.is_empty() { &["-ef".to_owned()][..] } else { &args.options };
    let output = Command::new("ps")
        .args(options)
        .output()
        .map_err(|e| Error::new(format_args!("ps: {}", crate::error::Os::from(e))))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(Error::new(format_args!("ps: {}: {}", output.status, said.trim_end())));
    }
    for line in table(&String::from_utf8_lossy(&output.stdout), &pids)? {
        super::print(line)?;
    }
    Ok(0)
}

/// The heading of a table of ps(1), and the lines of these processes.
fn table<'a>(output: &'a str, pids: &[i32]) -> Result<Vec<&'a str>, Error> {
    let mut lines = output.lines();
    let heading = lines.next().unwrap_or_default();
    let column = heading
        .split_whitespace()
        .position(|name| name == "PID")
        .ok_or_else(|| Error::new("couldn't find PID field in ps output"))?;
    let is_inside = |line: &&str| {
        let pid = line.split_whitespace().nth(column).and_then(|field| field.parse().ok());
        pid.is_some_and(|pid| pids.contains(&pid))
    };
    Ok(std::iter::once(heading).chain(lines.filter(is_inside)).collect())
}

#[cfg(test)]
mod tests {
    use super::table;

    #[test]
    fn the_table_has_the_containers_processes_only() {
        let output = "UID   PID  PPID CMD\nroot   12     1 12 a\nroot   13    12 b\nroot  120     1 c\n";
        let expected = ["UID   PID  PPID CMD", "root   12     1 12 a", "root  120     1 c"];
        assert_eq!(table(output, &[12, 120]).unwrap(), expected);
        assert!(table("CMD\nsh\n", &[1]).is_err());
    }
}
