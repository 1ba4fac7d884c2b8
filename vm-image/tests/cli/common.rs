//! What the tests share: running the program, making base images, and looking into what came out.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tempfile::TempDir;

/// The program.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_coracle-vm-image");

/// `e_machine` (elf(5)).
pub const X86_64: u8 = 62;
pub const AARCH64: u8 = 183;

/// Reports a test that cannot run here. libtest does not capture this, so no pass hides that nothing was tested.
pub fn skip(test: &str, reason: &str) {
    // A closed stderr is no reason to fail a test that is skipped anyway.
    let _ = std::io::stderr().write_all(format!("SKIP {test}: {reason}\n").as_bytes());
}

/// Runs a tool of the host and returns what it says.
pub fn tool(command: &mut Command) -> Result<String> {
    let output =
        command.stdin(Stdio::null()).env("LC_ALL", "C").output().with_context(|| format!("{command:?}"))?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {}: {error}", output.status);
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A shell script, with `$1` and so on.
pub fn shell(script: &str, arguments: &[&Path]) -> Result<String> {
    tool(Command::new("sh").args(["-ec", script, "sh"]).args(arguments))
}

/// The head of a 64-bit program, which is all of one that anybody here reads, and some text after it.
pub fn elf(machine: u8, text: &str) -> Vec<u8> {
    let mut head = vec![0; 64];
    head[..6].copy_from_slice(b"\x7fELF\x02\x01");
    head[18] = machine;
    head.extend_from_slice(text.as_bytes());
    head
}

/// A directory of this test's own, removed at its end.
pub struct Host {
    directory: TempDir,
}

impl Host {
    pub fn new() -> Result<Self> {
        // Images have holes, and /tmp may be in memory. The space shows what is not quoted.
        let directory = tempfile::Builder::new().prefix("vm image ").tempdir_in("/var/tmp")?;
        fs::create_dir(directory.path().join("temporary"))?;
        Ok(Self { directory })
    }

    /// A path in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn temporary(&self) -> PathBuf {
        self.path("temporary")
    }

    /// Directories with Coracle's programs, as far as this program looks at them.
    pub fn programs_for(&self, name: &str, machine: u8, version: &str) -> Result<PathBuf> {
        let directory = self.path(name);
        fs::create_dir_all(&directory)?;
        fs::write(directory.join("coracle"), elf(machine, &format!("version {version}\nspec: 1.3.0\n")))?;
        fs::write(directory.join("coracle-wasi"), elf(machine, &format!("wasi {version}")))?;
        // Larger than what the others fit in, and no multiple of a block.
        let compiler = elf(machine, &format!("wasmc {version} ").repeat(20_000));
        fs::write(directory.join("coracle-wasmc"), compiler)?;
        Ok(directory)
    }

    pub fn programs(&self) -> Result<PathBuf> {
        self.programs_for("programs", X86_64, "0.1.0")
    }

    /// The program with arguments, and with temporary files in a directory of their own.
    pub fn command(&self) -> Command {
        let mut command = Command::new(PROGRAM);
        command.env("TMPDIR", self.temporary()).current_dir(self.directory.path()).stdin(Stdio::null());
        command
    }

    /// Runs it to its end.
    pub fn finish(&self, command: &mut Command) -> Result<Run> {
        let output = command.output()?;
        self.nothing_half_made()?;
        let text = |bytes| String::from_utf8(bytes);
        Ok(Run { code: output.status.code(), stdout: text(output.stdout)?, stderr: text(output.stderr)? })
    }

    pub fn run(&self, arguments: &[&str]) -> Result<Run> {
        self.finish(self.command().args(arguments))
    }

    pub fn inject(&self, base: &Path, output: &Path, programs: &Path) -> Result<Run> {
        self.finish(&mut self.injection(base, output, programs))
    }

    pub fn injection(&self, base: &Path, output: &Path, programs: &Path) -> Command {
        let mut command = self.command();
        command.arg("--json").arg("inject").arg("--base").arg(base);
        command.arg("--output").arg(output).arg("--programs").arg(programs);
        command
    }

    pub fn inspect(&self, image: &Path) -> Result<Value> {
        self.finish(self.command().arg("--json").arg("inspect").arg(image))?.ok()?.json()
    }

    /// Whatever a command did, its temporary files are gone, those beside its output too.
    pub fn nothing_half_made(&self) -> Result<()> {
        let left: Vec<_> = fs::read_dir(self.temporary())?.collect::<Result<_, _>>()?;
        ensure!(left.is_empty(), "temporary files stay: {left:?}");
        for entry in fs::read_dir(self.directory.path())? {
            let name = entry?.file_name();
            ensure!(!name.to_string_lossy().starts_with(".coracle-vm-image-"), "{name:?} stays");
        }
        Ok(())
    }

    /// The raw disk of an image, unpacked with the usual tools, and not by what is tested.
    pub fn raw(&self, image: &Path) -> Result<PathBuf> {
        let raw = image.with_extension("look");
        let name = image.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let part = |ending: &str| name.ends_with(ending).then(|| name.trim_end_matches(ending));
        let packers = [(".zst", "zstd"), (".gz", "gzip"), (".xz", "xz")];
        let packer = packers.iter().find_map(|(ending, packer)| Some((part(ending)?, *packer)));
        let (name, from) = match packer {
            Some((rest, packer)) => {
                let plain = image.with_extension("plain");
                shell(&format!("exec {packer} -dc <\"$1\" >\"$2\""), &[image, &plain])?;
                (rest, plain)
            }
            None => (name.as_str(), image.to_owned()),
        };
        let driver = name.rsplit('.').next().unwrap_or_default();
        tool(Command::new("qemu-img").args(["convert", "-f", driver, "-O", "raw"]).arg(&from).arg(&raw))?;
        Ok(raw)
    }
}

/// How a run of the program ended.
#[derive(Debug)]
pub struct Run {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// What the program says it is at. All else that it says is an error.
const STEPS: &[&str] =
    &["copying", "converting to ", "compressing", "decompressing", "unpacking", "packing "];

impl Run {
    pub fn ok(self) -> Result<Self> {
        ensure!(self.code == Some(0), "{self:?}");
        self.says_only_steps(self.stderr.lines())?;
        Ok(self)
    }

    pub fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.stdout).with_context(|| self.stdout.clone())
    }

    fn says_only_steps<'a>(&self, mut lines: impl Iterator<Item = &'a str>) -> Result<()> {
        ensure!(lines.all(|line| STEPS.iter().any(|step| line.starts_with(step))), "{self:?}");
        Ok(())
    }

    /// That it ended so, with one line that says all this, in JSON too where that was asked for.
    pub fn fails(&self, code: i32, parts: &[&str]) -> Result<()> {
        ensure!(self.code == Some(code), "{self:?}");
        let mut lines: Vec<_> = self.stderr.lines().collect();
        let last = lines.pop().unwrap_or_default();
        self.says_only_steps(lines.into_iter())?;
        let message = last.strip_prefix("coracle-vm-image: ").with_context(|| format!("{self:?}"))?;
        for part in parts {
            ensure!(message.contains(part), "no {part:?} in {message:?}");
        }
        if !self.stdout.is_empty() {
            ensure!(self.json()? == serde_json::json!({ "error": message }), "{self:?}");
        }
        Ok(())
    }

    pub fn refuses(&self, parts: &[&str]) -> Result<()> {
        self.fails(1, parts)
    }
}

/// The files of a system.
pub struct Tree(pub PathBuf);

impl Tree {
    /// What a system with podman has at the least.
    pub fn new(host: &Host) -> Result<Self> {
        Self::at(host.path("tree"))
    }

    pub fn at(root: PathBuf) -> Result<Self> {
        fs::create_dir_all(&root)?;
        let tree = Self(root);
        for directory in [
            "etc/containers",
            "etc/systemd/system.conf.d",
            "usr/lib/systemd/system",
            "usr/local",
            "var/lib",
            "dev",
        ] {
            tree.directory(directory)?;
        }
        tree.program("usr/bin/podman", X86_64)?.program("usr/bin/crun", X86_64)?;
        tree.file("usr/lib/os-release", "ID=test\nPRETTY_NAME=\"Test Linux 1\"\n")?;
        tree.link("etc/os-release", "../usr/lib/os-release")?.link("bin", "usr/bin")?;
        tree.file("etc/motd", "welcome\n")?;
        let package =
            |name, version| format!("Package: {name}\nStatus: install ok installed\nVersion: {version}\n\n");
        tree.file("var/lib/dpkg/status", &(package("podman", "5.4.2+ds1-2") + &package("crun", "1.21-1")))?;
        Ok(tree)
    }

    pub fn directory(&self, path: &str) -> Result<&Self> {
        fs::create_dir_all(self.0.join(path))?;
        Ok(self)
    }

    pub fn file(&self, path: &str, text: &str) -> Result<&Self> {
        let path = self.0.join(path);
        fs::create_dir_all(path.parent().context("directory")?)?;
        fs::write(path, text)?;
        Ok(self)
    }

    pub fn program(&self, path: &str, machine: u8) -> Result<&Self> {
        let path = self.0.join(path);
        fs::create_dir_all(path.parent().context("directory")?)?;
        fs::write(&path, elf(machine, "program"))?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
        Ok(self)
    }

    pub fn link(&self, path: &str, target: &str) -> Result<&Self> {
        let path = self.0.join(path);
        fs::create_dir_all(path.parent().context("directory")?)?;
        symlink(target, path)?;
        Ok(self)
    }

    pub fn remove(&self, path: &str) -> Result<&Self> {
        let path = self.0.join(path);
        if path.symlink_metadata()?.is_dir() {
            fs::remove_dir_all(path)?
        } else {
            fs::remove_file(path)?
        }
        Ok(self)
    }
}

pub const MIB: u64 = 1 << 20;

/// Where the system is on a disk with partitions: after one for EFI, and one for kernels that has no system.
pub const ROOT: u64 = 6 * MIB;

/// The size of the system's partition where nothing else is said.
pub const SMALL: u64 = 24 * MIB;

/// A file of only holes.
pub fn sparse(path: &Path, size: u64) -> Result<()> {
    Ok(File::create(path)?.set_len(size)?)
}

/// A raw disk with partitions, as podman machine's have them; the last is for the system and still empty.
pub fn partitioned(disk: &Path, size: u64) -> Result<()> {
    sparse(disk, ROOT + size + MIB)?;
    let table = format!(
        "label: gpt\n\
         start=2048, size=2048, type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B, name=esp\n\
         start=4096, size=8192, type=BC13C2FF-59E6-4262-A352-B275FD6F7172, name=boot\n\
         start={}, size={}, type=4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709, name=root\n",
        ROOT / 512,
        size / 512
    );
    let mut sfdisk = Command::new("sfdisk")
        .arg("--quiet")
        .arg(disk)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()?;
    sfdisk.stdin.take().context("stdin")?.write_all(table.as_bytes())?;
    ensure!(sfdisk.wait()?.success(), "sfdisk");
    let boot = ["-q", "-t", "ext4", "-L", "boot", "-E", "offset=2097152"];
    tool(Command::new("mke2fs").args(boot).arg(disk).arg("4096k"))?;
    Ok(())
}

/// Makes ext4 of a tree at an offset in a file.
pub fn ext4(tree: &Tree, disk: &Path, offset: u64, size: u64) -> Result<()> {
    let mut mke2fs = Command::new("mke2fs");
    mke2fs.args(["-q", "-t", "ext4", "-b", "4096", "-L", "root", "-d"]).arg(&tree.0);
    mke2fs
        .arg("-E")
        .arg(format!("offset={offset},root_owner=0:0"))
        .arg(disk)
        .arg(format!("{}k", size / 1024));
    tool(&mut mke2fs)?;
    Ok(())
}

/// An image of a tree on ext4, in the format that its name says.
pub fn image(host: &Host, tree: &Tree, name: &str) -> Result<PathBuf> {
    let disk = host.path("disk");
    partitioned(&disk, SMALL)?;
    ext4(tree, &disk, ROOT, SMALL)?;
    let image = host.path(name);
    pack(&disk, &image)?;
    fs::remove_file(disk)?;
    Ok(image)
}

/// Puts a raw disk into the format that a name says.
pub fn pack(disk: &Path, image: &Path) -> Result<()> {
    let name = image.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut parts = name.split('.').skip(1);
    let driver = parts.next().context("a format")?;
    let converted = image.with_extension("converted");
    tool(Command::new("qemu-img").args(["convert", "-f", "raw", "-O", driver]).arg(disk).arg(&converted))?;
    let packer = match parts.next() {
        None => return Ok(fs::rename(converted, image)?),
        Some("zst") => "zstd -q -1",
        Some("gz") => "gzip -1",
        Some("xz") => "xz -0",
        Some(other) => bail!("{other}: unknown"),
    };
    shell(&format!("{packer} -c <\"$1\" >\"$2\"; rm \"$1\""), &[&converted, image])?;
    Ok(())
}

/// What a file begins with.
pub fn head(path: &Path, length: usize) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(length as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// A digest of a file, to see that it stays.
pub fn digest(path: &Path) -> Result<String> {
    shell("sha256sum <\"$1\"", &[path])
}

/// An ext4 file system in a raw disk.
pub struct Ext4(String);

/// What a name on it stands for.
#[derive(Debug, PartialEq, Eq)]
pub struct Stat {
    pub kind: String,
    pub mode: String,
    pub user: String,
    pub group: String,
}

/// What is expected of one that root owns.
pub fn roots(kind: &str, mode: &str) -> Stat {
    let zero = || "0".to_owned();
    Stat { kind: kind.to_owned(), mode: mode.to_owned(), user: zero(), group: zero() }
}

impl Ext4 {
    /// Opens it, if it has no errors.
    pub fn new(disk: &Path, offset: u64) -> Result<Self> {
        let device = format!("{}?offset={offset}", disk.display());
        tool(Command::new("e2fsck").arg("-fn").arg(&device))?;
        Ok(Self(device))
    }

    pub fn ask(&self, request: &str) -> Result<String> {
        tool(Command::new("debugfs").args(["-R", request]).arg(&self.0))
    }

    pub fn read(&self, path: &str) -> Result<Vec<u8>> {
        let output =
            Command::new("debugfs").args(["-R", &format!("cat \"{path}\"")]).arg(&self.0).output()?;
        Ok(output.stdout)
    }

    pub fn stat(&self, path: &str) -> Result<Stat> {
        let text = self.ask(&format!("stat \"{path}\""))?;
        let word = |key: &str| -> Result<String> {
            let (_, rest) = text.split_once(key).with_context(|| format!("{path}: {text}"))?;
            Ok(rest.split_whitespace().next().unwrap_or_default().to_owned())
        };
        Ok(Stat { kind: word("Type:")?, mode: word("Mode:")?, user: word("User:")?, group: word("Group:")? })
    }

    pub fn target(&self, link: &str) -> Result<String> {
        let text = self.ask(&format!("stat \"{link}\""))?;
        let (_, rest) = text.split_once("Fast link dest: \"").with_context(|| format!("{link}: {text}"))?;
        Ok(rest.split('"').next().unwrap_or_default().to_owned())
    }

    /// `security.selinux` of a name; `None` if there is none.
    pub fn label(&self, path: &str) -> Result<Option<String>> {
        let text = self.ask(&format!("ea_list \"{path}\""))?;
        Ok(text.split_once("security.selinux").and_then(|(_, rest)| Some(rest.split('"').nth(1)?.to_owned())))
    }

    /// That all of Coracle is there, with `/usr/local` in this directory.
    pub fn has_coracle(&self, system: &str, local: &str, programs: &Path) -> Result<()> {
        let bin = format!("{local}/lib/coracle/bin");
        for directory in [local, &format!("{local}/bin"), &format!("{local}/lib/coracle"), &bin] {
            assert_eq!(self.stat(directory)?, roots("directory", "0755"), "{directory}");
        }
        for name in ["coracle", "coracle-wasi", "coracle-wasmc"] {
            let path = format!("{bin}/{name}");
            assert_eq!(self.stat(&path)?, roots("regular", "0755"), "{path}");
            ensure!(self.read(&path)? == fs::read(programs.join(name))?, "{path}: other contents");
        }
        for name in ["coracle", "coracle-wasm"] {
            assert_eq!(self.target(&format!("{local}/bin/{name}"))?, "../lib/coracle/bin/coracle");
        }
        for directory in ["etc", "usr/share"] {
            let path = format!("{system}/{directory}/containers/containers.conf.d/10-coracle.conf");
            assert_eq!(self.stat(&path)?, roots("regular", "0644"), "{path}");
            let text = String::from_utf8(self.read(&path)?)?;
            ensure!(text.lines().any(|line| line == "runtime = \"coracle\""), "{path}: {text}");
        }
        Ok(())
    }
}

/// Runs a shell script, in the mount namespace of its own, with a file system of a raw disk in its working directory.
/// Mounts are gone with it, however it ends.
pub fn mounted(host: &Host, disk: &Path, offset: u64, script: &str, arguments: &[&Path]) -> Result<String> {
    let place = host.path("mounted");
    fs::create_dir_all(&place)?;
    let whole = format!(
        "mount -o loop,offset={offset} \"$1\" \"$2\"; cd \"$2\"; shift 2; ( {script} ); cd /; exec umount \"$OLDPWD\""
    );
    let mut all = vec![disk, place.as_path()];
    all.extend(arguments);
    tool(Command::new("unshare").args(["--mount", "sh", "-ec", &whole, "sh"]).args(all))
}
