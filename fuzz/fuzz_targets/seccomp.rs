//! A seccomp profile: compiled, run in an interpreter for many system calls, and compared with what libseccomp alone says
//! and with what the profile means. The handlers' own filters are judged along with it.
#![no_main]

use coracle_fuzz::bpf::Program;
use coracle_fuzz::profile::Profile;
use coracle_fuzz::random::Random;
use coracle_fuzz::{handlers, json};
use coracle_seccomp::{Filter, Unknown};
use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};
use oci_spec::runtime::LinuxSeccomp;

fuzz_target!(|bytes: &[u8]| {
    let mut random = Random::of(bytes);
    handlers::judge(&mut random, 20);
    let Ok(profile) = serde_json::from_slice::<LinuxSeccomp>(bytes) else { return };
    let strict = Filter::compile(&profile, Unknown::Fail);
    let Ok(filter) = Filter::compile(&profile, Unknown::Skip) else {
        assert!(strict.is_err(), "what is wrong is wrong for those who want to know all names, too");
        return;
    };
    assert!(strict.is_err() || strict.ok().as_ref() == Some(&filter));
    let program = Program::new(&filter.to_bytes());
    let Some(meant) = serde_json::from_slice(bytes).ok().and_then(|json| Profile::read(&json)) else {
        return;
    };
    let reference = meant.reference().expect("libseccomp took the rules");
    for call in meant.calls(&mut random, 300) {
        meant.judge(&program, &reference, &call);
    }
});

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    json::mutate(data, size, max_size, seed, "seccomp").unwrap_or_else(|| fuzzer_mutate(data, size, max_size))
});
