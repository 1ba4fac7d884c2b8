//! Bodies that both sides know, and their checksum.

use std::io;

/// One period of what bodies consist of; text, for there are libraries that send nothing else.
pub const PERIOD: &[u8] = b"abcdefghijklmnopqrstuvw";

/// So many bytes.
pub fn whole(len: usize) -> Vec<u8> {
    PERIOD.iter().copied().cycle().take(len).collect()
}

/// Length and checksum (FNV-1a) of what was written to it.
pub struct Sum {
    /// In bytes.
    pub len: u64,
    /// The checksum.
    pub hash: u64,
}

impl Default for Sum {
    fn default() -> Self {
        Self { len: 0, hash: 0xcbf2_9ce4_8422_2325 }
    }
}

impl io::Write for Sum {
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
