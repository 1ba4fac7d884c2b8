//! What is left of the kernel for Coracle's own programs once they meet bytes that nobody vouches for.
//!
//! The list of each program, with a reason for each call, is seccomp/handlers/PROGRAM.ARCH.json, and what some of its guests
//! get besides in a file of its own; build.rs compiles them.
//! A filter stays until the end of the process (seccomp(2)), and what [`drop_capabilities`] takes does not come back.

use rustix::io::Errno;
use rustix::thread::{CapabilitySet, CapabilitySets};

include!(concat!(env!("OUT_DIR"), "/filters.rs"));

/// A compiled profile.
pub struct Filter(&'static [libc::sock_filter]);

/// This value of an argument stands for the process's own id, which is not known before it runs.
const OWN_PID: u32 = u32::MAX;
/// Jump if equal: BPF_JMP | BPF_JEQ | BPF_K.
const JUMP_IF_EQUAL: u16 = 0x15;
/// personality(2): every readable mapping is executable too. Kept across exec, so anybody above may have set it.
const READ_IMPLIES_EXEC: libc::c_ulong = 0x40_0000;

/// The process cannot be confined.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused the filter.
    #[error("cannot install the seccomp filter: {0}")]
    Filter(Errno),
    /// The kernel refused to take capabilities away.
    #[error("cannot drop capabilities: {0}")]
    Capabilities(Errno),
}

impl Filter {
    /// Confines the calling thread, and those that it starts, for good.
    ///
    /// # Errors
    /// [`Error::Filter`]: a kernel without seccomp filters.
    pub fn install(&self) -> Result<(), Error> {
        // The filter sees what protection is asked for, not what this would make of it.
        // SAFETY: plain integers; all ones asks for the present value.
        unsafe {
            let present = libc::personality(0xffff_ffff).cast_unsigned();
            if libc::c_ulong::from(present) & READ_IMPLIES_EXEC != 0 {
                libc::personality(libc::c_ulong::from(present) & !READ_IMPLIES_EXEC);
            }
        }
        // Without privileges, a filter may only be installed by those who can gain none.
        rustix::thread::set_no_new_privs(true).map_err(Error::Filter)?;
        let own_pid = std::process::id();
        let with_pid = |it: &libc::sock_filter| match (it.code, it.k) {
            (JUMP_IF_EQUAL, OWN_PID) => libc::sock_filter { k: own_pid, ..*it },
            _ => *it,
        };
        let instructions: Vec<_> = self.0.iter().map(with_pid).collect();
        let program = libc::sock_fprog {
            len: u16::try_from(instructions.len()).unwrap_or(u16::MAX),
            filter: instructions.as_ptr().cast_mut(),
        };
        // SAFETY: the kernel copies the program, which it does not change, during the call.
        let result = unsafe {
            libc::prctl(
                libc::PR_SET_SECCOMP,
                libc::c_ulong::from(libc::SECCOMP_MODE_FILTER),
                &raw const program,
            )
        };
        if result == 0 {
            return Ok(());
        }
        let error = std::io::Error::last_os_error();
        Err(Error::Filter(Errno::from_io_error(&error).unwrap_or(Errno::IO)))
    }
}

/// Takes all capabilities but `keep` from the calling thread, those that an exec would hand down included.
///
/// # Errors
/// [`Error::Capabilities`].
pub fn drop_capabilities(keep: CapabilitySet) -> Result<(), Error> {
    let held = rustix::thread::capabilities(None).map_err(Error::Capabilities)?;
    let left = CapabilitySets {
        effective: held.effective & keep,
        permitted: held.permitted & keep,
        inheritable: CapabilitySet::empty(),
    };
    if left == held {
        return Ok(());
    }
    // Ambient ones go with the inheritable.
    rustix::thread::set_capabilities(None, left).map_err(Error::Capabilities)
}

#[cfg(test)]
mod tests;
