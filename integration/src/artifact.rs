//! Artifacts as an attacker would make them, who knows how the runtime tells a sound one and lacks nothing but the right
//! to write to its cache.

use anyhow::{Context, Result};

/// Length of the footer, and where in it the key is: after the magic number.
const FOOTER: usize = 16 + 3 * 32 + 8 + 32;
const KEY: usize = 16;

/// This artifact under another one's name: sound, as far as its bytes can tell.
///
/// # Errors
/// The bytes are those of no artifact, or the name is no key.
pub fn forge(artifact: &[u8], name: &str) -> Result<Vec<u8>> {
    let start = artifact.len().checked_sub(FOOTER).context("shorter than a footer")?;
    let mut forged = artifact.to_vec();
    forged[start + KEY..start + KEY + 32].copy_from_slice(blake3::Hash::from_hex(name)?.as_bytes());
    let covered = forged.len() - 32;
    let digest = blake3::hash(&forged[..covered]);
    forged[covered..].copy_from_slice(digest.as_bytes());
    Ok(forged)
}
