//! Counting system calls with strace(1).
//!
//! Only what the runtime itself does is counted: a process counts no more from the moment it has become the container's
//! program, which is known by its arguments. A call that a signal has interrupted and that is made again counts once.

use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use coracle_integration::{Run, command, eventually};
use rustix::process::Signal;

/// What makes a process or a thread.
const FORKS: [&str; 4] = ["clone", "clone3", "fork", "vfork"];

/// What a command has cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Cost {
    /// System calls of all processes.
    pub calls: usize,
    /// Processes and threads that were made.
    pub forks: usize,
}

/// What is traced.
pub struct Traced<'a> {
    /// The command.
    pub command: Command,
    /// The arguments by which the container's program is known; without them all processes count to their end.
    pub program: Option<&'a [&'a str]>,
    /// A process that counts as well, from now on.
    pub attached: Option<i32>,
    /// Whether a process that the command leaves behind is let go once it waits.
    pub leaves: bool,
}

impl Traced<'_> {
    /// Runs the command to its end and counts. `directory` is for strace's output.
    ///
    /// # Errors
    /// The command fails, or strace is missing or may not trace.
    pub fn cost(&self, directory: &Path) -> Result<Cost> {
        let output = directory.join("strace");
        let mut strace = command("strace");
        // A long string would hide the end of the arguments; signals end strace, and not what it traces.
        strace.args(["-f", "-q", "-I2", "-s", "200", "-o"]).arg(&output);
        if let Some(pid) = self.attached {
            strace.args(["-p", &pid.to_string()]);
        }
        strace.arg("--").arg(self.command.get_program()).args(self.command.get_args());
        for (key, value) in self.command.get_envs() {
            strace.env(key, value.unwrap_or_default());
        }
        let mut job = strace.job()?;
        if self.leaves {
            wait_for_leftover(&output)?;
            job.signal(Signal::TERM)?;
            job.wait()?;
        } else {
            job.wait()?.ok()?;
        }
        let text = fs::read_to_string(&output).context("no output of strace")?;
        ensure!(text.contains("+++ exited with 0 +++"), "{:?} failed:\n{text}", self.command);
        let program = self.program.map(|arguments| format!("[\"{}\"]", arguments.join("\", \"")));
        Ok(count(&text, program.as_deref()))
    }
}

/// Until a process has ended and no other one does anything any more.
fn wait_for_leftover(output: &Path) -> Result<()> {
    let mut before = 0;
    eventually("the end of the traced command", || {
        let text = fs::read_to_string(output).unwrap_or_default();
        let quiet = text.contains("+++ exited with") && text.len() == before;
        before = text.len();
        std::thread::sleep(Duration::from_millis(100));
        Ok(quiet)
    })
}

/// Counts the lines of `strace -f`, each of which begins with a process.
fn count(text: &str, program: Option<&str>) -> Cost {
    let mut cost = Cost::default();
    let mut guests = HashSet::new();
    // Those that are about to become the program.
    let mut executing = HashSet::new();
    for (pid, line) in text.lines().filter_map(|line| line.split_once(' ')) {
        let line = line.trim_start();
        if guests.contains(pid) || line.starts_with("+++") || line.starts_with("---") {
            continue;
        }
        let is_again = line.contains("= ? ERESTART") || line.starts_with("restart_syscall(");
        if let Some(resumed) = line.strip_prefix("<... ") {
            // Its first half has been counted.
            cost.calls -= usize::from(is_again);
            if resumed.starts_with("exec") && executing.remove(pid) && line.ends_with(" = 0") {
                guests.insert(pid);
            }
            continue;
        }
        let name = line.split('(').next().unwrap_or_default();
        cost.calls += usize::from(!is_again);
        cost.forks += usize::from(FORKS.contains(&name));
        if name.starts_with("execve") && program.is_some_and(|program| line.contains(program)) {
            if line.ends_with(" = 0") {
                guests.insert(pid);
            } else if line.ends_with("<unfinished ...>") {
                executing.insert(pid);
            }
        }
    }
    cost
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: &str = r#"7 execve("/bin/coracle", ["/bin/coracle", "run"], 0x7f /* 3 vars */) = 0
7 clone3({flags=CLONE_NEWPID} <unfinished ...>
8 getpid() = 1
7 <... clone3 resumed>) = 8
8 execve("/sbin/true", ["/bin/true"], 0x31 /* 3 vars */) = -1 ENOENT (No such file or directory)
7 wait4(8,  <unfinished ...>
8 execve("/bin/true", ["/bin/true"], 0x31 /* 3 vars */ <unfinished ...>
7 <... wait4 resumed>0x7f) = ? ERESTARTSYS (To be restarted if SA_RESTART is set)
7 --- SIGWINCH {si_signo=SIGWINCH} ---
7 wait4(8,  <unfinished ...>
8 <... execve resumed>) = 0
8 brk(NULL) = 0x1000
8 exit_group(0) = ?
8 +++ exited with 0 +++
7 <... wait4 resumed>[{WIFEXITED(s)}], 0, NULL) = 8
7 exit_group(0) = ?
7 +++ exited with 0 +++
"#;

    #[test]
    fn the_program_does_not_count() {
        assert_eq!(count(RUN, Some(r#"["/bin/true"]"#)), Cost { calls: 7, forks: 1 });
    }

    #[test]
    fn without_a_program_all_counts() {
        assert_eq!(count(RUN, None), Cost { calls: 9, forks: 1 });
    }

    #[test]
    fn a_call_that_goes_on_after_an_attach_is_not_one_more() {
        let text = "   9 restart_syscall(<... resuming interrupted read ...>) = 0\n9 close(3) = 0\n";
        // strace pads numbers on the right only.
        assert_eq!(count(text.trim_start(), None), Cost { calls: 1, forks: 0 });
    }
}
