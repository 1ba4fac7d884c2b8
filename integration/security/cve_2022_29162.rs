//! CVE-2022-29162: `exec --cap` put the capability into the inheritable set too, and a program whose file has it as an
//! inheritable one then gave it to an ordinary user. `add_capabilities` in src/commands/exec.rs leaves that set alone, and
//! `Identity` in src/init/identity.rs sets exactly what the configuration names. The tests read the set, and run such a file.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use coracle_integration::{Container, Host};
use rustix::fs::{XattrFlags, setxattr};
use serde_json::json;

/// CAP_NET_RAW is bit 13, CAP_NET_BIND_SERVICE bit 10, CAP_SYS_PTRACE bit 19.
const NET_RAW: u64 = 1 << 13;
const NET_BIND_SERVICE: u64 = 1 << 10;
const SYS_PTRACE: u64 = 1 << 19;

/// A program whose file has inheritable capabilities.
const CAPABLE: &str = "/capable/busybox";

/// A set of capabilities that a program started by these flags has.
fn set(c: &Container, flags: &[&str], program: &str, name: &str) -> Result<u64> {
    let done = c.exec_with(flags, &[program, "grep", &format!("^{name}:"), "/proc/self/status"])?.ok()?;
    let (_, value) = done.stdout.split_once(':').context("no set")?;
    Ok(u64::from_str_radix(value.trim(), 16)?)
}

/// Gives a file inheritable and effective capabilities (capabilities(7), "VFS_CAP_REVISION_2").
fn give_inheritable(file: &Path, capabilities: u64) -> Result<()> {
    const REVISION_2: u32 = 0x0200_0000;
    const EFFECTIVE: u32 = 1;
    let (low, high) = (u32::try_from(capabilities & 0xffff_ffff)?, u32::try_from(capabilities >> 32)?);
    let words = [REVISION_2 | EFFECTIVE, 0, low, 0, high];
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    Ok(setxattr(file, c"security.capability", &bytes, XattrFlags::empty())?)
}

#[test]
fn exec_makes_no_capability_inheritable() -> Result<()> {
    let host = Host::new()?;
    let mut c = host.container(&["sleep", "1000"])?;
    c.config["process"]["noNewPrivileges"] = json!(false);
    // A copy of busybox that gives what is inheritable to whoever runs it.
    c.install(Path::new("/bin/busybox"), CAPABLE)?;
    give_inheritable(&c.rootfs().join(CAPABLE.trim_start_matches('/')), NET_RAW | SYS_PTRACE)?;
    c.create()?.start()?;

    for flags in [&[][..], &["--cap", "CAP_NET_RAW"], &["--cap", "CAP_SYS_PTRACE", "--user", "1000:1000"]] {
        for program in ["busybox", CAPABLE] {
            let inheritable = set(&c, flags, program, "CapInh")?;
            ensure!(inheritable == 0, "{program} with {flags:?} may inherit {inheritable:x}");
        }
    }
    for flags in [&["--user", "1000:1000"][..], &["--user", "1000:1000", "--cap", "CAP_NET_RAW"]] {
        let effective = set(&c, flags, CAPABLE, "CapEff")?;
        ensure!(effective == 0, "an ordinary user gets {effective:x} from a file, with {flags:?}");
    }
    // The flag is not without effect, though.
    ensure!(set(&c, &["--cap", "CAP_SYS_PTRACE"], "busybox", "CapEff")? & SYS_PTRACE != 0);
    Ok(())
}

/// Neither does it where the container has inheritable and ambient capabilities of its own.
#[test]
fn exec_adds_none_to_inheritable_ones() -> Result<()> {
    let host = Host::new()?;
    let mut c = host.container(&["sleep", "1000"])?;
    c.config["process"]["noNewPrivileges"] = json!(false);
    for name in ["inheritable", "ambient"] {
        c.config["process"]["capabilities"][name] = json!(["CAP_NET_BIND_SERVICE"]);
    }
    c.create()?.start()?;
    let flags = ["--cap", "CAP_NET_RAW"];
    for name in ["CapInh", "CapAmb"] {
        let found = set(&c, &flags, "busybox", name)?;
        ensure!(found == NET_BIND_SERVICE, "{name} is {found:x}");
    }
    ensure!(set(&c, &flags, "busybox", "CapEff")? & NET_RAW != 0);
    Ok(())
}
