//! What CRIU's log says about a failure.

use std::fs;
use std::path::Path;

/// As many complaints as fit into one line.
const MOST: usize = 3;

/// The complaints of a log: its lines of level `Error`, without time and place in the source. `None` when there are none.
pub fn reason(path: &Path) -> Option<String> {
    let text = fs::read(path).ok()?;
    let reasons = complaints(&String::from_utf8_lossy(&text));
    (!reasons.is_empty()).then(|| reasons.join("; "))
}

/// The complaints in a text.
pub(super) fn complaints(text: &str) -> Vec<String> {
    let all: Vec<&str> = text
        .lines()
        .filter_map(|line| {
            let (_, rest) = line.split_once("Error (")?;
            Some(rest.split_once("): ").map_or(rest, |(_, message)| message).trim())
        })
        .collect();
    // How it ends is known; it is all there is to say only if nothing came before.
    let mut causes: Vec<String> = Vec::new();
    for message in all.iter().filter(|message| !message.ends_with("FAILED.")) {
        if !causes.iter().any(|known| known == message) {
            causes.push((*message).to_owned());
        }
    }
    if causes.is_empty() {
        return all.iter().take(1).map(ToString::to_string).collect();
    }
    // What came first may have been overcome.
    causes.split_off(causes.len().saturating_sub(MOST))
}

#[cfg(test)]
mod tests {
    use super::complaints;

    #[test]
    fn a_log_is_reduced_to_its_causes() {
        let log = "(00.000001) Version: 4.2\n\
                   (00.010000) Error (criu/files-reg.c:1710): Can't lookup mount=5 for fd=0 path=/dev/null\n\
                   (00.010001)     12: Error (criu/cr-dump.c:1): Can't lookup mount=5 for fd=0 path=/dev/null\n\
                   (00.010002) Warn  (criu/x.c:1): no matter\n\
                   (00.010003) Error (criu/cr-dump.c:2093): Dumping FAILED.\n";
        assert_eq!(complaints(log), ["Can't lookup mount=5 for fd=0 path=/dev/null"]);
        assert_eq!(complaints("(00.1) Error (criu/cr-dump.c:2093): Dumping FAILED.\n"), ["Dumping FAILED."]);
        assert!(complaints("(00.1) fine\n").is_empty());
    }
}
