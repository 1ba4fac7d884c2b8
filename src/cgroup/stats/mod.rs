//! What a container uses, in the shape of `runc events --stats` (its types/events.go), which monitoring tools
//! parse. cgroup v2's figures are mapped to the names of v1, as runc maps them.

mod v1;
mod v2;

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;

use super::Error;
use super::file::{children_files, optional, read_number};
use super::hierarchy::Hierarchy;
use super::resources::{v1_directory, v2_directory};

/// Everything that is measured.
#[derive(Debug, Default, Serialize)]
#[allow(missing_docs, reason = "the names are the documentation")]
pub struct Stats {
    pub cpu: Cpu,
    pub cpuset: Cpuset,
    pub memory: Memory,
    pub pids: Pids,
    pub blkio: Blkio,
    pub hugetlb: BTreeMap<String, Hugetlb>,
    pub intel_rdt: Empty,
    pub network_interfaces: (),
}

/// `{}`
#[derive(Debug, Default, Serialize)]
pub struct Empty {}

/// Processor time.
#[derive(Debug, Default, Serialize)]
#[allow(missing_docs, reason = "the names are the documentation")]
pub struct Cpu {
    pub usage: CpuUsage,
    pub throttling: Throttling,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub psi: Option<Pressure>,
}

/// Processor time in nanoseconds.
#[derive(Debug, Default, Serialize)]
#[allow(missing_docs, reason = "the names are the documentation")]
pub struct CpuUsage {
    #[serde(skip_serializing_if = "is_zero")]
    pub total: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub percpu: Vec<u64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub percpu_kernel: Vec<u64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub percpu_user: Vec<u64>,
    pub kernel: u64,
    pub user: u64,
}

/// How often the quota was used up.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "the names are the documentation")]
pub struct Throttling {
    #[serde(skip_serializing_if = "is_zero")]
    pub periods: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub throttled_periods: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub throttled_time: u64,
}

/// The files of a v1 cpuset.
#[derive(Debug, Default, Serialize)]
#[allow(missing_docs, reason = "the names are the documentation")]
pub struct Cpuset {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cpus: Vec<u16>,
    pub cpu_exclusive: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mems: Vec<u16>,
    pub mem_hardwall: u64,
    pub mem_exclusive: u64,
    pub memory_migrate: u64,
    pub memory_spread_page: u64,
    pub memory_spread_slab: u64,
    pub memory_pressure: u64,
    pub sched_load_balance: u64,
    pub sched_relax_domain_level: i64,
}

/// Memory in bytes.
#[derive(Debug, Default, Serialize)]
#[allow(missing_docs, reason = "the names are the documentation")]
pub struct Memory {
    #[serde(skip_serializing_if = "is_zero")]
    pub cache: u64,
    pub usage: MemoryEntry,
    pub swap: MemoryEntry,
    pub kernel: MemoryEntry,
    #[serde(rename = "kernelTCP")]
    pub kernel_tcp: MemoryEntry,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub raw: BTreeMap<String, u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub psi: Option<Pressure>,
}

/// One kind of memory.
#[derive(Debug, Default, Serialize)]
#[allow(missing_docs, reason = "the names are the documentation")]
pub struct MemoryEntry {
    pub limit: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub usage: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub max: u64,
    pub failcnt: u64,
}

/// Number of processes and threads.
#[derive(Debug, Default, Serialize)]
#[allow(missing_docs, reason = "the names are the documentation")]
pub struct Pids {
    #[serde(skip_serializing_if = "is_zero")]
    pub current: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub limit: u64,
}

/// Traffic with block devices.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "the names are the documentation")]
pub struct Blkio {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_service_bytes_recursive: Vec<BlkioEntry>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_serviced_recursive: Vec<BlkioEntry>,
    #[serde(rename = "ioQueueRecursive", skip_serializing_if = "Vec::is_empty")]
    pub io_queued_recursive: Vec<BlkioEntry>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_service_time_recursive: Vec<BlkioEntry>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_wait_time_recursive: Vec<BlkioEntry>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_merged_recursive: Vec<BlkioEntry>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_time_recursive: Vec<BlkioEntry>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sectors_recursive: Vec<BlkioEntry>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub psi: Option<Pressure>,
}

/// One figure of one device.
#[derive(Debug, Default, Serialize, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the documentation")]
pub struct BlkioEntry {
    #[serde(skip_serializing_if = "is_zero")]
    pub major: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub minor: u64,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub op: String,
    #[serde(skip_serializing_if = "is_zero")]
    pub value: u64,
}

/// Huge pages of one size, in bytes.
#[derive(Debug, Default, Serialize)]
#[allow(missing_docs, reason = "the names are the documentation")]
pub struct Hugetlb {
    #[serde(skip_serializing_if = "is_zero")]
    pub usage: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub max: u64,
    pub failcnt: u64,
}

/// Pressure stall information: the share of time in which some, or all, processes waited.
#[derive(Debug, Default, Serialize, PartialEq)]
#[allow(missing_docs, reason = "the names are the documentation")]
pub struct Pressure {
    pub some: PressureLine,
    pub full: PressureLine,
}

/// Averages in per cent, and microseconds in all.
#[derive(Debug, Default, Serialize, PartialEq)]
#[allow(missing_docs, reason = "the names are the documentation")]
pub struct PressureLine {
    pub avg10: f64,
    pub avg60: f64,
    pub avg300: f64,
    pub total: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
fn is_zero(value: &u64) -> bool {
    *value == 0
}

/// Asks each controller in the hierarchy that has it.
pub fn collect(hierarchies: &[Hierarchy]) -> Result<Stats, Error> {
    let mut stats = Stats::default();
    if let Some(dir) = v2_directory(hierarchies) {
        v2::collect(dir, &mut stats)?;
    }
    for (controller, collect) in v1::COLLECTORS {
        if let Some(dir) = v1_directory(hierarchies, controller) {
            collect(dir, &mut stats)?;
        }
    }
    Ok(stats)
}

/// The number in a file that not every kernel or cgroup has.
fn number_or_zero(dir: &Path, file: &str) -> Result<u64, Error> {
    Ok(optional(read_number(dir, file))?.unwrap_or(0))
}

/// The sizes of huge pages that a cgroup counts: the kernel names its files by them.
fn huge_page_sizes(dir: &Path, suffix: &str) -> Vec<String> {
    let size = |name: String| {
        let size = name.strip_prefix("hugetlb.")?.strip_suffix(suffix)?;
        (!size.contains('.')).then(|| size.to_owned())
    };
    children_files(dir).filter_map(size).collect()
}

fn pids(dir: &Path, stats: &mut Stats) -> Result<(), Error> {
    stats.pids.current = number_or_zero(dir, "pids.current")?;
    // No limit is reported as none.
    stats.pids.limit = Some(number_or_zero(dir, "pids.max")?).filter(|limit| *limit != u64::MAX).unwrap_or(0);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shape_is_runcs() {
        let text = serde_json::to_value(Stats::default()).unwrap();
        assert_eq!(
            text,
            serde_json::json!({
                "cpu": {"usage": {"kernel": 0, "user": 0}, "throttling": {}},
                "cpuset": {
                    "cpu_exclusive": 0, "mem_hardwall": 0, "mem_exclusive": 0, "memory_migrate": 0,
                    "memory_spread_page": 0, "memory_spread_slab": 0, "memory_pressure": 0,
                    "sched_load_balance": 0, "sched_relax_domain_level": 0
                },
                "memory": {
                    "usage": {"limit": 0, "failcnt": 0}, "swap": {"limit": 0, "failcnt": 0},
                    "kernel": {"limit": 0, "failcnt": 0}, "kernelTCP": {"limit": 0, "failcnt": 0}
                },
                "pids": {}, "blkio": {}, "hugetlb": {}, "intel_rdt": {}, "network_interfaces": null
            })
        );
    }
}
