//! Labels of Linux security modules, and whether this host takes them.

use std::path::Path;

use oci_spec::runtime::Process;

use crate::error::Os;
use crate::init::Error;

/// Whether SELinux is in force: its file system is mounted only where a policy may be loaded.
pub fn has_selinux() -> bool {
    const SELINUX_MAGIC: i64 = 0xf97c_ff8c;
    rustix::fs::statfs(c"/sys/fs/selinux").is_ok_and(|fs| fs.f_type == SELINUX_MAGIC)
}

/// Sets the labels that this process gets with its next exec.
///
/// # Errors
/// [`Error::NoLabels`] on a host without the module: a container must not run with less than it asked for.
pub fn apply(process: &Process) -> Result<(), Error> {
    if let Some(profile) = process.apparmor_profile().as_deref().filter(|p| !p.is_empty()) {
        if !libcontainer::apparmor::is_enabled().unwrap_or(false) {
            return Err(Error::NoLabels("process.apparmorProfile"));
        }
        libcontainer::apparmor::apply_profile(profile)
            .map_err(|e| Error::AppArmor { profile: profile.to_owned(), reason: e.to_string() })?;
    }
    if let Some(label) = process.selinux_label().as_deref().filter(|l| !l.is_empty()) {
        if !has_selinux() {
            return Err(Error::NoLabels("process.selinuxLabel"));
        }
        let path = Path::new("/proc/thread-self/attr/exec");
        std::fs::write(path, label).map_err(|e| Error::Write {
            path: path.to_owned(),
            value: label.to_owned(),
            reason: Os::from(e),
        })?;
    }
    Ok(())
}
