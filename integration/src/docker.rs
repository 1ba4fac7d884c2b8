//! dockerd with the runtime under test, started by a test for itself.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};
use serde_json::{Value, json};

use crate::command::{Finished, Job, Run, command, eventually};
use crate::container::reap;
use crate::host::{Host, busybox_root, remove_cgroup, unmount_below};
use crate::{containerd, coracle, repository};

/// A dockerd that shares nothing with the machine's own: data, state, socket, cgroup, its containerd and its network
/// namespace are its own. It dies with the test, and dropping it removes its containers.
pub struct Docker {
    host: Host,
    daemon: Job,
}

/// The user and the group whose ranges of subordinate ids the containers have.
const REMAP: &str = "--userns-remap=nobody:nogroup";

impl Docker {
    /// What 0 in a container of [`Docker::remapped`] is outside.
    pub const FIRST_ID: u32 = 200_000;

    /// dockerd with the packaged configuration and our runtime as the default one, and the image `native` (busybox).
    ///
    /// # Errors
    /// dockerd is not installed or does not start.
    pub fn new() -> Result<Self> {
        Self::with_native(&[])
    }

    /// As [`Docker::new`], with the containers' ids mapped to 65536 of the host's, from [`Docker::FIRST_ID`] on.
    ///
    /// # Errors
    /// As [`Docker::new`].
    pub fn remapped() -> Result<Self> {
        Self::with_native(&[REMAP])
    }

    fn with_native(flags: &[&str]) -> Result<Self> {
        let flags = [&["--default-runtime=coracle"], flags].concat();
        let docker = Self::with(&Self::packaged()?, &flags)?;
        let root = docker.path().join("native");
        busybox_root(&root)?;
        docker.import("native", &root, &[])?;
        Ok(docker)
    }

    /// dockerd with a configuration and further flags, and no image.
    ///
    /// # Errors
    /// As [`Docker::new`].
    pub fn with(config: &Value, flags: &[&str]) -> Result<Self> {
        let host = Host::new()?;
        let daemon = spawn(&host, config, flags)?;
        let docker = Docker { host, daemon };
        docker.answers()?;
        Ok(docker)
    }

    /// Kills dockerd, as a crash would, and starts another one in its place.
    ///
    /// # Errors
    /// As [`Docker::new`].
    pub fn crash(&mut self, config: &Value, flags: &[&str]) -> Result<()> {
        self.daemon.signal(Signal::KILL)?;
        self.daemon.wait()?;
        // Its containerd dies with it and is ours to reap; as a zombie it would count as running.
        let containerd = fs::read_to_string(state(&self.host).join("containerd/containerd.pid"))?;
        reap(containerd.parse()?)?;
        self.daemon = spawn(&self.host, config, flags)?;
        self.answers()
    }

    /// `packaging/docker/daemon.json`, with the program under test in the place of the installed one.
    ///
    /// # Errors
    /// The file names another program than the one that `make install` installs.
    pub fn packaged() -> Result<Value> {
        let file = repository().join("packaging/docker/daemon.json");
        let mut config: Value = serde_json::from_slice(&fs::read(&file)?)?;
        let path = &mut config["runtimes"]["coracle"]["path"];
        ensure!(*path == "/usr/local/bin/coracle", "{path} in {}", file.display());
        *path = json!(coracle());
        Ok(config)
    }

    /// Gives dockerd another configuration while it runs.
    ///
    /// # Errors
    /// dockerd is gone.
    pub fn reload(&self, config: &Value) -> Result<()> {
        fs::write(self.path().join("daemon.json"), config.to_string())?;
        self.daemon.signal(Signal::HUP)
    }

    /// The host with the daemon's directory.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The daemon's directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.host.path()
    }

    /// The client's command line so far.
    #[must_use]
    pub fn client(&self) -> Command {
        let mut client = command("/usr/bin/docker");
        client.env("DOCKER_CONFIG", self.path().join("client"));
        client.arg("--host").arg(format!("unix://{}", socket(&self.host).display()));
        client
    }

    /// Runs the client to its end, whatever comes of it.
    ///
    /// # Errors
    /// It cannot be started, or hangs.
    pub fn docker(&self, args: &[&str]) -> Result<Finished> {
        self.client().args(args).finish()
    }

    /// `docker run --rm` without a network.
    #[must_use]
    pub fn run(&self, args: &[&str]) -> Command {
        let mut run = self.client();
        run.args(["run", "--rm", "--network=none"]).args(args);
        run
    }

    /// `docker run --detach --name NAME` without a network; returns the container's id.
    ///
    /// # Errors
    /// It fails.
    pub fn start(&self, name: &str, args: &[&str]) -> Result<String> {
        let mut run = self.client();
        run.args(["run", "--detach", "--network=none", "--name", name]).args(args);
        Ok(run.finish()?.ok()?.stdout.trim().to_owned())
    }

    /// A value of `docker inspect`.
    ///
    /// # Errors
    /// There is no such container.
    pub fn inspect(&self, name: &str, format: &str) -> Result<String> {
        Ok(self.docker(&["inspect", "--format", format, name])?.ok()?.stdout.trim().to_owned())
    }

    /// Waits for a value of `docker inspect`.
    ///
    /// # Errors
    /// It does not come.
    pub fn expect(&self, name: &str, format: &str, value: &str) -> Result<()> {
        eventually(&format!("{format} of {name} to be {value}"), || Ok(self.inspect(name, format)? == value))
            .with_context(|| format!("it is {:?}", self.inspect(name, format)))
    }

    /// Waits until a container has printed this.
    ///
    /// # Errors
    /// It does not come.
    pub fn expect_log(&self, name: &str, needle: &str) -> Result<()> {
        eventually(&format!("{needle:?} in the log of {name}"), || {
            Ok(self.docker(&["logs", name])?.ok()?.stdout.contains(needle))
        })
    }

    /// The directory of a container's cgroup.
    ///
    /// # Errors
    /// It has none.
    pub fn cgroup(&self, id: &str, controller: &str) -> Result<PathBuf> {
        Host::cgroup_dir(&format!("{}/{id}", self.host.name()), controller)
    }

    /// Makes an image from a directory.
    ///
    /// # Errors
    /// docker fails.
    pub fn import(&self, name: &str, root: &Path, changes: &[&str]) -> Result<()> {
        let archive = self.path().join(format!("{name}.tar"));
        command("tar").arg("-C").arg(root).arg("-cf").arg(&archive).arg(".").finish()?.ok()?;
        let mut import = self.client();
        import.arg("import");
        for change in changes {
            import.args(["--change", change]);
        }
        import.arg(&archive).arg(name).finish()?.ok()?;
        Ok(fs::remove_file(archive)?)
    }

    /// Makes an image of modules and nothing else, the first of which is the entrypoint.
    ///
    /// # Errors
    /// docker fails.
    pub fn wasm_image(&self, name: &str, modules: &[(&str, PathBuf)]) -> Result<()> {
        let root = self.path().join(format!("{name}.root"));
        fs::create_dir(&root)?;
        for (file, module) in modules {
            fs::copy(module, root.join(file))?;
            fs::set_permissions(root.join(file), fs::Permissions::from_mode(0o755))?;
        }
        let (entrypoint, _) = modules.first().context("an image without a module")?;
        self.import(name, &root, &[&format!("ENTRYPOINT {}", json!([format!("/{entrypoint}")]))])
    }

    /// Removes all containers and requires that nothing of them is left.
    ///
    /// # Errors
    /// Something is left.
    pub fn is_clean(&self) -> Result<()> {
        self.remove_all()?;
        eventually("the end of all that containers had", || Ok(self.leftovers()?.is_empty()))
            .with_context(|| format!("left behind: {:#?}", self.leftovers()))
    }

    /// What is left of containers: everything but the daemon's own.
    ///
    /// # Errors
    /// Reading the host's state failed.
    pub fn leftovers(&self) -> Result<Vec<String>> {
        // dockerd binds its data directory to itself, and has its own network namespace in its state.
        let own =
            [data(&self.host), state(&self.host).join("netns/default")].map(|p| format!(" {} ", p.display()));
        let mut left = self.host.leftovers()?;
        left.retain(|l| !(l.starts_with("mount ") && own.iter().any(|o| l.contains(o.as_str()))));
        left.extend(shims(&self.host).iter().map(|pid| format!("shim {pid}")));
        let states =
            fs::read_dir(state(&self.host).join("runtime-runc/moby")).into_iter().flatten().flatten();
        left.extend(states.map(|e| e.path()).filter(|p| is_container(p)).map(|p| format!("{}", p.display())));
        Ok(left)
    }

    fn remove_all(&self) -> Result<()> {
        let all = self.docker(&["ps", "--all", "--quiet"])?.ok()?;
        let ids: Vec<_> = all.stdout.split_whitespace().collect();
        if !ids.is_empty() {
            self.docker(&["rm", "--force", "--volumes"].into_iter().chain(ids).collect::<Vec<_>>())?.ok()?;
        }
        Ok(())
    }

    fn answers(&self) -> Result<()> {
        eventually("dockerd", || Ok(self.docker(&["version"])?.code == 0))
            .with_context(|| self.daemon.stderr().unwrap_or_default())
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        let _ = self.remove_all();
        // dockerd ends its containerd in turn, and unmounts what is its own.
        let _ = self.daemon.signal(Signal::TERM);
        let _ = self.daemon.wait_for(Duration::from_secs(20));
        for shim in shims(&self.host) {
            let _ = kill_process(shim, Signal::KILL);
        }
        remove_cgroup(self.host.name());
        unmount_below(self.path());
    }
}

fn socket(host: &Host) -> PathBuf {
    host.path().join("docker.sock")
}

fn data(host: &Host) -> PathBuf {
    host.path().join("data")
}

fn state(host: &Host) -> PathBuf {
    host.path().join("exec")
}

fn is_container(state: &Path) -> bool {
    state.file_name().is_some_and(|name| !name.as_encoded_bytes().starts_with(b"."))
}

/// Starts dockerd in a network namespace of its own, so that its bridges are nobody else's.
fn spawn(host: &Host, config: &Value, flags: &[&str]) -> Result<Job> {
    let file = host.path().join("daemon.json");
    fs::write(&file, config.to_string())?;
    let mut daemon = command("unshare");
    let mut line = "ip link set lo up".to_owned();
    if flags.contains(&REMAP) {
        let ids = host.path().join("subordinate-ids");
        let [user, group] = ["nobody", "nogroup"].map(|name| format!("{name}:{}:65536", Docker::FIRST_ID));
        fs::write(&ids, format!("{user}\n{group}\n"))?;
        for file in ["/etc/subuid", "/etc/subgid"] {
            line += &format!(" && touch {file} && mount --bind {} {file}", ids.display());
        }
        daemon.arg("--mount");
    }
    line += " && exec dockerd \"$@\"";
    daemon.args(["--net", "sh", "-c", &line, "dockerd"]);
    daemon.args(["--iptables=false", "--ip6tables=false"]).args(flags);
    daemon.arg(format!("--cgroup-parent=/{}", host.name()));
    for (flag, path) in [
        ("--config-file", file),
        ("--data-root", data(host)),
        ("--exec-root", state(host)),
        ("--pidfile", host.path().join("docker.pid")),
    ] {
        daemon.arg(flag).arg(path);
    }
    daemon.arg(format!("--host=unix://{}", socket(host).display()));
    daemon.env("CORACLE_CACHE_DIR", host.cache_dir());
    // SAFETY: one system call, which asks for a signal when the test's thread ends.
    unsafe {
        daemon.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::KILL))?));
    }
    daemon.job()
}

/// The shims of this daemon's containers: they outlive it.
fn shims(host: &Host) -> Vec<Pid> {
    containerd::shims(&state(host).join("containerd/containerd.sock"))
}
