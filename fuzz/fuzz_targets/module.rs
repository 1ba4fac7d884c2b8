//! A module: detection, the check of its imports, and compilation. An input that begins with `!` is made into a module that
//! is valid; all others are taken as they are, binary or text.
#![no_main]

use std::num::NonZero;

use coracle_fuzz::module;
use coracle_wasmc::{compile, imports, input};
use libfuzzer_sys::{Corpus, fuzz_target};

fuzz_target!(|bytes: &[u8]| -> Corpus {
    let made = bytes.strip_prefix(b"!").map(module::generate);
    let bytes = match &made {
        Some(None) => return Corpus::Reject,
        Some(Some(module)) => module,
        None => bytes,
    };
    let Ok(module) = input::module(bytes) else { return Corpus::Keep };
    if imports::check(&module).is_err() {
        return Corpus::Keep;
    }
    match compile::artifact(&module, NonZero::<usize>::MIN, |_, _| ()) {
        Ok(artifact) => assert!(artifact.starts_with(b"\x7fELF"), "an artifact is an ELF file"),
        Err(error) => assert!(made.is_none(), "{error}, of a module that is valid"),
    }
    Corpus::Keep
});
