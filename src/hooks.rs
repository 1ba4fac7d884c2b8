//! Hooks (config.md, "POSIX-platform Hooks"): programs of the engine's, run at given moments with the container's
//! state on standard input. libcontainer runs them; here they are named in errors, which it does not do.

use std::path::{Path, PathBuf};

use libcontainer::container::{ContainerStatus, State as HookState};
use oci_spec::runtime::Hook;

use crate::container::{State, Status};

/// A hook that failed.
#[derive(Debug, thiserror::Error)]
#[error("error running {kind} hook #{index} ({path}): {reason}")]
pub struct Error {
    kind: &'static str,
    index: usize,
    path: PathBuf,
    reason: String,
}

/// Runs the hooks of one kind, in order, up to the first that fails.
///
/// # Errors
/// [`Error`] for a hook that cannot be run, exits with another code than 0, or takes longer than its timeout.
pub fn run(
    kind: &'static str,
    hooks: Option<&Vec<Hook>>,
    state: &State,
    status: Status,
    pid: Option<i32>,
) -> Result<(), Error> {
    let Some(hooks) = hooks.filter(|hooks| !hooks.is_empty()) else { return Ok(()) };
    let status = match status {
        Status::Creating => ContainerStatus::Creating,
        Status::Created => ContainerStatus::Created,
        Status::Running => ContainerStatus::Running,
        Status::Paused => ContainerStatus::Paused,
        Status::Stopped => ContainerStatus::Stopped,
    };
    let mut hook_state = HookState::new(&state.id, status, pid, state.bundle.clone());
    hook_state.oci_version.clone_from(&state.oci_version);
    hook_state.annotations = Some(state.annotations.clone());
    for (index, hook) in hooks.iter().enumerate() {
        let one = vec![hook.clone()];
        let cwd: Option<&Path> = None;
        libcontainer::hooks::run_hooks(Some(&one), Some(&hook_state), cwd, None, None).map_err(|e| {
            let cause = std::error::Error::source(&e).map(|s| format!(": {s}")).unwrap_or_default();
            Error { kind, index, path: hook.path().clone(), reason: format!("{e}{cause}") }
        })?;
    }
    Ok(())
}
