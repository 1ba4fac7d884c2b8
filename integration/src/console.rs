//! Terminals: the engine's end of `--console-socket`, and a user's terminal around a foreground command.

use std::fs::File;
use std::io::{IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::process::Pid;
use rustix::termios::{Winsize, tcsetwinsize};

use crate::command::wait_pid;

/// The socket on which an engine receives the master of a container's terminal.
pub struct ConsoleSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl ConsoleSocket {
    /// Binds the socket.
    ///
    /// # Errors
    /// The path is in use.
    pub fn bind(path: &Path) -> Result<Self> {
        Ok(ConsoleSocket { listener: UnixListener::bind(path)?, path: path.to_owned() })
    }

    /// The argument of `--console-socket`.
    #[must_use]
    pub fn path(&self) -> &str {
        self.path.to_str().unwrap_or_default()
    }

    /// Receives the terminal.
    ///
    /// # Errors
    /// Nothing connects, or it sends no descriptor.
    pub fn accept(&self) -> Result<Terminal> {
        ensure!(ready(&self.listener, Duration::from_secs(10))?, "nobody connects to the console socket");
        let (stream, _) = self.listener.accept()?;
        Ok(Terminal { master: File::from(receive(&stream)?), child: None, seen: String::new() })
    }
}

fn receive(stream: &UnixStream) -> Result<OwnedFd> {
    let mut name = [0; 4096];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let message = recvmsg(stream, &mut [IoSliceMut::new(&mut name)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    ensure!(message.bytes > 0, "the message with the terminal must carry data, its name");
    let fd = control.drain().find_map(|m| match m {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    fd.context("no descriptor on the console socket")
}

/// The master end of a terminal, and the command that runs on it if this process started one.
pub struct Terminal {
    master: File,
    child: Option<Child>,
    seen: String,
}

fn size(rows: u16, columns: u16) -> Winsize {
    Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}

impl Terminal {
    /// Runs a command with a new terminal of 24 lines and 80 columns as its controlling one.
    ///
    /// # Errors
    /// There is no terminal to be had, or the command cannot be executed.
    pub fn spawn(command: &mut Command) -> Result<Self> {
        use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        grantpt(&master)?;
        unlockpt(&master)?;
        tcsetwinsize(&master, size(24, 80))?;
        let name = ptsname(&master, Vec::new())?;
        let slave = rustix::fs::open(
            name,
            rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY | rustix::fs::OFlags::CLOEXEC,
            rustix::fs::Mode::empty(),
        )?;
        command.stdin(slave.try_clone()?).stdout(slave.try_clone()?).stderr(slave);
        // SAFETY: both are plain system calls on descriptor 0, which std has made the slave by then.
        unsafe {
            command.pre_exec(|| {
                rustix::process::setsid()?;
                rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())?;
                Ok(())
            });
        }
        let child = command.spawn()?;
        // The command holds the slave as well, and end of file on the master is the last close.
        command.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::null());
        command.stderr(std::process::Stdio::null());
        Ok(Terminal { master: File::from(master), child: Some(child), seen: String::new() })
    }

    /// The descriptor.
    #[must_use]
    pub fn master(&self) -> &File {
        &self.master
    }

    /// Changes the size.
    ///
    /// # Errors
    /// Not a terminal.
    pub fn resize(&self, rows: u16, columns: u16) -> Result<()> {
        Ok(tcsetwinsize(&self.master, size(rows, columns))?)
    }

    /// Types.
    ///
    /// # Errors
    /// The terminal is gone.
    pub fn type_in(&mut self, text: &str) -> Result<()> {
        Ok(self.master.write_all(text.as_bytes())?)
    }

    /// Reads until the text has appeared (since the last match), and returns what came.
    ///
    /// # Errors
    /// It does not come within half a minute, or the terminal ends first.
    pub fn expect(&mut self, needle: &str) -> Result<String> {
        let start = Instant::now();
        loop {
            if let Some(at) = self.seen.find(needle) {
                return Ok(self.seen.drain(..at + needle.len()).collect());
            }
            ensure!(start.elapsed() < Duration::from_secs(30), "no {needle:?}, only {:?}", self.seen);
            if !self.read()? {
                bail!("the terminal ended before {needle:?}: {:?}", self.seen);
            }
        }
    }

    /// Reads to the end of the terminal.
    ///
    /// # Errors
    /// It does not end within half a minute.
    pub fn rest(&mut self) -> Result<String> {
        let start = Instant::now();
        while self.read()? {
            ensure!(start.elapsed() < Duration::from_secs(30), "the terminal stays open: {:?}", self.seen);
        }
        Ok(std::mem::take(&mut self.seen))
    }

    /// Waits for the command and returns its exit code and what is left of the output.
    ///
    /// # Errors
    /// There is none, or it does not end.
    pub fn wait(&mut self) -> Result<(i32, String)> {
        let output = self.rest()?;
        let child = self.child.as_mut().context("no command")?;
        ensure!(wait_pid(Pid::from_child(child), Duration::from_secs(30))?, "the command does not end");
        let status = child.wait()?;
        self.child = None;
        Ok((status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)), output))
    }

    /// Reads what is there; false at the end.
    fn read(&mut self) -> Result<bool> {
        if !ready(&self.master, Duration::from_millis(200))? {
            return Ok(true);
        }
        let mut buffer = [0; 4096];
        match self.master.read(&mut buffer) {
            Ok(0) => Ok(false),
            Ok(n) => {
                self.seen.push_str(&String::from_utf8_lossy(&buffer[..n]));
                Ok(true)
            }
            // What a master says when the last slave is closed.
            Err(e) if e.raw_os_error() == Some(libc::EIO) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn ready(fd: &impl AsFd, wait: Duration) -> Result<bool> {
    let timeout = Timespec { tv_sec: i64::try_from(wait.as_secs())?, tv_nsec: wait.subsec_nanos().into() };
    Ok(poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&timeout))? == 1)
}
