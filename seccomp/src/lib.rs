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
mod patience;
mod translate;

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

use libseccomp::error::SeccompError;
use libseccomp::{ScmpArch, ScmpSyscall};
use oci_spec::runtime::LinuxSeccompFilterFlag;

/// Names of actions that profiles may use.
pub const ACTIONS: &[&str] = &[
    "SCMP_ACT_ALLOW",
    "SCMP_ACT_ERRNO",
    "SCMP_ACT_KILL",
    "SCMP_ACT_KILL_PROCESS",
    "SCMP_ACT_KILL_THREAD",
    "SCMP_ACT_LOG",
    "SCMP_ACT_NOTIFY",
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

/// Names of the architectures of the specification. Which of them profiles may use depends on libseccomp, see
/// [`architectures`].
pub const ARCHITECTURES: &[&str] = &[
    "SCMP_ARCH_AARCH64",
    "SCMP_ARCH_ARM",
    "SCMP_ARCH_LOONGARCH64",
    "SCMP_ARCH_M68K",
    "SCMP_ARCH_MIPS",
    "SCMP_ARCH_MIPS64",
    "SCMP_ARCH_MIPS64N32",
    "SCMP_ARCH_MIPSEL",
    "SCMP_ARCH_MIPSEL64",
    "SCMP_ARCH_MIPSEL64N32",
    "SCMP_ARCH_PARISC",
    "SCMP_ARCH_PARISC64",
    "SCMP_ARCH_PPC",
    "SCMP_ARCH_PPC64",
    "SCMP_ARCH_PPC64LE",
    "SCMP_ARCH_RISCV64",
    "SCMP_ARCH_S390",
    "SCMP_ARCH_S390X",
    "SCMP_ARCH_SH",
    "SCMP_ARCH_SHEB",
    "SCMP_ARCH_X32",
    "SCMP_ARCH_X86",
    "SCMP_ARCH_X86_64",
];

/// Names of flags that profiles may use.
pub const FLAGS: &[&str] = &[
    "SECCOMP_FILTER_FLAG_LOG",
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
    "SECCOMP_FILTER_FLAG_TSYNC",
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV",
];

/// A process that waits for the answer to a notification can only be killed (seccomp(2)); Linux 5.19. The libc crate
/// does not have it.
const WAIT_KILLABLE_RECV: u32 = 1 << 5;
const NEW_LISTENER: u32 = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER as u32;

/// The version of libseccomp, which knows the names of system calls.
pub fn library_version() -> String {
    libseccomp::ScmpVersion::current().map(|version| version.to_string()).unwrap_or_default()
}

/// The longest program that the kernel takes (BPF_MAXINSNS).
const MAX_INSTRUCTIONS: usize = 4096;

/// Why a profile cannot be had.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum Error {
    #[error("linux.seccomp.defaultAction: SCMP_ACT_NOTIFY cannot be used as default action")]
    NotifyDefault,
    #[error("linux.seccomp.syscalls: SCMP_ACT_NOTIFY cannot be used for the write syscall")]
    NotifyWrite,
    #[error("linux.seccomp.syscalls: unknown seccomp syscall {0}")]
    UnknownCall(String),
    #[error("linux.seccomp: {0} bytes are no BPF program of 1 to 4096 instructions")]
    NoProgram(usize),
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
    #[error("linux.seccomp: libseccomp does not come to an end with this profile in {0} s")]
    TooSlow(u64),
    #[error("linux.seccomp: install filter: {0}")]
    Install(io::Error),
}

/// What becomes of a name that libseccomp does not know as one of a system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unknown {
    /// Its rules are left out: profiles name the calls of all architectures and of newer kernels.
    Skip,
    /// It is an error.
    Fail,
}

/// A compiled profile: a program for the kernel, and the flags to install it with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    program: Vec<Instruction>,
    flags: u32,
    notifies: bool,
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
    /// A filter that was compiled elsewhere, and is installed with the flags of a profile.
    ///
    /// # Errors
    /// [`Error::NoProgram`].
    pub fn from_bytes(bytes: &[u8], flags: Option<&[LinuxSeccompFilterFlag]>) -> Result<Self, Error> {
        let program = program_from_bytes(bytes).filter(|p| (1..=MAX_INSTRUCTIONS).contains(&p.len()));
        let program = program.ok_or(Error::NoProgram(bytes.len()))?;
        Ok(Self { program, flags: flag_bits(flags), notifies: false })
    }

    /// The program, as the kernel takes it and [`Self::from_bytes`] too.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.program.iter().flat_map(|instruction| instruction.to_bytes()).collect()
    }

    /// Whether the profile has calls answered by somebody else (`SCMP_ACT_NOTIFY`), who needs the descriptor that
    /// [`Self::install`] returns.
    pub fn notifies(&self) -> bool {
        self.notifies
    }

    /// Has [`Self::install`] return a descriptor in any case.
    pub fn listen(&mut self) {
        self.flags |= NEW_LISTENER;
        if self.flags & libc::SECCOMP_FILTER_FLAG_TSYNC as u32 != 0 {
            // The two of them would both use the return value (seccomp(2)).
            self.flags |= libc::SECCOMP_FILTER_FLAG_TSYNC_ESRCH as u32;
        }
    }

    /// Puts the calling thread, and what it becomes and starts, under the filter, for good (seccomp(2)).
    ///
    /// One system call and no allocation. The caller has either set `no_new_privs` or has `CAP_SYS_ADMIN`. What comes
    /// back is the descriptor for notifications, if [`Self::listen`] was called.
    ///
    /// # Errors
    /// [`Error::Install`]: a flag that this kernel does not know, or a caller who may not.
    pub fn install(&self) -> Result<Option<OwnedFd>, Error> {
        let length = u16::try_from(self.program.len()).map_err(|_| Error::TooLong(self.program.len()))?;
        let program = libc::sock_fprog { len: length, filter: self.program.as_ptr().cast_mut().cast() };
        // Who waits for no answer cannot wait for it in another way, and the kernel refuses to be told so.
        let without = if self.flags & NEW_LISTENER == 0 { WAIT_KILLABLE_RECV } else { 0 };
        // SAFETY: `program` points at `length` instructions laid out as `struct sock_filter`, which the kernel only
        // reads, and copies before it returns.
        let result = unsafe {
            libc::syscall(
                libc::SYS_seccomp,
                libc::SECCOMP_SET_MODE_FILTER,
                self.flags & !without,
                std::ptr::from_ref(&program),
            )
        };
        match i32::try_from(result) {
            Ok(0) => Ok(None),
            // SAFETY: with a listener asked for, the kernel has just made this descriptor for us.
            Ok(listener) if listener > 0 => Ok(Some(unsafe { OwnedFd::from_raw_fd(listener) })),
            _ => Err(Error::Install(io::Error::last_os_error())),
        }
    }
}

/// The architectures of the specification that the linked libseccomp has.
pub fn architectures() -> Vec<&'static str> {
    let has = |name: &&str| {
        name.parse().is_ok_and(|arch: ScmpArch| ScmpSyscall::from_name_by_arch("read", arch).is_ok())
    };
    ARCHITECTURES.iter().copied().filter(has).collect()
}

/// The bit of seccomp(2) for the name of a flag.
pub fn flag_bit(flag: LinuxSeccompFilterFlag) -> u32 {
    match flag {
        LinuxSeccompFilterFlag::SeccompFilterFlagLog => libc::SECCOMP_FILTER_FLAG_LOG as u32,
        LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW as u32,
        LinuxSeccompFilterFlag::SeccompFilterFlagTsync => libc::SECCOMP_FILTER_FLAG_TSYNC as u32,
        LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => WAIT_KILLABLE_RECV,
    }
}

/// Where a profile has no list of flags, not even an empty one, speculation is allowed, as runc and crun do.
fn flag_bits(flags: Option<&[LinuxSeccompFilterFlag]>) -> u32 {
    const DEFAULT: &[LinuxSeccompFilterFlag] = &[LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow];
    flags.unwrap_or(DEFAULT).iter().fold(0, |bits, flag| bits | flag_bit(*flag))
}
