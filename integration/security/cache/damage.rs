//! Artifacts that are not what was compiled any more: a byte, the length, after they were known to be sound.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use coracle_integration::{Host, Run, c};

use super::{Prey, artifacts, write};

/// What is flipped: everything in the footer, and a sample of the rest.
fn places(length: usize) -> impl Iterator<Item = usize> {
    const FOOTER: usize = 152;
    let before = length - FOOTER;
    (0..before).step_by(before / 150).chain(before..length)
}

fn flipped(sound: &[u8], at: usize) -> Vec<u8> {
    let mut bytes = sound.to_vec();
    bytes[at] ^= 1 << (at % 8);
    bytes
}

/// `wasm verify` judges by the same function as a start; it is asked about each place, and a start about some.
#[test]
fn a_byte_that_is_flipped_anywhere() -> Result<()> {
    let prey = Prey::new()?;
    for (number, at) in places(prey.sound.len()).enumerate() {
        let what = format!("byte {at} of {}", prey.sound.len());
        write(&prey.entry(), &flipped(&prey.sound, at))?;
        let verdict = prey.host.runtime().args(["wasm", "verify"]).finish()?;
        ensure!(verdict.code == 1 && !prey.entry().exists(), "{what}: {verdict}");
        if number % 20 == 0 {
            prey.withstands(&what, |entry| write(entry, &flipped(&prey.sound, at)))?;
        }
    }
    Ok(())
}

#[test]
fn an_artifact_of_another_length() -> Result<()> {
    let prey = Prey::new()?;
    let length = prey.sound.len();
    for cut in [0, 1, 31, 151, 152, length / 2, length - 152, length - 33, length - 32, length - 1] {
        prey.withstands(&format!("{cut} bytes"), |entry| write(entry, &prey.sound[..cut]))?;
    }
    // A footer that is sound for a part of what it follows, and one that follows a sound artifact.
    prey.withstands("something before", |entry| write(entry, &[b"x", &prey.forged[..]].concat()))?;
    prey.withstands("something after", |entry| write(entry, &[&prey.sound[..], b"x"].concat()))?;
    prey.withstands("two footers", |entry| {
        write(entry, &[&prey.forged[..], &prey.sound[length - 152..]].concat())
    })
}

/// The digest of a large artifact is remembered; what is changed afterwards is seen all the same.
#[test]
fn a_large_artifact_that_was_known_to_be_sound() -> Result<()> {
    let host = Host::new()?;
    let container = host.empty_container(&["/main.wasm", "3"])?;
    container.install(&c("show")?, "main.wasm")?;
    container.run()?.exits(3)?;
    let name = artifacts(&host.cache_dir())?.pop().context("no artifact")?;
    let entry = host.cache_dir().join(&name);
    let sound = fs::read(&entry)?;
    ensure!(sound.len() > 128 << 10, "too small to be remembered: {} bytes", sound.len());
    // Digests of files that have just changed are not remembered.
    std::thread::sleep(Duration::from_millis(2100));
    container.run()?.exits(3)?;
    let records = || Ok::<_, anyhow::Error>(fs::read_dir(host.cache_dir())?.count() - 1);
    ensure!(records()? > 0, "nothing is remembered");
    let times = fs::metadata(&entry)?;
    fs::set_permissions(&entry, Permissions::from_mode(0o600))?;
    let file = File::options().write(true).open(&entry)?;
    file.write_all_at(&flipped(&sound, sound.len() / 2), 0)?;
    file.set_modified(times.modified()?)?;
    fs::set_permissions(&entry, Permissions::from_mode(0o400))?;
    container.run()?.exits(3)?;
    ensure!(
        fs::metadata(&entry)?.ino() != times.ino() && fs::read(&entry)? == sound,
        "the changed one is still there"
    );
    host.is_clean()
}
