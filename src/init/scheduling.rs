//! How the kernel serves a process beside others: `process.scheduler`, `process.ioPriority`,
//! `process.execCPUAffinity` and `linux.memoryPolicy`.

use oci_spec::runtime::{
    ExecCPUAffinity, IOPriorityClass, LinuxMemoryPolicy, LinuxSchedulerFlag, LinuxSchedulerPolicy,
    MemoryPolicyFlagType, MemoryPolicyModeType, Process, Scheduler,
};

use super::Error;
use crate::bits;
use crate::config::{self, wrong};
use crate::error::Os;

/// CPUs that a mask has room for, as in glibc's `cpu_set_t`.
const CPUS: usize = 1024;
/// Nodes that a mask of set_mempolicy(2) has room for.
const NODES: usize = 4096;
/// What the deadline scheduler takes (sched(7)).
const DEADLINE: std::ops::RangeInclusive<u64> = 1024..=1 << 63;

/// `struct sched_attr` of sched_setattr(2), in its first version.
#[repr(C)]
struct Attributes {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}

/// Checks what the kernel would refuse without a word.
///
/// # Errors
/// [`config::Error::Wrong`].
pub fn check(process: &Process) -> Result<(), config::Error> {
    process.scheduler().as_ref().map_or(Ok(()), check_scheduler)?;
    if let Some(priority) = process.io_priority().as_ref().map(|p| p.priority())
        && !(0..=7).contains(&priority)
    {
        return Err(wrong("process.ioPriority.priority", priority, "is not between 0 and 7"));
    }
    process.exec_cpu_affinity().as_ref().map_or(Ok(()), |affinity| Affinity::parse(affinity).map(drop))
}

fn check_scheduler(scheduler: &Scheduler) -> Result<(), config::Error> {
    use LinuxSchedulerPolicy::{SchedBatch, SchedDeadline, SchedFifo, SchedOther, SchedRr};
    let policy = *scheduler.policy();
    let nice = scheduler.nice().unwrap_or(0);
    if matches!(policy, SchedOther | SchedBatch) && !(-20..=19).contains(&nice) {
        return Err(wrong("process.scheduler.nice", nice, "is not between -20 and 19"));
    }
    let priority = scheduler.priority().unwrap_or(0);
    if priority != 0 && !matches!(policy, SchedFifo | SchedRr) {
        return Err(wrong("process.scheduler.priority", priority, "is for SCHED_FIFO and SCHED_RR only"));
    }
    let times = [scheduler.runtime(), scheduler.deadline(), scheduler.period()].map(|t| t.unwrap_or(0));
    if policy != SchedDeadline && times != [0; 3] {
        let problem = "runtime, deadline and period are for SCHED_DEADLINE only";
        return Err(wrong("process.scheduler.policy", policy, problem));
    }
    Ok(())
}

/// Checks the memory policy.
///
/// # Errors
/// [`config::Error::Wrong`].
pub fn check_memory_policy(policy: &LinuxMemoryPolicy) -> Result<(), config::Error> {
    nodes(policy).map(drop)
}

fn nodes(policy: &LinuxMemoryPolicy) -> Result<Option<Vec<u64>>, config::Error> {
    let Some(list) = policy.nodes().as_deref().filter(|list| !list.trim().is_empty()) else {
        return Ok(None);
    };
    let mask =
        bits::parse(list, NODES).map_err(|problem| wrong("linux.memoryPolicy.nodes", list, problem))?;
    Ok(Some(mask))
}

/// `linux.memoryPolicy`: set_mempolicy(2), which the program inherits.
///
/// # Errors
/// [`Error::Step`].
pub fn set_memory_policy(policy: &LinuxMemoryPolicy) -> Result<(), Error> {
    use MemoryPolicyModeType as Mode;
    // linux/mempolicy.h
    let mode: libc::c_int = match policy.mode() {
        Mode::MpolDefault => 0,
        Mode::MpolPreferred => 1,
        Mode::MpolBind => 2,
        Mode::MpolInterleave => 3,
        Mode::MpolLocal => 4,
        Mode::MpolPreferredMany => 5,
        Mode::MpolWeightedInterleave => 6,
    };
    let flag = |flag: &MemoryPolicyFlagType| match flag {
        MemoryPolicyFlagType::MpolFNumaBalancing => 1 << 13,
        MemoryPolicyFlagType::MpolFRelativeNodes => 1 << 14,
        MemoryPolicyFlagType::MpolFStaticNodes => 1 << 15,
    };
    let mode = policy.flags().iter().flatten().map(flag).fold(mode, |mode, flag| mode | flag);
    let nodes = nodes(policy)?;
    // The kernel takes the number of bits plus one.
    let (mask, length) = nodes.as_ref().map_or((std::ptr::null(), 0), |mask| (mask.as_ptr(), NODES - 1));
    // SAFETY: the kernel reads `length` bits from the mask, which lives through the call.
    let result = unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, mask, length) };
    if result == 0 { Ok(()) } else { Err(Error::step("linux.memoryPolicy: set_mempolicy", Os::last().0)) }
}

/// `process.scheduler` and `process.ioPriority`; `confined` says that the container's CPUs are limited, with which
/// some policies do not go.
///
/// # Errors
/// [`Error::Step`], [`Error::Scheduler`].
pub fn apply(process: &Process, confined: bool) -> Result<(), Error> {
    if let Some(scheduler) = process.scheduler() {
        set_scheduler(scheduler, confined)?;
    }
    if let Some(priority) = process.io_priority() {
        let class: i64 = match priority.class() {
            IOPriorityClass::IoprioClassRt => 1,
            IOPriorityClass::IoprioClassBe => 2,
            IOPriorityClass::IoprioClassIdle => 3,
        };
        // ioprio_set(2): 1 is IOPRIO_WHO_PROCESS, and the class stands above 13 bits of priority.
        // SAFETY: plain integers.
        let result = unsafe { libc::syscall(libc::SYS_ioprio_set, 1, 0, class << 13 | priority.priority()) };
        if result != 0 {
            return Err(Error::step("process.ioPriority: ioprio_set", Os::last().0));
        }
    }
    Ok(())
}

fn set_scheduler(scheduler: &Scheduler, confined: bool) -> Result<(), Error> {
    use LinuxSchedulerFlag as Flag;
    use LinuxSchedulerPolicy as Policy;
    let flag = |flag: &Flag| match flag {
        Flag::SchedResetOnFork => 0x01,
        Flag::SchedFlagReclaim => 0x02,
        Flag::SchedFlagDLOverrun => 0x04,
        Flag::SchedFlagKeepPolicy => 0x08,
        Flag::SchedFlagKeepParams => 0x10,
        Flag::SchedFlagUtilClampMin => 0x20,
        Flag::SchedFlagUtilClampMax => 0x40,
    };
    let attributes = Attributes {
        size: size_of::<Attributes>() as u32,
        policy: match scheduler.policy() {
            Policy::SchedOther => 0,
            Policy::SchedFifo => 1,
            Policy::SchedRr => 2,
            Policy::SchedBatch => 3,
            Policy::SchedIso => 4,
            Policy::SchedIdle => 5,
            Policy::SchedDeadline => 6,
        },
        flags: scheduler.flags().iter().flatten().map(flag).fold(0, |flags, flag| flags | flag),
        nice: scheduler.nice().unwrap_or(0),
        priority: scheduler.priority().unwrap_or(0).cast_unsigned(),
        runtime: scheduler.runtime().unwrap_or(0),
        deadline: scheduler.deadline().unwrap_or(0),
        period: scheduler.period().unwrap_or(0),
    };
    // SAFETY: the kernel reads one structure of the size that it holds.
    let result = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
    if result == 0 {
        return Ok(());
    }
    let reason = Os::last();
    Err(match reason.errno() {
        Some(libc::EPERM) if confined => {
            Error::Scheduler("process scheduler can't be used together with AllowedCPUs".into())
        }
        Some(libc::EINVAL) if *scheduler.policy() == Policy::SchedDeadline => {
            Error::Scheduler(format!("sched_setattr: {}", why_not_deadline(scheduler, &attributes)))
        }
        _ => Error::Scheduler(format!("sched_setattr: {reason}")),
    })
}

/// What of sched(7)'s rules for SCHED_DEADLINE is not kept, for the kernel only says EINVAL.
fn why_not_deadline(scheduler: &Scheduler, given: &Attributes) -> String {
    let Attributes { runtime, deadline, period, .. } = *given;
    let problem = match (scheduler.runtime(), scheduler.deadline()) {
        (None, _) => "requires `runtime`".to_owned(),
        (_, None) => "requires `deadline`".to_owned(),
        (Some(0), _) => "runtime must be greater than 0".to_owned(),
        (_, Some(0)) => "deadline must be greater than 0".to_owned(),
        _ if runtime > deadline => format!("runtime ({runtime}) must be <= deadline ({deadline})"),
        _ if period != 0 && deadline > period => {
            format!("deadline ({deadline}) must be <= period ({period})")
        }
        _ => {
            let named = [("runtime", runtime), ("deadline", deadline), ("period", period)];
            let bad = named.iter().find(|(_, value)| *value != 0 && !DEADLINE.contains(value));
            let (low, high) = (DEADLINE.start(), DEADLINE.end());
            bad.map_or_else(
                || format!("does not take runtime={runtime}, deadline={deadline}, period={period}"),
                |(name, value)| format!("{name} ({value}) must be between {low} and {high}"),
            )
        }
    };
    format!("`SCHED_DEADLINE` {problem}")
}

/// The CPUs that a process may run on.
#[derive(Clone, Debug)]
pub struct Cpus(Vec<u64>);

impl Cpus {
    /// Every CPU that there is; the kernel takes away those that the cgroup does not allow.
    pub fn all() -> Self {
        Self(vec![u64::MAX; CPUS / 64])
    }

    fn parse(field: &'static str, list: Option<&str>) -> Result<Option<Self>, config::Error> {
        let Some(list) = list.filter(|list| !list.is_empty()) else { return Ok(None) };
        let mask = bits::parse(list, CPUS).map_err(|problem| wrong(field, list, problem))?;
        Ok(Some(Self(mask)))
    }

    /// Moves the calling process to these CPUs, for the process that it is about to make. Returns where it was.
    ///
    /// # Errors
    /// [`Error::Step`].
    pub fn visit(&self) -> Result<Self, Error> {
        let before = Self::current()?;
        self.assume()?;
        // runc's words, for those who look for them in its log.
        tracing::debug!("nsexec[{}]: affinity: {self:#x}", std::process::id());
        Ok(before)
    }

    fn current() -> Result<Self, Error> {
        let mut mask = vec![0u64; CPUS / 64];
        // SAFETY: the kernel writes at most that many bytes.
        let result = unsafe {
            libc::syscall(libc::SYS_sched_getaffinity, 0, size_of_val(mask.as_slice()), mask.as_mut_ptr())
        };
        if result < 0 { Err(Error::step("sched_getaffinity", Os::last().0)) } else { Ok(Self(mask)) }
    }

    /// Moves the calling process to these CPUs: sched_setaffinity(2).
    ///
    /// # Errors
    /// [`Error::Step`].
    pub fn assume(&self) -> Result<(), Error> {
        let mask = self.0.as_slice();
        // SAFETY: the kernel reads as many bytes as the mask has.
        let result =
            unsafe { libc::syscall(libc::SYS_sched_setaffinity, 0, size_of_val(mask), mask.as_ptr()) };
        if result == 0 { Ok(()) } else { Err(Error::step("sched_setaffinity", Os::last().0)) }
    }
}

impl std::fmt::LowerHex for Cpus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut words = self.0.iter().rev().skip_while(|word| **word == 0);
        if f.alternate() {
            f.write_str("0x")?;
        }
        write!(f, "{:x}", words.next().unwrap_or(&0))?;
        words.try_for_each(|word| write!(f, "{word:016x}"))
    }
}

/// `process.execCPUAffinity`: where `exec`'s process runs before, and from when it is in the container's cgroup.
#[derive(Clone, Debug, Default)]
pub struct Affinity {
    /// Before.
    pub initial: Option<Cpus>,
    /// After.
    pub last: Option<Cpus>,
}

impl Affinity {
    /// What the configuration says.
    ///
    /// # Errors
    /// [`config::Error::Wrong`].
    pub fn parse(affinity: &ExecCPUAffinity) -> Result<Self, config::Error> {
        let last = affinity.cpu_affinity_final().as_deref();
        Ok(Self {
            initial: Cpus::parse("process.execCPUAffinity.initial", affinity.initial().as_deref())?,
            last: Cpus::parse("process.execCPUAffinity.final", last)?,
        })
    }

    /// The second half, in the cgroup. Without any, the process gets all that its cgroup allows: what the engine is bound
    /// to does not concern the container, and since Linux 6.2 the kernel would remember it.
    ///
    /// # Errors
    /// [`Error::Step`].
    pub fn settle(&self) -> Result<(), Error> {
        match (&self.initial, &self.last) {
            (_, Some(last)) => last.assume(),
            (Some(_), None) => Ok(()),
            (None, None) => {
                // As with runc, one that cannot be moved stays where it is.
                let _ = Cpus::all().assume();
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn verdict(key: &str, value: Value) -> Result<(), String> {
        let process = json!({"cwd": "/", "user": {"uid": 0, "gid": 0}, key: value});
        check(&serde_json::from_value(process).map_err(|e| e.to_string())?).map_err(|e| e.to_string())
    }

    #[test]
    fn what_does_not_go_together_is_named() {
        for (key, value, field) in [
            ("scheduler", json!({"policy": "SCHED_BATCH", "nice": 20}), "process.scheduler.nice: 20"),
            ("scheduler", json!({"policy": "SCHED_IDLE", "priority": 1}), "process.scheduler.priority: 1"),
            (
                "scheduler",
                json!({"policy": "SCHED_FIFO", "runtime": 1}),
                "process.scheduler.policy: SCHED_FIFO",
            ),
            (
                "ioPriority",
                json!({"class": "IOPRIO_CLASS_BE", "priority": 8}),
                "process.ioPriority.priority: 8",
            ),
            ("execCPUAffinity", json!({"initial": "3-1"}), "process.execCPUAffinity.initial: 3-1"),
            ("execCPUAffinity", json!({"final": "1024"}), "process.execCPUAffinity.final: 1024"),
        ] {
            let error = verdict(key, value).expect_err(field);
            assert!(error.contains(field), "{error}");
        }
        let deadline = json!({"policy": "SCHED_DEADLINE", "runtime": 2000, "deadline": 3000, "period": 4000});
        assert_eq!(verdict("scheduler", deadline), Ok(()));
    }

    #[test]
    fn a_mask_is_written_as_one_number() {
        let hex = |list| format!("{:x}", Cpus(bits::parse(list, CPUS).expect("a list")));
        assert_eq!(hex("0-1"), "3");
        assert_eq!(hex("0,64"), "10000000000000001");
    }

    #[test]
    fn the_kernel_takes_masks() {
        let now = Cpus::current().expect("a mask");
        now.assume().expect("where we are");
        Cpus::all().assume().expect("anywhere");
        now.assume().expect("back");
    }
}
