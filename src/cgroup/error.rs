//! What goes wrong with cgroups, each case with the file or the field of config.json that it is about.

use std::path::PathBuf;

use super::systemd;
use crate::error::Os;

/// What goes wrong with cgroups.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum Error {
    #[error("no cgroup file system is mounted")]
    NotMounted,
    #[error("linux.cgroupsPath {0:?} does not name a cgroup below the root")]
    Path(PathBuf),
    #[error("unable to apply cgroup configuration: create cgroup {path}: {reason}", path = path.display())]
    Create { path: PathBuf, reason: Os },
    #[error("remove cgroup {path}: {reason}", path = path.display())]
    Remove { path: PathBuf, reason: Os },
    #[error("signal process {pid}: {reason}")]
    Signal { pid: i32, reason: Os },
    #[error("open {path}: {reason}", path = path.display())]
    Open { path: PathBuf, reason: Os },
    #[error("write {value:?} to {path}: {reason}", path = path.display())]
    Write { path: PathBuf, value: String, reason: Os },
    #[error("read {path}: {reason}", path = path.display())]
    Read { path: PathBuf, reason: Os },
    /// Worded without the system's reason: engines take that for a missing program in the container.
    #[error("{path}: this cgroup, or this kernel, has no such control file", path = path.display())]
    NoFile { path: PathBuf },
    #[error("{path}: {text:?} is not a number", path = path.display())]
    NotANumber { path: PathBuf, text: String },
    #[error(
        "linux.resources.{field}: cannot set {controller} limit: container could not join or create cgroup \
         (controller {controller} is not available to us)"
    )]
    NoController { field: &'static str, controller: &'static str },
    #[error("linux.resources.{field}: cannot set {field} limit: container could not join or create cgroup")]
    LimitWithoutCgroup { field: &'static str },
    #[error("container has no cgroup")]
    NoCgroup,
    #[error("linux.resources.{0}: not supported on cgroup v2")]
    NotOnV2(&'static str),
    #[error("invalid configuration: linux.resources.unified.{key}: there is no cgroup v2 hierarchy")]
    UnifiedOnV1 { key: String },
    #[error("linux.resources.unified.{key:?}: must be of the form CONTROLLER.PARAMETER")]
    UnifiedKey { key: String },
    #[error("linux.resources.unified.{key}: invalid value {value:?}")]
    UnifiedValue { key: String, value: String },
    #[error(
        "invalid configuration: linux.resources.unified.{key}: controller {controller} is not available in cgroup v2"
    )]
    UnifiedController { key: String, controller: String },
    #[error("linux.resources.{field}: {list:?} is not a list of numbers such as 0-3,7")]
    List { field: String, list: String },
    #[error("linux.resources.memory.swappiness: {0} is not between 0 and 100")]
    Swappiness(u64),
    #[error("linux.resources.memory.swap: unable to set swap limit without memory limit")]
    SwapWithoutMemory,
    #[error("linux.resources.memory.swap: {swap} (memory and swap) is less than the memory limit {limit}")]
    SwapBelowMemory { swap: i64, limit: i64 },
    #[error("unable to set memory limit to {limit} (current usage: {usage}, peak usage: {peak})")]
    MemoryBusy { limit: i64, usage: u64, peak: u64 },
    #[error("rejecting memory limit {limit} <= usage {usage}")]
    MemoryBelowUsage { limit: i64, usage: u64 },
    #[error("the minimum allowed cpu-shares is {0}")]
    MinShares(u64),
    #[error("the maximum allowed cpu-shares is {0}")]
    MaxShares(u64),
    #[error("linux.resources.devices: rule {index}: {what}")]
    DeviceRule { index: usize, what: String },
    #[error("linux.resources.devices: no devices cgroup controller is available")]
    NoDevices,
    #[error("device rules of {path}: {step} BPF program: {reason}", path = path.display())]
    Bpf { step: &'static str, path: PathBuf, reason: Os },
    #[error("invalid --cgroup argument: {argument} ({problem})")]
    SubArgument { argument: String, problem: &'static str },
    #[error("--cgroup: {path} is not a sub cgroup path", path = .0.display())]
    SubPath(PathBuf),
    #[error("--cgroup: unknown controller {0}")]
    SubController(String),
    #[error("error adding pid {pid} to cgroups: open {path}: {reason}", path = path.display())]
    Join { pid: i32, path: PathBuf, reason: Os },
    #[error("container's cgroup unexpectedly frozen")]
    Frozen,
    #[error("container's cgroup is not empty: {0} process(es) found")]
    NotEmpty(usize),
    #[error("hand {path} over to the container: {reason}", path = path.display())]
    HandOver { path: PathBuf, reason: Os },
    #[error("annotation {annotation}: {name:?} does not name a cgroup below the container's")]
    Below { annotation: &'static str, name: String },
    #[error("annotation run.oci.delegate-cgroup: not supported on cgroup v1")]
    DelegatedOnV1,
    #[error("cannot toggle freezer: cgroups not configured for container")]
    NoFreezer,
    #[error("unable to freeze {path}: timed out", path = .0.display())]
    FreezeTimeout(PathBuf),
    #[error("systemd not running on this host, cannot use systemd cgroups manager")]
    NoSystemd,
    #[error("cannot use rootless systemd cgroups manager on cgroup v1")]
    RootlessOnV1,
    #[error(
        "expected cgroupsPath to be of format \"slice:prefix:name\" for systemd cgroups, got {0:?} instead"
    )]
    ScopePath(PathBuf),
    #[error("invalid slice name: {0}")]
    SliceName(String),
    #[error("invalid unit name: {0}")]
    UnitName(String),
    #[error("annotation {key}: {problem}")]
    Property { key: String, problem: String },
    #[error("systemd: {0}")]
    Systemd(#[from] systemd::BusError),
}
