//! Descriptors that nobody is to find open, by their numbers: close_range(2).
//!
//! Kernels before Linux 5.9 have no such call, those before 5.11 lack its flag, and a container's seccomp profile may
//! forbid it: then it is done one by one.

use std::os::fd::RawFd;

use rustix::process::{Resource, getrlimit};

/// The highest limit of open files unless somebody raised fs.nr_open.
const OPEN_MAX: u64 = 1 << 20;

/// Closes these descriptors and all between them. Makes system calls only.
///
/// # Safety
/// Nobody may use them any more.
pub unsafe fn close(first: RawFd, last: RawFd) {
    // SAFETY: the caller's.
    each_between(first, last, 0, |fd| unsafe { libc::close(fd) });
}

/// Has the next exec close this descriptor and all above it. Makes system calls only.
pub fn close_on_exec(first: RawFd) {
    each_between(first, RawFd::MAX, libc::CLOSE_RANGE_CLOEXEC, |fd| {
        // SAFETY: plain integers; nothing is closed before the exec.
        unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) }
    });
}

fn each_between(first: RawFd, last: RawFd, flags: libc::c_uint, one: impl Fn(RawFd) -> i32) {
    if first > last {
        return;
    }
    // SAFETY: plain integers; the callers say what becomes of the descriptors.
    if unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) } == 0 {
        return;
    }
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(OPEN_MAX).min(OPEN_MAX);
    for fd in first..=last.min(limit as RawFd) {
        // Most numbers are no descriptor.
        one(fd);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[test]
    fn a_kernel_that_knows_no_ranges_has_each_done() {
        let done = RefCell::new(Vec::new());
        let note = |fd| {
            done.borrow_mut().push(fd);
            0
        };
        // No kernel knows these flags.
        each_between(7, 11, libc::c_uint::MAX, note);
        assert_eq!(*done.borrow(), [7, 8, 9, 10, 11]);
        each_between(7, RawFd::MAX, libc::c_uint::MAX, note);
        assert!(done.borrow().len() < 1 << 21);
        done.borrow_mut().clear();
        each_between(11, 7, libc::c_uint::MAX, note);
        assert!(done.borrow().is_empty());
    }

    #[test]
    fn a_range_of_descriptors_is_closed() {
        // SAFETY: the child has its own table, makes system calls only, and ends by _exit.
        let status = unsafe {
            let child = libc::fork();
            assert!(child >= 0, "fork");
            if child == 0 {
                let open = |fd| libc::fcntl(fd, libc::F_GETFD) >= 0;
                let duplicated = [900, 901, 902, 903].iter().all(|&fd| libc::dup2(0, fd) == fd);
                close(901, 902);
                let closed = open(900) && !open(901) && !open(902) && open(903);
                close(903, 902);
                let kept = open(900) && open(903);
                libc::_exit(i32::from(!(duplicated && closed && kept)));
            }
            let mut status = 0;
            assert_eq!(libc::waitpid(child, &raw mut status, 0), child);
            status
        };
        assert_eq!(status, 0);
    }
}
