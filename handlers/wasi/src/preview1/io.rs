//! Reading, writing and positions.
//!
//! The kernel gets the guest's own buffers. The calls are libc's because rustix wants slices for the buffers, and a
//! guest's buffers may overlap. Where the number of bytes goes is checked before anything is done: what was read and not told of
//! would be lost.

use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::fs::{SeekFrom, seek};

use crate::{
    memory::Memory,
    state::State,
    types::{Errno, Result, rights},
};

/// Makes a system call that returns a number of bytes, again when a signal that does nothing interrupted it.
pub fn count(mut call: impl FnMut() -> libc::ssize_t) -> Result<u32> {
    loop {
        if let Ok(done) = usize::try_from(call()) {
            // Linux transfers less than 2 GiB at once (read(2)).
            return Ok(done as u32);
        }
        match rustix::io::Errno::from_io_error(&std::io::Error::last_os_error()) {
            Some(rustix::io::Errno::INTR) => {}
            errno => return Err(errno.map_or(Errno::Io, Errno::from)),
        }
    }
}

/// Number of buffers as the kernel takes it; [`Memory::buffers`] limits it.
fn len(buffers: &[libc::iovec]) -> libc::c_int {
    buffers.len() as libc::c_int
}

/// A position as the kernel takes it.
fn position(offset: u64) -> Result<libc::off_t> {
    libc::off_t::try_from(offset).map_err(|_| Errno::Inval)
}

/// readv(2).
pub fn fd_read(
    state: &mut State,
    memory: Memory<'_>,
    fd: u32,
    list: u32,
    list_len: u32,
    nread: u32,
) -> Result {
    memory.range(nread, 4)?;
    let fd = state.descriptors.with(fd, rights::FD_READ)?;
    let buffers = memory.buffers(list, list_len)?;
    // SAFETY: the buffers are the guest's memory.
    let done = count(|| unsafe { libc::readv(fd.as_raw_fd(), buffers.as_ptr(), len(&buffers)) })?;
    memory.write_u32(nread, done)
}

/// writev(2).
pub fn fd_write(
    state: &mut State,
    memory: Memory<'_>,
    fd: u32,
    list: u32,
    list_len: u32,
    nwritten: u32,
) -> Result {
    memory.range(nwritten, 4)?;
    let fd = state.descriptors.with(fd, rights::FD_WRITE)?;
    let buffers = memory.buffers(list, list_len)?;
    // SAFETY: the buffers are the guest's memory.
    let done = count(|| unsafe { libc::writev(fd.as_raw_fd(), buffers.as_ptr(), len(&buffers)) })?;
    memory.write_u32(nwritten, done)
}

/// preadv(2).
pub fn fd_pread(
    state: &mut State,
    memory: Memory<'_>,
    fd: u32,
    list: u32,
    list_len: u32,
    offset: u64,
    nread: u32,
) -> Result {
    memory.range(nread, 4)?;
    let fd = state.descriptors.with(fd, rights::FD_READ)?;
    let (buffers, offset) = (memory.buffers(list, list_len)?, position(offset)?);
    // SAFETY: the buffers are the guest's memory.
    let done = count(|| unsafe { libc::preadv(fd.as_raw_fd(), buffers.as_ptr(), len(&buffers), offset) })?;
    memory.write_u32(nread, done)
}

/// pwritev(2).
pub fn fd_pwrite(
    state: &mut State,
    memory: Memory<'_>,
    fd: u32,
    list: u32,
    list_len: u32,
    offset: u64,
    nwritten: u32,
) -> Result {
    memory.range(nwritten, 4)?;
    let fd = state.descriptors.with(fd, rights::FD_WRITE)?;
    let (buffers, offset) = (memory.buffers(list, list_len)?, position(offset)?);
    // SAFETY: the buffers are the guest's memory.
    let done = count(|| unsafe { libc::pwritev(fd.as_raw_fd(), buffers.as_ptr(), len(&buffers), offset) })?;
    memory.write_u32(nwritten, done)
}

/// Where a position is counted from.
pub enum Whence {
    /// The beginning.
    Start,
    /// The present position.
    Current,
    /// The end.
    End,
}

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
        0 => Whence::Start,
        1 => Whence::Current,
        2 => Whence::End,
        _ => return Err(Errno::Inval),
    };
    seek_to(state, memory, fd, offset, whence, result)
}

/// [`fd_seek`] without the numbers, which `wasi_unstable` has in another order.
pub fn seek_to(
    state: &mut State,
    memory: Memory<'_>,
    fd: u32,
    offset: i64,
    whence: Whence,
    result: u32,
) -> Result {
    let needed = match whence {
        Whence::Current if offset == 0 => rights::FD_TELL,
        _ => rights::FD_SEEK,
    };
    let fd = state.descriptors.with(fd, needed)?;
    let target = match whence {
        Whence::Start => SeekFrom::Start(u64::try_from(offset).map_err(|_| Errno::Inval)?),
        Whence::Current => SeekFrom::Current(offset),
        Whence::End => SeekFrom::End(offset),
    };
    store_position(memory, fd, target, result)
}

/// lseek(2) that stays where it is.
pub fn fd_tell(state: &mut State, memory: Memory<'_>, fd: u32, result: u32) -> Result {
    let fd = state.descriptors.with(fd, rights::FD_TELL)?;
    store_position(memory, fd, SeekFrom::Current(0), result)
}

fn store_position(memory: Memory<'_>, fd: BorrowedFd<'_>, target: SeekFrom, result: u32) -> Result {
    memory.write_u64(result, seek(fd, target)?)
}
