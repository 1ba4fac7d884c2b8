//! config.json: read, and checked for what cannot be done, before anything is made.
//!
//! Properties that the specification does not know are ignored, as it demands (spec.md, "Extensibility"); those that
//! it knows and we do not do yet are refused by name, so that no container runs with less than it asked for.

mod lenient;

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Linux, LinuxNamespaceType, LinuxResources, Mount, Process, Spec};
use serde::de::DeserializeOwned;

use crate::error::Os;
use crate::init::{identity, personality, scheduling};
use crate::{file, labels, log, resctrl};

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "each variant says itself what happened")]
pub enum Error {
    #[error("{path}: {reason}")]
    Read { path: PathBuf, reason: Os },
    #[error("{path}: {field}: {reason}")]
    Parse { path: PathBuf, field: String, reason: serde_json::Error },
    #[error("config.json: {field}: {value}: {problem}")]
    Wrong { field: &'static str, value: String, problem: &'static str },
    #[error("config.json: {0} is missing")]
    Missing(&'static str),
    #[error("config.json: {0} is not supported yet")]
    Unsupported(&'static str),
}

/// A value that cannot be used.
pub fn wrong(field: &'static str, value: impl std::fmt::Display, problem: &'static str) -> Error {
    Error::Wrong { field, value: value.to_string(), problem }
}

/// Reads a configuration file, and warns of capabilities that nobody knows. Returns the file's content too.
///
/// # Errors
/// [`Error::Read`]; [`Error::Parse`] with the field that could not be understood.
pub fn read(path: &Path) -> Result<(Spec, Vec<u8>), Error> {
    let bytes = read_bytes(path)?;
    Ok((parse(path, &bytes, warn_of_unknown)?, bytes))
}

/// Reads the copy that a container keeps of its configuration: everything was said when it was created.
///
/// # Errors
/// As [`read`].
pub fn read_again(path: &Path) -> Result<Spec, Error> {
    let bytes = file::read_record(path).map_err(unreadable(path))?;
    parse(path, &bytes, |_| ())
}

/// The configuration that a file of this path holds; `unknown` is told of capabilities that are left out because nobody
/// knows them.
///
/// # Errors
/// [`Error::Parse`].
pub fn parse(path: &Path, bytes: &[u8], unknown: fn(&[String])) -> Result<Spec, Error> {
    let mut spec: Spec = parse_json(path, bytes, unknown)?;
    if let Some(mut resources) = spec.linux().as_ref().and_then(|linux| linux.resources().clone())
        && resources.hugepage_limits().iter().flatten().any(|limit| limit.page_size().is_empty())
    {
        let json: serde_json::Value = parse_json(path, bytes, |_| ())?;
        complete_page_sizes(&mut resources, &json["linux"]["resources"]);
        if let Some(linux) = spec.linux_mut() {
            linux.set_resources(Some(resources));
        }
    }
    Ok(spec)
}

/// Go does not tell `pagesize` from `pageSize`, and there are configurations that count on it.
fn complete_page_sizes(resources: &mut LinuxResources, json: &serde_json::Value) {
    let mut limits = resources.hugepage_limits().clone().unwrap_or_default();
    for (index, limit) in limits.iter_mut().enumerate() {
        let keys = json["hugepageLimits"][index].as_object().into_iter().flatten();
        for (_, size) in keys.filter(|(key, _)| key.eq_ignore_ascii_case("pageSize")) {
            limit.set_page_size(size.as_str().unwrap_or_default().to_owned());
        }
    }
    resources.set_hugepage_limits(Some(limits));
}

/// Reads the `process` of an exec request, config.md's "process" as a file of its own.
///
/// # Errors
/// As [`read`].
pub fn read_process(path: &Path) -> Result<Process, Error> {
    parse_process(path, &read_bytes(path)?, warn_of_unknown)
}

/// The `process` that a file of this path holds; `unknown` as in [`parse`].
///
/// # Errors
/// [`Error::Parse`].
pub fn parse_process(path: &Path, bytes: &[u8], unknown: fn(&[String])) -> Result<Process, Error> {
    parse_json(path, bytes, unknown)
}

/// Reads a list of mounts, config.md's "mounts" as a file of its own.
///
/// # Errors
/// As [`read`].
pub fn read_mounts(path: &Path) -> Result<Vec<Mount>, Error> {
    parse_json(path, &read_bytes(path)?, |_| ())
}

fn warn_of_unknown(capabilities: &[String]) {
    log::warn(&identity::unavailable(capabilities));
}

fn read_bytes(path: &Path) -> Result<Vec<u8>, Error> {
    file::read(path).map_err(unreadable(path))
}

fn unreadable(path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    move |e| Error::Read { path: path.to_owned(), reason: e.into() }
}

fn parse_json<T: DeserializeOwned>(path: &Path, bytes: &[u8], unknown: fn(&[String])) -> Result<T, Error> {
    // Most configurations are right: only for the others is it noted where one is.
    if let Ok(value) = serde_json::from_slice(bytes) {
        return Ok(value);
    }
    let error = match serde_path_to_error::deserialize(&mut serde_json::Deserializer::from_slice(bytes)) {
        Ok(value) => return Ok(value),
        Err(error) => error,
    };
    let failed = |error: serde_path_to_error::Error<serde_json::Error>| Error::Parse {
        path: path.to_owned(),
        field: error.path().to_string(),
        reason: error.into_inner(),
    };
    let Ok(mut value) = serde_json::from_slice(bytes) else { return Err(failed(error)) };
    let left_out = lenient::rewrite(&mut value);
    if !left_out.is_empty() {
        unknown(&left_out);
    }
    serde_path_to_error::deserialize(value).map_err(failed)
}

/// Whether a namespace of this kind is asked for, new or joined.
pub fn has_namespace(spec: &Spec, kind: LinuxNamespaceType) -> bool {
    namespace(spec, kind).is_some()
}

/// Whether the container gets a new namespace of this kind.
pub fn makes_namespace(spec: &Spec, kind: LinuxNamespaceType) -> bool {
    namespace(spec, kind).is_some_and(|namespace| joined_path(namespace).is_none())
}

/// The entry for a namespace of this kind.
pub fn namespace(spec: &Spec, kind: LinuxNamespaceType) -> Option<&oci_spec::runtime::LinuxNamespace> {
    spec.linux().as_ref()?.namespaces().as_ref()?.iter().find(|n| n.typ() == kind)
}

/// The program to run in the container.
///
/// # Errors
/// [`Error::Missing`].
pub fn process(spec: &Spec) -> Result<&Process, Error> {
    spec.process().as_ref().ok_or(Error::Missing("process"))
}

/// Checks what the configuration says as a whole.
///
/// # Errors
/// [`Error::Wrong`], [`Error::Missing`] or [`Error::Unsupported`], each naming the field.
pub fn check(spec: &Spec) -> Result<(), Error> {
    if !spec.version().starts_with("1.") {
        return Err(wrong("ociVersion", spec.version(), "only versions 1.x of the specification are known"));
    }
    if spec.root().is_none() {
        return Err(Error::Missing("root"));
    }
    spec.process().as_ref().map_or(Ok(()), check_process)?;
    let refused = [
        (spec.windows().is_some(), "windows"),
        (spec.solaris().is_some(), "solaris"),
        (spec.vm().is_some(), "vm"),
        (spec.zos().is_some(), "zos"),
    ];
    refuse(&refused)?;
    if let Some(linux) = spec.linux() {
        check_linux(linux)?;
    }
    check_hooks(spec)?;
    check_hostname(spec)?;
    check_user_namespace(spec)?;
    check_sysctl(spec)
}

fn refuse(list: &[(bool, &'static str)]) -> Result<(), Error> {
    match list.iter().find(|(given, _)| *given) {
        Some((_, field)) => Err(Error::Unsupported(field)),
        None => Ok(()),
    }
}

/// Checks a process.
///
/// # Errors
/// As [`check`].
pub fn check_process(process: &Process) -> Result<(), Error> {
    let args = process.args().as_deref().unwrap_or_default();
    if args.is_empty() {
        return Err(Error::Missing("process.args"));
    }
    let env = process.env().as_deref().unwrap_or_default();
    if args.iter().chain(env).any(|s| s.contains('\0')) {
        return Err(wrong("process.args or process.env", "a string", "holds a NUL byte"));
    }
    if args[0].is_empty() {
        return Err(wrong("process.args[0]", "\"\"", "names no program"));
    }
    if !process.cwd().is_absolute() {
        return Err(wrong("process.cwd", process.cwd().display(), "is not an absolute path"));
    }
    if let Some(score) = process.oom_score_adj()
        && !(-1000..=1000).contains(&score)
    {
        return Err(wrong("process.oomScoreAdj", score, "is not between -1000 and 1000"));
    }
    let mut seen = HashSet::new();
    for limit in process.rlimits().iter().flatten() {
        if !seen.insert(limit.typ().to_string()) {
            return Err(wrong("process.rlimits", limit.typ(), "is given twice"));
        }
        if limit.soft() > limit.hard() {
            return Err(wrong("process.rlimits", limit.typ(), "has a soft limit above its hard limit"));
        }
    }
    scheduling::check(process)?;
    labels::check(process)?;
    refuse(&[(process.command_line().is_some(), "process.commandLine")])
}

fn check_linux(linux: &Linux) -> Result<(), Error> {
    let mut kinds = HashSet::new();
    for namespace in linux.namespaces().iter().flatten() {
        if !kinds.insert(namespace.typ()) {
            return Err(wrong("linux.namespaces", namespace.typ(), "is given twice"));
        }
        // Engines write an empty path for a new namespace; oci-spec keeps it as a path.
        if let Some(path) = namespace.path()
            && !path.as_os_str().is_empty()
            && !path.is_absolute()
        {
            return Err(wrong("linux.namespaces", path.display(), "is not an absolute path"));
        }
    }
    if let Some(label) = linux.mount_label().as_deref().filter(|label| !label.is_empty())
        && !crate::labels::has_selinux()
    {
        return Err(wrong("linux.mountLabel", label, "SELinux is disabled on this host"));
    }
    check_time(linux)?;
    linux.personality().as_ref().map_or(Ok(()), personality::check)?;
    linux.memory_policy().as_ref().map_or(Ok(()), scheduling::check_memory_policy)?;
    linux.intel_rdt().as_ref().map_or(Ok(()), resctrl::check)
}

fn check_time(linux: &Linux) -> Result<(), Error> {
    let field = "linux.timeOffsets";
    for (clock, offset) in linux.time_offsets().iter().flatten() {
        let entry = linux.namespaces().iter().flatten().find(|n| n.typ() == LinuxNamespaceType::Time);
        let problem = match entry {
            None => Some("time namespace offsets specified, but time namespace isn't enabled in the config"),
            Some(entry) if joined_path(entry).is_some() => {
                Some("both namespace path and time offsets specified -- you may only provide one")
            }
            Some(_) if !matches!(clock.as_str(), "monotonic" | "boottime") => {
                Some("is neither monotonic nor boottime")
            }
            Some(_) if offset.nanosecs().is_some_and(|nanos| nanos >= 1_000_000_000) => {
                Some("nanosecs is a second or more")
            }
            Some(_) => None,
        };
        if let Some(problem) = problem {
            return Err(wrong(field, clock, problem));
        }
    }
    Ok(())
}

fn check_hooks(spec: &Spec) -> Result<(), Error> {
    let Some(hooks) = spec.hooks() else { return Ok(()) };
    #[allow(deprecated, reason = "docker still sets up its network in prestart")]
    let all = [
        ("hooks.prestart", hooks.prestart()),
        ("hooks.createRuntime", hooks.create_runtime()),
        ("hooks.createContainer", hooks.create_container()),
        ("hooks.startContainer", hooks.start_container()),
        ("hooks.poststart", hooks.poststart()),
        ("hooks.poststop", hooks.poststop()),
    ];
    for (field, list) in all {
        for hook in list.iter().flatten() {
            if let Some(timeout) = hook.timeout().filter(|timeout| *timeout <= 0) {
                return Err(wrong(field, format_args!("timeout {timeout}"), "is not greater than zero"));
            }
        }
    }
    Ok(())
}

fn check_hostname(spec: &Spec) -> Result<(), Error> {
    let private = has_namespace(spec, LinuxNamespaceType::Uts);
    for (field, name) in [("hostname", spec.hostname()), ("domainname", spec.domainname())] {
        if let Some(name) = name
            && !name.is_empty()
            && !private
        {
            return Err(wrong(field, name, "cannot be set without a private UTS namespace"));
        }
    }
    Ok(())
}

fn check_user_namespace(spec: &Spec) -> Result<(), Error> {
    let Some(linux) = spec.linux() else { return Ok(()) };
    let mappings = [("linux.uidMappings", linux.uid_mappings()), ("linux.gidMappings", linux.gid_mappings())];
    for (field, list) in mappings {
        let given = list.as_ref().is_some_and(|l| !l.is_empty());
        if given && !has_namespace(spec, LinuxNamespaceType::User) {
            return Err(wrong(field, "mappings", "need a user namespace"));
        }
        if list.iter().flatten().any(|m| m.size() == 0) {
            return Err(wrong(field, "size 0", "maps nothing"));
        }
    }
    Ok(())
}

/// The path of a namespace to join; an empty one means a new namespace.
pub fn joined_path(namespace: &oci_spec::runtime::LinuxNamespace) -> Option<&Path> {
    namespace.path().as_deref().filter(|path| !path.as_os_str().is_empty())
}

/// Only what belongs to one of the container's own namespaces may be set: everything else would change the
/// host. The list is that of namespaces(7) and of ipc_namespaces(7).
fn check_sysctl(spec: &Spec) -> Result<(), Error> {
    const IPC: &[&str] = &[
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.sem",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_rmid_forced",
    ];
    let Some(sysctl) = spec.linux().as_ref().and_then(|l| l.sysctl().as_ref()) else { return Ok(()) };
    for (key, value) in sysctl {
        let name = key.replace('/', ".");
        let problem = if name.contains("..") || name.starts_with('.') {
            Some("is not the name of a sysctl")
        } else if IPC.contains(&name.as_str()) || name.starts_with("fs.mqueue.") {
            (!has_namespace(spec, LinuxNamespaceType::Ipc)).then_some("is not in a separate IPC namespace")
        } else if name.starts_with("net.") {
            (!has_namespace(spec, LinuxNamespaceType::Network))
                .then_some("is not in a separate network namespace")
        } else if name == "kernel.domainname"
            && spec.domainname().as_ref().is_some_and(|n| !n.is_empty() && n != value)
        {
            Some("conflicts with the field domainname")
        } else if name == "kernel.domainname" {
            (!has_namespace(spec, LinuxNamespaceType::Uts)).then_some("is not in a separate UTS namespace")
        } else if name == "kernel.hostname" {
            Some("is set by the field hostname")
        } else if name.starts_with("user.") {
            (!has_namespace(spec, LinuxNamespaceType::User)).then_some("is not in a separate user namespace")
        } else {
            Some("is not in a separate kernel namespace")
        };
        if let Some(problem) = problem {
            return Err(Error::Wrong { field: "linux.sysctl", value: key.clone(), problem });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use std::fs;

    fn base() -> Value {
        json!({
            "ociVersion": "1.0.2",
            "root": {"path": "rootfs"},
            "process": {"args": ["/bin/true"], "cwd": "/", "user": {"uid": 0, "gid": 0}},
            "linux": {"namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "network"}]},
        })
    }

    /// A text that the error has to hold, and what is changed to cause it.
    type Case = (&'static str, fn(&mut Value));

    fn verdict(change: impl FnOnce(&mut Value)) -> Result<(), String> {
        let mut value = base();
        change(&mut value);
        let spec: Spec = serde_json::from_value(value).map_err(|e| e.to_string())?;
        check(&spec).map_err(|e| e.to_string())
    }

    #[test]
    fn a_plain_configuration_passes() {
        assert_eq!(verdict(|_| {}), Ok(()));
    }

    #[test]
    fn wrong_values_are_named_with_their_field() {
        let cases: [Case; 9] = [
            ("linux.timeOffsets: monotonic", |v| {
                v["linux"]["timeOffsets"] = json!({"monotonic": {"secs": 1}})
            }),
            ("ociVersion: 2.0.0", |v| v["ociVersion"] = json!("2.0.0")),
            ("process.args is missing", |v| v["process"]["args"] = json!([])),
            ("process.cwd: tmp", |v| v["process"]["cwd"] = json!("tmp")),
            ("process.oomScoreAdj: 2000", |v| v["process"]["oomScoreAdj"] = json!(2000)),
            ("hostname: h", |v| v["hostname"] = json!("h")),
            ("linux.sysctl: kernel.panic", |v| v["linux"]["sysctl"] = json!({"kernel.panic": "1"})),
            ("linux.sysctl: kernel.shmmax", |v| v["linux"]["sysctl"] = json!({"kernel.shmmax": "1"})),
            ("linux.uidMappings", |v| {
                v["linux"]["uidMappings"] = json!([{"containerID": 0, "hostID": 1, "size": 1}]);
            }),
        ];
        for (text, change) in cases {
            let error = verdict(change).expect_err(text);
            assert!(error.contains(text), "{error:?} should name {text:?}");
        }
    }

    #[test]
    fn what_is_not_done_yet_is_refused_by_name() {
        let cases: [Case; 1] =
            [("process.commandLine", |v| v["process"]["commandLine"] = json!("for Windows"))];
        for (field, change) in cases {
            let error = verdict(change).expect_err(field);
            assert_eq!(error, format!("config.json: {field} is not supported yet"));
        }
    }

    #[test]
    fn a_parse_error_names_file_and_field() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("config.json");
        let mut value = base();
        value["process"]["user"]["uid"] = json!("root");
        fs::write(&path, value.to_string()).expect("written");
        let error = read(&path).expect_err("uid is no number").to_string();
        assert!(error.contains("config.json") && error.contains("process.user.uid"), "{error}");
    }

    #[test]
    fn the_size_of_huge_pages_is_found_under_gos_name() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("config.json");
        let mut value = base();
        value["linux"]["resources"] =
            json!({"hugepageLimits": [{"pagesize": "2MB", "limit": 1}, {"pageSize": "1GB", "limit": 2}]});
        fs::write(&path, value.to_string()).expect("written");
        let (spec, _) = read(&path).expect("it is good");
        let resources = spec.linux().as_ref().and_then(|linux| linux.resources().clone()).expect("resources");
        let limits = resources.hugepage_limits().clone().expect("limits");
        assert_eq!(limits.iter().map(|limit| limit.page_size().as_str()).collect::<Vec<_>>(), ["2MB", "1GB"]);
    }

    #[test]
    fn sysctls_of_own_namespaces_pass() {
        assert_eq!(verdict(|v| v["linux"]["sysctl"] = json!({"net.ipv4.ip_forward": "1"})), Ok(()));
    }
}
