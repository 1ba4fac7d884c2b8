//! The seccomp filter of a container: what it is made from, and who answers the calls that it hands on
//! (config-linux.md, "Seccomp").

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use coracle_seccomp::{Filter, Unknown};
use oci_spec::runtime::{ContainerProcessStateBuilder, LinuxSeccomp, SECCOMP_FD_NAME, Spec, State};
use rustix::net::SocketType;
use rustix::process::PidfdGetfdFlags;

use crate::error::Os;
use crate::unix;

/// crun's: a name that is not one of a system call is an error, unless the value is "0".
const FAIL_UNKNOWN: &str = "run.oci.seccomp_fail_unknown_syscall";
/// crun's: the compiled filter, in base64, instead of the profile's.
const BPF_DATA: &str = "run.oci.seccomp_bpf_data";
/// crun's: who gets the descriptor, where the profile does not say.
const RECEIVER: &str = "run.oci.seccomp.receiver";
/// The same for all containers of an engine.
const RECEIVER_VARIABLE: &str = "RUN_OCI_SECCOMP_RECEIVER";
/// crun's: shared objects that answer calls inside the runtime.
const PLUGINS: &str = "run.oci.seccomp.plugins";
/// The version of the container process state, which has been the same since there is one.
const STATE_VERSION: &str = "0.2.0";

/// Why there is no filter, or nobody to answer its calls.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "each variant says itself what happened")]
pub enum Error {
    #[error(transparent)]
    Filter(#[from] coracle_seccomp::Error),
    #[error("annotation {PLUGINS}: plugins are not supported; let linux.seccomp.listenerPath name an agent")]
    Plugins,
    #[error("annotation {BPF_DATA}: {0}")]
    Base64(#[from] base64::DecodeError),
    #[error("seccomp listenerPath is not set, but SCMP_ACT_NOTIFY is used")]
    NoListener,
    #[error("the seccomp receiver {0} is not an absolute path")]
    Relative(PathBuf),
    #[error("failed to connect with seccomp agent specified in the seccomp profile: {path}: {reason}")]
    Connect { path: PathBuf, reason: Os },
    #[error("cannot send seccomp fd to {path}: {reason}")]
    Send { path: PathBuf, reason: Os },
    #[error("taking the seccomp descriptor from the container's process: {0}")]
    Take(Os),
    #[error("the container process state: {0}")]
    State(String),
}

/// Who gets the descriptor of a filter.
#[derive(Debug)]
pub struct Listener {
    path: PathBuf,
    metadata: Option<String>,
    /// The connection, where the profile would do without: then there is a descriptor only if somebody listens.
    connection: Option<OwnedFd>,
}

/// The filter of a container's processes, and its listener. Made before the clone: compiling may take a while and
/// open files. `cache` is a directory for compiled profiles.
///
/// # Errors
/// [`Error`], for what the profile or an annotation asks for and cannot have.
pub fn plan(
    spec: &Spec,
    annotations: &HashMap<String, String>,
    cache: &Path,
) -> Result<Option<(Filter, Option<Listener>)>, Error> {
    if annotations.contains_key(PLUGINS) {
        return Err(Error::Plugins);
    }
    let profile = spec.linux().as_ref().and_then(|l| l.seccomp().as_ref());
    let Some(mut filter) = filter(profile, annotations, cache)? else { return Ok(None) };
    let listener = listener(profile, annotations, &filter)?;
    if listener.is_some() {
        filter.listen();
    }
    Ok(Some((filter, listener)))
}

fn filter(
    profile: Option<&LinuxSeccomp>,
    annotations: &HashMap<String, String>,
    cache: &Path,
) -> Result<Option<Filter>, Error> {
    if let Some(data) = annotations.get(BPF_DATA) {
        let flags = profile.and_then(|p| p.flags().as_deref());
        return Ok(Some(Filter::from_bytes(&BASE64_STANDARD.decode(data.trim())?, flags)?));
    }
    let Some(profile) = profile else { return Ok(None) };
    if annotations.get(FAIL_UNKNOWN).is_some_and(|value| value != "0") {
        return Ok(Some(Filter::compile(profile, Unknown::Fail)?));
    }
    Ok(Some(Filter::cached(profile, cache)?))
}

fn listener(
    profile: Option<&LinuxSeccomp>,
    annotations: &HashMap<String, String>,
    filter: &Filter,
) -> Result<Option<Listener>, Error> {
    let own = profile.and_then(|p| p.listener_path().clone()).filter(|path| !path.as_os_str().is_empty());
    let metadata = profile.and_then(|p| p.listener_metadata().clone());
    let asked = |path: PathBuf| {
        if path.is_absolute() { Ok(path) } else { Err(Error::Relative(path)) }
    };
    let given = annotations.get(RECEIVER).map(PathBuf::from);
    let given = given.or_else(|| std::env::var_os(RECEIVER_VARIABLE).map(PathBuf::from));
    match (own, given.map(asked).transpose()?) {
        (Some(path), _) if filter.notifies() => Ok(Some(Listener { path, metadata, connection: None })),
        // Nobody will be asked, so nobody has to be there (config-linux.md, "listenerPath").
        (Some(path), _) => {
            let connection = unix::connect(&path, SocketType::STREAM).ok();
            Ok(connection.map(|c| Listener { path, metadata, connection: Some(c) }))
        }
        (None, Some(path)) => Ok(Some(Listener { path, metadata, connection: None })),
        (None, None) if filter.notifies() => Err(Error::NoListener),
        (None, None) => Ok(None),
    }
}

impl Listener {
    /// Takes descriptor `number` from a process: pidfd_getfd(2).
    ///
    /// # Errors
    /// [`Error::Take`].
    pub fn take(pidfd: &OwnedFd, number: i32) -> Result<OwnedFd, Error> {
        rustix::process::pidfd_getfd(pidfd, number, PidfdGetfdFlags::empty())
            .map_err(|e| Error::Take(e.into()))
    }

    /// Sends the descriptor of a filter to its agent, with the state of the process that has the filter
    /// (config-linux.md, "The Container Process State").
    ///
    /// # Errors
    /// [`Error::Connect`], [`Error::Send`], [`Error::State`].
    pub fn hand_over(&self, descriptor: &OwnedFd, pid: i32, state: State) -> Result<(), Error> {
        let mut state = ContainerProcessStateBuilder::default()
            .version(STATE_VERSION)
            .fds([SECCOMP_FD_NAME.to_owned()])
            .pid(pid)
            .state(state)
            .build()
            .map_err(|e| Error::State(e.to_string()))?;
        if let Some(metadata) = &self.metadata {
            state.set_metadata(Some(metadata.clone()));
        }
        let state = serde_json::to_string(&state).map_err(|e| Error::State(e.to_string()))?;
        let connected;
        let connection = match &self.connection {
            Some(connection) => connection,
            None => {
                let failed = |errno: rustix::io::Errno| Error::Connect {
                    path: self.path.clone(),
                    reason: errno.into(),
                };
                connected = unix::connect(&self.path, SocketType::STREAM).map_err(failed)?;
                &connected
            }
        };
        unix::send(connection, state, descriptor.as_fd())
            .map_err(|e| Error::Send { path: self.path.clone(), reason: e.into() })
    }
}
