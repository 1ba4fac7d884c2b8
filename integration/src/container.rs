//! One container of a test: its bundle, and the commands on it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, WaitOptions, waitpid};
use serde_json::{Value, json};

use crate::command::{Finished, Job, Run, eventually, read_all, wait_pid};
use crate::host::Host;

/// A container and its bundle. Change [`Container::config`] before the first command; it is written to `config.json`
/// by [`Container::create`] and [`Container::run`].
pub struct Container<'h> {
    /// The host that it runs on.
    pub host: &'h Host,
    /// Its id.
    pub id: String,
    /// What becomes `config.json`.
    pub config: Value,
    bundle: PathBuf,
    init: Option<i32>,
    output: Option<(File, File)>,
}

impl<'h> Container<'h> {
    pub(crate) fn new(host: &'h Host, bundle: PathBuf, args: &[&str]) -> Result<Self> {
        let id = bundle.file_name().context("bundle without a name")?.to_string_lossy().into_owned();
        let mut config = host.spec()?;
        config["process"]["args"] = json!(args);
        config["process"]["terminal"] = json!(false);
        config["root"]["readonly"] = json!(false);
        config["linux"]["cgroupsPath"] = json!(format!("/{}/{id}", host.name()));
        Ok(Container { host, id, config, bundle, init: None, output: None })
    }

    /// The bundle directory.
    #[must_use]
    pub fn bundle(&self) -> &Path {
        &self.bundle
    }

    /// The root file system, as the host sees it.
    #[must_use]
    pub fn rootfs(&self) -> PathBuf {
        self.bundle.join("rootfs")
    }

    /// The path of the container's cgroup below the hierarchies' roots.
    #[must_use]
    pub fn cgroup(&self) -> &str {
        self.config["linux"]["cgroupsPath"].as_str().unwrap_or_default()
    }

    /// A limit or counter of the container's cgroup: the first of these files that exists, v1 and v2 names given.
    ///
    /// # Errors
    /// There is no such file.
    pub fn cgroup_file(&self, controller: &str, names: &[&str]) -> Result<String> {
        let dir = Host::cgroup_dir(self.cgroup(), controller)?;
        for name in names {
            if let Ok(value) = fs::read_to_string(dir.join(name)) {
                return Ok(value.trim().to_owned());
            }
        }
        bail!("none of {names:?} in {}", dir.display())
    }

    /// Adds an annotation.
    pub fn annotate(&mut self, key: &str, value: &str) -> &mut Self {
        self.config["annotations"][key] = json!(value);
        self
    }

    /// Appends a mount.
    pub fn mount(&mut self, mount: Value) -> &mut Self {
        if let Some(mounts) = self.config["mounts"].as_array_mut() {
            mounts.push(mount);
        }
        self
    }

    /// Removes a namespace from the list; the container then shares the host's.
    pub fn without_namespace(&mut self, kind: &str) -> &mut Self {
        if let Some(all) = self.config["linux"]["namespaces"].as_array_mut() {
            all.retain(|n| n["type"] != kind);
        }
        self
    }

    /// Adds or replaces a namespace.
    pub fn namespace(&mut self, kind: &str, path: Option<&Path>) -> &mut Self {
        self.without_namespace(kind);
        if let Some(all) = self.config["linux"]["namespaces"].as_array_mut() {
            all.push(path.map_or_else(|| json!({"type": kind}), |p| json!({"type": kind, "path": p})));
        }
        self
    }

    /// Copies a file into the root file system, executable.
    ///
    /// # Errors
    /// It cannot be copied.
    pub fn install(&self, file: &Path, name: &str) -> Result<&Self> {
        let to = self.rootfs().join(name.trim_start_matches('/'));
        if let Some(parent) = to.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::copy(file, &to).with_context(|| format!("copy {} to {}", file.display(), to.display()))?;
        fs::set_permissions(&to, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        Ok(self)
    }

    /// Writes `config.json`.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn save(&self) -> Result<()> {
        Ok(fs::write(self.bundle.join("config.json"), serde_json::to_vec_pretty(&self.config)?)?)
    }

    /// `create` with further flags, whatever comes of it.
    ///
    /// # Errors
    /// The runtime cannot be started, or hangs.
    pub fn try_create(&mut self, flags: &[&str]) -> Result<Finished> {
        self.save()?;
        let mut command = self.create_command(flags);
        let (stdout, stderr) = (tempfile::tempfile()?, tempfile::tempfile()?);
        // Not `finish`: these two files are the container's standard streams and outlive `create`.
        let mut child = command.stdout(stdout.try_clone()?).stderr(stderr.try_clone()?).spawn()?;
        let ended = wait_pid(Pid::from_child(&child), Duration::from_secs(60))?;
        if !ended {
            child.kill()?;
        }
        let status = child.wait()?;
        let done = Finished {
            what: format!("{command:?}"),
            code: status.code().unwrap_or(-1),
            stdout: read_all(&stdout)?,
            stderr: read_all(&stderr)?,
        };
        ensure!(ended, "create hangs: {done}");
        self.output = Some((stdout, stderr));
        self.note_init()?;
        Ok(done)
    }

    /// The command line of `create`, for a configuration that has been saved. [`Container::note_init`] follows.
    #[must_use]
    pub fn create_command(&self, flags: &[&str]) -> Command {
        let mut command = self.host.runtime();
        command.arg("create").arg("--bundle").arg(&self.bundle).arg("--pid-file").arg(self.pid_file());
        command.args(flags).arg(&self.id);
        command
    }

    /// Takes note of the first process, if the pid file names one.
    ///
    /// # Errors
    /// There is something else in it: the parse is strict because engines' parsers are.
    pub fn note_init(&mut self) -> Result<()> {
        let pid = fs::read_to_string(self.pid_file()).ok();
        self.init = pid.map(|pid| pid.parse()).transpose().context("pid file")?;
        Ok(())
    }

    /// The file that `create` writes the first process's pid to.
    #[must_use]
    pub fn pid_file(&self) -> PathBuf {
        self.bundle.join("init.pid")
    }

    /// `create`, successful and silent.
    ///
    /// # Errors
    /// It fails or prints something.
    pub fn create(&mut self) -> Result<&mut Self> {
        let done = self.try_create(&[])?.ok()?;
        ensure!(done.stdout.is_empty() && done.stderr.is_empty(), "create must be silent: {done}");
        Ok(self)
    }

    /// `start`, successful and silent.
    ///
    /// # Errors
    /// It fails or prints something.
    pub fn start(&self) -> Result<&Self> {
        let done = self.verb("start").finish()?.ok()?;
        ensure!(done.stdout.is_empty() && done.stderr.is_empty(), "start must be silent: {done}");
        Ok(self)
    }

    /// What the created container has written to its standard output.
    ///
    /// # Errors
    /// There was no `create`.
    pub fn stdout(&self) -> Result<String> {
        read_all(&self.output.as_ref().context("not created")?.0)
    }

    /// What the created container has written to its standard error.
    ///
    /// # Errors
    /// There was no `create`.
    pub fn stderr(&self) -> Result<String> {
        read_all(&self.output.as_ref().context("not created")?.1)
    }

    /// Waits until the created container has printed this.
    ///
    /// # Errors
    /// It does not come.
    pub fn expect(&self, needle: &str) -> Result<()> {
        eventually(&format!("{needle:?} from the container"), || Ok(self.stdout()?.contains(needle)))
            .with_context(|| format!("stdout {:?}, stderr {:?}", self.stdout(), self.stderr()))
    }

    /// A command of the runtime whose last argument, so far, is the id.
    #[must_use]
    pub fn verb(&self, verb: &str) -> Command {
        self.verb_with(verb, &[])
    }

    /// A command of the runtime with flags before the id; arguments can be added.
    #[must_use]
    pub fn verb_with(&self, verb: &str, flags: &[&str]) -> Command {
        let mut command = self.host.runtime();
        command.arg(verb).args(flags).arg(&self.id);
        command
    }

    /// The command for a foreground `run`, after writing the configuration.
    ///
    /// # Errors
    /// The configuration cannot be written.
    pub fn run_command(&self, flags: &[&str]) -> Result<Command> {
        self.save()?;
        let mut command = self.host.runtime();
        command.arg("run").arg("--bundle").arg(&self.bundle).args(flags).arg(&self.id);
        Ok(command)
    }

    /// Runs the container in the foreground to its end.
    ///
    /// # Errors
    /// The runtime cannot be started, or hangs.
    pub fn run(&self) -> Result<Finished> {
        self.run_command(&[])?.finish()
    }

    /// Starts the container in the foreground.
    ///
    /// # Errors
    /// The runtime cannot be started.
    pub fn run_job(&self) -> Result<Job> {
        self.run_command(&[])?.job()
    }

    /// `exec` of a command in the foreground.
    ///
    /// # Errors
    /// The runtime cannot be started, or hangs.
    pub fn exec(&self, args: &[&str]) -> Result<Finished> {
        self.exec_with(&[], args)
    }

    /// `exec` with flags.
    ///
    /// # Errors
    /// The runtime cannot be started, or hangs.
    pub fn exec_with(&self, flags: &[&str], args: &[&str]) -> Result<Finished> {
        self.verb_with("exec", flags).args(args).finish()
    }

    /// What `state` prints.
    ///
    /// # Errors
    /// `state` fails or prints no JSON.
    pub fn state(&self) -> Result<Value> {
        let state = self.verb("state").finish()?.ok()?;
        serde_json::from_str(&state.stdout).with_context(|| state.to_string())
    }

    /// The status in `state`.
    ///
    /// # Errors
    /// As [`Container::state`].
    pub fn status(&self) -> Result<String> {
        Ok(self.state()?["status"].as_str().unwrap_or_default().to_owned())
    }

    /// The pid of init, from `create`'s pid file.
    ///
    /// # Errors
    /// There was no successful `create`.
    pub fn pid(&self) -> Result<i32> {
        self.init.context("the container has not been created")
    }

    /// A file of init's in `/proc`.
    ///
    /// # Errors
    /// init is gone.
    pub fn proc(&self, name: &str) -> Result<String> {
        let path = format!("/proc/{}/{name}", self.pid()?);
        fs::read_to_string(&path).context(path)
    }

    /// Sends a signal with `kill`.
    ///
    /// # Errors
    /// `kill` fails.
    pub fn kill(&self, signal: &str) -> Result<()> {
        self.verb("kill").arg(signal).finish()?.ok().map(drop)
    }

    /// Waits until `state` says so.
    ///
    /// # Errors
    /// It does not within half a minute.
    pub fn wait_status(&self, status: &str) -> Result<()> {
        eventually(&format!("{} to be {status}", self.id), || Ok(self.status()? == status))
    }

    /// Waits for the end of a created container, as its engine would, and returns its exit code.
    ///
    /// # Errors
    /// It does not end.
    pub fn wait_exit(&self) -> Result<i32> {
        reap(self.pid()?)
    }

    /// `delete --force`.
    ///
    /// # Errors
    /// It fails.
    pub fn delete(&self) -> Result<()> {
        self.verb_with("delete", &["--force"]).finish()?.ok().map(drop)
    }
}

/// Waits for a process that this one has adopted, and returns its exit code. A process that was executed in a PID
/// namespace has to be reaped before the namespace's init can end.
///
/// # Errors
/// It does not end within half a minute.
pub fn reap(pid: i32) -> Result<i32> {
    let pid = Pid::from_raw(pid).context("pid 0")?;
    ensure!(wait_pid(pid, Duration::from_secs(30))?, "process {pid} does not end");
    let (_, status) = waitpid(Some(pid), WaitOptions::empty())?.context("no status")?;
    Ok(status.exit_status().unwrap_or_else(|| 128 + status.terminating_signal().unwrap_or(0)))
}

impl Drop for Container<'_> {
    fn drop(&mut self) {
        // Ids of containers that never were are fine; errors of those that were will show in `Host::is_clean`.
        let _ = self.verb_with("delete", &["--force"]).finish();
        if let Some(pid) = self.init.and_then(Pid::from_raw) {
            let _ = waitpid(Some(pid), WaitOptions::NOHANG);
        }
    }
}
