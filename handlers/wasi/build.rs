//! Compiles the sandbox profile of this handler to BPF, so that a start has nothing to compile.

use std::{env, error::Error, fs, path::PathBuf};

use seccompiler::{TargetArch, compile_from_json};

fn main() -> Result<(), Box<dyn Error>> {
    let arch = env::var("CARGO_CFG_TARGET_ARCH")?;
    let profile = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?)
        .join(format!("../../seccomp/handlers/coracle-wasi.{arch}.json"));
    println!("cargo::rerun-if-changed={}", profile.display());
    let text = fs::read(&profile).map_err(|e| format!("{}: {e}", profile.display()))?;
    let programs = compile_from_json(text.as_slice(), TargetArch::try_from(arch.as_str())?)?;
    let program = programs.get("coracle-wasi").ok_or("the profile has no program coracle-wasi")?;
    let instructions = program.iter().map(|i| {
        format!("libc::sock_filter {{ code: {}, jt: {}, jf: {}, k: {} }},\n", i.code, i.jt, i.jf, i.k)
    });
    let list = format!("[\n{}]\n", instructions.collect::<String>());
    fs::write(PathBuf::from(env::var("OUT_DIR")?).join("sandbox.rs"), list)?;
    Ok(())
}
