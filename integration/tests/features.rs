//! `features` says what the specification's features.md knows, in its form, and nothing that a container is refused for.

use anyhow::{Context, Result, ensure};
use coracle_integration::{Host, Run};
use serde_json::{Map, Value, json};

fn features(host: &Host) -> Result<Value> {
    Ok(serde_json::from_str(&host.runtime().arg("features").finish()?.ok()?.stdout)?)
}

fn names(value: &Value) -> Result<Vec<&str>> {
    let list = value.as_array().with_context(|| format!("not a list: {value}"))?;
    let names: Option<Vec<&str>> = list.iter().map(Value::as_str).collect();
    let names = names.with_context(|| format!("not names: {value}"))?;
    let mut sorted = names.clone();
    sorted.sort_unstable();
    sorted.dedup();
    ensure!(!names.is_empty() && sorted.len() == names.len(), "empty, or a name twice: {value}");
    Ok(names)
}

fn object<'v>(value: &'v Value, keys: &[&str]) -> Result<&'v Map<String, Value>> {
    let object = value.as_object().with_context(|| format!("not an object: {value}"))?;
    for key in object.keys() {
        ensure!(keys.contains(&key.as_str()), "features.md knows no {key}: {value}");
    }
    Ok(object)
}

fn version(text: &Value) -> Result<Vec<u32>> {
    let text = text.as_str().context("a version")?;
    Ok(text.split('.').map(str::parse).collect::<Result<_, _>>()?)
}

#[test]
fn the_form_is_that_of_the_specification() -> Result<()> {
    let host = Host::new()?;
    let features = features(&host)?;
    object(
        &features,
        &[
            "ociVersionMin",
            "ociVersionMax",
            "hooks",
            "mountOptions",
            "linux",
            "annotations",
            "potentiallyUnsafeConfigAnnotations",
        ],
    )?;
    ensure!(version(&features["ociVersionMin"])? <= version(&features["ociVersionMax"])?);
    names(&features["mountOptions"])?;
    names(&features["potentiallyUnsafeConfigAnnotations"])?;
    ensure!(features["annotations"].as_object().context("annotations")?.values().all(Value::is_string));
    let hooks = ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];
    assert_eq!(names(&features["hooks"])?, hooks);

    let linux = &features["linux"];
    object(
        linux,
        &[
            "namespaces",
            "capabilities",
            "cgroup",
            "seccomp",
            "apparmor",
            "selinux",
            "intelRdt",
            "memoryPolicy",
            "mountExtensions",
            "netDevices",
        ],
    )?;
    ensure!(names(&linux["capabilities"])?.iter().all(|name| name.starts_with("CAP_")));
    for key in ["v1", "v2", "systemd", "systemdUser", "rdma"] {
        ensure!(linux["cgroup"][key].is_boolean(), "cgroup.{key}");
    }
    for key in ["apparmor", "selinux", "netDevices"] {
        assert_eq!(object(&linux[key], &["enabled"])?["enabled"], true, "{key}");
    }
    ensure!(linux["intelRdt"]["enabled"].is_boolean());
    ensure!(linux["mountExtensions"]["idmap"]["enabled"].is_boolean());
    ensure!(names(&linux["memoryPolicy"]["modes"])?.iter().all(|name| name.starts_with("MPOL_")));
    ensure!(names(&linux["memoryPolicy"]["flags"])?.iter().all(|name| name.starts_with("MPOL_F_")));
    let seccomp = &linux["seccomp"];
    object(seccomp, &["enabled", "actions", "operators", "archs", "knownFlags", "supportedFlags"])?;
    for (key, prefix) in [
        ("actions", "SCMP_ACT_"),
        ("operators", "SCMP_CMP_"),
        ("archs", "SCMP_ARCH_"),
        ("knownFlags", "SECCOMP_FILTER_FLAG_"),
        ("supportedFlags", "SECCOMP_FILTER_FLAG_"),
    ] {
        ensure!(names(&seccomp[key])?.iter().all(|name| name.starts_with(prefix)), "{key}");
    }
    let known = names(&seccomp["knownFlags"])?;
    ensure!(names(&seccomp["supportedFlags"])?.iter().all(|flag| known.contains(flag)));
    Ok(())
}

#[test]
fn what_is_claimed_of_seccomp_is_taken() -> Result<()> {
    let host = Host::new()?;
    let features = features(&host)?;
    let seccomp = &features["linux"]["seccomp"];
    // A filter holds architectures of one endianness only.
    let native = match std::env::consts::ARCH {
        "x86_64" => ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"].as_slice(),
        "aarch64" => &["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"],
        _ => &[],
    };
    let claimed = names(&seccomp["archs"])?;
    ensure!(native.iter().all(|arch| claimed.contains(arch)), "{claimed:?}");
    // Notifications need a listener: another test's matter.
    let actions = names(&seccomp["actions"])?.into_iter().filter(|action| *action != "SCMP_ACT_NOTIFY");
    let rules: Vec<Value> = actions
        .zip(1000..)
        .map(|(action, number)| {
            json!({ "names": ["personality"], "action": action,
                "args": [{ "index": 0, "value": number, "op": "SCMP_CMP_EQ" }] })
        })
        .collect();
    let comparisons: Vec<Value> = names(&seccomp["operators"])?
        .into_iter()
        .map(|op| {
            json!({ "names": ["getpriority"], "action": "SCMP_ACT_LOG",
                "args": [{ "index": 0, "value": 77, "valueTwo": 77, "op": op }] })
        })
        .collect();
    for syscalls in [vec![], rules.into_iter().filter(|r| r["action"] != "SCMP_ACT_ALLOW").collect()]
        .into_iter()
        .chain(comparisons.into_iter().map(|one| vec![one]))
    {
        let mut c = host.container(&["true"])?;
        c.config["linux"]["seccomp"] = json!({ "defaultAction": "SCMP_ACT_ALLOW",
            "architectures": native, "flags": seccomp["supportedFlags"], "syscalls": syscalls });
        let done = c.run()?;
        // A flag may only go with a listener, and is left out then; all else has to be taken.
        ensure!(done.code == 0, "{done}");
    }
    Ok(())
}

#[test]
fn what_is_claimed_of_namespaces_and_memory_is_taken() -> Result<()> {
    let host = Host::new()?;
    let features = features(&host)?;
    let linux = &features["linux"];
    let mut c = host.container(&["true"])?;
    for kind in names(&linux["namespaces"])? {
        if kind != "user" {
            c.without_namespace(kind).namespace(kind, None);
        }
    }
    c.run()?.ok()?;
    for mode in names(&linux["memoryPolicy"]["modes"])? {
        let mut c = host.container(&["true"])?;
        c.config["linux"]["memoryPolicy"] = json!({ "mode": mode });
        let done = c.run()?;
        // A kernel may not know it, or ask for nodes; the runtime must have.
        ensure!(
            done.code == 0 || done.stderr.contains("set_mempolicy") || done.stderr.contains("memory policy"),
            "{mode}: {done}"
        );
    }
    let mut c = host.container(&["true"])?;
    c.config["linux"]["intelRdt"] = json!({ "closID": "x" });
    ensure!(linux["intelRdt"]["enabled"] == true || c.run()?.exits(1)?.stderr.contains("linux.intelRdt"));
    Ok(())
}
