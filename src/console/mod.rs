//! The container's terminal: a pseudo-terminal of the container's own devpts instance.
//!
//! Everything here but [`connect`] runs in init, after `pivot_root`, on paths that the image controls. So no
//! path is followed through a symlink, and a descriptor counts as a terminal only when the kernel says that
//! it is one: a device number alone proves nothing, for an image may hold any node, and any file in its place.

mod socket;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{self, CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt};
use rustix::termios::{
    OptionalActions, OutputModes, Winsize, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize,
};

use crate::error::Os;

pub use socket::{connect, send};

/// Opening it makes a new pseudo-terminal (pts(4)).
const PTMX: &str = "/dev/pts/ptmx";

/// What can go wrong between a container and its terminal.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No pseudo-terminal: usually the configuration mounts no devpts.
    #[error("open {PTMX}: {0}")]
    Open(Os),
    /// The image has something else where a pseudo-terminal should be.
    #[error("{PTMX} is not a pseudo-terminal of a devpts mount")]
    NotDevpts,
    /// The other end of the pseudo-terminal.
    #[error("open the terminal's slave: {0}")]
    Slave(Os),
    /// `process.consoleSize`.
    #[error("set the terminal's size: {0}")]
    Size(Os),
    /// The terminal's treatment of newlines.
    #[error("set the terminal's modes: {0}")]
    Newlines(Os),
    /// The mount point of the terminal.
    #[error("create /dev/console: {0}")]
    ConsoleFile(Os),
    /// The mount itself.
    #[error("mount the terminal on /dev/console: {0}")]
    ConsoleMount(Os),
    /// setsid(2), TIOCSCTTY.
    #[error("make the terminal the controlling one: {0}")]
    Controlling(Os),
    /// dup2(2) to 0, 1 and 2.
    #[error("put the terminal on the standard streams: {0}")]
    Stdio(Os),
    /// `--console-socket`.
    #[error("connect to the console socket {path}: {reason}")]
    Connect {
        /// As given.
        path: String,
        /// Why not.
        reason: Os,
    },
    /// The receiver has gone.
    #[error("send the terminal over the console socket: {0}")]
    Send(Os),
}

/// Both ends of a new pseudo-terminal, close-on-exec.
pub struct Console {
    /// The user's end.
    pub master: OwnedFd,
    /// The program's end.
    pub slave: OwnedFd,
}

/// Opens a pseudo-terminal of the devpts mounted at `/dev/pts`, of `size` (rows, columns).
///
/// # Errors
/// There is no devpts, or what is there is not one.
pub fn open(size: Option<(u16, u16)>) -> Result<Console, Error> {
    let open = |kind| {
        let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        fs::openat2(CWD, PTMX, kind | OFlags::CLOEXEC, Mode::empty(), resolve)
            .map_err(|e| Error::Open(e.into()))
    };
    // Another device may act when it is opened, so it is looked at before, and, as it may be exchanged, after.
    if !is_master(open(OFlags::PATH)?.as_fd()) {
        return Err(Error::NotDevpts);
    }
    let console = pair(open(OFlags::RDWR | OFlags::NOCTTY)?)?;
    if let Some(size) = size {
        resize(&console.master, size)?;
    }
    Ok(console)
}

/// The size (rows, columns) of the terminal that we run on ourselves, if one of our standard streams is one.
pub fn own_size() -> Option<(u16, u16)> {
    let streams = [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()];
    let sizes = streams.into_iter().filter_map(|stream| tcgetwinsize(stream).ok());
    sizes.map(|size| (size.ws_row, size.ws_col)).find(|&(rows, columns)| rows > 0 && columns > 0)
}

/// Gives a pseudo-terminal a size (rows, columns).
///
/// # Errors
/// Not a terminal.
pub fn resize(terminal: impl AsFd, (rows, columns): (u16, u16)) -> Result<(), Error> {
    let size = Winsize { ws_col: columns, ws_row: rows, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(terminal, size).map_err(|e| Error::Size(e.into()))
}

/// Lets newlines pass as they are, as runc does where it serves the terminal: whoever reads our output, a pipe or
/// our own terminal, has its own idea of them.
///
/// # Errors
/// Not a terminal.
pub fn keep_newlines(terminal: impl AsFd) -> Result<(), Error> {
    let failed = |e: Errno| Error::Newlines(e.into());
    let mut modes = tcgetattr(&terminal).map_err(failed)?;
    modes.output_modes.remove(OutputModes::ONLCR);
    tcsetattr(&terminal, OptionalActions::Now, &modes).map_err(failed)
}

/// Verifies a freshly opened master and opens its slave.
fn pair(master: OwnedFd) -> Result<Console, Error> {
    if !is_master(master.as_fd()) {
        return Err(Error::NotDevpts);
    }
    unlockpt(&master).map_err(|e| Error::Slave(e.into()))?;
    // By the master and not by name: the image could have mounted over /dev/pts/N. Every kernel that has the
    // openat2 above has this ioctl.
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let slave = ioctl_tiocgptpeer(&master, flags).map_err(|e| Error::Slave(e.into()))?;
    // 136 to 143 are the majors of UNIX98 slaves (Documentation/admin-guide/devices.txt).
    if !is_devpts(slave.as_fd(), |major, _| (136..=143).contains(&major)) {
        return Err(Error::NotDevpts);
    }
    Ok(Console { master, slave })
}

fn is_master(fd: BorrowedFd<'_>) -> bool {
    is_devpts(fd, |major, minor| (major, minor) == (5, 2))
}

/// Whether `fd` is a character device with such a number, and of a devpts.
fn is_devpts(fd: BorrowedFd<'_>, number: impl Fn(u32, u32) -> bool) -> bool {
    /// DEVPTS_SUPER_MAGIC, statfs(2).
    const MAGIC: fs::FsWord = 0x1cd1;
    let of_devpts = fs::fstatfs(fd).is_ok_and(|s| s.f_type == MAGIC);
    of_devpts
        && fs::fstat(fd).is_ok_and(|s| {
            FileType::from_raw_mode(s.st_mode) == FileType::CharacterDevice
                && number(fs::major(s.st_rdev), fs::minor(s.st_rdev))
        })
}

/// Makes the terminal the process's standard streams and its controlling terminal, in a session of its own.
/// With `bind_dev_console` it is the container's `/dev/console` as well; that needs init's own mount namespace.
///
/// # Errors
/// A system call failed; the process is not fit to run the container's program.
pub fn attach(slave: OwnedFd, bind_dev_console: bool) -> Result<(), Error> {
    if bind_dev_console {
        bind(slave.as_fd())?;
    }
    let controlling = |e: Errno| Error::Controlling(e.into());
    match rustix::process::setsid() {
        // A session leader already.
        Err(Errno::PERM) => {}
        other => drop(other.map_err(controlling)?),
    }
    rustix::process::ioctl_tiocsctty(&slave).map_err(controlling)?;
    rustix::stdio::dup2_stdin(&slave)
        .and_then(|()| rustix::stdio::dup2_stdout(&slave))
        .and_then(|()| rustix::stdio::dup2_stderr(&slave))
        .map_err(|e| Error::Stdio(e.into()))
}

/// Mounts the terminal over `/dev/console`, which is created when the image has none.
fn bind(slave: BorrowedFd<'_>) -> Result<(), Error> {
    let file = |e: Errno| Error::ConsoleFile(e.into());
    let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dev = fs::openat2(CWD, "/dev", directory, Mode::empty(), resolve).map_err(file)?;
    // O_EXCL never follows a symlink and never opens a device that the image put there.
    let create = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    match fs::openat(&dev, "console", create, Mode::from_raw_mode(0o666)) {
        Ok(_) | Err(Errno::EXIST) => {}
        Err(e) => return Err(file(e)),
    }
    let target = fs::openat2(
        &dev,
        "console",
        OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
        resolve,
    )
    .map_err(file)?;
    let mount = |e: Errno| Error::ConsoleMount(e.into());
    let clone =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    let terminal = open_tree(slave, "", clone).map_err(mount)?;
    let here = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(&terminal, "", &target, "", here).map_err(mount)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn both_ends_talk_and_have_the_size() {
        let console = open(Some((17, 91))).unwrap();
        let size = rustix::termios::tcgetwinsize(&console.slave).unwrap();
        assert_eq!((size.ws_col, size.ws_row), (91, 17));
        std::fs::File::from(console.slave).write_all(b"hello\n").unwrap();
        let mut buffer = [0; 7];
        std::fs::File::from(console.master).read_exact(&mut buffer).unwrap();
        assert_eq!(&buffer, b"hello\r\n");
    }

    #[test]
    fn what_is_not_a_devpts_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = std::fs::File::create(dir.path().join("ptmx")).unwrap();
        assert!(matches!(pair(file.into()), Err(Error::NotDevpts)));
        let null = std::fs::File::options().read(true).write(true).open("/dev/null").unwrap();
        assert!(matches!(pair(null.into()), Err(Error::NotDevpts)));
        // A slave is of devpts, but no master.
        let console = open(None).unwrap();
        assert!(matches!(pair(console.slave), Err(Error::NotDevpts)));
    }
}
