//! What a compilation may use: memory, time, and room for what it makes.
//!
//! The limits grow with the module, so that a small one cannot ask for much, and are far above what ordinary modules
//! need: Cranelift takes one or two seconds of a desktop processor for each MiB of a server. The kernel enforces
//! them (setrlimit(2), alarm(2)); each has a line of its own for whoever meets it.

use std::alloc::{GlobalAlloc, Layout, System};
use std::io;
use std::sync::OnceLock;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::output;

const MIB: u64 = 1 << 20;

/// The limits for one module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Memory, in bytes: private and writable.
    memory: u64,
    /// Time, in seconds: of all processors together, and four times that on the clock.
    time: u64,
    /// The artifact, in bytes.
    artifact: u64,
}

/// What to say when a limit is met. Written down before, for there is no memory or no time to do it then.
struct Lines {
    memory: String,
    time: String,
}

static LINES: OnceLock<Lines> = OnceLock::new();

impl Limits {
    /// The limits for a module of that many bytes, on a machine with that many bytes of memory.
    pub fn new(module: u64, machine: u64) -> Self {
        let per_mib = |each: u64| (module / 1024).saturating_mul(each) / 1024;
        Self {
            // A machine on which others run as well.
            memory: (1024 * MIB + per_mib(256 * MIB)).min(8 * 1024 * MIB).min(machine / 2),
            time: (60 + per_mib(30)).min(3600),
            artifact: (64 * MIB + per_mib(64 * MIB)).min(4 * 1024 * MIB),
        }
    }

    /// The most bytes an artifact may have.
    pub fn artifact(self) -> u64 {
        self.artifact
    }

    /// The lower ones of these and those that the process has already, from whoever started it.
    pub fn inherited(self) -> Self {
        let least = |limit: u64, resource| getrlimit(resource).current.map_or(limit, |it| it.min(limit));
        Self {
            memory: least(self.memory, Resource::Data),
            time: least(self.time, Resource::Cpu),
            artifact: least(self.artifact, Resource::Fsize),
        }
    }

    /// Puts this process and its children under the limits, for good.
    ///
    /// # Errors
    /// Those of setrlimit(2).
    pub fn apply(self) -> io::Result<()> {
        let _ = LINES.set(Lines {
            memory: format!("compiling it takes more than {} MiB of memory\n", self.memory / MIB),
            time: format!("compiling it takes more than {} s\n", self.time),
        });
        // Too large a file is an error of write(2) then, and no signal.
        set(libc::SIGXFSZ, libc::SIG_IGN);
        set(libc::SIGXCPU, out_of_time as *const () as usize);
        set(libc::SIGALRM, out_of_time as *const () as usize);
        let limit = |resource, current: u64, grace: u64| {
            let maximum = getrlimit(resource).maximum;
            let maximum = maximum.map_or(current + grace, |it| it.min(current + grace));
            setrlimit(resource, Rlimit { current: Some(current), maximum: Some(maximum) })
        };
        limit(Resource::Core, 0, 0)?;
        limit(Resource::Data, self.memory, 0)?;
        limit(Resource::Fsize, self.artifact, 0)?;
        // At the second of the two limits it would be killed, without a word.
        Ok(limit(Resource::Cpu, self.time, 5)?)
    }

    /// Has this process end after a time on the clock as well. A child does not inherit that.
    pub fn start_clock(self) {
        // SAFETY: a plain integer.
        unsafe { libc::alarm(u32::try_from(4 * self.time).unwrap_or(u32::MAX)) };
    }
}

fn set(signal: i32, handler: libc::sighandler_t) {
    // SAFETY: all zeroes is a valid sigaction, and the handler makes system calls only. It fails only for signals
    // that do not exist.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler;
        action.sa_flags = libc::SA_ONSTACK;
        libc::sigaction(signal, &raw const action, std::ptr::null_mut());
    }
}

fn give_up(line: Option<&String>) -> ! {
    output::fail(line.map_or(b"out of memory\n", |line| line.as_bytes()))
}

extern "C" fn out_of_time(_: i32) {
    // What it interrupted may be the last words, which have to be finished.
    if !output::is_failing() {
        give_up(LINES.get().map(|lines| &lines.time))
    }
}

/// The system's allocator, which ends the program in its own words when there is no more memory.
pub struct Allocator;

fn checked(address: *mut u8) -> *mut u8 {
    if address.is_null() {
        give_up(LINES.get().map(|lines| &lines.memory));
    }
    address
}

// SAFETY: everything is the system allocator's.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's.
        checked(unsafe { System.alloc(layout) })
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's.
        checked(unsafe { System.alloc_zeroed(layout) })
    }

    unsafe fn realloc(&self, address: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller's.
        checked(unsafe { System.realloc(address, layout, size) })
    }

    unsafe fn dealloc(&self, address: *mut u8, layout: Layout) {
        // SAFETY: the caller's.
        unsafe { System.dealloc(address, layout) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MACHINE: u64 = 64 << 30;

    #[test]
    fn limits_grow_with_the_module_up_to_a_point() {
        let small = Limits::new(100, MACHINE);
        assert_eq!(small, Limits { memory: 1024 * MIB, time: 60, artifact: 64 * MIB });
        let large = Limits::new(10 * MIB, MACHINE);
        assert_eq!(large, Limits { memory: 3584 * MIB, time: 360, artifact: 704 * MIB });
        let huge = Limits::new(u64::MAX, MACHINE);
        assert_eq!(huge, Limits { memory: 8192 * MIB, time: 3600, artifact: 4096 * MIB });
    }

    #[test]
    fn half_of_the_machine_is_left_to_others() {
        assert_eq!(Limits::new(100, 512 * MIB).memory, 256 * MIB);
    }
}
