//! `NOTIFY_SOCKET` (sd_notify(3)): a container that tells when it is ready.
//!
//! The service manager's socket stays outside: a program in there could end its unit, or watch another. The container
//! has a socket of its own, on which we wait for `READY=1` to hand it on.

use std::fs::{DirBuilder, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{MountBuilder, Spec};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::SocketType;
use rustix::pipe::PipeFlags;

use crate::error::Os;
use crate::unix;

/// The variable, outside and inside.
const VARIABLE: &str = "NOTIFY_SOCKET";
/// The directory of the container's socket, in its state directory.
const DIRECTORY: &str = "notify";
/// The socket in there.
const SOCKET: &str = "notify";
/// Where it goes in a container, when the service manager's has no path.
const DEFAULT: &str = "/run/notify";
/// How long the service manager may take to answer, as with runc.
const BARRIER_SECONDS: i64 = 30;

/// What goes wrong with it.
#[derive(Debug, thiserror::Error)]
#[error("NOTIFY_SOCKET: {path}: {reason}")]
pub struct Error {
    path: PathBuf,
    reason: Os,
}

fn error<T: Into<Os>>(path: &Path) -> impl FnOnce(T) -> Error {
    move |reason| Error { path: path.to_owned(), reason: reason.into() }
}

fn manager() -> Option<PathBuf> {
    std::env::var_os(VARIABLE).filter(|path| !path.is_empty()).map(PathBuf::from)
}

/// Makes the directory for a container's socket, and adds it to the container, if we have been given one.
///
/// # Errors
/// [`Error`].
pub fn add(spec: &mut Spec, state: &Path) -> Result<(), Error> {
    let Some(manager) = manager() else { return Ok(()) };
    let directory = state.join(DIRECTORY);
    DirBuilder::new().mode(0o755).create(&directory).map_err(error(&directory))?;
    let inside = if manager.is_absolute() { manager } else { DEFAULT.into() };
    let variable = format!("{VARIABLE}={}", inside.join(SOCKET).display());
    let options = ["bind", "nosuid", "noexec", "nodev", "ro"].map(str::to_owned).to_vec();
    let mount =
        MountBuilder::default().destination(inside).source(directory.clone()).options(options).build();
    let mount = mount.map_err(|e| error(&directory)(io::Error::other(e)))?;
    let mut mounts = spec.mounts().clone().unwrap_or_default();
    mounts.push(mount);
    spec.set_mounts(Some(mounts));
    if let Some(process) = spec.process_mut() {
        let mut env = process.env().clone().unwrap_or_default();
        env.push(variable);
        process.set_env(Some(env));
    }
    Ok(())
}

/// The container's socket, with us at its other end.
#[derive(Debug)]
pub struct Proxy {
    manager: PathBuf,
    socket: UnixDatagram,
}

impl Proxy {
    /// Opens the socket, if we have been given one, and the container was when it was made.
    ///
    /// # Errors
    /// [`Error`].
    pub fn open(state: &Path) -> Result<Option<Self>, Error> {
        let Some(manager) = manager() else { return Ok(None) };
        let path = state.join(DIRECTORY).join(SOCKET);
        let socket = match UnixDatagram::bind(&path) {
            Ok(socket) => socket,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(error(&path)(e)),
        };
        // The container's user is not ours.
        std::fs::set_permissions(&path, Permissions::from_mode(0o777)).map_err(error(&path))?;
        Ok(Some(Self { manager, socket }))
    }

    /// Waits until the container is ready, or has ended, and tells the service manager; `main` is the pid that it is to
    /// watch from then on, if not ours.
    ///
    /// # Errors
    /// [`Error`]: the service manager is gone.
    pub fn serve(&self, process: &OwnedFd, main: Option<i32>) -> Result<(), Error> {
        let failed = |errno: Errno| error(&self.manager)(errno);
        let mut buffer = [0; 4096];
        loop {
            let mut events = [PollFd::new(&self.socket, PollFlags::IN), PollFd::new(process, PollFlags::IN)];
            match poll(&mut events, None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(failed(errno)),
            }
            // Before the end, for a program may end right after its message.
            if events[0].revents().contains(PollFlags::IN) {
                let length = self.socket.recv(&mut buffer).map_err(error(&self.manager))?;
                let ready = buffer[..length].split(|byte| *byte == b'\n').find(|l| l.starts_with(b"READY="));
                if let Some(ready) = ready {
                    return self.tell(ready, main);
                }
            } else if events[1].revents().contains(PollFlags::IN) {
                return Ok(());
            }
        }
    }

    fn tell(&self, ready: &[u8], main: Option<i32>) -> Result<(), Error> {
        let failed = |errno: Errno| error(&self.manager)(errno);
        let manager = unix::connect(&self.manager, SocketType::DGRAM).map_err(failed)?;
        rustix::io::write(&manager, &[ready, b"\n"].concat()).map_err(failed)?;
        let Some(main) = main else { return Ok(()) };
        rustix::io::write(&manager, format!("MAINPID={main}\n").as_bytes()).map_err(failed)?;
        // sd_notify_barrier(3): we may end only when the service manager has seen who sent this. It closes the pipe then; one
        // that does not know the message never does.
        let (ours, theirs) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(failed)?;
        unix::send(&manager, "BARRIER=1", std::os::fd::AsFd::as_fd(&theirs)).map_err(failed)?;
        drop(theirs);
        let timeout = Timespec { tv_sec: BARRIER_SECONDS, tv_nsec: 0 };
        match poll(&mut [PollFd::new(&ours, PollFlags::empty())], Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(errno) => Err(failed(errno)),
        }
    }
}
