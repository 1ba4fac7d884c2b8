//! What a command is at, on standard error: a line that moves on a terminal, a line for each step elsewhere.

use std::fmt::Display;
use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// One step of the work. Its line goes away with it.
pub struct Step(ProgressBar);

/// A step of which nobody knows how long it takes.
pub fn step(what: impl Display) -> Step {
    begin(what, ProgressBar::no_length(), "{spinner} {prefix}  {elapsed}  {wide_msg}")
}

/// A step that takes as long as this many bytes.
pub fn bytes(what: impl Display, total: u64) -> Step {
    begin(what, ProgressBar::new(total), "{spinner} {prefix}  {bytes}/{total_bytes}  {wide_bar}  {eta}")
}

/// A step that is done at 100.
pub fn percent(what: impl Display) -> Step {
    begin(what, ProgressBar::new(100), "{spinner} {prefix}  {percent} %  {wide_bar}  {eta}")
}

fn begin(what: impl Display, bar: ProgressBar, template: &str) -> Step {
    let what = what.to_string();
    if !std::io::stderr().is_terminal() {
        eprintln!("{what}");
    }
    // The templates are constants of this file.
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.set_prefix(what);
    bar.enable_steady_tick(Duration::from_millis(120));
    Step(bar)
}

impl Step {
    /// Says where it is.
    pub fn message(&self, text: &str) {
        self.0.set_message(text.to_owned());
    }

    /// How far it is.
    pub fn set(&self, position: u64) {
        self.0.set_position(position);
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
