//! What the process was started with: arguments, environment, descriptors.
//!
//! The runtime speaks to this program in variables that begin with `_CORACLE_`, which the guest does not see:
//! `_CORACLE_WASI_ARTIFACT` is the descriptor of the compiled module; `_CORACLE_WASI_DIRS` is the annotation
//! `org.coracle.wasm.dirs`, a comma-separated list of `PATH::NAME` as Wasmtime's `--dir` takes it.
//!
//! A guest's descriptors are standard input, output and error; from 3, what `LISTEN_FDS` counts, as sd_listen_fds(3)
//! has it and Wasmtime's `--listenfd`; then the directories in the order of the list. What else was left open is closed.

use std::{
    ffi::{CStr, CString, c_char},
    mem::ManuallyDrop,
    os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd},
};

use coracle_abi::descriptors::close;
use rustix::io::fcntl_getfd;

use crate::{
    descriptors::{Descriptor, Descriptors, FIRST_PREOPEN, Preopen},
    resolve::{self, Confinement},
    state::State,
    types::Errno,
};

/// What is preopened unless the container says otherwise: the whole of it, by its own names.
const DEFAULT_DIRS: &[u8] = b"/::/";

/// Why a guest could not get what it should start with.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A variable of the runtime makes no sense.
    #[error("{0:?} is not a descriptor")]
    Artifact(CString),
    /// A directory of the list cannot be preopened.
    #[error("directory {path:?} for the guest: {reason}")]
    Directory {
        /// Its path in the container.
        path: String,
        /// What the kernel said.
        reason: std::io::Error,
    },
    /// The list of directories has an empty path or name.
    #[error("directories for the guest: {0:?} is not PATH::NAME")]
    List(String),
    /// A descriptor that LISTEN_FDS promises is not there.
    #[error("LISTEN_FDS={count}, but descriptor {fd} is not open")]
    Passed {
        /// The variable's value.
        count: RawFd,
        /// The descriptor.
        fd: RawFd,
    },
}

/// A guest about to start.
pub struct Start {
    /// Descriptor of the compiled module.
    pub artifact: Option<RawFd>,
    /// Everything else.
    pub state: State,
}

/// Takes over what the process was started with.
///
/// # Safety
/// `argv` and `envp` must be execve(2)'s and stay as they are; no descriptor but the artifact's may belong to anybody
/// else.
pub unsafe fn take(argv: *const *const c_char, envp: *const *const c_char) -> Result<Start, Error> {
    // SAFETY: the caller's.
    let (args, environment) = unsafe { (strings(argv), strings(envp)) };
    let value =
        |name: &[u8]| environment.iter().find_map(|it| it.to_bytes().strip_prefix(name)?.strip_prefix(b"="));
    let artifact = value(b"_CORACLE_WASI_ARTIFACT")
        .map(|it| number(it).ok_or_else(|| Error::Artifact(CString::new(it).unwrap_or_default())))
        .transpose()?;
    let dirs = value(b"_CORACLE_WASI_DIRS").unwrap_or(DEFAULT_DIRS);
    // A variable that was meant for another process and inherited is none of ours.
    let for_us = value(b"LISTEN_PID").is_none_or(|it| number(it) == Some(std::process::id() as RawFd));
    let passed = value(b"LISTEN_FDS").filter(|_| for_us).and_then(number).unwrap_or(0);

    // Never dropped, not on an error either, which is still to be printed to standard error.
    let mut descriptors = ManuallyDrop::new(Descriptors::default());
    for fd in 0..FIRST_PREOPEN as RawFd {
        // SAFETY: the caller's. A standard descriptor that is closed stays closed.
        if let Some(descriptor) = unsafe { inherited(fd) } {
            let _ = descriptors.put(fd as usize, descriptor);
        }
    }
    for fd in (FIRST_PREOPEN as RawFd..).take(passed as usize) {
        // SAFETY: the caller's.
        let mut descriptor = unsafe { inherited(fd) }.ok_or(Error::Passed { count: passed, fd })?;
        descriptor.preopen = Some(Preopen::Passed);
        let _ = descriptors.put(fd as usize, descriptor);
    }
    // What an engine passes with `--preserve-fds` and says nothing about. A guest could not use it, an intruder could.
    let first = FIRST_PREOPEN as RawFd + passed;
    // SAFETY: the caller's; nothing has been opened here yet.
    unsafe {
        match artifact.filter(|&it| it >= first) {
            Some(artifact) => {
                close(first, artifact - 1);
                close(artifact + 1, RawFd::MAX);
            }
            None => close(first, RawFd::MAX),
        }
    }
    for (path, name) in directories(dirs)? {
        let descriptor = preopen(&path, name).map_err(|errno| Error::Directory {
            path: path.to_string_lossy().into_owned(),
            reason: errno.into(),
        })?;
        let _ = descriptors.insert(descriptor);
    }
    let environment = environment.into_iter().filter(|it| !it.to_bytes().starts_with(b"_CORACLE_")).collect();
    Ok(Start { artifact, state: State { args, environment, descriptors, ..State::default() } })
}

/// # Safety
/// `list` must be a list of C strings that ends with a null pointer, all of which stay as they are.
unsafe fn strings(list: *const *const c_char) -> Vec<&'static CStr> {
    let mut found = Vec::new();
    let mut next = list;
    // SAFETY: the caller's; the loop ends at the null pointer.
    unsafe {
        while !next.is_null() && !(*next).is_null() {
            found.push(CStr::from_ptr(*next));
            next = next.add(1);
        }
    }
    found
}

fn number(text: &[u8]) -> Option<RawFd> {
    str::from_utf8(text).ok()?.parse().ok().filter(|&it| it >= 0)
}

/// # Safety
/// If the descriptor is open, it must belong to nobody else.
unsafe fn inherited(fd: RawFd) -> Option<Descriptor> {
    // SAFETY: only used to ask whether it is open.
    fcntl_getfd(unsafe { BorrowedFd::borrow_raw(fd) }).ok()?;
    // SAFETY: open, and the caller says that it is nobody else's.
    let descriptor = Descriptor::new(unsafe { OwnedFd::from_raw_fd(fd) });
    descriptor.ok().map(|it| Descriptor { confinement: Confinement::Beneath, ..it })
}

fn preopen(path: &CStr, name: CString) -> rustix::io::Result<Descriptor> {
    let fd = resolve::open_preopen(path)?;
    let stat = rustix::fs::fstat(&fd)?;
    let mut descriptor = Descriptor::with(fd, &stat, rustix::fs::OFlags::RDONLY);
    if path.to_bytes().iter().all(|&it| it == b'/') {
        descriptor.confinement = Confinement::Container;
    }
    descriptor.preopen = Some(Preopen::Directory(name));
    Ok(descriptor)
}

/// Paths and names of the list. A path alone is its own name.
fn directories(list: &[u8]) -> Result<Vec<(CString, CString)>, Error> {
    let bad = |item: &[u8]| Error::List(String::from_utf8_lossy(item).into_owned());
    let parse = |item: &[u8]| {
        let (path, name) = match item.windows(2).position(|it| it == b"::") {
            Some(at) => (&item[..at], &item[at + 2..]),
            None => (item, item),
        };
        let string = |bytes| resolve::c_string(bytes).map_err(|_: Errno| bad(item));
        if path.is_empty() || name.is_empty() { Err(bad(item)) } else { Ok((string(path)?, string(name)?)) }
    };
    list.split(|&it| it == b',').filter(|it| !it.is_empty()).map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(text: &str) -> Option<Vec<(String, String)>> {
        let text_of = |it: CString| it.into_string().expect("UTF-8");
        let list = directories(text.as_bytes()).ok()?;
        Some(list.into_iter().map(|(path, name)| (text_of(path), text_of(name))).collect())
    }

    #[test]
    fn directories_are_paths_with_names() {
        let pair = |path: &str, name: &str| (path.to_owned(), name.to_owned());
        assert_eq!(list("/::/"), Some(vec![pair("/", "/")]));
        assert_eq!(list("/srv/data::data,/tmp"), Some(vec![pair("/srv/data", "data"), pair("/tmp", "/tmp")]));
        assert_eq!(list(""), Some(vec![]));
        assert_eq!(list("::x"), None);
        assert_eq!(list("/x::"), None);
    }

    #[test]
    fn only_the_root_is_unconfined() {
        let confinement = |path: &CStr| preopen(path, c"x".to_owned()).expect("a directory").confinement;
        assert_eq!(confinement(c"/"), Confinement::Container);
        assert_eq!(confinement(c"/tmp"), Confinement::Beneath);
    }
}
