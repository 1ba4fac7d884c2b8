//! Has the program begin at `coracle_entry` (src/main.rs) where there is one.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_ARCH").as_deref() == Ok("x86_64") {
        println!("cargo::rustc-link-arg-bin=coracle=-Wl,--entry=coracle_entry");
    }
}
