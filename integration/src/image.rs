//! Images as archives, so that no registry is needed.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::json;

use crate::command::{Run, command};

/// An image of one layer.
pub struct Image<'a> {
    /// Its reference, with a tag.
    pub reference: &'a str,
    /// Operating system and architecture.
    pub platform: (&'a str, &'a str),
    /// What is run, unless a user says otherwise.
    pub entrypoint: &'a [&'a str],
    /// The directory that it is made of.
    pub root: &'a Path,
}

/// Packs images into an archive in the format of `docker save`, which containerd, Docker and podman load.
///
/// # Errors
/// `tar` fails.
pub fn archive(images: &[Image], file: &Path) -> Result<()> {
    let parts = tempfile::tempdir_in(file.parent().context("an archive is in a directory")?)?;
    let mut manifest = Vec::new();
    for (n, image) in images.iter().enumerate() {
        let (layer, config) = (format!("{n}.tar"), format!("{n}.json"));
        let packed = parts.path().join(&layer);
        command("tar").arg("-C").arg(image.root).arg("-cf").arg(&packed).arg(".").finish()?.ok()?;
        let sum = command("sha256sum").arg(&packed).finish()?.ok()?;
        let digest = sum.stdout.split(' ').next().context("no digest")?;
        let (os, architecture) = image.platform;
        let contents = json!({
            "os": os, "architecture": architecture,
            "config": {"Entrypoint": image.entrypoint, "Env": ["PATH=/usr/bin:/bin"]},
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{digest}")]},
        });
        fs::write(parts.path().join(&config), contents.to_string())?;
        manifest.push(json!({"Config": config, "RepoTags": [image.reference], "Layers": [layer]}));
    }
    fs::write(parts.path().join("manifest.json"), json!(manifest).to_string())?;
    command("tar").arg("-C").arg(parts.path()).arg("-cf").arg(file).arg(".").finish()?.ok()?;
    Ok(())
}
