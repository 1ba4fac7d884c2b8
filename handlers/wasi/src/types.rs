//! Numbers and records of WASI preview1 (`wasi_snapshot_preview1.witx`), with their translation from Linux.

use rustix::fs::{FileType, Stat};

macro_rules! errno {
    ($( $name:ident = $value:literal $(from $($linux:ident)|+)?, )*) => {
        /// The error codes of preview1, the same in `wasi_unstable`, and of WasmEdge's name resolution.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u16)]
        #[allow(missing_docs)]
        pub enum Errno { $( $name = $value, )* }

        impl From<rustix::io::Errno> for Errno {
            fn from(errno: rustix::io::Errno) -> Self {
                match errno {
                    $( $($( rustix::io::Errno::$linux )|+ => Self::$name,)? )*
                    _ => Self::Io,
                }
            }
        }
    };
}

errno! {
    TooBig = 1 from TOOBIG,
    Access = 2 from ACCESS,
    AddrInUse = 3 from ADDRINUSE,
    AddrNotAvail = 4 from ADDRNOTAVAIL,
    AfNoSupport = 5 from AFNOSUPPORT,
    Again = 6 from AGAIN,
    Already = 7 from ALREADY,
    BadF = 8 from BADF,
    BadMsg = 9 from BADMSG,
    Busy = 10 from BUSY,
    Canceled = 11 from CANCELED,
    Child = 12 from CHILD,
    ConnAborted = 13 from CONNABORTED,
    ConnRefused = 14 from CONNREFUSED,
    ConnReset = 15 from CONNRESET,
    DeadLk = 16 from DEADLK,
    DestAddrReq = 17 from DESTADDRREQ,
    Dom = 18 from DOM,
    DQuot = 19 from DQUOT,
    Exist = 20 from EXIST,
    Fault = 21 from FAULT,
    FBig = 22 from FBIG,
    HostUnreach = 23 from HOSTUNREACH,
    IdRm = 24 from IDRM,
    IlSeq = 25 from ILSEQ,
    InProgress = 26 from INPROGRESS,
    Intr = 27 from INTR,
    Inval = 28 from INVAL,
    Io = 29 from IO,
    IsConn = 30 from ISCONN,
    IsDir = 31 from ISDIR,
    Loop = 32 from LOOP,
    MFile = 33 from MFILE,
    MLink = 34 from MLINK,
    MsgSize = 35 from MSGSIZE,
    MultiHop = 36 from MULTIHOP,
    NameTooLong = 37 from NAMETOOLONG,
    NetDown = 38 from NETDOWN,
    NetReset = 39 from NETRESET,
    NetUnreach = 40 from NETUNREACH,
    NFile = 41 from NFILE,
    NoBufs = 42 from NOBUFS,
    NoDev = 43 from NODEV,
    NoEnt = 44 from NOENT,
    NoExec = 45 from NOEXEC,
    NoLck = 46 from NOLCK,
    NoLink = 47 from NOLINK,
    NoMem = 48 from NOMEM,
    NoMsg = 49 from NOMSG,
    NoProtoOpt = 50 from NOPROTOOPT,
    NoSpc = 51 from NOSPC,
    NoSys = 52 from NOSYS,
    NotConn = 53 from NOTCONN,
    NotDir = 54 from NOTDIR,
    NotEmpty = 55 from NOTEMPTY,
    NotRecoverable = 56 from NOTRECOVERABLE,
    NotSock = 57 from NOTSOCK,
    NotSup = 58 from OPNOTSUPP,
    NotTy = 59 from NOTTY,
    NxIo = 60 from NXIO,
    Overflow = 61 from OVERFLOW,
    OwnerDead = 62 from OWNERDEAD,
    Perm = 63 from PERM,
    Pipe = 64 from PIPE,
    Proto = 65 from PROTO,
    ProtoNoSupport = 66 from PROTONOSUPPORT,
    ProtoType = 67 from PROTOTYPE,
    Range = 68 from RANGE,
    RoFs = 69 from ROFS,
    SPipe = 70 from SPIPE,
    Srch = 71 from SRCH,
    Stale = 72 from STALE,
    TimedOut = 73 from TIMEDOUT,
    TxtBsy = 74 from TXTBSY,
    XDev = 75 from XDEV,
    NotCapable = 76,
    // What getaddrinfo(3) adds, in WasmEdge's numbers.
    AiAddrFamily = 77,
    AiAgain = 78,
    AiBadFlag = 79,
    AiFail = 80,
    AiFamily = 81,
    AiMemory = 82,
    AiNoData = 83,
    AiNoName = 84,
    AiService = 85,
    AiSockType = 86,
    AiSystem = 87,
}

/// What a function of ours returns: the error goes to the guest, which decides what it means.
pub type Result<T = ()> = std::result::Result<T, Errno>;

/// `filetype`.
pub mod filetype {
    #![allow(missing_docs)]
    pub const UNKNOWN: u8 = 0;
    pub const BLOCK_DEVICE: u8 = 1;
    pub const CHARACTER_DEVICE: u8 = 2;
    pub const DIRECTORY: u8 = 3;
    pub const REGULAR_FILE: u8 = 4;
    pub const SOCKET_DGRAM: u8 = 5;
    pub const SOCKET_STREAM: u8 = 6;
    pub const SYMBOLIC_LINK: u8 = 7;

    /// Preview1 has no number for a FIFO.
    pub fn of(kind: super::FileType) -> u8 {
        match kind {
            super::FileType::BlockDevice => BLOCK_DEVICE,
            super::FileType::CharacterDevice => CHARACTER_DEVICE,
            super::FileType::Directory => DIRECTORY,
            super::FileType::RegularFile => REGULAR_FILE,
            super::FileType::Socket => SOCKET_STREAM,
            super::FileType::Symlink => SYMBOLIC_LINK,
            _ => UNKNOWN,
        }
    }
}

/// `fdflags`.
pub mod fdflags {
    #![allow(missing_docs)]
    pub const APPEND: u16 = 1;
    pub const DSYNC: u16 = 2;
    pub const NONBLOCK: u16 = 4;
    pub const RSYNC: u16 = 8;
    pub const SYNC: u16 = 16;
    pub const ALL: u16 = APPEND | DSYNC | NONBLOCK | RSYNC | SYNC;
}

/// `oflags` of `path_open`.
pub mod oflags {
    #![allow(missing_docs)]
    pub const CREAT: u32 = 1;
    pub const DIRECTORY: u32 = 2;
    pub const EXCL: u32 = 4;
    pub const TRUNC: u32 = 8;
}

/// `lookupflags`: follow a symbolic link in the last component.
pub const LOOKUP_SYMLINK_FOLLOW: u32 = 1;

/// `rights`.
pub mod rights {
    #![allow(missing_docs)]
    pub const FD_DATASYNC: u64 = 1;
    pub const FD_READ: u64 = 1 << 1;
    pub const FD_SEEK: u64 = 1 << 2;
    pub const FD_FDSTAT_SET_FLAGS: u64 = 1 << 3;
    pub const FD_SYNC: u64 = 1 << 4;
    pub const FD_TELL: u64 = 1 << 5;
    pub const FD_WRITE: u64 = 1 << 6;
    pub const FD_ADVISE: u64 = 1 << 7;
    pub const FD_ALLOCATE: u64 = 1 << 8;
    pub const PATH_CREATE_DIRECTORY: u64 = 1 << 9;
    pub const PATH_CREATE_FILE: u64 = 1 << 10;
    pub const PATH_LINK_SOURCE: u64 = 1 << 11;
    pub const PATH_LINK_TARGET: u64 = 1 << 12;
    pub const PATH_OPEN: u64 = 1 << 13;
    pub const FD_READDIR: u64 = 1 << 14;
    pub const PATH_READLINK: u64 = 1 << 15;
    pub const PATH_RENAME_SOURCE: u64 = 1 << 16;
    pub const PATH_RENAME_TARGET: u64 = 1 << 17;
    pub const PATH_FILESTAT_GET: u64 = 1 << 18;
    pub const PATH_FILESTAT_SET_SIZE: u64 = 1 << 19;
    pub const PATH_FILESTAT_SET_TIMES: u64 = 1 << 20;
    pub const FD_FILESTAT_GET: u64 = 1 << 21;
    pub const FD_FILESTAT_SET_SIZE: u64 = 1 << 22;
    pub const FD_FILESTAT_SET_TIMES: u64 = 1 << 23;
    pub const PATH_SYMLINK: u64 = 1 << 24;
    pub const PATH_REMOVE_DIRECTORY: u64 = 1 << 25;
    pub const PATH_UNLINK_FILE: u64 = 1 << 26;
    pub const POLL_FD_READWRITE: u64 = 1 << 27;
    pub const SOCK_SHUTDOWN: u64 = 1 << 28;
    pub const SOCK_ACCEPT: u64 = 1 << 29;

    /// What can be done with any open file that is not a directory.
    pub const STREAM: u64 = FD_FDSTAT_SET_FLAGS | FD_FILESTAT_GET | POLL_FD_READWRITE;
    /// What can be done with a file that has a position; without these a character device is a terminal to
    /// wasi-libc's `isatty`.
    pub const POSITION: u64 = FD_SEEK | FD_TELL;
    /// What can be done with the contents of a regular file, besides reading and writing.
    pub const REGULAR: u64 = FD_DATASYNC | FD_SYNC | FD_ADVISE | FD_FILESTAT_SET_TIMES;
    /// What needs write access.
    pub const CHANGE: u64 = FD_WRITE | FD_ALLOCATE | FD_FILESTAT_SET_SIZE;
    /// What can be done with a socket, besides reading and writing.
    pub const SOCKET: u64 = SOCK_SHUTDOWN | SOCK_ACCEPT;
    /// What can be done with a directory.
    pub const DIRECTORY: u64 = FD_FDSTAT_SET_FLAGS
        | FD_SYNC
        | FD_DATASYNC
        | FD_ADVISE
        | FD_READDIR
        | FD_FILESTAT_GET
        | FD_FILESTAT_SET_TIMES
        | PATH_CREATE_DIRECTORY
        | PATH_CREATE_FILE
        | PATH_LINK_SOURCE
        | PATH_LINK_TARGET
        | PATH_OPEN
        | PATH_READLINK
        | PATH_RENAME_SOURCE
        | PATH_RENAME_TARGET
        | PATH_FILESTAT_GET
        | PATH_FILESTAT_SET_SIZE
        | PATH_FILESTAT_SET_TIMES
        | PATH_SYMLINK
        | PATH_REMOVE_DIRECTORY
        | PATH_UNLINK_FILE
        | POLL_FD_READWRITE;
    /// What may be inherited by what is opened beneath a directory: everything.
    pub const ALL: u64 = DIRECTORY | STREAM | POSITION | REGULAR | CHANGE | FD_READ | SOCKET;
}

/// `filestat`, before it is laid out for the guest's version.
pub struct Filestat {
    /// Device and inode number.
    pub id: (u64, u64),
    /// `filetype`.
    pub filetype: u8,
    /// Number of hard links.
    pub links: u64,
    /// Size in bytes.
    pub size: u64,
    /// Times of access, modification and status change, in nanoseconds since 1970.
    pub times: [u64; 3],
}

impl From<&Stat> for Filestat {
    fn from(stat: &Stat) -> Self {
        // Times before 1970 do not exist in preview1.
        let time = |seconds: i64, nanos: u64| {
            u64::try_from(seconds).unwrap_or(0).saturating_mul(1_000_000_000).saturating_add(nanos)
        };
        Self {
            id: (stat.st_dev, stat.st_ino),
            filetype: filetype::of(FileType::from_raw_mode(stat.st_mode)),
            #[allow(clippy::useless_conversion)] // the width differs between architectures
            links: u64::from(stat.st_nlink),
            size: u64::try_from(stat.st_size).unwrap_or(0),
            times: [
                time(stat.st_atime, stat.st_atime_nsec),
                time(stat.st_mtime, stat.st_mtime_nsec),
                time(stat.st_ctime, stat.st_ctime_nsec),
            ],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errno_has_the_numbers_of_the_witx() {
        assert_eq!(Errno::from(rustix::io::Errno::NOENT) as u16, 44);
        assert_eq!(Errno::from(rustix::io::Errno::XDEV) as u16, 75);
        assert_eq!(Errno::from(rustix::io::Errno::HWPOISON) as u16, 29);
        assert_eq!(Errno::NotCapable as u16, 76);
    }
}
