//! `spec`: a config.json to start from, the same as runc's.
//!
//! It is written as text, for a reader: through a parser, sets such as the capabilities would come out in any
//! order.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use rustix::process::{getegid, geteuid};

use crate::cgroup;
use crate::cli::Global;
use crate::error::{Error, Os};

const FILE: &str = "config.json";
const TEMPLATE: &str = include_str!("spec.json");

/// Options of `spec`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Directory that config.json is written to
    #[arg(long, short, value_name = "DIR", default_value = ".")]
    bundle: PathBuf,
    /// Name of the file, in that directory
    #[arg(long, short, value_name = "FILE", default_value = FILE)]
    file: PathBuf,
    /// Write a configuration that an ordinary user can run
    #[arg(long)]
    rootless: bool,
}

/// Writes config.json into the bundle, unless there is one.
///
/// # Errors
/// The file exists or cannot be written.
pub fn run(args: &Args, _global: &Global) -> Result<u8, Error> {
    let path = args.bundle.join(&args.file);
    let mut text =
        if args.rootless { rootless(geteuid().as_raw(), getegid().as_raw()) } else { TEMPLATE.to_owned() };
    if cgroup::is_unified() {
        text = with_cgroup_namespace(&text);
    }
    write(&path, &text)?;
    Ok(0)
}

/// On cgroup v2 runc's configuration hides the host's part of the container's cgroup path.
fn with_cgroup_namespace(text: &str) -> String {
    let cgroup = "\"type\": \"cgroup\"\n\t\t\t},\n\t\t\t{\n\t\t\t\t";
    text.replace("\"type\": \"mount\"\n", &format!("{cgroup}\"type\": \"mount\"\n"))
}

fn write(path: &Path, text: &str) -> Result<(), Error> {
    let failed = |error: io::Error| Error::new(format_args!("{}: {}", path.display(), Os(error)));
    match File::create_new(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let name = path.file_name().unwrap_or_default().display();
            Err(Error::new(format_args!("File {name} exists. Remove it first")))
        }
        result => result.and_then(|mut file| file.write_all(text.as_bytes())).map_err(failed),
    }
}

/// What an ordinary user may not have goes: a network namespace without anybody to set it up, a group that is
/// not mapped, a sysfs of one's own, and limits.
fn rootless(uid: u32, gid: u32) -> String {
    let root_is = |id| {
        format!(
            "[\n\t\t\t{{\n\t\t\t\t\"containerID\": 0,\n\t\t\t\t\"hostID\": {id},\n\t\t\t\t\"size\": 1\n\t\t\t}}\n\t\t]"
        )
    };
    let mappings =
        format!("\"uidMappings\": {},\n\t\t\"gidMappings\": {},\n\t\t", root_is(uid), root_is(gid));
    let mut text = TEMPLATE
        .replace(",\n\t\t\t\t\"gid=5\"", "")
        .replace(
            "\"type\": \"sysfs\",\n\t\t\t\"source\": \"sysfs\",\n\t\t\t\"options\": [\n",
            "\"type\": \"none\",\n\t\t\t\"source\": \"/sys\",\n\t\t\t\"options\": [\n\t\t\t\t\"rbind\",\n",
        )
        .replace("\t\t\t{\n\t\t\t\t\"type\": \"network\"\n\t\t\t},\n", "")
        .replace(
            "\"type\": \"mount\"\n",
            "\"type\": \"mount\"\n\t\t\t},\n\t\t\t{\n\t\t\t\t\"type\": \"user\"\n",
        );
    if let (Some(start), Some(end)) = (text.find("\"resources\""), text.find("\"namespaces\"")) {
        text.replace_range(start..end, &mappings);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::Spec;
    use serde_json::{Value, json};

    #[test]
    fn the_template_is_understood_and_supported() {
        let spec: Spec = serde_json::from_str(TEMPLATE).unwrap();
        assert_eq!(spec.version(), crate::commands::features::OCI_VERSION);
        crate::rootfs::check(&spec).unwrap();
    }

    #[test]
    fn rootless_asks_for_nothing_of_the_host_s() {
        let text = rootless(1000, 1001);
        let spec: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(spec["linux"]["uidMappings"], json!([{ "containerID": 0, "hostID": 1000, "size": 1 }]));
        assert_eq!(spec["linux"]["gidMappings"], json!([{ "containerID": 0, "hostID": 1001, "size": 1 }]));
        let kinds: Vec<_> =
            spec["linux"]["namespaces"].as_array().unwrap().iter().map(|n| &n["type"]).collect();
        assert_eq!(kinds, ["pid", "ipc", "uts", "mount", "user"]);
        assert_eq!(spec["linux"].get("resources"), None);
        assert_eq!(
            spec["mounts"][5],
            json!({ "destination": "/sys", "type": "none", "source": "/sys",
                    "options": ["rbind", "nosuid", "noexec", "nodev", "ro"] })
        );
        assert!(!text.contains("gid=5"));
    }

    #[test]
    fn a_cgroup_namespace_is_one_more_namespace() {
        for text in [TEMPLATE.to_owned(), rootless(1000, 1000)] {
            let count = |text: &str| {
                let spec: Spec = serde_json::from_str(text).unwrap();
                spec.linux().as_ref().unwrap().namespaces().as_ref().unwrap().len()
            };
            let with = with_cgroup_namespace(&text);
            assert!(with.contains("\"cgroup\"\n"));
            assert_eq!(count(&with), count(&text) + 1);
        }
    }

    #[test]
    fn an_existing_file_is_kept() {
        let bundle = tempfile::tempdir().unwrap();
        let path = bundle.path().join(FILE);
        write(&path, "one").unwrap();
        assert_eq!(write(&path, "two").unwrap_err().to_string(), "File config.json exists. Remove it first");
        assert_eq!(std::fs::read(&path).unwrap(), b"one");
        let missing = bundle.path().join("none/config.json");
        assert!(write(&missing, "").unwrap_err().to_string().ends_with("no such file or directory"));
    }
}
