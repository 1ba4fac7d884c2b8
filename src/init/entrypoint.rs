//! Finding the container's program inside the container, and seeing what it is.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Access, AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::Error;
use crate::handler::Choice;
use crate::wasm::{self, Kind};

/// Where programs are looked for when the environment does not say; crun's default.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The program that was found.
#[derive(Debug)]
pub struct Entrypoint {
    /// Its path in the container.
    pub path: String,
    /// The open file, when it is or has to be a Wasm module.
    pub module: Option<File>,
}

/// Looks the program up as execvpe(3) does, with the ids, capabilities and working directory that it will have.
///
/// # Errors
/// [`Error::NotFound`] and [`Error::NotExecutable`] in runc's words, from which engines derive 127 and 126.
pub fn find(name: &str, environment: &[String], choice: Choice) -> Result<Entrypoint, Error> {
    if name.contains('/') {
        return probe(name, choice).map_err(|errno| match errno {
            Errno::NOENT | Errno::NOTDIR => {
                Error::StatProgram { name: name.to_owned(), reason: errno.into() }
            }
            errno => Error::NotExecutable { name: name.to_owned(), reason: errno.into() },
        });
    }
    let path = environment.iter().find_map(|e| e.strip_prefix("PATH=")).unwrap_or(DEFAULT_PATH);
    let mut refused = None;
    for directory in path.split(':') {
        let directory = if directory.is_empty() { "." } else { directory };
        match probe(&format!("{}/{name}", directory.trim_end_matches('/')), choice) {
            Ok(found) => return Ok(found),
            Err(errno @ Errno::ACCESS) => refused = Some(errno),
            // Whatever else is wrong with this directory, the next may have it.
            Err(_) => {}
        }
    }
    match refused {
        Some(errno) => Err(Error::NotExecutable { name: name.to_owned(), reason: errno.into() }),
        None => Err(Error::NotFound { name: name.to_owned() }),
    }
}

fn probe(path: &str, choice: Choice) -> Result<Entrypoint, Errno> {
    let stat = rustix::fs::stat(path)?;
    if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        return Err(Errno::ACCESS);
    }
    let regular = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
    // A module is read, not executed, so it needs no x bit; images often carry it without.
    if choice != Choice::Native && regular {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
        if let Ok(file) = rustix::fs::open(path, flags, Mode::empty()) {
            let is_wasm = wasm::sniff(file.as_fd()).is_ok_and(|kind| kind != Kind::NotWasm);
            if is_wasm || choice == Choice::Wasm {
                return Ok(Entrypoint { path: path.to_owned(), module: Some(File::from(file)) });
            }
        }
    }
    rustix::fs::accessat(rustix::fs::CWD, path, Access::EXEC_OK, AtFlags::EACCESS)?;
    Ok(Entrypoint { path: path.to_owned(), module: None })
}

/// How the program is run.
#[derive(Debug)]
pub enum Program {
    /// There is none: a container without `process` can be created and not started (runtime.md, "Start").
    Nothing,
    /// By the kernel, from its path in the container: a script's interpreter could not find it by descriptor.
    Path(CString),
    /// A Wasm module: by the handler, which finds the artifact at a descriptor.
    Handler {
        /// The handler.
        program: OwnedFd,
        /// What it runs.
        artifact: OwnedFd,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn file(directory: &std::path::Path, name: &str, content: &[u8], mode: u32) -> String {
        let path = directory.join(name);
        std::fs::write(&path, content).expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("mode");
        path.display().to_string()
    }

    #[test]
    fn a_module_needs_no_x_bit_but_a_program_does() {
        let directory = tempfile::tempdir().expect("a directory");
        let module = file(directory.path(), "m.wasm", b"\0asm\x01\0\0\0", 0o644);
        let script = file(directory.path(), "s", b"#!/bin/sh\n", 0o644);
        assert!(find(&module, &[], Choice::Detect).expect("a module").module.is_some());
        assert!(matches!(find(&module, &[], Choice::Native), Err(Error::NotExecutable { .. })));
        assert!(matches!(find(&script, &[], Choice::Detect), Err(Error::NotExecutable { .. })));
        assert!(find(&script, &[], Choice::Wasm).expect("demanded").module.is_some());
        let path = [format!("PATH=/nonexistent:{}", directory.path().display())];
        assert!(find("m.wasm", &path, Choice::Detect).expect("in PATH").module.is_some());
        assert!(matches!(find("s", &path, Choice::Detect), Err(Error::NotExecutable { .. })));
        assert!(matches!(find("none", &path, Choice::Detect), Err(Error::NotFound { .. })));
        assert!(matches!(find("/no/such", &[], Choice::Detect), Err(Error::StatProgram { .. })));
        assert!(matches!(find("/tmp", &[], Choice::Detect), Err(Error::NotExecutable { .. })));
    }
}
