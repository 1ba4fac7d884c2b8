//! coracle-wasi: runs one compiled WASI preview1 module, as the program of a container.
//!
//! There is no Rust `main`: the standard library's start-up costs system calls for what is not needed here.
#![cfg_attr(not(test), no_main)]

use std::ffi::{c_char, c_int};

use coracle_wasi::{module, signals, start, stderr, trap};

/// C's entry point.
///
/// # Safety
/// For the C library to call, with what execve(2) passed.
#[cfg_attr(not(test), unsafe(no_mangle))]
#[cfg_attr(test, allow(dead_code))]
unsafe extern "C" fn main(_: c_int, argv: *const *const c_char, envp: *const *const c_char) -> c_int {
    signals::prepare();
    // SAFETY: argv and envp are those of the process, and nothing has taken its descriptors yet.
    let start = match unsafe { start::take(argv, envp) } {
        Ok(start) => start,
        Err(error) => fail(&error.to_string()),
    };
    // SAFETY: only the runtime starts this program, with an artifact of its own compiler.
    match unsafe { module::run(start) } {
        Ok(()) => signals::exit(0),
        Err(module::Error::Trap(trap)) => {
            stderr::print(&trap::describe(&trap));
            signals::exit(trap::EXIT_CODE)
        }
        Err(error) => fail(&error.to_string()),
    }
}

fn fail(message: &str) -> ! {
    stderr::print(&format!("coracle-wasi: {message}\n"));
    signals::exit(1)
}
