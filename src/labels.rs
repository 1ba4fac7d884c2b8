//! Labels of Linux security modules. The files that take them are opened in the host's /proc, before a container's
//! mounts can put others in their place.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;

use oci_spec::runtime::Process;

use crate::config::{self, wrong};
use crate::init::Error;

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
    file: File,
    value: String,
}

impl Attribute {
    fn open(path: &'static str, value: String) -> Result<Self, Error> {
        match OpenOptions::new().write(true).open(path) {
            Ok(file) => Ok(Self { path, file, value }),
            Err(e) => Err(Error::Write { path: path.into(), value, reason: e.into() }),
        }
    }

    fn write(&self) -> Result<(), Error> {
        (&self.file).write_all(self.value.as_bytes()).map_err(|e| Error::Write {
            path: self.path.into(),
            value: self.value.clone(),
            reason: e.into(),
        })
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
    pub fn open(process: &Process) -> Result<Self, Error> {
        // AppArmor's own since Linux 5.8.
        const APPARMOR: &str = "/proc/thread-self/attr/apparmor/exec";
        const EXEC: &str = "/proc/thread-self/attr/exec";
        let apparmor = profile(process).map(|profile| {
            let path = if Path::new(APPARMOR).exists() { APPARMOR } else { EXEC };
            Attribute::open(path, format!("exec {profile}"))
        });
        let selinux = label(process).map(|label| Attribute::open(EXEC, label.to_owned()));
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
pub fn apply_to_keys(process: &Process) -> Result<(), Error> {
    let Some(label) = label(process) else { return Ok(()) };
    Attribute::open("/proc/thread-self/attr/keycreate", label.to_owned())?.write()
}
