//! Podman and buildah with the runtime under test, in a storage of their own.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, WaitOptions, waitpid};
use serde_json::json;

use crate::census::processes;
use crate::command::{Finished, Run, command, eventually};
use crate::guest;
use crate::host::{Host, busybox_root, remove_cgroup, unmount_below};
use crate::{coracle, repository};

/// A podman that shares nothing with the machine's own: storage, state, locks and configuration are in a temporary
/// directory. Dropping it removes its containers and pods.
pub struct Engine {
    host: Host,
    /// A second storage, which is only read.
    images: Option<PathBuf>,
}

impl Engine {
    /// Sets podman up, with the images `native` (busybox), `hello` and `show`, each of these one module and nothing else.
    ///
    /// # Errors
    /// podman is not installed or does not work, or a module cannot be compiled.
    pub fn new() -> Result<Engine> {
        Self::with_store(Some(images()?))
    }

    fn with_store(images: Option<PathBuf>) -> Result<Engine> {
        let engine = Engine { host: Host::new()?, images };
        engine.configure(|packaged| packaged)?;
        fs::write(engine.path().join("policy.json"), r#"{"default": [{"type": "insecureAcceptAnything"}]}"#)?;
        Ok(engine)
    }

    /// Writes the configuration: the packaged one after this change to it, then what makes this podman a private one.
    ///
    /// # Errors
    /// The files cannot be read and written.
    pub fn configure(&self, change: impl FnOnce(String) -> String) -> Result<()> {
        // As `make install` leaves it, in a place of our own.
        let bin = self.path().join("bin");
        if !bin.exists() {
            fs::create_dir(&bin)?;
            symlink(coracle(), bin.join("coracle"))?;
            symlink("coracle", bin.join("coracle-wasm"))?;
        }
        let packaged = fs::read_to_string(repository().join("packaging/podman/containers.conf"))?;
        ensure!(
            packaged.contains("/usr/local/bin/coracle\""),
            "the packaged containers.conf names no coracle"
        );
        let packaged = packaged.replace("/usr/local/bin", &bin.to_string_lossy());
        // The ulimits because podman's own are higher than a test machine may allow; file locks because the default,
        // shared memory, is one for the whole machine; the log driver because the default is systemd's where that is.
        let private = format!(
            "cgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\nlock_type = \"file\"\n\
             conmon_env_vars = [\"PATH=/usr/sbin:/usr/bin:/sbin:/bin\", \"CORACLE_CACHE_DIR={}\"]\n",
            self.host.cache_dir().display()
        );
        let containers = "[containers]\ndefault_ulimits = [\"nofile=10000:10000\", \"nproc=10000:10000\"]\nnetns = \"none\"\nlog_driver = \"k8s-file\"\n";
        let (before, engine) = packaged.split_once("[engine]\n").context("no table [engine]")?;
        let after = change(engine.to_owned());
        fs::write(
            self.path().join("containers.conf"),
            format!("{before}{containers}[engine]\n{private}{after}"),
        )?;
        Ok(())
    }

    /// The host with the engine's directory.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The engine's directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.host.path()
    }

    fn program(&self, name: &str) -> Command {
        let mut command = command(name);
        command
            .env("CONTAINERS_CONF", self.path().join("containers.conf"))
            .env("CORACLE_CACHE_DIR", self.host.cache_dir())
            .arg("--root")
            .arg(self.path().join("storage"))
            .arg("--runroot")
            .arg(self.path().join("run"))
            .args(["--storage-driver", "overlay"]);
        if let Some(images) = &self.images {
            command.arg(format!("--storage-opt=overlay.imagestore={}", images.display()));
        }
        command
    }

    /// A podman command, with the runtime `coracle` of the packaged configuration.
    #[must_use]
    pub fn podman(&self) -> Command {
        let mut command = self.podman_by_default();
        command.args(["--runtime", "coracle"]);
        command
    }

    /// A podman command with the runtime that its configuration says.
    #[must_use]
    pub fn podman_by_default(&self) -> Command {
        let mut command = self.program("podman");
        command.arg("--tmpdir").arg(self.path().join("tmp"));
        command
    }

    /// A buildah command (`--runtime` is a flag of its `run` and `bud`).
    #[must_use]
    pub fn buildah(&self) -> Command {
        self.program("buildah")
    }

    /// Runs podman to its end, whatever comes of it.
    ///
    /// # Errors
    /// It cannot be started, or hangs.
    pub fn do_podman(&self, args: &[&str]) -> Result<Finished> {
        self.podman().args(args).finish()
    }

    /// What `podman inspect` shows of a container in this format.
    ///
    /// # Errors
    /// There is no such container.
    pub fn inspect(&self, container: &str, format: &str) -> Result<String> {
        let done = self.do_podman(&["container", "inspect", "--format", format, container])?.ok()?;
        Ok(done.stdout.trim().to_owned())
    }

    /// Waits until a container's logs have this text.
    ///
    /// # Errors
    /// It does not come.
    pub fn logged(&self, container: &str, text: &str) -> Result<()> {
        eventually(&format!("{text:?} in the logs"), || {
            Ok(self.do_podman(&["logs", container])?.ok()?.stdout.contains(text))
        })
    }

    /// `podman run --rm`, in a cgroup of this engine's own.
    #[must_use]
    pub fn run(&self, args: &[&str]) -> Command {
        let mut command = self.podman();
        command.args(["run", "--rm"]).args(self.common()).args(args);
        command
    }

    /// `podman run --detach` in the same way; returns the container's id.
    ///
    /// # Errors
    /// podman fails.
    pub fn start(&self, args: &[&str]) -> Result<String> {
        let done = self.podman().args(["run", "--detach"]).args(self.common()).args(args).finish()?.ok()?;
        Ok(done.stdout.trim().to_owned())
    }

    /// The flags every container of this engine gets.
    #[must_use]
    pub fn common(&self) -> [String; 2] {
        ["--pull=never".into(), self.cgroup_parent()]
    }

    /// The flag for a container, or a pod, in a cgroup of this engine's own.
    #[must_use]
    pub fn cgroup_parent(&self) -> String {
        format!("--cgroup-parent=/{}", self.host.name())
    }

    /// Makes an image from a directory.
    ///
    /// # Errors
    /// podman fails.
    pub fn import(&self, name: &str, root: &Path, changes: &[&str]) -> Result<()> {
        let archive = self.path().join(format!("{name}.tar"));
        command("tar").arg("-C").arg(root).arg("-cf").arg(&archive).arg(".").finish()?.ok()?;
        let mut import = self.podman();
        import.arg("import");
        for change in changes {
            import.args(["--change", change]);
        }
        import.arg(&archive).arg(name).finish()?.ok()?;
        fs::remove_file(archive)?;
        Ok(())
    }

    /// Makes an image that holds one module as `/main.wasm`, its entrypoint, and nothing else.
    ///
    /// # Errors
    /// podman fails.
    pub fn wasm_image(&self, name: &str, module: &Path) -> Result<()> {
        let root = self.path().join(format!("{name}.root"));
        fs::create_dir(&root)?;
        fs::copy(module, root.join("main.wasm"))?;
        fs::set_permissions(root.join("main.wasm"), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        self.import(name, &root, &[&format!("ENTRYPOINT {}", json!(["/main.wasm"]))])
    }

    /// Waits for the end of every conmon that this program has adopted, when all containers have ended.
    ///
    /// # Errors
    /// One goes on.
    pub fn reap(&self) -> Result<()> {
        eventually("the end of all conmons", || {
            let mut none = true;
            for (pid, process) in processes()? {
                if process.parent == std::process::id() && process.name == "conmon" {
                    none = false;
                    waitpid(Pid::from_raw(i32::try_from(pid)?), WaitOptions::NOHANG)?;
                }
            }
            Ok(none)
        })
    }

    /// Removes all containers and requires that nothing of them is left.
    ///
    /// # Errors
    /// Something is left.
    pub fn is_clean(&self) -> Result<()> {
        for all in [&["pod", "rm"][..], &["rm"]] {
            let mut done = None;
            // One container's cleanup may be at work, by conmon, on the very mount that podman wants to remove.
            let removed = eventually("podman to remove all", || {
                let last = done.insert(self.do_podman(&[all, &["--all", "--force", "--time=0"]].concat())?);
                Ok(last.code == 0)
            });
            removed.with_context(|| format!("{done:?}"))?;
        }
        // podman leaves a cgroup of conmon's and of each pod, and a bind mount of its own storage.
        let podmans = |l: &str| {
            l.starts_with("cgroup ") && l.ends_with(" of []") && !l.contains("/libpod-")
                || l.starts_with("mount ") && l.contains("/storage/overlay ")
        };
        // conmon ends a moment after its container.
        eventually("the end of all that containers had", || {
            Ok(self.host.leftovers()?.iter().all(|l| podmans(l)))
        })
        .with_context(|| format!("left behind: {:#?}", self.host.leftovers()))
    }
}

/// A storage with the images of every engine, made once and kept beside the test programs as the guests are.
fn images() -> Result<PathBuf> {
    // The compiled guests have their digests in their names.
    let (hello, show) = (guest::wat("hello")?, guest::c("show")?);
    let mut hasher = DefaultHasher::new();
    (fs::read("/bin/busybox").context("/bin/busybox")?, &hello, &show).hash(&mut hasher);
    let directory = guest::directory()?;
    let store = directory.join(format!("images-{:016x}", hasher.finish()));
    if !store.exists() {
        let maker = Engine::with_store(None)?;
        let root = maker.path().join("native");
        busybox_root(&root)?;
        maker.import("native", &root, &[])?;
        maker.wasm_image("hello", &hello)?;
        maker.wasm_image("show", &show)?;
        // podman's mount of its own storage.
        unmount_below(maker.path());
        let half = tempfile::Builder::new().prefix("half").tempdir_in(&directory)?;
        command("cp").arg("-a").arg(maker.path().join("storage")).arg(half.path()).finish()?.ok()?;
        match fs::rename(half.path().join("storage"), &store) {
            // Somebody else has been quicker.
            Err(_) if store.exists() => {}
            renamed => renamed.with_context(|| store.display().to_string())?,
        }
    }
    Ok(store)
}

impl Drop for Engine {
    fn drop(&mut self) {
        let _ = self.do_podman(&["pod", "rm", "--all", "--force", "--time=0"]);
        let _ = self.do_podman(&["rm", "--all", "--force", "--time=0"]);
        remove_cgroup(self.host.name());
        unmount_below(self.path());
    }
}
