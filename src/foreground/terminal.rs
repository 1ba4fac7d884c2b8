//! The container's pseudo-terminal, connected to our own standard input and output.
//!
//! Nothing here blocks for longer than a slow reader takes for one page, so signals and the child's end are
//! always seen. Standard streams are shared with whoever started us: O_NONBLOCK is never set on them.

use std::io::{stdin, stdout};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{self, FileType, Mode, OFlags};
use rustix::io::{Errno, fcntl_dupfd_cloexec, ioctl_fionbio, read, retry_on_intr, write};
use rustix::process::getpgrp;
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer};
use rustix::termios::{OptionalActions, OutputModes, Termios, isatty, tcgetattr, tcgetpgrp, tcsetattr};

use super::signals::Signals;
use crate::console;

/// At most what one read of a terminal returns, and what a pipe that polls writable takes at once (pipe(7)).
const CHUNK: usize = 4096;

/// More than a pseudo-terminal can hold: what comes after that much was written after the child's end.
const HELD: usize = 1 << 20;

pub(super) struct Terminal {
    master: OwnedFd,
    /// Held open so that the master does not report a hang-up: a program may close the terminal and open it
    /// again, and an empty buffer then simply means that there is nothing more.
    slave: OwnedFd,
    /// None after its end.
    input: Option<OwnedFd>,
    output: OwnedFd,
    to_master: Buffer,
    to_output: Buffer,
    raw: Raw,
}

impl Terminal {
    /// Connects the pseudo-terminal to our standard streams; a terminal there goes into raw mode.
    pub(super) fn connect(master: OwnedFd) -> Result<Self, Errno> {
        let slave = slave(&master)?;
        ioctl_fionbio(&master, true)?;
        let mut terminal = Self {
            master,
            slave,
            input: Some(reopen(stdin().as_fd(), OFlags::RDONLY)?),
            output: reopen(stdout().as_fd(), OFlags::WRONLY)?,
            to_master: Buffer::default(),
            to_output: Buffer::default(),
            raw: Raw(None),
        };
        terminal.resume();
        Ok(terminal)
    }

    /// Gives the pseudo-terminal the size of ours.
    pub(super) fn resize(&self) {
        if let Some(size) = console::own_size() {
            // The container's program may have dropped its terminal, which is not our concern.
            let _ = console::resize(&self.master, size);
        }
    }

    /// We are about to be stopped: the shell wants its terminal back.
    pub(super) fn suspend(&mut self) {
        self.raw.leave();
    }

    /// We have started or were continued, in the foreground or not, and the size may have changed.
    pub(super) fn resume(&mut self) {
        self.raw.enter();
        self.resize();
    }

    /// Adds what to wait for.
    pub(super) fn watch<'a>(&'a self, events: &mut Vec<PollFd<'a>>) {
        let mut master = PollFlags::empty();
        if self.to_output.is_empty() {
            master |= PollFlags::IN;
        } else {
            events.push(PollFd::new(&self.output, PollFlags::OUT));
        }
        if !self.to_master.is_empty() {
            master |= PollFlags::OUT;
        } else if let Some(input) = self.input.as_ref().filter(|_| in_foreground()) {
            events.push(PollFd::new(input, PollFlags::IN));
        }
        if !master.is_empty() {
            events.push(PollFd::new(&self.master, master));
        }
    }

    /// Moves what there is to move, both ways. Fails when our output or the pseudo-terminal is gone.
    pub(super) fn transfer(&mut self) -> Result<(), Errno> {
        if self.to_output.is_empty() && self.to_output.fill(&self.master) == Filled::End {
            // The program hung its terminal up (vhangup(2), as getty does) and may open it again.
            self.slave = slave(&self.master)?;
        }
        self.write_output()?;
        if let Some(input) = self.input.as_ref().filter(|_| self.to_master.is_empty() && in_foreground())
            && ready(input, PollFlags::IN)
            && self.to_master.fill(input) == Filled::End
            && in_foreground()
        {
            // The container's program sees no end of its input: a terminal has none, and closing ours would
            // cut its output off.
            self.input = None;
        }
        // What the pseudo-terminal does not take now waits, and holds our input back.
        self.to_master.drain(&self.master)
    }

    /// Writes out what the child left behind. Processes it left behind may hold the terminal and go on
    /// writing, and our output may be stopped: neither keeps us, nor does it outlive a signal.
    pub(super) fn finish(mut self, signals: &Signals) {
        let mut held = HELD;
        loop {
            if self.to_output.is_empty() {
                match self.to_output.fill(&self.master) {
                    Filled::Some(n) if held > n => held -= n,
                    _ => return,
                }
            }
            if self.write_output().is_err() {
                return;
            }
            if !self.to_output.is_empty() {
                let mut events =
                    [PollFd::new(&self.output, PollFlags::OUT), PollFd::new(signals, PollFlags::IN)];
                let _ = poll(&mut events, None);
                if matches!(signals.next(), Some(libc::SIGHUP | libc::SIGINT | libc::SIGQUIT | libc::SIGTERM))
                {
                    return;
                }
            }
        }
    }

    fn write_output(&mut self) -> Result<(), Errno> {
        if !self.to_output.is_empty() && ready(&self.output, PollFlags::OUT) {
            self.to_output.drain(&self.output)?;
        }
        Ok(())
    }
}

/// Bytes read and not yet written.
#[derive(Default)]
struct Buffer {
    bytes: Vec<u8>,
    written: usize,
}

#[derive(PartialEq)]
enum Filled {
    Some(usize),
    Nothing,
    End,
}

impl Buffer {
    fn is_empty(&self) -> bool {
        self.written == self.bytes.len()
    }

    /// Replaces the contents, all of which must have been written, with what one read returns.
    fn fill(&mut self, from: &OwnedFd) -> Filled {
        self.written = 0;
        self.bytes.resize(CHUNK, 0);
        let result = retry_on_intr(|| read(from, &mut self.bytes[..]));
        self.bytes.truncate(result.unwrap_or(0));
        match result {
            Ok(0) => Filled::End,
            Ok(n) => Filled::Some(n),
            Err(Errno::AGAIN) => Filled::Nothing,
            // A terminal that went away reads as EIO.
            Err(_) => Filled::End,
        }
    }

    /// Writes what can be written now.
    fn drain(&mut self, to: &OwnedFd) -> Result<(), Errno> {
        if self.is_empty() {
            return Ok(());
        }
        match retry_on_intr(|| write(to, &self.bytes[self.written..])) {
            Ok(n) => self.written += n,
            Err(Errno::AGAIN) => {}
            Err(e) => return Err(e),
        }
        Ok(())
    }
}

/// The raw mode of the terminal on our standard input, with the settings it had before. Leaving it is what
/// dropping does.
struct Raw(Option<Termios>);

impl Raw {
    /// Does nothing in the background, where the terminal is another job's.
    fn enter(&mut self) {
        if self.0.is_some() || !in_foreground() {
            return;
        }
        if let Ok(before) = tcgetattr(stdin()) {
            let mut raw = before.clone();
            raw.make_raw();
            // Newlines come as the program wrote them, and the carriage goes back here.
            raw.output_modes |= OutputModes::OPOST;
            if tcsetattr(stdin(), OptionalActions::Now, &raw).is_ok() {
                self.0 = Some(before);
            }
        }
    }

    fn leave(&mut self) {
        if let Some(before) = self.0.take().filter(|_| in_foreground()) {
            // Now and not Drain: a terminal stopped with ^S must not keep us.
            let _ = tcsetattr(stdin(), OptionalActions::Now, &before);
        }
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        self.leave();
    }
}

/// Whether our standard input is ours to read: no terminal, not our session's terminal, or ours now. With
/// SIGTTIN blocked the kernel reports EIO to a background reader instead of stopping it.
fn in_foreground() -> bool {
    tcgetpgrp(stdin()).map_or(true, |group| group == getpgrp())
}

/// Opens the program's end.
fn slave(master: &OwnedFd) -> Result<OwnedFd, Errno> {
    ioctl_tiocgptpeer(master, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)
}

/// A descriptor of our own for a standard stream: not blocking where that can be had, which is by opening a
/// pipe or a terminal anew. A regular file never blocks, and has an offset that must stay shared.
fn reopen(stream: BorrowedFd<'_>, access: OFlags) -> Result<OwnedFd, Errno> {
    let stat = fs::fstat(stream)?;
    let again = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Fifo => true,
        // Not a pseudo-terminal's master (5:2), which makes a new one when opened.
        FileType::CharacterDevice => isatty(stream) && stat.st_rdev != fs::makedev(5, 2),
        _ => false,
    };
    let flags = access | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let path = format!("/proc/self/fd/{}", stream.as_raw_fd());
    // Without /proc, or for another user's terminal, the shared descriptor must do: it is polled first.
    let opened = again.then(|| fs::open(path, flags, Mode::empty()).ok()).flatten();
    opened.map_or_else(|| fcntl_dupfd_cloexec(stream, 3), Ok)
}

/// Whether `fd` can be read or written without blocking, or has ended.
fn ready(fd: &OwnedFd, events: PollFlags) -> bool {
    let mut fds = [PollFd::new(fd, events)];
    retry_on_intr(|| poll(&mut fds, Some(&Timespec::default()))).is_ok_and(|n| n > 0)
}
