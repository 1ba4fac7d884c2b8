//! `process.rlimits`, by prlimit(2).
//!
//! Hard limits are raised with the host's CAP_SYS_RESOURCE or not at all, and those of another user's process cannot be set
//! without it. So it is done before a process becomes somebody else; and where it is in another user namespace, its parent
//! does it.

use oci_spec::runtime::{Linux, LinuxNamespaceType, Process};

use super::Error;
use super::sync::{Message, Socket};
use crate::error::Os;

/// Sets our own limits, or has our parent do it.
///
/// # Errors
/// [`Error::Rlimit`], and those of the conversation with the parent.
pub fn apply(process: &Process, linux: Option<&Linux>, parent: &Socket) -> Result<(), Error> {
    if process.rlimits().as_ref().is_none_or(Vec::is_empty) {
        return Ok(());
    }
    let namespaces = linux.and_then(|linux| linux.namespaces().as_deref()).unwrap_or_default();
    if namespaces.iter().any(|namespace| namespace.typ() == LinuxNamespaceType::User) {
        parent.send(&Message::SetLimits)?;
        return parent.await_continue();
    }
    set(0, process)
}

/// Sets the limits of the process that has this pid; 0 is the caller's.
///
/// # Errors
/// [`Error::Rlimit`].
pub fn set(pid: i32, process: &Process) -> Result<(), Error> {
    use oci_spec::runtime::PosixRlimitType as Type;
    for limit in process.rlimits().iter().flatten() {
        let resource = match limit.typ() {
            Type::RlimitCpu => libc::RLIMIT_CPU,
            Type::RlimitFsize => libc::RLIMIT_FSIZE,
            Type::RlimitData => libc::RLIMIT_DATA,
            Type::RlimitStack => libc::RLIMIT_STACK,
            Type::RlimitCore => libc::RLIMIT_CORE,
            Type::RlimitRss => libc::RLIMIT_RSS,
            Type::RlimitNproc => libc::RLIMIT_NPROC,
            Type::RlimitNofile => libc::RLIMIT_NOFILE,
            Type::RlimitMemlock => libc::RLIMIT_MEMLOCK,
            Type::RlimitAs => libc::RLIMIT_AS,
            Type::RlimitLocks => libc::RLIMIT_LOCKS,
            Type::RlimitSigpending => libc::RLIMIT_SIGPENDING,
            Type::RlimitMsgqueue => libc::RLIMIT_MSGQUEUE,
            Type::RlimitNice => libc::RLIMIT_NICE,
            Type::RlimitRtprio => libc::RLIMIT_RTPRIO,
            Type::RlimitRttime => libc::RLIMIT_RTTIME,
        };
        let value = libc::rlimit { rlim_cur: limit.soft(), rlim_max: limit.hard() };
        // SAFETY: reads one structure, which outlives the call.
        let result = unsafe { libc::prlimit(pid, resource, &raw const value, std::ptr::null_mut()) };
        if result != 0 {
            return Err(Error::Rlimit { limit: limit.typ().to_string(), reason: Os::last() });
        }
    }
    Ok(())
}
