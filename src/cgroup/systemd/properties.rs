//! `linux.resources` as properties of a unit, systemd.resource-control(5), so that systemd keeps them when it writes the
//! cgroup's files itself, at a daemon-reload for instance. What it has no word for is in the files alone.
//!
//! The choice and the roundings are runc's.

use std::collections::HashMap;

use oci_spec::runtime::{LinuxCpu, LinuxResources};
use zbus::{Array, Signature, Structure, Variant};

use super::super::devices::{Devices, Kind, Policy, letters};
use super::super::{Error, v2};
use super::bus::Property;

/// The kernel's, and systemd's, when none is given.
const DEFAULT_PERIOD: u64 = 100_000;

/// What systemd is told; `version` is its own, `on_v1` whose names count.
pub fn of(
    r: &LinuxResources,
    on_v1: bool,
    version: u32,
    devices: Option<&Policy>,
) -> Result<Vec<Property>, Error> {
    let mut all = Properties(Vec::new());
    if let Some(policy) = devices {
        all.devices(policy, version);
    }
    if let Some(memory) = r.memory() {
        let (limit, swap) = (memory.limit().unwrap_or(0), memory.swap().unwrap_or(0));
        all.limit(if on_v1 { "MemoryLimit" } else { "MemoryMax" }, limit);
        if !on_v1 {
            all.limit("MemoryLow", memory.reservation().unwrap_or(0));
            if let Some(swap) = v2::swap_alone(swap, limit)? {
                all.add("MemorySwapMax", Variant::U64(swap.cast_unsigned()));
            }
        }
    }
    if let Some(cpu) = r.cpu() {
        all.cpu(cpu, on_v1, version)?;
    }
    if let Some(weight @ 1..) = r.block_io().as_ref().and_then(|io| io.weight()).filter(|_| on_v1) {
        all.add("BlockIOWeight", Variant::U64(weight.into()));
    }
    if let limit @ (1.. | -1) = r.pids().map_or(0, |pids| pids.limit()) {
        all.limit("TasksMax", limit);
    }
    if let Some(unified) = r.unified().as_ref().filter(|_| !on_v1) {
        all.unified(unified, version)?;
    }
    Ok(all.0)
}

struct Properties(Vec<Property>);

impl Properties {
    fn add(&mut self, name: &str, value: Variant<'static>) {
        self.0.push((name.to_owned(), value));
    }

    /// -1 is all ones, which is systemd's "infinity".
    fn limit(&mut self, name: &str, value: i64) {
        if value != 0 {
            self.add(name, Variant::U64(value.cast_unsigned()));
        }
    }

    fn cpu(&mut self, cpu: &LinuxCpu, on_v1: bool, version: u32) -> Result<(), Error> {
        let idle = !on_v1 && cpu.idle() == Some(1) && knows_idle(version);
        if idle {
            // systemd's way to say cpu.idle.
            self.add("CPUWeight", Variant::U64(0));
        }
        match cpu.shares().unwrap_or(0) {
            0 => {}
            shares if on_v1 => self.add("CPUShares", Variant::U64(shares)),
            _ if idle => {}
            shares => self.add("CPUWeight", Variant::U64(v2::weight(shares))),
        }
        self.quota(cpu.quota().unwrap_or(0), cpu.period().unwrap_or(0), version);
        for (name, field, list) in
            [("AllowedCPUs", "cpu.cpus", cpu.cpus()), ("AllowedMemoryNodes", "cpu.mems", cpu.mems())]
        {
            if let Some(list) = list.as_ref().filter(|list| !list.is_empty() && knows_cpusets(version)) {
                self.set(name, field, list)?;
            }
        }
        Ok(())
    }

    fn quota(&mut self, quota: i64, period: u64, version: u32) {
        if period != 0 && version >= 242 {
            self.add("CPUQuotaPeriodUSec", Variant::U64(period));
        }
        if quota != 0 || period != 0 {
            let share = per_second(quota, if period == 0 { DEFAULT_PERIOD } else { period });
            self.add("CPUQuotaPerSecUSec", Variant::U64(share.unwrap_or(u64::MAX)));
        }
    }

    fn set(&mut self, name: &str, field: &str, list: &str) -> Result<(), Error> {
        let bits = bits(list).ok_or_else(|| Error::List { field: field.into(), list: list.into() })?;
        self.add(name, Variant::new(bits));
        Ok(())
    }

    /// Those files of v2 that have a property.
    fn unified(&mut self, unified: &HashMap<String, String>, version: u32) -> Result<(), Error> {
        let idle = knows_idle(version) && unified.get("cpu.idle").is_some_and(|value| value.trim() == "1");
        let mut keys: Vec<_> = unified.iter().collect();
        keys.sort_unstable();
        for (key, value) in keys {
            v2::check_key(key)?;
            let value = value.trim();
            let bad = || Error::UnifiedValue { key: key.clone(), value: value.into() };
            let number = |text: &str| match text {
                "max" => Ok(u64::MAX),
                text => text.parse::<u64>().map_err(|_| bad()),
            };
            match key.as_str() {
                "cpu.idle" if idle => self.add("CPUWeight", Variant::U64(0)),
                "cpu.weight" if !idle => self.add("CPUWeight", Variant::U64(number(value)?)),
                "cpu.max" => {
                    let fields: Vec<_> = value.split_whitespace().collect();
                    let (quota, period) = match fields[..] {
                        [quota] => (quota, DEFAULT_PERIOD),
                        [quota, period] => (quota, period.parse().map_err(|_| bad())?),
                        _ => return Err(bad()),
                    };
                    let quota = if quota == "max" { 0 } else { quota.parse().map_err(|_| bad())? };
                    self.quota(quota, period, version);
                }
                "cpuset.cpus" if knows_cpusets(version) => self.set("AllowedCPUs", key, value)?,
                "cpuset.mems" if knows_cpusets(version) => self.set("AllowedMemoryNodes", key, value)?,
                "memory.high" => self.add("MemoryHigh", Variant::U64(number(value)?)),
                "memory.low" => self.add("MemoryLow", Variant::U64(number(value)?)),
                "memory.min" => self.add("MemoryMin", Variant::U64(number(value)?)),
                "memory.max" => self.add("MemoryMax", Variant::U64(number(value)?)),
                "memory.swap.max" => self.add("MemorySwapMax", Variant::U64(number(value)?)),
                "memory.zswap.max" if version >= 253 => {
                    self.add("MemoryZSwapMax", Variant::U64(number(value)?))
                }
                "pids.max" => self.add("TasksMax", Variant::U64(number(value)?)),
                _ => {}
            }
        }
        Ok(())
    }

    /// systemd knows lists of what is allowed, and "everything". A list of what is denied becomes "nothing" until our
    /// own rules replace it.
    fn devices(&mut self, policy: &Policy, version: u32) {
        let element = Signature::structure([Signature::Str, Signature::Str]);
        let list = || Array::new(&element);
        // An empty list takes back what was there before.
        self.add("DeviceAllow", Variant::Array(list()));
        let all = policy.allow && policy.exceptions.is_empty();
        self.add("DevicePolicy", Variant::new(if all { "auto" } else { "strict" }));
        if policy.allow {
            return;
        }
        let mut allowed = list();
        for (devices, access) in &policy.exceptions {
            let Some(path) = device_path(devices, version) else { continue };
            let entry = Structure::from((path, letters(*access)));
            // The signature is that of the array: there is nothing to fail.
            let _ = allowed.append(Variant::Structure(entry));
        }
        self.add("DeviceAllow", Variant::Array(allowed));
    }
}

/// How `DeviceAllow=` names devices. It has no word for one minor of every major.
fn device_path(devices: &Devices, version: u32) -> Option<String> {
    let kind = match devices.kind {
        Kind::Block => "block",
        Kind::Char => "char",
    };
    match (devices.major, devices.minor) {
        (None, None) => Some(format!("{kind}-*")),
        (None, Some(_)) => None,
        (Some(major), None) => (version >= 240).then(|| format!("{kind}-{major}")),
        (Some(major), Some(minor)) => Some(format!("/dev/{kind}/{major}:{minor}")),
    }
}

fn knows_idle(version: u32) -> bool {
    version >= 252
}

fn knows_cpusets(version: u32) -> bool {
    version >= 244
}

/// Microseconds in each second; systemd keeps whole per cents of a CPU only. `None` for no limit.
fn per_second(quota: i64, period: u64) -> Option<u64> {
    const PER_CENT: u64 = 10_000;
    let quota = u64::try_from(quota).ok().filter(|quota| *quota > 0)?;
    Some((quota.saturating_mul(1_000_000) / period).next_multiple_of(PER_CENT))
}

/// The resources with a quota as systemd rounds it, so that its writes and ours are the same.
pub fn rounded(r: &LinuxResources) -> LinuxResources {
    let mut r = r.clone();
    if let Some(mut cpu) = r.cpu().clone() {
        let period = cpu.period().filter(|period| *period != 0).unwrap_or(DEFAULT_PERIOD);
        if let Some(share) = cpu.quota().and_then(|quota| per_second(quota, period))
            && let Ok(quota) = i64::try_from(share.saturating_mul(period) / 1_000_000)
        {
            cpu.set_quota(Some(quota));
            r.set_cpu(Some(cpu));
        }
    }
    r
}

/// A list such as `0-3,7` as systemd's set of bits, the lowest first.
fn bits(list: &str) -> Option<Vec<u8>> {
    /// More CPUs than any kernel has: a wrong number must not cost all memory.
    const LARGEST: usize = 1 << 16;
    let mut bits = Vec::new();
    for part in list.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (first.parse::<usize>().ok()?, last.parse::<usize>().ok()?);
        if first > last || last > LARGEST {
            return None;
        }
        for bit in first..=last {
            if bits.len() <= bit / 8 {
                bits.resize(bit / 8 + 1, 0);
            }
            bits[bit / 8] |= 1 << (bit % 8);
        }
    }
    (!bits.is_empty()).then_some(bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resources(text: &str) -> LinuxResources {
        serde_json::from_str(text).unwrap()
    }

    fn shown(text: &str, on_v1: bool, version: u32) -> Vec<String> {
        let all = of(&resources(text), on_v1, version, None).unwrap();
        let value = |value: &Variant<'_>| match value {
            Variant::U64(u64::MAX) => "infinity".to_owned(),
            Variant::U64(number) => number.to_string(),
            other => format!("{other:?}"),
        };
        all.iter().map(|(name, v)| format!("{name}={}", value(v))).collect()
    }

    #[test]
    fn limits_on_v2() {
        let text = r#"{"memory":{"limit":100,"swap":300,"reservation":50},"pids":{"limit":-1},
            "cpu":{"shares":1024,"quota":25000,"period":50000},"blockIO":{"weight":500}}"#;
        let expected = [
            "MemoryMax=100",
            "MemoryLow=50",
            "MemorySwapMax=200",
            "CPUWeight=100",
            "CPUQuotaPeriodUSec=50000",
            "CPUQuotaPerSecUSec=500000",
            "TasksMax=infinity",
        ];
        assert_eq!(shown(text, false, 252), expected);
        assert_eq!(
            shown(r#"{"cpu":{"quota":-1},"pids":{"limit":0}}"#, false, 252),
            ["CPUQuotaPerSecUSec=infinity"]
        );
        assert_eq!(shown(r#"{"cpu":{"idle":1,"shares":5}}"#, false, 252), ["CPUWeight=0"]);
        assert_eq!(shown(r#"{"cpu":{"idle":1}}"#, false, 251), [""; 0]);
    }

    #[test]
    fn limits_on_v1() {
        let text = r#"{"memory":{"limit":100,"swap":300},"cpu":{"shares":7,"period":50000},"blockIO":{"weight":500}}"#;
        let expected = ["MemoryLimit=100", "CPUShares=7", "CPUQuotaPerSecUSec=infinity", "BlockIOWeight=500"];
        assert_eq!(shown(text, true, 239), expected);
    }

    #[test]
    fn unified_files_that_have_a_property() {
        let text = r#"{"unified":{"memory.high":"90","memory.max":" max\n","cpu.max":"10000 50000","pids.max":"5",
            "io.max":"8:0 rbps=1"}}"#;
        let expected = [
            "CPUQuotaPeriodUSec=50000",
            "CPUQuotaPerSecUSec=200000",
            "MemoryHigh=90",
            "MemoryMax=infinity",
            "TasksMax=5",
        ];
        assert_eq!(shown(text, false, 252), expected);
        for bad in [r#"{"pids.max":"x"}"#, r#"{"cpu.max":""}"#, r#"{"a/b":"1"}"#, r#"{"cpuset.cpus":"3-1"}"#]
        {
            let r = resources(&format!(r#"{{"unified":{bad}}}"#));
            assert!(of(&r, false, 252, None).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_quota_is_whole_per_cents() {
        assert_eq!(per_second(12_345, 100_000), Some(130_000));
        assert_eq!(per_second(-1, 100_000), None);
        let r = rounded(&resources(r#"{"cpu":{"quota":12345}}"#));
        assert_eq!(r.cpu().as_ref().unwrap().quota(), Some(13_000));
    }

    #[test]
    fn sets_of_cpus() {
        assert_eq!(bits("0-3, 9,"), Some(vec![0x0f, 0x02]));
        for bad in ["", "a", "3-1", "-1", "99999999999"] {
            assert_eq!(bits(bad), None, "{bad}");
        }
    }

    #[test]
    fn devices_by_systemds_names() {
        let name = |kind, major, minor| device_path(&Devices { kind, major, minor }, 252);
        assert_eq!(name(Kind::Char, Some(1), Some(3)).as_deref(), Some("/dev/char/1:3"));
        assert_eq!(name(Kind::Block, Some(8), None).as_deref(), Some("block-8"));
        assert_eq!(name(Kind::Char, None, None).as_deref(), Some("char-*"));
        assert_eq!(name(Kind::Char, None, Some(3)), None);
        let policy = Policy::of(&[]).unwrap();
        let all = of(&LinuxResources::default(), false, 252, Some(&policy)).unwrap();
        assert_eq!(
            all.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(),
            ["DeviceAllow", "DevicePolicy", "DeviceAllow"]
        );
        let policy = Policy { allow: true, exceptions: Vec::new() };
        assert_eq!(
            of(&LinuxResources::default(), false, 252, Some(&policy)).unwrap()[1].1,
            Variant::new("auto")
        );
    }
}
