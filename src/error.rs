//! What every module's errors share: the wording of the operating system's reasons, and the one type the
//! command line prints.

use std::fmt;
use std::io;

/// An operating-system error, worded as Go's runtime words it: `no such file or directory`, without a capital
/// and without a number. Engines search runc's messages for exactly these words, some of them
/// case-sensitively, to choose between the exit codes 125, 126 and 127.
#[derive(Debug)]
pub struct Os(pub io::Error);

impl Os {
    /// The error left by the last failed libc call.
    pub fn last() -> Self {
        Self(io::Error::last_os_error())
    }

    /// The `errno` value, when there is one.
    pub fn errno(&self) -> Option<i32> {
        self.0.raw_os_error()
    }
}

impl fmt::Display for Os {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.0.to_string();
        let text = text.split(" (os error").next().unwrap_or(&text);
        let mut chars = text.chars();
        match chars.next() {
            Some(first) => write!(f, "{}{}", first.to_lowercase(), chars.as_str()),
            None => f.write_str("unknown error"),
        }
    }
}

impl std::error::Error for Os {}

impl From<io::Error> for Os {
    fn from(error: io::Error) -> Self {
        Self(error)
    }
}

impl From<rustix::io::Errno> for Os {
    fn from(errno: rustix::io::Errno) -> Self {
        Self(errno.into())
    }
}

/// What a command ends with when it fails: one line for the user, and nothing else. The message holds its own
/// causes; there is no chain to print.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Error(String);

impl Error {
    /// An error with this message.
    pub fn new(message: impl fmt::Display) -> Self {
        Self(message.to_string())
    }
}

/// Every module's own error type ends here, worded by its `Display`.
macro_rules! from_module_errors {
    ($($path:path),* $(,)?) => {
        $(impl From<$path> for Error {
            fn from(error: $path) -> Self {
                Self::new(error)
            }
        })*
    };
}

from_module_errors!(
    crate::container::Error,
    crate::config::Error,
    crate::foreground::Error,
    crate::init::Error,
    crate::log::Error,
    crate::notify::Error,
    crate::program::Error,
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_worded_as_engines_expect() {
        let text = |errno| Os(io::Error::from_raw_os_error(errno)).to_string();
        assert_eq!(text(libc::ENOENT), "no such file or directory");
        assert_eq!(text(libc::EACCES), "permission denied");
        assert_eq!(text(libc::EPERM), "operation not permitted");
        assert_eq!(text(libc::ENOEXEC), "exec format error");
    }
}
