//! Measuring things that take turns, and what comes of it.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use indicatif::{ProgressBar, ProgressStyle};

/// What one round has found.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// In the case's unit.
    pub value: f64,
    /// Processor time, in milliseconds.
    pub cpu: Option<f64>,
}

impl From<f64> for Sample {
    fn from(value: f64) -> Sample {
        Sample { value, cpu: None }
    }
}

/// What is to be reached.
#[derive(Clone, Copy, Debug)]
pub enum Goal {
    /// The first contestant's values are at most so many times those of this one.
    Ratio(f64),
    /// They are at most so much more.
    More(f64),
    /// This one's own are at most so much.
    Most(f64),
}

/// Who takes part, and what it does in each round.
pub struct Contestant<'a> {
    /// What tables and plots call it.
    pub who: String,
    /// What is to be reached.
    pub goal: Option<Goal>,
    /// One round.
    pub once: Box<dyn FnMut() -> Result<Sample> + 'a>,
}

impl<'a> Contestant<'a> {
    /// One without a goal.
    pub fn new(who: &str, once: impl FnMut() -> Result<Sample> + 'a) -> Self {
        Contestant { who: who.into(), goal: None, once: Box::new(once) }
    }

    /// The same with a goal.
    pub fn with(mut self, goal: Option<Goal>) -> Self {
        self.goal = goal;
        self
    }
}

/// What has been found of one of them.
#[derive(Clone, Debug)]
pub struct Series {
    /// What tables and plots call it.
    pub who: String,
    /// What is to be reached.
    pub goal: Option<Goal>,
    /// One for each round.
    pub samples: Vec<Sample>,
}

impl Series {
    /// What is there once.
    pub fn once(who: &str, value: f64, goal: Option<Goal>) -> Series {
        Series { who: who.into(), goal, samples: vec![value.into()] }
    }

    fn values(&self) -> impl Iterator<Item = f64> {
        self.samples.iter().map(|sample| sample.value)
    }

    /// The value in the middle.
    pub fn median(&self) -> f64 {
        quantile(self.values(), 0.5)
    }

    /// What nine of ten do not exceed.
    pub fn p90(&self) -> f64 {
        quantile(self.values(), 0.9)
    }

    /// The processor time in the middle.
    pub fn cpu(&self) -> Option<f64> {
        let cpu: Option<Vec<_>> = self.samples.iter().map(|sample| sample.cpu).collect();
        cpu.map(|cpu| quantile(cpu, 0.5))
    }
}

/// One thing that is measured of several.
#[derive(Clone, Debug)]
pub struct Case {
    /// What it is.
    pub what: String,
    /// Of the values.
    pub unit: &'static str,
    /// The first one is what the others are compared with.
    pub series: Vec<Series>,
}

impl Case {
    /// The median of what the first one's value is to this one's, in each round.
    pub fn ratio(&self, series: &Series) -> f64 {
        quantile(self.pairs(series).map(|(first, other)| first / other), 0.5)
    }

    /// The median of what the first one's value is more.
    pub fn difference(&self, series: &Series) -> f64 {
        quantile(self.pairs(series).map(|(first, other)| first - other), 0.5)
    }

    fn pairs(&self, series: &Series) -> impl Iterator<Item = (f64, f64)> {
        self.series[0].values().zip(series.values())
    }
}

/// Has everybody do its part so many times in turn, after a round that does not count.
///
/// # Errors
/// Somebody fails.
pub fn take_turns(
    what: &str,
    unit: &'static str,
    rounds: usize,
    mut contestants: Vec<Contestant>,
) -> Result<Case> {
    let bar = progress(rounds + 1);
    bar.set_message(what.to_owned());
    let mut samples = vec![Vec::new(); contestants.len()];
    for round in 0..=rounds {
        for place in 0..contestants.len() {
            // Nobody always comes after the same one.
            let index = if round % 2 == 0 { place } else { contestants.len() - 1 - place };
            let Contestant { who, once, .. } = &mut contestants[index];
            let sample = once().with_context(|| format!("{what}, {who}"))?;
            if round > 0 {
                samples[index].push(sample);
            }
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    let series = contestants.into_iter().zip(samples);
    let series =
        series.map(|(Contestant { who, goal, .. }, samples)| Series { who, goal, samples }).collect();
    Ok(Case { what: what.into(), unit, series })
}

/// How far a measurement is.
pub fn progress(steps: usize) -> ProgressBar {
    let bar = ProgressBar::new(steps as u64);
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} {msg}") {
        bar.set_style(style);
    }
    bar
}

/// The value that this part of all does not exceed.
pub fn quantile(values: impl IntoIterator<Item = f64>, part: f64) -> f64 {
    let mut values: Vec<_> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let index = (values.len() as f64 * part) as usize;
    values.get(index.min(values.len().saturating_sub(1))).copied().unwrap_or(f64::NAN)
}

/// A duration as a value.
pub fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Runs a command, for the time until its end.
///
/// # Errors
/// It fails.
pub fn timed(command: &mut Command) -> Result<Sample> {
    let start = Instant::now();
    let pid = command.spawn().with_context(|| format!("{command:?}"))?.id();
    let (status, cpu) = wait(pid.try_into()?)?;
    let value = milliseconds(start.elapsed());
    ensure!(status == 0, "{command:?} ended with the status {status:#x}");
    Ok(Sample { value, cpu: Some(cpu) })
}

/// Waits for a child, for its status and the processor time of all that it has waited for, in milliseconds.
///
/// # Errors
/// There is no such child.
pub fn wait(pid: i32) -> Result<(i32, f64)> {
    let mut status = 0;
    // SAFETY: a structure of numbers.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: both are valid for the call.
    let waited = unsafe { libc::wait4(pid, &raw mut status, 0, &raw mut usage) };
    ensure!(waited == pid, "process {pid}: {}", std::io::Error::last_os_error());
    #[allow(clippy::cast_precision_loss)]
    let of = |time: libc::timeval| time.tv_sec as f64 * 1e3 + time.tv_usec as f64 / 1e3;
    Ok((status, of(usage.ru_utime) + of(usage.ru_stime)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(who: &str, values: &[f64]) -> Series {
        Series { who: who.into(), goal: None, samples: values.iter().map(|v| Sample::from(*v)).collect() }
    }

    #[test]
    fn quantiles() {
        let values = || (1..=10).rev().map(f64::from);
        assert_eq!(quantile(values(), 0.5), 6.0);
        assert_eq!(quantile(values(), 0.9), 10.0);
        assert_eq!(quantile([3.0], 0.9), 3.0);
        assert!(quantile([], 0.5).is_nan());
    }

    #[test]
    fn ratios_are_of_rounds() {
        // The machine was slow in the last round, for both.
        let case = Case {
            what: String::new(),
            unit: "ms",
            series: vec![series("a", &[1.0, 1.0, 40.0]), series("b", &[2.0, 2.0, 80.0])],
        };
        assert_eq!(case.ratio(&case.series[1]), 0.5);
        assert_eq!(case.difference(&case.series[1]), -1.0);
    }

    #[test]
    fn the_first_round_does_not_count_and_turns_change() {
        let log = &std::cell::RefCell::new(Vec::new());
        let contestant = |who: &'static str| {
            Contestant::new(who, move || {
                log.borrow_mut().push(who);
                Ok(1.0.into())
            })
        };
        let case = take_turns("x", "ms", 2, vec![contestant("a"), contestant("b")]).unwrap();
        assert_eq!(*log.borrow(), ["a", "b", "b", "a", "a", "b"]);
        assert!(case.series.iter().all(|s| s.samples.len() == 2));
    }

    #[test]
    fn a_command_that_fails_is_not_measured() {
        assert!(timed(&mut Command::new("false")).is_err());
        assert!(timed(&mut Command::new("true")).unwrap().cpu.is_some());
    }
}
