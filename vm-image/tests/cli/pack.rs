//! pack: an OCI layout as podman machine pulls it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::common::{AARCH64, Host, Run, Tree, digest, head, image, shell, tool};

fn pack(host: &Host, images: &[&str]) -> Result<Run> {
    let arguments = [&["--json", "pack", "--output", "layout", "--tag", "5.8"], images].concat();
    let run = host.run(&arguments)?;
    ensure!(host.path("layout").exists() == (run.code == Some(0)), "{run:?}");
    Ok(run)
}

/// A layout that is looked at as the image specification says.
struct Layout {
    directory: PathBuf,
    used: BTreeSet<String>,
}

impl Layout {
    /// The file that a descriptor names, whose digest and size are right.
    fn file(&mut self, descriptor: &Value) -> Result<PathBuf> {
        let name = descriptor["digest"].as_str().and_then(|d| d.strip_prefix("sha256:")).context("digest")?;
        let path = self.directory.join("blobs/sha256").join(name);
        assert_eq!(descriptor["size"], fs::metadata(&path)?.len(), "{descriptor}");
        ensure!(digest(&path)?.starts_with(name), "{name}: other contents");
        self.used.insert(name.to_owned());
        Ok(path)
    }

    fn json(&mut self, descriptor: &Value) -> Result<Value> {
        Ok(serde_json::from_slice(&fs::read(self.file(descriptor)?)?)?)
    }

    /// All manifests, each with its descriptor, after everything that they name was looked at.
    fn check(directory: &Path, tag: &str) -> Result<Vec<(Value, Value)>> {
        let mut it = Self { directory: directory.to_owned(), used: BTreeSet::new() };
        let read =
            |name: &str| -> Result<Value> { Ok(serde_json::from_slice(&fs::read(directory.join(name))?)?) };
        assert_eq!(read("oci-layout")?, json!({ "imageLayoutVersion": "1.0.0" }));
        let top = read("index.json")?;
        assert_eq!((&top["schemaVersion"], top["manifests"].as_array().map(Vec::len)), (&json!(2), Some(1)));
        let entry = &top["manifests"][0];
        assert_eq!(entry["mediaType"], "application/vnd.oci.image.index.v1+json");
        assert_eq!(entry["annotations"]["org.opencontainers.image.ref.name"], tag);
        let index = it.json(entry)?;
        assert_eq!(index["mediaType"], entry["mediaType"]);
        let mut manifests = Vec::new();
        for descriptor in index["manifests"].as_array().context("manifests")? {
            let manifest = it.json(descriptor)?;
            assert_eq!(descriptor["mediaType"], "application/vnd.oci.image.manifest.v1+json");
            assert_eq!(
                (&manifest["schemaVersion"], &manifest["mediaType"]),
                (&json!(2), &descriptor["mediaType"])
            );
            assert_eq!(manifest["config"]["mediaType"], "application/vnd.oci.empty.v1+json");
            assert_eq!(fs::read(it.file(&manifest["config"])?)?, b"{}");
            assert_eq!(manifest["layers"].as_array().map(Vec::len), Some(1), "podman takes one file");
            it.file(&manifest["layers"][0])?;
            manifests.push((descriptor.clone(), manifest));
        }
        let there = fs::read_dir(directory.join("blobs/sha256"))?;
        let there = there
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect::<Result<_>>()?;
        assert_eq!(it.used, there, "a blob that nothing names");
        Ok(manifests)
    }
}

/// What podman chooses by, and how it names its copy.
fn chosen_by((descriptor, manifest): &(Value, Value)) -> [String; 5] {
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let layer = &manifest["layers"][0];
    [
        word(&descriptor["platform"]["os"]),
        word(&descriptor["platform"]["architecture"]),
        word(&descriptor["annotations"]["disktype"]),
        word(&layer["mediaType"]),
        word(&layer["annotations"]["org.opencontainers.image.title"]),
    ]
}

#[test]
fn an_image_becomes_a_layout() -> Result<()> {
    let host = Host::new()?;
    let packed = image(&host, &Tree::new(&host)?, "machine.qcow2.zst")?;
    let report = pack(&host, &["machine.qcow2.zst"])?.ok()?.json()?;
    let manifests = Layout::check(&host.path("layout"), "5.8")?;
    let expected = ["linux", "x86_64", "qemu", "application/zstd", "coracle-machine.x86_64.qemu.qcow2.zst"]
        .map(str::to_owned);
    assert_eq!(manifests.iter().map(chosen_by).collect::<Vec<_>>(), [expected]);
    // What is compressed already is taken as it is.
    let layer = manifests[0].1["layers"][0]["digest"].as_str().context("digest")?;
    ensure!(digest(&packed)?.starts_with(&layer["sha256:".len()..]));
    assert_eq!(report["images"][0]["digest"], manifests[0].0["digest"]);
    assert_eq!((&report["output"], &report["tag"]), (&json!("layout"), &json!("5.8")));
    Ok(())
}

#[test]
fn several_images_are_in_one_index() -> Result<()> {
    let host = Host::new()?;
    let tree = Tree::new(&host)?;
    image(&host, &tree, "a.qcow2.zst")?;
    image(&host, &tree, "a.raw.gz")?;
    image(&host, &tree, "a.vhdx.xz")?;
    tool(Command::new("tar").arg("-cf").arg(host.path("a.tar")).arg("-C").arg(&tree.0).arg("."))?;
    tree.program("usr/bin/podman", AARCH64)?;
    image(&host, &tree, "b.qcow2")?;
    pack(&host, &["a.qcow2.zst", "a.raw.gz", "a.vhdx.xz", "a.tar", "b.qcow2"])?.ok()?;
    let manifests = Layout::check(&host.path("layout"), "5.8")?;
    let chosen: Vec<_> = manifests.iter().map(|manifest| chosen_by(manifest)[1..].join(" ")).collect();
    let expected = [
        "x86_64 qemu application/zstd coracle-machine.x86_64.qemu.qcow2.zst",
        "x86_64 applehv application/gzip coracle-machine.x86_64.applehv.raw.gz",
        "x86_64 hyperv application/x-xz coracle-machine.x86_64.hyperv.vhdx.xz",
        "x86_64 wsl application/zstd coracle-machine.x86_64.wsl.tar.zst",
        "aarch64 qemu application/zstd coracle-machine.aarch64.qemu.qcow2.zst",
    ];
    assert_eq!(chosen, expected);
    Ok(())
}

#[test]
fn what_is_not_compressed_is_compressed() -> Result<()> {
    let host = Host::new()?;
    let disk = image(&host, &Tree::new(&host)?, "machine.qcow2")?;
    pack(&host, &["machine.qcow2"])?.ok()?;
    let manifests = Layout::check(&host.path("layout"), "5.8")?;
    let layer = manifests[0].1["layers"][0]["digest"].as_str().context("digest")?;
    let blob = host.path("layout/blobs/sha256").join(&layer["sha256:".len()..]);
    assert_eq!(head(&blob, 4)?, [0x28, 0xb5, 0x2f, 0xfd]);
    shell("zstd -q -d --long=27 -c <\"$1\" | cmp - \"$2\"", &[&blob, &disk])?;
    Ok(())
}

#[test]
fn a_prefix_names_the_machine_of_what_is_not_looked_into() -> Result<()> {
    let host = Host::new()?;
    let tree = Tree::new(&host)?;
    tree.remove("usr/bin/podman")?;
    image(&host, &tree, "machine.qcow2.zst")?;
    pack(&host, &["machine.qcow2.zst"])?.refuses(&[
        "machine.qcow2.zst: cannot tell which machine",
        "x86_64:",
        "aarch64:",
    ])?;
    pack(&host, &["arm64:machine.qcow2.zst"])?.ok()?;
    let manifests = Layout::check(&host.path("layout"), "5.8")?;
    assert_eq!(chosen_by(&manifests[0])[1], "aarch64");
    Ok(())
}

#[test]
fn two_images_for_one_machine_and_provider() -> Result<()> {
    let host = Host::new()?;
    let tree = Tree::new(&host)?;
    image(&host, &tree, "a.qcow2.zst")?;
    image(&host, &tree, "b.qcow2.xz")?;
    let run = pack(&host, &["a.qcow2.zst", "b.qcow2.xz"])?;
    run.refuses(&["b.qcow2.xz: a second image for qemu on x86_64"])?;
    // They differ by what they are said to be for.
    pack(&host, &["a.qcow2.zst", "aarch64:b.qcow2.xz"])?.ok()?;
    assert_eq!(Layout::check(&host.path("layout"), "5.8")?.len(), 2);
    Ok(())
}

#[test]
fn an_output_that_exists_stays() -> Result<()> {
    let host = Host::new()?;
    image(&host, &Tree::new(&host)?, "machine.qcow2.zst")?;
    fs::create_dir(host.path("layout"))?;
    fs::write(host.path("layout/file"), "")?;
    let run = host.run(&["pack", "--output", "layout", "machine.qcow2.zst"])?;
    run.refuses(&["layout: exists already"])?;
    assert_eq!(fs::read_dir(host.path("layout"))?.count(), 1);
    host.run(&["pack", "--output", "a/b", "machine.qcow2.zst"])?.refuses(&["a: no such directory"])
}

#[test]
fn what_is_no_image() -> Result<()> {
    let host = Host::new()?;
    fs::write(host.path("text.qcow2"), "text")?;
    pack(&host, &["x86_64:text.qcow2"])?.refuses(&["text.qcow2: neither a disk image nor an archive"])?;
    pack(&host, &["absent.qcow2"])?.refuses(&["absent.qcow2: No such file or directory"])
}

#[test]
fn people_read_how_to_push_it() -> Result<()> {
    let host = Host::new()?;
    image(&host, &Tree::new(&host)?, "machine.qcow2.zst")?;
    let run = host.run(&["pack", "--output", "layout", "machine.qcow2.zst"])?.ok()?;
    ensure!(run.stdout.contains("  qemu x86_64: machine.qcow2.zst\n"), "{run:?}");
    ensure!(run.stdout.contains("skopeo copy --all oci:layout:latest docker://"), "{run:?}");
    Layout::check(&host.path("layout"), "latest")?;
    Ok(())
}
