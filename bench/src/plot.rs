//! Bars, as SVG: one for the median of everybody in every case, with a line up to what nine of ten do not exceed.

use svg::Document;
use svg::node::element::{Line, Rectangle, Text, Title};

use crate::report::number;
use crate::sample::{Case, Series};

const WIDTH: f64 = 880.0;
const LEFT: f64 = 300.0;
/// Room for a value after the longest bar.
const RIGHT: f64 = 130.0;
const TOP: f64 = 84.0;
const BAR: f64 = 16.0;
const GAP: f64 = 14.0;
/// Above this, bars are of the logarithm.
const SPREAD: f64 = 25.0;

/// Dark on light wherever it is shown: GitHub's dark mode has a dark page behind it.
const BACKGROUND: &str = "#ffffff";
const INK: &str = "#1f2328";
const FAINT: &str = "#d0d7de";
/// That those who cannot tell red from green can tell them apart (Okabe and Ito).
const COLOURS: [&str; 7] = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#8c8c8c", "#56b4e9", "#d55e00"];

/// Draws all cases of a part.
pub fn draw(title: &str, cases: &[Case]) -> String {
    let whos = everybody(cases);
    let colour = |who: &str| whos.iter().position(|w| *w == who).map_or(INK, |i| COLOURS[i % COLOURS.len()]);
    let of_unit = |unit| Scale::of(cases.iter().filter(move |case| case.unit == unit));
    let bars: usize = cases.iter().map(|case| case.series.len()).sum();
    #[allow(clippy::cast_precision_loss)]
    let height = TOP + bars as f64 * BAR + cases.len() as f64 * GAP + GAP;
    let mut document = Document::new()
        .set("xmlns", "http://www.w3.org/2000/svg")
        .set("viewBox", (0, 0, WIDTH, height))
        .set("width", WIDTH)
        .set("height", height)
        .set("font-family", "system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif")
        .set("font-size", 13)
        .add(Title::new(title))
        .add(Rectangle::new().set("width", WIDTH).set("height", height).set("rx", 8).set("fill", BACKGROUND))
        .add(text(20.0, 30.0, title).set("font-size", 16).set("font-weight", 600));
    let logarithmic = cases.iter().map(|case| case.unit).find(|unit| of_unit(*unit).logarithmic);
    if let Some(unit) = logarithmic {
        let note = text(WIDTH - 20.0, 30.0, &format!("{unit}: logarithmic"));
        document = document.add(note.set("text-anchor", "end").set("fill", "#656d76"));
    }
    let mut x = 20.0;
    for who in &whos {
        document = document.add(bar(x, 48.0, 12.0, 12.0, colour(who))).add(text(x + 18.0, 58.5, who));
        #[allow(clippy::cast_precision_loss)]
        let room = 18.0 + who.chars().count() as f64 * 7.5 + 22.0;
        x += room;
    }
    let mut y = TOP;
    for case in cases {
        let scale = of_unit(case.unit);
        #[allow(clippy::cast_precision_loss)]
        let middle = y + case.series.len() as f64 * BAR / 2.0;
        document = document.add(text(LEFT - 12.0, middle + 4.5, &case.what).set("text-anchor", "end"));
        for series in &case.series {
            let length = scale.length(series.median());
            let longest = scale.length(series.p90());
            document = document.add(bar(LEFT, y + 1.0, length, BAR - 2.0, colour(&series.who)));
            if longest > length + 1.0 {
                document = document.add(line(LEFT + length, LEFT + longest, y + BAR / 2.0, INK));
            }
            let label = format!("{} {}", number(series.median()), case.unit);
            document = document
                .add(text(LEFT + longest.max(length) + 6.0, y + BAR - 3.5, &label).set("font-size", 12));
            y += BAR;
        }
        y += GAP;
    }
    let axis = Line::new().set("x1", LEFT).set("x2", LEFT).set("y1", TOP - 6.0).set("y2", y - GAP + 6.0);
    document.add(axis.set("stroke", FAINT)).to_string() + "\n"
}

/// Whoever is in any of the cases, in the order of appearance.
fn everybody(cases: &[Case]) -> Vec<&str> {
    let mut all: Vec<&str> = Vec::new();
    for Series { who, .. } in cases.iter().flat_map(|case| &case.series) {
        if !all.contains(&who.as_str()) {
            all.push(who);
        }
    }
    all
}

/// How long a bar is, of those with the same unit.
struct Scale {
    least: f64,
    most: f64,
    logarithmic: bool,
}

impl Scale {
    fn of<'a>(cases: impl Iterator<Item = &'a Case>) -> Scale {
        let all: Vec<_> = cases.flat_map(|case| &case.series).collect();
        let all = || all.iter().copied();
        let most = all().map(Series::p90).fold(0.0, f64::max);
        let least = all().map(Series::median).filter(|value| *value > 0.0).fold(most, f64::min);
        Scale { least, most, logarithmic: most > least * SPREAD }
    }

    fn length(&self, value: f64) -> f64 {
        let part = if self.logarithmic {
            // The shortest bar can be seen.
            let floor = (self.least / 2.0).ln();
            (value.max(self.least / 2.0).ln() - floor) / (self.most.ln() - floor)
        } else {
            value / self.most
        };
        (part * (WIDTH - LEFT - RIGHT)).max(0.0).round()
    }
}

fn text(x: f64, y: f64, content: &str) -> Text {
    Text::new(content).set("x", x).set("y", y).set("fill", INK)
}

fn bar(x: f64, y: f64, width: f64, height: f64, colour: &str) -> Rectangle {
    let bar = Rectangle::new().set("x", x).set("y", y).set("width", width).set("height", height);
    bar.set("rx", 2).set("fill", colour)
}

fn line(from: f64, to: f64, y: f64, colour: &str) -> Line {
    Line::new().set("x1", from).set("x2", to).set("y1", y).set("y2", y).set("stroke", colour)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case(values: &[f64]) -> Case {
        let series = values.iter().map(|value| Series::once("a < b", *value, None)).collect();
        Case { what: "case".into(), unit: "ms", series }
    }

    #[test]
    fn the_longest_bar_fills_the_room() {
        for values in [[1.0, 2.0], [1.0, 1000.0]] {
            let scale = Scale::of([case(&values)].iter());
            assert_eq!(scale.length(values[1]), WIDTH - LEFT - RIGHT);
            assert!(scale.length(values[0]) > 0.0);
        }
    }

    #[test]
    fn values_far_apart_are_shown_by_their_logarithm() {
        assert!(!Scale::of([case(&[1.0, 20.0])].iter()).logarithmic);
        assert!(Scale::of([case(&[1.0, 30.0])].iter()).logarithmic);
    }

    #[test]
    fn names_are_escaped() {
        let drawn = draw("title", &[case(&[1.0])]);
        assert!(drawn.contains("a &lt; b") && !drawn.contains("a < b"), "{drawn}");
    }
}
