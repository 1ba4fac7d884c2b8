//! How coracle-wasmc speaks to who runs it.
//!
//! It has two descriptors: a module to read and a file to write. While it works, the file holds [`Progress`]; when it
//! has ended with status 0, the artifact; with status 1, one line that says what is wrong.

/// How far a compilation is, in bytes of the module's code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Compiled so far.
    pub done: u64,
    /// To be compiled.
    pub total: u64,
}

/// What such a file begins with; no artifact and no message does.
const MAGIC: [u8; 8] = *b"\0working";

impl Progress {
    /// The length of the record in bytes.
    pub const LENGTH: usize = 24;

    /// The record, for the beginning of the file.
    #[must_use]
    pub fn to_bytes(self) -> [u8; Self::LENGTH] {
        let mut bytes = [0; Self::LENGTH];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..16].copy_from_slice(&self.done.to_le_bytes());
        bytes[16..].copy_from_slice(&self.total.to_le_bytes());
        bytes
    }

    /// What the file's first bytes say, if they are such a record.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; Self::LENGTH]) -> Option<Self> {
        let number = |at: usize| bytes[at..].first_chunk().map(|it| u64::from_le_bytes(*it));
        (bytes[..8] == MAGIC).then_some(())?;
        Some(Self { done: number(8)?, total: number(16)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_told_from_an_artifact() {
        let progress = Progress { done: 3, total: u64::MAX };
        assert_eq!(Progress::from_bytes(&progress.to_bytes()), Some(progress));
        let mut artifact = [0; Progress::LENGTH];
        artifact[..4].copy_from_slice(b"\x7fELF");
        assert_eq!(Progress::from_bytes(&artifact), None);
    }
}
