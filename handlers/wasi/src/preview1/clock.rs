//! Clocks.

use rustix::time::{ClockId, Timespec, clock_getres};

use crate::{
    memory::Memory,
    state::State,
    types::{Errno, Result},
};

/// `clockid`, which is Linux's number for all four.
fn clock(id: u32) -> Result<ClockId> {
    match id {
        0 => Ok(ClockId::Realtime),
        1 => Ok(ClockId::Monotonic),
        2 => Ok(ClockId::ProcessCPUTime),
        3 => Ok(ClockId::ThreadCPUTime),
        _ => Err(Errno::Inval),
    }
}

/// A time in the unit of preview1.
pub fn nanoseconds(time: Timespec) -> u64 {
    u64::try_from(time.tv_sec).unwrap_or(0).saturating_mul(1_000_000_000).saturating_add(time.tv_nsec as u64)
}

/// What the clock says, in nanoseconds.
///
/// By the C library: guests ask often, and of the two it alone finds the vDSO (vdso(7)) once the process is confined.
pub fn now(clock: ClockId) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the structure is written to; the clocks are known to the kernel, so that nothing can fail.
    unsafe { libc::clock_gettime(clock as libc::clockid_t, &raw mut time) };
    nanoseconds(Timespec { tv_sec: time.tv_sec, tv_nsec: time.tv_nsec })
}

/// clock_getres(2).
pub fn clock_res_get(_: &mut State, memory: Memory<'_>, id: u32, resolution: u32) -> Result {
    memory.write_u64(resolution, nanoseconds(clock_getres(clock(id)?)))
}

/// clock_gettime(2).
pub fn clock_time_get(_: &mut State, memory: Memory<'_>, id: u32, _precision: u64, time: u32) -> Result {
    memory.write_u64(time, now(clock(id)?))
}
