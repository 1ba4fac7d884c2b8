//! The configuration in `packaging/` that no test can give to its engine here: Debian 12 has no CRI-O.

use std::fs;

use anyhow::{Context, Result};
use coracle_integration::repository;
use toml::{Table, Value};

/// What CRI-O knows about a runtime, from version 1.26 to 1.36, and the type of each value.
const CRIO: &[(&str, &str)] = &[
    ("runtime_path", "string"),
    ("runtime_type", "string"),
    ("runtime_root", "string"),
    ("runtime_config_path", "string"),
    ("privileged_without_host_devices", "boolean"),
    ("allowed_annotations", "array"),
    ("monitor_path", "string"),
    ("monitor_cgroup", "string"),
    ("monitor_env", "array"),
    ("monitor_exec_cgroup", "string"),
];
/// The annotations for runtimes that CRI-O holds back unless they are allowed. A word that is not one of its own is an
/// error when it starts.
const HELD_BACK: &[&str] = &[
    "io.kubernetes.cri.rdt-class",
    "bundle",
    "org.systemd.property.",
    "org.criu.config",
    "module.wasm.image/variant",
    "io.kubernetes.cri.container-type",
    "run.oci.",
];

#[test]
fn crio() -> Result<()> {
    let file = repository().join("packaging/crio/10-coracle.conf");
    let config: Table = fs::read_to_string(file)?.parse()?;
    // Nothing but this runtime.
    let mut runtime = &config;
    for table in ["crio", "runtime", "runtimes", "coracle"] {
        assert_eq!(runtime.len(), 1, "{runtime}");
        runtime =
            runtime.get(table).and_then(Value::as_table).with_context(|| format!("no table {table}"))?;
    }
    for (key, value) in runtime {
        assert!(CRIO.contains(&(key.as_str(), value.type_str())), "{key} = {value}");
    }
    // Where `make install` puts it.
    assert_eq!(runtime["runtime_path"].as_str(), Some("/usr/local/bin/coracle"));
    assert_eq!(runtime["runtime_type"].as_str(), Some("oci"));
    let allowed = runtime["allowed_annotations"].as_array().context("no list")?;
    assert!(allowed.iter().all(|a| a.as_str().is_some_and(|a| HELD_BACK.contains(&a))), "{allowed:?}");
    // Both annotations that choose a handler: one is a prefix, the other a name.
    for annotation in ["run.oci.handler", "module.wasm.image/variant"] {
        assert!(
            allowed.iter().any(|a| a.as_str().is_some_and(|a| annotation.starts_with(a))),
            "{annotation}"
        );
    }
    Ok(())
}
