//! One container as one engine calls the runtime for it: lines, environment, descriptors, working directory, streams.

use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use coracle_integration::{
    ConsoleSocket, Container, Finished, Host, Run, Terminal, command, coracle, eventually, reap,
};
use rustix::process::{Signal, set_parent_process_death_signal};
use serde_json::{Value, json};

use crate::readers;
use crate::table::{Engine, Verb, global, lines, root};

/// A container of an engine's. Its id is 64 hexadecimal digits, or a name.
pub struct Caller<'h> {
    pub engine: Engine,
    /// Bundle and configuration; its own commands are not an engine's.
    pub container: Container<'h>,
    output: Option<Output>,
}

/// The reading ends of a container's standard output and error.
struct Output {
    stdout: File,
    stderr: File,
    /// What came so far.
    seen: String,
}

/// What came of a call.
pub struct Done {
    pub finished: Finished,
    /// What is in the log, if the line names one.
    log: Option<String>,
}

impl<'h> Caller<'h> {
    /// A container with the configuration that the engine would write.
    pub fn new(engine: Engine, host: &'h Host, args: &[&str]) -> Result<Self> {
        let mut container = host.container(args)?;
        let name = host.name();
        if engine != Engine::Buildah {
            let mut random = [0; 32];
            File::open("/dev/urandom")?.read_exact(&mut random)?;
            container.id = random.iter().map(|byte| format!("{byte:02x}")).collect();
        }
        let id = &container.id;
        let path = match engine {
            Engine::Podman => Some(format!("/{name}/libpod-{id}")),
            Engine::Containerd => Some(format!("/{name}/{id}")),
            // Relative, from --cgroup-parent.
            Engine::Docker => Some(format!("{name}/{id}")),
            Engine::Crio => Some(format!("/{name}/crio-{id}")),
            Engine::Buildah => None,
        };
        let linux = container.config["linux"].as_object_mut().context("linux")?;
        match path {
            Some(path) => linux.insert("cgroupsPath".to_owned(), json!(path)),
            None => linux.remove("cgroupsPath"),
        };
        if engine == Engine::Docker {
            let line = format!("cat > {}", container.bundle().join("hook.json").display());
            container.config["hooks"] =
                json!({"prestart": [{"path": "/bin/sh", "args": ["sh", "-c", line]}]});
        }
        Ok(Caller { engine, container, output: None })
    }

    /// A container that this engine has created and started.
    pub fn running(engine: Engine, host: &'h Host, args: &[&str]) -> Result<Self> {
        let mut caller = Self::new(engine, host, args)?;
        caller.create(lines(engine, Verb::Create)[0])?;
        caller.verb(Verb::Start)?;
        Ok(caller)
    }

    /// A file beside the configuration.
    pub fn file(&self, name: &str) -> PathBuf {
        self.container.bundle().join(name)
    }

    /// Where the engine's state directory is.
    pub fn state_dir(&self) -> PathBuf {
        match self.engine {
            Engine::Podman | Engine::Buildah => PathBuf::from("/run/coracle"),
            _ => self.container.host.state_dir(),
        }
    }

    /// A line of the table as a command, with all that the engine gives it.
    pub fn command(&self, line: &str) -> Result<Command> {
        let mut command = command(coracle());
        for word in global(self.engine).split_whitespace().chain(line.split_whitespace()) {
            let mut word = word.to_owned();
            for (place, file) in [
                ("$B", self.container.bundle().to_owned()),
                ("$P", self.file("pid")),
                ("$S", self.file("console.sock")),
                ("$J", self.file("process.json")),
                ("$R", self.state_dir()),
                ("$L", self.file("log.json")),
                ("$U", self.file("resources.json")),
                ("$I", self.file("image")),
            ] {
                word = word.replace(place, file.to_str().context("path")?);
            }
            command.arg(if word == "ID" { &self.container.id } else { &word });
        }
        match self.engine {
            // conmon's own; XDG_RUNTIME_DIR is there and empty.
            Engine::Podman => {
                command.envs([("_OCI_SYNCPIPE", "3"), ("_OCI_STARTPIPE", "4"), ("_OCI_ATTACHPIPE", "5")]);
                command.env("XDG_RUNTIME_DIR", "").current_dir(self.container.host.path());
            }
            // Not even PATH.
            Engine::Crio => drop(command.env_clear().current_dir(self.container.bundle())),
            _ => drop(command.current_dir(self.container.bundle())),
        }
        command.env("CORACLE_CACHE_DIR", self.container.host.cache_dir());
        self.surround(&mut command)?;
        Ok(command)
    }

    /// Descriptors that engines leave open, and the signal that the shim asks for on its death.
    pub fn surround(&self, command: &mut Command) -> Result<()> {
        let numbers: &'static [i32] = match self.engine {
            Engine::Podman => &[3, 4, 5, 10, 251],
            Engine::Docker => &[3],
            Engine::Buildah => &[3, 4, 5, 6, 11, 12, 13, 14, 15, 16, 17, 18],
            Engine::Containerd | Engine::Crio => &[],
        };
        let with_shim = matches!(self.engine, Engine::Containerd | Engine::Docker);
        let extra: OwnedFd = UnixStream::pair()?.0.into();
        let extra = rustix::io::fcntl_dupfd_cloexec(extra, 300)?;
        // SAFETY: system calls alone. A number that std uses between fork and exec is only that of the pipe on which it
        // would report that the program cannot be executed.
        unsafe {
            command.pre_exec(move || {
                for number in numbers {
                    if libc::dup2(extra.as_raw_fd(), *number) < 0 {
                        return Err(std::io::Error::last_os_error());
                    }
                }
                if with_shim {
                    set_parent_process_death_signal(Some(Signal::KILL))?;
                }
                Ok(())
            });
        }
        Ok(())
    }

    /// Runs a line to its end.
    pub fn call(&self, line: &str) -> Result<Done> {
        self.call_with(line, b"")
    }

    /// Runs a line to its end, with this on standard input.
    pub fn call_with(&self, line: &str, stdin: &[u8]) -> Result<Done> {
        let log = self.fresh_log(line)?;
        let mut command = self.command(line)?;
        let finished = if stdin.is_empty() { command.finish()? } else { command.finish_with(stdin)? };
        Ok(Done { finished, log: log.map(|log| fs::read_to_string(log).unwrap_or_default()) })
    }

    /// The log that a line writes, removed.
    fn fresh_log(&self, line: &str) -> Result<Option<PathBuf>> {
        let named = format!("{} {line}", global(self.engine)).contains("$L");
        let log = self.file("log.json");
        if log.exists() {
            fs::remove_file(&log)?;
        }
        Ok(named.then_some(log))
    }

    /// Runs a line that has to succeed without a word.
    pub fn silently(&self, line: &str) -> Result<()> {
        self.call(line)?.silent()
    }

    /// Runs the first line for a verb, which has to succeed without a word.
    pub fn verb(&self, verb: Verb) -> Result<()> {
        self.silently(lines(self.engine, verb).first().context("no such line")?)
    }

    /// `create` by this line, as the engine does it: streams are pipes that become the container's. Returns the
    /// terminal if the line has a console socket.
    pub fn create(&mut self, line: &str) -> Result<Option<Terminal>> {
        let (done, terminal) = self.try_create(line)?;
        done.silent()?;
        Ok(terminal)
    }

    /// `create`, whatever comes of it.
    pub fn try_create(&mut self, line: &str) -> Result<(Done, Option<Terminal>)> {
        self.container.config["process"]["terminal"] = json!(line.contains("$S"));
        self.container.save()?;
        self.with_pipes(line)
    }

    /// The pid that a line has written to its pid file. Engines parse it strictly.
    pub fn pid(&self) -> Result<i32> {
        let pid = fs::read_to_string(self.file("pid")).context("pid file")?;
        pid.parse().with_context(|| format!("not a bare number: {pid:?}"))
    }

    /// Runs `create` or a detached `exec`, the process's streams being pipes and its terminal, if it has one, received on a
    /// console socket.
    fn with_pipes(&mut self, line: &str) -> Result<(Done, Option<Terminal>)> {
        let log = self.fresh_log(line)?;
        let _ = fs::remove_file(self.file("pid"));
        let _ = fs::remove_file(self.file("console.sock"));
        let socket =
            if line.contains("$S") { Some(ConsoleSocket::bind(&self.file("console.sock"))?) } else { None };
        let mut command = self.command(line)?;
        let (stdout, to_stdout) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        let (stderr, to_stderr) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        let mut child = command.stdout(to_stdout).stderr(to_stderr).spawn()?;
        // The command holds the writing ends as well.
        drop(command);
        let terminal = socket.map(|socket| socket.accept()).transpose();
        let code = child.wait()?.code().unwrap_or(-1);
        for end in [&stdout, &stderr] {
            rustix::io::ioctl_fionbio(end, true)?;
        }
        let mut output = Output { stdout: stdout.into(), stderr: stderr.into(), seen: String::new() };
        // Nothing of the container can be in them yet when it is created.
        let mut finished =
            Finished { what: line.to_owned(), code, stdout: String::new(), stderr: String::new() };
        if code != 0 || line.contains("create") {
            read_some(&mut output.stdout, &mut finished.stdout)?;
            read_some(&mut output.stderr, &mut finished.stderr)?;
        }
        let log = log.map(|log| fs::read_to_string(log).unwrap_or_default());
        self.output = Some(output);
        let terminal = if code == 0 { terminal? } else { None };
        Ok((Done { finished, log }, terminal))
    }

    /// Reads the pipes until this comes.
    pub fn expect(&mut self, needle: &str) -> Result<()> {
        let output = self.output.as_mut().context("no pipes")?;
        eventually(needle, || {
            read_some(&mut output.stdout, &mut output.seen)?;
            Ok(output.seen.contains(needle))
        })
        .with_context(|| format!("only {:?}", output.seen))
    }

    /// Reads the pipes to their end: when the last process that has them open is gone.
    pub fn rest(&mut self) -> Result<String> {
        let mut output = self.output.take().context("no pipes")?;
        let mut err = String::new();
        eventually("the end of the container's output", || {
            let out = read_some(&mut output.stdout, &mut output.seen)?;
            Ok(read_some(&mut output.stderr, &mut err)? && out)
        })?;
        Ok(output.seen + &err)
    }

    /// Executes by this line. Returns the exit code, and what came out.
    pub fn exec(&mut self, line: &str, args: &[&str]) -> Result<(i32, String)> {
        self.process_file(args, |process| process["terminal"] = json!(line.contains("$S")))?;
        if !line.contains("--detach") {
            let done = self.call(line)?.finished;
            return Ok((done.code, done.stdout + &done.stderr));
        }
        let (done, terminal) = self.with_pipes(line)?;
        done.silent()?;
        let code = reap(self.pid()?)?;
        let text = match terminal {
            Some(mut terminal) => terminal.rest()?,
            None => self.rest()?,
        };
        Ok((code, text))
    }

    /// Writes the file with the process for an `exec`.
    pub fn process_file(&self, args: &[&str], change: impl FnOnce(&mut Value)) -> Result<()> {
        let mut process = self.container.config["process"].clone();
        process["args"] = json!(args);
        process["terminal"] = json!(false);
        change(&mut process);
        Ok(fs::write(self.file("process.json"), process.to_string())?)
    }

    /// The state that `state` prints.
    pub fn state(&self) -> Result<Value> {
        let line = lines(self.engine, Verb::State).first().copied().unwrap_or("state ID");
        Ok(serde_json::from_str(&self.call(line)?.finished.ok()?.stdout)?)
    }
}

impl Drop for Caller<'_> {
    fn drop(&mut self) {
        let _ = self.call(&format!("{}delete --force ID", root(self.engine)));
        // The parent of a relative path is below our own cgroup, or beside it, where the host does not look.
        for line in fs::read_to_string("/proc/self/cgroup").unwrap_or_default().lines() {
            let own = Path::new(line.rsplit(':').next().unwrap_or_default());
            for parent in [Some(own), own.parent()].into_iter().flatten() {
                let path = parent.join(self.container.host.name());
                for dir in Host::cgroup_dirs(&path.to_string_lossy()) {
                    let _ = fs::remove_dir(dir);
                }
            }
        }
    }
}

impl Done {
    /// Whether the line names a log.
    pub fn has_log(&self) -> bool {
        self.log.is_some()
    }

    /// Success, and no word about it anywhere.
    pub fn silent(&self) -> Result<()> {
        let Finished { code, stdout, stderr, .. } = &self.finished;
        let log = self.log.as_deref().unwrap_or_default();
        ensure!(*code == 0, "{} {log}", self.finished);
        ensure!(
            stdout.is_empty() && stderr.is_empty() && log.is_empty(),
            "not silent: {} {log}",
            self.finished
        );
        Ok(())
    }

    /// The message of a failure, which has to be the same wherever an engine looks for it.
    pub fn message(&self) -> Result<String> {
        ensure!(self.finished.code != 0, "expected a failure: {}", self.finished);
        ensure!(self.finished.stdout.is_empty(), "an error goes to standard error: {}", self.finished);
        let Some(log) = &self.log else { return readers::stderr_message(&self.finished) };
        let message = readers::podman_log(log)?;
        ensure!(readers::containerd_log(log)? == message, "{log}");
        // go-runc gives combined output to those who look for words in it.
        ensure!(self.finished.stderr.trim_end() == message, "bare on standard error: {}", self.finished);
        Ok(message)
    }
}

/// Appends what is in the pipe; true at its end.
fn read_some(pipe: &mut File, to: &mut String) -> Result<bool> {
    let mut buffer = [0; 4096];
    loop {
        match pipe.read(&mut buffer) {
            Ok(0) => return Ok(true),
            Ok(n) => to.push_str(&String::from_utf8_lossy(&buffer[..n])),
            Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(e) => return Err(e.into()),
        }
    }
}
