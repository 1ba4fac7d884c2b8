//! Running a program with a fault at one of its system calls, by ptrace(2).
//!
//! The program, or the first process that it makes, is stopped at every system call and counted; at the one that is
//! asked for it is killed before the call, or the call is not made and fails. Everything else runs as ever. Only the
//! calls up to another program's start are counted: what a container runs is its own affair.

use std::collections::HashSet;
use std::fs::{File, FileType};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use nix::errno::Errno;
use nix::sys::ptrace::{self, Event, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use syscalls::Sysno;

use crate::command::{Finished, read_all, what};

/// A program that takes longer than this under a fault hangs.
const DEADLINE: Duration = Duration::from_secs(30);

/// What the runtime does first of all in its `main`.
const MAINS_FIRST: Sysno = Sysno::geteuid;

/// The manual says of these that they never fail, and nobody looks whether they did.
const NEVER_FAIL: [Sysno; 15] = [
    Sysno::getpid,
    Sysno::getppid,
    Sysno::gettid,
    Sysno::getuid,
    Sysno::geteuid,
    Sysno::getgid,
    Sysno::getegid,
    Sysno::umask,
    Sysno::exit,
    Sysno::exit_group,
    // Only for a wrong number or address, or before there is any randomness.
    Sysno::rt_sigprocmask,
    Sysno::rt_sigaction,
    Sysno::uname,
    Sysno::getrandom,
    // Rust's library asserts it of the stream by which it learns of a child's exec.
    Sysno::recvfrom,
];

/// What happens at the system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The process is killed: SIGKILL.
    Kill,
    /// The call fails, and does nothing.
    Fails(Errno),
}

/// Whose system calls are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// The program's own.
    Program,
    /// Those of the first process that it makes, up to its exec.
    Child,
}

/// What became of a program under a fault.
#[derive(Debug)]
pub struct Faulted {
    /// How it ended.
    pub finished: Finished,
    /// The system calls that were counted.
    pub calls: usize,
    /// The call at which the fault was; nothing when there were not that many.
    pub hit: Option<Sysno>,
    /// The number of that call.
    pub at: usize,
    /// Whether the process was killed there.
    pub killed: bool,
    /// Whether that was before the program's own `main`, where the C library and Rust's have other ways to fail.
    pub starting: bool,
    /// Whether it did not end by itself.
    pub hung: bool,
    stdout: File,
}

impl Faulted {
    /// Standard output by now: a created container has it too.
    ///
    /// # Errors
    /// Reading the file failed.
    pub fn stdout(&self) -> Result<String> {
        read_all(&self.stdout)
    }
}

/// Runs a program with a fault at system call number `at`, counted from 0; or, without a fault, to count them.
///
/// # Errors
/// It cannot be run or traced.
pub fn run(command: &mut Command, whose: Whose, fault: Option<(usize, Fault)>) -> Result<Faulted> {
    // A tracer is a thread, and so is who waits for the children of one thread only.
    std::thread::scope(|scope| scope.spawn(|| trace(command, whose, fault)).join())
        .map_err(|_| anyhow!("the tracer panicked"))?
}

fn trace(command: &mut Command, whose: Whose, fault: Option<(usize, Fault)>) -> Result<Faulted> {
    let what = what(command);
    let (stdout, stderr) = (tempfile::tempfile()?, tempfile::tempfile()?);
    command.stdin(Stdio::null()).stdout(stdout.try_clone()?).stderr(stderr.try_clone()?);
    // SAFETY: one system call between fork and exec.
    unsafe { command.pre_exec(|| ptrace::traceme().map_err(Into::into)) };
    let child = command.spawn().with_context(|| format!("start {what}"))?;
    let main = Pid::from_raw(child.id().try_into()?);
    // Its status is taken below, so that this would wait for a stranger.
    std::mem::forget(child);

    let (done, watched) = channel::<()>();
    let watchdog = std::thread::spawn(move || {
        let late = watched.recv_timeout(DEADLINE) == Err(RecvTimeoutError::Timeout);
        late && kill(main, Signal::SIGKILL).is_ok()
    });
    let mut tracer = Tracer {
        main,
        whose,
        fault,
        target: None,
        inside: false,
        calls: 0,
        hit: None,
        starting: whose == Whose::Program,
    };
    let code = tracer.run();
    drop(done);
    let hung = watchdog.join().unwrap_or(false);
    let finished = Finished { what, code: code?, stdout: read_all(&stdout)?, stderr: read_all(&stderr)? };
    let Tracer { calls, hit, starting, .. } = tracer;
    let killed = hit.is_some() && matches!(fault, Some((_, Fault::Kill)));
    let at = fault.map_or(0, |(at, _)| at);
    Ok(Faulted { finished, calls, hit, at, killed, starting, hung, stdout })
}

struct Tracer {
    main: Pid,
    whose: Whose,
    fault: Option<(usize, Fault)>,
    /// The process whose calls are counted, as long as it is traced.
    target: Option<Pid>,
    /// Whether that is between a call's entry and its exit.
    inside: bool,
    calls: usize,
    hit: Option<Sysno>,
    /// Until the fault, whether the program has not come to its `main`.
    starting: bool,
}

impl Tracer {
    /// Until the program ends; returns its exit code.
    fn run(&mut self) -> Result<i32> {
        let stopped = waitpid(self.main, None)?;
        ensure!(matches!(stopped, WaitStatus::Stopped(_, Signal::SIGTRAP)), "{stopped:?} instead of an exec");
        let mut options = Options::PTRACE_O_TRACESYSGOOD | Options::PTRACE_O_TRACEEXEC;
        options |= Options::PTRACE_O_EXITKILL;
        match self.whose {
            Whose::Program => self.target = Some(self.main),
            Whose::Child => {
                options |= Options::PTRACE_O_TRACEFORK | Options::PTRACE_O_TRACEVFORK;
                options |= Options::PTRACE_O_TRACECLONE;
            }
        }
        ptrace::setoptions(self.main, options)?;
        self.go_on(self.main, None)?;
        // A child may stop before its parent's event tells us of it.
        let mut early = HashSet::new();
        loop {
            let flags = WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD;
            let status = waitpid(Pid::from_raw(-1), Some(flags))?;
            let pid = status.pid().context("a status without a process")?;
            match status {
                WaitStatus::Exited(_, code) if pid == self.main => return self.end(code),
                WaitStatus::Signaled(_, signal, _) if pid == self.main => {
                    return self.end(128 + signal as i32);
                }
                WaitStatus::Exited(..) | WaitStatus::Signaled(..) => self.target = None,
                WaitStatus::PtraceSyscall(_) => self.at_call(pid)?,
                WaitStatus::PtraceEvent(_, _, event) if event == Event::PTRACE_EVENT_EXEC as i32 => {
                    // The runtime runs itself again; everybody else becomes another program.
                    if pid == self.main {
                        self.starting |= self.whose == Whose::Program && self.hit.is_none();
                        self.go_on(pid, None)?;
                    } else {
                        self.let_go(pid)?;
                    }
                }
                WaitStatus::PtraceEvent(..) => {
                    let made = Pid::from_raw(ptrace::getevent(pid)?.try_into()?);
                    self.target = Some(made);
                    // Its calls alone are counted, and it may not make the next one before we listen.
                    ptrace::detach(pid, None)?;
                    if early.remove(&made) {
                        self.go_on(made, None)?;
                    }
                }
                WaitStatus::Stopped(_, Signal::SIGSTOP) if pid != self.main => match self.target {
                    Some(target) if target == pid => self.go_on(pid, None)?,
                    _ => drop(early.insert(pid)),
                },
                WaitStatus::Stopped(_, signal) => self.go_on(pid, Some(signal))?,
                other => return Err(anyhow!("unexpected {other:?}")),
            }
        }
    }

    /// A system call begins or ends.
    fn at_call(&mut self, pid: Pid) -> Result<()> {
        self.inside = !self.inside;
        let number = self.calls;
        if self.inside {
            self.calls += 1;
            self.starting &= self.hit.is_some() || call_of(pid)? != MAINS_FIRST;
        }
        // The exit of the call at which the fault is comes with its number still the last one counted.
        let here = self.fault.filter(|(at, _)| *at == if self.inside { number } else { number - 1 });
        match here.map(|(_, fault)| fault) {
            None => {}
            Some(fault) if self.inside => {
                let call = call_of(pid)?;
                self.hit = (fault == Fault::Kill || can_fail(pid, call)?).then_some(call);
                match fault {
                    Fault::Kill => return Ok(kill(pid, Signal::SIGKILL)?),
                    Fault::Fails(_) if self.hit.is_none() => self.fault = None,
                    Fault::Fails(_) => skip_call(pid, self.hit)?,
                }
            }
            // It says where the heap ends, and fails by not moving that.
            Some(Fault::Fails(_)) if self.hit == Some(Sysno::brk) => {}
            Some(Fault::Fails(errno)) => set_result(pid, errno)?,
            Some(Fault::Kill) => {}
        }
        self.go_on(pid, None)
    }

    fn go_on(&self, pid: Pid, signal: Option<Signal>) -> Result<()> {
        let went =
            if self.target == Some(pid) { ptrace::syscall(pid, signal) } else { ptrace::cont(pid, signal) };
        match went {
            // Killed meanwhile; its end is reported next.
            Err(Errno::ESRCH) => Ok(()),
            went => Ok(went?),
        }
    }

    fn let_go(&mut self, pid: Pid) -> Result<()> {
        self.target = None;
        Ok(ptrace::detach(pid, None)?)
    }

    /// The program has ended; what it made goes on without us.
    fn end(&mut self, code: i32) -> Result<i32> {
        let Some(child) = self.target.filter(|target| *target != self.main) else { return Ok(code) };
        // It can only be let go where it stands still.
        kill(child, Signal::SIGSTOP)?;
        loop {
            match waitpid(child, Some(WaitPidFlag::__WALL))? {
                WaitStatus::Stopped(_, Signal::SIGSTOP) => {
                    self.let_go(child)?;
                    return Ok(code);
                }
                WaitStatus::Exited(..) | WaitStatus::Signaled(..) => return Ok(code),
                WaitStatus::PtraceEvent(_, _, event) if event == Event::PTRACE_EVENT_EXEC as i32 => {
                    self.let_go(child)?;
                    // The signal comes, and must not stop what is nobody's to continue.
                    kill(child, Signal::SIGCONT)?;
                    return Ok(code);
                }
                WaitStatus::PtraceSyscall(_) => self.at_call(child)?,
                WaitStatus::Stopped(_, signal) => self.go_on(child, Some(signal))?,
                other => return Err(anyhow!("unexpected {other:?}")),
            }
        }
    }
}

/// Nothing is written back when a directory is closed; and who waits at a fifo, as a created container does for its start,
/// has done all that was asked of it.
fn can_fail(pid: Pid, call: Sysno) -> Result<bool> {
    let path = format!("/proc/{pid}/fd/{}", ptrace::getregs(pid)?.rdi);
    let is = |kind: fn(&FileType) -> bool| std::fs::metadata(&path).is_ok_and(|file| kind(&file.file_type()));
    Ok(match call {
        Sysno::close => !is(FileType::is_dir),
        Sysno::read => !is(FileType::is_fifo),
        call => !NEVER_FAIL.contains(&call),
    })
}

fn call_of(pid: Pid) -> Result<Sysno> {
    let number = usize::try_from(ptrace::getregs(pid)?.orig_rax)?;
    Sysno::new(number).with_context(|| format!("no system call has the number {number}"))
}

/// Lets the kernel find no system call to make, or one that does what the failing one does.
fn skip_call(pid: Pid, call: Option<Sysno>) -> Result<()> {
    let mut registers = ptrace::getregs(pid)?;
    match call {
        Some(Sysno::brk) => registers.rdi = 0,
        // Whatever it says, the descriptor is closed (close(2), "Dealing with error returns").
        Some(Sysno::close) => return Ok(()),
        _ => registers.orig_rax = u64::MAX,
    }
    Ok(ptrace::setregs(pid, registers)?)
}

fn set_result(pid: Pid, errno: Errno) -> Result<()> {
    let mut registers = ptrace::getregs(pid)?;
    registers.rax = i64::from(-(errno as i32)).cast_unsigned();
    Ok(ptrace::setregs(pid, registers)?)
}
