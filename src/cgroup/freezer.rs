//! Stopping every process of a cgroup at once, and letting them go on.

use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::Error;
use super::file::{optional, read, read_record, write};
use super::hierarchy::Hierarchy;
use super::resources::{v1_directory, v2_directory};

/// How long freezing may take before it counts as failed: as long as runc gives it.
const PATIENCE: Duration = Duration::from_secs(10);

/// Freezes or thaws; returns once it has come to pass.
pub fn freeze(hierarchies: &[Hierarchy], frozen: bool) -> Result<(), Error> {
    match (v1_directory(hierarchies, "freezer"), v2_directory(hierarchies)) {
        (Some(dir), _) if frozen => freeze_v1(dir).inspect_err(|_| {
            // Half-frozen is the worst of all: let go of what has been caught.
            let _ = write(dir, "freezer.state", "THAWED");
        }),
        (Some(dir), _) => write(dir, "freezer.state", "THAWED"),
        (None, Some(dir)) => freeze_v2(dir, frozen),
        (None, None) => Err(Error::NoFreezer),
    }
}

/// Whether the cgroup itself, and not merely one above it, is frozen.
pub fn is_frozen(hierarchies: &[Hierarchy]) -> Result<bool, Error> {
    Ok(state(hierarchies)?.unwrap_or(false))
}

/// The same; `None` where there is no freezer, or not any more.
pub fn state(hierarchies: &[Hierarchy]) -> Result<Option<bool>, Error> {
    let text = match (v1_directory(hierarchies, "freezer"), v2_directory(hierarchies)) {
        (Some(dir), _) => read_record(dir, "freezer.self_freezing"),
        (None, Some(dir)) => read_record(dir, "cgroup.freeze"),
        (None, None) => return Ok(None),
    };
    Ok(optional(text)?.map(|text| text.trim() == "1"))
}

/// A v1 freezer stays in FREEZING while a process slips through, by fork(2) or by joining. Asking again catches
/// it, mostly; thawing now and then helps where new ones keep appearing (found out by runc).
fn freeze_v1(dir: &Path) -> Result<(), Error> {
    let deadline = Instant::now() + PATIENCE;
    for attempt in 1u32.. {
        write(dir, "freezer.state", "FROZEN")?;
        match read(dir, "freezer.state")?.trim() {
            "FROZEN" => return Ok(()),
            _ if Instant::now() > deadline => break,
            _ if attempt % 50 == 0 => {
                write(dir, "freezer.state", "THAWED")?;
                sleep(Duration::from_millis(10));
            }
            _ if attempt % 5 == 0 => sleep(Duration::from_micros(100)),
            _ => {}
        }
    }
    Err(Error::FreezeTimeout(dir.into()))
}

fn freeze_v2(dir: &Path, frozen: bool) -> Result<(), Error> {
    let wanted = if frozen { "1" } else { "0" };
    match write(dir, "cgroup.freeze", wanted) {
        Err(Error::NoFile { .. }) if !frozen => return Ok(()),
        result => result?,
    }
    if !frozen {
        return Ok(());
    }
    let line = format!("frozen {wanted}");
    let deadline = Instant::now() + PATIENCE;
    while !read(dir, "cgroup.events")?.lines().any(|l| l == line) {
        if Instant::now() > deadline {
            let _ = write(dir, "cgroup.freeze", "0");
            return Err(Error::FreezeTimeout(dir.into()));
        }
        sleep(Duration::from_millis(1));
    }
    Ok(())
}
