//! From a module in a container to the two descriptors that run it: the handler's program and the artifact.
//!
//! What happens to a module, in order: [`sniff`] tells it from everything else by eight bytes; [`Tools::prepare`] hashes it
//! (or [remembers its digest](digest)), forms the [key](key) under which its artifact would be found, and looks
//! into the [cache](cache). Only if that has none, the module is copied to memory and [compiled](compiler)
//! by a program of its own. The artifact comes from there and from nowhere else: an image can supply a
//! module, never native code.
//!
//! The cache is an optimisation. If it cannot be used, for whatever reason, the module is compiled all the
//! same, into memory.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD, FileType, Mode, OFlags, Stat};

use crate::error::Os;

mod ancestors;
pub mod cache;
mod compiler;
mod digest;
pub mod directory;
mod key;
#[cfg(test)]
mod tests;

use cache::Cache;
use digest::Origin;
use directory::Directory;
use key::Key;

const COMPILER: &str = "coracle-wasmc";
const HANDLER: &str = "coracle-wasi";
/// Where packages put the programs, if not beside `coracle`.
const LIBEXEC: &str = match option_env!("CORACLE_LIBEXEC") {
    Some(directory) => directory,
    None => "/usr/local/libexec/coracle",
};
/// No module is larger; it is held in memory while it is compiled.
const LARGEST_MODULE: u64 = 1 << 30;

/// Whether a process runs a module: its program is our handler then, in whatever mount.
pub fn is_handler(pid: i32) -> bool {
    use std::os::unix::fs::MetadataExt;
    let identity = |path: PathBuf| std::fs::metadata(path).ok().map(|m| (m.dev(), m.ino()));
    let runs = identity(PathBuf::from(format!("/proc/{pid}/exe")));
    let handler = find_program(HANDLER).ok().and_then(identity);
    runs.is_some() && runs == handler
}

/// Why a module cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is a directory, a device, or the like.
    #[error("{name}: not a regular file")]
    NotAFile {
        /// The module.
        name: String,
    },
    /// It is larger than any module should be.
    #[error("{name}: larger than a module may be ({LARGEST_MODULE} bytes)")]
    TooLarge {
        /// The module.
        name: String,
    },
    /// It cannot be read.
    #[error("{name}: {reason}")]
    Read {
        /// The module.
        name: String,
        /// The system's reason.
        reason: Os,
    },
    /// There is no memory to compile it in.
    #[error("{name}: no memory to compile it: {reason}")]
    Memory {
        /// The module.
        name: String,
        /// The system's reason.
        reason: Os,
    },
    /// It is no module, or one that cannot be run here.
    #[error("{name}: {message}")]
    Refused {
        /// The module.
        name: String,
        /// What the compiler says about it.
        message: String,
    },
    /// The compiler did not end as it should.
    #[error("{name}: the compiler {what}")]
    Compiler {
        /// The module.
        name: String,
        /// What became of the compiler.
        what: String,
    },
    /// A program of ours is missing.
    #[error("{program}: not found in {directories}")]
    NotInstalled {
        /// The program.
        program: &'static str,
        /// Where it was looked for.
        directories: String,
    },
    /// A program of ours cannot be opened or run.
    #[error("{path}: {reason}")]
    Program {
        /// The program.
        path: PathBuf,
        /// The system's reason.
        reason: Os,
    },
}

/// What a file's first bytes say it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Anything else.
    NotWasm,
    /// A core module.
    Module,
    /// A component: the same magic number with another layer.
    Component,
    /// A version that is not known.
    UnknownVersion(u32),
    /// The magic number, and then the file ends.
    Truncated,
}

/// Looks at a file's first bytes, wherever the descriptor's offset stands.
///
/// # Errors
/// Those of pread(2).
pub fn sniff(file: BorrowedFd<'_>) -> io::Result<Kind> {
    let mut bytes = [0; 8];
    let length = digest::read_at(file, &mut bytes, 0)?;
    Ok(match &bytes[..length] {
        [0, b'a', b's', b'm', 1, 0, 0, 0] => Kind::Module,
        [0, b'a', b's', b'm', _, _, 1, 0] => Kind::Component,
        [0, b'a', b's', b'm', a, b, c, d] => Kind::UnknownVersion(u32::from_le_bytes([*a, *b, *c, *d])),
        [0, b'a', b's', b'm', ..] => Kind::Truncated,
        _ => Kind::NotWasm,
    })
}

/// What it takes to run a module.
#[derive(Debug)]
pub struct Handler {
    /// The handler's program, for execveat(2). Nothing can be written through it.
    pub program: OwnedFd,
    /// The module's native code, to be mapped.
    pub artifact: OwnedFd,
}

/// What it takes to run any module. It can be had while it is not yet known which one, or whether there is one.
#[derive(Debug)]
pub struct Tools {
    cache: Option<Cache>,
    compiler: Compiler,
    handler: OwnedFd,
}

impl Tools {
    /// Finds the programs and opens the cache.
    ///
    /// # Errors
    /// What is wrong with our own installation.
    pub fn get() -> Result<Self, Error> {
        let (compiler, program) = (find_program(COMPILER)?, find_program(HANDLER)?);
        let cache = default_cache();
        let compiler = Compiler::open(&compiler, cache.as_ref())?;
        Ok(Self { cache, compiler, handler: open_handler(&program)? })
    }

    /// Gets ready to run a module. `name` is its path, for messages; with `progress`, a compilation is shown on
    /// standard error if that is a terminal. `rootfs` is the device number of the container's root file system as
    /// its engine made it, if no process of the container can have had a hand in its mounts.
    ///
    /// # Errors
    /// What is wrong with the module, in one line, or with the compiler.
    pub fn prepare(
        self,
        module: BorrowedFd<'_>,
        name: &str,
        progress: bool,
        rootfs: Option<u64>,
    ) -> Result<Handler, Error> {
        let origin = Origin::Container(rootfs);
        let found = self.compiler.artifact(self.cache.as_ref(), module, name, progress, origin)?;
        Ok(Handler { program: self.handler, artifact: found.artifact })
    }
}

/// What came of asking for an artifact.
#[derive(Debug)]
pub struct Found {
    /// The artifact.
    pub artifact: OwnedFd,
    /// The module's digest.
    pub module: blake3::Hash,
    /// Whether it had to be compiled by this call.
    pub compiled: bool,
}

/// Compiles a module of the administrator's own into the cache, or finds it there.
///
/// # Errors
/// As [`Tools::get`] and [`Tools::prepare`].
pub fn warm(cache: &Cache, module: BorrowedFd<'_>, name: &str, progress: bool) -> Result<Found, Error> {
    artifact(&find_program(COMPILER)?, Some(cache), module, name, progress, Origin::Container(None))
}

/// Removes what killed compilations have left in the cache.
pub fn sweep() {
    if let Some(cache) = default_cache() {
        cache.sweep();
    }
}

fn default_cache() -> Option<Cache> {
    match Directory::open_default() {
        Ok(directory) => Some(Cache::new(directory)),
        Err(error) => {
            tracing::debug!("wasm cache: not used: {error}");
            None
        }
    }
}

/// The artifact of a module, from the cache or from the compiler.
fn artifact(
    compiler: &Path,
    cache: Option<&Cache>,
    module: BorrowedFd<'_>,
    name: &str,
    progress: bool,
    origin: Origin,
) -> Result<Found, Error> {
    Compiler::open(compiler, cache)?.artifact(cache, module, name, progress, origin)
}

/// The compiler's program.
#[derive(Debug)]
struct Compiler {
    path: PathBuf,
    stat: Stat,
    /// None without a cache, or if the program cannot be read: it may still be run.
    digest: Option<blake3::Hash>,
    /// What it compiles for. To ask the processor is slow in a virtual machine.
    cpu: String,
}

impl Compiler {
    fn open(path: &Path, cache: Option<&Cache>) -> Result<Self, Error> {
        let error = |e: rustix::io::Errno| Error::Program { path: path.to_owned(), reason: e.into() };
        let program =
            rustix::fs::openat(CWD, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(error)?;
        let stat = rustix::fs::fstat(&program).map_err(error)?;
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        let digest = |cache: &Cache| {
            digest::remembered(&cache.directory, program.as_fd(), &stat, size, Origin::Ours).ok()
        };
        Ok(Self { path: path.to_owned(), digest: cache.and_then(digest), stat, cpu: key::cpu() })
    }

    /// Whether the file has been the same since.
    fn is_same(&self) -> bool {
        let identity =
            |stat: &Stat| (stat.st_dev, stat.st_ino, stat.st_size, stat.st_ctime, stat.st_ctime_nsec);
        rustix::fs::stat(&self.path).is_ok_and(|now| identity(&now) == identity(&self.stat))
    }

    fn artifact(
        &self,
        cache: Option<&Cache>,
        module: BorrowedFd<'_>,
        name: &str,
        progress: bool,
        origin: Origin,
    ) -> Result<Found, Error> {
        let unreadable = |e: io::Error| Error::Read { name: name.to_owned(), reason: e.into() };
        let stat = rustix::fs::fstat(module).map_err(|e| unreadable(e.into()))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(Error::NotAFile { name: name.to_owned() });
        }
        let too_large = || Error::TooLarge { name: name.to_owned() };
        let size =
            u64::try_from(stat.st_size).ok().filter(|size| *size <= LARGEST_MODULE).ok_or_else(too_large)?;
        let cache = cache.zip(self.digest);
        let key = |module, compiler| Key::on_cpu(module, compiler, &self.cpu);

        // Whatever goes wrong with the module here will be seen again, and reported, below.
        if let Some((cache, compiler)) = cache
            && let Ok(module) = digest::remembered(&cache.directory, module, &stat, size, origin)
            && let Some(artifact) = cache.find(&key(module, compiler))
        {
            return mappable(cache, artifact, module, false).map_err(unreadable);
        }

        let copy = compiler::snapshot(module, LARGEST_MODULE).map_err(unreadable)?.ok_or_else(too_large)?;
        let size = copy.metadata().map_err(unreadable)?.len();
        let digest = digest::hash(copy.as_fd(), size).map_err(unreadable)?;
        let mut compiled = false;
        let mut compile = || -> Result<(OwnedFd, bool), Error> {
            compiled = true;
            let artifact = compiler::compile(&self.path, &copy, name, progress)?;
            // If an update replaced the compiler meanwhile, it is not known which one made this.
            Ok((artifact.into(), self.is_same()))
        };
        match cache {
            Some((cache, compiler)) => {
                let artifact = cache.find_or_compile(&key(digest, compiler), size, name, compile)?;
                mappable(cache, artifact, digest, compiled).map_err(unreadable)
            }
            None => Ok(Found { artifact: compile()?.0, module: digest, compiled: true }),
        }
    }
}

/// The artifact as a container may have it. The container's root could open the descriptor once more, for writing,
/// through /proc/PID/fd, and change code that other containers run; so it gets a read-only view of the file. Where there is
/// no right to mount, and on a file system mounted noexec, as some hosts have /var, it gets a sealed copy in memory.
fn mappable(cache: &Cache, artifact: OwnedFd, module: blake3::Hash, compiled: bool) -> io::Result<Found> {
    let view = if cache.directory.is_noexec()? {
        None
    } else {
        crate::program::read_only_file(artifact.as_fd()).ok()
    };
    let artifact = view.map_or_else(|| compiler::executable_copy(&artifact), Ok)?;
    Ok(Found { artifact, module, compiled })
}

/// A program of ours: beside `coracle`, or where packages put it.
fn find_program(program: &'static str) -> Result<PathBuf, Error> {
    let mut directories: Vec<PathBuf> = crate::program_dir().into_iter().collect();
    for directory in [LIBEXEC, "/usr/libexec/coracle"].map(PathBuf::from) {
        if !directories.contains(&directory) {
            directories.push(directory);
        }
    }
    let found = directories
        .iter()
        .map(|directory| directory.join(program))
        .find(|path| rustix::fs::accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS).is_ok());
    found.ok_or_else(|| {
        let list: Vec<_> = directories.iter().map(|d| d.display().to_string()).collect();
        Error::NotInstalled { program, directories: list.join(", ") }
    })
}

/// The handler's program runs inside the container and could be opened for writing there, through
/// /proc/PID/exe (CVE-2019-5736). A detached read-only mount of it prevents that, and costs nothing; it
/// takes CAP_SYS_ADMIN and Linux 5.12. Those who may not mount use the file itself if they could not write to it
/// anyway, as the container's root could not either, and a sealed copy in memory if they could.
fn open_handler(path: &Path) -> Result<OwnedFd, Error> {
    if let Ok(view) = crate::program::read_only_view(path) {
        return Ok(view);
    }
    let writable = rustix::fs::accessat(CWD, path, Access::WRITE_OK, AtFlags::EACCESS).is_ok();
    let opened = if writable {
        std::fs::File::open(path).and_then(crate::program::sealed_copy)
    } else {
        rustix::fs::openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map_err(io::Error::from)
    };
    opened.map_err(|e| Error::Program { path: path.to_owned(), reason: e.into() })
}
