//! Device rules on cgroup v2: a BPF program that the kernel asks at each open(2) and mknod(2) of a device node
//! (`BPF_PROG_TYPE_CGROUP_DEVICE`, bpf(2)).
//!
//! The programs are short and have one form, so they are written here instruction by instruction; a compiler or a BPF
//! library would be most of the runtime's size.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::Error;
use super::devices::{Kind, MKNOD, Policy, READ, WRITE};

/// `struct bpf_insn`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    code: u8,
    /// Destination in the low, source in the high half.
    registers: u8,
    offset: i16,
    immediate: i32,
}

// Opcodes: class, operation and operand (Documentation/bpf/standardization/instruction-set.rst).
const LOAD_WORD: u8 = 0x61;
const MOVE_IMMEDIATE: u8 = 0xb4;
const MOVE_REGISTER: u8 = 0xbc;
const AND_IMMEDIATE: u8 = 0x54;
const SHIFT_RIGHT: u8 = 0x74;
const JUMP_IF_NOT_EQUAL: u8 = 0x55;
const JUMP_IF_REGISTERS_DIFFER: u8 = 0x5d;
const JUMP_IF_EQUAL: u8 = 0x15;
const EXIT: u8 = 0x95;

// Registers: r0 is the result, r1 the context at the start and scratch later.
const RESULT: u8 = 0;
const SCRATCH: u8 = 1;
const TYPE: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;

const fn instruction(code: u8, destination: u8, source: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction { code, registers: source << 4 | destination, offset, immediate }
}

/// The program for a policy. It answers 1, allow, or 0, deny.
pub fn program(policy: &Policy) -> Vec<Instruction> {
    // struct bpf_cgroup_dev_ctx { access << 16 | type, major, minor }
    let mut program = vec![
        instruction(LOAD_WORD, TYPE, SCRATCH, 0, 0),
        instruction(MOVE_REGISTER, ACCESS, TYPE, 0, 0),
        instruction(AND_IMMEDIATE, TYPE, 0, 0, 0xffff),
        instruction(SHIFT_RIGHT, ACCESS, 0, 0, 16),
        instruction(LOAD_WORD, MAJOR, SCRATCH, 4, 0),
        instruction(LOAD_WORD, MINOR, SCRATCH, 8, 0),
    ];
    for (devices, access) in &policy.exceptions {
        let mut tests = vec![(TYPE, if devices.kind == Kind::Block { 1 } else { 2 })];
        tests.extend(devices.major.map(|major| (MAJOR, major.cast_signed())));
        tests.extend(devices.minor.map(|minor| (MINOR, minor.cast_signed())));
        let access_test = access_test(*access, policy.allow);
        let verdict = [
            instruction(MOVE_IMMEDIATE, RESULT, 0, 0, i32::from(!policy.allow)),
            instruction(EXIT, 0, 0, 0, 0),
        ];
        let length = tests.len() + access_test.len() + verdict.len();
        let start = program.len();
        // A test that fails jumps behind this exception; offsets count from the instruction after the jump.
        let beyond = |at: usize| i16::try_from(start + length - at - 1).unwrap_or(i16::MAX);
        for (register, value) in tests {
            let jump = instruction(JUMP_IF_NOT_EQUAL, register, 0, beyond(program.len()), value);
            program.push(jump);
        }
        for mut test in access_test {
            if test.code & 0x07 == 0x05 {
                test.offset = beyond(program.len());
            }
            program.push(test);
        }
        program.extend(verdict);
    }
    program.push(instruction(MOVE_IMMEDIATE, RESULT, 0, 0, i32::from(policy.allow)));
    program.push(instruction(EXIT, 0, 0, 0, 0));
    program
}

/// Fails unless an exception for `access` covers what is asked. What is denied must not be had by asking for more
/// beside it; what is allowed must be all that is asked for.
fn access_test(access: u8, denied: bool) -> Vec<Instruction> {
    if access == MKNOD | READ | WRITE {
        return Vec::new();
    }
    let jump = if denied {
        instruction(JUMP_IF_EQUAL, SCRATCH, 0, 0, 0)
    } else {
        instruction(JUMP_IF_REGISTERS_DIFFER, SCRATCH, ACCESS, 0, 0)
    };
    vec![
        instruction(MOVE_REGISTER, SCRATCH, ACCESS, 0, 0),
        instruction(AND_IMMEDIATE, SCRATCH, 0, 0, i32::from(access)),
        jump,
    ]
}

// bpf(2): commands, program and attach types, flags.
const PROG_LOAD: libc::c_long = 5;
const PROG_ATTACH: libc::c_long = 8;
const PROG_DETACH: libc::c_long = 9;
const PROG_GET_FD_BY_ID: libc::c_long = 13;
const PROG_QUERY: libc::c_long = 16;
const CGROUP_DEVICE_PROGRAM: u32 = 15;
const CGROUP_DEVICE: u32 = 6;
/// Other programs may be attached as well, ours beside systemd's; access needs the consent of all.
const ALLOW_MULTI: u32 = 1 << 1;

#[repr(C)]
#[derive(Default)]
struct LoadAttributes {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
}

#[repr(C)]
struct AttachAttributes {
    target_fd: i32,
    attach_bpf_fd: i32,
    attach_type: u32,
    attach_flags: u32,
}

#[repr(C)]
struct QueryAttributes {
    target_fd: i32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    prog_cnt: u32,
    padding: u32,
}

#[repr(C)]
#[derive(Default)]
struct IdAttributes {
    prog_id: u32,
    next_id: u32,
    open_flags: u32,
}

/// The bpf(2) system call, which has no wrapper in libc. Returns what the command returns.
fn bpf<T>(command: libc::c_long, attributes: &mut T) -> Result<i32, Errno> {
    // SAFETY: `attributes` is the command's part of union bpf_attr, laid out as the kernel's, and lives until the
    // call returns; what it points to is kept alive by the callers.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), size_of::<T>()) };
    match i32::try_from(result) {
        Ok(value) if value >= 0 => Ok(value),
        _ => Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::INVAL)),
    }
}

fn descriptor(result: Result<i32, Errno>) -> Result<OwnedFd, Errno> {
    // SAFETY: the two commands this is used for return a new descriptor that nobody else owns.
    result.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Attaches a program to a cgroup, and detaches those that were attached to it before.
pub fn attach(dir: &Path, program: &[Instruction]) -> Result<(), Error> {
    let failed =
        |step: &'static str| move |errno: Errno| Error::Bpf { step, path: dir.into(), reason: errno.into() };
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    let cgroup = rustix::fs::open(dir, flags, Mode::empty()).map_err(failed("open"))?;
    let old = attached(&cgroup).map_err(failed("query"))?;
    let new = load(program).map_err(failed("load"))?;
    let mut attach = AttachAttributes {
        target_fd: cgroup.as_raw_fd(),
        attach_bpf_fd: new.as_raw_fd(),
        attach_type: CGROUP_DEVICE,
        attach_flags: ALLOW_MULTI,
    };
    bpf(PROG_ATTACH, &mut attach).map_err(failed("attach"))?;
    for id in old {
        let mut by_id = IdAttributes { prog_id: id, ..IdAttributes::default() };
        let detached = descriptor(bpf(PROG_GET_FD_BY_ID, &mut by_id)).and_then(|old| {
            let mut detach = AttachAttributes { attach_bpf_fd: old.as_raw_fd(), attach_flags: 0, ..attach };
            bpf(PROG_DETACH, &mut detach)
        });
        match detached {
            // Gone by itself: all the better.
            Ok(_) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(failed("detach")(errno)),
        }
    }
    Ok(())
}

fn load(program: &[Instruction]) -> Result<OwnedFd, Errno> {
    // The kernel lends some of its helpers to programs under the GPL only; we use none of them.
    let license = c"Apache-2.0";
    let mut attributes = LoadAttributes {
        prog_type: CGROUP_DEVICE_PROGRAM,
        insn_cnt: u32::try_from(program.len()).map_err(|_| Errno::TOOBIG)?,
        insns: program.as_ptr().addr() as u64,
        license: license.as_ptr().addr() as u64,
        ..LoadAttributes::default()
    };
    descriptor(bpf(PROG_LOAD, &mut attributes))
}

/// The ids of the device programs attached to a cgroup itself.
fn attached(cgroup: &OwnedFd) -> Result<Vec<u32>, Errno> {
    let mut ids = [0u32; 64];
    let mut query = QueryAttributes {
        target_fd: cgroup.as_raw_fd(),
        attach_type: CGROUP_DEVICE,
        query_flags: 0,
        attach_flags: 0,
        prog_ids: ids.as_mut_ptr().addr() as u64,
        prog_cnt: 64,
        padding: 0,
    };
    bpf(PROG_QUERY, &mut query)?;
    Ok(ids.into_iter().take(query.prog_cnt as usize).collect())
}

#[cfg(test)]
mod tests {
    use super::super::devices::Devices;
    use super::*;

    /// Enough of a BPF machine to run what is emitted above.
    fn run(program: &[Instruction], kind: Kind, major: u32, minor: u32, access: u8) -> bool {
        let kind = if kind == Kind::Block { 1 } else { 2 };
        let context = [u32::from(access) << 16 | kind, major, minor];
        let mut registers = [0u64; 6];
        let mut at = 0;
        loop {
            let Instruction { code, registers: pair, offset, immediate } = program[at];
            let (to, from) = (usize::from(pair & 15), usize::from(pair >> 4));
            let constant = i64::from(immediate).cast_unsigned();
            at += 1;
            let jump = match code {
                LOAD_WORD => {
                    registers[to] = u64::from(context[usize::try_from(offset).unwrap() / 4]);
                    false
                }
                MOVE_IMMEDIATE => {
                    registers[to] = constant & 0xffff_ffff;
                    false
                }
                MOVE_REGISTER => {
                    registers[to] = registers[from];
                    false
                }
                AND_IMMEDIATE => {
                    registers[to] &= constant;
                    false
                }
                SHIFT_RIGHT => {
                    registers[to] >>= immediate;
                    false
                }
                JUMP_IF_NOT_EQUAL => registers[to] != constant,
                JUMP_IF_EQUAL => registers[to] == constant,
                JUMP_IF_REGISTERS_DIFFER => registers[to] != registers[from],
                EXIT => return registers[0] == 1,
                other => panic!("opcode {other:#x}"),
            };
            if jump {
                at += usize::try_from(offset).unwrap();
            }
        }
    }

    fn policy(allow: bool, exceptions: &[(Kind, Option<u32>, Option<u32>, u8)]) -> Policy {
        let exceptions = exceptions
            .iter()
            .map(|&(kind, major, minor, access)| (Devices { kind, major, minor }, access))
            .collect();
        Policy { allow, exceptions }
    }

    #[test]
    fn an_allow_list_allows_what_it_names() {
        let rules = [
            (Kind::Char, None, None, MKNOD),
            (Kind::Char, Some(1), Some(3), READ | WRITE | MKNOD),
            (Kind::Char, Some(136), None, READ | WRITE),
            (Kind::Block, Some(8), Some(0), READ),
        ];
        let program = program(&policy(false, &rules));
        let run = |kind, major, minor, access| run(&program, kind, major, minor, access);
        assert!(run(Kind::Char, 1, 3, READ | WRITE));
        assert!(run(Kind::Char, 1, 3, MKNOD));
        assert!(run(Kind::Char, 7, 7, MKNOD));
        assert!(run(Kind::Char, 136, 99, READ));
        assert!(run(Kind::Block, 8, 0, READ));
        assert!(!run(Kind::Block, 8, 0, READ | WRITE));
        assert!(!run(Kind::Block, 8, 1, READ));
        assert!(!run(Kind::Block, 1, 3, READ));
        assert!(!run(Kind::Char, 1, 4, READ));
        assert!(!run(Kind::Block, 7, 7, MKNOD));
    }

    #[test]
    fn a_deny_list_denies_any_access_it_names() {
        let program = program(&policy(true, &[(Kind::Block, Some(8), None, WRITE)]));
        let run = |kind, major, minor, access| run(&program, kind, major, minor, access);
        assert!(run(Kind::Char, 8, 0, WRITE));
        assert!(run(Kind::Block, 8, 0, READ));
        assert!(!run(Kind::Block, 8, 5, WRITE));
        assert!(!run(Kind::Block, 8, 5, READ | WRITE));
    }

    #[test]
    fn the_default_stands_alone() {
        assert!(run(&program(&policy(true, &[])), Kind::Char, 1, 2, READ));
        assert!(!run(&program(&policy(false, &[])), Kind::Char, 1, 2, READ));
    }
}
