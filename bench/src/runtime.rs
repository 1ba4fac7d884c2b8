//! The runtimes that are compared, and containers under them.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use coracle_integration::{Container, Host, Run, command, coracle, reap};
use serde_json::json;

/// The newest version of the specification that Debian's crun and runc take.
const VERSION: &str = "1.0.2";

/// A runtime.
#[derive(Clone, Debug)]
pub struct Runtime {
    /// What tables call it.
    pub name: &'static str,
    /// Its program.
    pub program: PathBuf,
}

impl Runtime {
    /// Coracle, and crun and runc if they are there and can run a container on this host. `BENCH_CRUN` names another crun
    /// than Debian's.
    ///
    /// # Errors
    /// Coracle can not.
    pub fn all() -> Result<Vec<Runtime>> {
        let host = Host::new()?;
        let crun = std::env::var_os("BENCH_CRUN").map_or_else(|| "/usr/bin/crun".into(), PathBuf::from);
        let mut all = vec![Runtime { name: "coracle", program: coracle() }];
        all[0].runs(&host)?;
        for (name, program) in [("crun", crun), ("runc", "/usr/sbin/runc".into())] {
            let peer = Runtime { name, program };
            match peer.runs(&host) {
                Ok(()) => all.push(peer),
                Err(error) => eprintln!("without {name}: {error}"),
            }
        }
        Ok(all)
    }

    fn runs(&self, host: &Host) -> Result<()> {
        let subject = self.container(host, &["/bin/true"])?;
        subject.container.save()?;
        subject.run().finish()?.ok().map(drop)
    }

    /// What it says of its version.
    ///
    /// # Errors
    /// It says nothing.
    pub fn version(&self) -> Result<String> {
        let said = command(&self.program).arg("--version").finish()?.ok()?;
        let line = said.lines().next().with_context(|| said.to_string())?;
        Ok(line.rsplit(' ').next().unwrap_or(line).to_owned())
    }

    /// A container of busybox with `coracle spec`'s configuration.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn container<'h>(&self, host: &'h Host, args: &[&str]) -> Result<Subject<'h>> {
        let mut container = host.container(args)?;
        container.config["root"]["readonly"] = json!(true);
        Ok(self.subject(container))
    }

    /// This container under this runtime, in the cgroup that each runtime gives it by itself.
    #[must_use]
    pub fn subject<'h>(&self, mut container: Container<'h>) -> Subject<'h> {
        container.config["ociVersion"] = json!(VERSION);
        if let Some(linux) = container.config["linux"].as_object_mut() {
            linux.remove("cgroupsPath");
        }
        Subject { runtime: self.clone(), container }
    }
}

/// A container under one of the runtimes; deleted on drop.
pub struct Subject<'h> {
    /// The runtime.
    pub runtime: Runtime,
    /// Bundle and id; its own commands are Coracle's.
    pub container: Container<'h>,
}

impl Subject<'_> {
    fn command(&self, verb: &str, flags: &[&str]) -> Command {
        let host = self.container.host;
        let root = if self.runtime.name == "coracle" {
            host.state_dir()
        } else {
            host.path().join(format!("state-{}", self.runtime.name))
        };
        let mut command = command(&self.runtime.program);
        command.env("CORACLE_CACHE_DIR", host.cache_dir()).arg("--root").arg(root);
        command.arg(verb).args(flags);
        command
    }

    /// A command on the container; arguments can be added.
    #[must_use]
    pub fn verb(&self, verb: &str, flags: &[&str]) -> Command {
        let mut command = self.command(verb, flags);
        command.arg(&self.container.id);
        command
    }

    /// A command on no container.
    #[must_use]
    pub fn list(&self) -> Command {
        self.command("list", &[])
    }

    /// `run`, for a configuration that has been saved.
    #[must_use]
    pub fn run(&self) -> Command {
        let mut command = self.command("run", &["--bundle"]);
        command.arg(self.container.bundle()).arg(&self.container.id);
        command
    }

    /// `create`, for a configuration that has been saved.
    #[must_use]
    pub fn create(&self) -> Command {
        let mut command = self.command("create", &["--pid-file"]);
        command.arg(self.container.pid_file()).arg("--bundle").arg(self.container.bundle());
        command.arg(&self.container.id);
        // The container keeps them, and nobody is to wait for the end of a pipe.
        command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
        command
    }

    /// The container's first process, after `create`.
    ///
    /// # Errors
    /// There is none.
    pub fn pid(&self) -> Result<i32> {
        let file = self.container.pid_file();
        Ok(fs::read_to_string(&file).with_context(|| file.display().to_string())?.trim().parse()?)
    }

    /// Creates the container and starts it.
    ///
    /// # Errors
    /// One of the two fails.
    pub fn start(&self) -> Result<()> {
        self.container.save()?;
        self.create().finish()?.ok()?;
        self.verb("start", &[]).finish()?.ok().map(drop)
    }

    /// Waits for the end of a container whose program ends by itself.
    ///
    /// # Errors
    /// It does not.
    pub fn wait(&self) -> Result<()> {
        reap(self.pid()?).map(drop)
    }

    /// Deletes the container, running or not.
    ///
    /// # Errors
    /// It cannot be deleted.
    pub fn remove(&self) -> Result<()> {
        self.verb("delete", &["--force"]).finish()?.ok()?;
        // Gone already, if somebody has waited for it.
        let _ = self.wait();
        Ok(())
    }
}

impl Drop for Subject<'_> {
    fn drop(&mut self) {
        if self.runtime.name != "coracle" {
            let _ = self.verb("delete", &["--force"]).finish();
        }
        let _ = self.container.note_init();
    }
}
