//! Compiles the profiles of seccomp/handlers to BPF, so that a start has nothing to compile.

use std::{env, error::Error, fs, path::PathBuf};

use seccompiler::{TargetArch, compile_from_json};

/// The programs that confine themselves, and what their filters are called here.
const PROGRAMS: [(&str, &str); 2] = [("coracle-wasi", "WASI"), ("coracle-wasmc", "WASMC")];

fn main() -> Result<(), Box<dyn Error>> {
    let arch = env::var("CARGO_CFG_TARGET_ARCH")?;
    let directory = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("../../seccomp/handlers");
    let mut list = String::new();
    for (program, name) in PROGRAMS {
        let profile = directory.join(format!("{program}.{arch}.json"));
        println!("cargo::rerun-if-changed={}", profile.display());
        let text = fs::read(&profile).map_err(|e| format!("{}: {e}", profile.display()))?;
        let filters = compile_from_json(text.as_slice(), TargetArch::try_from(arch.as_str())?)?;
        let filter = filters.get(program).ok_or_else(|| format!("{}: no {program}", profile.display()))?;
        let instructions = filter.iter().map(|i| {
            format!("libc::sock_filter {{ code: {}, jt: {}, jf: {}, k: {} }},\n", i.code, i.jt, i.jf, i.k)
        });
        list += &format!(
            "/// The filter of {program}.\npub static {name}: Filter = Filter(&[\n{}]);\n",
            instructions.collect::<String>()
        );
    }
    fs::write(PathBuf::from(env::var("OUT_DIR")?).join("filters.rs"), list)?;
    Ok(())
}
