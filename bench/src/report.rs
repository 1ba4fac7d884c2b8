//! docs/benchmarks.md: each part has a section between two marks, and a plot beside it. What is written around them stays.

use std::fmt::Write as _;
use std::fs;

use anyhow::{Context, Result};
use coracle_integration::{Host, repository};

use crate::plot;
use crate::runtime::Runtime;
use crate::sample::{Case, Goal, Series};

const END: &str = "<!-- end -->";

/// What one part has found.
pub struct Report {
    /// What the plot is called.
    pub title: String,
    /// In the order of the table.
    pub cases: Vec<Case>,
    /// What else there is to say, in sentences.
    pub notes: Vec<String>,
}

/// The machine and the versions, for those who compare.
///
/// # Errors
/// A runtime says no version.
pub fn circumstances(runtimes: &[Runtime]) -> Result<String> {
    let cores = std::thread::available_parallelism()?;
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let kernel = release.trim().split('-').next().unwrap_or_default();
    let dirs = Host::cgroup_dirs("/");
    let cgroups = match dirs.iter().filter(|dir| !dir.join("cgroup.controllers").exists()).count() {
        0 => "cgroup v2".to_owned(),
        v1 if v1 < dirs.len() => format!("cgroup v1 ({v1} hierarchies) and v2"),
        v1 => format!("cgroup v1 ({v1} hierarchies)"),
    };
    let load = fs::read_to_string("/proc/loadavg")?;
    let load = load.split(' ').next().unwrap_or_default();
    let peers: Vec<_> = runtimes[1..]
        .iter()
        .map(|peer| Ok(format!("; {} {}", peer.name, peer.version()?)))
        .collect::<Result<_>>()?;
    Ok(format!("{cores} cores, Linux {kernel}, {cgroups}, load before {load}{}.", peers.concat()))
}

impl Report {
    /// The table.
    pub fn table(&self) -> String {
        let mut table = String::from(
            "| | | median | 9 of 10 | CPU | ratio | to reach |\n|---|---|--:|--:|--:|--:|:--|\n",
        );
        for case in &self.cases {
            for (index, series) in case.series.iter().enumerate() {
                let what = if index == 0 { &case.what } else { "" };
                let ratio = if index == 0 { String::new() } else { format!("{:.2}", case.ratio(series)) };
                let p90 = if series.samples.len() > 1 { number(series.p90()) } else { String::new() };
                let cpu = series.cpu().map_or_else(String::new, |cpu| format!("{} ms", number(cpu)));
                let _ = writeln!(
                    table,
                    "| {what} | {} | {} {} | {p90} | {cpu} | {ratio} | {} |",
                    series.who,
                    number(series.median()),
                    case.unit,
                    goal(case, series)
                );
            }
        }
        table
    }

    /// Writes the section of a part, and its plot.
    ///
    /// # Errors
    /// The document has no such section, or cannot be written.
    pub fn write(&self, part: &str, circumstances: &str) -> Result<()> {
        let docs = repository().join("docs");
        let file = docs.join("benchmarks.md");
        let mut section = format!("\n![{}](benchmarks/{part}.svg)\n\n{}\n", self.title, self.table());
        for note in &self.notes {
            section += &format!("{note} ");
        }
        section += &format!("{circumstances}\n\n");
        let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        fs::create_dir_all(docs.join("benchmarks"))?;
        fs::write(docs.join(format!("benchmarks/{part}.svg")), plot::draw(&self.title, &self.cases))?;
        Ok(fs::write(file, replace(&text, part, &section)?)?)
    }
}

fn goal(case: &Case, series: &Series) -> String {
    let (text, reached) = match series.goal {
        None => return String::new(),
        Some(Goal::Ratio(most)) => (format!("ratio ≤ {most}"), case.ratio(series) <= most),
        Some(Goal::Most(most)) => (format!("≤ {} {}", number(most), case.unit), series.median() <= most),
        Some(Goal::More(most)) => {
            let difference = case.difference(series);
            let text = format!("≤ {} {} more; it is {}", number(most), case.unit, number(difference));
            (text, difference <= most)
        }
    };
    format!("{text} {}", if reached { "✓" } else { "✗" })
}

/// With three figures that count; a whole number as it is.
pub fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 99.95 || size.fract() == 0.0 => format!("{value:.0}"),
        size if size >= 9.995 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// Replaces what is between the mark of a part and the next end.
fn replace(text: &str, part: &str, section: &str) -> Result<String> {
    let mark = format!("<!-- {part} -->\n");
    let missing = || format!("docs/benchmarks.md has no section {}", mark.trim());
    let (before, rest) = text.split_once(&mark).with_context(missing)?;
    let (_, after) = rest.split_once(END).with_context(missing)?;
    Ok(format!("{before}{mark}{section}{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str =
        "# A\n<!-- start -->\nold\n<!-- end -->\nbetween\n<!-- cpu -->\nkept\n<!-- end -->\nafter\n";

    #[test]
    fn only_its_own_section_is_replaced() {
        let now = replace(TEXT, "start", "new\n").unwrap();
        assert_eq!(now, TEXT.replace("old", "new"));
        assert_eq!(replace(&now, "cpu", "").unwrap(), now.replace("kept\n", ""));
    }

    #[test]
    fn a_section_that_is_not_there_is_an_error() {
        assert!(replace(TEXT, "bulk", "").is_err());
        assert!(replace("<!-- cpu -->\n", "cpu", "").is_err());
    }

    #[test]
    fn the_document_has_a_section_for_every_part() {
        let text = fs::read_to_string(repository().join("docs/benchmarks.md")).unwrap();
        for (part, _) in crate::PARTS {
            replace(&text, part, "").unwrap();
        }
    }

    #[test]
    fn figures_that_count() {
        assert_eq!(
            [0.0, 0.256, 9.999, 12.34, 99.99, 1234.5].map(number),
            ["0", "0.26", "10.0", "12.3", "100", "1234"]
        );
    }

    #[test]
    fn a_table_says_whether_a_goal_is_reached() {
        let series = |who: &str, value, goal| Series::once(who, value, goal);
        let case = Case {
            what: "run".into(),
            unit: "ms",
            series: vec![
                series("coracle", 5.0, Some(Goal::Most(4.0))),
                series("crun", 10.0, Some(Goal::Ratio(0.6))),
                series("native", 4.0, Some(Goal::More(2.0))),
            ],
        };
        let report = Report { title: String::new(), cases: vec![case], notes: Vec::new() };
        let table = report.table();
        let lines: Vec<_> = table.lines().skip(2).collect();
        assert_eq!(lines[0], "| run | coracle | 5 ms |  |  |  | ≤ 4 ms ✗ |");
        assert_eq!(lines[1], "|  | crun | 10 ms |  |  | 0.50 | ratio ≤ 0.6 ✓ |");
        assert_eq!(lines[2], "|  | native | 4 ms |  |  | 1.25 | ≤ 2 ms more; it is 1 ✓ |");
    }
}
