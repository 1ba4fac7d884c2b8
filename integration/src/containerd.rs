//! containerd with the runtime under test: a daemon of the test's own.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};
use serde_json::json;
use toml::{Table, Value};

use crate::command::{Finished, Job, Run, command, eventually};
use crate::host::{Host, remove_cgroup, unmount_below};
use crate::image::{self, Image};
use crate::network::Network;
use crate::{busybox_root, coracle, repository};

/// The namespace of the CRI plugin's containers and images.
pub const KUBERNETES: &str = "k8s.io";
/// The image of sandboxes. Tests that make pods import it.
pub const PAUSE: &str = "localhost/pause:latest";
const NAMESPACES: [&str; 2] = ["default", KUBERNETES];

/// A containerd that shares nothing with the machine's own, configured by `packaging/containerd/config.toml`.
/// Dropping it removes its containers, their shims and itself; it does not outlive the test's thread in any case.
///
/// It has a network namespace of its own, with which the networks of pods go away.
pub struct Containerd {
    host: Host,
    daemon: Job,
}

impl Containerd {
    /// Starts the daemon and imports the image `localhost/native:latest` (busybox) for both ctr and CRI.
    ///
    /// # Errors
    /// containerd is not installed or does not work.
    pub fn new() -> Result<Containerd> {
        let host = Host::new()?;
        fs::write(host.path().join("config.toml"), configuration(&host)?.to_string())?;
        fs::create_dir(host.path().join("tmp"))?;
        fs::create_dir(host.path().join("cni"))?;
        fs::write(host.path().join("cni/10-test.conflist"), network(&host).to_string())?;
        let daemon = spawn(&host)?;
        let containerd = Containerd { host, daemon };
        containerd.answers()?;
        let root = containerd.path().join("native");
        busybox_root(&root)?;
        containerd.import("localhost/native:latest", ("linux", "amd64"), &root, &[])?;
        Ok(containerd)
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

    /// The daemon's socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        socket(&self.host)
    }

    /// Kills the daemon, as a crash would, and starts another one in its place.
    ///
    /// # Errors
    /// As [`Containerd::new`].
    pub fn crash(&mut self) -> Result<()> {
        self.daemon.signal(Signal::KILL)?;
        self.daemon.wait()?;
        self.daemon = spawn(&self.host)?;
        self.answers()
    }

    fn answers(&self) -> Result<()> {
        eventually("containerd's socket", || Ok(UnixStream::connect(self.socket()).is_ok()))
            .with_context(|| self.daemon.stderr().unwrap_or_default())
    }

    /// Does something in the daemon's network namespace, where it serves streams.
    ///
    /// # Errors
    /// It fails.
    pub fn in_network<T: Send>(&self, act: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        Network::of(self.daemon.pid())?.inside(act)
    }

    /// A command of ctr, in its default namespace.
    #[must_use]
    pub fn ctr(&self) -> Command {
        self.ctr_in("default")
    }

    /// A command of ctr in a namespace.
    #[must_use]
    pub fn ctr_in(&self, namespace: &str) -> Command {
        let mut command = command("ctr");
        command.arg("--address").arg(self.socket()).args(["--namespace", namespace]);
        command
    }

    /// Runs ctr to its end, whatever comes of it.
    ///
    /// # Errors
    /// It cannot be started, or hangs.
    pub fn do_ctr(&self, args: &[&str]) -> Result<Finished> {
        self.ctr().args(args).finish()
    }

    /// `ctr run` with the runtime under test, in a cgroup of this daemon's own; `id` also names the cgroup.
    #[must_use]
    pub fn run(&self, flags: &[&str], image: &str, id: &str, args: &[&str]) -> Command {
        let mut command = self.ctr();
        command
            .arg("run")
            .arg("--runc-binary")
            .arg(coracle())
            .arg("--runc-root")
            .arg(self.runtime_root())
            .arg("--fifo-dir")
            .arg(self.path().join("fifo"))
            .args(["--cgroup", &format!("/{}/{id}", self.host.name())])
            .args(flags)
            .args([image, id])
            .args(args);
        command
    }

    /// `ctr run --detach`.
    ///
    /// # Errors
    /// ctr fails.
    pub fn start(&self, flags: &[&str], image: &str, id: &str, args: &[&str]) -> Result<()> {
        self.run(&[&["--detach", "--null-io"], flags].concat(), image, id, args).finish()?.ok().map(drop)
    }

    /// Where shims put the runtime's state directories, one for each namespace.
    #[must_use]
    pub fn runtime_root(&self) -> PathBuf {
        runtime_root(&self.host)
    }

    /// Imports a directory as an image, for ctr and for CRI.
    ///
    /// # Errors
    /// ctr fails.
    pub fn import(
        &self,
        reference: &str,
        platform: (&str, &str),
        root: &Path,
        entrypoint: &[&str],
    ) -> Result<()> {
        let archive = self.path().join("image.tar");
        image::archive(&[Image { reference, platform, entrypoint, root }], &archive)?;
        for namespace in NAMESPACES {
            let mut import = self.ctr_in(namespace);
            import.args(["images", "import", "--all-platforms"]).arg(&archive).finish()?.ok()?;
        }
        Ok(fs::remove_file(archive)?)
    }

    /// Imports an image that holds modules and nothing else; the first is its entrypoint.
    ///
    /// # Errors
    /// ctr fails.
    pub fn import_modules(
        &self,
        reference: &str,
        platform: (&str, &str),
        modules: &[(&str, &Path)],
    ) -> Result<()> {
        let root = tempfile::tempdir_in(self.path())?;
        fs::set_permissions(root.path(), fs::Permissions::from_mode(0o755))?;
        for (name, module) in modules {
            let file = root.path().join(name.trim_start_matches('/'));
            fs::copy(module, &file)?;
            fs::set_permissions(file, fs::Permissions::from_mode(0o755))?;
        }
        let (entrypoint, _) = modules.first().context("an image without a module")?;
        self.import(reference, platform, root.path(), &[entrypoint])
    }

    /// Kills this daemon's shims, which would outlive it, and removes their sockets, which nobody else does then.
    pub fn kill_shims(&self) {
        let mut sockets = Vec::new();
        for namespace in NAMESPACES {
            let bundles = fs::read_dir(bundles(&self.host).join(namespace)).into_iter().flatten().flatten();
            sockets.extend(bundles.filter_map(|b| fs::read_to_string(b.path().join("address")).ok()));
        }
        for shim in shims(&self.socket()) {
            let _ = kill_process(shim, Signal::KILL);
        }
        for socket in sockets {
            let _ = fs::remove_file(socket.trim_start_matches("unix://"));
        }
    }

    /// Everything that containers have left behind.
    fn leftovers(&self) -> Result<Vec<String>> {
        let mut found = self.host.leftovers()?;
        found.extend(shims(&self.socket()).iter().map(|pid| format!("shim {pid}")));
        for namespace in NAMESPACES {
            for list in ["tasks", "containers"] {
                let listed = self.ctr_in(namespace).args([list, "list", "-q"]).finish()?.ok()?;
                found.extend(listed.lines().map(|id| format!("{list}: {namespace}/{id}")));
            }
            for dir in [self.runtime_root().join(namespace), bundles(&self.host).join(namespace)] {
                let entries = fs::read_dir(dir).into_iter().flatten().flatten();
                // The runtime's own cache of filters begins with a dot.
                let ids = entries.filter(|e| !e.file_name().as_encoded_bytes().starts_with(b"."));
                found.extend(ids.map(|e| e.path().display().to_string()));
            }
        }
        for dir in ["fifo", "tmp"] {
            let entries = fs::read_dir(self.path().join(dir)).into_iter().flatten().flatten();
            found.extend(entries.map(|e| e.path().display().to_string()));
        }
        Ok(found)
    }

    /// Requires that nothing is left of any container, once the shims have had time to end.
    ///
    /// # Errors
    /// Something is left.
    pub fn is_clean(&self) -> Result<()> {
        eventually("the end of all that containers had", || Ok(self.leftovers()?.is_empty()))
            .with_context(|| format!("left behind: {:#?}", self.leftovers()))
    }

    fn remove_containers(&self) {
        for namespace in NAMESPACES {
            for (list, remove) in [("tasks", &["rm", "--force"][..]), ("containers", &["rm"])] {
                let Ok(listed) = self.ctr_in(namespace).args([list, "list", "-q"]).finish() else { continue };
                for id in listed.lines() {
                    let _ = self.ctr_in(namespace).arg(list).args(remove).arg(id).finish();
                }
            }
        }
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        self.remove_containers();
        let _ = self.daemon.signal(Signal::TERM);
        let _ = self.daemon.wait_for(Duration::from_secs(10));
        // Whatever the daemon could not remove.
        self.kill_shims();
        for namespace in NAMESPACES {
            let root = self.runtime_root().join(namespace);
            for id in fs::read_dir(&root).into_iter().flatten().flatten() {
                let mut delete = command(coracle());
                let _ =
                    delete.arg("--root").arg(&root).args(["delete", "--force"]).arg(id.file_name()).finish();
            }
        }
        remove_cgroup(self.host.name());
        unmount_below(self.path());
    }
}

/// Starts the daemon in a network namespace of its own, so that ports and the networks of pods are nobody else's.
fn spawn(host: &Host) -> Result<Job> {
    let mut daemon = command("unshare");
    daemon.args(["--net", "sh", "-c", "ip link set lo up && exec containerd --config \"$0\""]);
    daemon.arg(host.path().join("config.toml"));
    // Shims and the runtime inherit this; go-runc keeps the files of `exec --process` in TMPDIR.
    daemon.env("CORACLE_CACHE_DIR", host.cache_dir()).env("TMPDIR", host.path().join("tmp"));
    // SAFETY: one system call, which asks for a signal when the test's thread ends.
    unsafe {
        daemon.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::KILL))?));
    }
    daemon.job()
}

/// The shims of a containerd that listens on this socket.
pub(crate) fn shims(socket: &Path) -> Vec<Pid> {
    let is_shim = |pid: &i32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let mut words = line.split(|byte| *byte == 0);
        words.next().is_some_and(|name| name.ends_with(b"containerd-shim-runc-v2"))
            && words.any(|word| word == socket.as_os_str().as_encoded_bytes())
    };
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = processes.filter_map(|e| e.file_name().to_str()?.parse().ok()).filter(is_shim);
    pids.filter_map(Pid::from_raw).collect()
}

/// The network of pods, with Debian's plugins: a pair of interfaces for each pod.
fn network(host: &Host) -> serde_json::Value {
    json!({"cniVersion": "0.4.0", "name": host.name(), "plugins": [{"type": "ptp", "ipam": {
        "type": "host-local", "subnet": "10.88.0.0/16", "dataDir": host.path().join("cni-data")}}]})
}

fn socket(host: &Host) -> PathBuf {
    host.path().join("containerd.sock")
}

fn runtime_root(host: &Host) -> PathBuf {
    host.path().join("runtime")
}

fn bundles(host: &Host) -> PathBuf {
    host.path().join("run/io.containerd.runtime.v2.task")
}

/// The configuration that users merge into theirs, with private paths and without what the test machine lacks.
fn configuration(host: &Host) -> Result<Table> {
    let file = repository().join("packaging/containerd/config.toml");
    let mut config: Table = fs::read_to_string(&file)?.parse().with_context(|| file.display().to_string())?;
    let dir = host.path().display();
    let own = format!(
        r#"
        root = "{dir}/data"
        state = "{dir}/run"
        [grpc]
        address = "{socket}"
        [ttrpc]
        address = "{socket}.ttrpc"
        [plugins."io.containerd.internal.v1.opt"]
        path = "{dir}/opt"
        [plugins."io.containerd.grpc.v1.cri"]
        sandbox_image = "{PAUSE}"
        netns_mounts_under_state_dir = true
        # Needs CAP_SYS_RESOURCE.
        restrict_oom_score_adj = true
        disable_apparmor = true
        [plugins."io.containerd.grpc.v1.cri".cni]
        bin_dir = "/usr/lib/cni"
        conf_dir = "{dir}/cni"
        [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.coracle.options]
        Root = "{runtime}"
        "#,
        socket = socket(host).display(),
        runtime = runtime_root(host).display(),
    );
    merge(&mut config, own.parse()?);
    let options = ["plugins", "io.containerd.grpc.v1.cri", "containerd", "runtimes", "coracle", "options"];
    let options = options.iter().try_fold(&mut config, |table, key| table.get_mut(*key)?.as_table_mut());
    let options = options.context("no options of the runtime")?;
    // Only what the file says: these two have to be there to be replaced.
    for (key, value) in [
        ("BinaryName", Value::from(coracle().to_string_lossy().into_owned())),
        ("SystemdCgroup", Value::from(false)),
    ] {
        options.insert(key.to_owned(), value).with_context(|| format!("{} has no {key}", file.display()))?;
    }
    Ok(config)
}

fn merge(into: &mut Table, from: Table) {
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            (Some(Value::Table(into)), Value::Table(from)) => merge(into, from),
            (_, value) => drop(into.insert(key, value)),
        }
    }
}
