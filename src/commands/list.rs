//! `list`: all containers below `--root`.

use crate::Error;
use crate::cli::Global;
use crate::commands::state::Report;
use crate::container::{self, Container};

/// Arguments of `list`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Form of the list
    #[arg(short, long, default_value = "table", value_parser = ["table", "json"])]
    format: String,
    /// Print ids only
    #[arg(short, long)]
    quiet: bool,
}

/// Prints the containers.
///
/// # Errors
/// A root that cannot be read. A container whose state cannot be read is reported and does not hide the others.
pub fn run(args: &Args, global: &Global) -> Result<u8, Error> {
    let mut reports = Vec::new();
    for id in container::ids(&global.root)? {
        let report = match Container::load(&global.root, &id) {
            // Deleted since the directory was read.
            Err(container::Error::NotFound) => continue,
            loaded => loaded.map_err(Error::from).and_then(Report::of),
        };
        match report {
            Ok(report) => reports.push(report),
            Err(error) => super::tell(format_args!("coracle: {id}: {error}")),
        }
    }
    if args.quiet {
        reports.iter().try_for_each(|report| super::print(&report.id))?;
    } else if args.format == "json" {
        super::print(serde_json::to_string(&reports).map_err(Error::new)?)?;
    } else {
        print_table(&reports)?;
    }
    Ok(0)
}

fn print_table(reports: &[Report]) -> Result<(), Error> {
    let mut rows = vec![["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(str::to_owned)];
    rows.extend(reports.iter().map(|r| {
        [
            r.id.clone(),
            r.pid.to_string(),
            r.status.to_string(),
            r.bundle.display().to_string(),
            r.created.clone(),
            r.owner.clone(),
        ]
    }));
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0).max(12);
    let widths: Vec<usize> = (0..6).map(width).collect();
    for row in &rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        super::print(cells.collect::<Vec<_>>().join("  ").trim_end())?;
    }
    Ok(())
}
