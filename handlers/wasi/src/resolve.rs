//! From a guest's path to a file, no further than the guest may go.
//!
//! Invariant: a path beneath a directory that is not the container's root never leads out of it, by whatever
//! mixture of `..` and symbolic links. The container's root needs no wall of ours, since pivot_root(2) made it the
//! root of this process: there the kernel's own resolution applies, and absolute links work as users expect.
//!
//! What procfs shows of the runner and of other processes is closed everywhere, whatever way leads to it: "magic" links
//! (`/proc/self/fd/3`, `/proc/self/exe`) are not followed, not even to ask about what is behind them; nothing is opened for
//! writing, and nothing that only its owner may read (memory, environment).
//!
//! openat2(2) does this (Linux 5.6). [`walk`] does it by hand: on kernels or under seccomp profiles without it, and
//! for calls that have no form which takes an open file and a flag against following links.

use std::{
    collections::VecDeque,
    ffi::{CStr, CString},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::atomic::{AtomicBool, Ordering},
};

use rustix::{
    fs::{
        AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, Stat, fstat, fstatfs, openat, openat2, readlinkat,
    },
    io::Errno as Os,
};

use crate::types::{Errno, Result};

/// How far paths beneath a directory reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Confinement {
    /// To every file of the container: the directory is its root or was opened beneath it.
    Container,
    /// To what is beneath the directory.
    Beneath,
}

/// As many symbolic links as the kernel follows (path_resolution(7)).
const MAX_LINKS: u32 = 40;

/// RESOLVE_BENEATH answers EAGAIN when a directory was renamed meanwhile; so often it is tried again.
const RACE_RETRIES: u32 = 32;

/// Set once openat2 turned out to be missing.
static NO_OPENAT2: AtomicBool = AtomicBool::new(false);

/// PROC_SUPER_MAGIC (statfs(2)).
const PROC_MAGIC: i64 = 0x9fa0;

/// Opens a directory of the container itself, to preopen it: links and all, as any program would.
/// The first call finds out whether there is openat2.
pub fn open_preopen(path: &CStr) -> rustix::io::Result<OwnedFd> {
    let open = |flags| match openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_MAGICLINKS) {
        // Old seccomp profiles answer EPERM to what they do not know.
        Err(Os::NOSYS | Os::PERM) => {
            NO_OPENAT2.store(true, Ordering::Relaxed);
            open_by_hand(path, flags)
        }
        result => result,
    };
    match open(OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC) {
        // A directory that can be passed through but not listed.
        Err(Os::ACCESS) => open(OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC),
        result => result,
    }
}

/// A path of the container's, absolute or not, without openat2.
fn open_by_hand(path: &CStr, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let bytes = path.to_bytes();
    let start = openat(CWD, if bytes.starts_with(b"/") { c"/" } else { c"." }, flags, Mode::empty())?;
    let relative = bytes.iter().position(|&it| it != b'/').map(|at| &bytes[at..]);
    let Some(relative) = relative.and_then(|it| CString::new(it).ok()) else { return Ok(start) };
    let walked = walk(start.as_fd(), Confinement::Container, &relative, true);
    let (parent, name) = walked.map_err(|errno| match errno {
        Errno::Loop => Os::LOOP,
        Errno::Access => Os::ACCESS,
        Errno::NotDir => Os::NOTDIR,
        _ => Os::NOENT,
    })?;
    openat(parent.get(start.as_fd()), &name, flags | OFlags::NOFOLLOW, Mode::empty())
}

/// openat2(2) beneath `dir`. What procfs has to hide is refused: see [`is_closed`].
pub fn open(
    dir: BorrowedFd<'_>,
    confinement: Confinement,
    path: &CStr,
    flags: OFlags,
    mode: Mode,
) -> Result<(OwnedFd, Stat)> {
    relative(path)?;
    let flags = flags | OFlags::CLOEXEC;
    // openat2 refuses what would be ignored.
    let flags = if flags.contains(OFlags::PATH) { flags } else { flags | OFlags::NOCTTY };
    let mode = if flags.contains(OFlags::CREATE) { mode } else { Mode::empty() };
    let fd = if NO_OPENAT2.load(Ordering::Relaxed) {
        let (parent, name) = walk(dir, confinement, path, !flags.contains(OFlags::NOFOLLOW))?;
        openat(parent.get(dir), &name, flags | OFlags::NOFOLLOW, mode)?
    } else {
        let resolve = match confinement {
            Confinement::Container => ResolveFlags::NO_MAGICLINKS,
            Confinement::Beneath => ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS,
        };
        let mut retries = 0;
        loop {
            match openat2(dir, path, flags, mode, resolve) {
                Err(Os::AGAIN) if retries < RACE_RETRIES => retries += 1,
                Err(Os::INTR) => {}
                Err(Os::XDEV) if confinement == Confinement::Beneath => return Err(Errno::NotCapable),
                result => break result?,
            }
        }
    };
    let stat = fstat(&fd)?;
    if is_closed(&fd, &stat, flags)? {
        return Err(Errno::Access);
    }
    Ok((fd, stat))
}

/// Whether this is a file of procfs that a guest must not have open like this: for writing, or at all if only its owner
/// may read it, as a process's memory, environment and addresses. They are the runner's, or another process's.
///
/// The path does not tell: a link, a bind mount or another mount of procfs may have led here. The modes of a process's files
/// do tell, for the kernel lets nobody change them.
fn is_closed(fd: &OwnedFd, stat: &Stat, flags: OFlags) -> Result<bool> {
    const FOR_OTHERS: u32 = 0o044;
    let writes = flags.intersects(OFlags::WRONLY | OFlags::RDWR | OFlags::TRUNC);
    let suspect = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
        && (writes || stat.st_mode & FOR_OTHERS == 0)
        // Nothing can be done with it.
        && !flags.contains(OFlags::PATH)
        // No device holds procfs.
        && rustix::fs::major(stat.st_dev) == 0;
    Ok(suspect && is_procfs(fd.as_fd())?)
}

/// Whether this is part of procfs.
pub fn is_procfs(fd: BorrowedFd<'_>) -> Result<bool> {
    Ok(fstatfs(fd)?.f_type as i64 == PROC_MAGIC)
}

/// Whether this link of procfs leads to an open file and not to what it reads: `/tmp/x`, `pipe:[123]`. Those that lead
/// to what they read are short relative paths: `self`, `mounts`.
fn is_magic(link: &OwnedFd, target: &CStr) -> Result<bool> {
    let target = target.to_bytes();
    let suspect = target.starts_with(b"/") || target.contains(&b':');
    Ok(suspect && is_procfs(link.as_fd())?)
}

/// A directory: the one that the path was relative to, or one on the way.
pub enum Directory {
    /// The one that the path was relative to.
    Same,
    /// Another one.
    Other(OwnedFd),
}

impl Directory {
    /// Its descriptor; `same` is the one that the path was relative to.
    pub fn get<'a>(&'a self, same: BorrowedFd<'a>) -> BorrowedFd<'a> {
        match self {
            Self::Same => same,
            Self::Other(fd) => fd.as_fd(),
        }
    }
}

/// The directory that holds the last component of `path`, and that component with any trailing slashes.
///
/// For calls that create, remove or rename an entry: those never follow a link in it, nor act on `.` and `..`.
pub fn parent(dir: BorrowedFd<'_>, confinement: Confinement, path: &CStr) -> Result<(Directory, CString)> {
    relative(path)?;
    let bytes = path.to_bytes();
    let end = bytes.iter().rposition(|&it| it != b'/').map_or(0, |it| it + 1);
    match bytes[..end].iter().rposition(|&it| it == b'/') {
        None => Ok((Directory::Same, path.to_owned())),
        Some(slash) => {
            let (front, name) = (c_string(&bytes[..slash])?, c_string(&bytes[slash + 1..])?);
            let flags = OFlags::PATH | OFlags::DIRECTORY;
            let (fd, _) = open(dir, confinement, &front, flags, Mode::empty())?;
            Ok((Directory::Other(fd), name))
        }
    }
}

/// Whether this is one component that a call with AT_SYMLINK_NOFOLLOW can be trusted with.
pub fn is_plain(path: &CStr) -> bool {
    let bytes = path.to_bytes();
    !bytes.is_empty() && !bytes.contains(&b'/') && bytes != b"." && bytes != b".."
}

/// Resolves by hand: the result is a directory and an entry of it, which is no link if `follow` is set and need not exist.
/// Calls on it must not follow links, since the entry can change at any time.
pub fn walk(
    dir: BorrowedFd<'_>,
    confinement: Confinement,
    path: &CStr,
    follow: bool,
) -> Result<(Directory, CString)> {
    relative(path)?;
    let mut todo = components(path.to_bytes());
    // Directories entered, so that `..` goes back the way that led here.
    let mut entered: Vec<OwnedFd> = Vec::new();
    let mut links = 0;
    while let Some(name) = todo.pop_front() {
        let last = todo.is_empty();
        let here = entered.last().map_or(dir, AsFd::as_fd);
        if name == b"." {
            continue;
        }
        if name == b".." {
            match confinement {
                // The kernel stops at the root.
                Confinement::Container => {
                    let above = directory(here, c"..")?;
                    entered.push(above);
                }
                Confinement::Beneath => drop(entered.pop().ok_or(Errno::NotCapable)?),
            }
            continue;
        }
        let name = c_string(&name)?;
        if last && !follow {
            return Ok((pop(entered), name));
        }
        let found = openat(here, &name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty());
        let found = match found {
            Err(Os::NOENT) if last => return Ok((pop(entered), name)),
            result => result?,
        };
        match FileType::from_raw_mode(fstat(&found)?.st_mode) {
            FileType::Symlink => {
                links += 1;
                if links > MAX_LINKS {
                    return Err(Errno::Loop);
                }
                let target = readlinkat(&found, c"", Vec::new())?;
                if is_magic(&found, &target)? {
                    return Err(Errno::Loop);
                }
                if target.to_bytes().starts_with(b"/") {
                    match confinement {
                        Confinement::Beneath => return Err(Errno::NotCapable),
                        Confinement::Container => entered.push(directory(CWD, c"/")?),
                    }
                }
                for name in components(target.to_bytes()).into_iter().rev() {
                    todo.push_front(name);
                }
            }
            _ if last => return Ok((pop(entered), name)),
            FileType::Directory => entered.push(found),
            _ => return Err(Errno::NotDir),
        }
    }
    Ok((pop(entered), c".".to_owned()))
}

fn pop(mut entered: Vec<OwnedFd>) -> Directory {
    entered.pop().map_or(Directory::Same, Directory::Other)
}

fn directory(at: BorrowedFd<'_>, path: &CStr) -> Result<OwnedFd> {
    Ok(openat(at, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

/// The path's components; a slash at the end demands a directory, which `.` after it does too.
fn components(path: &[u8]) -> VecDeque<Vec<u8>> {
    let mut list: VecDeque<_> =
        path.split(|&it| it == b'/').filter(|it| !it.is_empty()).map(<[u8]>::to_vec).collect();
    if path.ends_with(b"/") {
        list.push_back(b".".to_vec());
    }
    list
}

/// Preview1 has no absolute paths: a library makes them relative to a preopened directory.
fn relative(path: &CStr) -> Result {
    match path.to_bytes().first() {
        None => Err(Errno::NoEnt),
        Some(b'/') => Err(Errno::NotCapable),
        Some(_) => Ok(()),
    }
}

/// A path for the kernel. One with a NUL inside is none.
pub fn c_string(bytes: &[u8]) -> Result<CString> {
    CString::new(bytes).map_err(|_| Errno::Inval)
}

/// fstatat(2), which has no flag against following magic links: it is only asked about what is no link.
pub fn stat(dir: BorrowedFd<'_>, confinement: Confinement, path: &CStr, follow: bool) -> Result<Stat> {
    relative(path)?;
    if is_plain(path) {
        let stat = rustix::fs::statat(dir, path, AtFlags::SYMLINK_NOFOLLOW)?;
        if !follow || FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
            return Ok(stat);
        }
    }
    let nofollow = if follow { OFlags::empty() } else { OFlags::NOFOLLOW };
    Ok(open(dir, confinement, path, OFlags::PATH | nofollow, Mode::empty())?.1)
}

#[cfg(test)]
mod tests;
