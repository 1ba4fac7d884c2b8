//! From the profile's terms to libseccomp's, and its program back.

use std::fs::File;
use std::io::{Read, Seek};
use std::time::Duration;

use libseccomp::{ScmpAction, ScmpArch, ScmpArgCompare, ScmpCompareOp, ScmpFilterContext, ScmpSyscall};
use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompOperator, LinuxSyscall,
};
use rustix::fs::MemfdFlags;

use crate::patience::{PATIENCE, ends_in_time};
use crate::{ARCHITECTURES, Error, Filter, MAX_INSTRUCTIONS, Unknown, enosys, flag_bits, program_from_bytes};

/// From this number of rules on, runc has libseccomp sort them into a binary tree.
const TREE_THRESHOLD: usize = 32;

impl Filter {
    /// Compiles a profile.
    ///
    /// # Errors
    /// What of the profile is wrong or not supported; see [`Error`].
    pub fn compile(profile: &LinuxSeccomp, unknown: Unknown) -> Result<Self, Error> {
        Self::compile_within(PATIENCE, profile, unknown)
    }

    fn compile_within(patience: Duration, profile: &LinuxSeccomp, unknown: Unknown) -> Result<Self, Error> {
        ends_in_time(patience, || drop(Self::translate(profile, unknown)))?;
        Self::translate(profile, unknown)
    }

    fn translate(profile: &LinuxSeccomp, unknown: Unknown) -> Result<Self, Error> {
        use LinuxSeccompAction::ScmpActNotify;
        let default = action(profile.default_action(), profile.default_errno_ret())?;
        let architectures = architectures(profile)?;
        let flags = flag_bits(profile.flags().as_deref());
        let rules = profile.syscalls().as_deref().unwrap_or_default();

        let notifying = || rules.iter().filter(|rule| rule.action() == ScmpActNotify);
        if profile.default_action() == ScmpActNotify {
            return Err(Error::NotifyDefault);
        }
        // The descriptor is announced by write(2), which nobody could answer before it is.
        if notifying().any(|rule| rule.names().iter().any(|name| name == "write")) {
            return Err(Error::NotifyWrite);
        }

        let mut context: Option<ScmpFilterContext> = None;
        for (oci, architecture) in &architectures {
            let mut only = for_one(*architecture, default, || Error::Architecture(name(oci)))?;
            for rule in rules {
                add(&mut only, *architecture, rule, default, unknown)?;
            }
            match &mut context {
                Some(context) => drop(context.merge(only)?),
                None => context = Some(only),
            }
        }
        let mut context = context.ok_or(Error::NoProgram(0))?;
        if rules.iter().map(|rule| rule.names().len()).sum::<usize>() > TREE_THRESHOLD {
            context.set_ctl_optimize(2)?;
        }

        let mut program = enosys::stub(profile, &architectures);
        program.extend(program_from_bytes(&export(&context)?).unwrap_or_default());
        if program.len() > MAX_INSTRUCTIONS {
            return Err(Error::TooLong(program.len()));
        }
        let mut filter = Self { program, flags, notifies: notifying().next().is_some() };
        if filter.notifies {
            filter.listen();
        }
        Ok(filter)
    }
}

/// The profile's architectures, with the native one if it does not name it: libseccomp has it in every
/// filter.
fn architectures(profile: &LinuxSeccomp) -> Result<Vec<(Arch, ScmpArch)>, Error> {
    let native = [native()];
    let named = profile.architectures().iter().flatten().copied();
    let mut architectures = Vec::new();
    for arch in named.chain(native) {
        // The native one by its own name, as the stub has to tell it from others.
        let arch = if arch == Arch::ScmpArchNative { native[0] } else { arch };
        let known = from_oci(arch).filter(|_| ARCHITECTURES.contains(&name(&arch).as_str()));
        let entry = (arch, known.ok_or_else(|| Error::Architecture(name(&arch)))?);
        if !architectures.contains(&entry) {
            architectures.push(entry);
        }
    }
    Ok(architectures)
}

fn native() -> Arch {
    let is_native = |arch: &Arch| from_oci(*arch) == Some(ScmpArch::native());
    let named = |name: &&str| serde_json::from_value(serde_json::Value::from(*name)).ok();
    ARCHITECTURES.iter().filter_map(named).find(is_native).unwrap_or(Arch::ScmpArchNative)
}

fn from_oci(arch: Arch) -> Option<ScmpArch> {
    name(&arch).parse().ok()
}

/// How a value is written in a profile.
fn name(value: &impl serde::Serialize) -> String {
    let value = serde_json::to_value(value).unwrap_or_default();
    value.as_str().unwrap_or_default().to_owned()
}

fn action(action: LinuxSeccompAction, errno: Option<u32>) -> Result<ScmpAction, Error> {
    use LinuxSeccompAction as Oci;
    let number = errno.unwrap_or(libc::EPERM.unsigned_abs());
    let number = u16::try_from(number).map_err(|_| Error::ErrnoRange(number))?;
    match (action, errno) {
        (Oci::ScmpActErrno, _) => Ok(ScmpAction::Errno(number.into())),
        (Oci::ScmpActTrace, _) => Ok(ScmpAction::Trace(number)),
        // config-linux.md: "When the action doesn't support an errno, the runtime MUST print and error and fail".
        (_, Some(value)) => Err(Error::ErrnoRet { action: name(&action), value }),
        (Oci::ScmpActKill | Oci::ScmpActKillThread, None) => Ok(ScmpAction::KillThread),
        (Oci::ScmpActKillProcess, None) => Ok(ScmpAction::KillProcess),
        (Oci::ScmpActTrap, None) => Ok(ScmpAction::Trap),
        (Oci::ScmpActLog, None) => Ok(ScmpAction::Log),
        (Oci::ScmpActNotify, None) => Ok(ScmpAction::Notify),
        (Oci::ScmpActAllow, None) => Ok(ScmpAction::Allow),
    }
}

/// A context for the calls of one architecture.
///
/// Each has its own, to which only calls are added that the architecture has: where one that it has not comes first among
/// its rules, libseccomp (up to 2.6.1 at least) leaves out the instruction that loads the number of the call, and none of
/// the architecture's rules holds.
fn for_one(
    architecture: ScmpArch,
    default: ScmpAction,
    refused: impl Fn() -> Error,
) -> Result<ScmpFilterContext, Error> {
    let mut context = ScmpFilterContext::new(default)?;
    if architecture != ScmpArch::native() {
        // It may be one of the other byte order, or one that is newer than the library.
        context.add_arch(architecture).map_err(|_| refused())?;
        context.remove_arch(ScmpArch::native())?;
    }
    Ok(context)
}

/// Whether an architecture has a call, itself or as one of those behind `socketcall` and `ipc`. libseccomp has numbers below
/// these for all others (its `__PNR_` names).
fn has(architecture: ScmpArch, name: &str) -> bool {
    const ABSENT: i32 = -10_000;
    ScmpSyscall::from_name_by_arch(name, architecture).is_ok_and(|call| call.as_raw_syscall() > ABSENT)
}

fn add(
    context: &mut ScmpFilterContext,
    architecture: ScmpArch,
    rule: &LinuxSyscall,
    default: ScmpAction,
    unknown: Unknown,
) -> Result<(), Error> {
    let action = action(rule.action(), rule.errno_ret())?;
    for name in rule.names() {
        if name.is_empty() {
            return Err(Error::EmptyName);
        }
        let failed = |reason| Error::Rule { name: name.clone(), reason };
        let arguments = rule.args().as_deref().unwrap_or_default();
        let conditions = arguments.iter().map(|argument| condition(name, argument));
        let conditions = conditions.collect::<Result<Vec<_>, _>>()?;
        // libseccomp refuses a rule that does nothing.
        if action == default {
            continue;
        }
        // Profiles name the system calls of all architectures and of newer kernels.
        let call = match (ScmpSyscall::from_name(name), unknown) {
            (Ok(call), _) => call,
            (Err(_), Unknown::Skip) => continue,
            (Err(_), Unknown::Fail) => return Err(Error::UnknownCall(name.clone())),
        };
        if !has(architecture, name) {
            continue;
        }
        let repeated = |argument: &LinuxSeccompArg| {
            arguments.iter().filter(|other| other.index() == argument.index()).count() > 1
        };
        if arguments.iter().any(repeated) {
            // libseccomp takes one condition for each argument. runc makes them all alternatives then.
            for condition in conditions {
                context.add_rule_conditional(action, call, &[condition]).map_err(failed)?;
            }
        } else {
            context.add_rule_conditional(action, call, &conditions).map_err(failed)?;
        }
    }
    Ok(())
}

fn condition(name: &str, argument: &LinuxSeccompArg) -> Result<ScmpArgCompare, Error> {
    use LinuxSeccompOperator as Oci;
    let index = u32::try_from(argument.index()).ok().filter(|index| *index < 6);
    let index = index.ok_or_else(|| Error::ArgumentIndex { name: name.into(), index: argument.index() })?;
    let (operator, datum) = match argument.op() {
        Oci::ScmpCmpNe => (ScmpCompareOp::NotEqual, argument.value()),
        Oci::ScmpCmpLt => (ScmpCompareOp::Less, argument.value()),
        Oci::ScmpCmpLe => (ScmpCompareOp::LessOrEqual, argument.value()),
        Oci::ScmpCmpEq => (ScmpCompareOp::Equal, argument.value()),
        Oci::ScmpCmpGe => (ScmpCompareOp::GreaterEqual, argument.value()),
        Oci::ScmpCmpGt => (ScmpCompareOp::Greater, argument.value()),
        Oci::ScmpCmpMaskedEq => {
            (ScmpCompareOp::MaskedEqual(argument.value()), argument.value_two().unwrap_or(0))
        }
    };
    Ok(ScmpArgCompare::new(index, operator, datum))
}

/// The program that libseccomp would load.
fn export(context: &ScmpFilterContext) -> Result<Vec<u8>, Error> {
    let exported = |error: std::io::Error| Error::Export(error);
    let memory = rustix::fs::memfd_create(c"seccomp", MemfdFlags::CLOEXEC).map_err(|e| exported(e.into()))?;
    let mut memory = File::from(memory);
    context.export_bpf(&memory)?;
    let mut bytes = Vec::new();
    memory.rewind().and_then(|()| memory.read_to_end(&mut bytes)).map_err(exported)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compile(profile: &str) -> Result<Filter, String> {
        Filter::compile(&serde_json::from_str(profile).unwrap(), Unknown::Skip)
            .map_err(|error| error.to_string())
    }

    /// libseccomp 2.5 goes round in circles with these few rules; another version may not.
    #[test]
    fn a_profile_without_end_is_given_up() {
        let rule = |index: usize| {
            format!(
                r#"{{"names":["openat","ipc"],"action":"SCMP_ACT_KILL_THREAD","args":[
                    {{"index":{index},"op":"SCMP_CMP_MASKED_EQ","value":64,"valueTwo":63}},
                    {{"index":1,"op":"SCMP_CMP_NE","value":0}}]}}"#
            )
        };
        let rules = [rule(2), rule(2), rule(3)].join(",");
        let profile =
            format!(r#"{{"defaultAction":"SCMP_ACT_TRACE","defaultErrnoRet":1,"syscalls":[{rules}]}}"#);
        let profile = serde_json::from_str(&profile).unwrap();
        let compiled = Filter::compile_within(Duration::from_secs(1), &profile, Unknown::Skip);
        assert!(matches!(compiled, Ok(_) | Err(Error::TooSlow(1))), "{compiled:?}");
    }

    #[test]
    fn what_cannot_be_done_is_named() {
        for (profile, message) in [
            (r#"{"defaultAction":"SCMP_ACT_NOTIFY"}"#, "SCMP_ACT_NOTIFY cannot be used as default action"),
            (
                r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["write"],"action":"SCMP_ACT_NOTIFY"}]}"#,
                "SCMP_ACT_NOTIFY cannot be used for the write syscall",
            ),
            (r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_M68K"]}"#, "SCMP_ARCH_M68K"),
            (
                r#"{"defaultAction":"SCMP_ACT_ALLOW","defaultErrnoRet":1}"#,
                "errnoRet 1 does not go with action SCMP_ACT_ALLOW",
            ),
            (r#"{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":70000}"#, "errnoRet 70000"),
            (
                r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["read"],"action":"SCMP_ACT_ERRNO",
                    "args":[{"index":6,"value":0,"op":"SCMP_CMP_EQ"}]}]}"#,
                "read: argument index 6",
            ),
            (
                r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":[""],"action":"SCMP_ACT_ERRNO"}]}"#,
                "a name is empty",
            ),
        ] {
            let error = compile(profile).unwrap_err();
            assert!(error.contains(message), "{error}");
        }
    }

    #[test]
    fn an_architecture_has_a_filter_or_is_named() {
        for name in ARCHITECTURES {
            let profile = format!(
                r#"{{"defaultAction":"SCMP_ACT_ERRNO","architectures":["{name}"],
                "syscalls":[{{"names":["read","no_such_call"],"action":"SCMP_ACT_ALLOW"}}]}}"#
            );
            match compile(&profile) {
                Ok(filter) => assert!(!filter.program.is_empty()),
                Err(error) => {
                    eprintln!("{error}");
                    assert!(!["SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64", "SCMP_ARCH_X32"].contains(name));
                    assert_eq!(error, format!("linux.seccomp.architectures: {name} is not supported"));
                }
            }
        }
    }

    #[test]
    fn flags_are_kept_for_the_installation() {
        let flags =
            r#""SECCOMP_FILTER_FLAG_LOG","SECCOMP_FILTER_FLAG_SPEC_ALLOW","SECCOMP_FILTER_FLAG_TSYNC""#;
        let filter = compile(&format!(r#"{{"defaultAction":"SCMP_ACT_ALLOW","flags":[{flags}]}}"#)).unwrap();
        assert_eq!(filter.flags, 7);
        let filter = compile(r#"{"defaultAction":"SCMP_ACT_ALLOW"}"#).unwrap();
        assert_eq!(filter.flags, libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW as u32);
    }

    #[test]
    fn unknown_calls_are_skipped_or_refused() {
        let profile = r#"{"defaultAction":"SCMP_ACT_ALLOW",
            "syscalls":[{"names":["no_such_call"],"action":"SCMP_ACT_ERRNO"}]}"#;
        compile(profile).unwrap();
        let error = Filter::compile(&serde_json::from_str(profile).unwrap(), Unknown::Fail).unwrap_err();
        assert_eq!(error.to_string(), "linux.seccomp.syscalls: unknown seccomp syscall no_such_call");
    }
}
