//! System calls that are newer than the profile.
//!
//! A profile that denies by default answers EPERM to a call that its author could not know. C libraries take that
//! as the final word; after ENOSYS they fall back to an older call, and the program works. So the filter begins
//! with a stub that answers ENOSYS to every call with a number above the largest one that the profile names, as runc's
//! does (its libcontainer/seccomp/patchbpf). It is there for calls of each architecture of the profile, and
//! left out where the profile allows by default or answers ENOSYS anyway.

use libseccomp::{ScmpArch, ScmpSyscall};
use oci_spec::runtime::{Arch, LinuxSeccomp, LinuxSeccompAction};

use crate::Instruction;

// Instructions of classic BPF (linux/bpf_common.h), and offsets in `struct seccomp_data`.
const LOAD: u16 = 0x20;
const JUMP: u16 = 0x05;
const JUMP_IF_EQUAL: u16 = 0x15;
const JUMP_IF_GREATER: u16 = 0x25;
const JUMP_IF_BITS: u16 = 0x45;
const RETURN: u16 = 0x06;
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;

const RETURN_ENOSYS: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS.unsigned_abs();
/// Set in the numbers of x32's calls, which the kernel reports as calls of x86_64.
const X32_BIT: u32 = 0x4000_0000;
const AUDIT_ARCH_X86_64: u32 = Arch::ScmpArchX86_64 as u32;

/// The instructions to go before the program of a profile.
pub fn stub(profile: &LinuxSeccomp, architectures: &[(Arch, ScmpArch)]) -> Vec<Instruction> {
    use LinuxSeccompAction as Action;
    let lets_pass =
        matches!(profile.default_action(), Action::ScmpActAllow | Action::ScmpActLog | Action::ScmpActTrace);
    let says_so = profile.default_action() == Action::ScmpActErrno
        && profile.default_errno_ret() == Some(libc::ENOSYS.unsigned_abs());
    if lets_pass || says_so {
        return Vec::new();
    }
    let newest = |wanted: Arch| {
        let (_, arch) = architectures.iter().find(|(arch, _)| *arch == wanted)?;
        newest(profile, *arch)
    };
    let mut sections = Vec::new();
    for (arch, _) in architectures {
        sections.extend(match arch {
            // These two are one to the kernel, and have one section.
            Arch::ScmpArchX32 | Arch::ScmpArchX86_64 if sections.iter().any(|s: &Section| s.is_x86_64()) => {
                None
            }
            Arch::ScmpArchX32 | Arch::ScmpArchX86_64 => {
                Section::x86_64(newest(Arch::ScmpArchX86_64), newest(Arch::ScmpArchX32))
            }
            arch => newest(*arch).map(|newest| Section::plain(*arch as u32, newest)),
        });
    }
    assemble(&sections)
}

/// The largest number of a call that the profile names.
fn newest(profile: &LinuxSeccomp, arch: ScmpArch) -> Option<u32> {
    let names = profile.syscalls().iter().flatten().flat_map(|rule| rule.names());
    let numbers = names.filter_map(|name| ScmpSyscall::from_name_by_arch(name, arch).ok());
    // libseccomp has negative numbers for calls that an architecture does not have.
    let numbers = numbers.filter_map(|call| u32::try_from(call.as_raw_syscall()).ok());
    numbers.filter(|number| *number != 0).max()
}

/// The instructions for the calls of one architecture. They end with: answer ENOSYS; go on to the filter.
struct Section {
    audit_arch: u32,
    tests: Vec<Instruction>,
}

impl Section {
    fn is_x86_64(&self) -> bool {
        self.audit_arch == AUDIT_ARCH_X86_64
    }

    fn plain(audit_arch: u32, newest: u32) -> Self {
        // Above: the next instruction. Not: the one behind that.
        Self { audit_arch, tests: vec![instruction(JUMP_IF_GREATER, 0, 1, newest)] }
    }

    /// Either of the two may have nothing to compare with; its calls then go to the filter.
    fn x86_64(newest: Option<u32>, newest_x32: Option<u32>) -> Option<Self> {
        let tests = match (newest, newest_x32) {
            (None, None) => return None,
            (Some(newest), None) => {
                vec![instruction(JUMP_IF_BITS, 2, 0, X32_BIT), instruction(JUMP_IF_GREATER, 0, 1, newest)]
            }
            (None, Some(x32)) => {
                vec![instruction(JUMP_IF_BITS, 0, 2, X32_BIT), instruction(JUMP_IF_GREATER, 0, 1, x32)]
            }
            (Some(newest), Some(x32)) => vec![
                instruction(JUMP_IF_BITS, 1, 0, X32_BIT),
                instruction(JUMP_IF_GREATER, 1, 2, newest),
                instruction(JUMP_IF_GREATER, 0, 1, x32),
            ],
        };
        Some(Self { audit_arch: AUDIT_ARCH_X86_64, tests })
    }
}

fn assemble(sections: &[Section]) -> Vec<Instruction> {
    if sections.is_empty() {
        return Vec::new();
    }
    // Sections are written from the last to the first, so that the distance to the filter is known.
    let mut reversed: Vec<Instruction> = Vec::new();
    for section in sections.iter().rev() {
        let to_filter = u32::try_from(reversed.len()).unwrap_or(u32::MAX);
        reversed.push(instruction(JUMP, 0, 0, to_filter));
        reversed.push(instruction(RETURN, 0, 0, RETURN_ENOSYS));
        reversed.extend(section.tests.iter().rev());
        reversed.push(instruction(LOAD, 0, 0, NUMBER));
        // Another architecture: over the load, the tests and the two that end the section.
        let length = u8::try_from(section.tests.len() + 3).unwrap_or(u8::MAX);
        reversed.push(instruction(JUMP_IF_EQUAL, 0, length, section.audit_arch));
    }
    reversed.push(instruction(LOAD, 0, 0, ARCHITECTURE));
    reversed.reverse();
    reversed
}

const fn instruction(code: u16, jump_true: u8, jump_false: u8, constant: u32) -> Instruction {
    Instruction { code, jump_true, jump_false, constant }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILTER: Option<u32> = None;
    const ENOSYS: Option<u32> = Some(RETURN_ENOSYS);

    /// Runs a stub; `None` if it ends behind its last instruction, where the filter begins.
    fn run(program: &[Instruction], architecture: u32, number: u32) -> Option<u32> {
        let (mut at, mut accumulator) = (0, 0);
        while let Some(&Instruction { code, jump_true, jump_false, constant }) = program.get(at) {
            at += 1;
            let jump = |taken: bool| usize::from(if taken { jump_true } else { jump_false });
            at += match code {
                LOAD => {
                    accumulator = if constant == NUMBER { number } else { architecture };
                    0
                }
                JUMP => usize::try_from(constant).unwrap(),
                JUMP_IF_EQUAL => jump(accumulator == constant),
                JUMP_IF_GREATER => jump(accumulator > constant),
                JUMP_IF_BITS => jump(accumulator & constant != 0),
                RETURN => return Some(constant),
                other => panic!("{other:#x}"),
            };
        }
        assert_eq!(at, program.len());
        None
    }

    fn program(default: &str, architectures: &[(Arch, ScmpArch)]) -> Vec<Instruction> {
        let profile = format!(
            r#"{{{default},"syscalls":[{{"names":["read","openat2","no_such_call"],"action":"SCMP_ACT_ALLOW"}}]}}"#
        );
        stub(&serde_json::from_str(&profile).unwrap(), architectures)
    }

    const DENY: &str = r#""defaultAction":"SCMP_ACT_ERRNO""#;
    const OPENAT2: u32 = 437;
    const X86_64: (Arch, ScmpArch) = (Arch::ScmpArchX86_64, ScmpArch::X8664);
    const X86: (Arch, ScmpArch) = (Arch::ScmpArchX86, ScmpArch::X86);
    const X32: (Arch, ScmpArch) = (Arch::ScmpArchX32, ScmpArch::X32);
    const ARM64: (Arch, ScmpArch) = (Arch::ScmpArchAarch64, ScmpArch::Aarch64);

    #[test]
    fn newer_calls_of_each_architecture_are_unknown() {
        let program = program(DENY, &[X86_64, X86, X32, ARM64]);
        for arch in [X86_64, X86, ARM64] {
            let run = |number| run(&program, arch.0 as u32, number);
            assert_eq!([0, OPENAT2].map(run), [FILTER, FILTER]);
            assert_eq!([OPENAT2 + 1, 1000].map(run), [ENOSYS, ENOSYS]);
        }
        assert_eq!(run(&program, AUDIT_ARCH_X86_64, X32_BIT | OPENAT2), FILTER);
        assert_eq!(run(&program, AUDIT_ARCH_X86_64, X32_BIT | 600), ENOSYS);
        // Not an architecture of the profile: the filter's business.
        assert_eq!(run(&program, Arch::ScmpArchS390x as u32, 1000), FILTER);
    }

    #[test]
    fn x86_64_and_x32_are_told_apart() {
        let without = program(DENY, &[X86_64]);
        assert_eq!(run(&without, AUDIT_ARCH_X86_64, 1000), ENOSYS);
        assert_eq!(run(&without, AUDIT_ARCH_X86_64, X32_BIT | 1000), FILTER);
        let alone = program(DENY, &[X32]);
        assert_eq!(run(&alone, AUDIT_ARCH_X86_64, 1000), FILTER);
        assert_eq!(run(&alone, AUDIT_ARCH_X86_64, X32_BIT | 1000), ENOSYS);
    }

    #[test]
    fn no_stub_where_it_would_change_nothing() {
        for default in [
            r#""defaultAction":"SCMP_ACT_ALLOW""#,
            r#""defaultAction":"SCMP_ACT_LOG""#,
            r#""defaultAction":"SCMP_ACT_TRACE""#,
            r#""defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":38"#,
        ] {
            assert!(program(default, &[X86_64]).is_empty());
        }
        assert!(!program(r#""defaultAction":"SCMP_ACT_KILL""#, &[X86_64]).is_empty());
    }
}
