//! Where a cgroup may be: whoever is in there gets killed, so this is what a lying file would like to change.

use std::path::{Component, Path};

use coracle::cgroup::Cgroup;
use serde_json::Value;

/// Panics unless every directory of the cgroup lies below the root of its hierarchy. What it is read back from what is
/// saved of it must be the same.
pub fn check(cgroup: &Cgroup) {
    let saved = serde_json::to_value(cgroup).expect("a cgroup is JSON");
    for hierarchy in saved["hierarchies"].as_array().into_iter().flatten() {
        let path = |field: &str| Path::new(hierarchy[field].as_str().expect("a path"));
        let below = path("path").strip_prefix(path("mount")).expect("a directory of its hierarchy");
        let plain = below.components().all(|component| matches!(component, Component::Normal(_)));
        assert!(plain && below != Path::new(""), "{hierarchy}");
    }
    let again: Cgroup = serde_json::from_value(saved.clone()).expect("what is saved can be read");
    assert_eq!(serde_json::to_value(&again).ok(), Some(saved).filter(|saved: &Value| !saved.is_null()));
}
