//! Limits as files of cgroup v2 (Documentation/admin-guide/cgroup-v2.rst in the kernel), and the controllers
//! that a directory needs before it has those files.
//!
//! The specification speaks of v1's values. They are converted as runc and crun convert them; a field that has no
//! counterpart is refused by name.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxResources, LinuxThrottleDevice};
use rustix::io::Errno;

use super::Error;
use super::file::{optional, read_number, write, write_lines};
use super::hierarchy::v2_controllers;
use super::v1::make_path;

const SUBTREE_CONTROL: &str = "cgroup.subtree_control";

/// Makes `path` below `mount`, with those of the `wanted` controllers that the hierarchy has; all it has if
/// `None`. `Ok(false)` if `path` was there already.
///
/// A controller that an ancestor does not pass down is no error here: it is one where a limit needs it.
pub fn make(
    mount: &Path,
    path: &Path,
    wanted: Option<&[&str]>,
    made: &mut Vec<PathBuf>,
) -> Result<bool, Error> {
    let new = make_path(path, made)?;
    if wanted.is_some_and(<[_]>::is_empty) {
        return Ok(new);
    }
    let mut missing = v2_controllers(mount)?;
    if let Some(wanted) = wanted {
        missing.retain(|name| wanted.contains(&name.as_str()));
    }
    let present = v2_controllers(path)?;
    missing.retain(|name| !present.contains(name));
    if missing.is_empty() {
        return Ok(new);
    }
    let below = path.strip_prefix(mount).unwrap_or(Path::new(""));
    let mut ancestor = mount.to_path_buf();
    for name in below {
        enable(&ancestor, &missing);
        ancestor.push(name);
    }
    become_threaded_if_invalid(path)?;
    Ok(new)
}

/// Passes controllers down to the children of `dir`: all at once, or, where the kernel refuses one of them, each
/// that it accepts.
fn enable(dir: &Path, controllers: &[String]) {
    let all: Vec<String> = controllers.iter().map(|name| format!("+{name}")).collect();
    if write(dir, SUBTREE_CONTROL, &all.join(" ")).is_err() {
        for one in &all {
            let _ = write(dir, SUBTREE_CONTROL, one);
        }
    }
}

/// A child of a threaded cgroup cannot hold a process until it is threaded as well, and then has the threaded
/// controllers only (cgroup-v2.rst, "Threads").
fn become_threaded_if_invalid(dir: &Path) -> Result<(), Error> {
    let kind = optional(super::file::read(dir, "cgroup.type"))?.unwrap_or_default();
    if kind.trim() == "domain invalid" {
        write(dir, "cgroup.type", "threaded")?;
    }
    Ok(())
}

/// `-1` is "no limit" in the specification.
fn or_max(value: i64) -> String {
    if value == -1 { "max".into() } else { value.to_string() }
}

pub fn memory(dir: &Path, r: &LinuxResources) -> Result<(), Error> {
    let Some(memory) = r.memory() else { return Ok(()) };
    if memory.swappiness().is_some_and(|value| value != u64::MAX) {
        return Err(Error::NotOnV2("memory.swappiness"));
    }
    if memory.disable_oom_killer() == Some(true) {
        return Err(Error::NotOnV2("memory.disableOOMKiller"));
    }
    if memory.use_hierarchy() == Some(false) {
        return Err(Error::NotOnV2("memory.useHierarchy = false"));
    }
    if memory.kernel().is_some() || memory.kernel_tcp().is_some() {
        tracing::warn!("linux.resources.memory: kernel and kernelTCP are ignored");
    }
    let (limit, total) = (memory.limit().unwrap_or(0), memory.swap().unwrap_or(0));
    check_before_update(dir, r)?;
    if let Some(swap) = swap_alone(total, limit)? {
        match write(dir, "memory.swap.max", &or_max(swap)) {
            // A kernel that does not account for swap does what is asked if that is "no limit" or "none".
            Err(Error::NoFile { .. }) if swap <= 0 => {}
            result => result?,
        }
    }
    if limit != 0 {
        write(dir, "memory.max", &or_max(limit))?;
    }
    match memory.reservation() {
        None | Some(0) => Ok(()),
        Some(reservation) => write(dir, "memory.low", &or_max(reservation)),
    }
}

/// v1 limits memory and swap together, v2 swap alone. `None` where swap stays as it is.
pub fn swap_alone(total: i64, limit: i64) -> Result<Option<i64>, Error> {
    match (total, limit) {
        (0, -1) | (-1, _) => Ok(Some(-1)),
        (0, _) => Ok(None),
        (total, -1) => Ok(Some(total)),
        (_, 0) => Err(Error::SwapWithoutMemory),
        (total, limit) if total < limit => Err(Error::SwapBelowMemory { swap: total, limit }),
        (total, limit) => Ok(Some(total - limit)),
    }
}

/// v2 kills at once what exceeds a new limit; `checkBeforeUpdate` asks to refuse such a limit instead.
pub fn check_before_update(dir: &Path, r: &LinuxResources) -> Result<(), Error> {
    let Some(memory) = r.memory().filter(|memory| memory.check_before_update() == Some(true)) else {
        return Ok(());
    };
    // There is nothing to compare in a cgroup without the file.
    let Some(usage) = optional(read_number(dir, "memory.current"))? else { return Ok(()) };
    let limits = [memory.limit(), memory.swap()].into_iter().flatten();
    let exceeded = |value: &i64| *value > 0 && u64::try_from(*value).is_ok_and(|value| value <= usage);
    match limits.into_iter().find(exceeded) {
        Some(limit) => Err(Error::MemoryBelowUsage { limit, usage }),
        None => Ok(()),
    }
}

pub fn cpu(dir: &Path, r: &LinuxResources) -> Result<(), Error> {
    let Some(cpu) = r.cpu() else { return Ok(()) };
    if cpu.realtime_period().unwrap_or(0) != 0 || cpu.realtime_runtime().unwrap_or(0) != 0 {
        return Err(Error::NotOnV2("cpu.realtimePeriod and cpu.realtimeRuntime"));
    }
    if let Some(idle) = cpu.idle() {
        write(dir, "cpu.idle", &idle.to_string())?;
    }
    if let Some(shares @ 1..) = cpu.shares() {
        // The kernel takes no weight for an idle cgroup.
        if cpu.idle() != Some(1) {
            write(dir, "cpu.weight", &weight(shares).to_string())?;
        }
    }
    let (quota, period) = (cpu.quota().unwrap_or(0), cpu.period().unwrap_or(0));
    // The burst must fit the quota, and either may be the one that makes it fit.
    let mut postponed = None;
    if let Some(burst) = cpu.burst() {
        match write(dir, "cpu.max.burst", &burst.to_string()) {
            Err(error) if quota != 0 && error.errno() == Some(Errno::INVAL) => postponed = Some(burst),
            Err(Error::NoFile { .. }) if burst == 0 => {}
            result => result?,
        }
    }
    if quota != 0 || period != 0 {
        let quota = if quota > 0 { quota.to_string() } else { "max".into() };
        let period = if period == 0 { 100_000 } else { period };
        write(dir, "cpu.max", &format!("{quota} {period}"))?;
    }
    postponed.map_or(Ok(()), |burst| write(dir, "cpu.max.burst", &burst.to_string()))
}

/// `cpu.shares` (2 to 262144, default 1024) to `cpu.weight` (1 to 10000, default 100): the curve through these
/// three points that runc 1.4 and crun 1.23 use. The line that came before it made 39 of the default.
#[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
pub fn weight(shares: u64) -> u64 {
    match shares {
        0..=2 => 1,
        262_144.. => 10_000,
        _ => {
            let log = (shares as f64).log2();
            let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
            10f64.powf(exponent).ceil() as u64
        }
    }
}

pub fn cpuset(dir: &Path, r: &LinuxResources) -> Result<(), Error> {
    // The same two files as in v1.
    super::v1::cpuset(dir, r)
}

pub fn io(dir: &Path, r: &LinuxResources) -> Result<(), Error> {
    let Some(io) = r.block_io() else { return Ok(()) };
    let leaf_weight = |device: &oci_spec::runtime::LinuxWeightDevice| device.leaf_weight().unwrap_or(0) != 0;
    if io.leaf_weight().unwrap_or(0) != 0 || io.weight_device().iter().flatten().any(leaf_weight) {
        return Err(Error::NotOnV2("blockIO.leafWeight"));
    }
    // BFQ takes v1's range as it is; io.weight has one of its own.
    let weight = |prefix: &str, value: u16| match write(dir, "io.bfq.weight", &format!("{prefix}{value}")) {
        Err(Error::NoFile { .. }) => write(dir, "io.weight", &format!("{prefix}{}", io_weight(value))),
        result => result,
    };
    if let Some(value @ 1..) = io.weight() {
        weight("", value)?;
    }
    for device in io.weight_device().iter().flatten() {
        if let Some(value @ 1..) = device.weight() {
            weight(&format!("{}:{} ", device.major(), device.minor()), value)?;
        }
    }
    let lines = |key: &str, devices: &Option<Vec<LinuxThrottleDevice>>| -> Vec<String> {
        let line =
            |d: &LinuxThrottleDevice| format!("{}:{} {key}={}", d.major(), d.minor(), or_no_rate(d.rate()));
        devices.iter().flatten().map(line).collect()
    };
    let mut all = lines("rbps", io.throttle_read_bps_device());
    all.extend(lines("wbps", io.throttle_write_bps_device()));
    all.extend(lines("riops", io.throttle_read_iops_device()));
    all.extend(lines("wiops", io.throttle_write_iops_device()));
    if all.is_empty() { Ok(()) } else { write_lines(dir, "io.max", all.iter().map(String::as_str)) }
}

/// A rate of 0 lifts the limit on v1; v2 would take it for "nothing may pass".
fn or_no_rate(rate: u64) -> String {
    if rate == 0 { "max".into() } else { rate.to_string() }
}

/// `blkio.weight` (10 to 1000) to `io.weight` (1 to 10000).
fn io_weight(weight: u16) -> u64 {
    1 + (u64::from(weight.max(10)) - 10) * 9999 / 990
}

pub fn hugetlb(dir: &Path, r: &LinuxResources) -> Result<(), Error> {
    for limit in r.hugepage_limits().iter().flatten() {
        let (size, value) = (limit.page_size(), limit.limit().to_string());
        write(dir, &format!("hugetlb.{size}.max"), &value)?;
        optional(write(dir, &format!("hugetlb.{size}.rsvd.max"), &value))?;
    }
    Ok(())
}

/// Refuses a key of `linux.resources.unified` that is not the name of a controller's file.
pub fn check_key(key: &str) -> Result<(), Error> {
    let well_formed =
        !key.contains('/') && key.split_once('.').is_some_and(|(controller, _)| !controller.is_empty());
    if well_formed { Ok(()) } else { Err(Error::UnifiedKey { key: key.into() }) }
}

/// One entry of `linux.resources.unified`: the name of a file, and lines for it.
pub fn unified(dir: &Path, key: &str, value: &str) -> Result<(), Error> {
    check_key(key)?;
    match write_lines(dir, key, value.trim_end().lines()) {
        Err(error @ (Error::NoFile { .. } | Error::Open { .. })) => {
            let controller = key.split('.').next().unwrap_or(key);
            let available =
                controller == "cgroup" || v2_controllers(dir)?.iter().any(|name| name == controller);
            if available {
                return Err(error);
            }
            Err(Error::UnifiedController { key: key.into(), controller: controller.into() })
        }
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_and_weights_meet_at_their_ends_and_defaults() {
        assert_eq!([1, 2, 1024, 262_144, 500_000].map(weight), [1, 1, 100, 10_000, 10_000]);
        assert_eq!([5, 10, 500, 1000].map(io_weight), [1, 1, 4950, 10_000]);
    }

    #[test]
    fn swap_is_what_remains_beside_memory() {
        let swap = |total, limit| swap_alone(total, limit).map_err(|e| e.to_string());
        assert_eq!(swap(300, 100), Ok(Some(200)));
        assert_eq!(swap(100, 100), Ok(Some(0)));
        assert_eq!(swap(0, 100), Ok(None));
        assert_eq!(swap(0, -1), Ok(Some(-1)));
        assert_eq!(swap(-1, 100), Ok(Some(-1)));
        assert_eq!(swap(300, -1), Ok(Some(300)));
        assert!(swap(300, 0).unwrap_err().contains("memory limit"));
        assert!(swap(50, 100).unwrap_err().contains("50"));
    }
}
