//! Every function of preview1 and of its predecessor, called by a guest that means harm.
#![no_main]

use coracle_fuzz::{guest, sandbox};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| sandbox::run(bytes, guest::run));
