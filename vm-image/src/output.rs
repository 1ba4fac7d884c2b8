//! What a command makes: it appears whole, by a rename, or not at all.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use tempfile::{Builder, TempDir, TempPath};

/// A file to be. Until [`publish`](Self::publish) it is a temporary one beside its place.
pub struct Output {
    path: PathBuf,
    temporary: TempPath,
}

impl Output {
    /// Begins one.
    ///
    /// # Errors
    /// The directory is missing or cannot be written to, or a directory has the name.
    pub fn new(path: &Path) -> Result<Self> {
        ensure!(!path.is_dir(), "{}: is a directory", path.display());
        let directory = directory(path)?;
        let temporary = hidden()
            .tempfile_in(directory)
            .with_context(|| format!("{}: cannot make files there", directory.display()))?;
        Ok(Self { path: path.to_owned(), temporary: temporary.into_temp_path() })
    }

    /// Where to write until then.
    pub fn temporary(&self) -> &Path {
        &self.temporary
    }

    /// Puts it in its place, with the permissions of any new file, instead of what may be there.
    ///
    /// # Errors
    /// It cannot be renamed.
    pub fn publish(self) -> Result<PathBuf> {
        use std::os::unix::fs::PermissionsExt;
        let umask = rustix::process::umask(rustix::fs::Mode::empty());
        rustix::process::umask(umask);
        fs::set_permissions(&self.temporary, fs::Permissions::from_mode(0o666 & !umask.as_raw_mode()))?;
        fs::File::open(&self.temporary)?.sync_all()?;
        self.temporary.persist(&self.path).with_context(|| self.path.display().to_string())?;
        Ok(self.path)
    }
}

/// A directory to be, likewise.
pub struct OutputDirectory {
    path: PathBuf,
    temporary: TempDir,
}

impl OutputDirectory {
    /// Begins one.
    ///
    /// # Errors
    /// Something is there already, or the directory above is missing or cannot be written to.
    pub fn new(path: &Path) -> Result<Self> {
        if path.symlink_metadata().is_ok() {
            bail!("{}: exists already", path.display());
        }
        let directory = directory(path)?;
        let temporary = hidden()
            .tempdir_in(directory)
            .with_context(|| format!("{}: cannot make files there", directory.display()))?;
        Ok(Self { path: path.to_owned(), temporary })
    }

    /// Where to write until then.
    pub fn temporary(&self) -> &Path {
        self.temporary.path()
    }

    /// Puts it in its place.
    ///
    /// # Errors
    /// It cannot be renamed.
    pub fn publish(self) -> Result<PathBuf> {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(self.temporary.path(), fs::Permissions::from_mode(0o755))?;
        fs::rename(self.temporary.path(), &self.path).with_context(|| self.path.display().to_string())?;
        // It has another name now, and is no longer to be removed.
        let _ = self.temporary.keep();
        Ok(self.path)
    }
}

/// A directory for what is needed on the way: root trees and raw disks are too large for a `/tmp` in memory.
///
/// # Errors
/// It cannot be made.
pub fn workspace() -> Result<TempDir> {
    let above = std::env::var_os("TMPDIR").map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from);
    Builder::new()
        .prefix("coracle-vm-image-")
        .tempdir_in(&above)
        .with_context(|| format!("{}: cannot make a temporary directory there", above.display()))
}

fn directory(path: &Path) -> Result<&Path> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    ensure!(directory.is_dir(), "{}: no such directory", directory.display());
    Ok(directory)
}

fn hidden() -> Builder<'static, 'static> {
    let mut builder = Builder::new();
    builder.prefix(".coracle-vm-image-");
    builder
}
