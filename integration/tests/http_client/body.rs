//! What bodies consist of: the same as the guest's, which is another program and so shows its own.

use std::fmt;
use std::io::{self, Write};

const PERIOD: &[u8] = b"abcdefghijklmnopqrstuvw";

/// Writes so many bytes.
pub fn write_body(to: &mut impl Write, len: u64) -> io::Result<()> {
    let piece = PERIOD.repeat(5000);
    let mut left = usize::try_from(len).map_err(io::Error::other)?;
    while left > 0 {
        let len = left.min(piece.len());
        to.write_all(&piece[..len])?;
        left -= len;
    }
    Ok(())
}

/// Length and checksum (FNV-1a) of what was written to it; prints as the guest's line does after the status.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Sum {
    len: u64,
    hash: u64,
}

impl Sum {
    /// Of a body of so many bytes.
    pub fn of(len: u64) -> io::Result<Self> {
        let mut sum = Self::default();
        write_body(&mut sum, len)?;
        Ok(sum)
    }

    /// Of a text.
    pub fn of_text(text: &str) -> io::Result<Self> {
        let mut sum = Self::default();
        sum.write_all(text.as_bytes())?;
        Ok(sum)
    }
}

impl Default for Sum {
    fn default() -> Self {
        Self { len: 0, hash: 0xcbf2_9ce4_8422_2325 }
    }
}

impl fmt::Display for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:016x}", self.len, self.hash)
    }
}

impl Write for Sum {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.len += bytes.len() as u64;
        for &byte in bytes {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
