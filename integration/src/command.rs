//! Running programs with a deadline.
//!
//! Output goes to unnamed files, never to pipes: a container inherits the standard streams of `create`, and reading a
//! pipe to its end would wait for the container.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

/// No single command takes this long on a loaded two-core machine unless it hangs.
const DEADLINE: Duration = Duration::from_secs(90);

/// What a program that has ended left behind.
#[derive(Debug, Clone)]
pub struct Finished {
    /// The command line, for messages.
    pub what: String,
    /// Its exit code, 128+n if signal n killed it.
    pub code: i32,
    /// What it wrote to standard output.
    pub stdout: String,
    /// What it wrote to standard error.
    pub stderr: String,
}

impl Finished {
    /// Requires the exit code 0.
    ///
    /// # Errors
    /// Any other exit code.
    pub fn ok(self) -> Result<Self> {
        self.exits(0)
    }

    /// Requires an exit code.
    ///
    /// # Errors
    /// Any other exit code.
    pub fn exits(self, code: i32) -> Result<Self> {
        ensure!(self.code == code, "expected exit code {code} from {self}");
        Ok(self)
    }

    /// Requires a non-zero exit code and `needle` in standard error (in which log lines have their quotes escaped).
    ///
    /// # Errors
    /// Success, or another message.
    pub fn fails_with(self, needle: &str) -> Result<Self> {
        ensure!(self.code != 0, "expected a failure from {self}");
        ensure!(
            self.stderr.replace("\\\"", "\"").contains(needle),
            "expected {needle:?} on stderr from {self}"
        );
        Ok(self)
    }

    /// Requires this standard output, surrounding white space aside.
    ///
    /// # Errors
    /// Any other output.
    pub fn prints(self, expected: &str) -> Result<Self> {
        ensure!(self.stdout.trim() == expected.trim(), "expected {expected:?} on stdout from {self}");
        Ok(self)
    }

    /// Requires `needle` in standard output.
    ///
    /// # Errors
    /// It is not there.
    pub fn prints_some(self, needle: &str) -> Result<Self> {
        ensure!(self.stdout.contains(needle), "expected {needle:?} on stdout from {self}");
        Ok(self)
    }

    /// The lines of standard output.
    pub fn lines(&self) -> impl Iterator<Item = &str> {
        self.stdout.lines()
    }
}

impl std::fmt::Display for Finished {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Finished { what, code, stdout, stderr } = self;
        write!(f, "{what}\n  exit code: {code}\n  stdout: {stdout:?}\n  stderr: {stderr}")
    }
}

/// A program that is running. Dropping it kills it.
pub struct Job {
    what: String,
    child: Child,
    status: Option<ExitStatus>,
    stdout: File,
    stderr: File,
}

impl Job {
    /// The process id.
    #[must_use]
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap_or(i32::MAX)
    }

    /// Sends a signal to the program.
    ///
    /// # Errors
    /// The program is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill_process(Pid::from_child(&self.child), signal).context("signal the job")
    }

    /// Standard output so far.
    ///
    /// # Errors
    /// Reading the file failed.
    pub fn stdout(&self) -> Result<String> {
        read_all(&self.stdout)
    }

    /// Standard error so far.
    ///
    /// # Errors
    /// Reading the file failed.
    pub fn stderr(&self) -> Result<String> {
        read_all(&self.stderr)
    }

    /// Waits until standard output contains `needle`.
    ///
    /// # Errors
    /// It does not come in time.
    pub fn expect(&mut self, needle: &str) -> Result<()> {
        let what = self.what.clone();
        eventually(&format!("{needle:?} on the output of {what}"), || Ok(self.stdout()?.contains(needle)))
            .with_context(|| format!("stderr: {:?}", self.stderr()))
    }

    /// The write end of a piped standard input.
    pub fn stdin(&mut self) -> Option<std::process::ChildStdin> {
        self.child.stdin.take()
    }

    /// Waits for the end.
    ///
    /// # Errors
    /// The program does not end in time (it is then killed).
    pub fn wait(&mut self) -> Result<Finished> {
        self.wait_for(DEADLINE)
    }

    /// Waits for the end, for so long.
    ///
    /// # Errors
    /// The program does not end in time (it is then killed).
    pub fn wait_for(&mut self, deadline: Duration) -> Result<Finished> {
        let ended = wait_pid(Pid::from_child(&self.child), deadline)?;
        if !ended {
            self.child.kill().context("kill a job that takes too long")?;
        }
        let status = self.child.wait().context("wait for the job")?;
        self.status = Some(status);
        let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
        let done = Finished { what: self.what.clone(), code, stdout: self.stdout()?, stderr: self.stderr()? };
        ensure!(ended, "no end after {deadline:?}: {done}");
        Ok(done)
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        if self.status.is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// A command that a shell script executes at its end, as `"$@"`. The script's own argument is `$0`.
#[must_use]
pub fn after(script: &str, argument: &str, target: &Command) -> Command {
    let mut sh = command("/bin/sh");
    sh.args(["-c", script, argument]).arg(target.get_program()).args(target.get_args());
    for (key, value) in target.get_envs() {
        sh.env(key, value.unwrap_or_default());
    }
    sh
}

/// The words of a command line.
#[must_use]
pub fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

/// A command with an empty standard input.
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.stdin(Stdio::null());
    command
}

/// Running a [`Command`] with its output kept and a deadline.
pub trait Run {
    /// Starts the program.
    ///
    /// # Errors
    /// The program cannot be executed.
    fn job(&mut self) -> Result<Job>;

    /// Runs the program to its end.
    ///
    /// # Errors
    /// The program cannot be executed, or takes too long.
    fn finish(&mut self) -> Result<Finished> {
        self.job()?.wait()
    }

    /// Runs the program with these bytes on standard input.
    ///
    /// # Errors
    /// As [`Run::finish`].
    fn finish_with(&mut self, stdin: &[u8]) -> Result<Finished>;
}

impl Run for Command {
    fn job(&mut self) -> Result<Job> {
        let what = what(self);
        let stdout = tempfile::tempfile()?;
        let stderr = tempfile::tempfile()?;
        let child = self
            .stdout(stdout.try_clone()?)
            .stderr(stderr.try_clone()?)
            .spawn()
            .with_context(|| format!("start {what}"))?;
        Ok(Job { what, child, status: None, stdout, stderr })
    }

    fn finish_with(&mut self, stdin: &[u8]) -> Result<Finished> {
        let file = tempfile::tempfile()?;
        file.write_all_at(stdin, 0)?;
        self.stdin(Stdio::from(file)).finish()
    }
}

/// The command line, for messages.
pub(crate) fn what(command: &Command) -> String {
    let mut what = command.get_program().to_string_lossy().into_owned();
    for arg in command.get_args() {
        let _ = write!(what, " {}", arg.to_string_lossy());
    }
    what
}

/// Polls until `condition` holds.
///
/// # Errors
/// It does not within half a minute, or fails itself.
pub fn eventually(what: &str, mut condition: impl FnMut() -> Result<bool>) -> Result<()> {
    let start = Instant::now();
    while !condition()? {
        if start.elapsed() > Duration::from_secs(30) {
            bail!("waited half a minute for {what}");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// Waits for a process's end without reaping it; false if the time is over first.
pub(crate) fn wait_pid(pid: Pid, deadline: Duration) -> Result<bool> {
    let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) else {
        return Ok(true);
    };
    let timeout =
        Timespec { tv_sec: i64::try_from(deadline.as_secs())?, tv_nsec: deadline.subsec_nanos().into() };
    loop {
        match poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&timeout)) {
            Err(rustix::io::Errno::INTR) => {}
            ready => return Ok(ready? == 1),
        }
    }
}

/// The whole file, without moving the offset that the writer shares.
pub(crate) fn read_all(file: &File) -> Result<String> {
    let mut bytes = vec![0; usize::try_from(file.metadata()?.len())?];
    let n = file.read_at(&mut bytes, 0)?;
    bytes.truncate(n);
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
