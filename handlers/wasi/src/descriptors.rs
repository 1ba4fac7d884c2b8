//! The guest's descriptors.
//!
//! Invariant: a guest's number means a host descriptor only through this table, so it reaches nothing that was
//! not given to it: not the artifact, not a descriptor that happened to be inherited.
//!
//! Rights work as in Wasmtime: those that a guest asks for when it opens a file choose between reading and
//! writing, and are not otherwise a limit. But what it gives up with `fd_fdstat_set_rights` is gone, also for
//! whatever it opens beneath that directory later.

use std::{
    cell::Cell,
    ffi::CString,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::{
    event::{PollFlags, epoll::EventFlags},
    fs::{FileType, OFlags, Stat, fcntl_getfl, fstat},
    net::{SocketType, sockopt},
    termios::isatty,
};

use crate::{
    resolve::Confinement,
    types::{Errno, Result, filetype, rights},
};

/// Where preopened descriptors begin: after standard input, output and error.
pub const FIRST_PREOPEN: u32 = 3;

/// A guest that opens without closing gets `EMFILE` from the kernel well before; `fd_renumber` is limited to it too.
const MAX_DESCRIPTORS: usize = 1 << 20;

/// An open descriptor.
pub struct Descriptor {
    /// The host's descriptor.
    pub fd: OwnedFd,
    /// `filetype`.
    pub filetype: u8,
    /// What the guest may do with it.
    pub rights: u64,
    /// What it may at most do with what it opens beneath it.
    pub inheriting: u64,
    /// How far paths beneath it reach. Meaningless unless it is a directory.
    pub confinement: Confinement,
    /// Its name, if it was open from the start.
    pub preopen: Option<Preopen>,
    /// What `poll_oneoff` last said of it, until the guest uses it.
    pub told: Cell<PollFlags>,
    /// What `epoll_oneoff` has the kernel watch it for.
    pub watched: Cell<EventFlags>,
    /// Where the kernel stands after each entry of a directory that was listed: see `fd_readdir`.
    pub positions: Vec<u64>,
}

/// What `fd_prestat_get` says.
#[derive(Clone)]
pub enum Preopen {
    /// A directory, and the guest's name for it.
    Directory(CString),
    /// A descriptor passed in as `LISTEN_FDS` has it.
    Passed,
}

impl Descriptor {
    /// Describes an open file: the kernel is asked what it is.
    pub fn new(fd: OwnedFd) -> Result<Self> {
        let stat = fstat(&fd)?;
        let access = fcntl_getfl(&fd)?;
        Ok(Self::with(fd, &stat, access))
    }

    /// Describes an open file of which the caller knows what it is.
    pub fn with(fd: OwnedFd, stat: &Stat, access: OFlags) -> Self {
        let kind = FileType::from_raw_mode(stat.st_mode);
        let mut granted = match kind {
            FileType::Directory => rights::DIRECTORY,
            FileType::RegularFile | FileType::BlockDevice => {
                rights::STREAM | rights::REGULAR | rights::POSITION | rights::CHANGE | rights::FD_READ
            }
            FileType::CharacterDevice if isatty(&fd) => rights::STREAM | rights::FD_READ | rights::FD_WRITE,
            FileType::CharacterDevice => {
                rights::STREAM | rights::POSITION | rights::FD_READ | rights::FD_WRITE
            }
            FileType::Socket => {
                let datagrams = sockopt::socket_type(&fd) == Ok(SocketType::DGRAM);
                let filetype = if datagrams { filetype::SOCKET_DGRAM } else { filetype::SOCKET_STREAM };
                return Self::socket(fd, filetype);
            }
            _ => rights::STREAM | rights::FD_READ | rights::FD_WRITE,
        };
        match access & OFlags::RWMODE {
            OFlags::RDONLY => granted &= !rights::CHANGE,
            OFlags::WRONLY => granted &= !rights::FD_READ,
            _ => {}
        }
        let inheriting = if kind == FileType::Directory { rights::ALL } else { 0 };
        Self::of_kind(fd, filetype::of(kind), granted, inheriting)
    }

    /// Describes a socket of a known kind.
    pub fn socket(fd: OwnedFd, filetype: u8) -> Self {
        let granted = rights::STREAM | rights::SOCKET | rights::FD_READ | rights::FD_WRITE;
        Self::of_kind(fd, filetype, granted, 0)
    }

    fn of_kind(fd: OwnedFd, filetype: u8, rights: u64, inheriting: u64) -> Self {
        Self {
            fd,
            filetype,
            rights,
            inheriting,
            confinement: Confinement::Beneath,
            preopen: None,
            told: Cell::new(PollFlags::empty()),
            watched: Cell::new(EventFlags::empty()),
            positions: Vec::new(),
        }
    }
}

/// The table: the guest's number is the index.
#[derive(Default)]
pub struct Descriptors(Vec<Option<Descriptor>>);

impl Descriptors {
    /// The descriptor, if the guest has it.
    pub fn get(&self, fd: u32) -> Result<&Descriptor> {
        self.peek(fd).inspect(|it| it.told.set(PollFlags::empty()))
    }

    /// [`Self::get`] for those who ask about it, and do not use it.
    pub fn peek(&self, fd: u32) -> Result<&Descriptor> {
        self.0.get(fd as usize).and_then(Option::as_ref).ok_or(Errno::BadF)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Descriptor> {
        self.0.iter().flatten()
    }

    /// The host's descriptor, if the guest has it with all of these rights.
    pub fn with(&self, fd: u32, needed: u64) -> Result<BorrowedFd<'_>> {
        self.entry(fd, needed).map(|it| it.fd.as_fd())
    }

    /// The descriptor, if the guest has it with all of these rights.
    pub fn entry(&self, fd: u32, needed: u64) -> Result<&Descriptor> {
        let found = self.get(fd)?;
        if found.rights & needed == needed { Ok(found) } else { Err(Errno::NotCapable) }
    }

    /// [`Self::entry`], to change.
    pub fn entry_mut(&mut self, fd: u32, needed: u64) -> Result<&mut Descriptor> {
        let found = self.0.get_mut(fd as usize).and_then(Option::as_mut).ok_or(Errno::BadF)?;
        if found.rights & needed == needed { Ok(found) } else { Err(Errno::NotCapable) }
    }

    /// A directory from which paths may be resolved, if the guest has it with all of these rights.
    pub fn directory(&self, fd: u32, needed: u64) -> Result<&Descriptor> {
        let found = self.get(fd)?;
        if found.filetype != filetype::DIRECTORY {
            return Err(Errno::NotDir);
        }
        if found.rights & needed == needed { Ok(found) } else { Err(Errno::NotCapable) }
    }

    /// Gives the descriptor the lowest free number from 3 upwards.
    ///
    /// Not from 0, as POSIX has it: a file that took the place of a closed standard output would receive what
    /// the guest's library prints.
    pub fn insert(&mut self, descriptor: Descriptor) -> Result<u32> {
        let first = FIRST_PREOPEN as usize;
        let free = self.0.iter().skip(first).position(Option::is_none).map(|it| it + first);
        let index = free.unwrap_or(self.0.len().max(first));
        self.put(index, descriptor)?;
        Ok(index as u32)
    }

    /// Gives the descriptor this number, closing what had it.
    pub fn put(&mut self, index: usize, descriptor: Descriptor) -> Result {
        if index >= MAX_DESCRIPTORS {
            return Err(Errno::MFile);
        }
        if index >= self.0.len() {
            self.0.resize_with(index + 1, || None);
        }
        self.0[index] = Some(descriptor);
        Ok(())
    }

    /// Takes the descriptor out of the table; dropping it closes it.
    pub fn remove(&mut self, fd: u32) -> Result<Descriptor> {
        self.0.get_mut(fd as usize).and_then(Option::take).ok_or(Errno::BadF)
    }

    /// `fd_renumber`: `from` takes the place of `to`, which must be open, so that no other gets the number between.
    pub fn renumber(&mut self, from: u32, to: u32) -> Result {
        self.get(from)?;
        self.get(to)?;
        if from != to {
            self.0[to as usize] = self.0[from as usize].take();
        }
        Ok(())
    }

    /// Lowers the rights of a descriptor.
    pub fn limit(&mut self, fd: u32, base: u64, inheriting: u64) -> Result {
        let found = self.entry_mut(fd, 0)?;
        if base & !found.rights != 0 || inheriting & !found.inheriting != 0 {
            return Err(Errno::NotCapable);
        }
        (found.rights, found.inheriting) = (base, inheriting);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use rustix::pipe::pipe;

    use super::*;

    fn two() -> (Descriptors, u32, u32) {
        let mut table = Descriptors::default();
        let (reader, writer) = pipe().expect("a pipe");
        let reader = table.insert(Descriptor::new(reader).expect("a descriptor")).expect("a number");
        let writer = table.insert(Descriptor::new(writer).expect("a descriptor")).expect("a number");
        (table, reader, writer)
    }

    #[test]
    fn numbers_begin_at_3_and_are_used_again() {
        let (mut table, reader, writer) = two();
        assert_eq!((reader, writer), (3, 4));
        let closed = table.remove(3).expect("open");
        assert_eq!(table.remove(3).err(), Some(Errno::BadF));
        assert_eq!(table.insert(closed), Ok(3));
    }

    #[test]
    fn the_ends_of_a_pipe_can_do_one_thing_each() {
        let (table, reader, writer) = two();
        assert!(table.with(reader, rights::FD_READ).is_ok());
        assert_eq!(table.with(reader, rights::FD_WRITE).err(), Some(Errno::NotCapable));
        assert_eq!(table.with(writer, rights::FD_READ).err(), Some(Errno::NotCapable));
        assert_eq!(table.with(writer, rights::FD_SEEK).err(), Some(Errno::NotCapable));
        assert_eq!(table.directory(reader, 0).err(), Some(Errno::NotDir));
    }

    #[test]
    fn rights_only_shrink() {
        let (mut table, reader, _) = two();
        table.limit(reader, rights::POLL_FD_READWRITE, 0).expect("fewer");
        assert_eq!(table.with(reader, rights::FD_READ).err(), Some(Errno::NotCapable));
        assert_eq!(table.limit(reader, rights::FD_READ, 0), Err(Errno::NotCapable));
    }

    #[test]
    fn renumber_needs_both() {
        let (mut table, reader, writer) = two();
        assert_eq!(table.renumber(reader, 9), Err(Errno::BadF));
        table.renumber(writer, reader).expect("both open");
        assert!(table.with(reader, rights::FD_WRITE).is_ok());
        assert_eq!(table.get(writer).err(), Some(Errno::BadF));
    }
}
