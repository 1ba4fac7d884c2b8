//! A store of state: values with an etag, which changes whenever the value is written.

use std::collections::BTreeMap;
use std::sync::Mutex;

use serde::Deserialize;
use serde_json::{json, Value};

use crate::http::Answer;

#[derive(Default)]
pub struct State(Mutex<Items>);

#[derive(Default, Clone)]
struct Items {
    items: BTreeMap<String, (u64, Value)>,
    writes: u64,
}

/// A value to be saved, or a key to be deleted.
#[derive(Deserialize)]
struct Change {
    key: String,
    #[serde(default)]
    value: Value,
    etag: Option<String>,
    #[serde(default)]
    options: Options,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Options {
    concurrency: String,
}

#[derive(Deserialize)]
struct Bulk {
    keys: Vec<String>,
}

#[derive(Deserialize)]
struct Transaction {
    operations: Vec<Operation>,
}

#[derive(Deserialize)]
#[serde(tag = "operation", content = "request", rename_all = "lowercase")]
enum Operation {
    Upsert(Change),
    Delete(Change),
}

impl State {
    /// What comes below a store's name.
    pub fn answer(&self, method: &str, rest: &[&str], body: &[u8], if_match: Option<String>) -> Answer {
        self.try_answer(method, rest, body, if_match)
            .unwrap_or_else(|error| Answer::error(400, "ERR_MALFORMED_REQUEST", &error.to_string()))
    }

    fn try_answer(
        &self,
        method: &str,
        rest: &[&str],
        body: &[u8],
        if_match: Option<String>,
    ) -> Result<Answer, serde_json::Error> {
        let mut state = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let operations = match (method, rest) {
            ("GET", [key]) => {
                return Ok(match state.items.get(*key) {
                    Some((etag, value)) => Answer(200, value.to_string().into(), Some(etag.to_string())),
                    None => Answer::empty(204),
                })
            }
            ("POST" | "PUT", ["bulk"]) => {
                let Bulk { keys } = serde_json::from_slice(body)?;
                let found = keys.iter().map(|key| match state.items.get(key) {
                    Some((etag, value)) => json!({ "key": key, "data": value, "etag": etag.to_string() }),
                    None => json!({ "key": key }),
                });
                return Ok(Answer::json(&found.collect()));
            }
            ("POST" | "PUT", []) => {
                let changes: Vec<Change> = serde_json::from_slice(body)?;
                changes.into_iter().map(Operation::Upsert).collect()
            }
            ("DELETE", [key]) => {
                let concurrency = if if_match.is_some() { "first-write" } else { "last-write" }.to_owned();
                let options = Options { concurrency };
                vec![Operation::Delete(Change { key: key.to_string(), value: Value::Null, etag: if_match, options })]
            }
            ("POST" | "PUT", ["transaction"]) => {
                let Transaction { operations } = serde_json::from_slice(body)?;
                operations
            }
            _ => return Ok(Answer::empty(404)),
        };
        // All or nothing.
        let mut next = state.clone();
        if !operations.into_iter().all(|operation| next.apply(operation)) {
            return Ok(Answer::error(409, "ERR_STATE_SAVE", "possible etag mismatch. error from state store"));
        }
        *state = next;
        Ok(Answer::empty(204))
    }
}

impl Items {
    /// False when an etag says that somebody else has been quicker.
    fn apply(&mut self, operation: Operation) -> bool {
        let (Operation::Upsert(change) | Operation::Delete(change)) = &operation;
        let etag = self.items.get(&change.key).map(|(etag, _)| etag.to_string());
        if change.options.concurrency == "first-write" && change.etag != etag {
            return false;
        }
        match operation {
            Operation::Upsert(change) => {
                self.writes += 1;
                self.items.insert(change.key, (self.writes, change.value));
            }
            Operation::Delete(change) => drop(self.items.remove(&change.key)),
        }
        true
    }
}
