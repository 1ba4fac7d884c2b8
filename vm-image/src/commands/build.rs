//! `build`: a complete image from Debian packages.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::SystemTime;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use serde_json::json;

use super::Report;
use crate::arch::Arch;
use crate::debian::{self, Debian, Guest};
use crate::filesystem::Mounted;
use crate::format::{self, Format, Layout};
use crate::output::{self, Output};
use crate::runtime::{self, Programs};
use crate::tool::{self, QEMU_IMG, TAR};
use crate::tree::{self, Tree};
use crate::{disk, progress};

/// Make a complete image from Debian packages, with podman, Ignition, and Coracle as the default runtime
#[derive(Args)]
pub struct Build {
    /// Where to write the image; the ending says the format: .qcow2 (qemu), .raw (applehv, libkrun), .tar (WSL), each also
    /// with .zst. Several images are made of one tree
    #[arg(required = true)]
    output: Vec<PathBuf>,

    /// The machine it is for
    #[arg(long, value_enum)]
    arch: Option<Arch>,

    /// The directory with coracle, coracle-wasi and coracle-wasmc for that machine, if they are not beside this program
    #[arg(long, value_name = "DIRECTORY")]
    programs: Option<PathBuf>,

    /// Leave Coracle out: an image as others ship it, with crun
    #[arg(long, conflicts_with = "programs")]
    without_coracle: bool,

    /// Install these packages besides, separated by commas
    #[arg(long, value_name = "PACKAGE", value_delimiter = ',')]
    include: Vec<String>,

    /// The release of Debian
    #[arg(long, default_value = "trixie")]
    suite: String,

    /// Where the packages come from: an address, or a line of sources.list(5); may be repeated
    #[arg(long, value_name = "MIRROR")]
    mirror: Vec<String>,

    /// The disk's size in GiB before podman machine makes it larger; it must not be larger than a machine's disk will be
    #[arg(long, value_name = "GIB", default_value_t = 4, value_parser = clap::value_parser!(u64).range(2..=1024))]
    disk_size: u64,
}

impl Build {
    /// Does it.
    ///
    /// # Errors
    /// Says what is missing, or which step failed.
    pub fn run(self) -> Result<Report> {
        let arch = self.arch.map_or_else(Arch::host, Ok)?;
        let formats = self.output.iter().map(|path| Format::of_name(path)).collect::<Result<Vec<_>>>()?;
        let guest = guest(&formats)?;
        let programs = match self.without_coracle {
            true => None,
            false => Some(Programs::find(self.programs.as_deref(), arch)?),
        };
        ensure!(
            rustix::process::geteuid().is_root(),
            "building needs root: a root tree has files of several users"
        );
        debian::check_host(arch)?;
        let tools: Vec<_> = formats.iter().filter_map(|format| format.compression.tool()).collect();
        tool::require(&tools)?;
        match guest {
            Guest::Machine => {
                tool::require(&[QEMU_IMG])?;
                disk::check_host(arch)?;
            }
            Guest::Wsl => tool::require(&[TAR])?,
        }
        let outputs = self.output.iter().map(|path| Output::new(path)).collect::<Result<Vec<_>>>()?;

        let began = SystemTime::now();
        let work = output::workspace()?;
        let root = work.path().join("root");
        let debian = Debian { guest, arch, suite: self.suite, mirrors: self.mirror, packages: self.include };
        debian.install(&root)?;
        debian::customise(&root, guest)?;
        if let Some(programs) = &programs {
            let scratch = work.path().join("scratch");
            fs::create_dir(&scratch)?;
            let mut tree = Tree::new(Box::new(Mounted::directory(&root)), tree::Layout::Plain(String::new()));
            tree.add(runtime::files(programs, &scratch)?, |_| None).context("put Coracle into the tree")?;
        }
        if guest == Guest::Machine {
            disk::write_menu(&root, arch)?;
        }
        debian::settle(&root, guest, began)?;
        let digest = debian::digest(&root)?;

        let whole = work.path().join("whole");
        match guest {
            Guest::Machine => {
                fs::rename(disk::make(&root, arch, self.disk_size << 30, work.path())?, &whole)?
            }
            Guest::Wsl => archive(&root, &whole)?,
        }
        let mut images = Vec::new();
        for (output, format) in outputs.iter().zip(&formats) {
            match guest {
                Guest::Machine => format::from_raw(&whole, *format, output.temporary(), work.path())?,
                Guest::Wsl => format::compress(format.compression, &whole, output.temporary())?,
            }
        }
        let mut text = String::new();
        for (output, format) in outputs.into_iter().zip(&formats) {
            let path = output.publish()?;
            let size = path.metadata()?.blocks() * 512;
            text += &format!("{}: {format}, {}\n", path.display(), indicatif::BinaryBytes(size));
            images.push(json!({ "path": path, "format": format, "size": size }));
        }
        text += &format!("root tree: {digest}\n");
        let packages = debian::packages(&root)?;
        Ok(Report {
            text,
            json: json!({ "arch": arch, "root_tree": digest, "images": images, "packages": packages }),
        })
    }
}

/// What kind of guest these formats are of.
fn guest(formats: &[Format]) -> Result<Guest> {
    if formats.iter().any(|format| format.layout == Layout::Vhdx) {
        bail!(
            "vhdx: machines on Hyper-V have no network but by gvforwarder, which is in no package of Debian's: \
             use `inject` on an image of podman's own, which has it"
        );
    }
    let archives = formats.iter().filter(|format| format.layout == Layout::Tar).count();
    match archives {
        0 => Ok(Guest::Machine),
        n if n == formats.len() => Ok(Guest::Wsl),
        _ => bail!("a distribution of WSL has neither kernel nor boot loader: build its .tar by itself"),
    }
}

fn archive(root: &Path, to: &Path) -> Result<()> {
    let _step = progress::step("archiving the tree");
    let mut tar = TAR.command();
    tar.args(["--sort=name", "--numeric-owner", "--one-file-system", "--xattrs", "--exclude=./dev/*", "-cf"]);
    tool::run(tar.arg(to).arg("-C").arg(root).arg(".").stdout(Stdio::null()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_and_archives_are_not_of_one_tree() {
        let of = |names: &[&str]| {
            let formats: Vec<_> =
                names.iter().map(|name| Format::of_name(Path::new(name)).unwrap()).collect();
            guest(&formats).map_err(|error| error.to_string())
        };
        assert_eq!(of(&["a.qcow2.zst", "a.raw"]), Ok(Guest::Machine));
        assert_eq!(of(&["a.tar", "a.tar.zst"]), Ok(Guest::Wsl));
        assert!(of(&["a.tar", "a.raw"]).unwrap_err().contains("by itself"));
        assert!(of(&["a.vhdx"]).unwrap_err().contains("gvforwarder"));
    }
}
