//! Labels of Linux security modules. The files that take them are opened in the host's procfs, before a container's
//! mounts can put others in their place.

use std::os::fd::OwnedFd;

use oci_spec::runtime::Process;
use rustix::fs::OFlags;

use crate::config::{self, wrong};
use crate::init::Error;
use crate::procfs::{self, Procfs};

/// Whether SELinux is in force: its file system is mounted only where a policy may be loaded.
pub fn has_selinux() -> bool {
    const SELINUX_MAGIC: i64 = 0xf97c_ff8c;
    rustix::fs::statfs(c"/sys/fs/selinux").is_ok_and(|fs| fs.f_type == SELINUX_MAGIC)
}

fn has_apparmor() -> bool {
    libcontainer::apparmor::is_enabled().unwrap_or(false)
}

fn profile(process: &Process) -> Option<&str> {
    process.apparmor_profile().as_deref().filter(|profile| !profile.is_empty())
}

fn label(process: &Process) -> Option<&str> {
    process.selinux_label().as_deref().filter(|label| !label.is_empty())
}

/// A container must not run with less than it asked for.
///
/// # Errors
/// [`config::Error::Wrong`] on a host without the module.
pub fn check(process: &Process) -> Result<(), config::Error> {
    match (profile(process), label(process)) {
        (Some(profile), _) if !has_apparmor() => Err(wrong(
            "process.apparmorProfile",
            profile,
            "AppArmor is disabled or not supported on this host",
        )),
        (_, Some(label)) if !has_selinux() => {
            Err(wrong("process.selinuxLabel", label, "selinux is disabled or not supported on this host"))
        }
        _ => Ok(()),
    }
}

/// A file that takes a label, and the label.
#[derive(Debug)]
struct Attribute {
    path: &'static str,
    file: OwnedFd,
    value: String,
}

impl Attribute {
    fn open(procfs: &Procfs, path: &'static str, value: String) -> Result<Self, Error> {
        match procfs.file(path, OFlags::WRONLY) {
            Ok(file) => Ok(Self { path, file, value }),
            Err(errno) => Err(procfs::failed(path, &value, errno)),
        }
    }

    fn write(&self) -> Result<(), Error> {
        procfs::put(&self.file, &self.value).map_err(|errno| procfs::failed(self.path, &self.value, errno))
    }
}

/// The labels that this process gets with its next exec.
#[derive(Debug)]
pub struct Labels([Option<Attribute>; 2]);

impl Labels {
    /// Opens what takes them.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn open(process: &Process, procfs: &Procfs) -> Result<Self, Error> {
        // AppArmor's own since Linux 5.8.
        const APPARMOR: &str = "thread-self/attr/apparmor/exec";
        const EXEC: &str = "thread-self/attr/exec";
        let apparmor = profile(process).map(|profile| {
            let path = if procfs.file(APPARMOR, OFlags::PATH).is_ok() { APPARMOR } else { EXEC };
            Attribute::open(procfs, path, format!("exec {profile}"))
        });
        let selinux = label(process).map(|label| Attribute::open(procfs, EXEC, label.to_owned()));
        Ok(Self([apparmor.transpose()?, selinux.transpose()?]))
    }

    /// Sets them.
    ///
    /// # Errors
    /// [`Error::Write`]: the module does not know the label.
    pub fn apply(&self) -> Result<(), Error> {
        self.0.iter().flatten().try_for_each(Attribute::write)
    }
}

/// Has the keys that this process makes labelled as its program, out of whose reach its session keyring would be
/// otherwise.
///
/// # Errors
/// [`Error::Write`].
pub fn apply_to_keys(process: &Process, procfs: &Procfs) -> Result<(), Error> {
    label(process).map_or(Ok(()), |label| procfs.write("thread-self/attr/keycreate", label))
}
