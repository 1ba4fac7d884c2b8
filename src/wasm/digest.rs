//! The digest of a file, and remembering it from one start to the next.
//!
//! Digests are BLAKE3. Hashing a large module or artifact at every start would cost milliseconds, so a digest
//! is remembered under the file's identity: file system, inode, size, and the times of last change in
//! nanoseconds. The change time (ctime) is what this rests on: the kernel sets it whenever bytes, owner or mode
//! change, and no system call can set it back (touching mtime changes it too). What remains:
//!
//! * Two changes within one tick of the kernel's clock have the same ctime. As git does with its index, a
//!   digest is remembered only if the file had been at rest for a while when it was hashed ([`REST`]).
//! * Some file systems do not keep times themselves: network ones, FUSE, and images that carry their times
//!   (squashfs, erofs), where two files may agree in everything by accident or malice. Only file systems on
//!   [a short list](keeps_times) are believed; files on others are hashed every time.
//! * An overlay shows its layers' times, and an ordinary user can mount one over FUSE in a user namespace. So
//!   a container's file on an overlay is believed only when that overlay is the container's own root file
//!   system, mounted by the engine, and when its ctime is a clock's reading and not an image's.
//! * A file system image forged by somebody who can have it mounted by the host can forge identities. So can
//!   root. Both can do worse.
//!
//! Small files are hashed always; that costs less than looking anything up.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use blake3::{Hash, Hasher};
use rustix::fs::Stat;

use super::directory::Directory;

/// Up to this size a file is simply hashed: some 30 µs.
const SMALL: u64 = 128 << 10;
/// How long a file must not have changed before its digest is remembered, in nanoseconds. Covers file systems
/// that keep whole seconds.
const REST: i128 = 2_000_000_000;
/// Enough for the hash's widest vectors, little enough for the second-level cache.
const CHUNK: usize = 128 << 10;
/// What a record's name starts with.
pub const RECORD: &str = "seen-";

/// Who had a hand in the file system a file is on.
#[derive(Clone, Copy, Debug)]
pub enum Origin {
    /// The administrator, or the user whose cache it is.
    Ours,
    /// The container's engine and the container; the device of its root file system, when that is known.
    Container(Option<u64>),
}

/// The digest of the first `length` bytes of a file.
///
/// # Errors
/// Those of pread(2); `UnexpectedEof` when the file is shorter.
pub fn hash(file: BorrowedFd<'_>, length: u64) -> io::Result<Hash> {
    let mut hasher = Hasher::new();
    update(&mut hasher, file, length)?;
    Ok(hasher.finalize())
}

/// Adds the first `length` bytes of a file to a hash. Reads, and does not map: the file of a container can
/// shrink meanwhile.
///
/// # Errors
/// As [`hash`].
pub fn update(hasher: &mut Hasher, file: BorrowedFd<'_>, length: u64) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK.min(usize::try_from(length).unwrap_or(CHUNK))];
    let mut done = 0;
    while done < length {
        let want = buffer.len().min(usize::try_from(length - done).unwrap_or(CHUNK));
        match read_at(file, &mut buffer[..want], done)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            got => {
                hasher.update(&buffer[..got]);
                done += got as u64;
            }
        }
    }
    Ok(())
}

/// pread(2), again after a signal.
///
/// # Errors
/// Those of pread(2).
pub fn read_at(file: BorrowedFd<'_>, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    Ok(rustix::io::retry_on_intr(|| rustix::io::pread(file, &mut *buffer, offset))?)
}

/// The digest of the first `length` bytes of a file, from the records in `directory` if the file is known.
/// `stat` is the file's state as of now.
///
/// # Errors
/// As [`hash`].
pub fn remembered(
    directory: &Directory,
    file: BorrowedFd<'_>,
    stat: &Stat,
    length: u64,
    origin: Origin,
) -> io::Result<Hash> {
    if length <= SMALL {
        return hash(file, length);
    }
    let Some(record) = record_name(file, stat, length, origin)? else {
        return hash(file, length);
    };
    if let Some(digest) = read_record(directory, &record) {
        return Ok(digest);
    }
    let digest = hash(file, length)?;
    let after = rustix::fs::fstat(file)?;
    if times(&after) == times(stat) && after.st_size == stat.st_size && at_rest(stat) {
        // Without the record the file is merely hashed again.
        if let Err(error) = directory.write_new(&record, &record_content(&record, &digest)) {
            tracing::debug!("wasm cache: record {record}: {error}");
        }
    }
    Ok(digest)
}

fn times(stat: &Stat) -> [i128; 2] {
    let nanoseconds = |seconds: i64, rest: u64| i128::from(seconds) * 1_000_000_000 + i128::from(rest);
    [nanoseconds(stat.st_mtime, stat.st_mtime_nsec), nanoseconds(stat.st_ctime, stat.st_ctime_nsec)]
}

fn at_rest(stat: &Stat) -> bool {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    let now = i128::from(now.tv_sec) * 1_000_000_000 + i128::from(now.tv_nsec);
    // A change in the future says that the clock was set back; it is no rest either.
    let [_, ctime] = times(stat);
    now - ctime >= REST
}

/// The name of the record about a file of this identity; none if the identity is not to be believed.
fn record_name(file: BorrowedFd<'_>, stat: &Stat, length: u64, origin: Origin) -> io::Result<Option<String>> {
    let kind = rustix::fs::fstatfs(file)?.f_type;
    let [mtime, ctime] = times(stat);
    let believed = match origin {
        Origin::Ours => keeps_times(kind) || kind == OVERLAY,
        Origin::Container(_) if keeps_times(kind) => true,
        Origin::Container(rootfs) => {
            kind == OVERLAY && rootfs == Some(stat.st_dev) && mtime != ctime && stat.st_ctime_nsec != 0
        }
    };
    if !believed {
        return Ok(None);
    }
    // An overlay's device number belongs to the mount and is soon used by another. The id of the file system
    // beneath it stays.
    let device = if kind == OVERLAY { rustix::fs::fstatvfs(file)?.f_fsid } else { stat.st_dev };
    let mut hasher = Hasher::new();
    for number in
        [kind.into(), device.into(), stat.st_ino.into(), stat.st_size.into(), length.into(), mtime, ctime]
    {
        hasher.update(&i128::to_le_bytes(number));
    }
    Ok(Some(format!("{RECORD}{}", hasher.finalize().to_hex())))
}

const OVERLAY: i64 = 0x794c_7630;

/// Whether a file system's change times come from this kernel's clock and nowhere else. Magic numbers as in
/// statfs(2).
pub(super) fn keeps_times(kind: i64) -> bool {
    const EXT: i64 = 0xef53;
    const XFS: i64 = 0x5846_5342;
    const BTRFS: i64 = 0x9123_683e;
    const F2FS: i64 = 0xf2f5_2010;
    const TMPFS: i64 = 0x0102_1994;
    const ZFS: i64 = 0x2fc1_2fc1;
    [EXT, XFS, BTRFS, F2FS, TMPFS, ZFS].contains(&kind)
}

/// A record holds the digest, and a digest of itself and its name: it is not synced to disk, and after a crash
/// may be anything.
fn record_content(name: &str, digest: &Hash) -> [u8; 64] {
    let mut content = [0; 64];
    content[..32].copy_from_slice(digest.as_bytes());
    content[32..].copy_from_slice(
        Hasher::new().update(name.as_bytes()).update(digest.as_bytes()).finalize().as_bytes(),
    );
    content
}

fn read_record(directory: &Directory, name: &str) -> Option<Hash> {
    let (file, _) = directory.open(name).ok().flatten()?;
    let mut content = [0; 65];
    if read_at(file.as_fd(), &mut content, 0).ok()? != 64 {
        return None;
    }
    let digest = Hash::from_bytes(*content.first_chunk()?);
    (record_content(name, &digest) == content[..64]).then_some(digest)
}
