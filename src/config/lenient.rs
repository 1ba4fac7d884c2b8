//! What runc takes and the types of oci-spec do not: a process without a user, capabilities of the future, flags of
//! the scheduler by the names that the specification gives them, lists of CPUs with spaces, an empty seccomp profile.
//!
//! It is looked for only when a configuration could not be read as it is.

use serde_json::{Map, Value, json};

/// Names of the specification (config.md, "process.scheduler") that oci-spec spells otherwise.
const FLAGS: [(&str, &str); 2] = [
    ("SCHED_FLAG_RESET_ON_FORK", "SCHED_RESET_ON_FORK"),
    ("SCHED_FLAG_DL_OVERRUN", "SCHED_FLAG_D_L_OVERRUN"),
];

/// Rewrites a configuration, or a process alone, so that it can be read, if that is how it is wrong. Returns the
/// capabilities that are left out.
pub fn rewrite(config: &mut Value) -> Vec<String> {
    let mut unknown = Vec::new();
    let whole = config.get("ociVersion").is_some();
    if let Some(linux) = config.get_mut("linux").and_then(Value::as_object_mut) {
        // A profile that says nothing is none.
        let empty = |seccomp: &Value| {
            let says =
                |key| seccomp.get(key).is_some_and(|v| !v.is_null() && *v != json!("") && *v != json!([]));
            seccomp.is_object() && !says("defaultAction") && !says("syscalls")
        };
        if linux.get("seccomp").is_some_and(empty) {
            linux.remove("seccomp");
        }
    }
    let process = if whole { config.get_mut("process") } else { Some(config) };
    let Some(process) = process.and_then(Value::as_object_mut) else { return unknown };
    if process.get("user").is_none_or(Value::is_null) {
        process.insert("user".into(), json!({"uid": 0, "gid": 0}));
    }
    let object = |process: &'_ mut Map<String, Value>, key: &str| {
        process.get_mut(key).and_then(Value::as_object_mut).map(std::mem::take)
    };
    if let Some(mut sets) = object(process, "capabilities") {
        for names in sets.values_mut().filter_map(Value::as_array_mut) {
            names.retain(|name| {
                let left_out = name.as_str().filter(|name| !is_capability(name));
                unknown.extend(left_out.map(str::to_owned));
                left_out.is_none()
            });
        }
        unknown.sort_unstable();
        unknown.dedup();
        process.insert("capabilities".into(), sets.into());
    }
    if let Some(flags) = process.get_mut("scheduler").and_then(|s| s.get_mut("flags")?.as_array_mut()) {
        for flag in flags {
            if let Some((_, ours)) = FLAGS.iter().find(|(theirs, _)| flag.as_str() == Some(theirs)) {
                *flag = Value::from(*ours);
            }
        }
    }
    if let Some(mut affinity) = object(process, "execCPUAffinity") {
        for list in affinity.values_mut() {
            let tidy = list.as_str().map(|text| {
                let elements = text.split(',').map(|e| e.split_whitespace().collect::<String>());
                elements.filter(|e| !e.is_empty()).collect::<Vec<_>>().join(",")
            });
            match tidy {
                Some(text) if text.is_empty() => *list = Value::Null,
                Some(text) => *list = text.into(),
                None => {}
            }
        }
        process.insert("execCPUAffinity".into(), affinity.into());
    }
    unknown
}

fn is_capability(name: &str) -> bool {
    serde_json::from_value::<oci_spec::runtime::Capability>(name.into()).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::{Process, Spec};

    #[test]
    fn what_runc_takes_is_taken() {
        let mut process = json!({"cwd": "/", "args": ["true"],
            "capabilities": {"bounding": ["CAP_CHOWN", "CAP_OF_THE_FUTURE"]},
            "scheduler": {"policy": "SCHED_OTHER", "flags": ["SCHED_FLAG_RESET_ON_FORK", "SCHED_FLAG_DL_OVERRUN"]},
            "execCPUAffinity": {"initial": " 0 - 1,,2 ", "final": ""}});
        assert!(serde_json::from_value::<Process>(process.clone()).is_err());
        let mut config = json!({"ociVersion": "1.0.0", "process": process.clone(), "linux": {"seccomp": {}}});
        assert_eq!(rewrite(&mut process), ["CAP_OF_THE_FUTURE"]);
        let process: Process = serde_json::from_value(process).expect("a process");
        let bounding = process.capabilities().as_ref().and_then(|c| c.bounding().as_ref());
        assert_eq!(bounding.map(|set| set.len()), Some(1));
        assert_eq!(process.scheduler().as_ref().and_then(|s| s.flags().as_ref()).map(Vec::len), Some(2));
        let affinity = process.exec_cpu_affinity().as_ref().expect("affinity");
        assert_eq!(affinity.initial().as_deref(), Some("0-1,2"));
        assert_eq!(affinity.cpu_affinity_final(), &None);
        rewrite(&mut config);
        serde_json::from_value::<Spec>(config).expect("a configuration");
    }
}
