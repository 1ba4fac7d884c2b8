//! Debian as a guest of podman machine: which packages, and what is changed after they are installed.
//!
//! The contract is in docs/podman-machine.md. What podman's Ignition configuration writes, it does not overwrite, so nothing
//! of ours is at those paths.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps};
use walkdir::WalkDir;

use crate::arch::Arch;
use crate::tool::{self, MMDEBSTRAP};
use crate::{overlay, progress};

/// Everything a guest needs, without recommendations.
const PACKAGES: &[&str] = &[
    // The system.
    "dbus",
    "dbus-user-session",
    "iproute2",
    "less",
    "libpam-systemd",
    "polkitd",
    "procps",
    "systemd",
    "systemd-sysv",
    "tzdata",
    // What podman machine talks to.
    "openssh-server",
    "sudo",
    // Containers, also rootless.
    "aardvark-dns",
    "ca-certificates",
    "catatonit",
    "conmon",
    "crun",
    "fuse-overlayfs",
    "iptables",
    "netavark",
    "nftables",
    "passt",
    "podman",
    "uidmap",
];

/// What a disk that boots needs besides, and the kernel.
const MACHINE_PACKAGES: &[&str] = &[
    "busybox-static",
    "e2fsprogs",
    "ignition",
    "initramfs-tools",
    "kmod",
    "libnss-resolve",
    "socat",
    "systemd-repart",
    "systemd-resolved",
    "zstd",
];

/// Drivers of the kernel for hardware that no virtual machine has, or has without any use for it: they take room, and time at
/// the start. Debian's kernel for clouds lacks 9p, by which podman machine 4 mounts volumes.
const NO_DRIVERS: &[&str] = &[
    "drivers/accel/*",
    "drivers/accessibility/*",
    "drivers/ata/*",
    "drivers/atm/*",
    "drivers/bcma/*",
    "drivers/block/floppy.*",
    "drivers/bluetooth/*",
    "drivers/char/ppdev.*",
    "drivers/comedi/*",
    "drivers/crypto/*",
    "drivers/edac/*",
    "drivers/extcon/*",
    "drivers/firewire/*",
    "drivers/gnss/*",
    "drivers/gpio/*",
    "drivers/gpu/*",
    "drivers/hid/*",
    "drivers/hwmon/*",
    "drivers/hwtracing/*",
    "drivers/i2c/*",
    "drivers/iio/*",
    "drivers/infiniband/*",
    "drivers/input/*",
    "drivers/isdn/*",
    "drivers/leds/*",
    "drivers/media/*",
    "drivers/memstick/*",
    "drivers/message/*",
    "drivers/mfd/*",
    "drivers/mmc/*",
    "drivers/mtd/*",
    "drivers/net/can/*",
    "drivers/net/ethernet/*",
    "drivers/net/wireless/*",
    "drivers/nfc/*",
    "drivers/parport/*",
    "drivers/pcmcia/*",
    "drivers/pinctrl/*",
    "drivers/platform/*",
    "drivers/power/*",
    "drivers/scsi/*",
    "drivers/slimbus/*",
    "drivers/soundwire/*",
    "drivers/spi/*",
    "drivers/ssb/*",
    "drivers/staging/*",
    "drivers/target/*",
    "drivers/thunderbolt/*",
    "drivers/ufs/*",
    "drivers/usb/*",
    "drivers/video/*",
    "drivers/w1/*",
    "drivers/watchdog/*",
    "fs/ceph/*",
    "fs/ocfs2/*",
    "net/bluetooth/*",
    "net/can/*",
    "net/ceph/*",
    "net/mac80211/*",
    "net/wireless/*",
    "sound/*",
];

/// Of those, what machines do have.
const BUT_DRIVERS: &[&str] = &[
    "drivers/crypto/ccp/ccp.*",
    "drivers/input/evdev.*",
    "drivers/scsi/hv_storvsc.*",
    "drivers/scsi/scsi_*",
    "drivers/scsi/sd_mod.*",
    "drivers/scsi/virtio_scsi.*",
];

/// Files that are only read by people, at a desk.
const NO_FILES: &[&str] = &[
    "/usr/lib/udev/hwdb.d/*",
    "/usr/share/doc/*",
    "/usr/share/info/*",
    "/usr/share/lintian/*",
    "/usr/share/locale/*",
    "/usr/share/man/*",
];

/// Licences have to stay.
const BUT_FILES: &[&str] = &["/usr/share/doc/*/copyright"];

/// Units that do their work on their own, and none of a machine's.
const NO_UNITS: &[&str] = &[
    "apt-daily-upgrade.timer",
    "apt-daily.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "modprobe@drm.service",
    "modprobe@efi_pstore.service",
    "netavark-dhcp-proxy.service",
    "netavark-dhcp-proxy.socket",
    "podman-auto-update.timer",
    "systemd-pstore.service",
];

/// The same, of users'.
const NO_USER_UNITS: &[&str] = &[
    "dirmngr.socket",
    "gpg-agent-browser.socket",
    "gpg-agent-extra.socket",
    "gpg-agent-ssh.socket",
    "gpg-agent.socket",
    "keyboxd.socket",
    "ssh-agent.socket",
];

/// Programs that systemd runs whenever it loads its configuration, and that have never anything to say in a machine.
const NO_GENERATORS: &[&str] = &[
    "systemd-gpt-auto-generator",
    "systemd-hibernate-resume-generator",
    "systemd-ssh-generator",
    "systemd-system-update-generator",
    "systemd-tpm2-generator",
];

const UNITS: &[&str] = &["ssh.service", "systemd-networkd.service", "systemd-resolved.service"];

/// What podman 6 calls directories by Fedora CoreOS' names for them, when it mounts volumes.
const VAR_DIRECTORIES: &[(&str, &str)] =
    &[("/home", "/var/home"), ("/mnt", "/var/mnt"), ("/opt", "/var/opt"), ("/srv", "/var/srv")];

/// What the tree is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guest {
    /// A disk that boots.
    Machine,
    /// A distribution of WSL: without a kernel, and set up by podman's own commands instead of Ignition.
    Wsl,
}

/// Which Debian.
pub struct Debian {
    /// For this kind of guest.
    pub guest: Guest,
    /// For this machine.
    pub arch: Arch,
    /// This release.
    pub suite: String,
    /// From here, or from where mmdebstrap takes it by itself.
    pub mirrors: Vec<String>,
    /// With these packages besides.
    pub packages: Vec<String>,
}

/// Whether the host can run another architecture's programs, which the packages do when they are installed.
///
/// # Errors
/// It cannot; says what would help.
pub fn check_host(arch: Arch) -> Result<()> {
    tool::require(&[MMDEBSTRAP])?;
    if arch != Arch::host()? && !Path::new(&format!("/proc/sys/fs/binfmt_misc/qemu-{arch}")).exists() {
        bail!(
            "{arch}: its packages run their own programs when they are installed, which this host cannot: \
             install qemu-user-static and binfmt-support, or build on a machine of that kind"
        );
    }
    Ok(())
}

impl Debian {
    /// Installs the packages into a directory that does not exist yet.
    ///
    /// # Errors
    /// mmdebstrap fails.
    pub fn install(&self, root: &Path) -> Result<()> {
        let step = progress::step(format!("installing Debian {}", self.suite));
        let mut command = MMDEBSTRAP.command();
        command
            // Where nothing can be mounted the packages' scripts leave other things; so it is nowhere.
            .args(["--mode=root", "--skip=chroot/mount", "--format=directory", "--variant=minbase"])
            .arg(format!("--architectures={}", self.arch.debian()))
            .arg(format!("--include={}", self.include()))
            .arg("--aptopt=APT::Install-Recommends \"false\"");
        // Where the kernel's files are has changed with the release.
        for (option, paths) in [("exclude", NO_DRIVERS), ("include", BUT_DRIVERS)] {
            for (path, usr) in paths.iter().flat_map(|path| [(path, "/usr"), (path, "")]) {
                command.arg(format!("--dpkgopt=path-{option}={usr}/lib/modules/*/kernel/{path}"));
            }
        }
        for (option, paths) in [("exclude", NO_FILES), ("include", BUT_FILES)] {
            for path in paths {
                command.arg(format!("--dpkgopt=path-{option}={path}"));
            }
        }
        command.arg(&self.suite).arg(root).args(&self.mirrors);
        let errors = std::sync::Mutex::new(Vec::new());
        tool::watch_lines(
            &mut command,
            |_| Ok(()),
            |line| {
                if let Some(error) = line.strip_prefix("E: ")
                    && let Ok(mut errors) = errors.lock()
                {
                    errors.push(error.to_owned());
                }
                step.message(line.trim_start_matches("I: "));
            },
        )
        .map_err(|error| match errors.into_inner() {
            // The first is the cause; the last only says that it failed.
            Ok(errors) if !errors.is_empty() && !error.is::<crate::interrupt::Interrupted>() => {
                error.context(format!("install Debian {}: {}", self.suite, errors[0]))
            }
            _ => error,
        })
    }

    fn include(&self) -> String {
        let mut all: Vec<_> = PACKAGES.iter().map(|name| (*name).to_owned()).collect();
        if self.guest == Guest::Machine {
            all.extend(MACHINE_PACKAGES.iter().map(|name| (*name).to_owned()));
            all.push(format!("linux-image-{}", self.arch.debian()));
        }
        all.extend(self.packages.iter().cloned());
        all.join(",")
    }
}

/// Makes a guest of podman machine of the installed packages.
///
/// # Errors
/// A file cannot be written, or a program in the tree fails.
pub fn customise(root: &Path, guest: Guest) -> Result<()> {
    let _step = progress::step("making a podman machine of it");
    overlay::copy(overlay::COMMON, root)?;
    // mmdebstrap leaves the build host's own there.
    remove(root, "etc/resolv.conf")?;
    write(root, "etc/hostname", "podman-machine\n")?;
    // Recommendations were left out of the image, not of what its user installs.
    remove(root, "etc/apt/apt.conf.d/99mmdebstrap")?;
    write(root, "etc/locale.conf", "LANG=C.UTF-8\n")?;
    overlay::link(root, "etc/default/locale", "../locale.conf")?;
    // They are written into and not made, by Ignition or over ssh.
    for directory in [
        "etc/containers/registries.conf.d",
        "etc/environment.d",
        "etc/systemd/system.conf.d",
        "etc/systemd/system/sockets.target.wants",
        "etc/systemd/user/sockets.target.wants",
        "var/lib/systemd/linger",
    ] {
        fs::create_dir_all(root.join(directory))?;
    }
    inside(root, &["groupadd", "--force", "--system", "wheel"], None)?;
    inside(root, &[&["systemctl", "--quiet", "mask"], NO_UNITS].concat(), None)?;
    inside(root, &[&["systemctl", "--quiet", "--global", "mask"], NO_USER_UNITS].concat(), None)?;
    for generator in NO_GENERATORS {
        overlay::link(root, &format!("etc/systemd/system-generators/{generator}"), "/dev/null")?;
    }
    match guest {
        Guest::Machine => machine(root),
        Guest::Wsl => wsl(root),
    }
}

fn machine(root: &Path) -> Result<()> {
    overlay::copy(overlay::MACHINE, root)?;
    let mut table = "LABEL=podman-machine / ext4 defaults,noatime,x-systemd.growfs 0 1\n".to_owned();
    for (ours, theirs) in VAR_DIRECTORIES {
        fs::create_dir_all(root.join(&theirs[1..]))?;
        table += &format!("{ours} {theirs} none rbind 0 0\n");
    }
    write(root, "etc/fstab", &table)?;
    write(root, "etc/hosts", "127.0.0.1 localhost podman-machine\n::1 localhost ip6-localhost\n")?;
    // Podman 4 takes Docker away with rpm-ostree, unless that is done.
    write(root, "var/lib/remove-moby.stamp", "")?;
    // Podman 5.0 to 5.5 leave it to the image that core's services run without anybody logged in.
    write(root, "var/lib/systemd/linger/core", "")?;
    fs::create_dir_all(root.join("var/lib/podman-machine"))?;
    // Ignition writes this one.
    remove(root, "etc/localtime")?;
    overlay::link(root, "etc/resolv.conf", "../run/systemd/resolve/stub-resolv.conf")?;
    inside(root, &[&["systemctl", "--quiet", "enable"], UNITS].concat(), None)?;
    inside(root, &["systemctl", "--quiet", "set-default", "multi-user.target"], None)
}

/// What podman's commands for Fedora find in a distribution of WSL's.
fn wsl(root: &Path) -> Result<()> {
    overlay::copy(overlay::WSL, root)?;
    // Debian's adduser is another program.
    overlay::link(root, "usr/local/sbin/adduser", "/usr/sbin/useradd")?;
    overlay::link(
        root,
        "etc/systemd/system/multi-user.target.wants/sshd.service",
        "/usr/lib/systemd/system/ssh.service",
    )?;
    overlay::link(root, "usr/lib/systemd/system/sshd.service", "ssh.service")?;
    inside(root, &["systemctl", "--quiet", "set-default", "multi-user.target"], None)
}

fn write(root: &Path, path: &str, text: &str) -> Result<()> {
    fs::write(root.join(path), text).with_context(|| format!("write {path} in the tree"))
}

/// Takes away what differs from machine to machine or from build to build, and gives all files that the build has made the
/// time of the youngest one that came in a package, or of `SOURCE_DATE_EPOCH`: what is built of the same packages is the
/// same. `began` is when the build began.
///
/// # Errors
/// A file cannot be read or changed.
pub fn settle(root: &Path, guest: Guest, began: SystemTime) -> Result<()> {
    let _step = progress::step("settling the tree");
    let epoch = epoch(root, began)?;
    for path in [
        "etc/machine-id",
        "var/cache/ldconfig/aux-cache",
        "var/lib/dbus/machine-id",
        "var/lib/systemd/random-seed",
        "etc/.pwd.lock",
        "etc/group-",
        "etc/gshadow-",
        "etc/passwd-",
        "etc/shadow-",
        "etc/subgid-",
        "etc/subuid-",
        "var/cache/debconf/config.dat-old",
        "var/cache/debconf/templates.dat-old",
        "var/lib/dpkg/status-old",
        "var/lib/dpkg/diversions-old",
        "var/lib/dpkg/statoverride-old",
        "var/lib/dpkg/available",
    ] {
        remove(root, path)?;
    }
    for (directory, keep) in
        [("etc/ssh", "ssh_host_"), ("var/log", ""), ("var/cache/apt", ""), ("tmp", ""), ("run", "")]
    {
        empty(&root.join(directory), keep)?;
    }
    // systemd fills it in.
    write(root, "etc/machine-id", "")?;
    // There is nothing newer in /usr that systemd would have to look at when the machine first starts.
    for directory in ["etc", "var"] {
        write(root, &format!("{directory}/.updated"), "")?;
    }
    let shadow = fs::read_to_string(root.join("etc/shadow"))?;
    let day = (epoch.as_secs() / 86400).to_string();
    fs::write(root.join("etc/shadow"), last_changed(&shadow, &day))?;
    if guest == Guest::Machine {
        inside(root, &["update-initramfs", "-u", "-k", "all"], Some(epoch))?;
    }
    set_times(root, epoch)
}

/// The lines of shadow(5) with this as the day of the last change.
fn last_changed(shadow: &str, day: &str) -> String {
    let line = |line: &str| {
        let mut fields: Vec<_> = line.split(':').collect();
        if let Some(field) = fields.get_mut(2) {
            *field = day;
        }
        fields.join(":") + "\n"
    };
    shadow.lines().map(line).collect()
}

fn epoch(root: &Path, began: SystemTime) -> Result<Duration> {
    if let Ok(epoch) = std::env::var("SOURCE_DATE_EPOCH") {
        let seconds =
            epoch.parse().with_context(|| format!("SOURCE_DATE_EPOCH={epoch}: not a number of seconds"))?;
        return Ok(Duration::from_secs(seconds));
    }
    let mut youngest = SystemTime::UNIX_EPOCH;
    for entry in WalkDir::new(root) {
        let modified = entry?.metadata()?.modified()?;
        if modified < began {
            youngest = youngest.max(modified);
        }
    }
    let whole = youngest.duration_since(UNIX_EPOCH)?.as_secs();
    Ok(Duration::from_secs(whole))
}

fn set_times(root: &Path, epoch: Duration) -> Result<()> {
    let time = Timespec { tv_sec: i64::try_from(epoch.as_secs())?, tv_nsec: 0 };
    let times = Timestamps { last_access: time, last_modification: time };
    // Directories after what is in them.
    for entry in WalkDir::new(root).contents_first(true) {
        let entry = entry?;
        if entry.metadata()?.mtime() > time.tv_sec {
            rustix::fs::utimensat(CWD, entry.path(), &times, AtFlags::SYMLINK_NOFOLLOW)
                .with_context(|| entry.path().display().to_string())?;
        }
    }
    Ok(())
}

fn remove(root: &Path, path: &str) -> Result<()> {
    match fs::remove_file(root.join(path)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {path} in the tree"))
        }
        _ => Ok(()),
    }
}

/// Removes the files below a directory whose names begin so, and leaves the directories.
fn empty(directory: &Path, prefix: &str) -> Result<()> {
    for entry in WalkDir::new(directory).min_depth(1) {
        let entry = entry?;
        if !entry.file_type().is_dir() && entry.file_name().to_string_lossy().starts_with(prefix) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Runs a program of the tree in it.
fn inside(root: &Path, arguments: &[&str], epoch: Option<Duration>) -> Result<()> {
    let mut command = Command::new("chroot");
    command
        .arg(root)
        .args(arguments)
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("LC_ALL", "C.UTF-8");
    if let Some(epoch) = epoch {
        command.env("SOURCE_DATE_EPOCH", epoch.as_secs().to_string());
    }
    command.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::null());
    tool::run(&mut command).with_context(|| arguments.join(" "))
}

/// The packages in a tree, with their versions.
///
/// # Errors
/// dpkg's records cannot be read.
pub fn packages(root: &Path) -> Result<BTreeMap<String, String>> {
    let status = fs::read_to_string(root.join("var/lib/dpkg/status"))?;
    let field = |record: &str, name: &str| {
        record.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).map(str::to_owned)
    };
    Ok(status
        .split("\n\n")
        .filter_map(|record| Some((field(record, "Package")?, field(record, "Version")?)))
        .collect())
}

/// A digest of everything in a tree but times: names, types, permissions, owners, contents.
///
/// # Errors
/// A file cannot be read.
pub fn digest(root: &Path) -> Result<String> {
    use sha2::{Digest, Sha256};
    let _step = progress::step("hashing the tree");
    let mut hasher = Sha256::new();
    let mut links = BTreeSet::new();
    for entry in WalkDir::new(root).sort_by_file_name() {
        let entry = entry?;
        crate::interrupt::check()?;
        let metadata = entry.path().symlink_metadata()?;
        let name = entry.path().strip_prefix(root)?;
        let line = format!(
            "{}\0{:o} {} {} {}\0",
            name.display(),
            metadata.mode(),
            metadata.uid(),
            metadata.gid(),
            metadata.rdev()
        );
        hasher.update(line.as_bytes());
        if metadata.is_symlink() {
            hasher.update(fs::read_link(entry.path())?.as_os_str().as_encoded_bytes());
        } else if metadata.is_file() && links.insert(metadata.ino()) {
            hasher.update(metadata.len().to_le_bytes());
            hasher.update(fs::read(entry.path())?);
        }
    }
    Ok(format!("sha256:{}", hex(&hasher.finalize())))
}

/// A digest as it is written.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
