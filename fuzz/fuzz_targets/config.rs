//! config.json: from its bytes to everything that `create` makes of it before it touches the system.
#![no_main]

use std::path::Path;

use coracle::config;
use coracle_fuzz::{json, plan};
use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};

fuzz_target!(|bytes: &[u8]| {
    let path = Path::new(plan::PATH);
    let Ok(spec) = config::parse(path, bytes, plan::silent) else { return };
    plan::container(&spec);
    // `update` writes the configuration anew, and every later command reads that.
    let written = serde_json::to_vec(&spec).expect("a configuration is JSON");
    assert_eq!(config::parse(path, &written, plan::silent).expect("what is written can be read"), spec);
});

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    json::mutate(data, size, max_size, seed, "config").unwrap_or_else(|| fuzzer_mutate(data, size, max_size))
});
