//! Mapping the compiled module from the descriptor on which the runtime passed it.
//!
//! Wasmer maps an ELF artifact straight from its file, which keeps it shared between containers, but only
//! given a path; from bytes it makes a private copy. A container need not have a path to a descriptor: there may be
//! no /proc. So the function by which the standard library opens files, open64(3), is defined here. For one name
//! that no file has it duplicates the artifact's descriptor, once per opening; anything else goes to the kernel.

use std::{
    ffi::{CStr, c_char, c_int, c_uint},
    os::fd::{FromRawFd, OwnedFd, RawFd},
    sync::atomic::{AtomicI32, Ordering},
};

use rustix::io::fcntl_getfd;
use wasmer::{DeserializeError, Engine, Module};

/// Longer than a file's name can be (NAME_MAX is 255), so it cannot be one.
const NAME: &str = match std::str::from_utf8(&[b'a'; 300]) {
    Ok(name) => name,
    Err(_) => "",
};

/// The artifact's descriptor while it is being mapped, else -1.
static ARTIFACT: AtomicI32 = AtomicI32::new(-1);

/// Why the artifact could not be mapped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The runtime did not say which descriptor it is.
    #[error("this program is started by coracle, which passes it a compiled module")]
    Missing,
    /// The descriptor that the runtime named is not open.
    #[error("descriptor {0} of the compiled module is not open")]
    Closed(RawFd),
    /// The engine refused it.
    #[error("cannot load the compiled module: {0}")]
    Load(#[from] DeserializeError),
}

/// Maps the module and closes the descriptor.
///
/// # Safety
/// The descriptor must be that of an artifact which coracle-wasmc made: it is native code. It must be nobody
/// else's, for it is closed.
pub unsafe fn load(engine: &Engine, fd: RawFd) -> Result<Module, Error> {
    // SAFETY: only used to ask whether it is open.
    fcntl_getfd(unsafe { std::os::fd::BorrowedFd::borrow_raw(fd) }).map_err(|_| Error::Closed(fd))?;
    // SAFETY: open, and the caller says that it is nobody else's.
    let _closed_at_the_end = unsafe { OwnedFd::from_raw_fd(fd) };
    ARTIFACT.store(fd, Ordering::Relaxed);
    // SAFETY: the caller vouches for what the file contains.
    let module = unsafe { Module::deserialize_from_file(engine, NAME) };
    ARTIFACT.store(-1, Ordering::Relaxed);
    Ok(module?)
}

/// open64(3) for this program. C's is variadic; on the architectures that Linux containers run on, an argument that
/// may be missing is passed like one that is always there.
///
/// # Safety
/// As open(2): `path` is a C string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn open64(path: *const c_char, flags: c_int, mode: c_uint) -> c_int {
    let artifact = ARTIFACT.load(Ordering::Relaxed);
    // SAFETY: the caller passes a C string.
    if artifact >= 0 && unsafe { CStr::from_ptr(path) }.to_bytes() == NAME.as_bytes() {
        // SAFETY: the descriptor is open as long as it stands in ARTIFACT. The offset, which duplicates share, goes
        // back to the beginning, where a file just opened is read from.
        return unsafe {
            libc::lseek(artifact, 0, libc::SEEK_SET);
            libc::fcntl(artifact, libc::F_DUPFD_CLOEXEC, 3)
        };
    }
    // SAFETY: passed on as it came.
    unsafe { libc::openat(libc::AT_FDCWD, path, flags | libc::O_LARGEFILE, mode) }
}
