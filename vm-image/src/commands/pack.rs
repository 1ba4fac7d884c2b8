//! `pack`: images as the artifact that `podman machine init --image docker://...` pulls.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::{Args, ValueEnum};
use oci_spec::image::{
    ANNOTATION_REF_NAME, ANNOTATION_TITLE, Arch as OciArch, Descriptor, DescriptorBuilder, ImageIndex,
    ImageIndexBuilder, ImageManifestBuilder, MediaType, OciLayoutBuilder, Os, PlatformBuilder,
    SCHEMA_VERSION, Sha256Digest,
};
use serde_json::json;
use sha2::{Digest, Sha256};

use super::{Report, inspect};
use crate::arch::Arch;
use crate::debian::hex;
use crate::filesystem::Access;
use crate::format::{self, Compression, Format};
use crate::image::Image;
use crate::output::{self, OutputDirectory};
use crate::{interrupt, progress, tool};

/// Pack images into an OCI layout: the artifact that `podman machine init --image docker://...` takes once it is pushed
#[derive(Args)]
pub struct Pack {
    /// The images, one for each machine and format; each compressed with zstd if it is not compressed yet. Which machine an
    /// image is for is seen inside; a prefix says so without a look: x86_64:FILE, aarch64:FILE
    #[arg(required = true, value_name = "[ARCH:]IMAGE")]
    images: Vec<Source>,

    /// The directory to make
    #[arg(long, value_name = "DIRECTORY")]
    output: PathBuf,

    /// The tag to give it in the layout
    #[arg(long, default_value = "latest")]
    tag: String,
}

/// An image to pack.
#[derive(Clone, Debug, PartialEq)]
struct Source {
    arch: Option<Arch>,
    path: PathBuf,
}

impl FromStr for Source {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        if let Some((arch, path)) = text.split_once(':')
            && let Ok(arch) = Arch::from_str(arch, false)
        {
            return Ok(Self { arch: Some(arch), path: path.into() });
        }
        Ok(Self { arch: None, path: text.into() })
    }
}

impl Pack {
    /// Does it.
    ///
    /// # Errors
    /// An image is none, two are for the same machine and provider, or the directory exists.
    pub fn run(self) -> Result<Report> {
        let output = OutputDirectory::new(&self.output)?;
        let layout = Layout::new(output.temporary())?;
        let mut manifests: Vec<Descriptor> = Vec::new();
        let mut entries = Vec::new();
        for source in &self.images {
            let path = &source.path;
            let format = Format::of_file(path)?;
            let arch = match source.arch {
                Some(arch) => arch,
                None => {
                    let image = Image::open(path, Access::Read)?;
                    let name = path.display();
                    inspect::arch(&image.tree).with_context(|| name.to_string())?.with_context(|| {
                        format!("{name}: cannot tell which machine it is for: write x86_64:{name} or aarch64:{name}")
                    })?
                }
            };
            let disktype = format.layout.disktype();
            let descriptor = layout.artifact(path, format, arch)?;
            if manifests.iter().any(|m| is_for(m, arch, disktype)) {
                bail!("{}: a second image for {disktype} on {arch}", path.display());
            }
            entries.push(json!({ "image": path, "arch": arch, "disktype": disktype, "digest": descriptor.digest().to_string() }));
            manifests.push(descriptor);
        }
        let index = ImageIndexBuilder::default()
            .schema_version(SCHEMA_VERSION)
            .media_type(MediaType::ImageIndex)
            .manifests(manifests)
            .build()?;
        let digest = layout.close(&index, &self.tag)?;
        let path = output.publish()?;
        let shown = path.display();
        let mut text = format!("{shown}: {digest}\n");
        for entry in &entries {
            let word = |key: &str| entry[key].as_str().unwrap_or_default().to_owned();
            text += &format!("  {} {}: {}\n", word("disktype"), word("arch"), word("image"));
        }
        text += &format!(
            "push it with: skopeo copy --all oci:{shown}:{} docker://REGISTRY/NAME:{}\n",
            self.tag, self.tag
        );
        Ok(Report {
            text,
            json: json!({ "output": path, "digest": digest, "tag": self.tag, "images": entries }),
        })
    }
}

fn is_for(manifest: &Descriptor, arch: Arch, disktype: &str) -> bool {
    let annotation = manifest.annotations().as_ref().and_then(|all| all.get(DISKTYPE));
    let platform = manifest.platform().as_ref().map(|platform| platform.architecture().to_string());
    annotation.is_some_and(|found| found == disktype)
        && platform.is_some_and(|found| found == arch.to_string())
}

/// What podman chooses by (pkg/machine/ocipull of podman).
const DISKTYPE: &str = "disktype";

/// A directory with blobs by their digests (image-spec, image-layout.md).
struct Layout<'a>(&'a Path);

impl<'a> Layout<'a> {
    fn new(directory: &'a Path) -> Result<Self> {
        fs::create_dir_all(directory.join("blobs/sha256"))?;
        Ok(Self(directory))
    }

    /// Adds an image with its manifest.
    fn artifact(&self, path: &Path, format: Format, arch: Arch) -> Result<Descriptor> {
        let compressed = Format { compression: Compression::Zstd, ..format };
        let (layer, kind, packed) = match format.compression {
            Compression::None => {
                tool::require(&[tool::ZSTD])?;
                let work = output::workspace()?;
                let packed = work.path().join("packed");
                format::compress(Compression::Zstd, path, &packed)?;
                (self.add_file(&packed)?, "application/zstd", compressed)
            }
            Compression::Zstd => (self.add_file(path)?, "application/zstd", format),
            Compression::Gzip => (self.add_file(path)?, "application/gzip", format),
            Compression::Xz => (self.add_file(path)?, "application/x-xz", format),
        };
        // Podman names its cached copy after the endings.
        let title = format!("coracle-machine.{arch}.{}.{packed}", format.layout.disktype());
        let layer = DescriptorBuilder::default()
            .media_type(MediaType::Other(kind.to_owned()))
            .digest(layer.0)
            .size(layer.1)
            .annotations(HashMap::from([(ANNOTATION_TITLE.to_owned(), title)]))
            .build()?;
        let empty = self.add(b"{}")?;
        let config = DescriptorBuilder::default()
            .media_type(MediaType::EmptyJSON)
            .digest(empty.0)
            .size(empty.1)
            .build()?;
        let manifest = ImageManifestBuilder::default()
            .schema_version(SCHEMA_VERSION)
            .media_type(MediaType::ImageManifest)
            .config(config)
            .layers(vec![layer])
            .build()?;
        let (digest, size) = self.add(manifest.to_string()?.as_bytes())?;
        // Not amd64 and arm64, which are OCI's words.
        let platform = PlatformBuilder::default()
            .os(Os::Linux)
            .architecture(OciArch::Other(arch.to_string()))
            .build()?;
        Ok(DescriptorBuilder::default()
            .media_type(MediaType::ImageManifest)
            .digest(digest)
            .size(size)
            .platform(platform)
            .annotations(HashMap::from([(DISKTYPE.to_owned(), format.layout.disktype().to_owned())]))
            .build()?)
    }

    /// Writes the index that has all, and what points to it. Returns its digest.
    fn close(&self, index: &ImageIndex, tag: &str) -> Result<String> {
        let (digest, size) = self.add(index.to_string()?.as_bytes())?;
        let entry = DescriptorBuilder::default()
            .media_type(MediaType::ImageIndex)
            .digest(digest.clone())
            .size(size)
            .annotations(HashMap::from([(ANNOTATION_REF_NAME.to_owned(), tag.to_owned())]))
            .build()?;
        let top =
            ImageIndexBuilder::default().schema_version(SCHEMA_VERSION).manifests(vec![entry]).build()?;
        top.to_file(self.0.join("index.json"))?;
        let layout = OciLayoutBuilder::default().image_layout_version("1.0.0").build()?;
        layout.to_file(self.0.join("oci-layout"))?;
        Ok(digest.to_string())
    }

    fn add(&self, bytes: &[u8]) -> Result<(oci_spec::image::Digest, u64)> {
        let name = hex(&Sha256::digest(bytes));
        fs::write(self.0.join("blobs/sha256").join(&name), bytes)?;
        Ok((digest(&name)?, bytes.len() as u64))
    }

    fn add_file(&self, path: &Path) -> Result<(oci_spec::image::Digest, u64)> {
        let mut from = File::open(path).with_context(|| path.display().to_string())?;
        let step = progress::bytes(format!("packing {}", path.display()), from.metadata()?.len());
        let blobs = self.0.join("blobs/sha256");
        let mut to = tempfile::NamedTempFile::new_in(&blobs)?;
        let mut hasher = Sha256::new();
        let mut buffer = vec![0; 1 << 20];
        let mut size = 0;
        loop {
            interrupt::check()?;
            let n = from.read(&mut buffer).with_context(|| path.display().to_string())?;
            if n == 0 {
                break;
            }
            hasher.update(&buffer[..n]);
            to.write_all(&buffer[..n])?;
            size += n as u64;
            step.set(size);
        }
        ensure!(size > 0, "{}: is empty", path.display());
        let name = hex(&hasher.finalize());
        let blob = blobs.join(&name);
        to.persist(&blob)?;
        fs::set_permissions(&blob, std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
        Ok((digest(&name)?, size))
    }
}

fn digest(name: &str) -> Result<oci_spec::image::Digest> {
    Sha256Digest::from_str(name).map(Into::into).map_err(|error| anyhow!("{name}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_says_which_machine() {
        let source = |text: &str| Source::from_str(text).unwrap();
        assert_eq!(source("aarch64:a.raw"), Source { arch: Some(Arch::Aarch64), path: "a.raw".into() });
        assert_eq!(source("arm64:/a:b"), Source { arch: Some(Arch::Aarch64), path: "/a:b".into() });
        assert_eq!(source("/a:b"), Source { arch: None, path: "/a:b".into() });
        assert_eq!(source("a.raw"), Source { arch: None, path: "a.raw".into() });
    }
}
