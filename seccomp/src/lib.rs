//! OCI seccomp profiles (`linux.seccomp`) as the kernel takes them.
//!
//! A profile is compiled by libseccomp into a BPF program, outside of the container, and kept in a cache by its
//! content: libseccomp needs some 15 ms for an engine's default profile, reading the result takes a
//! fraction of one. What is installed in the container's process is then only data, by one system call. libcontainer's
//! translation does not serve for that: it compiles and loads in one go, in the process that is to be
//! confined, at each start; and it drops a profile silently when built without its seccomp feature.
//!
//! The meaning of a profile is runc's, where the specification leaves it open: names of system calls that libseccomp
//! does not know are skipped; conditions on one and the same argument are alternatives; and a system call that
//! is newer than all that the profile names fails with ENOSYS (see [`enosys`]).

mod cache;
mod enosys;
mod translate;

use std::io;

use libseccomp::error::SeccompError;

/// Names of actions that profiles may use.
pub const ACTIONS: &[&str] = &[
    "SCMP_ACT_ALLOW",
    "SCMP_ACT_ERRNO",
    "SCMP_ACT_KILL",
    "SCMP_ACT_KILL_PROCESS",
    "SCMP_ACT_KILL_THREAD",
    "SCMP_ACT_LOG",
    "SCMP_ACT_TRACE",
    "SCMP_ACT_TRAP",
];

/// Names of comparisons that profiles may use.
pub const OPERATORS: &[&str] = &[
    "SCMP_CMP_EQ",
    "SCMP_CMP_GE",
    "SCMP_CMP_GT",
    "SCMP_CMP_LE",
    "SCMP_CMP_LT",
    "SCMP_CMP_MASKED_EQ",
    "SCMP_CMP_NE",
];

/// Names of architectures that profiles may use.
pub const ARCHITECTURES: &[&str] = &[
    "SCMP_ARCH_AARCH64",
    "SCMP_ARCH_ARM",
    "SCMP_ARCH_MIPS",
    "SCMP_ARCH_MIPS64",
    "SCMP_ARCH_MIPS64N32",
    "SCMP_ARCH_MIPSEL",
    "SCMP_ARCH_MIPSEL64",
    "SCMP_ARCH_MIPSEL64N32",
    "SCMP_ARCH_PPC",
    "SCMP_ARCH_PPC64",
    "SCMP_ARCH_PPC64LE",
    "SCMP_ARCH_RISCV64",
    "SCMP_ARCH_S390",
    "SCMP_ARCH_S390X",
    "SCMP_ARCH_X32",
    "SCMP_ARCH_X86",
    "SCMP_ARCH_X86_64",
];

/// Names of flags that profiles may use.
pub const FLAGS: &[&str] =
    &["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW", "SECCOMP_FILTER_FLAG_TSYNC"];

/// The longest program that the kernel takes (BPF_MAXINSNS).
const MAX_INSTRUCTIONS: usize = 4096;

/// Why a profile cannot be had.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum Error {
    #[error("linux.seccomp: action SCMP_ACT_NOTIFY is not supported")]
    Notify,
    #[error("linux.seccomp.flags: {0} is not supported")]
    Flag(String),
    #[error("linux.seccomp.architectures: {0} is not supported")]
    Architecture(String),
    #[error("linux.seccomp: errnoRet {value} does not go with action {action}")]
    ErrnoRet { action: String, value: u32 },
    #[error("linux.seccomp: errnoRet {0} is out of range")]
    ErrnoRange(u32),
    #[error("linux.seccomp.syscalls: a name is empty")]
    EmptyName,
    #[error("linux.seccomp.syscalls: {name}: argument index {index} is not below 6")]
    ArgumentIndex { name: String, index: usize },
    #[error("linux.seccomp.syscalls: rule for {name}: {reason}")]
    Rule { name: String, reason: SeccompError },
    #[error("linux.seccomp: {0}")]
    Library(#[from] SeccompError),
    #[error("linux.seccomp: the compiled profile: {0}")]
    Export(io::Error),
    #[error("linux.seccomp: the profile makes a program of {0} instructions, the kernel takes 4096")]
    TooLong(usize),
    #[error("linux.seccomp: install filter: {0}")]
    Install(io::Error),
}

/// A compiled profile: a program for the kernel, and the flags to install it with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    program: Vec<Instruction>,
    flags: u32,
}

/// `struct sock_filter`, an instruction of classic BPF.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Instruction {
    code: u16,
    jump_true: u8,
    jump_false: u8,
    constant: u32,
}

impl Instruction {
    fn from_bytes([a, b, jump_true, jump_false, constant @ ..]: [u8; 8]) -> Self {
        let (code, constant) = (u16::from_ne_bytes([a, b]), u32::from_ne_bytes(constant));
        Self { code, jump_true, jump_false, constant }
    }

    fn to_bytes(self) -> [u8; 8] {
        let [a, b] = self.code.to_ne_bytes();
        let [e, f, g, h] = self.constant.to_ne_bytes();
        [a, b, self.jump_true, self.jump_false, e, f, g, h]
    }
}

/// A program out of its bytes, if they are whole instructions.
fn program_from_bytes(bytes: &[u8]) -> Option<Vec<Instruction>> {
    let (instructions, rest) = bytes.as_chunks::<8>();
    rest.is_empty().then(|| instructions.iter().copied().map(Instruction::from_bytes).collect())
}

impl Filter {
    /// Puts the calling thread, and what it becomes and starts, under the filter, for good (seccomp(2)).
    ///
    /// One system call and no allocation. The caller has either set `no_new_privs` or has `CAP_SYS_ADMIN`.
    ///
    /// # Errors
    /// [`Error::Install`]: a flag that this kernel does not know, or a caller who may not.
    pub fn install(&self) -> Result<(), Error> {
        let length = u16::try_from(self.program.len()).map_err(|_| Error::TooLong(self.program.len()))?;
        let program = libc::sock_fprog { len: length, filter: self.program.as_ptr().cast_mut().cast() };
        // SAFETY: `program` points at `length` instructions laid out as `struct sock_filter`, which the kernel only
        // reads, and copies before it returns.
        let result = unsafe {
            libc::syscall(
                libc::SYS_seccomp,
                libc::SECCOMP_SET_MODE_FILTER,
                self.flags,
                std::ptr::from_ref(&program),
            )
        };
        if result == 0 { Ok(()) } else { Err(Error::Install(io::Error::last_os_error())) }
    }
}
