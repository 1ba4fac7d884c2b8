//! What a seccomp profile means, read from its JSON: the specification's words and the handling of what it leaves open
//! that is described in `coracle_seccomp`, without its code and its types.

use libseccomp::{ScmpAction, ScmpArch, ScmpArgCompare, ScmpCompareOp, ScmpFilterContext, ScmpSyscall};
use rustix::fs::MemfdFlags;
use serde_json::Value;
use std::fs::File;
use std::io::{Read, Seek};

use crate::bpf::{Call, Program};
use crate::random::Random;

/// A program's answers (seccomp(2)).
const ALLOW: u32 = 0x7fff_0000;
const LOG: u32 = 0x7ffc_0000;
const TRACE: u32 = 0x7ff0_0000;
const NOTIFY: u32 = 0x7fc0_0000;
const ERRNO: u32 = 0x0005_0000;
const TRAP: u32 = 0x0003_0000;
const KILL_THREAD: u32 = 0;
const KILL_PROCESS: u32 = 0x8000_0000;
const ENOSYS: u32 = ERRNO | 38;
/// Set in the numbers of x32's calls.
const X32_BIT: u32 = 0x4000_0000;

/// Architectures of which this host's byte order allows filters: name, `AUDIT_ARCH_*`, whether it is one of 32 bits,
/// whether there are calls that stand for many.
const ARCHITECTURES: &[(&str, u32, bool, bool)] = &[
    ("SCMP_ARCH_X86_64", 0xc000_003e, false, false),
    ("SCMP_ARCH_X86", 0x4000_0003, true, true),
    ("SCMP_ARCH_X32", 0xc000_003e, true, false),
    ("SCMP_ARCH_AARCH64", 0xc000_00b7, false, false),
    ("SCMP_ARCH_ARM", 0x4000_0028, true, false),
    ("SCMP_ARCH_MIPSEL", 0x4000_0008, true, true),
    ("SCMP_ARCH_MIPSEL64", 0xc000_0008, false, false),
    ("SCMP_ARCH_MIPSEL64N32", 0xe000_0008, true, false),
    ("SCMP_ARCH_PPC64LE", 0xc000_0015, false, true),
    ("SCMP_ARCH_RISCV64", 0xc000_00f3, false, false),
];

/// An architecture of a profile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Architecture {
    arch: ScmpArch,
    audit: u32,
    narrow: bool,
    multiplexed: bool,
}

impl Architecture {
    fn of(name: &str) -> Option<Self> {
        let (name, audit, narrow, multiplexed) = *ARCHITECTURES.iter().find(|(known, ..)| *known == name)?;
        Some(Self { arch: name.parse().ok()?, audit, narrow, multiplexed })
    }

    /// Whether it has a call, if only as one of those behind another one.
    fn has(&self, name: &str) -> bool {
        ScmpSyscall::from_name_by_arch(name, self.arch).is_ok_and(|call| call.as_raw_syscall() > -10_000)
    }

    fn number(&self, name: &str) -> Option<u32> {
        let call = ScmpSyscall::from_name_by_arch(name, self.arch).ok()?;
        // Calls that an architecture does not have are negative.
        u32::try_from(call.as_raw_syscall()).ok()
    }
}

#[derive(Clone, Copy, Debug)]
struct Condition {
    index: usize,
    operator: Operator,
    value: u64,
    second: u64,
}

#[derive(Clone, Copy, Debug)]
enum Operator {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    MaskedEqual,
}

impl Condition {
    fn holds(&self, call: &Call, narrow: bool) -> bool {
        let cut = |value: u64| if narrow { value & 0xffff_ffff } else { value };
        let (argument, value) = (cut(call.arguments[self.index]), cut(self.value));
        match self.operator {
            Operator::Equal => argument == value,
            Operator::NotEqual => argument != value,
            Operator::Less => argument < value,
            Operator::LessOrEqual => argument <= value,
            Operator::Greater => argument > value,
            Operator::GreaterOrEqual => argument >= value,
            // libseccomp does not mind bits of the datum that the mask leaves out.
            Operator::MaskedEqual => argument & value == cut(self.second) & value,
        }
    }

    fn is_equality(&self) -> bool {
        matches!(self.operator, Operator::Equal)
    }

    fn compare(&self) -> ScmpArgCompare {
        let (operator, datum) = match self.operator {
            Operator::Equal => (ScmpCompareOp::Equal, self.value),
            Operator::NotEqual => (ScmpCompareOp::NotEqual, self.value),
            Operator::Less => (ScmpCompareOp::Less, self.value),
            Operator::LessOrEqual => (ScmpCompareOp::LessOrEqual, self.value),
            Operator::Greater => (ScmpCompareOp::Greater, self.value),
            Operator::GreaterOrEqual => (ScmpCompareOp::GreaterEqual, self.value),
            Operator::MaskedEqual => (ScmpCompareOp::MaskedEqual(self.value), self.second),
        };
        ScmpArgCompare::new(self.index as u32, operator, datum)
    }
}

#[derive(Debug)]
struct Rule {
    names: Vec<String>,
    answer: u32,
    /// Each is enough.
    alternatives: Vec<Vec<Condition>>,
}

/// A profile that is good.
#[derive(Debug)]
pub struct Profile {
    default: u32,
    architectures: Vec<Architecture>,
    rules: Vec<Rule>,
}

fn answer(action: &str, errno: Option<u64>) -> Option<u32> {
    let errno = errno.and_then(|number| u16::try_from(number).ok());
    Some(match action {
        "SCMP_ACT_ALLOW" => ALLOW,
        "SCMP_ACT_LOG" => LOG,
        "SCMP_ACT_NOTIFY" => NOTIFY,
        "SCMP_ACT_TRAP" => TRAP,
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => KILL_THREAD,
        "SCMP_ACT_KILL_PROCESS" => KILL_PROCESS,
        // EPERM unless it says otherwise.
        "SCMP_ACT_ERRNO" => ERRNO | u32::from(errno.unwrap_or(1)),
        "SCMP_ACT_TRACE" => TRACE | u32::from(errno.unwrap_or(1)),
        _ => return None,
    })
}

fn action(answer: u32) -> ScmpAction {
    match answer & 0xffff_0000 {
        KILL_THREAD => ScmpAction::KillThread,
        KILL_PROCESS => ScmpAction::KillProcess,
        TRAP => ScmpAction::Trap,
        ERRNO => ScmpAction::Errno((answer & 0xffff) as i32),
        TRACE => ScmpAction::Trace(answer as u16),
        LOG => ScmpAction::Log,
        NOTIFY => ScmpAction::Notify,
        _ => ScmpAction::Allow,
    }
}

impl Profile {
    /// Reads a profile that [`coracle_seccomp`] takes; `None` if it is out of what is read here.
    pub fn read(json: &Value) -> Option<Self> {
        let default = answer(json["defaultAction"].as_str()?, json["defaultErrnoRet"].as_u64())?;
        let mut architectures = vec![];
        let named = json["architectures"].as_array().into_iter().flatten().filter_map(Value::as_str);
        for name in named.chain(["SCMP_ARCH_NATIVE"]) {
            let native = if cfg!(target_arch = "x86_64") { "SCMP_ARCH_X86_64" } else { "SCMP_ARCH_AARCH64" };
            let architecture = Architecture::of(if name == "SCMP_ARCH_NATIVE" { native } else { name })?;
            if !architectures.contains(&architecture) {
                architectures.push(architecture);
            }
        }
        let rules =
            json["syscalls"].as_array().into_iter().flatten().map(rule).collect::<Option<Vec<_>>>()?;
        Some(Self { default, architectures, rules })
    }

    /// What libseccomp makes of the same rules: a program for each architecture, from those of its calls alone. `None` where
    /// it refuses a rule.
    pub fn reference(&self) -> Option<Vec<Program>> {
        self.architectures.iter().map(|architecture| self.reference_for(architecture)).collect()
    }

    fn reference_for(&self, architecture: &Architecture) -> Option<Program> {
        let mut context = ScmpFilterContext::new(action(self.default)).ok()?;
        if architecture.arch != ScmpArch::native() {
            context.add_arch(architecture.arch).ok()?;
            context.remove_arch(ScmpArch::native()).ok()?;
        }
        for rule in self.rules.iter().filter(|rule| rule.answer != self.default) {
            for name in rule.names.iter().filter(|name| architecture.has(name)) {
                let call = ScmpSyscall::from_name(name).ok()?;
                for conditions in &rule.alternatives {
                    let conditions: Vec<_> = conditions.iter().map(Condition::compare).collect();
                    context.add_rule_conditional(action(rule.answer), call, &conditions).ok()?;
                }
            }
        }
        let mut memory = File::from(rustix::fs::memfd_create(c"reference", MemfdFlags::CLOEXEC).ok()?);
        context.export_bpf(&memory).ok()?;
        let mut bytes = Vec::new();
        memory.rewind().and_then(|()| memory.read_to_end(&mut bytes)).ok()?;
        Some(Program::new(&bytes))
    }

    /// Panics if the filter answers a call in another way than the profile means it, or than libseccomp does.
    pub fn judge(&self, filter: &Program, reference: &[Program], call: &Call) {
        let found = filter.run(call);
        if self.is_newer(call) {
            assert_eq!(found, ENOSYS, "{call:x?} is newer than {self:x?}");
            return;
        }
        // Every program ends the calls of other architectures.
        let own = self.architectures.iter().position(|it| Some(it) == self.answers(call));
        let raw = reference[own.unwrap_or(0)].run(call);
        assert_eq!(found, raw, "libseccomp says {raw:#x} and we {found:#x} to {call:x?} of {self:x?}");
        if let Some(meant) = self.meaning(call) {
            assert!(meant.contains(&found), "{found:#x} is not one of {meant:x?} for {call:x?} of {self:x?}");
        }
    }

    /// The architecture whose call it is. x86_64 and x32 are one to the kernel.
    fn architecture(&self, call: &Call, is_x32: bool) -> Option<&Architecture> {
        self.architectures.iter().filter(|it| it.audit == call.architecture).find(|it| match it.arch {
            ScmpArch::X8664 => !is_x32,
            ScmpArch::X32 => is_x32,
            _ => true,
        })
    }

    /// The architecture whose rules libseccomp has for a call. What a tracer makes of one that is to be skipped is no call of
    /// x32's.
    fn answers(&self, call: &Call) -> Option<&Architecture> {
        self.architecture(call, (X32_BIT..u32::MAX).contains(&call.number))
    }

    /// Whether all that the profile names is older than the call, and the call not allowed for that.
    fn is_newer(&self, call: &Call) -> bool {
        if [ALLOW, LOG, TRACE].contains(&(self.default & 0xffff_0000)) || self.default == ENOSYS {
            return false;
        }
        let is_x32 = call.number & X32_BIT != 0;
        let Some(architecture) = self.architecture(call, is_x32) else { return false };
        let names = self.rules.iter().flat_map(|rule| &rule.names);
        let newest = names.filter_map(|name| architecture.number(name)).filter(|number| *number != 0).max();
        newest.is_some_and(|newest| call.number > newest)
    }

    /// The answers that the profile allows: more than one where rules contradict each other. `None` for a call that stands
    /// for many others, or is one of those.
    fn meaning(&self, call: &Call) -> Option<Vec<u32>> {
        // A call of an architecture that is not the profile's ends the thread.
        let Some(architecture) = self.answers(call) else { return Some(vec![KILL_THREAD]) };
        let many = ["socketcall", "ipc"].map(|name| architecture.number(name));
        if architecture.multiplexed && many.contains(&Some(call.number)) {
            return None;
        }
        // Nor of those behind them, whose own numbers libseccomp does not give away.
        let known = i32::try_from(call.number).ok().map(ScmpSyscall::from_raw_syscall);
        let own = known.and_then(|known| known.get_name_by_arch(architecture.arch).ok());
        if own.is_some_and(|own| architecture.has(&own) && architecture.number(&own).is_none()) {
            return None;
        }
        let effective = self.rules.iter().filter(|rule| rule.answer != self.default);
        let named =
            |rule: &&Rule| rule.names.iter().any(|name| architecture.number(name) == Some(call.number));
        let effective: Vec<&Rule> = effective.filter(named).collect();
        // Of several rules with conditions, libseccomp (2.5.4, and by its source 2.6.1) keeps only those for equality apart:
        // with others, it may compare the wrong half of an argument, or pass over a rule. So do all who use it.
        let conditions =
            || effective.iter().flat_map(|rule| &rule.alternatives).filter(|all| !all.is_empty());
        if conditions().count() > 1 && !conditions().flatten().all(Condition::is_equality) {
            return None;
        }
        let meant = effective.iter().filter(|rule| {
            let holds =
                |conditions: &Vec<Condition>| conditions.iter().all(|c| c.holds(call, architecture.narrow));
            rule.alternatives.iter().any(holds)
        });
        let meant: Vec<u32> = meant.map(|rule| rule.answer).collect();
        Some(if meant.is_empty() { vec![self.default] } else { meant })
    }

    /// Calls at which a filter may be wrong: those of the profile and their neighbours, with arguments around those of its
    /// conditions, of its architectures and others.
    pub fn calls(&self, random: &mut Random, most: usize) -> Vec<Call> {
        let mut calls = Vec::new();
        let named: Vec<(&Rule, &String)> =
            self.rules.iter().flat_map(|rule| rule.names.iter().map(move |name| (rule, name))).collect();
        while calls.len() < most {
            let architecture = random.pick(&self.architectures).copied();
            let foreign = random.pick(ARCHITECTURES).map_or(0, |(_, audit, ..)| *audit);
            let audit = architecture.filter(|_| !random.once_in(10)).map_or(foreign, |it| it.audit);
            let named = random.pick(&named).filter(|_| !random.once_in(10));
            let number = named.zip(architecture).and_then(|((_, name), it)| it.number(name));
            let number = number.unwrap_or_else(|| random.number() as u32 >> random.below(32));
            let number = match random.below(12) {
                0 => number.wrapping_add(1),
                1 => number.wrapping_sub(1),
                2 => number ^ X32_BIT,
                3 => u32::MAX,
                _ => number,
            };
            let narrow = architecture.is_some_and(|it| it.narrow);
            let mut call = Call { number, architecture: audit, arguments: [0; 6] };
            for argument in &mut call.arguments {
                *argument = near(0, random);
            }
            for condition in named.iter().flat_map(|(rule, _)| rule.alternatives.iter().flatten()) {
                if !random.once_in(4) {
                    let value = if random.once_in(2) { condition.value } else { condition.second };
                    call.arguments[condition.index] = near(value, random);
                }
            }
            if narrow {
                call.arguments.iter_mut().for_each(|argument| *argument &= 0xffff_ffff);
            }
            calls.push(call);
        }
        calls
    }
}

/// A number like another.
fn near(value: u64, random: &mut Random) -> u64 {
    match random.below(8) {
        0 => value.wrapping_add(1),
        1 => value.wrapping_sub(1),
        2 => value ^ 1 << random.below(64),
        3 => value ^ 1 << 32,
        4 => random.number(),
        5 => value & 0xffff_ffff,
        _ => value,
    }
}

fn rule(json: &Value) -> Option<Rule> {
    let names = json["names"].as_array()?.iter().map(|name| name.as_str().map(str::to_owned));
    let conditions =
        json["args"].as_array().into_iter().flatten().map(condition).collect::<Option<Vec<_>>>()?;
    let repeated = |c: &Condition| conditions.iter().filter(|other| other.index == c.index).count() > 1;
    // Conditions on one and the same argument are alternatives, and then all are.
    let alternatives = if conditions.iter().any(repeated) {
        conditions.iter().map(|condition| vec![*condition]).collect()
    } else {
        vec![conditions]
    };
    Some(Rule {
        names: names.collect::<Option<_>>()?,
        answer: answer(json["action"].as_str()?, json["errnoRet"].as_u64())?,
        alternatives,
    })
}

fn condition(json: &Value) -> Option<Condition> {
    let operator = match json["op"].as_str()? {
        "SCMP_CMP_EQ" => Operator::Equal,
        "SCMP_CMP_NE" => Operator::NotEqual,
        "SCMP_CMP_LT" => Operator::Less,
        "SCMP_CMP_LE" => Operator::LessOrEqual,
        "SCMP_CMP_GT" => Operator::Greater,
        "SCMP_CMP_GE" => Operator::GreaterOrEqual,
        "SCMP_CMP_MASKED_EQ" => Operator::MaskedEqual,
        _ => return None,
    };
    let index = usize::try_from(json["index"].as_u64()?).ok().filter(|index| *index < 6)?;
    Some(Condition {
        index,
        operator,
        value: json["value"].as_u64()?,
        second: json["valueTwo"].as_u64().unwrap_or(0),
    })
}
