//! What code that escapes from Wasmer's sandbox would find in the process that runs a guest, looked at from outside.

use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use coracle_integration::{Container, Host, Run, after, eventually, wat};
use serde_json::json;

use crate::status;

/// CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER and CAP_FSETID (capabilities(7)).
const ABOUT_FILES: u64 = 0b1_1110;

fn guest<'h>(host: &'h Host, module: &str) -> Result<Container<'h>> {
    let mut container = host.empty_container(&["/main.wasm"])?;
    container.install(&wat(module)?, "main.wasm")?;
    let all = [
        "CAP_CHOWN",
        "CAP_DAC_OVERRIDE",
        "CAP_FOWNER",
        "CAP_KILL",
        "CAP_MKNOD",
        "CAP_NET_RAW",
        "CAP_SYS_ADMIN",
        "CAP_SYS_PTRACE",
    ];
    container.config["process"]["capabilities"] = json!({
        "bounding": all, "effective": all, "permitted": all, "inheritable": all, "ambient": all,
    });
    container.config["process"]["noNewPrivileges"] = json!(false);
    Ok(container)
}

/// A profile that only takes mkdirat away.
fn forbid_mkdir(container: &mut Container) {
    container.config["linux"]["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}],
    });
}

fn pid(container: &Container) -> Result<i32> {
    Ok(i32::try_from(container.state()?["pid"].as_i64().context("pid")?)?)
}

/// The process's descriptors behind the standard ones: directories and files.
fn descriptors(pid: i32) -> Result<(Vec<PathBuf>, Vec<PathBuf>)> {
    let (mut directories, mut files) = (Vec::new(), Vec::new());
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
        let path = entry?.path();
        if !["0", "1", "2"].iter().any(|standard| path.ends_with(standard)) {
            if fs::metadata(&path)?.is_dir() { &mut directories } else { &mut files }.push(path);
        }
    }
    Ok((directories, files))
}

#[test]
fn a_guest_at_work_has_little() -> Result<()> {
    let host = Host::new()?;
    let mut container = guest(&host, "busy")?;
    forbid_mkdir(&mut container);
    // Three descriptors that nobody has told the guest about.
    let create = container.run_command(&["--preserve-fds", "3"])?;
    let job = after("exec 3</etc/passwd 4</etc 5</; exec \"$@\"", "leaking", &create).job()?;
    eventually("a guest at work", || {
        Ok(container.status().is_ok_and(|it| it == "running")
            && status(pid(&container)?, "Seccomp_filters")? == ["2"])
    })?;
    let pid = pid(&container)?;

    for set in ["CapPrm", "CapEff"] {
        let held = status(pid, set)?.concat();
        let held = u64::from_str_radix(&held, 16)?;
        ensure!(held != 0 && held & !ABOUT_FILES == 0, "{set}: {held:x}");
    }
    for set in ["CapInh", "CapAmb"] {
        assert_eq!(status(pid, set)?, ["0000000000000000"], "{set}");
    }
    assert_eq!(status(pid, "NoNewPrivs")?, ["1"]);
    assert_eq!(status(pid, "Seccomp")?, ["2"]);
    assert_eq!(status(pid, "Threads")?, ["1"]);

    // The root, preopened, and the guest's own code, which nobody can write to through it.
    let (directories, files) = descriptors(pid)?;
    assert_eq!((directories.len(), files.len()), (1, 1), "{directories:?} {files:?}");
    let writable = fs::File::options().write(true).open(&files[0]);
    let reason = writable.err().map(|error| error.kind());
    ensure!(
        matches!(reason, Some(ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied)),
        "opened again for writing: {reason:?}"
    );

    let maps = fs::read_to_string(format!("/proc/{pid}/maps"))?;
    let both = maps.lines().filter(|line| line.split(' ').nth(1).is_some_and(|it| it.contains("wx"))).count();
    assert_eq!(both, 0, "{maps}");
    drop(job);
    Ok(())
}

#[test]
fn the_containers_profile_holds_for_a_guest() -> Result<()> {
    let host = Host::new()?;
    let mut container = guest(&host, "mkdir")?;
    container.run()?.ok()?;
    forbid_mkdir(&mut container);
    // WASI's number for EPERM.
    container.run()?.exits(63)?;
    container.config["linux"]["seccomp"]["syscalls"][0]["action"] = json!("SCMP_ACT_KILL_PROCESS");
    container.config["linux"]["seccomp"]["syscalls"][0].as_object_mut().context("a rule")?.remove("errnoRet");
    container.run()?.exits(128 + 31)?;
    Ok(())
}
