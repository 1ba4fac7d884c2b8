//! A tree on the host that no container is given, and that therefore must never change or be seen inside.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use coracle_integration::Host;

/// What every file of the tree holds: an output with this in it was read outside.
pub const SECRET: &str = "secret of the canary";

/// The tree, and what it was when it was made.
pub struct Canary {
    path: PathBuf,
    before: BTreeMap<PathBuf, (Entry, Vec<u8>)>,
}

/// All of a file that a write, a new name, a change of owner, mode or attributes, or a mount leaves a mark on.
#[derive(Debug, PartialEq)]
struct Entry {
    place: (u64, u64),
    mode: u32,
    owner: (u32, u32),
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Canary {
    /// Makes the tree below the test's directory: files, full and empty directories, one that everybody may write to, and
    /// a link.
    pub fn plant(host: &Host, name: &str) -> Result<Canary> {
        let path = host.path().join(name);
        for directory in ["dir/below", "empty"] {
            fs::create_dir_all(path.join(directory))?;
        }
        for file in ["file", "null", "dir/file", "dir/below/file"] {
            fs::write(path.join(file), SECRET)?;
        }
        fs::set_permissions(path.join("empty"), std::os::unix::fs::PermissionsExt::from_mode(0o777))?;
        symlink("file", path.join("link"))?;
        Self::watch(&path)
    }

    /// Takes note of a tree that is there.
    pub fn watch(path: &Path) -> Result<Canary> {
        Ok(Canary { path: path.to_owned(), before: census(path)? })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Fails when anything in the tree is not what it was, or there is more or less of it.
    pub fn is_untouched(&self) -> Result<()> {
        let now = census(&self.path)?;
        let paths = self.before.keys().chain(now.keys());
        for path in paths {
            let (was, is) = (self.before.get(path), now.get(path));
            let (was_so, is_so) = (was.map(|(entry, _)| entry), is.map(|(entry, _)| entry));
            ensure!(was == is, "{} was {was_so:?} and is {is_so:?}", path.display());
        }
        Ok(())
    }
}

fn census(top: &Path) -> Result<BTreeMap<PathBuf, (Entry, Vec<u8>)>> {
    let mut found = BTreeMap::new();
    let mut left = vec![top.to_owned()];
    while let Some(path) = left.pop() {
        let metadata = path.symlink_metadata()?;
        let mut content = Vec::new();
        if metadata.is_dir() {
            left.extend(fs::read_dir(&path)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?);
        } else if metadata.is_symlink() {
            content = fs::read_link(&path)?.into_os_string().into_encoded_bytes();
        } else if metadata.is_file() {
            content = fs::read(&path)?;
        }
        let entry = Entry {
            place: (metadata.dev(), metadata.ino()),
            mode: metadata.mode(),
            owner: (metadata.uid(), metadata.gid()),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        };
        found.insert(path, (entry, content));
    }
    Ok(found)
}

/// A check that sees nothing would pass every test.
#[test]
fn a_canary_sees_what_is_done_to_it() -> Result<()> {
    type Act = fn(&Path) -> std::io::Result<()>;
    let acts: [Act; 6] = [
        |path| fs::write(path.join("dir/file"), SECRET),
        |path| fs::write(path.join("empty/new"), ""),
        |path| fs::set_permissions(path.join("file"), std::os::unix::fs::PermissionsExt::from_mode(0o600)),
        |path| std::os::unix::fs::chown(path.join("link"), Some(0), Some(0)),
        |path| fs::remove_file(path.join("null")),
        |path| fs::hard_link(path.join("file"), path.with_extension("outside")),
    ];
    let host = Host::new()?;
    for (number, act) in acts.iter().enumerate() {
        let canary = Canary::plant(&host, &format!("canary{number}"))?;
        canary.is_untouched()?;
        act(canary.path())?;
        ensure!(canary.is_untouched().is_err(), "act {number} is not seen");
    }
    Ok(())
}
