//! `events`: figures of a container at intervals, and a word when the kernel kills in it for want of memory. One
//! JSON object on each line, in runc's shape.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec};
use rustix::fs::inotify;
use rustix::fs::{Mode, OFlags};
use serde::Serialize;

use crate::Error;
use crate::cgroup::Stats;
use crate::cli::Global;
use crate::container::{Container, Status};
use crate::error::Os;

/// Arguments of `events`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Time between figures, as 5s, 1m30s or 500ms
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = duration)]
    interval: Duration,
    /// Print figures once, and end
    #[arg(long)]
    stats: bool,
    /// Id of the container
    id: String,
}

#[derive(Serialize)]
struct Event<'a> {
    r#type: &'a str,
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Stats>,
}

/// Prints events until the container stops.
///
/// # Errors
/// A container that does not run; figures that cannot be read or written.
pub fn run(args: &Args, global: &Global) -> Result<u8, Error> {
    let container = Container::load(&global.root, &args.id)?;
    let stopped = || Error::new(format_args!("container with id {} is not running", args.id));
    if matches!(container.status()?, Status::Stopped | Status::Creating) {
        return Err(stopped());
    }
    let cgroup = container.cgroup()?;
    let stats = || -> Result<(), Error> {
        let data = Some(cgroup.stats().map_err(Error::new)?);
        print(&Event { r#type: "stats", id: &args.id, data })
    };
    if args.stats {
        stats()?;
        return Ok(0);
    }
    let init = container.state.init.map_or(Ok(None), |init| init.open())?.ok_or_else(stopped)?;
    let mut oom = cgroup.memory_directory().and_then(|(dir, v2)| OomWatch::new(dir, v2).ok());
    let mut next = Instant::now() + args.interval;
    loop {
        let mut events = vec![PollFd::new(&init, PollFlags::IN)];
        events.extend(oom.as_ref().map(|oom| PollFd::new(&oom.wakes, PollFlags::IN)));
        let left = next.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).map_err(Error::new)?;
        match rustix::event::poll(&mut events, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(Error::new(format_args!("poll: {}", Os::from(errno)))),
        }
        let ended = !events[0].revents().is_empty();
        let woken = events.get(1).is_some_and(|event| !event.revents().is_empty());
        // The kernel's word comes before the end that follows from it.
        if woken && oom.as_mut().is_some_and(OomWatch::has_killed) {
            print(&Event { r#type: "oom", id: &args.id, data: None })?;
        }
        if ended {
            return Ok(0);
        }
        if Instant::now() >= next {
            match stats() {
                // The cgroup may be gone a moment before we hear of the end.
                Err(_) if container.status()? == Status::Stopped => return Ok(0),
                result => result?,
            }
            next += args.interval;
        }
    }
}

fn print(event: &Event<'_>) -> Result<(), Error> {
    super::print(serde_json::to_string(event).map_err(Error::new)?)
}

/// Tells of processes killed for want of memory.
struct OomWatch {
    /// Becomes readable when there may be something to tell.
    wakes: OwnedFd,
    counter: PathBuf,
    v2: bool,
    killed: u64,
}

impl OomWatch {
    fn new(dir: &Path, v2: bool) -> Result<Self, Os> {
        let (wakes, counter) = if v2 {
            let wakes = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
            let counter = dir.join("memory.events");
            inotify::add_watch(&wakes, &counter, inotify::WatchFlags::MODIFY)?;
            (wakes, counter)
        } else {
            // Documentation/admin-guide/cgroup-v1/memory.rst, "OOM Control"
            let wakes = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
            let counter = dir.join("memory.oom_control");
            let control = rustix::fs::open(&counter, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
            let order = format!("{} {}", wakes.as_raw_fd(), control.as_fd().as_raw_fd());
            std::fs::write(dir.join("cgroup.event_control"), order)?;
            (wakes, counter)
        };
        let mut watch = Self { wakes, counter, v2, killed: 0 };
        watch.has_killed();
        Ok(watch)
    }

    /// Whether there is a new kill since the last call.
    fn has_killed(&mut self) -> bool {
        let mut wakes = [0; 4096];
        let mut woken = false;
        while rustix::io::read(&self.wakes, &mut wakes).is_ok_and(|length| length > 0) {
            woken = true;
        }
        // The end of the cgroup wakes as well.
        let Ok(text) = std::fs::read_to_string(&self.counter) else { return false };
        if !self.v2 {
            // The kernel counts the kill after it has woken us, and does not wake us again.
            return woken;
        }
        let killed = text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.parse().ok()).unwrap_or(0);
        std::mem::replace(&mut self.killed, killed) < killed
    }
}

/// A duration as Go writes it: numbers with units, one after the other.
fn duration(text: &str) -> Result<Duration, String> {
    let bad = || format!("{text:?} is not a duration such as 5s, 1m30s or 500ms");
    let mut total = 0.0;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(bad)?;
        let (number, tail) = rest.split_at(digits);
        let letters = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(letters);
        let seconds = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return Err(bad()),
        };
        total += number.parse::<f64>().map_err(|_| bad())? * seconds;
        rest = tail;
    }
    let duration = Duration::try_from_secs_f64(total).map_err(|_| bad())?;
    if duration.is_zero() { Err("duration interval must be greater than 0".into()) } else { Ok(duration) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_as_go_writes_them() {
        for (text, milliseconds) in [("5s", 5000), ("500ms", 500), ("1m30s", 90_000), ("1.5h", 5_400_000)] {
            assert_eq!(duration(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
        for text in ["", "5", "0s", "-1s", "5x", "s", "1s2"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn events_are_runcs_lines() {
        let line = |data| serde_json::to_string(&Event { r#type: "oom", id: "x", data }).unwrap();
        assert_eq!(line(None), r#"{"type":"oom","id":"x"}"#);
        assert!(line(Some(Stats::default())).starts_with(r#"{"type":"oom","id":"x","data":{"cpu":{"#));
    }
}
