//! The handlers' own filters (seccomp/handlers): the program that seccompiler makes, against the JSON it is made from.

use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use libseccomp::ScmpSyscall;
use seccompiler::{TargetArch, compile_from_json};
use serde_json::Value;

use crate::bpf::{Call, Program};
use crate::random::Random;

/// One program of one file.
struct Filter {
    program: Program,
    json: Value,
    audit: u32,
}

/// Those for this machine's architecture.
fn filters() -> &'static [Filter] {
    static FILTERS: OnceLock<Vec<Filter>> = OnceLock::new();
    FILTERS.get_or_init(|| {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../seccomp/handlers");
        let architecture = std::env::consts::ARCH;
        let audit = if cfg!(target_arch = "x86_64") { 0xc000_003e } else { 0xc000_00b7 };
        let mut filters = Vec::new();
        for entry in fs::read_dir(directory).expect("the profiles") {
            let path = entry.expect("a profile").path();
            if !path.to_string_lossy().ends_with(&format!(".{architecture}.json")) {
                continue;
            }
            let text = fs::read(&path).expect("a profile");
            let json: Value = serde_json::from_slice(&text).expect("JSON");
            let target = TargetArch::try_from(architecture).expect("an architecture of seccompiler's");
            for (name, program) in compile_from_json(text.as_slice(), target).expect("a profile") {
                let bytes = program.iter().flat_map(|it| {
                    let ([a, b], [c, d, e, f]) = (it.code.to_ne_bytes(), it.k.to_ne_bytes());
                    [a, b, it.jt, it.jf, c, d, e, f]
                });
                let program = Program::new(&bytes.collect::<Vec<_>>());
                filters.push(Filter { program, json: json[&name].clone(), audit });
            }
        }
        assert!(!filters.is_empty(), "no profile for {architecture}");
        filters
    })
}

/// Panics if a program answers a call in another way than its JSON says.
pub fn judge(random: &mut Random, calls: usize) {
    for filter in filters() {
        let rules = filter.json["filter"].as_array().expect("a list of rules");
        for _ in 0..calls {
            let rule = random.pick(rules).expect("a rule");
            let number = number(rule).expect("a call that libseccomp knows");
            let number = if random.once_in(4) { random.number() as u32 >> random.below(32) } else { number };
            let mut call = Call { number, architecture: filter.audit, arguments: [0; 6] };
            call.arguments = call.arguments.map(|_| random.number() >> random.below(64));
            for condition in conditions(rule) {
                let index = condition["index"].as_u64().expect("an index") as usize;
                let value = condition["val"].as_u64().expect("a value");
                call.arguments[index] = match random.below(6) {
                    0 => value ^ 1 << random.below(64),
                    1 => value.wrapping_add(1),
                    2 => value | random.number() << 32,
                    3 => random.number(),
                    _ => value,
                };
            }
            let matches = rules.iter().any(|rule| {
                self::number(rule) == Some(number)
                    && conditions(rule).all(|condition| holds(condition, &call))
            });
            let wanted = &filter.json[if matches { "match_action" } else { "mismatch_action" }];
            assert_eq!(filter.program.run(&call), answer(wanted), "{call:x?}");
            let foreign = Call { architecture: !filter.audit, ..call };
            assert_eq!(filter.program.run(&foreign), 0x8000_0000, "another architecture ends the process");
        }
    }
}

fn conditions(rule: &Value) -> impl Iterator<Item = &Value> {
    rule["args"].as_array().into_iter().flatten()
}

fn number(rule: &Value) -> Option<u32> {
    let call = ScmpSyscall::from_name(rule["syscall"].as_str()?).ok()?;
    u32::try_from(call.as_raw_syscall()).ok()
}

fn holds(condition: &Value, call: &Call) -> bool {
    let argument = call.arguments[condition["index"].as_u64().expect("an index") as usize];
    let value = condition["val"].as_u64().expect("a value");
    let cut = |it: u64| if condition["type"] == "dword" { it & 0xffff_ffff } else { it };
    let (argument, value) = (cut(argument), cut(value));
    match &condition["op"] {
        Value::String(op) => match op.as_str() {
            "eq" => argument == value,
            "ne" => argument != value,
            "lt" => argument < value,
            "le" => argument <= value,
            "gt" => argument > value,
            "ge" => argument >= value,
            op => panic!("operator {op}"),
        },
        op => {
            let mask = op["masked_eq"].as_u64().expect("a mask");
            argument & mask == value & mask
        }
    }
}

fn answer(action: &Value) -> u32 {
    match action {
        Value::String(action) => match action.as_str() {
            "allow" => 0x7fff_0000,
            "log" => 0x7ffc_0000,
            "trap" => 0x0003_0000,
            "kill_thread" => 0,
            "kill_process" => 0x8000_0000,
            action => panic!("action {action}"),
        },
        action => 0x0005_0000 | action["errno"].as_u64().expect("an error number") as u32,
    }
}
