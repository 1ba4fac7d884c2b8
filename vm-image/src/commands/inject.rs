//! `inject`: Coracle into an image that exists, without booting it.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use serde_json::json;

use super::{Report, inspect};
use crate::filesystem::Access;
use crate::format::{self, Format, Layout};
use crate::image::Image;
use crate::output::Output;
use crate::runtime::{self, Programs};
use crate::tool;

/// Put Coracle into an existing image (podman's own, Fedora CoreOS, any with ext4, XFS or btrfs) without booting it
#[derive(Args)]
pub struct Inject {
    /// The image to start from; it stays as it is
    #[arg(long, value_name = "IMAGE")]
    base: PathBuf,

    /// Where to write the new image, in the format of the base
    #[arg(long, value_name = "IMAGE")]
    output: PathBuf,

    /// The directory with coracle, coracle-wasi and coracle-wasmc for the image's machine, if they are not beside this
    /// program
    #[arg(long, value_name = "DIRECTORY")]
    programs: Option<PathBuf>,
}

impl Inject {
    /// Does it.
    ///
    /// # Errors
    /// Says why the base cannot be used: no podman, no room, another machine, a file system that cannot be changed here.
    pub fn run(self) -> Result<Report> {
        let base = self.base.display().to_string();
        let format = Format::of_file(&self.base)?;
        // The name may say nothing, but must not say something else.
        if let Ok(wanted) = Format::of_name(&self.output) {
            ensure!(
                wanted == format,
                "{}: {base} is {format}, and stays so: name the output after that",
                self.output.display()
            );
        }
        if format.layout == Layout::Tar {
            bail!("{base}: an archive of a root file system has no disk to change: use `build` for WSL");
        }
        let output = Output::new(&self.output)?;
        if let (Ok(a), Ok(b)) = (self.base.canonicalize(), self.output.canonicalize()) {
            ensure!(a != b, "{base}: is the base: name another output");
        }
        let tools: Vec<_> = format.compression.tool().into_iter().collect();
        tool::require(&tools)?;

        let mut image = Image::open(&self.base, Access::Write)?;
        let what = ["/usr/bin/podman", "/usr/local/bin/podman"];
        let mut has_podman = false;
        for path in what {
            has_podman |= image.tree.look_up(path, true).with_context(|| base.clone())?.is_some();
        }
        ensure!(has_podman, "{base}: there is no podman in it ({})", what.join(", "));
        let arch = inspect::arch(&image.tree).with_context(|| base.clone())?;
        let arch = arch.with_context(|| format!("{base}: cannot tell which machine it is for"))?;
        let programs = Programs::find(self.programs.as_deref(), arch)?;

        // What is replaced frees its room only afterwards; metadata takes some.
        let (size, free) = (programs.size()? + (1 << 20), image.tree.free().with_context(|| base.clone())?);
        ensure!(
            size <= free,
            "{base}: no room: {} are needed, {} are free",
            indicatif::BinaryBytes(size),
            indicatif::BinaryBytes(free)
        );
        let scratch = image.work.path().join("added");
        fs::create_dir(&scratch)?;
        let files = runtime::files(&programs, &scratch)?;
        let selinux = image.tree.text("/etc/selinux/config").with_context(|| base.clone())?;
        let has_policy =
            selinux.lines().any(|l| matches!(l.trim(), "SELINUX=enforcing" | "SELINUX=permissive"));
        let label = |path: &str| if has_policy { runtime::label(path) } else { None };
        let added = image.tree.add(files, label).with_context(|| base.clone())?;

        let layout = image.system();
        let Image { tree, disk, work, .. } = image;
        // A mounted file system is written out only when it is unmounted.
        drop(tree);
        let disk = disk.context("the disk")?;
        format::from_raw(&disk, format, output.temporary(), work.path())?;
        let path = output.publish()?;
        let mut text = format!("{}: {format}, {base} with\n", path.display());
        for file in &added {
            text += &format!("  {file}\n");
        }
        let json = json!({
            "base": self.base, "output": path, "format": format, "arch": arch, "layout": layout, "selinux": has_policy, "added": added,
        });
        Ok(Report { text, json })
    }
}
