//! Calls on an open file other than reading and writing.

use rustix::fs::{
    Advice, FallocateFlags, OFlags, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, fadvise, fallocate,
    fcntl_getfl, fcntl_setfl, fdatasync, fstat, fsync, ftruncate, futimens,
};

use crate::{
    descriptors::Preopen,
    memory::Memory,
    resolve,
    state::State,
    types::{Errno, Filestat, Result, fdflags, rights},
};

/// posix_fadvise(2).
pub fn fd_advise(state: &mut State, _: Memory<'_>, fd: u32, offset: u64, len: u64, advice: u32) -> Result {
    let advice = match advice {
        0 => Advice::Normal,
        1 => Advice::Sequential,
        2 => Advice::Random,
        3 => Advice::WillNeed,
        4 => Advice::DontNeed,
        5 => Advice::NoReuse,
        _ => return Err(Errno::Inval),
    };
    let fd = state.descriptors.with(fd, rights::FD_ADVISE)?;
    if i64::try_from(offset).is_err() || i64::try_from(len).is_err() {
        return Err(Errno::Inval);
    }
    Ok(fadvise(fd, offset, std::num::NonZeroU64::new(len), advice)?)
}

/// fallocate(2).
pub fn fd_allocate(state: &mut State, _: Memory<'_>, fd: u32, offset: u64, len: u64) -> Result {
    let fd = state.descriptors.with(fd, rights::FD_ALLOCATE)?;
    Ok(fallocate(fd, FallocateFlags::empty(), offset, len)?)
}

/// close(2).
pub fn fd_close(state: &mut State, _: Memory<'_>, fd: u32) -> Result {
    state.descriptors.remove(fd).map(drop)
}

/// fdatasync(2).
pub fn fd_datasync(state: &mut State, _: Memory<'_>, fd: u32) -> Result {
    Ok(fdatasync(state.descriptors.with(fd, rights::FD_DATASYNC)?)?)
}

/// fsync(2).
pub fn fd_sync(state: &mut State, _: Memory<'_>, fd: u32) -> Result {
    Ok(fsync(state.descriptors.with(fd, rights::FD_SYNC)?)?)
}

/// What a descriptor is and may do.
pub fn fd_fdstat_get(state: &mut State, memory: Memory<'_>, fd: u32, stat: u32) -> Result {
    let entry = state.descriptors.get(fd)?;
    // Directories are opened by us, with flags that a guest did not ask for.
    let flags = fcntl_getfl(&entry.fd).map(from_linux)?;
    let mut bytes = [0; 24];
    bytes[0] = entry.filetype;
    bytes[2..4].copy_from_slice(&flags.to_le_bytes());
    bytes[8..16].copy_from_slice(&entry.rights.to_le_bytes());
    bytes[16..24].copy_from_slice(&entry.inheriting.to_le_bytes());
    memory.write(stat, &bytes)
}

/// O_DSYNC. The constant of this name in rustix 1.1 is O_SYNC.
const DSYNC: OFlags = OFlags::from_bits_retain(libc::O_DSYNC.cast_unsigned());

/// `fdflags` to open(2)'s.
pub fn to_linux(flags: u16) -> OFlags {
    let mut linux = OFlags::empty();
    linux.set(OFlags::APPEND, flags & fdflags::APPEND != 0);
    linux.set(OFlags::NONBLOCK, flags & fdflags::NONBLOCK != 0);
    if flags & fdflags::DSYNC != 0 {
        linux |= DSYNC;
    }
    // Linux has no O_RSYNC of its own (open(2)).
    if flags & (fdflags::SYNC | fdflags::RSYNC) != 0 {
        linux |= OFlags::SYNC;
    }
    linux
}

fn from_linux(linux: OFlags) -> u16 {
    let mut flags = 0;
    if linux.contains(OFlags::APPEND) {
        flags |= fdflags::APPEND;
    }
    if linux.contains(OFlags::NONBLOCK) {
        flags |= fdflags::NONBLOCK;
    }
    // O_SYNC includes O_DSYNC's bit.
    if linux.contains(OFlags::SYNC) {
        flags |= fdflags::SYNC | fdflags::RSYNC;
    }
    if linux.contains(DSYNC) {
        flags |= fdflags::DSYNC;
    }
    flags
}

/// fcntl(2) F_SETFL. Linux cannot change how writes are synchronised of a file that is open; to ask for it fails.
pub fn fd_fdstat_set_flags(state: &mut State, _: Memory<'_>, fd: u32, flags: u32) -> Result {
    const SYNC: u16 = fdflags::DSYNC | fdflags::RSYNC | fdflags::SYNC;
    let flags = u16::try_from(flags).map_err(|_| Errno::Inval)?;
    let fd = state.descriptors.with(fd, rights::FD_FDSTAT_SET_FLAGS)?;
    let present = fcntl_getfl(fd)?;
    if flags & SYNC & !from_linux(present) != 0 {
        return Err(Errno::NotSup);
    }
    let changeable = OFlags::APPEND | OFlags::NONBLOCK;
    Ok(fcntl_setfl(fd, (present & !changeable) | (to_linux(flags) & changeable))?)
}

/// Gives up rights.
pub fn fd_fdstat_set_rights(state: &mut State, _: Memory<'_>, fd: u32, base: u64, inheriting: u64) -> Result {
    state.descriptors.limit(fd, base, inheriting)
}

/// fstat(2).
pub fn fd_filestat_get(state: &mut State, memory: Memory<'_>, fd: u32, stat: u32) -> Result {
    let found = filestat(state, fd)?;
    memory.write(stat, &layout(&found))
}

/// [`fd_filestat_get`] before it is laid out.
pub fn filestat(state: &State, fd: u32) -> Result<Filestat> {
    let entry = state.descriptors.entry(fd, rights::FD_FILESTAT_GET)?;
    let mut stat = Filestat::from(&fstat(&entry.fd)?);
    // The table knows whether a socket is of datagrams.
    stat.filetype = entry.filetype;
    Ok(stat)
}

/// `filestat` as preview1 has it.
pub fn layout(stat: &Filestat) -> [u8; 64] {
    let mut bytes = [0; 64];
    let fields = [stat.id.0, stat.id.1, u64::from(stat.filetype), stat.links, stat.size];
    for (slot, field) in bytes.chunks_exact_mut(8).zip(fields.into_iter().chain(stat.times)) {
        slot.copy_from_slice(&field.to_le_bytes());
    }
    bytes
}

/// ftruncate(2).
pub fn fd_filestat_set_size(state: &mut State, _: Memory<'_>, fd: u32, size: u64) -> Result {
    Ok(ftruncate(state.descriptors.with(fd, rights::FD_FILESTAT_SET_SIZE)?, size)?)
}

/// futimens(3).
pub fn fd_filestat_set_times(
    state: &mut State,
    _: Memory<'_>,
    fd: u32,
    accessed: u64,
    modified: u64,
    flags: u32,
) -> Result {
    let fd = state.descriptors.with(fd, rights::FD_FILESTAT_SET_TIMES)?;
    if resolve::is_procfs(fd)? {
        return Err(Errno::Access);
    }
    Ok(futimens(fd, &timestamps(accessed, modified, flags)?)?)
}

/// Two times and `fstflags` as utimensat(2) takes them.
pub fn timestamps(accessed: u64, modified: u64, flags: u32) -> Result<Timestamps> {
    let time = |set, now, nanos: u64| {
        let special = |tv_nsec| Ok(Timespec { tv_sec: 0, tv_nsec });
        match (flags & set != 0, flags & now != 0) {
            (true, true) => Err(Errno::Inval),
            (false, true) => special(UTIME_NOW as _),
            (false, false) => special(UTIME_OMIT as _),
            (true, false) => {
                Ok(Timespec { tv_sec: (nanos / 1_000_000_000) as _, tv_nsec: (nanos % 1_000_000_000) as _ })
            }
        }
    };
    if flags > 15 {
        return Err(Errno::Inval);
    }
    Ok(Timestamps { last_access: time(1, 2, accessed)?, last_modification: time(4, 8, modified)? })
}

/// What kind of preopened descriptor this is: a directory (tag 0), with the length of its name, or one passed in.
///
/// The witx knows only directories. A passed socket gets a tag that no library takes for a directory, rather than
/// EBADF: libraries look for preopened directories from 3 upwards until EBADF, and would find none after the socket.
pub fn fd_prestat_get(state: &mut State, memory: Memory<'_>, fd: u32, prestat: u32) -> Result {
    let mut bytes = [0; 8];
    match &state.descriptors.get(fd)?.preopen {
        Some(Preopen::Directory(name)) => {
            bytes[4..].copy_from_slice(&(name.as_bytes().len() as u32).to_le_bytes());
        }
        Some(Preopen::Passed) => bytes[0] = 1,
        None => return Err(Errno::BadF),
    }
    memory.write(prestat, &bytes)
}

/// The name of a preopened directory.
pub fn fd_prestat_dir_name(
    state: &mut State,
    memory: Memory<'_>,
    fd: u32,
    path: u32,
    path_len: u32,
) -> Result {
    match &state.descriptors.get(fd)?.preopen {
        Some(Preopen::Directory(name)) if name.as_bytes().len() > path_len as usize => {
            Err(Errno::NameTooLong)
        }
        Some(Preopen::Directory(name)) => memory.write(path, name.as_bytes()),
        Some(Preopen::Passed) => Err(Errno::NotDir),
        None => Err(Errno::BadF),
    }
}

/// dup2(2) that closes the source.
pub fn fd_renumber(state: &mut State, _: Memory<'_>, from: u32, to: u32) -> Result {
    state.descriptors.renumber(from, to)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_set_or_now_or_left() {
        assert_eq!(timestamps(0, 0, 3).err(), Some(Errno::Inval));
        assert_eq!(timestamps(0, 0, 12).err(), Some(Errno::Inval));
        assert_eq!(timestamps(0, 0, 16).err(), Some(Errno::Inval));
        let times = timestamps(2_500_000_000, 7, 1 | 8).expect("valid");
        assert_eq!((times.last_access.tv_sec, times.last_access.tv_nsec), (2, 500_000_000));
        assert_eq!(times.last_modification.tv_nsec, UTIME_NOW);
    }

    #[test]
    fn flags_survive_the_way_there_and_back() {
        for flags in [0, fdflags::APPEND, fdflags::NONBLOCK, fdflags::DSYNC, fdflags::APPEND | fdflags::DSYNC]
        {
            assert_eq!(from_linux(to_linux(flags)), flags);
        }
        assert_eq!(from_linux(to_linux(fdflags::SYNC)), fdflags::SYNC | fdflags::RSYNC | fdflags::DSYNC);
    }
}
