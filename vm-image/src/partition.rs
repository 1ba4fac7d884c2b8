//! The partitions of a raw disk, and the file systems on them.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::tool::{self, BLKID, SFDISK};

/// A part of a disk, in bytes.
#[derive(Clone, Debug, Serialize)]
pub struct Partition {
    /// Its place in the partition table, from 1; 0 where the disk has none.
    pub number: usize,
    /// Where it begins, in bytes.
    pub offset: u64,
    /// How long it is, in bytes.
    pub size: u64,
    /// Its type in the table: a GUID (UEFI specification, 5.3.3), or a number in an older table.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its name in the table.
    pub name: String,
    /// What is on it, in blkid(8)'s words; empty if that is unknown.
    pub file_system: String,
    /// The file system's label.
    pub label: String,
}

#[derive(Deserialize)]
struct Listing {
    partitiontable: Table,
}

#[derive(Deserialize)]
struct Table {
    #[serde(default)]
    label: String,
    #[serde(default = "default_sector")]
    sectorsize: u64,
    #[serde(default)]
    partitions: Vec<Row>,
}

#[derive(Deserialize)]
struct Row {
    start: u64,
    size: u64,
    #[serde(rename = "type", default)]
    kind: String,
    #[serde(default)]
    name: String,
}

fn default_sector() -> u64 {
    512
}

/// All partitions of a raw disk, with what is on them. A disk without a table is one partition.
///
/// # Errors
/// The disk cannot be read, or its table is damaged.
pub fn partitions(disk: &Path) -> Result<Vec<Partition>> {
    let size = disk.metadata().with_context(|| disk.display().to_string())?.len();
    let mut all = match tool::output(SFDISK.command().arg("--json").arg(disk)) {
        Ok(json) => table(&json, size)?,
        Err(error) if format!("{error:#}").contains("does not contain a recognized partition table") => {
            Vec::new()
        }
        Err(error) => return Err(error),
    };
    // The boot sector of a file system that has the disk for itself looks like a table with nothing in it.
    if all.is_empty() {
        let (kind, name, file_system, label) = Default::default();
        all.push(Partition { number: 0, offset: 0, size, kind, name, file_system, label });
    }
    for partition in &mut all {
        (partition.file_system, partition.label) = probe(disk, partition)?;
    }
    Ok(all)
}

fn table(json: &[u8], disk: u64) -> Result<Vec<Partition>> {
    let listing: Listing = serde_json::from_slice(json).context("the partition table, as sfdisk shows it")?;
    let Table { label, sectorsize: sector, partitions } = listing.partitiontable;
    // The part of a GUID table that is for older programs; a valid one has precedence.
    ensure!(
        label != "dos" || partitions.iter().all(|row| row.kind != "ee"),
        "the partition table is damaged, or the image is truncated"
    );
    let rows = partitions.into_iter().enumerate();
    rows.map(|(index, row)| {
        let number = index + 1;
        let (offset, size) = (row.start.saturating_mul(sector), row.size.saturating_mul(sector));
        ensure!(
            offset.checked_add(size).is_some_and(|end| end <= disk),
            "partition {number} ends after the disk: the image is truncated"
        );
        let (file_system, label) = Default::default();
        Ok(Partition { number, offset, size, kind: row.kind, name: row.name, file_system, label })
    })
    .collect()
}

fn probe(disk: &Path, partition: &Partition) -> Result<(String, String)> {
    let mut blkid = BLKID.command();
    blkid
        .args(["--probe", "--output", "export", "--usages", "filesystem,raid,crypto,other"])
        .args(["--offset", &partition.offset.to_string(), "--size", &partition.size.to_string()])
        .arg(disk);
    // It fails, saying nothing, when it knows nothing.
    let told = match tool::output(&mut blkid) {
        Ok(told) => String::from_utf8_lossy(&told).into_owned(),
        Err(error) => {
            crate::interrupt::check()?;
            drop(error);
            String::new()
        }
    };
    let value = |key: &str| {
        let line = told.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        // Shells read this: what they would not like has a backslash.
        line.unwrap_or_default().replace('\\', "")
    };
    Ok((value("TYPE"), value("LABEL")))
}

#[cfg(test)]
mod tests {
    use super::table;

    #[test]
    fn a_table_is_read_in_bytes() {
        let json = br#"{"partitiontable": {"label": "gpt", "sectorsize": 4096, "partitions": [
            {"node": "d1", "start": 2, "size": 3, "type": "A", "name": "root"}]}}"#;
        let all = table(json, 20480).unwrap();
        assert_eq!((all[0].number, all[0].offset, all[0].size), (1, 8192, 12288));
        assert_eq!(all[0].name, "root");
    }

    #[test]
    fn a_truncated_disk_is_an_error() {
        let json = br#"{"partitiontable": {"partitions": [{"start": 2, "size": 3}]}}"#;
        assert!(table(json, 5 * 512).is_ok());
        let error = table(json, 5 * 512 - 1).unwrap_err().to_string();
        assert!(error.contains("partition 1") && error.contains("truncated"), "{error}");
        // What sfdisk shows of one with a GUID table.
        let json =
            br#"{"partitiontable": {"label": "dos", "partitions": [{"start": 1, "size": 3, "type": "ee"}]}}"#;
        assert!(table(json, 4 * 512).unwrap_err().to_string().contains("truncated"));
    }
}
