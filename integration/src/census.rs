//! What is on this host before a test and after it.
//!
//! A [`Census`] counts what a container may leave behind: descriptors of the test program, mounts, cgroups, processes
//! and memory. It looks at the whole host, so that also what escapes a test's own names is seen, but leaves out what
//! bears the name of another test program, which may run at the same time.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::command::eventually;
use crate::host::{NAME, cgroup_mounts, descendants};

/// How much more memory of the kernel may be in use afterwards. A container that leaves a process, a file in memory or
/// a cgroup that cannot go away costs some 100 KiB; the kernel's own caches move by a few MiB.
const TOLERANCE: u64 = 64 << 20;

/// What is there at one moment.
pub struct Census {
    /// Each thing by its description, and how often it is there.
    things: BTreeMap<String, usize>,
    memory: u64,
}

impl Census {
    /// Counts. To be done when no other thread of this program opens files or starts processes.
    ///
    /// # Errors
    /// The host's state cannot be read.
    pub fn take() -> Result<Census> {
        let mut things = BTreeMap::new();
        let others = format!("{NAME}-");
        let own = format!("{others}{}-", std::process::id());
        let mut add = |thing: String| {
            if thing.contains(&own) || !thing.contains(&others) {
                *things.entry(thing).or_insert(0) += 1;
            }
        };
        descriptors().into_iter().for_each(&mut add);
        mounts()?.into_iter().for_each(&mut add);
        for mount in cgroup_mounts() {
            descendants(mount).iter().map(|d| format!("cgroup {}", d.display())).for_each(&mut add);
        }
        descendant_processes()?.into_iter().for_each(&mut add);
        Ok(Census { things, memory: kernel_memory()? })
    }

    /// What is there now and was not, or not as often, at this census.
    ///
    /// # Errors
    /// The host's state cannot be read.
    pub fn new_things(&self) -> Result<Vec<String>> {
        let now = Census::take()?;
        let more = |(thing, count): &(String, usize)| *count > self.things.get(thing).copied().unwrap_or(0);
        let mut new: Vec<_> = now.things.into_iter().filter(more).map(|(thing, _)| thing).collect();
        if now.memory > self.memory + TOLERANCE {
            new.push(format!("memory of the kernel: {} MiB", (now.memory - self.memory) >> 20));
        }
        Ok(new)
    }

    /// Waits until nothing is there that was not at this census.
    ///
    /// # Errors
    /// Something new stays.
    pub fn is_as_before(&self) -> Result<()> {
        // What is on its way to its end, and memory that other programs use, goes by itself.
        let _ = eventually("the host to be as before", || Ok(self.new_things()?.is_empty()));
        let new = self.new_things()?;
        ensure!(new.is_empty(), "left on this host:\n{}", new.join("\n"));
        Ok(())
    }
}

/// The open descriptors of this program.
fn descriptors() -> Vec<String> {
    let entries = fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    let target = |path: &Path| fs::read_link(path).unwrap_or_default();
    entries.map(|e| format!("descriptor {:?} {}", e.file_name(), target(&e.path()).display())).collect()
}

/// The mounts without their numbers, which are others when the same thing is mounted again.
fn mounts() -> Result<Vec<String>> {
    let mountinfo = fs::read_to_string("/proc/self/mountinfo")?;
    let describe = |line: &str| {
        let what = line.split_once(" - ").map_or("", |(_, what)| what);
        let place: Vec<_> = line.split(' ').skip(3).take(2).collect();
        format!("mount {} {what}", place.join(" "))
    };
    Ok(mountinfo.lines().map(describe).collect())
}

/// The descendants of this program, also those that it has not waited for. A host makes this program the reaper of
/// whatever its children leave, so nothing that a container starts can get out of this tree.
fn descendant_processes() -> Result<Vec<String>> {
    let all = processes()?;
    let own = std::process::id();
    let is_descendant = |mut pid: u32| {
        while let Some(process) = all.get(&pid) {
            if process.parent == own {
                return true;
            }
            pid = process.parent;
        }
        false
    };
    let descendants = all.iter().filter(|(pid, _)| is_descendant(**pid));
    Ok(descendants
        .map(|(pid, Process { name, state, .. })| format!("process {pid} {name} {state}"))
        .collect())
}

/// A process of this host.
pub(crate) struct Process {
    pub(crate) parent: u32,
    pub(crate) name: String,
    /// `Z` for one that nobody has waited for.
    state: char,
}

/// All processes of this host.
pub(crate) fn processes() -> Result<BTreeMap<u32, Process>> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let pid = entry.file_name().to_str().and_then(|name| name.parse().ok());
        // A process may end while it is looked at. Its name is in parentheses and may have some itself.
        if let (Some(pid), Ok(stat)) = (pid, fs::read_to_string(entry.path().join("stat")))
            && let Some((name, rest)) = stat.rsplit_once(") ")
            && let Some((_, name)) = name.split_once('(')
            && let [state, parent, ..] = rest.split(' ').collect::<Vec<_>>()[..]
        {
            let state = state.chars().next().unwrap_or('?');
            all.insert(pid, Process { parent: parent.parse()?, name: name.to_owned(), state });
        }
    }
    Ok(all)
}

/// Memory that belongs to no process and that the kernel cannot take back by itself: files in memory, tables and
/// structures. What processes use is gone with them.
fn kernel_memory() -> Result<u64> {
    let meminfo = fs::read_to_string("/proc/meminfo")?;
    let mut sum = 0;
    for field in ["Shmem:", "SUnreclaim:", "KernelStack:", "Percpu:"] {
        let line = meminfo.lines().find_map(|l| l.strip_prefix(field));
        let kib =
            line.and_then(|l| l.trim().strip_suffix(" kB")).with_context(|| format!("meminfo {field}"))?;
        sum += kib.parse::<u64>()? << 10;
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Host, Run, command};

    #[test]
    fn sees_what_is_left() -> Result<()> {
        let host = Host::new()?;
        let before = Census::take()?;
        assert_eq!(before.new_things()?, Vec::<String>::new());
        let _file = fs::File::open("/dev/null")?;
        let _job = command("sleep").arg("1000").job()?;
        let cgroup = cgroup_mounts().first().context("no cgroups")?.join(host.name());
        fs::create_dir(cgroup)?;
        let scratch = host.path().join("scratch");
        fs::create_dir(&scratch)?;
        command("mount").args(["-t", "tmpfs", "-o", "size=100m", "tmpfs"]).arg(&scratch).finish()?.ok()?;
        fs::write(scratch.join("file"), vec![1; 80 << 20])?;
        let new = before.new_things()?.join("\n");
        for thing in ["descriptor", "process", "cgroup", "mount", "memory"] {
            assert!(new.contains(thing), "no {thing} in\n{new}");
        }
        Ok(())
    }
}
