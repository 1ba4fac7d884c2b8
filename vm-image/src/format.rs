//! Formats of images: which a name asks for, which a file is, and the way from one to another.

use std::fmt;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use serde::Serialize;

use crate::tool::{self, CP, GZIP, QEMU_IMG, Tool, XZ, ZSTD};
use crate::{interrupt, progress};

/// How a disk, or a tree of files, is laid out in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Layout {
    /// QEMU's.
    Qcow2,
    /// The disk as it is: applehv and libkrun.
    Raw,
    /// Hyper-V's.
    Vhdx,
    /// An archive of the root file system, for WSL, which brings the kernel.
    Tar,
}

/// What the file went through after that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// Nothing.
    None,
    /// zstd(1): what podman machine 5 ships and prefers.
    Zstd,
    /// gzip(1).
    Gzip,
    /// xz(1): Fedora CoreOS.
    Xz,
}

/// A layout and a compression.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Format {
    /// How the disk is laid out.
    pub layout: Layout,
    /// How that is compressed.
    pub compression: Compression,
}

impl Compression {
    fn extension(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Zstd => ".zst",
            Self::Gzip => ".gz",
            Self::Xz => ".xz",
        }
    }

    /// The program that knows it.
    pub fn tool(self) -> Option<Tool> {
        match self {
            Self::None => None,
            Self::Zstd => Some(ZSTD),
            Self::Gzip => Some(GZIP),
            Self::Xz => Some(XZ),
        }
    }
}

impl Layout {
    const ALL: [Self; 4] = [Self::Qcow2, Self::Raw, Self::Vhdx, Self::Tar];

    fn extension(self) -> &'static str {
        match self {
            Self::Qcow2 => ".qcow2",
            Self::Raw => ".raw",
            Self::Vhdx => ".vhdx",
            Self::Tar => ".tar",
        }
    }

    /// The machine provider that takes it: the `disktype` of podman's artifacts.
    pub fn disktype(self) -> &'static str {
        match self {
            Self::Qcow2 => "qemu",
            Self::Raw => "applehv",
            Self::Vhdx => "hyperv",
            Self::Tar => "wsl",
        }
    }

    /// What qemu-img(1) calls it.
    fn driver(self) -> Result<&'static str> {
        match self {
            Self::Qcow2 => Ok("qcow2"),
            Self::Raw => Ok("raw"),
            Self::Vhdx => Ok("vhdx"),
            Self::Tar => bail!("an archive of files is no disk"),
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", &self.layout.extension()[1..], self.compression.extension())
    }
}

impl Format {
    /// The format that a file's name asks for.
    ///
    /// # Errors
    /// Its ending is not that of a format.
    pub fn of_name(path: &Path) -> Result<Self> {
        let name = path.file_name().map(|name| name.to_string_lossy().to_lowercase()).unwrap_or_default();
        for compression in [Compression::Zstd, Compression::Gzip, Compression::Xz, Compression::None] {
            if let Some(rest) = name.strip_suffix(compression.extension())
                && let Some(layout) = Layout::ALL.into_iter().find(|l| rest.ends_with(l.extension()))
            {
                return Ok(Self { layout, compression });
            }
        }
        bail!(
            "{}: the name says no format: end it with .qcow2, .raw, .vhdx or .tar, and .zst after that to compress it",
            path.display()
        )
    }

    /// The format that a file has, whatever its name.
    ///
    /// # Errors
    /// It cannot be read, or is neither a disk nor an archive.
    pub fn of_file(path: &Path) -> Result<Self> {
        let at = || path.display().to_string();
        let mut file = File::open(path).with_context(at)?;
        let head = head(&mut file).with_context(at)?;
        let compression = match head.as_slice() {
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Compression::Zstd,
            [0x1f, 0x8b, ..] => Compression::Gzip,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Compression::Xz,
            _ => Compression::None,
        };
        let head = match compression.tool() {
            None => head,
            Some(tool) => {
                tool::require(&[tool])?;
                decompressed_head(tool, path)?
            }
        };
        let layout = layout(&head).with_context(|| {
            format!("{}: neither a disk image nor an archive of a root file system", at())
        })?;
        Ok(Self { layout, compression })
    }
}

/// Enough for the magic number of a file system that has the disk for itself (ext4's is at 1080, btrfs' at 65600).
const HEAD: u64 = 66 << 10;

fn head(from: &mut impl Read) -> Result<Vec<u8>> {
    let mut head = Vec::new();
    from.take(HEAD).read_to_end(&mut head)?;
    Ok(head)
}

fn decompressed_head(tool: Tool, path: &Path) -> Result<Vec<u8>> {
    let mut decompress = tool.command();
    decompress.arg("-dc").arg("--").arg(path).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = decompress.spawn().context("decompress")?;
    let head = head(child.stdout.as_mut().context("standard output")?);
    // It would go on to the end.
    let _ = child.kill();
    let _ = child.wait();
    head
}

fn layout(head: &[u8]) -> Option<Layout> {
    let has = |offset: usize, magic: &[u8]| head.get(offset..offset + magic.len()) == Some(magic);
    if has(0, b"QFI\xfb") {
        Some(Layout::Qcow2)
    } else if has(0, b"vhdxfile") {
        Some(Layout::Vhdx)
    } else if has(257, b"ustar") {
        Some(Layout::Tar)
    } else if has(510, &[0x55, 0xaa])
        || has(1080, &[0x53, 0xef])
        || has(0, b"XFSB")
        || has(65600, b"_BHRfS_M")
    {
        // A partition table, or a file system without one: ext4, XFS, btrfs.
        Some(Layout::Raw)
    } else {
        None
    }
}

/// Copies through a program that compresses or decompresses.
///
/// # Errors
/// It cannot be read or written, or is damaged.
pub fn filter(tool: Tool, arguments: &[&str], what: &str, from: &Path, to: &Path) -> Result<()> {
    let mut source = File::open(from).with_context(|| from.display().to_string())?;
    let step = progress::bytes(what, source.metadata()?.len());
    let target = File::create(to).with_context(|| to.display().to_string())?;
    let mut command = tool.command();
    command.args(arguments).stdin(Stdio::piped()).stdout(target);
    tool::watch(&mut command, |child| {
        let mut sink = child.stdin.take().context("standard input")?;
        let mut buffer = vec![0; 1 << 20];
        loop {
            interrupt::check()?;
            match source.read(&mut buffer)? {
                0 => return Ok(()),
                n => sink.write_all(&buffer[..n])?,
            }
            step.set(source.stream_position()?);
        }
    })
    .with_context(|| from.display().to_string())
}

/// Compresses, as small as is reasonable: it is done once and downloaded often.
///
/// # Errors
/// As [`filter`].
pub fn compress(compression: Compression, from: &Path, to: &Path) -> Result<()> {
    let Some(tool) = compression.tool() else { return copy(from, to) };
    let arguments: &[&str] = match compression {
        Compression::Zstd => &["-q", "-T0", "-15", "--long=27", "-c"],
        Compression::Xz => &["-T0", "-c"],
        Compression::Gzip | Compression::None => &["-n", "-c"],
    };
    filter(tool, arguments, "compressing", from, to)
}

/// Decompresses.
///
/// # Errors
/// As [`filter`].
pub fn decompress(compression: Compression, from: &Path, to: &Path) -> Result<()> {
    let Some(tool) = compression.tool() else { return copy(from, to) };
    let arguments: &[&str] = match compression {
        Compression::Zstd => &["-q", "-d", "--long=31", "-c"],
        _ => &["-d", "-c"],
    };
    filter(tool, arguments, "decompressing", from, to)
}

/// Copies a file, leaving its holes.
///
/// # Errors
/// It cannot be read or written.
pub fn copy(from: &Path, to: &Path) -> Result<()> {
    let _step = progress::step("copying");
    tool::run(CP.command().args(["--reflink=auto", "--sparse=always", "--"]).arg(from).arg(to))
}

/// Converts a disk from one layout to another.
///
/// # Errors
/// One of them is no disk, or qemu-img fails.
pub fn convert(from: &Path, layout: Layout, to: &Path, new: Layout) -> Result<()> {
    if layout == Layout::Qcow2 {
        check_qcow2(from)?;
    }
    let step = progress::percent(format!("converting to {}", new.driver()?));
    let mut command = QEMU_IMG.command();
    command.args(["convert", "-p", "-f", layout.driver()?, "-O", new.driver()?]);
    if new == Layout::Vhdx {
        command.args(["-o", "subformat=dynamic"]);
    }
    command.arg("--").arg(from).arg(to).stdout(Stdio::piped());
    tool::watch(&mut command, |child| {
        // "    (12.34/100%)\r"
        let mut text = String::new();
        for byte in std::io::BufReader::new(child.stdout.take().context("standard output")?).bytes() {
            match byte? {
                b'(' => text.clear(),
                b'/' => step.set(text.split('.').next().and_then(|n| n.parse().ok()).unwrap_or(0)),
                byte => text.push(char::from(byte)),
            }
        }
        Ok(())
    })
}

/// Fails if a file ends before what its tables name, which to qemu-img convert(1) are zeros and no error.
fn check_qcow2(path: &Path) -> Result<()> {
    let mut command = QEMU_IMG.command();
    let (code, _, done) = tool::answer(command.args(["check", "-q", "-f", "qcow2", "--"]).arg(path))?;
    match code {
        // 3: room that nothing uses, as in images that were not closed (qemu-img(1)).
        Some(0 | 3) => Ok(()),
        Some(2) => bail!("truncated or damaged: `qemu-img check` shows where"),
        _ => done,
    }
}

/// Makes a raw disk in `to` of an image, whatever its format, with holes where it has nothing.
///
/// # Errors
/// It is damaged, no disk, or cannot be read.
pub fn to_raw(image: &Path, format: Format, to: &Path) -> Result<()> {
    let name = || image.display().to_string();
    match (format.compression, format.layout) {
        (Compression::None, Layout::Raw) => copy(image, to),
        (Compression::None, layout) => convert(image, layout, to, Layout::Raw).with_context(name),
        (compression, layout) => {
            let between = to.with_extension("decompressed");
            decompress(compression, image, &between)?;
            if layout == Layout::Raw {
                // What a compressor writes has no holes.
                copy(&between, to)?;
            } else {
                convert(&between, layout, to, Layout::Raw).with_context(name)?;
            }
            std::fs::remove_file(&between)?;
            Ok(())
        }
    }
}

/// Makes an image of this format of a raw disk. `scratch` is a directory for what is between.
///
/// # Errors
/// It cannot be written, or qemu-img or the compressor fails.
pub fn from_raw(raw: &Path, format: Format, to: &Path, scratch: &Path) -> Result<()> {
    match (format.compression, format.layout) {
        (Compression::None, Layout::Raw) => copy(raw, to),
        (Compression::None, layout) => convert(raw, Layout::Raw, to, layout),
        (compression, Layout::Raw) => compress(compression, raw, to),
        (compression, layout) => {
            let between = scratch.join("converted");
            convert(raw, Layout::Raw, &between, layout)?;
            compress(compression, &between, to)?;
            std::fs::remove_file(&between)?;
            Ok(())
        }
    }
}

/// Reads a part of a file.
///
/// # Errors
/// It is shorter.
pub fn read_at(path: &Path, offset: u64, length: usize) -> Result<Vec<u8>> {
    let mut file = File::open(path).with_context(|| path.display().to_string())?;
    file.seek(SeekFrom::Start(offset))?;
    let mut bytes = vec![0; length];
    file.read_exact(&mut bytes).with_context(|| path.display().to_string())?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_ask_for_formats() {
        let format = |name: &str| Format::of_name(Path::new(name)).map(|f| f.to_string());
        assert_eq!(format("a/machine.qcow2").unwrap(), "qcow2");
        assert_eq!(format("machine.QCOW2.zst").unwrap(), "qcow2.zst");
        assert_eq!(format("fedora.raw.gz").unwrap(), "raw.gz");
        assert_eq!(format("fedora.vhdx.xz").unwrap(), "vhdx.xz");
        assert_eq!(format("wsl.tar.zst").unwrap(), "tar.zst");
        for wrong in ["machine", "machine.img", "machine.zst", "qcow2"] {
            let error = format(wrong).unwrap_err().to_string();
            assert!(error.contains(wrong) && error.contains(".qcow2"), "{error}");
        }
    }

    #[test]
    fn files_tell_their_layout() {
        let with = |offset: usize, magic: &[u8]| {
            let mut head = vec![0; HEAD as usize];
            head[offset..offset + magic.len()].copy_from_slice(magic);
            layout(&head)
        };
        assert_eq!(with(0, b"QFI\xfb"), Some(Layout::Qcow2));
        assert_eq!(with(0, b"vhdxfile"), Some(Layout::Vhdx));
        assert_eq!(with(257, b"ustar"), Some(Layout::Tar));
        assert_eq!(with(510, &[0x55, 0xaa]), Some(Layout::Raw));
        assert_eq!(with(1080, &[0x53, 0xef]), Some(Layout::Raw));
        assert_eq!(with(0, b"XFSB"), Some(Layout::Raw));
        assert_eq!(with(65600, b"_BHRfS_M"), Some(Layout::Raw));
        assert_eq!(with(0, b"nothing"), None);
        assert_eq!(layout(b"short"), None);
    }
}
