//! The functions of `wasi_unstable`, preview1's predecessor, which modules of 2019 import.
//!
//! They are preview1's but for what is defined here: the numbers of `whence`, and the records `filestat` and
//! `subscription`. (`wasi_unstable.witx`, in WASI's `phases/old/snapshot_0`.)

pub use crate::preview1::*;
use crate::{
    memory::{Memory, u32_at, u64_at},
    preview1::{
        descriptor,
        io::{Whence, seek_to},
        path,
        poll::{Subscription, Wait, poll_for, wait},
    },
    state::State,
    types::{Errno, Filestat, Result},
};

/// lseek(2).
pub fn fd_seek(
    state: &mut State,
    memory: Memory<'_>,
    fd: u32,
    offset: i64,
    whence: u32,
    result: u32,
) -> Result {
    let whence = match whence {
        0 => Whence::Current,
        1 => Whence::End,
        2 => Whence::Start,
        _ => return Err(Errno::Inval),
    };
    seek_to(state, memory, fd, offset, whence, result)
}

/// `filestat`, where the number of links had 32 bits.
fn layout(stat: &Filestat) -> [u8; 56] {
    let mut bytes = [0; 56];
    bytes[..8].copy_from_slice(&stat.id.0.to_le_bytes());
    bytes[8..16].copy_from_slice(&stat.id.1.to_le_bytes());
    bytes[16] = stat.filetype;
    bytes[20..24].copy_from_slice(&u32::try_from(stat.links).unwrap_or(u32::MAX).to_le_bytes());
    bytes[24..32].copy_from_slice(&stat.size.to_le_bytes());
    for (slot, time) in bytes[32..].chunks_exact_mut(8).zip(stat.times) {
        slot.copy_from_slice(&time.to_le_bytes());
    }
    bytes
}

/// fstat(2).
pub fn fd_filestat_get(state: &mut State, memory: Memory<'_>, fd: u32, stat: u32) -> Result {
    let found = descriptor::filestat(state, fd)?;
    memory.write(stat, &layout(&found))
}

/// fstatat(2).
pub fn path_filestat_get(
    state: &mut State,
    memory: Memory<'_>,
    fd: u32,
    lookup: u32,
    name: u32,
    len: u32,
    stat: u32,
) -> Result {
    let found = path::filestat(state, memory, fd, lookup, name, len)?;
    memory.write(stat, &layout(&found))
}

/// Waits until at least one subscription has something to say.
pub fn poll_oneoff(
    state: &mut State,
    memory: Memory<'_>,
    subscriptions: u32,
    events: u32,
    count: u32,
    stored: u32,
) -> Result {
    poll_for(state, memory, subscriptions, events, count, stored, parse, wait)
}

/// `subscription`, whose clock had a number of the guest's own as well.
fn parse(record: &[u8; 56]) -> Result<Subscription> {
    let wait = match record[8] {
        0 => {
            Wait::Clock { id: u32_at(record, 24), timeout: u64_at(record, 32), absolute: record[48] & 1 != 0 }
        }
        1 => Wait::Read(u32_at(record, 16)),
        2 => Wait::Write(u32_at(record, 16)),
        _ => return Err(Errno::Inval),
    };
    Ok((u64_at(record, 0), wait))
}
