//! `update`: other limits for a container that is there already.
//!
//! What is given replaces what the saved configuration says; everything else stays. Zero and the empty string count
//! as not given, as engines fill the fields they do not mean.

use std::io::Read;

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxPids, LinuxResources};
use serde_json::Value;

use crate::Error;
use crate::cli::Global;
use crate::container::{self, Container, Status};
use crate::error::Os;
use crate::resctrl;

/// Arguments of `update`.
#[derive(Debug, Default, clap::Args)]
pub struct Args {
    /// File with linux.resources as JSON, or - for standard input; all other options are ignored then
    #[arg(short, long, value_name = "FILE")]
    resources: Option<String>,
    /// Relative weight for block devices, 10 to 1000
    #[arg(long, value_name = "WEIGHT")]
    blkio_weight: Option<u16>,
    /// Period of the CPU quota in microseconds
    #[arg(long, value_name = "USEC")]
    cpu_period: Option<u64>,
    /// CPU time in each period in microseconds
    #[arg(long, value_name = "USEC", allow_hyphen_values = true)]
    cpu_quota: Option<i64>,
    /// CPU time that may be saved up for bursts in microseconds
    #[arg(long, value_name = "USEC")]
    cpu_burst: Option<u64>,
    /// Relative share of CPU time
    #[arg(long, value_name = "SHARES")]
    cpu_share: Option<u64>,
    /// Period of real-time scheduling in microseconds
    #[arg(long, value_name = "USEC")]
    cpu_rt_period: Option<u64>,
    /// Real-time scheduled time in each period in microseconds
    #[arg(long, value_name = "USEC", allow_hyphen_values = true)]
    cpu_rt_runtime: Option<i64>,
    /// 1 to run only when nothing else does, 0 for normal scheduling
    #[arg(long, value_name = "0|1")]
    cpu_idle: Option<i64>,
    /// CPUs to use, as 0-3,7
    #[arg(long, value_name = "LIST")]
    cpuset_cpus: Option<String>,
    /// Memory nodes to use
    #[arg(long, value_name = "LIST")]
    cpuset_mems: Option<String>,
    /// Memory limit in bytes, or with a unit; -1 for none
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true, value_parser = size)]
    memory: Option<i64>,
    /// Memory that the container is to be left
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true, value_parser = size)]
    memory_reservation: Option<i64>,
    /// Limit on memory and swap together
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true, value_parser = size)]
    memory_swap: Option<i64>,
    /// Ignored: the kernel has no such limit any more
    #[arg(long, value_name = "SIZE", hide = true, allow_hyphen_values = true, value_parser = size)]
    kernel_memory: Option<i64>,
    /// Ignored: the kernel has no such limit any more
    #[arg(long, value_name = "SIZE", hide = true, allow_hyphen_values = true, value_parser = size)]
    kernel_memory_tcp: Option<i64>,
    /// Largest number of processes and threads; -1 for any
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    pids_limit: Option<i64>,
    /// Share of the L3 cache (Intel RDT), as a line of resctrl's schemata
    #[arg(long, value_name = "SCHEMA")]
    l3_cache_schema: Option<String>,
    /// Share of the memory bandwidth (Intel RDT), as a line of resctrl's schemata
    #[arg(long, value_name = "SCHEMA")]
    mem_bw_schema: Option<String>,
    /// Id of the container
    id: String,
}

/// Applies the new limits, and saves them.
///
/// # Errors
/// A container that does not run; a limit that the kernel does not take. The old ones are then set again.
pub fn run(args: &Args, global: &Global) -> Result<u8, Error> {
    let container = Container::load(&global.root, &args.id)?;
    let given = match args.resources.as_deref() {
        Some(file) => read(file)?,
        None => args.resources(),
    };
    // Of two that change the configuration at once, the second is to see what the first has saved.
    let _turn = container.take_turn()?.ok_or(container::Error::NotFound)?;
    if matches!(container.status()?, Status::Stopped | Status::Creating) {
        return Err(container::Error::NotRunning.into());
    }
    update(args, &given, &container)
        .map_err(|error| container.ended().map_or(error, |ended| ended.into()))
        .map(|()| 0)
}

fn update(args: &Args, given: &LinuxResources, container: &Container) -> Result<(), Error> {
    let mut spec = container.spec()?;
    let mut linux = spec.linux().clone().unwrap_or_default();
    let old = linux.resources().clone().unwrap_or_default();
    let new = merge(&old, given).map_err(Error::new)?;
    let cgroup = container.cgroup()?;
    let change = change(&old, given, &new);
    linux.set_resources(Some(new));
    spec.set_linux(Some(linux));
    // What cannot be saved is not to be in force either.
    let saved = container.prepare_spec(&spec)?;
    args.update_rdt(container)?;
    if let Err(error) = cgroup.apply(&change) {
        // What has been written before the error; whatever was not limited then stays as it is.
        let mut old = old;
        old.set_devices(None);
        let _ = cgroup.apply(&old);
        return Err(Error::new(error));
    }
    Ok(saved.commit()?)
}

fn read(file: &str) -> Result<LinuxResources, Error> {
    let failed = |e: std::io::Error| Error::new(format_args!("{file}: {}", Os::from(e)));
    let mut text = String::new();
    if file == "-" {
        std::io::stdin().read_to_string(&mut text).map_err(failed)?;
    } else {
        text = std::fs::read_to_string(file).map_err(failed)?;
    }
    serde_json::from_str(&text).map_err(|e| Error::new(format_args!("{file}: {e}")))
}

impl Args {
    /// The share of what Intel RDT divides. The group is made with the container.
    fn update_rdt(&self, container: &Container) -> Result<(), Error> {
        let [l3_cache, bandwidth] = [&self.l3_cache_schema, &self.mem_bw_schema]
            .map(|value| value.as_deref().filter(|schema| !schema.is_empty()));
        let what = match (l3_cache, bandwidth) {
            (None, None) => return Ok(()),
            (Some(_), _) => "CAT: l3 cache schema",
            _ => "MBA: memory bandwidth schema",
        };
        resctrl::mount_point().map_err(|_| Error::new(format_args!("Intel RDT/{what} is not enabled")))?;
        let group = container.state.intel_rdt.as_ref().ok_or_else(|| {
            Error::new("the container has no Intel RDT group: linux.intelRdt is missing in its config.json")
        })?;
        group.update(l3_cache, bandwidth).map_err(Error::new)
    }

    fn resources(&self) -> LinuxResources {
        let mut memory = LinuxMemory::default();
        memory
            .set_limit(self.memory)
            .set_reservation(self.memory_reservation)
            .set_swap(self.memory_swap)
            .set_kernel(self.kernel_memory)
            .set_kernel_tcp(self.kernel_memory_tcp);
        let mut cpu = LinuxCpu::default();
        cpu.set_period(self.cpu_period)
            .set_quota(self.cpu_quota)
            .set_burst(self.cpu_burst)
            .set_shares(self.cpu_share)
            .set_realtime_period(self.cpu_rt_period)
            .set_realtime_runtime(self.cpu_rt_runtime)
            .set_idle(self.cpu_idle)
            .set_cpus(self.cpuset_cpus.clone())
            .set_mems(self.cpuset_mems.clone());
        let mut block_io = LinuxBlockIo::default();
        block_io.set_weight(self.blkio_weight);
        let mut resources = LinuxResources::default();
        resources.set_memory(Some(memory)).set_cpu(Some(cpu)).set_block_io(Some(block_io));
        resources.set_pids(self.pids_limit.map(|limit| {
            let mut pids = LinuxPids::default();
            pids.set_limit(limit);
            pids
        }));
        resources
    }
}

/// Fields in which zero, or an empty string, means "not given".
const NOT_GIVEN_IF_ZERO: [&str; 13] = [
    "limit",
    "swap",
    "reservation",
    "shares",
    "quota",
    "period",
    "realtimeRuntime",
    "realtimePeriod",
    "cpus",
    "mems",
    "weight",
    "leafWeight",
    "classID",
];

/// The saved limits, with those that are given in their place.
fn merge(old: &LinuxResources, given: &LinuxResources) -> Result<LinuxResources, serde_json::Error> {
    let mut old = old.clone();
    // Lifting the limit on memory lifts that on swap, unless there is one for it.
    if given.memory().is_some_and(|memory| memory.limit() == Some(-1)) {
        old.set_memory(old.memory().map(|mut memory| *memory.set_swap(None)));
    }
    let mut new = serde_json::to_value(old)?;
    merge_value(&mut new, serde_json::to_value(given)?, "");
    serde_json::from_value(new)
}

fn merge_value(old: &mut Value, given: Value, field: &str) {
    match (old, given) {
        (Value::Object(old), Value::Object(given)) => {
            for (field, value) in given {
                let zero = value == 0 || value == "";
                if !(zero && NOT_GIVEN_IF_ZERO.contains(&field.as_str())) {
                    merge_value(old.entry(&field).or_insert(Value::Null), value, &field);
                }
            }
        }
        // blockIO's lists: a device's entry replaces the one that it had.
        (Value::Array(old), Value::Array(given)) if field.ends_with("Device") => {
            let device = |entry: &Value| (entry["major"].clone(), entry["minor"].clone());
            old.retain(|entry| !given.iter().any(|other| device(other) == device(entry)));
            old.extend(given);
        }
        (old, given) => *old = given,
    }
}

/// What has to be written: the fields that are given, and those that the kernel takes together with them.
fn change(old: &LinuxResources, given: &LinuxResources, new: &LinuxResources) -> LinuxResources {
    let mut change = given.clone();
    if let (Some(mut memory), Some(new)) = (*given.memory(), *new.memory()) {
        if [memory.limit(), memory.swap()].iter().any(|value| value.unwrap_or(0) != 0) {
            memory.set_limit(new.limit()).set_swap(new.swap());
        }
        change.set_memory(Some(memory));
    }
    if let (Some(mut cpu), Some(new)) = (given.cpu().clone(), new.cpu()) {
        if cpu.quota().unwrap_or(0) != 0 || cpu.period().unwrap_or(0) != 0 {
            cpu.set_quota(new.quota()).set_period(new.period());
        }
        change.set_cpu(Some(cpu));
    }
    // Engines send the device rules along. Where they are the same ones, whatever else has given the container a
    // device since is left alone.
    if given.devices() == old.devices() {
        change.set_devices(None);
    }
    change
}

/// A size as Docker's tools take it: `-1`, bytes, or a number with a unit of 1024: `64m`, `1.5GiB`, `512 kb`.
fn size(text: &str) -> Result<i64, String> {
    if text == "-1" {
        return Ok(-1);
    }
    let bad = || format!("invalid size: '{text}'");
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim_start().to_ascii_lowercase();
    let unit = unit.strip_suffix("ib").or_else(|| unit.strip_suffix('b')).unwrap_or(&unit);
    let power = match unit {
        "" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        _ => return Err(bad()),
    };
    let scale = 1u64 << (10 * power);
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(scale).and_then(|bytes| i64::try_from(bytes).ok()).ok_or_else(bad);
    }
    let value: f64 = number.parse().map_err(|_| bad())?;
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "as the original does")]
    Ok((value * scale as f64) as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resources(text: &str) -> LinuxResources {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("0", 0),
            ("-1", -1),
            ("65536", 65536),
            ("64m", 64 << 20),
            ("64M", 64 << 20),
            ("64mb", 64 << 20),
            ("64MiB", 64 << 20),
            ("1.5g", 3 << 29),
            ("2 kb", 2048),
            ("7b", 7),
        ] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in ["", "m", "-2", "1x", "1.2.3", "9999999999999p", "5 5"] {
            assert!(size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_not_given_stays() {
        let old = resources(
            r#"{"memory":{"limit":100,"swap":200,"reservation":50},"cpu":{"shares":512,"quota":5,"period":10},
                "pids":{"limit":7},"blockIO":{"throttleReadBpsDevice":[
                {"major":8,"minor":0,"rate":1},{"major":8,"minor":1,"rate":1}]}}"#,
        );
        let given = resources(
            r#"{"memory":{"limit":150,"swap":0},"cpu":{"shares":0,"quota":6,"cpus":""},"pids":{},
                "blockIO":{"weight":0,"throttleReadBpsDevice":[{"major":8,"minor":1,"rate":2}]}}"#,
        );
        let new = merge(&old, &given).unwrap();
        let expected = resources(
            r#"{"memory":{"limit":150,"swap":200,"reservation":50},"cpu":{"shares":512,"quota":6,"period":10},
                "pids":{"limit":7},"blockIO":{"throttleReadBpsDevice":[
                {"major":8,"minor":0,"rate":1},{"major":8,"minor":1,"rate":2}]}}"#,
        );
        assert_eq!(new, expected);
        // Both limits on memory go together, quota and period too; what is not given is not written again.
        let change = change(&old, &given, &new);
        let memory = change.memory().unwrap();
        assert_eq!((memory.limit(), memory.swap(), memory.reservation()), (Some(150), Some(200), None));
        let cpu = change.cpu().clone().unwrap();
        assert_eq!((cpu.quota(), cpu.period(), cpu.shares()), (Some(6), Some(10), Some(0)));
    }

    #[test]
    fn lifting_the_memory_limit_lifts_that_on_swap() {
        let old = resources(r#"{"memory":{"limit":100,"swap":200}}"#);
        let new = merge(&old, &resources(r#"{"memory":{"limit":-1}}"#)).unwrap();
        assert_eq!((new.memory().unwrap().limit(), new.memory().unwrap().swap()), (Some(-1), None));
    }

    #[test]
    fn unchanged_device_rules_are_left_alone() {
        let rules = r#"{"devices":[{"allow":false,"access":"rwm"}]}"#;
        let (old, given) = (resources(rules), resources(rules));
        assert!(change(&old, &given, &merge(&old, &given).unwrap()).devices().is_none());
        let given = resources(r#"{"devices":[{"allow":true,"access":"rwm"}]}"#);
        assert_eq!(change(&old, &given, &merge(&old, &given).unwrap()).devices(), given.devices());
    }
}
