//! Compiles the engine and its host, both in C, with Debian's clang and wasi-libc.

use std::path::Path;
use std::{env, fs};

fn main() {
    let vendor = env::var_os("VENDOR").expect("VENDOR: the directory of the vendored crates");
    let engine = Path::new(&vendor).join("rquickjs-sys-0.14.0/quickjs");
    let mut host: Vec<_> = fs::read_dir("src")
        .expect("src")
        .map(|entry| entry.expect("an entry of src").path())
        .filter(|path| path.extension().map_or(false, |it| it == "c"))
        .collect();
    host.sort();
    let mut clang = cc::Build::new();
    clang.compiler("clang").opt_level_str("s").define("_GNU_SOURCE", None);
    clang
        .clone()
        .warnings(false)
        .files(["dtoa.c", "libregexp.c", "libunicode.c", "quickjs.c"].map(|it| engine.join(it)))
        .compile("engine");
    clang.include(&engine).warnings(true).files(host).compile("host");
    println!("cargo:rerun-if-changed=src");
    println!("cargo:rerun-if-env-changed=VENDOR");
    // Recursion ends in a trap of its own, not in the memory below the stack.
    println!("cargo:rustc-link-arg=-zstack-size=8388608");
}
