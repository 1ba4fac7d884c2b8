//! Hooks (config.md, "POSIX-platform Hooks"): programs of the engine's, run at given moments with the container's
//! state on standard input.
//!
//! What a hook writes is kept, and part of the error when it fails, unless an annotation of crun's names a file for it.
//! A hook without an environment of its own has ours, that of the program when it runs just before the program
//! (startContainer), and none when it runs inside otherwise; so it is with runc.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use oci_spec::runtime::{Hook, Hooks};
use rustix::fs::MemfdFlags;

use crate::container::{State, Status};
use crate::error::Os;
use crate::program;

/// Files that standard output and standard error of hooks are appended to.
const OUTPUT: [&str; 2] = ["run.oci.hooks.stdout", "run.oci.hooks.stderr"];
/// What a pipe holds (pipe(7)); a state that is longer needs a wider one, for a hook need not read it.
const PIPE: usize = 65536;

/// Why hooks did not run.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "each variant says itself what happened")]
pub enum Error {
    #[error("error running {kind} hook #{index}: {path}: {reason}")]
    Hook { kind: &'static str, index: usize, path: PathBuf, reason: String },
    #[error("annotation {annotation}: {path}: {reason}")]
    Output { annotation: &'static str, path: String, reason: Os },
}

/// Where hooks write.
#[derive(Debug, Default)]
pub struct Output([Option<File>; 2]);

impl Output {
    /// Opens the files that annotations name, if there are hooks at all.
    ///
    /// # Errors
    /// [`Error::Output`].
    pub fn open(hooks: Option<&Hooks>, annotations: &HashMap<String, String>) -> Result<Self, Error> {
        let open = |annotation: &'static str| {
            let Some(path) = annotations.get(annotation).filter(|_| hooks.is_some()) else { return Ok(None) };
            let file = OpenOptions::new().create(true).append(true).mode(0o700).open(path);
            file.map(Some).map_err(|e| Error::Output { annotation, path: path.clone(), reason: e.into() })
        };
        let [out, err] = OUTPUT;
        Ok(Self([open(out)?, open(err)?]))
    }

    /// The open files.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.0.iter().flatten().map(AsFd::as_fd)
    }
}

/// The moment at which hooks run.
#[derive(Debug)]
pub struct Moment<'a> {
    /// The name of its hooks.
    pub kind: &'static str,
    /// The container.
    pub state: &'a State,
    /// The status that the container has.
    pub status: Status,
    /// Its first process, as the hooks see it.
    pub pid: Option<i32>,
    /// What hooks have that do not name an environment; `None` is ours.
    pub environment: Option<&'a [String]>,
    /// Where the hooks run, if not where we are.
    pub directory: Option<&'a Path>,
    /// Where they write.
    pub output: &'a Output,
}

impl Moment<'_> {
    /// Runs hooks in order, up to the first that fails.
    ///
    /// # Errors
    /// [`Error::Hook`] for one that cannot be run, exits with another code than 0, or takes longer than its timeout.
    pub fn run(&self, hooks: Option<&Vec<Hook>>) -> Result<(), Error> {
        self.each(hooks).try_for_each(|outcome| outcome)
    }

    /// Runs all hooks, in order, and gives the errors of those that fail.
    pub fn run_all(&self, hooks: Option<&Vec<Hook>>) -> Vec<Error> {
        self.each(hooks).filter_map(Result::err).collect()
    }

    fn each(&self, hooks: Option<&Vec<Hook>>) -> impl Iterator<Item = Result<(), Error>> {
        hooks.into_iter().flatten().enumerate().map(|(index, hook)| {
            self.run_one(hook).map_err(|reason| Error::Hook {
                kind: self.kind,
                index,
                path: hook.path().clone(),
                reason,
            })
        })
    }

    fn run_one(&self, hook: &Hook) -> Result<(), String> {
        let said = |reason: io::Error| Os::from(reason).to_string();
        let state = self.json()?;
        let streams = self.output.0.each_ref().map(Stream::new);
        let mut command = Command::new(hook.path());
        match hook.args().as_ref().and_then(|list| list.split_first()) {
            // The first argument is the program's name (config.md), which need not be its path.
            Some((name, rest)) => command.arg0(name).args(rest),
            None => command.arg0(hook.path()),
        };
        let own = hook.env().as_deref();
        if let Some(list) = own.filter(|list| !list.is_empty()).or(self.environment).or(own) {
            command.env_clear().envs(list.iter().filter_map(|entry| entry.split_once('=')));
        }
        if let Some(directory) = self.directory {
            command.current_dir(directory);
        }
        let [out, err] = &streams;
        command.stdin(Stdio::piped()).stdout(out.stdio()).stderr(err.stdio());
        // Not under the container's filter, which may forbid it; its init takes all with it when it ends.
        if self.kind != "startContainer" {
            program::attach_to_us(&mut command);
        }
        let mut child = command.spawn().map_err(said)?;
        if let Some(mut stdin) = child.stdin.take() {
            if state.len() > PIPE {
                // Wider than it may be only matters for a hook that does not read.
                let _ = rustix::pipe::fcntl_setpipe_size(&stdin, state.len());
            }
            match stdin.write_all(&state) {
                Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                    let _ = child.kill().and_then(|()| child.wait());
                    return Err(said(error));
                }
                // One that does not care for the state may be gone by now.
                _ => {}
            }
        }
        let timeout = hook.timeout().and_then(|seconds| u64::try_from(seconds).ok());
        let Some(status) = wait(&mut child, timeout.map(Duration::from_secs)).map_err(said)? else {
            return Err(format!("hook ran past specified timeout of {}.0s", timeout.unwrap_or_default()));
        };
        if status.success() {
            return Ok(());
        }
        let [out, err] = streams.map(Stream::text);
        let (how, out, err) = (words(status), out.trim_end(), err.trim_end());
        Err(format!("{} hook {how}, stdout: {out}, stderr: {err}", self.kind))
    }

    /// The state of the container (runtime.md, "State").
    fn json(&self) -> Result<Vec<u8>, String> {
        let state = self.state.published(self.status, self.pid).map_err(|e| e.to_string())?;
        serde_json::to_vec(&state).map_err(|e| e.to_string())
    }
}

/// Waits for a hook; `None` when it was killed because its time was over.
fn wait(child: &mut Child, timeout: Option<Duration>) -> io::Result<Option<ExitStatus>> {
    let Some(timeout) = timeout else { return child.wait().map(Some) };
    let end = Instant::now() + timeout;
    let mut pause = Duration::from_micros(100);
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        // Not by a pidfd: inside a container, its seccomp filter may already be in force.
        std::thread::sleep(pause.min(left));
        pause = (pause * 2).min(Duration::from_millis(10));
    }
}

fn words(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("failed with exit code {code}"),
        (None, Some(signal)) => format!("was killed by signal: {}", signal_words(signal)),
        (None, None) => status.to_string(),
    }
}

/// What a signal is called: strsignal(3), in small letters like all reasons.
fn signal_words(signal: i32) -> String {
    // SAFETY: for any number the C library returns a string of its own, which the next call may change; this process has
    // one thread that does.
    let words = unsafe { std::ffi::CStr::from_ptr(libc::strsignal(signal)) };
    words.to_string_lossy().to_lowercase()
}

/// What one of a hook's streams is connected to.
enum Stream<'a> {
    /// A file of the user's.
    File(&'a File),
    /// Memory, for the error. Unlike a pipe, it need not be read while the hook runs, and a process that the
    /// hook leaves behind may keep it.
    Memory(File),
    /// Ours, where memory is not to be had.
    Ours,
}

impl<'a> Stream<'a> {
    fn new(file: &'a Option<File>) -> Self {
        match file {
            Some(file) => Self::File(file),
            None => match rustix::fs::memfd_create(c"hook", MemfdFlags::CLOEXEC) {
                Ok(memory) => Self::Memory(memory.into()),
                Err(_) => Self::Ours,
            },
        }
    }

    fn stdio(&self) -> Stdio {
        let file = match self {
            Self::File(file) => file,
            Self::Memory(file) => file,
            Self::Ours => return Stdio::inherit(),
        };
        file.try_clone().map_or_else(|_| Stdio::inherit(), Stdio::from)
    }

    fn text(self) -> String {
        let mut bytes = Vec::new();
        if let Self::Memory(mut file) = self {
            // It is read to explain an error, which there is with it or without.
            let _ = file.rewind().and_then(|()| file.read_to_end(&mut bytes));
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::HookBuilder;

    fn run(script: &str, timeout: Option<i64>, environment: Option<&[String]>) -> Result<(), String> {
        let args = ["sh", "-c", script].map(str::to_owned).to_vec();
        let mut hook = HookBuilder::default().path("/bin/sh").args(args).build().expect("a hook");
        hook.set_timeout(timeout);
        let state = serde_json::json!({"ociVersion": "1.0.0", "id": "the-id", "bundle": "/b", "rootfs": "/r",
            "created": "", "owner": "", "annotations": {"k": "v".repeat(100_000)}});
        let state: State = serde_json::from_value(state).expect("a state");
        let moment = Moment {
            kind: "prestart",
            state: &state,
            status: Status::Creating,
            pid: Some(42),
            environment,
            directory: Some(Path::new("/dev")),
            output: &Output::default(),
        };
        moment.run(Some(&vec![hook])).map_err(|e| e.to_string())
    }

    #[test]
    fn state_name_directory_and_environment() {
        run(
            r#"s=$(cat); case "$s" in *'"pid":42'*) test "$0 $(pwd)" = "sh /dev";; *) false; esac"#,
            None,
            None,
        )
        .expect("as it should be");
        run("test \"$A\" = b && test -z \"$HOME\"", None, Some(&["A=b".to_owned()])).expect("A alone");
        run("test -n \"$PATH\"", None, None).expect("ours");
    }

    #[test]
    fn a_failure_is_told_with_what_the_hook_said() {
        let error = run("echo out; echo err >&2; exit 3", Some(5), None).expect_err("exit 3");
        let expected = "error running prestart hook #0: /bin/sh: prestart hook failed with exit code 3, stdout: out, stderr: err";
        assert_eq!(error, expected);
        let error = run("kill -9 $$", None, None).expect_err("killed");
        assert!(error.contains("was killed by signal: killed"), "{error}");
    }

    #[test]
    fn time_ends() {
        let start = Instant::now();
        let error = run("exec sleep 20", Some(1), None).expect_err("too long");
        assert!(error.contains("timeout of 1.0s") && start.elapsed() < Duration::from_secs(10), "{error}");
    }
}
