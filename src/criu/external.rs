//! What a checkpoint leaves out: mounts, devices and namespaces that the host has on both sides.
//!
//! A mount goes by its path in the container, a joined namespace by the name that runc gives it, so that a
//! checkpoint can move between the two runtimes.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxNamespaceType, Spec};

use super::rpc::{Criu_opts, Ext_mount_map, Inherit_fd, Join_namespace};
use crate::config;

/// Declares that the mount at `key` is not to be saved (`value` is its name), or what is to be mounted under
/// that name.
pub fn add_mount(opts: &mut Criu_opts, key: impl Into<String>, value: impl Into<String>) {
    let mut entry = Ext_mount_map::new();
    entry.set_key(key.into());
    entry.set_val(value.into());
    opts.ext_mnt.push(entry);
}

/// The namespaces of config.json that are joined, with their paths.
fn joined(spec: &Spec) -> impl Iterator<Item = (LinuxNamespaceType, &Path)> {
    let all = spec.linux().iter().flat_map(|linux| linux.namespaces().iter().flatten());
    all.filter_map(|entry| Some((entry.typ(), config::joined_path(entry)?)))
}

/// CRIU's word for a namespace whose content it leaves alone, and the name it gets.
fn kept(kind: LinuxNamespaceType) -> Option<(&'static str, &'static str)> {
    match kind {
        LinuxNamespaceType::Network => Some(("net", "extRootNetNS")),
        LinuxNamespaceType::Pid => Some(("pid", "extRootPidNS")),
        _ => None,
    }
}

/// Leaves joined network and pid namespaces out of a checkpoint.
///
/// # Errors
/// A path that is no longer there, by its name.
pub fn omit_namespaces(opts: &mut Criu_opts, spec: &Spec) -> Result<(), (PathBuf, io::Error)> {
    for (kind, path) in joined(spec) {
        if let Some((word, name)) = kept(kind) {
            let inode = fs::metadata(path).map_err(|e| (path.to_owned(), e))?.ino();
            opts.external.push(format!("{word}[{inode}]:{name}"));
        }
    }
    Ok(())
}

/// Has joined namespaces joined again. The descriptors that come back must be open when CRIU starts.
///
/// # Errors
/// A path that cannot be opened, by its name; a cgroup namespace, which CRIU cannot join.
pub fn join_namespaces(
    opts: &mut Criu_opts,
    spec: &Spec,
) -> Result<Vec<std::os::fd::OwnedFd>, (PathBuf, io::Error)> {
    use rustix::fs::{Mode, OFlags};
    use std::os::fd::AsRawFd;
    let mut open = Vec::new();
    for (kind, path) in joined(spec) {
        if let Some((_, name)) = kept(kind) {
            // Not closed on exec: CRIU knows it by its number.
            let descriptor = rustix::fs::open(path, OFlags::RDONLY, Mode::empty())
                .map_err(|errno| (path.to_owned(), errno.into()))?;
            let mut entry = Inherit_fd::new();
            entry.set_key(name.to_owned());
            entry.set_fd(descriptor.as_raw_fd());
            opts.inherit_fd.push(entry);
            open.push(descriptor);
            continue;
        }
        let word = match kind {
            LinuxNamespaceType::Mount => "mnt",
            LinuxNamespaceType::Cgroup => {
                return Err((path.to_owned(), io::Error::other("criu cannot join a cgroup namespace")));
            }
            LinuxNamespaceType::Ipc => "ipc",
            LinuxNamespaceType::Uts => "uts",
            LinuxNamespaceType::User => "user",
            LinuxNamespaceType::Time => "time",
            LinuxNamespaceType::Network | LinuxNamespaceType::Pid => continue,
        };
        let mut entry = Join_namespace::new();
        entry.set_ns(word.to_owned());
        entry.set_ns_file(path.display().to_string());
        opts.join_ns.push(entry);
    }
    Ok(open)
}

/// Where the standard streams of a process lead: what proc_pid_fd(5) shows.
pub fn streams(pid: i32) -> Vec<String> {
    let target = |number| fs::read_link(format!("/proc/{pid}/fd/{number}"));
    (0..3).map(|number| target(number).map(|t| t.display().to_string()).unwrap_or_default()).collect()
}

/// Has pipes that were a saved process's standard streams replaced by ours.
pub fn inherit_streams(opts: &mut Criu_opts, saved: &[String]) {
    for (number, target) in (0..).zip(saved) {
        if target.starts_with("pipe:") {
            let mut entry = Inherit_fd::new();
            entry.set_key(target.clone());
            entry.set_fd(number);
            opts.inherit_fd.push(entry);
        }
    }
}
