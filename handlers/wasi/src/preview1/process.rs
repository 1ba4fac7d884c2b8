//! Arguments, environment, random numbers, exit.

use std::{ffi::CStr, mem::MaybeUninit, slice};

use rustix::{
    io::Errno as Os,
    rand::{GetRandomFlags, getrandom},
};

use crate::{
    memory::Memory,
    signals,
    state::State,
    types::{Errno, Result},
};

/// The guest's arguments.
pub fn args_get(state: &mut State, memory: Memory<'_>, argv: u32, buffer: u32) -> Result {
    store(memory, &state.args, argv, buffer)
}

/// The number of arguments and the bytes that they take.
pub fn args_sizes_get(state: &mut State, memory: Memory<'_>, count: u32, size: u32) -> Result {
    store_sizes(memory, &state.args, count, size)
}

/// The guest's environment.
pub fn environ_get(state: &mut State, memory: Memory<'_>, environ: u32, buffer: u32) -> Result {
    store(memory, &state.environment, environ, buffer)
}

/// The number of environment variables and the bytes that they take.
pub fn environ_sizes_get(state: &mut State, memory: Memory<'_>, count: u32, size: u32) -> Result {
    store_sizes(memory, &state.environment, count, size)
}

fn store_sizes(memory: Memory<'_>, strings: &[&CStr], count: u32, size: u32) -> Result {
    let bytes: usize = strings.iter().map(|it| it.to_bytes_with_nul().len()).sum();
    memory.write_u32(count, u32::try_from(strings.len()).map_err(|_| Errno::Overflow)?)?;
    memory.write_u32(size, u32::try_from(bytes).map_err(|_| Errno::Overflow)?)
}

fn store(memory: Memory<'_>, strings: &[&CStr], mut pointers: u32, mut buffer: u32) -> Result {
    for string in strings {
        let bytes = string.to_bytes_with_nul();
        memory.write(buffer, bytes)?;
        memory.write_u32(pointers, buffer)?;
        // Neither can overflow: what was just written ended within 32 bits. It may end exactly there.
        pointers = pointers.wrapping_add(4);
        buffer = buffer.wrapping_add(bytes.len() as u32);
    }
    Ok(())
}

/// getrandom(2), until the buffer is full.
pub fn random_get(_: &mut State, memory: Memory<'_>, buffer: u32, len: u32) -> Result {
    let start = memory.range(buffer, len)?.cast::<MaybeUninit<u8>>();
    // SAFETY: `range` checked it; nothing else refers to the memory during the call.
    let mut rest = unsafe { slice::from_raw_parts_mut(start, len as usize) };
    while !rest.is_empty() {
        match getrandom(&mut *rest, GetRandomFlags::empty()) {
            Ok((filled, _)) => {
                let count = filled.len();
                rest = &mut rest[count..];
            }
            Err(Os::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

/// sched_yield(2).
pub fn sched_yield(_: &mut State, _: Memory<'_>) -> Result {
    rustix::thread::sched_yield();
    Ok(())
}

/// Ends the process; the kernel keeps eight bits of the code.
pub fn proc_exit(_: &mut State, _: Memory<'_>, code: u32) {
    signals::exit(code as i32)
}

/// Does what the signal would do to a process that does not handle it.
pub fn proc_raise(_: &mut State, _: Memory<'_>, signal: u32) -> Result {
    // `signal` of the witx, by number: HUP is 1, SYS is 30.
    const LINUX: [i32; 31] = [
        0,
        libc::SIGHUP,
        libc::SIGINT,
        libc::SIGQUIT,
        libc::SIGILL,
        libc::SIGTRAP,
        libc::SIGABRT,
        libc::SIGBUS,
        libc::SIGFPE,
        libc::SIGKILL,
        libc::SIGUSR1,
        libc::SIGSEGV,
        libc::SIGUSR2,
        libc::SIGPIPE,
        libc::SIGALRM,
        libc::SIGTERM,
        libc::SIGCHLD,
        libc::SIGCONT,
        libc::SIGSTOP,
        libc::SIGTSTP,
        libc::SIGTTIN,
        libc::SIGTTOU,
        libc::SIGURG,
        libc::SIGXCPU,
        libc::SIGXFSZ,
        libc::SIGVTALRM,
        libc::SIGPROF,
        libc::SIGWINCH,
        libc::SIGIO,
        libc::SIGPWR,
        libc::SIGSYS,
    ];
    match LINUX.get(signal as usize) {
        None => Err(Errno::Inval),
        Some(0 | &libc::SIGCHLD | &libc::SIGCONT | &libc::SIGURG | &libc::SIGWINCH) => Ok(()),
        Some(&stop @ (libc::SIGSTOP | libc::SIGTSTP | libc::SIGTTIN | libc::SIGTTOU)) => {
            // SAFETY: raise(3) has no requirements. PID 1 of a container does not stop by it.
            unsafe { libc::raise(stop) };
            Ok(())
        }
        Some(&signal) => signals::exit(128 + signal),
    }
}
