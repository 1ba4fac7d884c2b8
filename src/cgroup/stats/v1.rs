//! Figures of cgroup v1, each controller's from its own hierarchy.

use std::path::Path;

use super::super::Error;
use super::super::file::{optional, read, read_number, read_pairs};
use super::{BlkioEntry, Hugetlb, MemoryEntry, Stats, huge_page_sizes, number_or_zero, pids};

type Collector = fn(&Path, &mut Stats) -> Result<(), Error>;

pub const COLLECTORS: [(&str, Collector); 7] = [
    ("cpu", cpu),
    ("cpuacct", cpuacct),
    ("cpuset", cpuset),
    ("memory", memory),
    ("pids", pids),
    ("blkio", blkio),
    ("hugetlb", hugetlb),
];

fn cpu(dir: &Path, stats: &mut Stats) -> Result<(), Error> {
    for (key, value) in read_pairs(dir, "cpu.stat")? {
        match key.as_str() {
            "nr_periods" => stats.cpu.throttling.periods = value,
            "nr_throttled" => stats.cpu.throttling.throttled_periods = value,
            "throttled_time" => stats.cpu.throttling.throttled_time = value,
            _ => {}
        }
    }
    Ok(())
}

fn cpuacct(dir: &Path, stats: &mut Stats) -> Result<(), Error> {
    let numbers = |file: &str| -> Result<Vec<u64>, Error> {
        let text = optional(read(dir, file))?.unwrap_or_default();
        Ok(text.split_whitespace().filter_map(|number| number.parse().ok()).collect())
    };
    let usage = &mut stats.cpu.usage;
    usage.total = read_number(dir, "cpuacct.usage")?;
    usage.user = number_or_zero(dir, "cpuacct.usage_user")?;
    usage.kernel = number_or_zero(dir, "cpuacct.usage_sys")?;
    usage.percpu = numbers("cpuacct.usage_percpu")?;
    usage.percpu_user = numbers("cpuacct.usage_percpu_user")?;
    usage.percpu_kernel = numbers("cpuacct.usage_percpu_sys")?;
    Ok(())
}

fn cpuset(dir: &Path, stats: &mut Stats) -> Result<(), Error> {
    let set = &mut stats.cpuset;
    set.cpus = expand(&read(dir, "cpuset.cpus")?);
    set.mems = expand(&read(dir, "cpuset.mems")?);
    for (file, value) in [
        ("cpu_exclusive", &mut set.cpu_exclusive),
        ("mem_hardwall", &mut set.mem_hardwall),
        ("mem_exclusive", &mut set.mem_exclusive),
        ("memory_migrate", &mut set.memory_migrate),
        ("memory_spread_page", &mut set.memory_spread_page),
        ("memory_spread_slab", &mut set.memory_spread_slab),
        ("memory_pressure", &mut set.memory_pressure),
        ("sched_load_balance", &mut set.sched_load_balance),
    ] {
        *value = number_or_zero(dir, &format!("cpuset.{file}"))?;
    }
    let level = optional(read(dir, "cpuset.sched_relax_domain_level"))?.unwrap_or_default();
    set.sched_relax_domain_level = level.trim().parse().unwrap_or(0);
    Ok(())
}

/// `0-2,7` as 0, 1, 2, 7.
fn expand(list: &str) -> Vec<u16> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.parse().ok()?..=last.parse().ok()?)
    };
    list.trim().split(',').filter_map(range).flatten().collect()
}

fn memory(dir: &Path, stats: &mut Stats) -> Result<(), Error> {
    let memory = &mut stats.memory;
    memory.raw = read_pairs(dir, "memory.stat")?.into_iter().collect();
    memory.cache = memory.raw.get("cache").copied().unwrap_or(0);
    let entry = |name: &str| -> Result<MemoryEntry, Error> {
        Ok(MemoryEntry {
            limit: number_or_zero(dir, &format!("memory.{name}limit_in_bytes"))?,
            usage: number_or_zero(dir, &format!("memory.{name}usage_in_bytes"))?,
            max: number_or_zero(dir, &format!("memory.{name}max_usage_in_bytes"))?,
            failcnt: number_or_zero(dir, &format!("memory.{name}failcnt"))?,
        })
    };
    memory.usage = entry("")?;
    memory.swap = entry("memsw.")?;
    memory.kernel = entry("kmem.")?;
    memory.kernel_tcp = entry("kmem.tcp.")?;
    Ok(())
}

fn blkio(dir: &Path, stats: &mut Stats) -> Result<(), Error> {
    let entries = |names: &[&str]| -> Result<Vec<BlkioEntry>, Error> {
        for name in names {
            if let Some(text) = optional(read(dir, &format!("blkio.{name}")))? {
                let entries: Vec<_> = text.lines().filter_map(blkio_line).collect();
                if !entries.is_empty() {
                    return Ok(entries);
                }
            }
        }
        Ok(Vec::new())
    };
    // BFQ's figures, CFQ's of old kernels, and those of throttling, which every device has.
    let blkio = &mut stats.blkio;
    blkio.io_service_bytes_recursive = entries(&[
        "bfq.io_service_bytes_recursive",
        "io_service_bytes_recursive",
        "throttle.io_service_bytes_recursive",
        "throttle.io_service_bytes",
    ])?;
    blkio.io_serviced_recursive = entries(&[
        "bfq.io_serviced_recursive",
        "io_serviced_recursive",
        "throttle.io_serviced_recursive",
        "throttle.io_serviced",
    ])?;
    blkio.io_queued_recursive = entries(&["bfq.io_queued_recursive", "io_queued_recursive"])?;
    blkio.io_service_time_recursive =
        entries(&["bfq.io_service_time_recursive", "io_service_time_recursive"])?;
    blkio.io_wait_time_recursive = entries(&["bfq.io_wait_time_recursive", "io_wait_time_recursive"])?;
    blkio.io_merged_recursive = entries(&["bfq.io_merged_recursive", "io_merged_recursive"])?;
    blkio.io_time_recursive = entries(&["bfq.time_recursive", "time_recursive"])?;
    blkio.sectors_recursive = entries(&["bfq.sectors_recursive", "sectors_recursive"])?;
    Ok(())
}

/// `8:0 Read 4096`, or `8:0 12` where the file does not tell operations apart. Totals over devices are left
/// out.
fn blkio_line(line: &str) -> Option<BlkioEntry> {
    let (device, rest) = line.split_once(' ')?;
    let (major, minor) = device.split_once(':')?;
    let (op, value) = rest.rsplit_once(' ').unwrap_or(("", rest));
    Some(BlkioEntry {
        major: major.parse().ok()?,
        minor: minor.parse().ok()?,
        op: op.to_owned(),
        value: value.parse().ok()?,
    })
}

fn hugetlb(dir: &Path, stats: &mut Stats) -> Result<(), Error> {
    for size in huge_page_sizes(dir, ".limit_in_bytes") {
        // Reservations, where the kernel counts them (5.7): a process is killed for what it uses beyond them.
        let rsvd = format!("hugetlb.{size}.rsvd");
        let prefix = match optional(read_number(dir, &format!("{rsvd}.usage_in_bytes")))? {
            Some(_) => rsvd,
            None => format!("hugetlb.{size}"),
        };
        let entry = Hugetlb {
            usage: number_or_zero(dir, &format!("{prefix}.usage_in_bytes"))?,
            max: number_or_zero(dir, &format!("{prefix}.max_usage_in_bytes"))?,
            failcnt: number_or_zero(dir, &format!("{prefix}.failcnt"))?,
        };
        stats.hugetlb.insert(size, entry);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_expand() {
        assert_eq!(expand("0-2,7\n"), [0, 1, 2, 7]);
        assert!(expand("\n").is_empty());
    }

    #[test]
    fn lines_with_and_without_an_operation() {
        let entry = |op: &str, value| BlkioEntry { major: 8, minor: 16, op: op.into(), value };
        assert_eq!(blkio_line("8:16 Read 4096"), Some(entry("Read", 4096)));
        assert_eq!(blkio_line("8:16 12"), Some(entry("", 12)));
        assert_eq!(blkio_line("Total 12"), None);
    }
}
