//! Modules that are valid and use what the compiler has.

use arbitrary::Unstructured;
use wasm_smith::{Config, Module};

/// Makes a module of an input; `None` if there is too little of it.
pub fn generate(input: &[u8]) -> Option<Vec<u8>> {
    let mut config = Config {
        // Proposals that Wasmer's Cranelift has not.
        gc_enabled: false,
        custom_page_sizes_enabled: false,
        memory64_enabled: false,
        relaxed_simd_enabled: false,
        tail_call_enabled: false,
        threads_enabled: false,
        shared_everything_threads_enabled: false,
        wide_arithmetic_enabled: false,
        custom_descriptors_enabled: false,
        extended_const_enabled: false,
        exceptions_enabled: false,
        max_memories: 1,
        ..Config::default()
    };
    // What is imported is checked elsewhere, and refused if it is not one of our functions.
    config.max_imports = 0;
    config.max_memory32_bytes = 1 << 20;
    Module::new(config, &mut Unstructured::new(input)).ok().map(|module| module.to_bytes())
}

#[cfg(test)]
mod tests {
    use std::num::NonZero;

    use super::*;
    use crate::random::Random;

    #[test]
    fn what_is_made_is_compiled() {
        let mut random = Random::new(1);
        for _ in 0..8 {
            let input: Vec<u8> = (0..500).map(|_| random.number() as u8).collect();
            let module = generate(&input).expect("enough to make a module of");
            coracle_wasmc::imports::check(&module).expect("nothing is imported");
            let compiled = coracle_wasmc::compile::artifact(&module, NonZero::<usize>::MIN, |_, _| ());
            compiled.expect("what is valid can be compiled");
        }
    }
}
