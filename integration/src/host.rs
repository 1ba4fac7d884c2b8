//! A test's private place on this machine.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, set_child_subreaper};
use serde_json::Value;
use tempfile::TempDir;

use crate::command::{Run, command, eventually};
use crate::container::Container;
use crate::coracle;

/// What the names of all tests begin with; the id of the test program and a number follow.
pub(crate) const NAME: &str = "coracle-test";

/// A temporary directory with everything that the containers of one test need, removed with all of them on drop.
pub struct Host {
    dir: TempDir,
    name: String,
    program: PathBuf,
    containers: AtomicU32,
}

impl Host {
    /// Makes the directories, and this process the reaper of containers whose `create` has ended, as engines do.
    ///
    /// # Errors
    /// No temporary directory can be made.
    pub fn new() -> Result<Host> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        ensure!(coracle().exists(), "{} does not exist: run `make build` first", coracle().display());
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("{NAME}-{}-{number}", std::process::id());
        let dir = tempfile::Builder::new().prefix(&name).tempdir().context("make a temporary directory")?;
        // Ordinary users and user namespaces have to pass.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755))?;
        set_child_subreaper(Pid::from_raw(1))?;
        Ok(Host { dir, name, program: coracle(), containers: AtomicU32::new(0) })
    }

    /// A host whose runtime is a copy, with its handlers beside it: for tests that try to damage them.
    ///
    /// # Errors
    /// As [`Host::new`], and when the copies cannot be made.
    pub fn with_own_programs() -> Result<Host> {
        let mut host = Self::new()?;
        let (from, to) = (coracle(), host.path().join("programs"));
        fs::create_dir(&to)?;
        for name in ["coracle", "coracle-wasi", "coracle-wasmc"] {
            let program = if name == "coracle" { from.clone() } else { from.with_file_name(name) };
            // Not by ourselves: what another thread forks meanwhile would hold the copy open, and nobody could execute it.
            command("cp").arg(program).arg(to.join(name)).finish()?.ok()?;
        }
        host.program = to.join("coracle");
        Ok(host)
    }

    /// The directory of the runtime under test.
    #[must_use]
    pub fn programs(&self) -> &Path {
        self.program.parent().unwrap_or(Path::new("/"))
    }

    /// The temporary directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// A name that no other test has: the prefix of its container ids, and its cgroup.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The runtime's state directory.
    #[must_use]
    pub fn state_dir(&self) -> PathBuf {
        self.path().join("state")
    }

    /// The runtime's cache of compiled modules.
    #[must_use]
    pub fn cache_dir(&self) -> PathBuf {
        self.path().join("cache")
    }

    /// The runtime under test with this host's state directory and cache.
    #[must_use]
    pub fn runtime(&self) -> Command {
        self.runtime_at(&self.program)
    }

    /// Another runtime program, with this host's state directory and cache.
    pub fn runtime_at(&self, program: impl AsRef<Path>) -> Command {
        let mut command = command(program.as_ref());
        command.env("CORACLE_CACHE_DIR", self.cache_dir()).arg("--root").arg(self.state_dir());
        command
    }

    /// A container of this host: `coracle spec`'s configuration without a terminal, a busybox root file system that
    /// can be written to, and this command.
    ///
    /// # Errors
    /// `spec` fails, or the bundle cannot be written.
    pub fn container(&self, args: &[&str]) -> Result<Container<'_>> {
        let bundle = self.bundle()?;
        busybox_root(&bundle.join("rootfs"))?;
        Container::new(self, bundle, args)
    }

    /// As [`Host::container`], with an empty root file system.
    ///
    /// # Errors
    /// As [`Host::container`].
    pub fn empty_container(&self, args: &[&str]) -> Result<Container<'_>> {
        let bundle = self.bundle()?;
        fs::create_dir(bundle.join("rootfs"))?;
        Container::new(self, bundle, args)
    }

    fn bundle(&self) -> Result<PathBuf> {
        let n = self.containers.fetch_add(1, Ordering::Relaxed) + 1;
        let bundle = self.path().join(format!("{}-c{n}", self.name));
        fs::create_dir(&bundle)?;
        Ok(bundle)
    }

    /// Whether this host has the unified hierarchy alone, cgroup v2 (cgroups(7)).
    #[must_use]
    pub fn is_unified() -> bool {
        Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
    }

    /// The directories that a cgroup path has in the host's hierarchies.
    #[must_use]
    pub fn cgroup_dirs(path: &str) -> Vec<PathBuf> {
        let path = path.trim_start_matches('/');
        cgroup_mounts().iter().map(|m| m.join(path)).filter(|d| d.is_dir()).collect()
    }

    /// The directory of a cgroup in the hierarchy that has a controller (the v1 one, or the unified one).
    ///
    /// # Errors
    /// It does not exist.
    pub fn cgroup_dir(path: &str, controller: &str) -> Result<PathBuf> {
        let dirs = Self::cgroup_dirs(path);
        let v1 = dirs.iter().find(|d| {
            d.iter().nth(4).is_some_and(|name| name.to_string_lossy().split(',').any(|c| c == controller))
        });
        v1.or_else(|| dirs.iter().find(|d| d.join("cgroup.controllers").exists()))
            .cloned()
            .with_context(|| format!("no {controller} cgroup {path}"))
    }

    /// What is left of this host's containers: state, processes, cgroups, mounts.
    ///
    /// # Errors
    /// Reading the host's state failed.
    pub fn leftovers(&self) -> Result<Vec<String>> {
        let mut found = Vec::new();
        if let Ok(entries) = fs::read_dir(self.state_dir()) {
            // Ids cannot begin with a dot: `.seccomp` is a cache of the runtime's.
            let ids = entries.flatten().filter(|e| !e.file_name().as_encoded_bytes().starts_with(b"."));
            found.extend(ids.map(|e| format!("state {}", e.path().display())));
        }
        for dir in Self::cgroup_dirs(&self.name) {
            found.extend(
                descendants(&dir)
                    .iter()
                    .filter(|d| **d != dir)
                    .map(|d| format!("cgroup {} of {:?}", d.display(), pids_in(d))),
            );
        }
        let mountinfo = fs::read_to_string("/proc/self/mountinfo")?;
        let path = self.path().to_string_lossy();
        found.extend(mountinfo.lines().filter(|l| l.contains(&*path)).map(|l| format!("mount {l}")));
        for pid in
            fs::read_dir("/proc")?.flatten().filter_map(|e| e.file_name().to_str()?.parse::<i32>().ok())
        {
            // The root link tells a container's process even when it has left the cgroup.
            if let Ok(root) = fs::read_link(format!("/proc/{pid}/root"))
                && root.starts_with(self.path())
            {
                found.push(format!("process {pid} with the root {}", root.display()));
            }
        }
        Ok(found)
    }

    /// Takes note of the end of this host's processes that nobody waits for any more, because who did was killed: as long
    /// as one has not been reaped, the init of its pid namespace cannot end.
    ///
    /// # Errors
    /// /proc cannot be read.
    pub fn reap_orphans(&self) -> Result<()> {
        for entry in fs::read_dir("/proc")?.flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
                continue;
            };
            let read = |file| fs::read_to_string(entry.path().join(file)).unwrap_or_default();
            let status = read("status");
            let is_ours = status.contains(&format!("\nPPid:\t{}\n", std::process::id()));
            if is_ours && status.contains("\nState:\tZ") && read("cgroup").contains(self.name()) {
                let _ = rustix::process::waitpid(Pid::from_raw(pid), WaitOptions::NOHANG);
            }
        }
        Ok(())
    }

    /// Fails when anything is left of this host's containers.
    ///
    /// # Errors
    /// Something is left.
    pub fn is_clean(&self) -> Result<()> {
        let left = self.leftovers()?;
        ensure!(left.is_empty(), "left behind:\n{}", left.join("\n"));
        Ok(())
    }

    /// The ids that `list` shows.
    ///
    /// # Errors
    /// `list` fails.
    pub fn list(&self) -> Result<Vec<String>> {
        Ok(self.runtime().args(["list", "-q"]).finish()?.ok()?.lines().map(str::to_owned).collect())
    }

    /// `coracle spec`'s configuration.
    ///
    /// # Errors
    /// `spec` fails or writes no JSON.
    pub(crate) fn spec(&self) -> Result<Value> {
        let dir = tempfile::tempdir_in(self.path())?;
        self.runtime().arg("spec").current_dir(dir.path()).finish()?.ok()?;
        Ok(serde_json::from_slice(&fs::read(dir.path().join("config.json"))?)?)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Ok(ids) = fs::read_dir(self.state_dir()) {
            for id in ids.flatten() {
                let _ = self.runtime().args(["delete", "--force"]).arg(id.file_name()).finish();
            }
        }
        remove_cgroup(&self.name);
        unmount_below(self.path());
    }
}

/// Kills what is in a cgroup and removes it from every hierarchy.
pub(crate) fn remove_cgroup(path: &str) {
    for dir in Host::cgroup_dirs(path) {
        for dir in descendants(&dir).iter().rev() {
            let _ = fs::write(dir.join("freezer.state"), "THAWED");
            // Read anew each time: killing one may end others, and then their numbers are soon somebody else's.
            let _ = eventually("the end of a cgroup's processes", || {
                let pids = pids_in(dir);
                for pid in pids.iter().copied().filter_map(Pid::from_raw) {
                    let _ = kill_process(pid, Signal::KILL);
                }
                Ok(pids.is_empty())
            });
            let _ = fs::remove_dir(dir);
        }
    }
}

/// Detaches every mount below a directory, the last one first.
pub(crate) fn unmount_below(dir: &Path) {
    let Ok(mountinfo) = fs::read_to_string("/proc/self/mountinfo") else { return };
    let mounts: Vec<_> = mountinfo.lines().filter_map(|l| l.split(' ').nth(4)).map(Path::new).collect();
    for mount in mounts.iter().rev().filter(|m| m.starts_with(dir)) {
        let _ = rustix::mount::unmount(*mount, rustix::mount::UnmountFlags::DETACH);
    }
}

/// Makes a root file system from Debian's static busybox.
///
/// # Errors
/// busybox-static is not installed, or the directory cannot be written.
pub fn busybox_root(root: &Path) -> Result<()> {
    for dir in ["bin", "dev", "etc", "proc", "root", "sys", "tmp", "var/empty"] {
        fs::create_dir_all(root.join(dir))?;
    }
    fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777))?;
    fs::copy("/bin/busybox", root.join("bin/busybox")).context("copy /bin/busybox")?;
    for applet in applets()? {
        if applet != "busybox" {
            symlink("busybox", root.join("bin").join(applet))?;
        }
    }
    fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\nguest:x:1000:1000::/tmp:/bin/sh\n")?;
    fs::write(root.join("etc/group"), "root:x:0:\nguest:x:1000:\n")?;
    Ok(())
}

fn applets() -> Result<&'static [String]> {
    static APPLETS: OnceLock<Vec<String>> = OnceLock::new();
    if APPLETS.get().is_none() {
        let list = command("/bin/busybox").arg("--list").finish()?.ok()?;
        let _ = APPLETS.set(list.lines().map(str::to_owned).collect());
    }
    APPLETS.get().map(Vec::as_slice).context("busybox lists no applet")
}

/// Where the host's cgroup hierarchies are mounted.
pub(crate) fn cgroup_mounts() -> &'static [PathBuf] {
    static MOUNTS: OnceLock<Vec<PathBuf>> = OnceLock::new();
    MOUNTS.get_or_init(|| {
        let mountinfo = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        mountinfo
            .lines()
            .filter(|l| l.contains(" - cgroup ") || l.contains(" - cgroup2 "))
            .filter_map(|l| l.split(' ').nth(4))
            // Other mounts of cgroups, those of a container whose root is on this host, say.
            .filter(|m| m.starts_with("/sys/fs/cgroup"))
            .map(PathBuf::from)
            .collect()
    })
}

/// A directory and all directories below it, parents first.
pub(crate) fn descendants(dir: &Path) -> Vec<PathBuf> {
    let mut all = vec![dir.to_owned()];
    let mut next = 0;
    while next < all.len() {
        let entries = fs::read_dir(&all[next]).into_iter().flatten().flatten();
        let dirs: Vec<_> =
            entries.filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()).collect();
        all.extend(dirs);
        next += 1;
    }
    all
}

/// The processes in a cgroup directory.
fn pids_in(dir: &Path) -> Vec<i32> {
    let procs = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    procs.lines().filter_map(|l| l.parse().ok()).collect()
}
