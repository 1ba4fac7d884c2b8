//! Listing a directory.
//!
//! The kernel's positions in a directory (`d_off` of getdents64(2)) have 64 bits, on most file systems all of
//! them used, and `telldir` of a 32-bit guest keeps only half of a cookie. So cookies count entries, and the table of
//! descriptors remembers the kernel's position after each entry that was listed. A listing of any size, of a
//! directory that changes meanwhile, then behaves as it does for a native program.

use std::{
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd},
};

use rustix::fs::{RawDir, SeekFrom, seek};

use crate::{
    memory::Memory,
    state::State,
    types::{Result, filetype, rights},
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
    let directory = state.descriptors.entry_mut(fd, rights::FD_READDIR)?;
    // Check all of it first: what fits must not depend on how much there is.
    memory.range(buffer, buffer_len)?;
    let cookie = usize::try_from(cookie).unwrap_or(usize::MAX);
    let entries = list(directory.fd.as_fd(), &mut directory.positions, cookie, buffer_len as usize)?;
    memory.write(buffer, &entries)?;
    memory.write_u32(used, entries.len() as u32)
}

/// `dirent` records and names after the first `cookie` entries, at most `room` bytes.
fn list(fd: BorrowedFd<'_>, positions: &mut Vec<u64>, cookie: usize, room: usize) -> Result<Vec<u8>> {
    // A cookie beyond what was listed comes from another descriptor: then the entries between are skipped.
    let mut index = cookie.min(positions.len());
    let start = if index == 0 { 0 } else { positions[index - 1] };
    seek(fd, SeekFrom::Start(start))?;
    let size = room.clamp(MIN_KERNEL_BUFFER, MAX_KERNEL_BUFFER);
    let mut space = vec![MaybeUninit::uninit(); size];
    let mut entries = RawDir::new(fd, &mut space);
    let mut out = Vec::with_capacity(room.min(MAX_KERNEL_BUFFER));
    while out.len() < room {
        let Some(entry) = entries.next() else { break };
        let entry = entry?;
        match positions.get_mut(index) {
            Some(known) => *known = entry.next_entry_cookie(),
            None => positions.push(entry.next_entry_cookie()),
        }
        index += 1;
        if index <= cookie {
            continue;
        }
        let name = entry.file_name().to_bytes();
        let mut header = [0; HEADER];
        header[..8].copy_from_slice(&(index as u64).to_le_bytes());
        header[8..16].copy_from_slice(&entry.ino().to_le_bytes());
        header[16..20].copy_from_slice(&(name.len() as u32).to_le_bytes());
        header[20] = filetype::of(entry.file_type());
        out.extend_from_slice(&header);
        out.extend_from_slice(name);
    }
    out.truncate(room);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use rustix::fs::{Mode, OFlags, open};

    use super::*;

    /// Cookie and name of each entry that is there in full.
    fn parse(bytes: &[u8]) -> Vec<(u64, String)> {
        let mut found = Vec::new();
        let mut rest = bytes;
        while rest.len() >= HEADER {
            let len = crate::memory::u32_at(rest, 16) as usize;
            let Some(name) = rest.get(HEADER..HEADER + len) else { break };
            found.push((crate::memory::u64_at(rest, 0), String::from_utf8_lossy(name).into_owned()));
            rest = &rest[HEADER + len..];
        }
        found
    }

    #[test]
    fn cookies_lead_back_to_where_they_came_from() {
        let dir = tempfile::TempDir::new().expect("a directory");
        for it in 0..200 {
            fs::write(dir.path().join(format!("name-{it}")), "").expect("a file");
        }
        let open = || open(dir.path(), OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).expect("just made");
        let (fd, mut positions) = (open(), Vec::new());
        let all = parse(&list(fd.as_fd(), &mut positions, 0, 1 << 20).expect("a list"));
        assert_eq!(all.len(), 202);
        assert!(all.iter().enumerate().all(|(index, it)| it.0 == index as u64 + 1));

        let (other, mut none) = (open(), Vec::new());
        for cookie in [0, 1, 77, 200, 202] {
            let expected = all[cookie..].iter().take(3).cloned().collect::<Vec<_>>();
            let first = |fd: BorrowedFd<'_>, positions: &mut Vec<u64>| {
                let mut some = parse(&list(fd, positions, cookie, 200).expect("a list"));
                some.truncate(3);
                some
            };
            assert_eq!(first(fd.as_fd(), &mut positions), expected);
            none.clear();
            assert_eq!(first(other.as_fd(), &mut none), expected);
        }
    }

    #[test]
    fn a_full_buffer_ends_within_an_entry() {
        let dir = tempfile::TempDir::new().expect("a directory");
        let fd = open(dir.path(), OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).expect("just made");
        let list = |room| list(fd.as_fd(), &mut Vec::new(), 0, room).expect("a list").len();
        assert_eq!((list(0), list(10), list(26), list(1000)), (0, 10, 26, 2 * HEADER + 3));
    }
}
