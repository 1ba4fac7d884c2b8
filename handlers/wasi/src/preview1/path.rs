//! Calls that take a path beneath a directory.

use std::{
    ffi::CString,
    os::fd::{AsFd, BorrowedFd},
};

use rustix::{
    fs::{
        AtFlags, Mode, OFlags, fstat, linkat, mkdirat, openat, readlinkat, renameat, symlinkat, unlinkat,
        utimensat,
    },
    io::fcntl_dupfd_cloexec,
};

use super::descriptor::{layout, timestamps, to_linux};
use crate::{
    descriptors::Descriptor,
    memory::Memory,
    resolve::{self, Confinement, Directory},
    state::State,
    types::{Errno, Filestat, LOOKUP_SYMLINK_FOLLOW, Result, filetype, oflags, rights},
};

fn path(memory: Memory<'_>, address: u32, len: u32) -> Result<CString> {
    // Longer than any that the kernel takes (PATH_MAX); do not copy it first.
    if len > 4096 {
        return Err(Errno::NameTooLong);
    }
    resolve::c_string(&memory.bytes(address, len)?)
}

/// An entry of a directory, found from a path: what calls that act on entries take.
struct Entry<'a> {
    base: BorrowedFd<'a>,
    parent: Directory,
    name: CString,
}

impl<'a> Entry<'a> {
    fn find(state: &'a State, fd: u32, needed: u64, path: &CString) -> Result<Self> {
        let dir = state.descriptors.directory(fd, needed)?;
        let (parent, name) = resolve::parent(dir.fd.as_fd(), dir.confinement, path)?;
        Ok(Self { base: dir.fd.as_fd(), parent, name })
    }

    fn dir(&self) -> BorrowedFd<'_> {
        self.parent.get(self.base)
    }
}

/// mkdirat(2).
pub fn path_create_directory(state: &mut State, memory: Memory<'_>, fd: u32, name: u32, len: u32) -> Result {
    let entry = Entry::find(state, fd, rights::PATH_CREATE_DIRECTORY, &path(memory, name, len)?)?;
    Ok(mkdirat(entry.dir(), &entry.name, Mode::from_raw_mode(0o777))?)
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
    let found = filestat(state, memory, fd, lookup, name, len)?;
    memory.write(stat, &layout(&found))
}

/// [`path_filestat_get`] before it is laid out.
pub fn filestat(
    state: &State,
    memory: Memory<'_>,
    fd: u32,
    lookup: u32,
    name: u32,
    len: u32,
) -> Result<Filestat> {
    let path = path(memory, name, len)?;
    let dir = state.descriptors.directory(fd, rights::PATH_FILESTAT_GET)?;
    let follow = lookup & LOOKUP_SYMLINK_FOLLOW != 0;
    match resolve::stat(dir.fd.as_fd(), dir.confinement, &path, follow) {
        Ok(stat) => Ok(Filestat::from(&stat)),
        Err(Errno::Loop) if dir.confinement == Confinement::Container => {
            Ok(Filestat::from(&fstat(&own(state, &path)?.fd)?))
        }
        Err(errno) => Err(errno),
    }
}

/// utimensat(2).
pub fn path_filestat_set_times(
    state: &mut State,
    memory: Memory<'_>,
    fd: u32,
    lookup: u32,
    name: u32,
    len: u32,
    accessed: u64,
    modified: u64,
    flags: u32,
) -> Result {
    let times = timestamps(accessed, modified, flags)?;
    let path = path(memory, name, len)?;
    let dir = state.descriptors.directory(fd, rights::PATH_FILESTAT_SET_TIMES)?;
    let (parent, name) = entry(dir, &path, lookup)?;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let found = openat(parent.get(dir.fd.as_fd()), &name, flags, Mode::empty())?;
    if resolve::is_procfs(found.as_fd())? {
        return Err(Errno::Access);
    }
    Ok(utimensat(parent.get(dir.fd.as_fd()), &name, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

/// The entry that a path means, for calls that must not be left to follow a link by themselves.
fn entry(dir: &Descriptor, path: &CString, lookup: u32) -> Result<(Directory, CString)> {
    let follow = lookup & LOOKUP_SYMLINK_FOLLOW != 0;
    if !follow && resolve::is_plain(path) {
        return Ok((Directory::Same, path.clone()));
    }
    resolve::walk(dir.fd.as_fd(), dir.confinement, path, follow)
}

/// linkat(2).
pub fn path_link(
    state: &mut State,
    memory: Memory<'_>,
    old_fd: u32,
    lookup: u32,
    old: u32,
    old_len: u32,
    new_fd: u32,
    new: u32,
    new_len: u32,
) -> Result {
    let (old, new) = (path(memory, old, old_len)?, path(memory, new, new_len)?);
    let dir = state.descriptors.directory(old_fd, rights::PATH_LINK_SOURCE)?;
    let new = Entry::find(state, new_fd, rights::PATH_LINK_TARGET, &new)?;
    let (parent, name) = entry(dir, &old, lookup)?;
    Ok(linkat(parent.get(dir.fd.as_fd()), &name, new.dir(), &new.name, AtFlags::empty())?)
}

/// openat2(2).
pub fn path_open(
    state: &mut State,
    memory: Memory<'_>,
    fd: u32,
    lookup: u32,
    name: u32,
    len: u32,
    how: u32,
    base: u64,
    _inheriting: u64,
    flags: u32,
    opened: u32,
) -> Result {
    let path = path(memory, name, len)?;
    let mut needed = rights::PATH_OPEN;
    let mut open = to_linux(u16::try_from(flags).map_err(|_| Errno::Inval)?);
    if how & oflags::CREAT != 0 {
        needed |= rights::PATH_CREATE_FILE;
        open |= OFlags::CREATE;
    }
    if how & oflags::TRUNC != 0 {
        needed |= rights::PATH_FILESTAT_SET_SIZE;
        open |= OFlags::TRUNC;
    }
    open.set(OFlags::EXCL, how & oflags::EXCL != 0);
    open.set(OFlags::NOFOLLOW, lookup & LOOKUP_SYMLINK_FOLLOW == 0);
    if how & oflags::DIRECTORY != 0 {
        if how & (oflags::CREAT | oflags::TRUNC) != 0 {
            return Err(Errno::Inval);
        }
        open |= OFlags::DIRECTORY;
    }
    open |= match (base & rights::FD_READ != 0, base & rights::FD_WRITE != 0) {
        (true, true) => OFlags::RDWR,
        (false, true) => OFlags::WRONLY,
        (_, false) => OFlags::RDONLY,
    };
    let dir = state.descriptors.directory(fd, needed)?;
    let mode = Mode::from_raw_mode(0o666);
    let mut new = match resolve::open(dir.fd.as_fd(), dir.confinement, &path, open, mode) {
        Ok((new, stat)) => Descriptor { confinement: dir.confinement, ..Descriptor::with(new, &stat, open) },
        Err(Errno::Loop) if dir.confinement == Confinement::Container => duplicate(own(state, &path)?)?,
        Err(errno) => return Err(errno),
    };
    if new.filetype == filetype::DIRECTORY {
        // What is given up on a directory is given up for those beneath it.
        new.rights &= dir.rights | !rights::DIRECTORY;
    } else if base & rights::FD_READ == 0 {
        new.rights &= !rights::FD_READ;
    }
    new.rights &= dir.inheriting;
    new.inheriting &= dir.inheriting;
    let number = state.descriptors.insert(new)?;
    memory.write_u32(opened, number).inspect_err(|_| drop(state.descriptors.remove(number)))
}

/// `/dev/stdout` and its like: links to `/proc/self/fd`, where the runner's descriptors are and not the guest's.
/// Programs open them to log, so they mean the guest's own descriptors here.
fn own<'a>(state: &'a State, path: &CString) -> Result<&'a Descriptor> {
    let number = match path.as_bytes() {
        b"dev/stdin" => 0,
        b"dev/stdout" => 1,
        b"dev/stderr" => 2,
        other => {
            let number = other.strip_prefix(b"dev/fd/").and_then(|it| str::from_utf8(it).ok());
            number.and_then(|it| it.parse().ok()).ok_or(Errno::Loop)?
        }
    };
    state.descriptors.get(number).map_err(|_| Errno::NoEnt)
}

/// The same open file once more. A directory from outside of the container, as standard input can be one, stays closed
/// upwards: its confinement is its own, not that of the directory which the path was relative to.
fn duplicate(original: &Descriptor) -> Result<Descriptor> {
    let mut copy = Descriptor::new(fcntl_dupfd_cloexec(&original.fd, 3)?)?;
    copy.rights &= original.rights;
    copy.inheriting &= original.inheriting;
    copy.confinement = original.confinement;
    Ok(copy)
}

/// readlinkat(2); a target longer than the buffer is cut.
pub fn path_readlink(
    state: &mut State,
    memory: Memory<'_>,
    fd: u32,
    name: u32,
    len: u32,
    buffer: u32,
    buffer_len: u32,
    used: u32,
) -> Result {
    let entry = Entry::find(state, fd, rights::PATH_READLINK, &path(memory, name, len)?)?;
    let target = readlinkat(entry.dir(), &entry.name, Vec::new())?;
    let bytes = target.as_bytes();
    let bytes = &bytes[..bytes.len().min(buffer_len as usize)];
    memory.write(buffer, bytes)?;
    memory.write_u32(used, bytes.len() as u32)
}

/// unlinkat(2) of a directory.
pub fn path_remove_directory(state: &mut State, memory: Memory<'_>, fd: u32, name: u32, len: u32) -> Result {
    let entry = Entry::find(state, fd, rights::PATH_REMOVE_DIRECTORY, &path(memory, name, len)?)?;
    Ok(unlinkat(entry.dir(), &entry.name, AtFlags::REMOVEDIR)?)
}

/// renameat(2).
pub fn path_rename(
    state: &mut State,
    memory: Memory<'_>,
    old_fd: u32,
    old: u32,
    old_len: u32,
    new_fd: u32,
    new: u32,
    new_len: u32,
) -> Result {
    let old = Entry::find(state, old_fd, rights::PATH_RENAME_SOURCE, &path(memory, old, old_len)?)?;
    let new = Entry::find(state, new_fd, rights::PATH_RENAME_TARGET, &path(memory, new, new_len)?)?;
    Ok(renameat(old.dir(), &old.name, new.dir(), &new.name)?)
}

/// symlinkat(2). Outside of the container's root, where nothing could follow it, an absolute target is refused.
pub fn path_symlink(
    state: &mut State,
    memory: Memory<'_>,
    target: u32,
    target_len: u32,
    fd: u32,
    name: u32,
    len: u32,
) -> Result {
    let target = path(memory, target, target_len)?;
    let confinement = state.descriptors.directory(fd, rights::PATH_SYMLINK)?.confinement;
    if confinement == Confinement::Beneath && target.as_bytes().starts_with(b"/") {
        return Err(Errno::NotCapable);
    }
    let entry = Entry::find(state, fd, rights::PATH_SYMLINK, &path(memory, name, len)?)?;
    Ok(symlinkat(&target, entry.dir(), &entry.name)?)
}

/// unlinkat(2) of anything but a directory.
pub fn path_unlink_file(state: &mut State, memory: Memory<'_>, fd: u32, name: u32, len: u32) -> Result {
    let entry = Entry::find(state, fd, rights::PATH_UNLINK_FILE, &path(memory, name, len)?)?;
    Ok(unlinkat(entry.dir(), &entry.name, AtFlags::empty())?)
}
