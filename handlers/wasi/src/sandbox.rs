//! What is left of the system calls once the module is mapped, whatever the container's own profile allows.
//!
//! The list, with a reason for each call, is seccomp/handlers/coracle-wasi.ARCH.json; build.rs compiles it. There is no
//! exec in it, no new process or thread, no new socket, no memory that can be executed: code that escapes from
//! the guest's sandbox finds little more than what the guest could do anyway. What is not in it fails with
//! EPERM rather than ending the process: the C library asks for things it can do without.

use rustix::io::Errno;

/// The compiled profile.
static PROGRAM: &[libc::sock_filter] = &include!(concat!(env!("OUT_DIR"), "/sandbox.rs"));

/// The kernel refused the filter.
#[derive(Debug, thiserror::Error)]
#[error("cannot install the handler's seccomp filter: {0}")]
pub struct Error(Errno);

/// Confines this process, for good. See seccomp(2).
///
/// # Errors
/// [`Error`]: a kernel without seccomp filters.
pub fn enter() -> Result<(), Error> {
    // Without privileges, a filter may only be installed by those who can gain none. Nothing is executed from here on, so
    // nothing is lost.
    rustix::thread::set_no_new_privs(true).map_err(Error)?;
    let program = libc::sock_fprog {
        len: u16::try_from(PROGRAM.len()).unwrap_or(u16::MAX),
        filter: PROGRAM.as_ptr().cast_mut(),
    };
    // SAFETY: the kernel copies the program, which it does not change, during the call.
    let result = unsafe {
        libc::prctl(libc::PR_SET_SECCOMP, libc::c_ulong::from(libc::SECCOMP_MODE_FILTER), &raw const program)
    };
    if result == 0 {
        return Ok(());
    }
    let error = std::io::Error::last_os_error();
    Err(Error(Errno::from_io_error(&error).unwrap_or(Errno::IO)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs `attempt` in a confined child, and returns the error it ends with, 0 for none.
    fn confined(attempt: fn() -> i64) -> i32 {
        // SAFETY: the child makes system calls only, and ends by _exit.
        unsafe {
            let child = libc::fork();
            assert!(child >= 0, "fork");
            if child == 0 {
                let code = match enter() {
                    Ok(()) if attempt() < 0 => *libc::__errno_location(),
                    Ok(()) => 0,
                    Err(_) => 255,
                };
                libc::_exit(code);
            }
            let mut status = 0;
            assert_eq!(libc::waitpid(child, &raw mut status, 0), child);
            assert!(libc::WIFEXITED(status), "status {status:#x}");
            libc::WEXITSTATUS(status)
        }
    }

    fn map(protection: i32) -> i64 {
        // SAFETY: a new mapping, which nothing uses.
        let address = unsafe {
            libc::mmap(std::ptr::null_mut(), 4096, protection, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0)
        };
        if address == libc::MAP_FAILED { -1 } else { 0 }
    }

    #[test]
    fn an_escaped_guest_can_start_nothing() {
        /// A system call with arguments that the kernel may refuse and cannot misuse.
        fn call(number: libc::c_long, first: libc::c_long, second: libc::c_long) -> i64 {
            // SAFETY: see above; it happens in a child that ends right after.
            unsafe { libc::syscall(number, first, second, 0, 0, 0) }
        }
        /// A name and what is attempted.
        type Attempt = (&'static str, fn() -> i64);
        let attempts: [Attempt; 9] = [
            ("execve", || call(libc::SYS_execve, c"/bin/true".as_ptr() as libc::c_long, 0)),
            ("fork", || call(libc::SYS_fork, 0, 0)),
            ("clone", || call(libc::SYS_clone, libc::SIGCHLD.into(), 0)),
            ("socket", || call(libc::SYS_socket, libc::AF_INET.into(), libc::SOCK_STREAM.into())),
            ("ptrace", || call(libc::SYS_ptrace, libc::PTRACE_TRACEME.into(), 0)),
            ("bpf", || call(libc::SYS_bpf, 0, 0)),
            ("ioctl TIOCSTI", || call(libc::SYS_ioctl, 0, 0x5412)),
            ("kill", || call(libc::SYS_kill, 0, 0)),
            ("mmap PROT_EXEC", || map(libc::PROT_READ | libc::PROT_EXEC)),
        ];
        for (name, attempt) in attempts {
            assert_eq!(confined(attempt), libc::EPERM, "{name}");
        }
    }

    #[test]
    fn what_a_guest_needs_is_left() {
        assert_eq!(confined(|| map(libc::PROT_READ | libc::PROT_WRITE)), 0);
        // SAFETY: writes nothing.
        assert_eq!(confined(|| unsafe { libc::syscall(libc::SYS_write, 1, c"".as_ptr(), 0) }), 0);
    }
}
