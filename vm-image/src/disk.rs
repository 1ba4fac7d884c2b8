//! A disk that boots, from a root tree: a GUID partition table with GRUB for BIOS (x86_64) and UEFI, and ext4.
//!
//! Everything is written into a file; nothing is mounted and there is no loop device, so it works in a container.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, bail, ensure};

use crate::arch::Arch;
use crate::tool::{self, GRUB_MKIMAGE, MCOPY, MKE2FS, MKFS_VFAT, MMD, SFDISK, Tool};
use crate::{format, partition, progress};

/// The programs that [`make`] takes.
pub const TOOLS: [Tool; 6] = [GRUB_MKIMAGE, MCOPY, MKE2FS, MKFS_VFAT, MMD, SFDISK];

/// The root file system's label.
const LABEL: &str = "podman-machine";

const SECTOR: u64 = 512;
const MIB: u64 = 1 << 20;

/// Where GRUB's second stage for BIOS is, in bytes: a partition of its own, as GPT leaves no room before the first.
const CORE: u64 = MIB;
const CORE_SIZE: u64 = MIB;
/// Where the EFI system partition is.
const ESP: u64 = CORE + CORE_SIZE;
const ESP_SIZE: u64 = 16 * MIB;
/// Where the root file system is.
const ROOT: u64 = ESP + ESP_SIZE;
/// What a GUID partition table's copy takes at the end.
const TAIL: u64 = MIB;

/// Partition types (UEFI specification, 5.3.3; The Discoverable Partitions Specification).
const BIOS_TYPE: &str = "21686148-6449-6E6F-744E-656564454649";
const ESP_TYPE: &str = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B";

fn root_type(arch: Arch) -> &'static str {
    match arch {
        Arch::X86_64 => "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709",
        Arch::Aarch64 => "B921B045-1DF0-41C3-AF44-4C6F280D3FAE",
    }
}

/// Bytes inside GRUB's first sector and its second stage (grub-core/boot/i386/pc/boot.S, diskboot.S): the sector the
/// first loads, the jump that checks for a floppy drive, and the list of blocks at the end of the second's first sector.
mod grub {
    pub const BOOT_CODE: usize = 440;
    pub const KERNEL_SECTOR: usize = 0x5c;
    pub const DRIVE_CHECK: usize = 0x66;
    pub const BLOCK_LIST: usize = 0x1f4;
    /// Segment the rest of the second stage is loaded to.
    pub const KERNEL_SEGMENT: u16 = 0x820;
}

/// GRUB's files for this machine, and the Debian package they are in, which exists for such machines alone.
fn grub_files(arch: Arch) -> &'static [(&'static str, &'static str)] {
    match arch {
        Arch::X86_64 => &[
            ("/usr/lib/grub/i386-pc/boot.img", "grub-pc-bin:amd64"),
            ("/usr/lib/grub/x86_64-efi/normal.mod", "grub-efi-amd64-bin:amd64"),
        ],
        Arch::Aarch64 => &[("/usr/lib/grub/arm64-efi/normal.mod", "grub-efi-arm64-bin:arm64")],
    }
}

/// Fails unless the host has what [`make`] takes.
///
/// # Errors
/// Says which Debian packages are missing.
pub fn check_host(arch: Arch) -> Result<()> {
    tool::require(&TOOLS)?;
    tool::require_files(grub_files(arch))
}

/// Makes a raw disk of `size` bytes in `work` from a root tree.
///
/// # Errors
/// The tree does not fit, or one of the tools fails.
pub fn make(tree: &Path, arch: Arch, size: u64, work: &Path) -> Result<PathBuf> {
    let disk = work.join("disk.raw");
    let file = File::create(&disk)?;
    file.set_len(size)?;
    {
        let _step = progress::step("partitioning the disk");
        write_table(&disk, arch)?;
        write_boot_loader(&file, arch, work)?;
    }
    let _step = progress::step("making the root file system");
    let available = size.checked_sub(ROOT + TAIL).context("the disk is too small for its partitions")?;
    let mut mke2fs = MKE2FS.command();
    mke2fs
        .args(["-q", "-t", "ext4", "-L", LABEL])
        // Older GRUBs, and the tools of older hosts, know neither.
        .args(["-O", "^metadata_csum_seed,^orphan_file"])
        .arg("-E")
        .arg(format!("offset={ROOT},lazy_itable_init=1,lazy_journal_init=1,root_owner=0:0"))
        .arg("-d")
        .arg(tree)
        .arg(&disk)
        .arg(format!("{}k", available / 4096 * 4))
        .stdout(Stdio::null());
    tool::run(&mut mke2fs).context("does the tree fit? --disk-size makes the disk larger")?;
    Ok(disk)
}

/// Writes GRUB's configuration into a root tree. The kernel is found by Debian's links, which follow its updates.
///
/// # Errors
/// The tree has no kernel, or cannot be written to.
pub fn write_menu(tree: &Path, arch: Arch) -> Result<()> {
    for link in ["vmlinuz", "initrd.img"] {
        ensure!(tree.join(link).exists(), "the tree has no /{link}");
    }
    let console = match arch {
        Arch::X86_64 => "console=tty0 console=ttyS0,115200",
        Arch::Aarch64 => "console=tty0 console=ttyAMA0",
    };
    fs::create_dir_all(tree.join("boot/grub"))?;
    let menu = format!(
        "set timeout=0\n\
         search --no-floppy --set=root --label {LABEL}\n\
         linux /vmlinuz root=LABEL={LABEL} rw {console} net.ifnames=0 quiet\n\
         initrd /initrd.img\n\
         boot\n"
    );
    fs::write(tree.join("boot/grub/grub.cfg"), menu)?;
    Ok(())
}

fn write_table(disk: &Path, arch: Arch) -> Result<()> {
    let sectors = |bytes: u64| bytes / SECTOR;
    let mut table = format!("label: gpt\nfirst-lba: {}\n", 34);
    if arch == Arch::X86_64 {
        table +=
            &format!("start={}, size={}, type={BIOS_TYPE}, name=bios\n", sectors(CORE), sectors(CORE_SIZE));
    }
    table += &format!("start={}, size={}, type={ESP_TYPE}, name=esp\n", sectors(ESP), sectors(ESP_SIZE));
    let size = sectors(disk.metadata()?.len().saturating_sub(ROOT + TAIL)) / 8 * 8;
    table += &format!("start={}, size={size}, type={}, name=root\n", sectors(ROOT), root_type(arch));
    let mut sfdisk = SFDISK.command();
    sfdisk.args(["--quiet"]).arg(disk).stdin(Stdio::piped()).stdout(Stdio::null());
    tool::watch(&mut sfdisk, |child| {
        child.stdin.take().context("standard input")?.write_all(table.as_bytes())?;
        Ok(())
    })
}

fn write_boot_loader(disk: &File, arch: Arch, work: &Path) -> Result<()> {
    let early = work.join("early.cfg");
    fs::write(
        &early,
        format!(
            "search --no-floppy --set=root --label {LABEL}\n\
             set prefix=($root)/boot/grub\n\
             configfile $prefix/grub.cfg\n"
        ),
    )?;
    let image = |platform: &str, prefix: &str, modules: &str| -> Result<PathBuf> {
        let output = work.join(platform);
        let mut mkimage = GRUB_MKIMAGE.command();
        mkimage.args(["-O", platform, "-d"]).arg(format!("/usr/lib/grub/{platform}"));
        mkimage.arg("-c").arg(&early).arg("-o").arg(&output).args(["-p", prefix]);
        tool::run(mkimage.args(modules.split(' ')))?;
        Ok(output)
    };
    let common = "part_gpt ext2 search search_label normal configfile linux boot echo";
    let (platform, program) = match arch {
        Arch::X86_64 => {
            let core = image("i386-pc", "/boot/grub", &format!("biosdisk {common}"))?;
            write_bios(disk, &fs::read("/usr/lib/grub/i386-pc/boot.img")?, &fs::read(core)?)?;
            ("x86_64-efi", "BOOTX64.EFI")
        }
        Arch::Aarch64 => ("arm64-efi", "BOOTAA64.EFI"),
    };
    let efi = image(platform, "/EFI/BOOT", &format!("fat {common}"))?;
    let esp = work.join("esp");
    File::create(&esp)?.set_len(ESP_SIZE)?;
    // The same serial number every time: mkfs.vfat(8) takes it from the clock.
    tool::run(MKFS_VFAT.command().args(["-n", "ESP", "-i", "C04AC1E0"]).arg(&esp).stdout(Stdio::null()))?;
    tool::run(MMD.command().arg("-i").arg(&esp).args(["::/EFI", "::/EFI/BOOT"]))?;
    tool::run(MCOPY.command().arg("-i").arg(&esp).arg(&efi).arg(format!("::/EFI/BOOT/{program}")))?;
    disk.write_all_at(&fs::read(&esp)?, ESP)?;
    Ok(())
}

/// What grub-install does for BIOS: code into the first sector beside the partition table, and the second stage into its
/// partition with a list of where its blocks are.
fn write_bios(disk: &File, boot: &[u8], core: &[u8]) -> Result<()> {
    let mut boot = boot.get(..grub::BOOT_CODE).context("boot.img is too short")?.to_vec();
    let mut core = core.to_vec();
    let sector = CORE / SECTOR;
    boot[grub::KERNEL_SECTOR..grub::KERNEL_SECTOR + 8].copy_from_slice(&sector.to_le_bytes());
    // Two NOPs: BIOSes may say nonsense of the drive they boot from, but a machine has no floppy disk.
    boot[grub::DRIVE_CHECK..grub::DRIVE_CHECK + 2].copy_from_slice(&[0x90, 0x90]);
    let length = core.len() as u64;
    if !(SECTOR..=CORE_SIZE).contains(&length) {
        bail!("GRUB's second stage is {length} bytes long, which does not fit");
    }
    let rest = u16::try_from(length.div_ceil(SECTOR) - 1)?;
    let list = &mut core[grub::BLOCK_LIST..grub::BLOCK_LIST + 12];
    list[..8].copy_from_slice(&(sector + 1).to_le_bytes());
    list[8..10].copy_from_slice(&rest.to_le_bytes());
    list[10..].copy_from_slice(&grub::KERNEL_SEGMENT.to_le_bytes());
    disk.write_all_at(&boot, 0)?;
    disk.write_all_at(&core, CORE)?;
    Ok(())
}

/// What boots a raw disk: BIOS code, and programs on an EFI system partition.
///
/// # Errors
/// It cannot be read.
pub fn boots(disk: &Path, partitions: &[partition::Partition]) -> Result<(bool, bool)> {
    let first = format::read_at(disk, 0, SECTOR as usize)?;
    // GRUB's sector says so; others begin with a jump too.
    let bios = matches!(first[0], 0xeb | 0xfa | 0x33) && first[..grub::BOOT_CODE].iter().any(|b| *b != 0);
    let uefi = partitions.iter().any(|p| p.kind.eq_ignore_ascii_case(ESP_TYPE) || p.kind == "ef");
    Ok((bios, uefi))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grub_finds_its_second_stage() {
        let disk = tempfile::tempfile().unwrap();
        write_bios(&disk, &[1; 512], &[2; 1025]).unwrap();
        let mut first = [0; 512];
        disk.read_exact_at(&mut first, 0).unwrap();
        assert_eq!(first[0x5c..0x64], 2048_u64.to_le_bytes());
        assert_eq!(first[440..], [0; 72], "the partition table's place is left alone");
        let mut core = [0; 512];
        disk.read_exact_at(&mut core, MIB).unwrap();
        assert_eq!(core[0x1f4..0x1fc], 2049_u64.to_le_bytes());
        assert_eq!(core[0x1fc..], [2, 0, 0x20, 0x08], "two more sectors, to 0x8200");
    }

    #[test]
    fn a_second_stage_that_is_too_large_is_refused() {
        let disk = tempfile::tempfile().unwrap();
        assert!(write_bios(&disk, &[1; 512], &vec![2; CORE_SIZE as usize + 1]).is_err());
        assert!(write_bios(&disk, &[1; 512], &[2; 100]).is_err());
        assert!(write_bios(&disk, &[1; 100], &[2; 1024]).is_err());
    }
}
