//! `kill`: a signal to a container.

use crate::Error;
use crate::cli::Global;
use crate::container::{self, Container};

/// Arguments of `kill`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Send it to every process of the container
    #[arg(short, long)]
    all: bool,
    /// Take the id for a regular expression, and signal every container it matches
    #[arg(short, long)]
    regex: bool,
    /// Id of the container
    id: String,
    /// Name or number
    #[arg(default_value = "SIGTERM", allow_hyphen_values = true)]
    signal: String,
}

/// Sends the signal.
///
/// # Errors
/// A signal that does not exist, a container that does not run.
pub fn run(args: &Args, global: &Global) -> Result<u8, Error> {
    let signal = parse_signal(&args.signal)
        .ok_or_else(|| Error::new(format_args!("unknown signal {:?}", args.signal)))?;
    let kill = |id: &str| Ok(Container::load(&global.root, id)?.kill(signal, args.all)?);
    if args.regex {
        return super::each(container::matching(&global.root, &args.id)?, kill);
    }
    kill(&args.id)?;
    Ok(0)
}

/// A signal of signal(7): a number, or a name with or without `SIG`; `RTMIN+n` and `RTMAX-n` too.
fn parse_signal(text: &str) -> Option<i32> {
    if let Ok(number) = text.parse::<i32>() {
        return (0..=64).contains(&number).then_some(number);
    }
    let name = text.to_ascii_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    let offset = |rest: &str, sign: char| rest.strip_prefix(sign).and_then(|n| n.parse::<i32>().ok());
    if let Some(rest) = name.strip_prefix("RTMIN") {
        let n = if rest.is_empty() { 0 } else { offset(rest, '+')? };
        return (0..=30).contains(&n).then_some(34 + n);
    }
    if let Some(rest) = name.strip_prefix("RTMAX") {
        let n = if rest.is_empty() { 0 } else { offset(rest, '-')? };
        return (0..=30).contains(&n).then_some(64 - n);
    }
    NAMES.iter().find(|(known, _)| *known == name).map(|(_, number)| *number)
}

const NAMES: [(&str, i32); 34] = [
    ("HUP", libc::SIGHUP),
    ("INT", libc::SIGINT),
    ("QUIT", libc::SIGQUIT),
    ("ILL", libc::SIGILL),
    ("TRAP", libc::SIGTRAP),
    ("ABRT", libc::SIGABRT),
    ("IOT", libc::SIGABRT),
    ("BUS", libc::SIGBUS),
    ("FPE", libc::SIGFPE),
    ("KILL", libc::SIGKILL),
    ("USR1", libc::SIGUSR1),
    ("SEGV", libc::SIGSEGV),
    ("USR2", libc::SIGUSR2),
    ("PIPE", libc::SIGPIPE),
    ("ALRM", libc::SIGALRM),
    ("TERM", libc::SIGTERM),
    ("STKFLT", libc::SIGSTKFLT),
    ("CHLD", libc::SIGCHLD),
    ("CLD", libc::SIGCHLD),
    ("CONT", libc::SIGCONT),
    ("STOP", libc::SIGSTOP),
    ("TSTP", libc::SIGTSTP),
    ("TTIN", libc::SIGTTIN),
    ("TTOU", libc::SIGTTOU),
    ("URG", libc::SIGURG),
    ("XCPU", libc::SIGXCPU),
    ("XFSZ", libc::SIGXFSZ),
    ("VTALRM", libc::SIGVTALRM),
    ("PROF", libc::SIGPROF),
    ("WINCH", libc::SIGWINCH),
    ("IO", libc::SIGIO),
    ("POLL", libc::SIGIO),
    ("PWR", libc::SIGPWR),
    ("SYS", libc::SIGSYS),
];

#[cfg(test)]
mod tests {
    use super::parse_signal;

    #[test]
    fn signals_by_name_and_number() {
        for (text, number) in
            [("15", 15), ("KILL", 9), ("SIGKILL", 9), ("sigterm", 15), ("Usr1", 10), ("0", 0)]
        {
            assert_eq!(parse_signal(text), Some(number), "{text}");
        }
        assert_eq!(parse_signal("RTMIN+3"), Some(37));
        assert_eq!(parse_signal("SIGRTMAX-1"), Some(63));
        for text in ["BADSIG", "", "65", "-1", "SIG", "RTMIN+99", "SIGSIGTERM"] {
            assert_eq!(parse_signal(text), None, "{text}");
        }
    }
}
