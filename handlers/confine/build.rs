//! Compiles the profiles of seccomp/handlers to BPF, so that a start has nothing to compile.
//!
//! seccompiler makes a chain: each call is compared with one number after the other. The kernel walks it for every call that
//! there is when a filter is installed, and translates it to machine code, which takes longer than all else that
//! installing does. So what seccompiler makes of each call is put at the end of a binary search for its number.

use std::collections::{BTreeMap, BTreeSet};
use std::{env, error::Error, fs, path::PathBuf};

use seccompiler::{BpfProgram, TargetArch, compile_from_json, sock_filter};
use serde_json::{Value, json};

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
    let target = TargetArch::try_from(arch.as_str())?;
    let mut list = String::new();
    for (name, profile, base) in FILTERS {
        let mut rules = rules(&read(profile)?[profile])?;
        if let Some(base) = base {
            rules.extend(self::rules(&read(base)?[base])?);
        }
        let mut json = read(profile)?[profile].take();
        let mut compile = |rules: Vec<&Value>| -> Result<BpfProgram, Box<dyn Error>> {
            json["filter"] = json!(rules);
            let text = serde_json::to_vec(&json!({ profile: json }))?;
            Ok(compile_from_json(text.as_slice(), target)?.remove(profile).ok_or("no filter")?)
        };
        let chain = compile(rules.iter().collect())?;
        let calls: BTreeSet<_> = rules.iter().filter_map(|rule| rule["syscall"].as_str()).collect();
        let each = calls
            .iter()
            .map(|call| compile(rules.iter().filter(|rule| rule["syscall"] == **call).collect()))
            .collect::<Result<Vec<_>, _>>()?;
        list += &format!(
            "/// The filter of {profile}.\npub static {name}: Filter = Filter(&[\n{}]);\n\
            #[cfg(test)]\nstatic {name}_CHAIN: &[libc::sock_filter] = &[\n{}];\n",
            source(&search(&each)?),
            source(&chain)
        );
    }
    fs::write(PathBuf::from(env::var("OUT_DIR")?).join("filters.rs"), list)?;
    Ok(())
}

fn rules(profile: &Value) -> Result<Vec<Value>, &'static str> {
    profile["filter"].as_array().cloned().ok_or("a profile without rules")
}

fn source(program: &[sock_filter]) -> String {
    let line = |i: &sock_filter| {
        format!("libc::sock_filter {{ code: {}, jt: {}, jf: {}, k: {} }},\n", i.code, i.jt, i.jf, i.k)
    };
    program.iter().map(line).collect()
}

/// What a chain begins with: the architecture is looked at, and the number loaded.
const HEAD: usize = 4;
/// BPF_JMP | BPF_JA, BPF_JMP | BPF_JGE | BPF_K and BPF_RET | BPF_K of linux/bpf_common.h.
const JUMP: u16 = 0x05;
const JUMP_IF_NOT_LESS: u16 = 0x35;
const RETURN: u16 = 0x06;

/// One program out of those of single calls.
fn search(calls: &[BpfProgram]) -> Result<BpfProgram, &'static str> {
    // From which number on there is which answer.
    let mut answers = BTreeMap::new();
    let mut head = None;
    for call in calls {
        let (start, rest) = call.split_at_checked(HEAD).ok_or("a filter without a call")?;
        let [comparison, .., other] = rest else { return Err("a filter without a call") };
        let number = comparison.k;
        head.get_or_insert_with(|| (start.to_vec(), vec![other.clone()]));
        answers.insert(number, answer(rest));
        answers.entry(number + 1).or_insert_with(|| vec![other.clone()]);
    }
    let (mut program, other) = head.ok_or("a profile without rules")?;
    answers.entry(0).or_insert(other);
    let mut answers: Vec<_> = answers.into_iter().collect();
    answers.dedup_by(|next, before| next.1 == before.1);
    program.extend(choice(&answers));
    Ok(program)
}

/// What follows the comparison with the number of a call, if they are the same.
fn answer(call: &[sock_filter]) -> BpfProgram {
    let mut rest = &call[1..];
    while let [sock_filter { code: JUMP, k, .. }, ..] = rest {
        rest = &rest[1 + *k as usize..];
    }
    match rest {
        [only @ sock_filter { code: RETURN, .. }, ..] => vec![only.clone()],
        // The last instruction is for other numbers.
        _ => rest[..rest.len() - 1].to_vec(),
    }
}

fn choice(answers: &[(u32, BpfProgram)]) -> BpfProgram {
    if let [(_, answer)] = answers {
        return answer.clone();
    }
    let (below, above) = answers.split_at(answers.len() / 2);
    let (first, below, above) = (above[0].0, choice(below), choice(above));
    let instruction = |code, jt, jf, k| sock_filter { code, jt, jf, k };
    let mut program = match u8::try_from(below.len()) {
        Ok(length) => vec![instruction(JUMP_IF_NOT_LESS, length, 0, first)],
        Err(_) => {
            vec![instruction(JUMP_IF_NOT_LESS, 0, 1, first), instruction(JUMP, 0, 0, below.len() as u32)]
        }
    };
    program.extend(below);
    program.extend(above);
    program
}
