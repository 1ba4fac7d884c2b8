//! Which device nodes the container may open and make.
//!
//! `linux.resources.devices` is a sequence of orders to the v1 controller. It is played through first, with
//! that controller's meaning, so that v1 and the BPF program of v2 do the same, and an order that v1 would
//! silently not obey is refused. As runc does, everything is denied at the start, and after the configuration's own
//! rules come those that every container has.

use std::fmt;
use std::path::Path;

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};

use super::file::{read, write_lines};
use super::{Error, bpf};

/// What can be done with a device, in the bits of `BPF_DEVCG_ACC_*`.
pub const MKNOD: u8 = 1;
pub const READ: u8 = 2;
pub const WRITE: u8 = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Block,
    Char,
}

/// The devices a rule is about; `None` is any number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Devices {
    pub kind: Kind,
    pub major: Option<u32>,
    pub minor: Option<u32>,
}

/// A default, and the accesses to which it does not apply, each device once, in the order of the rules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    pub allow: bool,
    pub exceptions: Vec<(Devices, u8)>,
}

/// What runc gives to every container: making any node (opening it is another matter), and the nodes of a
/// plain /dev.
const ALWAYS: [(Kind, Option<u32>, Option<u32>, u8); 11] = [
    (Kind::Char, None, None, MKNOD),
    (Kind::Block, None, None, MKNOD),
    (Kind::Char, Some(1), Some(3), MKNOD | READ | WRITE), // null
    (Kind::Char, Some(1), Some(5), MKNOD | READ | WRITE), // zero
    (Kind::Char, Some(1), Some(7), MKNOD | READ | WRITE), // full
    (Kind::Char, Some(1), Some(8), MKNOD | READ | WRITE), // random
    (Kind::Char, Some(1), Some(9), MKNOD | READ | WRITE), // urandom
    (Kind::Char, Some(5), Some(0), MKNOD | READ | WRITE), // tty
    (Kind::Char, Some(5), Some(2), MKNOD | READ | WRITE), // ptmx
    (Kind::Char, Some(136), None, MKNOD | READ | WRITE),  // pts/*
    (Kind::Char, Some(10), Some(200), MKNOD | READ | WRITE), // net/tun
];

impl Policy {
    /// The policy that the rules of a configuration amount to.
    pub fn of(rules: &[LinuxDeviceCgroup]) -> Result<Self, Error> {
        let mut policy = Self::default();
        for (index, rule) in rules.iter().enumerate() {
            let bad = |what: String| Error::DeviceRule { index, what };
            let access = access(rule.access().as_deref().unwrap_or_default()).map_err(bad)?;
            let number = |value: Option<i64>| match value {
                None | Some(i64::MIN..=-1) => Ok(None),
                // Larger than any device number, and than what a BPF comparison can hold.
                Some(value) => i32::try_from(value)
                    .map(|value| Some(value.unsigned_abs()))
                    .map_err(|_| bad(format!("device number {value} is out of range"))),
            };
            let kind = match rule.typ().unwrap_or_default() {
                LinuxDeviceType::A => {
                    policy = Self { allow: rule.allow(), exceptions: Vec::new() };
                    continue;
                }
                LinuxDeviceType::B => Kind::Block,
                LinuxDeviceType::C => Kind::Char,
                other => return Err(bad(format!("type {:?} is none of a, b and c", other.as_str()))),
            };
            let devices = Devices { kind, major: number(rule.major())?, minor: number(rule.minor())? };
            policy.apply(rule.allow(), devices, access).map_err(bad)?;
        }
        for (kind, major, minor, access) in ALWAYS {
            let devices = Devices { kind, major, minor };
            policy
                .apply(true, devices, access)
                .map_err(|what| Error::DeviceRule { index: rules.len(), what })?;
        }
        Ok(policy)
    }

    fn apply(&mut self, allow: bool, devices: Devices, access: u8) -> Result<(), String> {
        let old = self.exceptions.iter().position(|(other, _)| *other == devices);
        if allow != self.allow {
            match old {
                Some(old) => self.exceptions[old].1 |= access,
                None => self.exceptions.push((devices, access)),
            }
            return Ok(());
        }
        // v1 cannot make an exception from an exception, and does not say so.
        let Devices { kind, major, minor } = devices;
        for wider in [(None, minor), (major, None), (None, None)] {
            let wider = Devices { kind, major: wider.0, minor: wider.1 };
            if wider != devices && self.access(wider) & access != 0 {
                return Err(format!("{devices} cannot be taken out of {wider}"));
            }
        }
        if let Some(old) = old {
            self.exceptions[old].1 &= !access;
            if self.exceptions[old].1 == 0 {
                self.exceptions.remove(old);
            }
        }
        Ok(())
    }

    /// What the default does not apply to, of exactly these devices.
    fn access(&self, devices: Devices) -> u8 {
        self.exceptions.iter().find(|(other, _)| *other == devices).map_or(0, |(_, access)| *access)
    }

    /// The policy that a v1 cgroup has. The exceptions of one that allows by default are not shown by the
    /// kernel.
    fn parse(list: &str) -> Option<Self> {
        let mut policy = Self::default();
        for line in list.lines() {
            let mut fields = line.split([' ', ':']);
            let kind = match fields.next()? {
                "a" => return Some(Self { allow: true, exceptions: Vec::new() }),
                "b" => Kind::Block,
                _ => Kind::Char,
            };
            let mut number = || fields.next().map(|text| text.parse().ok());
            let devices = Devices { kind, major: number()?, minor: number()? };
            policy.exceptions.push((devices, access(fields.next()?).ok()?));
        }
        Some(policy)
    }
}

fn access(text: &str) -> Result<u8, String> {
    if text.is_empty() {
        return Err("access is empty".into());
    }
    Ok(text.chars().fold(0, |access, c| match c {
        'r' => access | READ,
        'w' => access | WRITE,
        'm' => access | MKNOD,
        // runc has never minded.
        _ => {
            tracing::warn!("linux.resources.devices: access {text:?} has other letters than r, w and m");
            access
        }
    }))
}

impl fmt::Display for Devices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = |value: Option<u32>| value.map_or("*".into(), |value| value.to_string());
        let kind = if self.kind == Kind::Block { 'b' } else { 'c' };
        write!(f, "{kind} {}:{}", number(self.major), number(self.minor))
    }
}

/// Access in the letters of rules.
pub fn letters(access: u8) -> String {
    let all = [(READ, 'r'), (WRITE, 'w'), (MKNOD, 'm')];
    all.iter().filter(|(bit, _)| access & bit != 0).map(|(_, letter)| letter).collect()
}

/// A rule as `devices.allow` and `devices.deny` take it.
fn order(devices: Devices, access: u8) -> String {
    format!("{devices} {}", letters(access))
}

/// Makes `target` the policy of a v1 cgroup. A new cgroup is simply told everything. In one that is in use,
/// nothing that is allowed before and after is denied in between.
pub fn apply_v1(dir: &Path, target: &Policy, in_use: bool) -> Result<(), Error> {
    let current = if in_use { Policy::parse(&read(dir, "devices.list")?) } else { None };
    let current = current.filter(|current| !current.allow && !target.allow);
    let file = |allow: bool| if allow { "devices.allow" } else { "devices.deny" };
    let none = Policy::default();
    let old = match &current {
        Some(current) => current,
        None => {
            write_lines(dir, file(target.allow), ["a"])?;
            &none
        }
    };
    let beyond = |these: &Policy, those: &Policy| -> Vec<String> {
        let rest = |(devices, access): &(Devices, u8)| {
            let rest = access & !those.access(*devices);
            (rest != 0).then(|| order(*devices, rest))
        };
        these.exceptions.iter().filter_map(rest).collect()
    };
    for (allow, orders) in [(target.allow, beyond(old, target)), (!target.allow, beyond(target, old))] {
        if !orders.is_empty() {
            write_lines(dir, file(allow), orders.iter().map(String::as_str))?;
        }
    }
    Ok(())
}

/// Makes `target` the policy of a v2 cgroup, in place of the one before.
pub fn apply_v2(dir: &Path, target: &Policy) -> Result<(), Error> {
    bpf::attach(dir, &bpf::program(target))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(rules: &str) -> Result<Policy, Error> {
        let rules: Vec<LinuxDeviceCgroup> = serde_json::from_str(rules).unwrap();
        Policy::of(&rules)
    }

    fn devices(kind: Kind, major: u32, minor: u32) -> Devices {
        Devices { kind, major: Some(major), minor: Some(minor) }
    }

    #[test]
    fn without_rules_the_usual_nodes_are_allowed() {
        let policy = policy("[]").unwrap();
        assert!(!policy.allow);
        assert_eq!(policy.exceptions.len(), ALWAYS.len());
        assert_eq!(policy.access(devices(Kind::Char, 1, 3)), READ | WRITE | MKNOD);
    }

    #[test]
    fn a_wildcard_forgets_what_came_before() {
        let allow_all =
            r#"[{"allow":true,"type":"c","major":4,"minor":1,"access":"r"},{"allow":true,"access":"rwm"}]"#;
        assert_eq!(policy(allow_all).unwrap(), Policy { allow: true, exceptions: Vec::new() });
    }

    #[test]
    fn rules_merge_and_subtract() {
        let rules = r#"[{"allow":false,"access":"rwm"},
            {"allow":true,"type":"b","major":8,"minor":0,"access":"r"},
            {"allow":true,"type":"b","major":8,"minor":0,"access":"wm"},
            {"allow":false,"type":"b","major":8,"minor":0,"access":"m"}]"#;
        assert_eq!(policy(rules).unwrap().access(devices(Kind::Block, 8, 0)), READ | WRITE);
    }

    #[test]
    fn bad_rules_are_named() {
        for (rules, part) in [
            (r#"[{"allow":true,"type":"c","access":""}]"#, "rule 0: access is empty"),
            (r#"[{"allow":true,"type":"p","access":"r"}]"#, "type \"p\""),
            (r#"[{"allow":true,"type":"c","major":4294967296,"access":"r"}]"#, "4294967296"),
            (
                r#"[{"allow":true,"type":"c","major":8,"access":"r"},{"allow":false,"type":"c","major":8,"minor":1,"access":"r"}]"#,
                "rule 1: c 8:1 cannot be taken out of c 8:*",
            ),
        ] {
            let message = policy(rules).unwrap_err().to_string();
            assert!(message.contains(part), "{message}");
        }
    }

    #[test]
    fn the_kernels_list_is_read_back() {
        let policy = policy("[]").unwrap();
        let list: Vec<_> =
            policy.exceptions.iter().map(|(devices, access)| order(*devices, *access)).collect();
        assert!(list.contains(&"c 136:* rwm".to_owned()));
        assert_eq!(Policy::parse(&list.join("\n")).unwrap(), policy);
        assert!(Policy::parse("a *:* rwm\n").unwrap().allow);
    }
}
