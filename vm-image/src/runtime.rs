//! What Coracle is inside an image: which files, and where.
//!
//! The same for a new image and for one it is put into, so that it works the same there.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use crate::arch::Arch;
use crate::filesystem::What;

/// The programs, the runtime first. Each finds the others beside itself.
const PROGRAMS: [&str; 3] = ["coracle", "coracle-wasi", "coracle-wasmc"];

/// Where they are in an image. `/usr/local` is the administrator's, so that no package's update takes them away, and a
/// part of `/var` where `/usr` is the image's alone. SELinux lets a container start what is in a `bin`.
pub const DIRECTORY: &str = "/usr/local/lib/coracle/bin";

/// The names engines call the runtime by.
pub const COMMANDS: [&str; 2] = ["/usr/local/bin/coracle", "/usr/local/bin/coracle-wasm"];

/// Podman's configuration, twice: podman 4 and 5 read drop-ins in /etc alone; podman 6 mounts the host's configuration
/// over that directory, and reads those of the image here.
pub const CONFIGURATION: [&str; 2] = [
    "/etc/containers/containers.conf.d/10-coracle.conf",
    "/usr/share/containers/containers.conf.d/10-coracle.conf",
];

/// Coracle's programs on this host.
pub struct Programs([PathBuf; 3]);

impl Programs {
    /// Finds them: in a directory, or else beside this program and where `make install` puts them.
    ///
    /// # Errors
    /// One is missing, or they are for another machine than the image.
    pub fn find(directory: Option<&Path>, arch: Arch) -> Result<Self> {
        let own = std::env::current_exe().context("where this program is")?;
        let beside = own.parent().unwrap_or(Path::new("/"));
        let places = match directory {
            Some(directory) => vec![directory.to_owned()],
            None => vec![beside.to_owned(), beside.join("../libexec/coracle")],
        };
        let find = |name: &str| -> Result<PathBuf> {
            let found = places.iter().map(|place| place.join(name)).find(|path| path.is_file());
            let found = found.with_context(|| {
                let hint = match directory {
                    Some(_) => "",
                    None => "; name their directory with --programs",
                };
                let places: Vec<_> = places.iter().map(|place| place.display().to_string()).collect();
                format!("there is no {name} in {}{hint}", places.join(" or "))
            })?;
            let is_for = Arch::of_program(&found)?;
            if is_for != arch {
                bail!(
                    "{} is for {is_for}, the image for {arch}: name a directory with programs for {arch} with --programs",
                    found.display()
                );
            }
            Ok(found)
        };
        let [runtime, wasi, compiler] = PROGRAMS.map(find);
        Ok(Self([runtime?, wasi?, compiler?]))
    }

    /// How many bytes they are.
    ///
    /// # Errors
    /// One is gone.
    pub fn size(&self) -> Result<u64> {
        self.0.iter().map(|path| Ok(path.metadata()?.len())).sum()
    }
}

/// Podman's drop-in that makes Coracle the default, and what runs images of the platform wasi/wasm: the packaged one with its
/// choice made.
///
/// # Errors
/// The packaged one has no place for the choice.
pub fn configuration() -> Result<String> {
    let packaged = include_str!("../../packaging/podman/containers.conf");
    let (place, choice) = ("# runtime = \"coracle\"", "runtime = \"coracle\"");
    ensure!(packaged.contains(place), "the packaged containers.conf has no {place}");
    Ok(packaged.replace(place, choice))
}

/// Everything that Coracle is in an image. `scratch` is a directory for files that are made up on the way.
///
/// # Errors
/// Such a file cannot be written.
pub fn files(programs: &Programs, scratch: &Path) -> Result<Vec<(String, What)>> {
    let mut files = Vec::new();
    for (name, source) in PROGRAMS.iter().zip(&programs.0) {
        files.push((format!("{DIRECTORY}/{name}"), What::File(source.clone(), 0o755)));
    }
    for command in COMMANDS {
        files.push((command.to_owned(), What::Link("../lib/coracle/bin/coracle".to_owned())));
    }
    let drop_in = scratch.join("containers.conf");
    fs::write(&drop_in, configuration()?)?;
    for place in CONFIGURATION {
        files.push((place.to_owned(), What::File(drop_in.clone(), 0o644)));
    }
    Ok(files)
}

/// The SELinux label of one of these files (`path` has no links in it), in the reference policy's words: programs as those
/// of packages, so that podman's domain may start the runtime and a container's the handlers.
pub fn label(path: &str) -> Option<String> {
    let kind = if path.contains("/bin/") || path.ends_with("/bin") {
        "bin_t"
    } else if path.starts_with("/etc/") {
        "etc_t"
    } else if path.contains("/lib/") {
        "lib_t"
    } else {
        "usr_t"
    };
    Some(format!("system_u:object_r:{kind}:s0"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_drop_in_makes_the_choice() {
        let text = configuration().unwrap();
        assert!(text.lines().any(|line| line == "runtime = \"coracle\""), "{text}");
        for command in COMMANDS {
            assert!(text.contains(&format!("\"{command}\"")), "{command} in {text}");
        }
    }

    #[test]
    fn labels_are_those_of_packages_files() {
        let kind = |path| label(path).unwrap().split(':').nth(2).unwrap().to_owned();
        assert_eq!(kind("/var/usrlocal/lib/coracle/bin/coracle-wasi"), "bin_t");
        assert_eq!(kind("/var/usrlocal/bin/coracle"), "bin_t");
        assert_eq!(kind("/var/usrlocal/lib/coracle"), "lib_t");
        assert_eq!(kind("/etc/containers/containers.conf.d/10-coracle.conf"), "etc_t");
        assert_eq!(kind("/usr/share/containers/containers.conf.d"), "usr_t");
    }
}
