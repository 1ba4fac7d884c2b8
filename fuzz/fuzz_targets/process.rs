//! The process JSON of `exec --process`: parsed, checked, and made into what a program is started with.
#![no_main]

use std::path::Path;

use coracle::config;
use coracle_fuzz::{json, plan};
use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};

fuzz_target!(|bytes: &[u8]| {
    let path = Path::new("process.json");
    let Ok(process) = config::parse_process(path, bytes, plan::silent) else { return };
    if config::check_process(&process).is_ok() {
        plan::program(&process);
    }
    let written = serde_json::to_vec(&process).expect("a process is JSON");
    assert_eq!(
        config::parse_process(path, &written, plan::silent).expect("what is written can be read"),
        process
    );
});

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    json::mutate(data, size, max_size, seed, "process").unwrap_or_else(|| fuzzer_mutate(data, size, max_size))
});
