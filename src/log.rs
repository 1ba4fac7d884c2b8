//! `--log`, `--log-format` and `--debug`.
//!
//! Podman reads the log file of a failed command as exactly one JSON object, so at the default level nothing
//! is ever written to it but the error that ends the program: [`fatal`] is called once, and only `--debug`
//! turns `tracing`'s events into more lines.

use std::fmt::{self, Write as _};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::OnceLock;

use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, format};
use tracing_subscriber::registry::LookupSpan;

use crate::error::Os;

/// Where messages go and how they are written.
struct Log {
    /// Standard error, when there is none.
    file: Option<File>,
    json: bool,
}

static LOG: OnceLock<Log> = OnceLock::new();

/// The log file cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("open log file {path}: {reason}")]
pub struct Error {
    /// `--log`.
    path: String,
    reason: Os,
}

/// Opens the log. Call it once, before anything else can fail.
///
/// # Errors
/// The log file cannot be opened; messages go to standard error then.
pub fn init(path: Option<&Path>, json: bool, debug: bool) -> Result<(), Error> {
    let open = |path: &Path| {
        let file = OpenOptions::new().create(true).append(true).mode(0o644).open(path);
        file.map_err(|e| Error { path: path.display().to_string(), reason: e.into() })
    };
    let log = Log { file: path.map(open).transpose()?, json };
    if LOG.set(log).is_ok() && debug {
        tracing_subscriber::fmt()
            .with_max_level(tracing::Level::DEBUG)
            .with_writer(|| Writer)
            .event_format(Lines { json })
            .init();
    }
    Ok(())
}

/// Reports the error that ends the program: a line in the log, and the bare message on standard error when
/// the log is a file, for some engines read the one and some the other.
pub fn fatal(error: &crate::Error) {
    let message = error.to_string();
    let log = LOG.get();
    let line = line(log.is_some_and(|l| l.json), "error", &message);
    // Nothing can be done about a log that cannot be written: the exit code still tells.
    let _ = Writer.write_all(line.as_bytes());
    if log.is_some_and(|l| l.file.is_some()) {
        let _ = writeln!(io::stderr(), "{message}");
    }
}

/// One message as logrus writes it, which engines parse: the time must be RFC 3339.
fn line(json: bool, level: &str, message: &str) -> String {
    let mut time = String::new();
    // Writing to a string does not fail.
    let _ = SystemTime.format_time(&mut format::Writer::new(&mut time));
    if json {
        format!("{}\n", serde_json::json!({ "level": level, "msg": message, "time": time }))
    } else {
        format!("time=\"{time}\" level={level} msg={message:?}\n")
    }
}

/// The log as a stream. One call of `write` is one write(2), so that lines of several processes do not mix.
struct Writer;

impl Write for Writer {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        match LOG.get().and_then(|log| log.file.as_ref()) {
            Some(mut file) => file.write(buffer),
            None => io::stderr().write(buffer),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// `tracing`'s events in the same form as [`fatal`]'s.
struct Lines {
    json: bool,
}

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: format::Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut text = Text(String::new());
        event.record(&mut text);
        let level = event.metadata().level().as_str().to_ascii_lowercase();
        writer.write_str(&line(self.json, &level, &text.0))
    }
}

/// An event's message followed by its fields.
struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let space = if self.0.is_empty() { "" } else { " " };
        let _ = match field.name() {
            "message" => write!(self.0, "{space}{value:?}"),
            name => write!(self.0, "{space}{name}={value:?}"),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_json_line_is_one_object_with_the_keys_engines_read() {
        let line = line(true, "error", "exec \"x\": no\nsuch");
        assert_eq!(line.matches('\n').count(), 1);
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["level"], "error");
        assert_eq!(value["msg"], "exec \"x\": no\nsuch");
        let time = value["time"].as_str().unwrap();
        assert!(time.len() >= 20 && time.ends_with('Z') && &time[10..11] == "T", "{time}");
    }

    #[test]
    fn a_text_line_is_quoted() {
        let line = line(false, "error", "exec: \"x\"");
        assert!(line.starts_with("time=\"2"), "{line}");
        assert!(line.ends_with("level=error msg=\"exec: \\\"x\\\"\"\n"), "{line}");
    }
}
