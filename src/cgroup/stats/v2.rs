//! Figures of cgroup v2, under the names of v1. A controller that the cgroup does not have has no files, and
//! leaves its figures at zero.

use std::path::Path;

use super::super::Error;
use super::super::file::{optional, read, read_number, read_pairs};
use super::{
    BlkioEntry, Hugetlb, MemoryEntry, Pressure, PressureLine, Stats, huge_page_sizes, number_or_zero, pids,
};

pub fn collect(dir: &Path, stats: &mut Stats) -> Result<(), Error> {
    cpu(dir, stats)?;
    memory(dir, stats)?;
    pids(dir, stats)?;
    stats.blkio.psi = pressure(dir, "io.pressure")?;
    for line in optional(read(dir, "io.stat"))?.unwrap_or_default().lines() {
        io_line(line, stats);
    }
    hugetlb(dir, stats)
}

fn cpu(dir: &Path, stats: &mut Stats) -> Result<(), Error> {
    const MICROSECOND: u64 = 1000;
    let (usage, throttling) = (&mut stats.cpu.usage, &mut stats.cpu.throttling);
    for (key, value) in optional(read_pairs(dir, "cpu.stat"))?.unwrap_or_default() {
        match key.as_str() {
            "usage_usec" => usage.total = value * MICROSECOND,
            "user_usec" => usage.user = value * MICROSECOND,
            "system_usec" => usage.kernel = value * MICROSECOND,
            "nr_periods" => throttling.periods = value,
            "nr_throttled" => throttling.throttled_periods = value,
            "throttled_usec" => throttling.throttled_time = value * MICROSECOND,
            _ => {}
        }
    }
    stats.cpu.psi = pressure(dir, "cpu.pressure")?;
    Ok(())
}

fn memory(dir: &Path, stats: &mut Stats) -> Result<(), Error> {
    let Some(raw) = optional(read_pairs(dir, "memory.stat"))? else { return Ok(()) };
    let memory = &mut stats.memory;
    memory.raw = raw.into_iter().collect();
    memory.cache = memory.raw.get("file").copied().unwrap_or(0);
    let entry = |name: &str| -> Result<MemoryEntry, Error> {
        Ok(MemoryEntry {
            limit: number_or_zero(dir, &format!("{name}.max"))?,
            usage: number_or_zero(dir, &format!("{name}.current"))?,
            max: number_or_zero(dir, &format!("{name}.peak"))?,
            failcnt: 0,
        })
    };
    memory.usage = entry("memory")?;
    let swap = entry("memory.swap")?;
    // v1's swap figures include memory. A common peak cannot be made from two.
    memory.swap = MemoryEntry {
        limit: swap.limit.saturating_add(memory.usage.limit),
        usage: swap.usage.saturating_add(memory.usage.usage),
        max: 0,
        failcnt: 0,
    };
    memory.psi = pressure(dir, "memory.pressure")?;
    Ok(())
}

/// `8:0 rbytes=4096 wbytes=0 rios=1 wios=0 ...`
fn io_line(line: &str, stats: &mut Stats) {
    let mut fields = line.split(' ');
    let device = fields.next().and_then(|device| device.split_once(':'));
    let Some((Ok(major), Ok(minor))) = device.map(|(a, b)| (a.parse(), b.parse())) else { return };
    for (key, value) in fields.filter_map(|field| field.split_once('=')) {
        let (table, op) = match key {
            "rbytes" => (&mut stats.blkio.io_service_bytes_recursive, "Read"),
            "wbytes" => (&mut stats.blkio.io_service_bytes_recursive, "Write"),
            "rios" => (&mut stats.blkio.io_serviced_recursive, "Read"),
            "wios" => (&mut stats.blkio.io_serviced_recursive, "Write"),
            _ => continue,
        };
        if let Ok(value) = value.parse() {
            table.push(BlkioEntry { major, minor, op: op.into(), value });
        }
    }
}

fn hugetlb(dir: &Path, stats: &mut Stats) -> Result<(), Error> {
    for size in huge_page_sizes(dir, ".max") {
        let events = optional(read_pairs(dir, &format!("hugetlb.{size}.events")))?.unwrap_or_default();
        let reserved = optional(read_number(dir, &format!("hugetlb.{size}.rsvd.current")))?;
        let entry = Hugetlb {
            usage: match reserved {
                Some(reserved) => reserved,
                None => number_or_zero(dir, &format!("hugetlb.{size}.current"))?,
            },
            max: 0,
            failcnt: events.iter().find(|(key, _)| key == "max").map_or(0, |(_, value)| *value),
        };
        stats.hugetlb.insert(size, entry);
    }
    Ok(())
}

/// `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`, and the same for `full`.
fn pressure(dir: &Path, file: &str) -> Result<Option<Pressure>, Error> {
    // Compiled in and switched off, the files are there and cannot be read.
    let Ok(text) = read(dir, file) else { return Ok(None) };
    let mut pressure = Pressure::default();
    for line in text.lines() {
        let mut fields = line.split(' ');
        let target = match fields.next() {
            Some("some") => &mut pressure.some,
            Some("full") => &mut pressure.full,
            _ => continue,
        };
        let average = |text: Option<&str>| {
            text.and_then(|field| field.split_once('='))
                .and_then(|(_, value)| value.parse().ok())
                .unwrap_or(0.0)
        };
        *target = PressureLine {
            avg10: average(fields.next()),
            avg60: average(fields.next()),
            avg300: average(fields.next()),
            total: fields.next().and_then(|f| f.split_once('=')?.1.parse().ok()).unwrap_or(0),
        };
    }
    Ok(Some(pressure))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_come_under_the_names_of_v1() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        file("cpu.stat", "usage_usec 5\nuser_usec 3\nsystem_usec 2\nnr_periods 1\nthrottled_usec 7\n");
        file(
            "cpu.pressure",
            "some avg10=1.50 avg60=0.00 avg300=0.00 total=9\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n",
        );
        file("memory.stat", "anon 10\nfile 20\n");
        file("memory.current", "100\n");
        file("memory.max", "max\n");
        file("memory.swap.current", "4\n");
        file("memory.swap.max", "8\n");
        file("pids.current", "2\n");
        file("pids.max", "max\n");
        file("io.stat", "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n");
        file("hugetlb.2MB.max", "max\n");
        file("hugetlb.2MB.rsvd.max", "max\n");
        file("hugetlb.2MB.current", "0\n");
        file("hugetlb.2MB.rsvd.current", "4096\n");
        file("hugetlb.2MB.events", "max 6\n");
        let mut stats = Stats::default();
        collect(dir.path(), &mut stats).unwrap();
        assert_eq!((stats.cpu.usage.total, stats.cpu.usage.user), (5000, 3000));
        assert_eq!(stats.cpu.throttling.throttled_time, 7000);
        let some = stats.cpu.psi.unwrap().some;
        assert_eq!(some, PressureLine { avg10: 1.5, avg60: 0.0, avg300: 0.0, total: 9 });
        assert_eq!(
            (stats.memory.cache, stats.memory.swap.usage, stats.memory.swap.limit),
            (20, 104, u64::MAX)
        );
        assert_eq!((stats.pids.current, stats.pids.limit), (2, 0));
        assert_eq!(stats.blkio.io_serviced_recursive.len(), 2);
        assert_eq!(stats.hugetlb.keys().collect::<Vec<_>>(), ["2MB"]);
        assert_eq!((stats.hugetlb["2MB"].failcnt, stats.hugetlb["2MB"].usage), (6, 4096));
    }
}
