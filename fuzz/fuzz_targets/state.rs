//! The files of a container's directory, in whatever condition: state.json, the configuration beside it, and the standard
//! streams of a checkpoint. An input is one object that holds all three, or else state.json alone.
#![no_main]

use std::path::{Path, PathBuf};

use coracle::config;
use coracle::container::{Container, Remains, Status, parse_streams};
use coracle_fuzz::{cgroup, json, plan};
use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};
use serde_json::Value;

const ID: &str = "fuzz";

fuzz_target!(|bytes: &[u8]| {
    let files: Value = serde_json::from_slice(bytes).unwrap_or(Value::Null);
    let file = |name: &str| files.get(name).map(Value::to_string).unwrap_or_default().into_bytes();
    let state = if files.get("state").is_some() { file("state") } else { bytes.to_vec() };
    if let Ok(container) = Container::parse(PathBuf::from("/run/coracle/fuzz"), ID, &state) {
        assert_eq!(container.state.id, ID);
        // Reads processes and cgroups at most.
        let _ = container.status();
        for status in [Status::Creating, Status::Created, Status::Running, Status::Paused, Status::Stopped] {
            let published = container.state.published(status, Some(1)).expect("every state can be told");
            serde_json::to_vec(&published).expect("a state is JSON");
        }
        let saved = serde_json::to_vec(&container.state).expect("a state is JSON");
        let again = Container::parse(PathBuf::new(), ID, &saved).expect("what is saved can be read");
        assert_eq!(serde_json::to_value(&again.state).ok(), serde_json::to_value(&container.state).ok());
    }
    let config = || config::parse(Path::new(plan::PATH), &file("config"), plan::silent).ok();
    for rootless in [false, true] {
        // Everybody in what is found here would be killed.
        if let Some(found) = Remains::of(&state, config, ID, rootless).cgroup {
            cgroup::check(&found);
        }
    }
    let _ = parse_streams(Path::new("descriptors.json"), &file("streams"));
});

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    json::mutate(data, size, max_size, seed, "state").unwrap_or_else(|| fuzzer_mutate(data, size, max_size))
});
