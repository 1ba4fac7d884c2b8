//! Compiled profiles, kept in files.
//!
//! A file is named by the digest of everything that the program depends on, and holds the digest of its own content:
//! what does not fit is compiled again and replaced. The directory and the files belong to the user who
//! runs us and are closed to all others; a directory that is not is not used.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use oci_spec::runtime::LinuxSeccomp;
use rustix::fs::{AtFlags, CWD, linkat};
use rustix::io::Errno;

use crate::{Error, Filter, Instruction, MAX_INSTRUCTIONS, NEW_LISTENER, Unknown, program_from_bytes};

/// Changes with the meaning of the content, beside the version of this crate.
const FORMAT: &str = "coracle seccomp cache 3";
const DIGEST_LENGTH: usize = 32;
const FLAGS_LENGTH: usize = 4;

impl Filter {
    /// The compiled profile out of the cache, or compiled, without the calls that are unknown, and put there. A cache that does not work is no error:
    /// the profile is then compiled each time.
    ///
    /// # Errors
    /// Those of [`Filter::compile`].
    pub fn cached(profile: &LinuxSeccomp, cache: &Path) -> Result<Self, Error> {
        let Some(key) = key(profile) else { return Self::compile(profile, Unknown::Skip) };
        let name = format!("{}.bpf", key.to_hex());
        if let Ok(filter) = load(&cache.join(&name), &key) {
            return Ok(filter);
        }
        let filter = Self::compile(profile, Unknown::Skip)?;
        // Nothing depends on it: the next start compiles again.
        let _ = store(cache, &name, &key, &filter);
        Ok(filter)
    }
}

/// The digest of what a compiled profile depends on: libseccomp's tables of system calls, and what the kernel
/// offers, among it.
fn key(profile: &LinuxSeccomp) -> Option<blake3::Hash> {
    let library = libseccomp::ScmpVersion::current().ok()?;
    let kernel = rustix::system::uname();
    let mut hasher = blake3::Hasher::new();
    for part in [FORMAT, env!("CARGO_PKG_VERSION"), &library.to_string(), std::env::consts::ARCH] {
        hasher.update(part.as_bytes()).update(&[0]);
    }
    hasher.update(kernel.release().to_bytes_with_nul());
    // Fields are written in the order of their definition, so that equal profiles are equal bytes.
    hasher.update(&serde_json::to_vec(profile).ok()?);
    Some(hasher.finalize())
}

/// The digest over the rest of a file, which is of use under its own name only.
fn digest(key: &blake3::Hash, content: &[u8]) -> blake3::Hash {
    blake3::keyed_hash(key.as_bytes(), content)
}

fn load(path: &Path, key: &blake3::Hash) -> io::Result<Filter> {
    let bad = || io::Error::from(io::ErrorKind::InvalidData);
    let flags = libc::O_NOFOLLOW | libc::O_CLOEXEC | libc::O_NONBLOCK;
    let mut file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let metadata = file.metadata()?;
    let limit = DIGEST_LENGTH + FLAGS_LENGTH + MAX_INSTRUCTIONS * size_of::<Instruction>();
    if !metadata.is_file() || !is_ours(&metadata) || metadata.size() > limit as u64 {
        return Err(bad());
    }
    let mut bytes = Vec::with_capacity(usize::try_from(metadata.size()).map_err(|_| bad())?);
    file.read_to_end(&mut bytes)?;
    let (stored, content) = bytes.split_first_chunk::<DIGEST_LENGTH>().ok_or_else(bad)?;
    if digest(key, content) != *stored {
        return Err(bad());
    }
    let (flags, program) = content.split_first_chunk::<FLAGS_LENGTH>().ok_or_else(bad)?;
    let program = program_from_bytes(program).filter(|program| !program.is_empty()).ok_or_else(bad)?;
    let flags = u32::from_le_bytes(*flags);
    // A filter out of here listens only where its profile notifies.
    Ok(Filter { program, flags, notifies: flags & NEW_LISTENER != 0 })
}

fn store(cache: &Path, name: &str, key: &blake3::Hash, filter: &Filter) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(cache)?;
    let directory = fs::symlink_metadata(cache)?;
    if !directory.is_dir() || !is_ours(&directory) {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    let mut content = filter.flags.to_le_bytes().to_vec();
    content.extend(filter.to_bytes());
    // It has no name before it is whole, so that one who is killed here leaves nothing.
    let mut options = OpenOptions::new();
    let mut file = options.write(true).custom_flags(libc::O_TMPFILE).mode(0o600).open(cache)?;
    file.write_all(digest(key, &content).as_bytes())?;
    file.write_all(&content)?;
    let (path, unnamed) = (cache.join(name), format!("/proc/self/fd/{}", file.as_raw_fd()));
    let link = || linkat(CWD, unnamed.as_str(), CWD, &path, AtFlags::SYMLINK_FOLLOW);
    match link() {
        // Of no use, or it would have been taken.
        Err(Errno::EXIST) => fs::remove_file(&path).and_then(|()| Ok(link()?)),
        linked => Ok(linked?),
    }
}

/// Ours, and nobody else may write (a directory) or read and write (a file).
fn is_ours(metadata: &fs::Metadata) -> bool {
    let forbidden = if metadata.is_dir() { 0o022 } else { 0o077 };
    metadata.uid() == rustix::process::geteuid().as_raw() && metadata.mode() & forbidden == 0
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const PROFILE: &str = r#"{"defaultAction":"SCMP_ACT_ERRNO","flags":["SECCOMP_FILTER_FLAG_LOG"],
        "syscalls":[{"names":["read","write"],"action":"SCMP_ACT_ALLOW"}]}"#;

    struct Cache {
        profile: LinuxSeccomp,
        dir: tempfile::TempDir,
        compiled: Filter,
    }

    impl Cache {
        fn new() -> Self {
            let profile: LinuxSeccomp = serde_json::from_str(PROFILE).unwrap();
            let dir = tempfile::tempdir().unwrap();
            let compiled = Filter::compile(&profile, Unknown::Skip).unwrap();
            let cache = Self { profile, dir, compiled };
            cache.get();
            cache
        }

        fn get(&self) {
            assert_eq!(Filter::cached(&self.profile, self.dir.path()).unwrap(), self.compiled);
        }

        fn file(&self) -> std::path::PathBuf {
            let mut files = fs::read_dir(self.dir.path()).unwrap();
            let file = files.next().unwrap().unwrap().path();
            assert!(files.next().is_none());
            file
        }

        fn loads(&self) -> bool {
            load(&self.file(), &key(&self.profile).unwrap()).is_ok()
        }
    }

    #[test]
    fn what_is_stored_is_found() {
        let cache = Cache::new();
        assert!(cache.loads());
        let before = fs::metadata(cache.file()).unwrap();
        assert_eq!(before.mode() & 0o7777, 0o600);
        cache.get();
        assert_eq!(fs::metadata(cache.file()).unwrap().ino(), before.ino());
    }

    #[test]
    fn a_bad_entry_is_replaced() {
        let damages: [fn(&mut Vec<u8>); 4] =
            [|bytes| bytes[60] ^= 1, |bytes| bytes[33] ^= 1, |bytes| bytes.truncate(50), Vec::clear];
        for damage in damages {
            let cache = Cache::new();
            let mut bytes = fs::read(cache.file()).unwrap();
            damage(&mut bytes);
            fs::write(cache.file(), bytes).unwrap();
            assert!(!cache.loads());
            cache.get();
            assert!(cache.loads());
        }
    }

    #[test]
    fn an_entry_of_another_profile_or_with_an_open_mode_is_not_used() {
        let cache = Cache::new();
        let other: LinuxSeccomp = serde_json::from_str(r#"{"defaultAction":"SCMP_ACT_ALLOW"}"#).unwrap();
        assert!(load(&cache.file(), &key(&other).unwrap()).is_err());
        fs::set_permissions(cache.file(), fs::Permissions::from_mode(0o640)).unwrap();
        assert!(!cache.loads());
        cache.get();
        assert!(cache.loads());
    }

    #[test]
    fn a_directory_that_others_may_write_is_not_used() {
        let cache = Cache::new();
        let open = cache.dir.path().join("open");
        fs::create_dir(&open).unwrap();
        fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
        assert_eq!(Filter::cached(&cache.profile, &open).unwrap(), cache.compiled);
        assert_eq!(fs::read_dir(&open).unwrap().count(), 0);
        assert!(Filter::cached(&cache.profile, Path::new("/proc/no/such")).is_ok());
    }
}
