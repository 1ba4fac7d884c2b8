//! A mutator for inputs that are JSON: most changes leave it JSON, so that the code behind the parser is reached.
//!
//! What may stand where is learnt from the seeds of the target: the keys of each object and the values of each key. So
//! a seed need only mention a field for the fuzzer to use it everywhere.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::OnceLock;
use std::{fs, iter};

use serde_json::{Map, Number, Value, json};

use crate::random::Random;

/// Changes an input in place, as `LLVMFuzzerCustomMutator` does; `target` names the directory of its seeds. `None` leaves it
/// to libFuzzer's own mutator: for what is no JSON, and sometimes for what is.
pub fn mutate(data: &mut [u8], size: usize, max_size: usize, seed: u32, target: &str) -> Option<usize> {
    let mut random = Random::new(seed.into());
    if random.once_in(12) {
        return None;
    }
    let mut value = serde_json::from_slice::<Value>(&data[..size]).ok()?;
    let words = Words::of(target);
    for _ in 0..=random.below(3) {
        words.change(&mut value, &mut random);
    }
    let bytes = serde_json::to_vec(&value).ok().filter(|bytes| bytes.len() <= max_size)?;
    data[..bytes.len()].copy_from_slice(&bytes);
    Some(bytes.len())
}

/// Strings on which code that takes paths, names, lists and numbers stumbles.
const STRINGS: &[&str] = &[
    "",
    ".",
    "..",
    "/",
    "//",
    "/..",
    "../..",
    "a/../../b",
    "/proc/self/fd/3",
    "/sys/fs/cgroup",
    "\0",
    "a\0b",
    "\n",
    "é",
    "\u{fffd}",
    "=",
    "=a",
    "A=",
    ":",
    "::",
    "a:b:c",
    "-.slice",
    "a-b.slice",
    "0",
    "-1",
    "0-3",
    "0-",
    "3-1",
    "1,,2",
    "4294967296",
    "1e999",
    "[[[[[[[[",
    "<<<<<<<<",
    "((((((((",
    "@as []",
    "uint64 5",
    "%s%n",
];
const NUMBERS: &[i64] = &[
    0,
    1,
    -1,
    2,
    7,
    8,
    19,
    20,
    -20,
    -21,
    22,
    127,
    128,
    255,
    256,
    511,
    512,
    1000,
    1001,
    -1000,
    -1001,
    4095,
    4096,
    32767,
    32768,
    65535,
    65536,
    999_999_999,
    1_000_000_000,
    i32::MAX as i64,
    i32::MIN as i64,
    u32::MAX as i64,
    1 << 32,
    i64::MAX,
    i64::MIN,
];

/// What occurs in the seeds.
struct Words {
    /// By the key under which an object was found: its own keys.
    keys: BTreeMap<String, Vec<String>>,
    /// By key: the values it had.
    values: BTreeMap<String, Vec<Value>>,
    strings: Vec<String>,
}

impl Words {
    fn of(target: &str) -> &'static Self {
        static WORDS: OnceLock<Words> = OnceLock::new();
        WORDS.get_or_init(|| {
            let mut words = Self { keys: BTreeMap::new(), values: BTreeMap::new(), strings: Vec::new() };
            let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds").join(target);
            for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
                let seed = fs::read(entry.path()).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
                words.learn("", &seed.unwrap_or(Value::Null));
            }
            words
        })
    }

    fn learn(&mut self, key: &str, value: &Value) {
        let values = self.values.entry(key.to_owned()).or_default();
        if !values.contains(value) {
            values.push(value.clone());
        }
        match value {
            Value::Object(map) => {
                for (name, value) in map {
                    let keys = self.keys.entry(key.to_owned()).or_default();
                    if !keys.contains(name) {
                        keys.push(name.clone());
                    }
                    self.learn(name, value);
                }
            }
            // An element goes by the name of its list.
            Value::Array(list) => list.iter().for_each(|value| self.learn(key, value)),
            Value::String(text) if !self.strings.contains(text) => self.strings.push(text.clone()),
            _ => {}
        }
    }

    fn change(&self, root: &mut Value, random: &mut Random) {
        let other = at(root, random).1.clone();
        let (key, node) = at(root, random);
        match random.below(10) {
            // Something that was seen here in a seed.
            0 | 1 => *node = random.pick(self.values(&key)).cloned().unwrap_or(Value::Null),
            // Something of this input.
            2 => *node = other,
            3 => *node = self.scalar(random),
            _ => match node {
                Value::Object(map) => self.change_object(map, &key, random),
                Value::Array(list) => {
                    let at = random.below(list.len() + 1);
                    match random.below(4) {
                        0 if at < list.len() => drop(list.remove(at)),
                        1 if at < list.len() => list.insert(at, list[at].clone()),
                        2 => list.insert(at, other),
                        _ => list.insert(at, self.element(&key, random)),
                    }
                }
                Value::String(text) => *text = self.text(text, random),
                Value::Number(number) => *number = self::number(number, random),
                Value::Bool(value) => *value = !*value,
                Value::Null => *node = random.pick(self.values(&key)).cloned().unwrap_or(Value::Null),
            },
        }
    }

    fn change_object(&self, map: &mut Map<String, Value>, key: &str, random: &mut Random) {
        let names: Vec<String> = map.keys().cloned().collect();
        if random.once_in(3) {
            random.pick(&names).map(|name| map.remove(name));
            return;
        }
        let known = self.keys.get(key).map_or(&[][..], Vec::as_slice);
        // Maps of free names, such as annotations and sysctls, get new ones.
        let name = match random.pick(known) {
            Some(name) if !random.once_in(8) => name.clone(),
            _ => self.text(random.pick(&names).map_or("", String::as_str), random),
        };
        let value = random.pick(self.values(&name)).cloned().unwrap_or_else(|| self.scalar(random));
        map.insert(name, value);
    }

    fn values(&self, key: &str) -> &[Value] {
        self.values.get(key).map_or(&[], Vec::as_slice)
    }

    /// What the seeds have in lists of this name.
    fn element(&self, key: &str, random: &mut Random) -> Value {
        let seen: Vec<&Value> = self.values(key).iter().filter(|value| !value.is_array()).collect();
        random.pick(&seen).map_or_else(|| self.scalar(random), |value| (*value).clone())
    }

    fn scalar(&self, random: &mut Random) -> Value {
        match random.below(6) {
            0 => Value::Null,
            1 => json!(random.once_in(2)),
            2 => json!([]),
            3 => Value::Number(number(&0.into(), random)),
            _ => Value::String(self.text("", random)),
        }
    }

    fn text(&self, text: &str, random: &mut Random) -> String {
        let word = random.pick(STRINGS).copied().unwrap_or_default();
        let seen = random.pick(&self.strings).map_or("", String::as_str);
        let mut cut = random.below(text.len() + 1);
        while !text.is_char_boundary(cut) {
            cut -= 1;
        }
        match random.below(8) {
            0 => word.to_owned(),
            1 => seen.to_owned(),
            2 => format!("{}{word}{}", &text[..cut], &text[cut..]),
            3 => format!("{}{seen}", &text[..cut]),
            4 => text[cut..].to_owned(),
            5 => iter::repeat_n(text, 1 + random.below(9)).collect(),
            6 => iter::repeat_n(word, 1 << random.below(9)).collect(),
            _ => text.chars().map(|c| if random.once_in(8) { other(c, random) } else { c }).collect(),
        }
    }
}

/// Some other character, often one like it.
fn other(c: char, random: &mut Random) -> char {
    let code = match random.below(3) {
        0 => u32::from(c).wrapping_add(1),
        1 => u32::from(c) ^ 1 << random.below(8),
        _ => random.number() as u32 >> random.below(32),
    };
    char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER)
}

fn number(number: &Number, random: &mut Random) -> Number {
    let near =
        |difference: i64| number.as_i64().map_or(difference.into(), |n| n.wrapping_add(difference).into());
    match random.below(6) {
        0 => near(1),
        1 => near(-1),
        2 => number.as_u64().map_or_else(|| u64::MAX.into(), |n| n.wrapping_shl(1).into()),
        3 => Number::from_f64(0.5).unwrap_or_else(|| number.clone()),
        4 => random.number().into(),
        _ => random.pick(NUMBERS).copied().unwrap_or_default().into(),
    }
}

/// Some node, and the key under which it was found.
fn at<'v>(root: &'v mut Value, random: &mut Random) -> (String, &'v mut Value) {
    let (mut key, mut node) = (String::new(), root);
    loop {
        let size = match &*node {
            Value::Object(map) => map.len(),
            Value::Array(list) => list.len(),
            _ => 0,
        };
        // Leaves are most of it, and most of what there is to change.
        if size == 0 || random.once_in(6) {
            return (key, node);
        }
        let index = random.below(size);
        node = match node {
            Value::Object(map) => match map.iter_mut().nth(index) {
                Some((name, value)) => {
                    key.clone_from(name);
                    value
                }
                None => unreachable!("an index below the size"),
            },
            Value::Array(list) => &mut list[index],
            _ => unreachable!("a leaf has no size"),
        };
    }
}
