//! `linux.personality`: personality(2).

use oci_spec::runtime::{LinuxPersonality, LinuxPersonalityDomain};

use super::Error;
use crate::config::{self, wrong};
use crate::error::Os;

/// PER_LINUX32; the libc crate does not have it for gnu.
const LINUX32: libc::c_ulong = 8;

/// The flags of personality(2). The specification has none so far.
const FLAGS: &[(&str, libc::c_ulong)] = &[
    ("UNAME26", 0x002_0000),
    ("ADDR_NO_RANDOMIZE", 0x004_0000),
    ("FDPIC_FUNCPTRS", 0x008_0000),
    ("MMAP_PAGE_ZERO", 0x010_0000),
    ("ADDR_COMPAT_LAYOUT", 0x020_0000),
    ("READ_IMPLIES_EXEC", 0x040_0000),
    ("ADDR_LIMIT_32BIT", 0x080_0000),
    ("SHORT_INODE", 0x100_0000),
    ("WHOLE_SECONDS", 0x200_0000),
    ("STICKY_TIMEOUTS", 0x400_0000),
    ("ADDR_LIMIT_3GB", 0x800_0000),
];

/// Checks the names of flags.
///
/// # Errors
/// [`config::Error::Wrong`].
pub fn check(personality: &LinuxPersonality) -> Result<(), config::Error> {
    bits(personality).map(drop)
}

fn bits(personality: &LinuxPersonality) -> Result<libc::c_ulong, config::Error> {
    let domain = match personality.domain() {
        LinuxPersonalityDomain::PerLinux => 0,
        LinuxPersonalityDomain::PerLinux32 => LINUX32,
    };
    personality.flags().iter().flatten().try_fold(domain, |bits, flag| {
        let known = FLAGS.iter().find(|(name, _)| name == flag);
        let problem = "is not a flag of personality(2)";
        known.map(|(_, bit)| bits | bit).ok_or_else(|| wrong("linux.personality.flags", flag, problem))
    })
}

/// Takes the personality on; the program inherits it.
///
/// # Errors
/// [`Error::Step`].
pub fn assume(personality: &LinuxPersonality) -> Result<(), Error> {
    // SAFETY: a plain integer.
    if unsafe { libc::personality(bits(personality)?) } < 0 {
        return Err(Error::step("linux.personality: personality", Os::last().0));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_have_the_kernels_values() {
        let parse = |text| serde_json::from_str::<LinuxPersonality>(text).expect("a personality");
        let both = parse(r#"{"domain": "LINUX32", "flags": ["ADDR_NO_RANDOMIZE", "UNAME26"]}"#);
        assert_eq!(bits(&both).ok(), Some(0x6_0008));
        let error = check(&parse(r#"{"domain": "LINUX", "flags": ["X"]}"#)).expect_err("no flag").to_string();
        assert!(error.contains("linux.personality.flags: X"), "{error}");
    }
}
