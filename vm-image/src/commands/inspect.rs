//! `inspect`: what an image is, and which points of podman machine's contract it meets.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use serde::Serialize;
use serde_json::json;

use super::Report;
use crate::arch::Arch;
use crate::contract::{self, Point};
use crate::filesystem::Access;
use crate::image::Image;
use crate::runtime;
use crate::tree::Tree;

/// Show an image's format, partitions, file systems and versions, and which points of podman machine's contract it meets
#[derive(Args)]
pub struct Inspect {
    /// The image
    image: PathBuf,
}

#[derive(Serialize)]
struct Versions {
    system: String,
    podman: Option<String>,
    crun: Option<String>,
    ignition: Option<String>,
    coracle: Option<String>,
}

impl Inspect {
    /// Does it.
    ///
    /// # Errors
    /// It is no image that can be read here.
    pub fn run(self) -> Result<Report> {
        let image = Image::open(&self.image, Access::Read)?;
        let name = || self.image.display().to_string();
        let versions = Versions::of(&image.tree).with_context(name)?;
        let points = contract::check(&image).with_context(name)?;
        let arch = arch(&image.tree).with_context(name)?;
        let text = text(&image, arch, &versions, &points);
        let json = json!({
            "format": image.format,
            "disktype": image.format.layout.disktype(),
            "arch": arch,
            "partitions": image.partitions,
            "root": image.root,
            "layout": image.system(),
            "versions": versions,
            "contract": points,
        });
        Ok(Report { text, json })
    }
}

/// The machine that a system's programs are for; `None` if it has no podman and no systemd to tell.
///
/// # Errors
/// They cannot be read.
pub fn arch(tree: &Tree) -> Result<Option<Arch>> {
    for program in ["/usr/bin/podman", "/usr/lib/systemd/systemd"] {
        if let Some(bytes) = tree.read(program)? {
            return Arch::of_elf(&bytes).map(Some).context(program);
        }
    }
    Ok(None)
}

impl Versions {
    fn of(tree: &Tree) -> Result<Self> {
        let release = tree.text("/usr/lib/os-release")?;
        let name = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
        let packages = Packages::read(tree)?;
        Ok(Self {
            system: name.unwrap_or("unknown").trim_matches('"').to_owned(),
            podman: packages.version("podman"),
            crun: packages.version("crun"),
            ignition: packages.version("ignition"),
            coracle: tree
                .read(&format!("{}/coracle", runtime::DIRECTORY))?
                .map(|program| own_version(&program).unwrap_or_else(|| "unknown".to_owned())),
        })
    }
}

/// The version that the program carries for `--version`: a line before that of the specification's.
fn own_version(program: &[u8]) -> Option<String> {
    let next = b"\nspec: ";
    let end = program.windows(next.len()).position(|window| window == next)?;
    let line = String::from_utf8_lossy(&program[end.saturating_sub(40)..end]).into_owned();
    line.rsplit_once("version ").map(|(_, version)| version.to_owned())
}

/// What the packages' own records say.
enum Packages {
    /// dpkg(1)'s status file.
    Debian(String),
    /// RPM's database: headers, of which the name of the source package says name and version.
    Rpm(Vec<u8>),
    None,
}

impl Packages {
    fn read(tree: &Tree) -> Result<Self> {
        let status = tree.text("/var/lib/dpkg/status")?;
        if !status.is_empty() {
            return Ok(Self::Debian(status));
        }
        for database in
            ["/usr/share/rpm/rpmdb.sqlite", "/usr/lib/sysimage/rpm/rpmdb.sqlite", "/var/lib/rpm/rpmdb.sqlite"]
        {
            if let Some(bytes) = tree.read(database)? {
                return Ok(Self::Rpm(bytes));
            }
        }
        Ok(Self::None)
    }

    fn version(&self, name: &str) -> Option<String> {
        match self {
            Self::Debian(status) => {
                let heading = format!("Package: {name}");
                let record = status.split("\n\n").find(|r| r.lines().any(|line| line == heading))?;
                if !record.lines().any(|line| line == "Status: install ok installed") {
                    return None;
                }
                record.lines().find_map(|line| line.strip_prefix("Version: ")).map(str::to_owned)
            }
            Self::Rpm(bytes) => source_version(bytes, name),
            Self::None => None,
        }
    }
}

/// Finds `NAME-VERSION-RELEASE.src.rpm`, a string of its own, among a database's bytes.
fn source_version(bytes: &[u8], name: &str) -> Option<String> {
    let mark = format!("\0{name}-").into_bytes();
    let mut at = 0;
    while let Some(found) = bytes[at..].windows(mark.len()).position(|window| window == mark) {
        at += found + mark.len();
        let rest = &bytes[at..bytes.len().min(at + 128)];
        let end = rest.iter().position(|byte| *byte == 0).unwrap_or(rest.len());
        let version = std::str::from_utf8(&rest[..end]).ok().and_then(|text| text.strip_suffix(".src.rpm"));
        if let Some(version) = version.filter(|v| v.starts_with(|c: char| c.is_ascii_digit())) {
            return Some(version.to_owned());
        }
    }
    None
}

fn text(image: &Image, arch: Option<Arch>, versions: &Versions, points: &[Point]) -> String {
    let unknown = || "unknown".to_owned();
    let absent = |version: &Option<String>| version.clone().unwrap_or_else(|| "none".to_owned());
    let mut rows = vec![
        ("format", format!("{} ({})", image.format, image.format.layout.disktype())),
        ("architecture", arch.map_or_else(unknown, |arch| arch.to_string())),
        ("system", versions.system.clone()),
        ("layout", image.system()),
        ("podman", absent(&versions.podman)),
        ("crun", absent(&versions.crun)),
        ("ignition", absent(&versions.ignition)),
        ("coracle", absent(&versions.coracle)),
    ];
    for partition in &image.partitions {
        let size = indicatif::BinaryBytes(partition.size);
        let mut row = format!("{}: {size}", partition.number);
        for part in [&partition.file_system, &partition.label, &partition.name] {
            if !part.is_empty() {
                row += &format!(", {part}");
            }
        }
        if image.root == Some(partition.number) {
            row += " (the system)";
        }
        rows.push(("partition", row));
    }
    let mut text: String = rows.iter().map(|(name, value)| format!("{name:<13} {value}\n")).collect();
    text += "contract of podman machine:\n";
    for point in points {
        text +=
            &format!("  {:<7} {}: {}\n", if point.met { "met" } else { "MISSED" }, point.point, point.found);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dpkg_tells_versions_of_what_is_installed() {
        let status = "Package: podman\nStatus: install ok installed\nVersion: 5.4.2+ds1-2\n\n\
                      Package: crun\nStatus: deinstall ok config-files\nVersion: 1\n";
        let packages = Packages::Debian(status.to_owned());
        assert_eq!(packages.version("podman").as_deref(), Some("5.4.2+ds1-2"));
        assert_eq!(packages.version("crun"), None);
        assert_eq!(packages.version("pod"), None);
    }

    #[test]
    fn rpm_tells_versions_by_source_packages() {
        let bytes = b"x\0podman-docker\0podman-tests-5\0\0podman-5.6.2-1.fc42.src.rpm\0podman-9.src.rpm\0";
        assert_eq!(source_version(bytes, "podman").as_deref(), Some("5.6.2-1.fc42"));
        assert_eq!(source_version(bytes, "crun"), None);
    }

    #[test]
    fn the_runtime_tells_its_version() {
        assert_eq!(own_version(b"fieldsCliversion 0.1.0\nspec: 1.3.0\n+SYSTEMD").as_deref(), Some("0.1.0"));
        assert_eq!(own_version(b"version 0.1.0"), None);
    }
}
