//! The surroundings of a container's process that are neither its root file system nor its identity.

use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::path::Path;

use coracle_abi::descriptors;
use oci_spec::runtime::{Process, Spec, User};
use rustix::fs::{FileType, Mode, OFlags, Stat, fstat, makedev, open};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::process::{Signal, set_parent_process_death_signal};

use super::sync::{Message, Socket};
use super::{Error, Terminal};
use crate::error::Os;
use crate::procfs::Procfs;
use crate::{console, rootfs};

/// Whether the kernel kills this process when its parent ends: a container that is only half made must not outlive the
/// runtime, and waits for hooks and mounts where it cannot see its end. The kernel forgets it when our ids change
/// (PR_SET_PDEATHSIG(2const)); from there on we wait for nothing but the parent.
pub fn die_with_parent(yes: bool) -> Result<(), Error> {
    set_parent_process_death_signal(yes.then_some(Signal::KILL))
        .map_err(|e| Error::step("set the parent death signal", e))
}

/// Closes every descriptor but the program's and those of `keep`: the host's files must not be in reach of paths that an
/// image has made, and whoever waits for the end of a stream must not wait for us. What closes is not used again, for all
/// that is left for this process is to execute the program or to end.
pub fn close_others(preserve_fds: u32, keep: &[BorrowedFd<'_>]) {
    let mut keep: Vec<RawFd> = keep.iter().map(AsRawFd::as_raw_fd).collect();
    keep.sort_unstable();
    keep.push(RawFd::MAX);
    let mut first = RawFd::try_from(preserve_fds.saturating_add(3)).unwrap_or(RawFd::MAX);
    for kept in keep {
        // SAFETY: nothing here uses them any more.
        unsafe { descriptors::close(first, kept - 1) };
        first = first.max(kept.saturating_add(1));
    }
}

/// A session keyring of the container's own, so that it does not see the keys of the engine (keyctl(2)). Processes of
/// the same container have the same one: its owner may search for it.
pub fn new_session_keyring(id: &str) -> Result<(), Error> {
    let Ok(name) = std::ffi::CString::new(format!("_ses.{id}")) else { return Ok(()) };
    // SAFETY: the name is a C string that lives during the call.
    let result = unsafe { libc::syscall(libc::SYS_keyctl, libc::KEYCTL_JOIN_SESSION_KEYRING, name.as_ptr()) };
    if result >= 0 {
        // Whoever possesses it may do all; its owner may view, read, search and link it (keyctl_setperm(3)). In a keyring
        // that is not ours to change, that has been done.
        // SAFETY: plain integers.
        unsafe { libc::syscall(libc::SYS_keyctl, libc::KEYCTL_SETPERM, result, 0x3f1b_0000) };
        return Ok(());
    }
    match Os::last() {
        // Kernels without keyrings, filters around us that refuse them, and a quota that is used up.
        Os(error) if matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EPERM | libc::EDQUOT)) => {
            Ok(())
        }
        reason => Err(Error::step("create a session keyring", reason.0)),
    }
}

/// Brings `lo` up in a new network namespace, as runc does: a container with no network has localhost.
pub fn raise_loopback() -> Result<(), Error> {
    let step = |reason: Os| Error::step("bring up the loopback interface", reason.0);
    let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
        .map_err(|e| step(e.into()))?;
    // SAFETY: ifreq is a name and integers, for which zero is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = (*from).cast_signed();
    }
    #[allow(
        clippy::cast_possible_truncation,
        reason = "the flags are defined to fit ifr_flags (netdevice(7))"
    )]
    let flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    request.ifr_ifru.ifru_flags = flags;
    // SAFETY: SIOCSIFFLAGS reads one ifreq, which outlives the call.
    let result = unsafe {
        libc::ioctl(std::os::fd::AsRawFd::as_raw_fd(&socket), libc::SIOCSIFFLAGS, &raw const request)
    };
    if result == 0 { Ok(()) } else { Err(step(Os::last())) }
}

/// The names of the UTS namespace.
pub fn set_names(spec: &Spec) -> Result<(), Error> {
    if let Some(name) = spec.hostname().as_deref().filter(|n| !n.is_empty()) {
        rustix::system::sethostname(name.as_bytes()).map_err(|e| Error::step("sethostname", e))?;
    }
    if let Some(name) = spec.domainname().as_deref().filter(|n| !n.is_empty()) {
        rustix::system::setdomainname(name.as_bytes()).map_err(|e| Error::step("setdomainname", e))?;
    }
    Ok(())
}

/// The sysctls of the container's namespaces; `config::check` let no others through.
pub fn set_sysctls(spec: &Spec, procfs: &Procfs) -> Result<(), Error> {
    let sysctls = spec.linux().as_ref().and_then(|l| l.sysctl().as_ref());
    for (key, value) in sysctls.into_iter().flatten() {
        // sysctl(8): where a name holds a slash, dots belong to names like eth0.1.
        let relative = if key.contains('/') { key.clone() } else { key.replace('.', "/") };
        procfs.write(&format!("sys/{relative}"), value)?;
    }
    Ok(())
}

/// Makes the working directory where the image has none, as runc does. `/proc/self/fd/N` in its path would lead to the
/// host (CVE-2024-21626).
pub fn make_cwd(cwd: &Path) -> Result<(), Error> {
    match rootfs::make_directory(cwd) {
        Ok(()) => Ok(()),
        // Whether it is usable is decided when the program's user enters it.
        Err(_) if cwd.exists() => Ok(()),
        Err(e) => Err(Error::Cwd { cwd: cwd.to_owned(), reason: e.into() }),
    }
}

/// Standard input, output and error as the program finds them: its user's, and, when the root is the container's own by
/// now, on its null device rather than the host's.
///
/// # Errors
/// [`Error::Step`].
pub fn set_streams(user: &User, in_own_root: bool) -> Result<(), Error> {
    let streams = [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()];
    let stats = streams.map(|stream| fstat(stream).ok());
    if in_own_root {
        reopen_null(&stats)?;
    }
    for (stream, stat) in streams.into_iter().zip(stats) {
        stat.map_or(Ok(()), |stat| own(stream, &stat, user))?;
    }
    Ok(())
}

/// Standard streams on the host's /dev/null go to the container's: an open file of the host's would be a way out, and
/// CRIU could not find it again. An image without one keeps what it has.
fn reopen_null(streams: &[Option<Stat>; 3]) -> Result<(), Error> {
    use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};
    let on_null = streams.map(|stat| stat.is_some_and(|stat| is_null(&stat)));
    if on_null == [false; 3] {
        return Ok(());
    }
    // Another device may act when it is opened, so it is looked at before, and, as it may be exchanged, after.
    let open_null = |kind: OFlags| {
        let opened = open(c"/dev/null", kind | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty());
        opened.ok().filter(|file| fstat(file).is_ok_and(|stat| is_null(&stat)))
    };
    let Some(null) = open_null(OFlags::PATH).and_then(|_| open_null(OFlags::RDWR)) else { return Ok(()) };
    for (number, found) in on_null.into_iter().enumerate() {
        let replaced = match (found, number) {
            (false, _) => Ok(()),
            (true, 0) => dup2_stdin(&null),
            (true, 1) => dup2_stdout(&null),
            (true, _) => dup2_stderr(&null),
        };
        replaced.map_err(|e| Error::step("reopen /dev/null", e))?;
    }
    Ok(())
}

/// A terminal of the container's own devpts as standard input, output and error; the master goes out.
pub fn open_terminal(
    process: &Process,
    terminal: &Terminal,
    first: bool,
    socket: &Socket,
) -> Result<(), Error> {
    let size = process.console_size().map(|size| {
        let clamp = |n: u64| u16::try_from(n).unwrap_or(u16::MAX);
        (clamp(size.height()), clamp(size.width()))
    });
    let size = match terminal {
        // Now and not when the parent connects to it: the program may ask at once.
        Terminal::Parent => console::own_size().or(size),
        Terminal::Engine(_) => size,
    };
    let console::Console { master, slave } = console::open(size)?;
    match terminal {
        Terminal::Engine(engine) => console::send(&master, engine)?,
        Terminal::Parent => {
            console::keep_newlines(&slave)?;
            socket.send(&Message::Terminal(master))?;
        }
    }
    Ok(console::attach(slave, first)?)
}

/// Whether a descriptor is open on the null device (linux/Documentation/admin-guide/devices.txt).
fn is_null(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == makedev(1, 3)
}

/// A standard stream belongs to the program's user, so that it can open it again by /dev/stdout. As with runc, devices
/// everybody shares and file systems that refuse are left alone.
fn own(stream: BorrowedFd<'_>, stat: &Stat, user: &User) -> Result<(), Error> {
    if stat.st_uid == user.uid() || is_null(stat) {
        return Ok(());
    }
    let owner = Some(rustix::process::Uid::from_raw(user.uid()));
    // A pipe is nobody else's. The group of a terminal is the file system's choice, and of a file its owner's.
    let pipe = FileType::from_raw_mode(stat.st_mode) == FileType::Fifo;
    let group = pipe.then(|| rustix::process::Gid::from_raw(user.gid()));
    match rustix::fs::fchown(stream, owner, group) {
        Ok(()) | Err(Errno::INVAL | Errno::PERM | Errno::ROFS) => Ok(()),
        Err(errno) => Err(Error::step("give standard streams to the container's user", errno)),
    }
}
