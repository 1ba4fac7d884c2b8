//! Images as archives, so that no registry is needed.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::json;

use crate::command::{Run, command};

/// An image of one layer, in the format of `docker save`, which containerd and Docker load.
pub struct Image<'a> {
    /// Its reference, with a tag.
    pub reference: &'a str,
    /// Operating system and architecture.
    pub platform: (&'a str, &'a str),
    /// What is run, unless a user says otherwise.
    pub entrypoint: &'a [&'a str],
}

impl Image<'_> {
    /// Packs a root directory, and returns the archive, which is made beside it.
    ///
    /// # Errors
    /// `tar` fails.
    pub fn archive(&self, root: &Path) -> Result<PathBuf> {
        let parts = tempfile::tempdir_in(root.parent().context("a root directory has no parent")?)?;
        let layer = parts.path().join("layer.tar");
        command("tar").arg("-C").arg(root).arg("-cf").arg(&layer).arg(".").finish()?.ok()?;
        let sum = command("sha256sum").arg(&layer).finish()?.ok()?;
        let digest = sum.stdout.split(' ').next().context("no digest")?;
        let (os, architecture) = self.platform;
        let config = json!({
            "os": os, "architecture": architecture,
            "config": {"Entrypoint": self.entrypoint, "Env": ["PATH=/usr/bin:/bin"]},
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{digest}")]},
        });
        let manifest =
            json!([{"Config": "config.json", "RepoTags": [self.reference], "Layers": ["layer.tar"]}]);
        fs::write(parts.path().join("config.json"), config.to_string())?;
        fs::write(parts.path().join("manifest.json"), manifest.to_string())?;
        let archive = root.with_extension("image.tar");
        command("tar").arg("-C").arg(parts.path()).arg("-cf").arg(&archive).arg(".").finish()?.ok()?;
        Ok(archive)
    }
}
