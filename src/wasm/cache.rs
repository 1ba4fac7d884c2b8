//! The cache: artifacts under their keys' digests, each in a file with a footer that says what it is.
//!
//! An artifact is native code that runs with a container's rights, so the invariant is: a descriptor that leaves
//! here is of a file whose bytes, read through that very descriptor, have the digest in its footer (see
//! [`super::digest`] for when that is remembered instead of computed). Everything else is taken for no entry, is
//! removed, and the module is compiled again.
//!
//! A file of the cache is written once, under the name `KEY.new`, synced, and then renamed to `KEY`. The
//! compiler never sees it: it writes to memory, and its result is copied. `KEY.new` is the lock as well:
//! whoever holds flock(2) on it compiles, the others wait, then find the artifact. A process that is killed lets
//! go of the lock, and leaves a file that is never looked at and is written anew by the next one.

use std::fs::File;
use std::io::{self, IsTerminal, Seek};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use blake3::{Hash, Hasher};
use rustix::fs::{FlockOperation, Mode, Stat};
use rustix::io::Errno;

use super::digest::{self, Origin};
use super::directory::Directory;
use super::key::Key;

const MAGIC: &[u8; 16] = b"coracle wasm 1\n\0";
/// Magic, key, module, compiler, module's size, digest of the file up to here.
const FOOTER: usize = 16 + 3 * 32 + 8 + 32;
/// What the name of a file that is being written ends with.
const UNFINISHED: &str = ".new";
/// What nobody has touched for so long is swept when something is added.
const STALE: Duration = Duration::from_secs(30 * 24 * 3600);

/// The cache of one user.
#[derive(Debug)]
pub struct Cache {
    pub(super) directory: Directory,
}

/// What `ls` shows of an entry.
#[derive(Debug)]
pub struct Entry {
    /// Name of its file.
    pub name: String,
    /// The module's digest.
    pub module: Hash,
    /// The compiler's digest.
    pub compiler: Hash,
    /// The module's size in bytes.
    pub module_size: u64,
    /// The size of the artifact's file in bytes.
    pub size: u64,
    /// When it was compiled.
    pub created: SystemTime,
    /// When it was last used, as far as the file system keeps track.
    pub used: SystemTime,
}

/// One part in so many of a file system is left to others: images nobody vouches for decide how many modules there are.
const RESERVE: u64 = 20;

#[derive(Debug)]
struct Footer {
    key: Hash,
    module: Hash,
    compiler: Hash,
    module_size: u64,
    digest: Hash,
}

impl Footer {
    /// The bytes that the digest covers.
    fn head(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        for hash in [&self.key, &self.module, &self.compiler] {
            bytes.extend_from_slice(hash.as_bytes());
        }
        bytes.extend_from_slice(&self.module_size.to_le_bytes());
        bytes
    }

    fn read(file: BorrowedFd<'_>, size: u64) -> Option<Self> {
        let mut bytes = [0; FOOTER];
        let start = size.checked_sub(FOOTER as u64)?;
        if digest::read_at(file, &mut bytes, start).ok()? != FOOTER || !bytes.starts_with(MAGIC) {
            return None;
        }
        let hash = |at: usize| bytes[at..].first_chunk().map(|bytes| Hash::from_bytes(*bytes));
        Some(Self {
            key: hash(16)?,
            module: hash(48)?,
            compiler: hash(80)?,
            module_size: u64::from_le_bytes(*bytes[112..].first_chunk()?),
            digest: hash(120)?,
        })
    }
}

fn size(stat: &Stat) -> u64 {
    u64::try_from(stat.st_size).unwrap_or(0)
}

impl Cache {
    /// A cache in this directory.
    pub fn new(directory: Directory) -> Self {
        Self { directory }
    }

    /// Where it is, for messages.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// The artifact of this key, if it is there and sound.
    pub fn find(&self, key: &Key) -> Option<OwnedFd> {
        let name = key.file_name();
        match self.open_sound(&name, Some(key)) {
            Ok(found) => found,
            Err(reason) => {
                tracing::debug!("wasm cache: {name} is removed: {reason}");
                // If it cannot be removed it will be found unsound the next time as well.
                let _ = self.directory.remove(&name);
                None
            }
        }
    }

    fn open_sound(&self, name: &str, key: Option<&Key>) -> io::Result<Option<OwnedFd>> {
        let Some((file, stat)) = self.directory.open(name)? else {
            return Ok(None);
        };
        let damaged = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
        let footer = Footer::read(file.as_fd(), size(&stat)).ok_or_else(|| damaged("no footer"))?;
        if footer.key.to_hex().as_str() != name || key.is_some_and(|key| key.digest != footer.key) {
            return Err(damaged("it belongs to another key"));
        }
        let covered = size(&stat) - 32;
        let digest = match key {
            Some(_) => digest::remembered(&self.directory, file.as_fd(), &stat, covered, Origin::Ours)?,
            // Nobody asked for speed.
            None => digest::hash(file.as_fd(), covered)?,
        };
        if digest != footer.digest {
            return Err(damaged("its bytes have changed"));
        }
        Ok(Some(file))
    }

    /// The artifact of this key. If it is not there, `compile` makes it, in one process at a time; what that one
    /// made is handed out even if it cannot be stored. `name` is for the message while another one compiles.
    ///
    /// # Errors
    /// Those of `compile` alone.
    pub fn find_or_compile<E>(
        &self,
        key: &Key,
        module_size: u64,
        name: &str,
        compile: impl FnOnce() -> Result<(OwnedFd, bool), E>,
    ) -> Result<OwnedFd, E> {
        let unfinished = Unfinished::lock(self, key, name);
        // Another process may have finished while we waited.
        if let Some(artifact) = self.find(key) {
            return Ok(artifact);
        }
        let (artifact, keep) = compile()?;
        if !keep {
            return Ok(artifact);
        }
        let stored = unfinished.and_then(|file| file.finish(artifact.as_fd(), key, module_size));
        match stored {
            Ok(stored) => {
                self.sweep();
                Ok(stored)
            }
            Err(error) => {
                tracing::debug!("wasm cache: {name} is not stored: {error}");
                Ok(artifact)
            }
        }
    }

    /// Removes what killed processes left behind, and records that nobody renewed for long. An unfinished file
    /// is nobody's if its lock is free; whoever takes it from under a process that is just about to lock it
    /// only makes that one try again.
    pub fn sweep(&self) {
        for name in self.directory.names().unwrap_or_default() {
            let leftover = match self.directory.open(&name) {
                Ok(Some((file, _))) if name.ends_with(UNFINISHED) => {
                    rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok()
                }
                Ok(Some((_, stat))) if name.starts_with(digest::RECORD) => is_stale(&stat),
                _ => false,
            };
            if leftover {
                let _ = self.directory.remove(&name);
            }
        }
    }

    /// What is in the cache. Whether it is sound is not looked at.
    ///
    /// # Errors
    /// Those of reading the directory.
    pub fn entries(&self) -> io::Result<Vec<Entry>> {
        let names = self.directory.names()?;
        Ok(names.into_iter().filter_map(|name| self.entry(name)).collect())
    }

    fn entry(&self, name: String) -> Option<Entry> {
        let (file, stat) = self.directory.open(&name).ok()??;
        let footer = is_artifact(&name).then(|| Footer::read(file.as_fd(), size(&stat)))??;
        let (created, accessed) = (time(stat.st_mtime), time(stat.st_atime));
        Some(Entry {
            name,
            module: footer.module,
            compiler: footer.compiler,
            module_size: footer.module_size,
            size: size(&stat),
            created,
            used: created.max(accessed),
        })
    }

    /// Removes an entry.
    ///
    /// # Errors
    /// Those of unlinkat(2).
    pub fn remove(&self, name: &str) -> io::Result<()> {
        self.directory.remove(name)
    }

    /// Removes everything: entries, records, and what is unfinished.
    ///
    /// # Errors
    /// Those of reading the directory and of unlinkat(2).
    pub fn clear(&self) -> io::Result<()> {
        for name in self.directory.names()? {
            self.directory.remove(&name)?;
        }
        Ok(())
    }

    /// Hashes every entry and removes those that are not sound. Returns how many are, and what was wrong
    /// with the others.
    ///
    /// # Errors
    /// Those of reading the directory.
    pub fn verify(&self) -> io::Result<(usize, Vec<(String, io::Error)>)> {
        let (mut sound, mut bad) = (0, Vec::new());
        for name in self.directory.names()?.into_iter().filter(|name| is_artifact(name)) {
            match self.open_sound(&name, None) {
                Ok(Some(_)) => sound += 1,
                Ok(None) => {}
                Err(reason) => {
                    self.directory.remove(&name)?;
                    bad.push((name, reason));
                }
            }
        }
        Ok((sound, bad))
    }
}

/// Entries are named with a digest in hexadecimal.
fn is_artifact(name: &str) -> bool {
    Hash::from_hex(name).is_ok()
}

fn is_stale(stat: &Stat) -> bool {
    time(stat.st_mtime).elapsed().is_ok_and(|age| age > STALE)
}

fn time(seconds: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

/// `KEY.new`, locked by us. Removed when it is dropped without having been finished.
struct Unfinished<'a> {
    directory: &'a Directory,
    file: File,
    name: String,
    finished: bool,
}

impl<'a> Unfinished<'a> {
    /// Locks the file, waiting for whoever has it.
    fn lock(cache: &'a Cache, key: &Key, module: &str) -> io::Result<Self> {
        let directory = &cache.directory;
        let name = key.file_name() + UNFINISHED;
        loop {
            let (file, stat) = match directory.open_or_create(&name) {
                Ok(opened) => opened,
                Err(_) => {
                    // Something that is not ours lies there.
                    directory.remove(&name)?;
                    directory.open_or_create(&name)?
                }
            };
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Err(Errno::WOULDBLOCK) => {
                    if io::stderr().is_terminal() {
                        eprintln!("waiting for another process that compiles {module}");
                    }
                    rustix::io::retry_on_intr(|| rustix::fs::flock(&file, FlockOperation::LockExclusive))?;
                }
                locked => locked?,
            }
            // While we waited, it was finished and renamed, or swept: then we hold a lock on nothing.
            if directory.is_named(&name, &stat) {
                return Ok(Self { directory, file: file.into(), name, finished: false });
            }
        }
    }

    /// Copies the artifact into the file and puts it in its place. Returns it, open for reading.
    fn finish(mut self, artifact: BorrowedFd<'_>, key: &Key, module_size: u64) -> io::Result<OwnedFd> {
        self.file.set_len(0)?;
        self.file.rewind()?;
        let mut source = File::from(artifact.try_clone_to_owned()?);
        source.rewind()?;
        let space = rustix::fs::fstatvfs(&self.file)?;
        let left = (space.f_bavail * space.f_frsize).saturating_sub(source.metadata()?.len());
        if left < space.f_blocks * space.f_frsize / RESERVE {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let length = io::copy(&mut source, &mut self.file)?;
        let mut footer = Footer {
            key: key.digest,
            module: key.module,
            compiler: key.compiler,
            module_size,
            digest: Hash::from_bytes([0; 32]),
        };
        // The digest is taken of what is in the file, not of what was meant to be.
        let head = footer.head();
        self.file.write_all_at(&head, length)?;
        let mut hasher = Hasher::new();
        digest::update(&mut hasher, self.file.as_fd(), length + head.len() as u64)?;
        footer.digest = hasher.finalize();
        self.file.write_all_at(footer.digest.as_bytes(), length + head.len() as u64)?;
        // A remembered digest must not outlive bytes that never reached the disk.
        self.file.sync_all()?;
        let Some((reader, stat)) = self.directory.open(&self.name)? else {
            return Err(io::ErrorKind::NotFound.into());
        };
        let ours = rustix::fs::fstat(&self.file)?;
        if (stat.st_dev, stat.st_ino) != (ours.st_dev, ours.st_ino) {
            return Err(io::ErrorKind::NotFound.into());
        }
        self.directory.rename(&self.name, &key.file_name())?;
        self.finished = true;
        // Not earlier: those who come for the lock open the file for writing.
        rustix::fs::fchmod(&self.file, Mode::RUSR)?;
        Ok(reader)
    }
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if !self.finished {
            // Still under the lock, so it is the file we locked.
            let _ = self.directory.remove(&self.name);
        }
    }
}
