//! Compiles the profiles of seccomp/handlers to BPF, so that a start has nothing to compile.

use std::{env, error::Error, fs, path::PathBuf};

use seccompiler::{TargetArch, compile_from_json};
use serde_json::Value;

/// What the filters are called here, and the profiles that each is made of: its own, and one that it adds to.
const FILTERS: [(&str, &str, Option<&str>); 3] = [
    ("WASI", "coracle-wasi", None),
    ("WASI_NETWORK", "coracle-wasi-network", Some("coracle-wasi")),
    ("WASMC", "coracle-wasmc", None),
];

fn main() -> Result<(), Box<dyn Error>> {
    let arch = env::var("CARGO_CFG_TARGET_ARCH")?;
    let directory = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("../../seccomp/handlers");
    let read = |profile: &str| -> Result<Value, Box<dyn Error>> {
        let path = directory.join(format!("{profile}.{arch}.json"));
        println!("cargo::rerun-if-changed={}", path.display());
        let text = fs::read(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        Ok(serde_json::from_slice(&text)?)
    };
    let mut list = String::new();
    for (name, profile, base) in FILTERS {
        let mut json = read(profile)?;
        if let Some(base) = base {
            let rules = read(base)?[base]["filter"].as_array().cloned().unwrap_or_default();
            json[profile]["filter"].as_array_mut().ok_or("a profile without rules")?.extend(rules);
        }
        let text = serde_json::to_vec(&json)?;
        let filters = compile_from_json(text.as_slice(), TargetArch::try_from(arch.as_str())?)?;
        let filter = filters.get(profile).ok_or_else(|| format!("no {profile} in its file"))?;
        let instructions = filter.iter().map(|i| {
            format!("libc::sock_filter {{ code: {}, jt: {}, jf: {}, k: {} }},\n", i.code, i.jt, i.jf, i.k)
        });
        list += &format!(
            "/// The filter of {profile}.\npub static {name}: Filter = Filter(&[\n{}]);\n",
            instructions.collect::<String>()
        );
    }
    fs::write(PathBuf::from(env::var("OUT_DIR")?).join("filters.rs"), list)?;
    Ok(())
}
