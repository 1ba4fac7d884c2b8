//! The machines an image can be for, and what each calls things.

use std::fmt;
use std::path::Path;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use serde::Serialize;

/// A processor architecture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
pub enum Arch {
    /// 64-bit x86.
    #[value(name = "x86_64", alias = "amd64")]
    #[serde(rename = "x86_64")]
    X86_64,
    /// 64-bit Arm.
    #[value(name = "aarch64", alias = "arm64")]
    #[serde(rename = "aarch64")]
    Aarch64,
}

/// `e_machine` of an ELF file (elf(5)) is at this offset.
const E_MACHINE: usize = 18;

impl Arch {
    /// The one this program was compiled for.
    ///
    /// # Errors
    /// No image can be made for it.
    pub fn host() -> Result<Self> {
        match std::env::consts::ARCH {
            "x86_64" => Ok(Self::X86_64),
            "aarch64" => Ok(Self::Aarch64),
            other => {
                bail!("{other}: podman machine has no images of this architecture: name one with --arch")
            }
        }
    }

    /// The one a program is for.
    ///
    /// # Errors
    /// It is no ELF file of an architecture known here.
    pub fn of_elf(bytes: &[u8]) -> Result<Self> {
        match bytes {
            [0x7f, b'E', b'L', b'F', 2, 1, ..] => match bytes.get(E_MACHINE..E_MACHINE + 2) {
                Some([62, 0]) => Ok(Self::X86_64),
                Some([183, 0]) => Ok(Self::Aarch64),
                _ => bail!("a program for neither x86_64 nor aarch64"),
            },
            _ => bail!("not a 64-bit ELF program"),
        }
    }

    /// The one a program in a file is for.
    ///
    /// # Errors
    /// It cannot be read, or see [`Arch::of_elf`].
    pub fn of_program(path: &Path) -> Result<Self> {
        use std::io::Read;
        let mut head = Vec::new();
        std::fs::File::open(path)
            .and_then(|file| file.take(64).read_to_end(&mut head))
            .with_context(|| path.display().to_string())?;
        Self::of_elf(&head).with_context(|| path.display().to_string())
    }

    /// Debian's name.
    pub fn debian(self) -> &'static str {
        match self {
            Self::X86_64 => "amd64",
            Self::Aarch64 => "arm64",
        }
    }
}

/// As podman machine and the kernel say it.
impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "aarch64",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Arch;

    #[test]
    fn programs_tell_what_they_are_for() {
        let elf = |machine: u8| {
            let mut head = vec![0; 64];
            head[..6].copy_from_slice(b"\x7fELF\x02\x01");
            head[18] = machine;
            head
        };
        assert_eq!(Arch::of_elf(&elf(62)).unwrap(), Arch::X86_64);
        assert_eq!(Arch::of_elf(&elf(183)).unwrap(), Arch::Aarch64);
        assert!(Arch::of_elf(&elf(8)).is_err());
        assert!(Arch::of_elf(b"\x7fELF").is_err());
        assert!(Arch::of_elf(b"#!/bin/sh").is_err());
    }
}
