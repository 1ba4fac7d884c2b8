//! Listing a directory.
//!
//! A cookie is the kernel's own position in the directory (`d_off` of getdents64(2)), so nothing is kept between calls:
//! a directory of any size, changed meanwhile or read from two places, behaves as it does for a native program.

use std::{mem::MaybeUninit, os::fd::BorrowedFd};

use rustix::fs::{RawDir, SeekFrom, seek};

use crate::{
    memory::Memory,
    state::State,
    types::{Errno, Result, filetype, rights},
};

/// Size of `dirent`, which the name follows.
const HEADER: usize = 24;

/// Room for any one entry: 19 bytes, a name of 255, NUL and padding.
const MIN_KERNEL_BUFFER: usize = 512;

/// No more is asked of the kernel at once.
const MAX_KERNEL_BUFFER: usize = 32 << 10;

/// Fills the buffer with entries from `cookie` on. The last may be cut short; a buffer that is not full means the end.
pub fn fd_readdir(
    state: &mut State,
    memory: Memory<'_>,
    fd: u32,
    buffer: u32,
    buffer_len: u32,
    cookie: u64,
    used: u32,
) -> Result {
    let fd = state.descriptors.with(fd, rights::FD_READDIR)?;
    // Check all of it first: what fits must not depend on how much there is.
    memory.range(buffer, buffer_len)?;
    seek(fd, SeekFrom::Start(i64::try_from(cookie).map_err(|_| Errno::Inval)? as u64))?;
    let entries = list(fd, buffer_len as usize)?;
    memory.write(buffer, &entries)?;
    memory.write_u32(used, entries.len() as u32)
}

/// `dirent` records and names from the present position, at most `room` bytes.
fn list(fd: BorrowedFd<'_>, room: usize) -> Result<Vec<u8>> {
    let size = room.clamp(MIN_KERNEL_BUFFER, MAX_KERNEL_BUFFER);
    let mut space = vec![MaybeUninit::uninit(); size];
    let mut entries = RawDir::new(fd, &mut space);
    let mut out = Vec::with_capacity(room.min(MAX_KERNEL_BUFFER));
    while out.len() < room {
        let Some(entry) = entries.next() else { break };
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        let mut header = [0; HEADER];
        header[..8].copy_from_slice(&entry.next_entry_cookie().to_le_bytes());
        header[8..16].copy_from_slice(&entry.ino().to_le_bytes());
        header[16..20].copy_from_slice(&(name.len() as u32).to_le_bytes());
        header[20] = filetype::of(entry.file_type());
        out.extend_from_slice(&header);
        out.extend_from_slice(name);
    }
    out.truncate(room);
    Ok(out)
}
