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

/// Where `--init` of podman, of older podmans and of docker puts a small init, which then comes before the program.
const ENGINES_INITS: [&str; 3] = ["/run/podman-init", "/dev/init", "/sbin/docker-init"];

/// The program that was found.
#[derive(Debug)]
pub struct Entrypoint {
    /// Its path in the container.
    pub path: String,
    /// The open file, when it is or has to be a Wasm module.
    pub module: Option<File>,
}

/// Finds what a command line starts, and the part of it that is the program's.
///
/// An engine's init before a module is passed over: it could not execute the module, and has no work, for the handler
/// obeys signals as the container's first process and has no children.
///
/// # Errors
/// As [`find`].
pub fn choose<'a>(
    arguments: &'a [String],
    environment: &[String],
    choice: Choice,
) -> Result<Option<(Entrypoint, &'a [String])>, Error> {
    if let [init, separator, rest @ ..] = arguments
        && choice != Choice::Native
        && ENGINES_INITS.contains(&init.as_str())
        && separator == "--"
        && let Some(name) = rest.first()
    {
        match find(name, environment, choice) {
            Ok(found) if found.module.is_some() => return Ok(Some((found, rest))),
            Err(error) if choice == Choice::Wasm => return Err(error),
            // The init will say what is wrong.
            Ok(_) | Err(_) => {}
        }
    }
    let Some(name) = arguments.first() else { return Ok(None) };
    Ok(Some((find(name, environment, choice)?, arguments)))
}

/// Looks the program up as execvpe(3) does, with the ids, capabilities and working directory that it will have.
///
/// # Errors
/// [`Error::NotFound`] and [`Error::NotExecutable`] in runc's words, from which engines derive 127 and 126.
fn find(name: &str, environment: &[String], choice: Choice) -> Result<Entrypoint, Error> {
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
            Err(errno @ (Errno::ACCESS | Errno::IO | Errno::MFILE | Errno::NFILE | Errno::NOMEM)) => {
                refused = Some(errno);
            }
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
        match rustix::fs::open(path, flags, Mode::empty()) {
            Ok(file) => {
                let kind =
                    wasm::sniff(file.as_fd()).map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))?;
                if kind != Kind::NotWasm || choice == Choice::Wasm {
                    return Ok(Entrypoint { path: path.to_owned(), module: Some(File::from(file)) });
                }
            }
            // A program need not be readable.
            Err(Errno::ACCESS | Errno::PERM | Errno::TXTBSY) => {}
            Err(errno) => return Err(errno),
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

    #[test]
    fn an_engines_init_is_for_native_programs() {
        let directory = tempfile::tempdir().expect("a directory");
        let module = file(directory.path(), "m.wasm", b"\0asm\x01\0\0\0", 0o644);
        let script = file(directory.path(), "s", b"#!/bin/sh\n", 0o755);
        let line = |init: &str, name: &str| [init, "--", name, "argument"].map(str::to_owned);
        for init in ENGINES_INITS {
            let line = line(init, &module);
            for choice in [Choice::Detect, Choice::Wasm] {
                let (found, rest) = choose(&line, &[], choice).expect("found").expect("a program");
                assert!(found.module.is_some() && found.path == module && *rest == line[2..]);
            }
            // Here there is no such init, which shows that it is what is looked for.
            assert!(matches!(choose(&line, &[], Choice::Native), Err(Error::StatProgram { .. })));
        }
        let (docker, other) = (ENGINES_INITS[2], "/sbin/tini");
        assert!(matches!(
            choose(&line(docker, &script), &[], Choice::Detect),
            Err(Error::StatProgram { .. })
        ));
        assert!(matches!(choose(&line(other, &module), &[], Choice::Detect), Err(Error::StatProgram { .. })));
        let missing = choose(&line(docker, "/missing"), &[], Choice::Wasm).expect_err("missing");
        assert!(missing.to_string().contains("/missing"), "{missing}");
        assert!(choose(&[], &[], Choice::Detect).expect("nothing to find").is_none());
    }
}
