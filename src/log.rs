//! `--log`, `--log-format`, `--log-level` and `--debug`.
//!
//! Podman reads the log file of a failed command as exactly one JSON object, so at the default level nothing
//! is ever written to it but the error that ends the program: [`fatal`] is called once, and only a higher level
//! turns `tracing`'s events into more lines.

use std::ffi::OsStr;
use std::fmt::{self, Write as _};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixDatagram;
use std::sync::OnceLock;

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter, format};
use tracing_subscriber::registry::LookupSpan;

use crate::error::Os;

/// Where messages go and how they are written.
struct Log {
    destination: Destination,
    json: bool,
    /// Whether there is more in it than the error that ends the program.
    warnings: bool,
}

/// What `--log` names.
enum Destination {
    Stderr,
    File(File),
    /// A daemon, and the name that messages go by.
    Daemon(Daemon, UnixDatagram, String),
}

#[derive(Clone, Copy)]
enum Daemon {
    /// By the native protocol: systemd.io/JOURNAL_NATIVE_PROTOCOL.
    Journal,
    /// As the C library's syslog(3) does it.
    Syslog,
}

impl Destination {
    fn open(name: Option<&OsStr>) -> Result<Self, Error> {
        let Some(name) = name else { return Ok(Self::Stderr) };
        let text = name.to_string_lossy();
        let error = |reason: io::Error| Error { path: text.clone().into_owned(), reason: reason.into() };
        let daemon = |daemon, socket: &str, ident: &str| {
            let connected = UnixDatagram::unbound().and_then(|s| s.connect(socket).map(|()| s));
            Ok(Self::Daemon(daemon, connected.map_err(error)?, ident.to_owned()))
        };
        if let Some(ident) = text.strip_prefix("journald:") {
            return daemon(Daemon::Journal, "/run/systemd/journal/socket", ident);
        }
        if let Some(ident) = text.strip_prefix("syslog:") {
            return daemon(Daemon::Syslog, "/dev/log", ident);
        }
        let path = name.as_bytes().strip_prefix(b"file:").map_or(name, OsStr::from_bytes);
        let file = OpenOptions::new().create(true).append(true).mode(0o644).open(path);
        file.map(Self::File).map_err(error)
    }
}

impl Daemon {
    /// One message, as the daemon takes it. The priority is that of syslog(3).
    fn message(self, ident: &str, priority: u8, line: &str) -> Vec<u8> {
        match self {
            // Facility LOG_USER.
            Self::Syslog => format!("<{}>{ident}[{}]: {line}", 8 + priority, std::process::id()).into_bytes(),
            Self::Journal => {
                let mut message =
                    format!("PRIORITY={priority}\nSYSLOG_IDENTIFIER={ident}\nMESSAGE\n").into_bytes();
                message.extend((line.len() as u64).to_le_bytes());
                message.extend(line.as_bytes());
                message.push(b'\n');
                message
            }
        }
    }
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

/// Opens the log. Call it once, before anything else can fail. Below level "error" nothing but [`fatal`] writes.
///
/// # Errors
/// The log file cannot be opened; messages go to standard error then.
pub fn init(destination: Option<&OsStr>, json: bool, level: &str) -> Result<(), Error> {
    let destination = Destination::open(destination)?;
    // The engines read one JSON object and no second one; people are told.
    let log = Log { destination, json, warnings: !json || level != "error" };
    let more = match level {
        "debug" => Some(Level::DEBUG),
        "warning" => Some(Level::WARN),
        _ => None,
    };
    if LOG.set(log).is_ok()
        && let Some(level) = more
    {
        tracing_subscriber::fmt()
            .with_max_level(level)
            .with_writer(Writers)
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
    let _ = Writer { priority: 3 }.write_all(line.as_bytes());
    if log.is_some_and(|l| !matches!(l.destination, Destination::Stderr)) {
        let _ = writeln!(io::stderr(), "{message}");
    }
}

/// Reports what does not keep a command from succeeding, and is somebody's concern all the same. In an engine's log, of
/// JSON, only a higher level has it.
pub fn warn(warning: &impl fmt::Display) {
    let log = LOG.get();
    if log.is_some_and(|l| !l.warnings) {
        return;
    }
    let line = line(log.is_some_and(|l| l.json), "warning", &warning.to_string());
    let _ = Writer { priority: 4 }.write_all(line.as_bytes());
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
struct Writer {
    /// That of syslog(3), for daemons that filter by it.
    priority: u8,
}

/// A [`Writer`] for each of `tracing`'s events.
struct Writers;

impl<'a> MakeWriter<'a> for Writers {
    type Writer = Writer;

    fn make_writer(&'a self) -> Writer {
        Writer { priority: 7 }
    }

    fn make_writer_for(&'a self, event: &Metadata<'_>) -> Writer {
        let priority = match *event.level() {
            Level::ERROR => 3,
            Level::WARN => 4,
            Level::INFO => 6,
            _ => 7,
        };
        Writer { priority }
    }
}

impl Write for Writer {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        match LOG.get().map(|log| &log.destination) {
            Some(Destination::File(file)) => (&*file).write(buffer),
            Some(Destination::Daemon(daemon, socket, ident)) => {
                let line = String::from_utf8_lossy(buffer);
                socket.send(&daemon.message(ident, self.priority, line.trim_end())).map(|_| buffer.len())
            }
            Some(Destination::Stderr) | None => io::stderr().write(buffer),
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
        let level = match *event.metadata().level() {
            // logrus's word.
            Level::WARN => "warning".to_owned(),
            level => level.as_str().to_ascii_lowercase(),
        };
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
    fn daemons_get_priority_and_name() {
        let message = |daemon: Daemon| String::from_utf8_lossy(&daemon.message("me", 3, "a\nb")).into_owned();
        let expected = format!("<11>me[{}]: a\nb", std::process::id());
        assert_eq!(message(Daemon::Syslog), expected);
        let journal = message(Daemon::Journal);
        assert_eq!(journal, "PRIORITY=3\nSYSLOG_IDENTIFIER=me\nMESSAGE\n\u{3}\0\0\0\0\0\0\0a\nb\n");
    }

    #[test]
    fn a_text_line_is_quoted() {
        let line = line(false, "error", "exec: \"x\"");
        assert!(line.starts_with("time=\"2"), "{line}");
        assert!(line.ends_with("level=error msg=\"exec: \\\"x\\\"\"\n"), "{line}");
    }
}
