//! CVE-2024-21626: a directory of the host that runc had open was the working directory of an image's program, as
//! `/proc/self/fd/N`, and `..` of it the host. Here `close_others` (src/init/scene.rs) leaves nothing open when the first
//! path of the image is looked up, `make_cwd` makes nothing through such links, and `check_directory` (src/init/process.rs)
//! has the last word. The tests leak directories on purpose and use every number: as directory, program and interpreter.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use coracle_integration::{Finished, Host, Run, after};
use serde_json::json;

use crate::canary::{Canary, SECRET};

/// The numbers that descriptors have: those that are leaked to the runtime, and then its own.
const NUMBERS: std::ops::Range<u32> = 3..20;

/// Every `/proc/self/fd/N`, by the names that it has.
fn links() -> impl Iterator<Item = String> {
    NUMBERS.flat_map(|n| [format!("/proc/self/fd/{n}"), format!("/proc/1/fd/{n}")])
}

/// The command, run by an engine that has left the directory open for its children, many times.
fn leaking(directory: &Path, command: &Command) -> Result<Finished> {
    let script = "exec \"$@\" 3<\"$0\" 4<\"$0\" 5<\"$0\" 6<\"$0\" 9<\"$0\"";
    after(script, directory.to_str().context("a path")?, command).finish()
}

/// The way up to the host's root and down again.
fn climb(link: &str, path: &Path) -> String {
    format!("{link}{}{}", "/..".repeat(12), path.display())
}

fn nothing_was_seen(done: &Finished) -> Result<()> {
    ensure!(done.code != 0 && !done.stdout.contains(SECRET), "a way out: {done}");
    Ok(())
}

#[test]
fn no_working_directory_is_the_hosts() -> Result<()> {
    let host = Host::new()?;
    let canary = Canary::plant(&host, "canary")?;
    let mut c = host.container(&["cat", "file"])?;
    let mut running = host.container(&["sleep", "1000"])?;
    for n in NUMBERS {
        symlink(format!("/proc/self/fd/{n}"), running.rootfs().join(format!("link{n}")))?;
        symlink(format!("/proc/self/fd/{n}/dir"), running.rootfs().join(format!("dir{n}")))?;
    }
    running.create()?.start()?;
    let links_of_image = NUMBERS.flat_map(|n| [format!("/link{n}"), format!("/dir{n}/below")]);
    let climbing = NUMBERS.map(|n| climb(&format!("/proc/self/fd/{n}"), canary.path()));
    for cwd in links().chain(links_of_image).chain(climbing) {
        let exec = running.verb_with("exec", &["--cwd", &cwd]);
        let mut exec = after("exec \"$@\" cat file", "", &exec);
        nothing_was_seen(&leaking(canary.path(), &exec)?)?;
        // Without a leak there are still the runtime's own.
        nothing_was_seen(&exec.finish()?)?;
    }
    // A directory that is missing is made, but not there.
    for n in NUMBERS {
        symlink(format!("/proc/self/fd/{n}/empty"), c.rootfs().join(format!("empty{n}")))?;
        for cwd in
            [format!("/proc/self/fd/{n}"), format!("/proc/self/fd/{n}/empty/new"), format!("/empty{n}/new")]
        {
            c.config["process"]["cwd"] = json!(cwd);
            nothing_was_seen(&leaking(canary.path(), &c.run_command(&[])?)?)?;
        }
    }
    canary.is_untouched()
}

/// Where the working directory was all right, the program could still lie outside: its path is looked up by the exec, to
/// the end of which descriptors are open that close with it.
#[test]
fn no_program_is_the_hosts() -> Result<()> {
    let host = Host::new()?;
    let directory = host.path().join("outside");
    let program = directory.join("busybox");
    fs::create_dir(&directory)?;
    fs::copy("/bin/busybox", &program)?;

    let mut c = host.container(&[])?;
    let mut running = host.container(&["sleep", "1000"])?;
    let mut programs = Vec::new();
    for (number, link) in NUMBERS.map(|n| format!("/proc/self/fd/{n}")).enumerate() {
        for (kind, path) in [format!("{link}/busybox"), climb(&link, &program)].into_iter().enumerate() {
            for c in [&c, &running] {
                let script = c.rootfs().join(format!("script{kind}-{number}"));
                fs::write(&script, format!("#!{path} echo"))?;
                fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
                symlink(&path, c.rootfs().join(format!("busybox{kind}-{number}")))?;
            }
            programs.extend([path, format!("/script{kind}-{number}"), format!("/busybox{kind}-{number}")]);
        }
    }
    running.create()?.start()?;
    for path in programs {
        let exec = running.verb("exec");
        let exec = after("exec \"$@\" \"$0\" echo", &path, &exec);
        let done = leaking(&directory, &exec)?;
        ensure!(done.code != 0 && done.stdout.is_empty(), "exec of a program of the host's: {done}");
        c.config["process"]["args"] = json!([path, "echo"]);
        let done = leaking(&directory, &c.run_command(&[])?)?;
        ensure!(done.code != 0 && done.stdout.is_empty(), "run of a program of the host's: {done}");
    }
    running.delete()?;
    host.is_clean()
}

/// The directories among a process's descriptors.
fn directories(pid: i32) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
        let path = entry?.path();
        // A pipe has no file to be found.
        if fs::metadata(&path).is_ok_and(|file| file.is_dir()) {
            found.push(format!("{} -> {}", path.display(), fs::read_link(&path)?.display()));
        }
    }
    Ok(found)
}

/// What a shell prints of its descriptors that are directories.
const LIST: &str = "for f in /proc/$$/fd/*; do if test -d $f; then readlink $f; fi; done";

#[test]
fn no_descriptor_is_a_directory_of_the_host() -> Result<()> {
    let host = Host::new()?;
    let canary = Canary::plant(&host, "canary")?;
    let mut c = host.container(&["sh", "-c", &format!("{LIST}; echo listed; sleep 1000")])?;
    let found = host.path().join("found");
    let hook = |kind: &str, to: &Path| {
        let script = format!("{{ {LIST}; echo {kind}; }} >> {} 2>&1", to.display());
        json!([{"path": "/bin/sh", "args": ["sh", "-c", script]}])
    };
    for kind in ["prestart", "createRuntime", "createContainer", "poststart", "poststop"] {
        c.config["hooks"][kind] = hook(kind, &found);
    }
    c.config["hooks"]["startContainer"] = hook("startContainer", Path::new("/found"));
    c.save()?;
    // An engine's pipe for standard output would be kept by the container.
    let output = host.path().join("output");
    let create =
        after("exec \"$@\" > \"$0\" 2>&1", output.to_str().context("a path")?, &c.create_command(&[]));
    leaking(canary.path(), &create)?.ok()?;
    c.note_init()?;
    let open = directories(c.pid()?)?;
    ensure!(open.is_empty(), "init, before its start: {open:?}");
    leaking(canary.path(), &c.verb("start"))?.ok()?;
    coracle_integration::eventually("the program's list", || {
        Ok(fs::read_to_string(&output)?.ends_with("listed\n"))
    })?;
    ensure!(fs::read_to_string(&output)? == "listed\n", "the program: {}", fs::read_to_string(&output)?);
    let exec = after("exec \"$@\" sh -c \"$0\"", LIST, &c.verb("exec"));
    leaking(canary.path(), &exec)?.ok()?.prints("")?;
    ensure!(fs::read_to_string(c.rootfs().join("found"))? == "startContainer\n");
    leaking(canary.path(), &c.verb_with("delete", &["--force"]))?.ok()?;
    let found = fs::read_to_string(&found)?;
    ensure!(found == "prestart\ncreateRuntime\ncreateContainer\npoststart\npoststop\n", "hooks: {found}");
    c.wait_exit()?;
    canary.is_untouched()
}
