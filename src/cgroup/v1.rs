//! Limits as files of cgroup v1 (Documentation/admin-guide/cgroup-v1 in the kernel).

use std::path::Path;

use oci_spec::runtime::{LinuxResources, LinuxThrottleDevice};
use rustix::io::Errno;

use super::Error;
use super::file::{make_dir, optional, read_number, read_record, write};

/// The smallest and the largest cpu.shares; the kernel would silently take the nearest (sched/core.c).
const SHARES: std::ops::RangeInclusive<u64> = 2..=262_144;

pub fn memory(dir: &Path, r: &LinuxResources) -> Result<(), Error> {
    let Some(memory) = r.memory() else { return Ok(()) };
    memory_and_swap(dir, memory.limit().unwrap_or(0), memory.swap().unwrap_or(0))?;
    for (file, field, limit) in [
        ("memory.kmem.limit_in_bytes", "kernel", memory.kernel()),
        ("memory.kmem.tcp.limit_in_bytes", "kernelTCP", memory.kernel_tcp()),
    ] {
        match limit.filter(|limit| *limit != 0).map_or(Ok(()), |limit| write(dir, file, &limit.to_string())) {
            // Linux is about to lose them: 5.16 stopped to obey the first, later ones have no such file.
            Err(error) if matches!(error.errno(), Some(Errno::NOENT | Errno::OPNOTSUPP)) => {
                tracing::warn!("linux.resources.memory.{field} is ignored: {error}");
            }
            result => result?,
        }
    }
    if let Some(reservation) = memory.reservation().filter(|value| *value != 0) {
        write(dir, "memory.soft_limit_in_bytes", &reservation.to_string())?;
    }
    if memory.disable_oom_killer() == Some(true) {
        write(dir, "memory.oom_control", "1")?;
    }
    if let Some(hierarchical) = memory.use_hierarchy() {
        write(dir, "memory.use_hierarchy", if hierarchical { "1" } else { "0" })?;
    }
    match memory.swappiness() {
        None => Ok(()),
        Some(value @ 0..=100) => write(dir, "memory.swappiness", &value.to_string()),
        // -1, as older engines write "not given".
        Some(u64::MAX) => Ok(()),
        Some(value) => Err(Error::Swappiness(value)),
    }
}

/// Memory without swap must never exceed memory with swap: where both move, the kernel decides which write
/// comes first.
fn memory_and_swap(dir: &Path, limit: i64, swap: i64) -> Result<(), Error> {
    const SWAP_FILE: &str = "memory.memsw.limit_in_bytes";
    let set_swap = |value: i64| match value {
        0 => Ok(()),
        value => write(dir, SWAP_FILE, &value.to_string()),
    };
    match (limit, swap) {
        // No limit on memory lifts that on swap, where the kernel accounts for swap at all.
        (-1, 0) => {
            optional(set_swap(-1))?;
            set_limit(dir, limit)
        }
        (_, -1) => {
            set_swap(swap)?;
            set_limit(dir, limit)
        }
        _ => match set_limit(dir, limit) {
            Err(error) if swap != 0 && error.errno() == Some(Errno::INVAL) => {
                set_swap(swap)?;
                set_limit(dir, limit)
            }
            result => result.and_then(|()| set_swap(swap)),
        },
    }
}

fn set_limit(dir: &Path, limit: i64) -> Result<(), Error> {
    if limit == 0 {
        return Ok(());
    }
    match write(dir, "memory.limit_in_bytes", &limit.to_string()) {
        Err(error) if error.errno() == Some(Errno::BUSY) => Err(Error::MemoryBusy {
            limit,
            usage: read_number(dir, "memory.usage_in_bytes")?,
            peak: read_number(dir, "memory.max_usage_in_bytes")?,
        }),
        result => result,
    }
}

pub fn cpu(dir: &Path, r: &LinuxResources) -> Result<(), Error> {
    let Some(cpu) = r.cpu() else { return Ok(()) };
    match cpu.shares().unwrap_or(0) {
        0 => {}
        shares if shares < *SHARES.start() => return Err(Error::MinShares(*SHARES.start())),
        shares if shares > *SHARES.end() => return Err(Error::MaxShares(*SHARES.end())),
        shares => write(dir, "cpu.shares", &shares.to_string())?,
    }
    let nonzero = |value: Option<u64>| value.filter(|value| *value != 0);
    let quota = cpu.quota().filter(|value| *value != 0);
    // Quota, period and burst bound one another; what the kernel refuses at first may fit once the quota is set.
    let mut postponed = Vec::new();
    for (file, value) in [("cpu.cfs_period_us", nonzero(cpu.period())), ("cpu.cfs_burst_us", cpu.burst())] {
        let Some(value) = value else { continue };
        match write(dir, file, &value.to_string()) {
            Err(error) if quota.is_some() && error.errno() == Some(Errno::INVAL) => {
                postponed.push((file, value))
            }
            // Kernels before 5.14 have no burst, and with a value of 0 nothing is asked of them.
            Err(Error::NoFile { .. }) if value == 0 => {}
            result => result?,
        }
    }
    if let Some(quota) = quota {
        write(dir, "cpu.cfs_quota_us", &quota.to_string())?;
    }
    for (file, value) in postponed {
        write(dir, file, &value.to_string())?;
    }
    if let Some(idle) = cpu.idle() {
        write(dir, "cpu.idle", &idle.to_string())?;
    }
    realtime(dir, nonzero(cpu.realtime_period()), cpu.realtime_runtime().filter(|value| *value != 0))
}

fn realtime(dir: &Path, period: Option<u64>, runtime: Option<i64>) -> Result<(), Error> {
    let set_period = |value: u64| write(dir, "cpu.rt_period_us", &value.to_string());
    let mut postponed = None;
    if let Some(period) = period {
        match set_period(period) {
            Err(error) if runtime.is_some() && error.errno() == Some(Errno::INVAL) => {
                postponed = Some(period)
            }
            result => result?,
        }
    }
    if let Some(runtime) = runtime {
        write(dir, "cpu.rt_runtime_us", &runtime.to_string())?;
    }
    postponed.map_or(Ok(()), set_period)
}

pub fn cpuset(dir: &Path, r: &LinuxResources) -> Result<(), Error> {
    let Some(cpu) = r.cpu() else { return Ok(()) };
    for (file, list) in [("cpuset.cpus", cpu.cpus()), ("cpuset.mems", cpu.mems())] {
        if let Some(list) = list.as_ref().filter(|list| !list.is_empty()) {
            write(dir, file, list)?;
        }
    }
    Ok(())
}

/// Makes `dir` a cpuset that a process can join: a new one is empty, and is given the CPUs and memory nodes of
/// its parent.
pub fn fill_cpuset(dir: &Path, mount: &Path, new: bool) -> Result<(), Error> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        match dir.parent() {
            Some(parent) if new => write(dir, file, &cpuset_list(parent, mount, file)?)?,
            _ => drop(cpuset_list(dir, mount, file)?),
        }
    }
    Ok(())
}

/// What a cpuset lists. One that somebody made and left empty is given its parent's list first.
fn cpuset_list(dir: &Path, mount: &Path, file: &str) -> Result<String, Error> {
    let list = read_record(dir, file)?.trim_end().to_owned();
    match dir.parent() {
        Some(parent) if list.is_empty() && dir != mount => {
            let list = cpuset_list(parent, mount, file)?;
            write(dir, file, &list)?;
            Ok(list)
        }
        _ => Ok(list),
    }
}

pub fn blkio(dir: &Path, r: &LinuxResources) -> Result<(), Error> {
    let Some(io) = r.block_io() else { return Ok(()) };
    // CFQ's files, gone since Linux 5.0, and BFQ's.
    let weight = |cfq: &str, bfq: &str, value: &str| match write(dir, cfq, value) {
        Err(Error::NoFile { .. }) => write(dir, bfq, value),
        result => result,
    };
    if let Some(value @ 1..) = io.weight() {
        weight("blkio.weight", "blkio.bfq.weight", &value.to_string())?;
    }
    if let Some(value @ 1..) = io.leaf_weight() {
        write(dir, "blkio.leaf_weight", &value.to_string())?;
    }
    for device in io.weight_device().iter().flatten() {
        let line = |value: u16| format!("{}:{} {value}", device.major(), device.minor());
        if let Some(value @ 1..) = device.weight() {
            weight("blkio.weight_device", "blkio.bfq.weight_device", &line(value))?;
        }
        if let Some(value @ 1..) = device.leaf_weight() {
            write(dir, "blkio.leaf_weight_device", &line(value))?;
        }
    }
    let throttle = |file: &str, devices: &Option<Vec<LinuxThrottleDevice>>| -> Result<(), Error> {
        for device in devices.iter().flatten() {
            write(dir, file, &format!("{}:{} {}", device.major(), device.minor(), device.rate()))?;
        }
        Ok(())
    };
    throttle("blkio.throttle.read_bps_device", io.throttle_read_bps_device())?;
    throttle("blkio.throttle.write_bps_device", io.throttle_write_bps_device())?;
    throttle("blkio.throttle.read_iops_device", io.throttle_read_iops_device())?;
    throttle("blkio.throttle.write_iops_device", io.throttle_write_iops_device())
}

pub fn hugetlb(dir: &Path, r: &LinuxResources) -> Result<(), Error> {
    for limit in r.hugepage_limits().iter().flatten() {
        let (size, value) = (limit.page_size(), limit.limit().to_string());
        write(dir, &format!("hugetlb.{size}.limit_in_bytes"), &value)?;
        // Reservations, since Linux 5.7.
        optional(write(dir, &format!("hugetlb.{size}.rsvd.limit_in_bytes"), &value))?;
    }
    Ok(())
}

pub fn net_cls(dir: &Path, r: &LinuxResources) -> Result<(), Error> {
    match r.network().as_ref().and_then(|network| network.class_id()) {
        None | Some(0) => Ok(()),
        Some(class) => write(dir, "net_cls.classid", &class.to_string()),
    }
}

pub fn net_prio(dir: &Path, r: &LinuxResources) -> Result<(), Error> {
    let priorities = r.network().as_ref().and_then(|network| network.priorities().as_ref());
    for priority in priorities.into_iter().flatten() {
        write(dir, "net_prio.ifpriomap", &format!("{} {}", priority.name(), priority.priority()))?;
    }
    Ok(())
}

/// Makes `path` and its missing ancestors in a v1 hierarchy, and notes each directory that it made. `Ok(false)`
/// if `path` was there already.
pub fn make_path(path: &Path, made: &mut Vec<std::path::PathBuf>) -> Result<bool, Error> {
    // The parent may be gone again by the time it is used: another container's create that failed takes
    // back what it made. A few rounds are enough.
    for round in 0.. {
        match make_dir(path) {
            Ok(true) => {
                made.push(path.into());
                return Ok(true);
            }
            Ok(false) => return Ok(false),
            Err(error) if error.errno() == Some(Errno::NOENT) && round < 5 => {
                if let Some(parent) = path.parent() {
                    make_path(parent, made)?;
                }
            }
            Err(error) => return Err(error),
        }
    }
    unreachable!("the last round returns")
}
