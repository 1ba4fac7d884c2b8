//! Modules that try to get out of coracle-wasi's sandbox by the paths that they open, where nothing but coracle-wasi is in
//! their way: root with every file of procfs in reach, and no file masked or read-only.
//!
//! Each runs twice, the second time under a profile without openat2(2), with which coracle-wasi resolves paths by hand.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, ensure};
use coracle_integration::{Container, Finished, Host, Run, after, c, coracle, wat};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde_json::json;

use crate::canary::{Canary, SECRET};

/// Runs a test in both ways of resolving paths.
fn in_both_ways(test: impl Fn(&Host, bool) -> Result<()>) -> Result<()> {
    for openat2 in [true, false] {
        let host = Host::new()?;
        test(&host, openat2).with_context(|| format!("openat2: {openat2}"))?;
        host.is_clean()?;
    }
    Ok(())
}

/// A container of a hostile guest, with whatever might stop it taken out of the configuration.
fn hostile<'h>(host: &'h Host, openat2: bool, guest: &str, args: &[&str]) -> Result<Container<'h>> {
    let mut container = host.container(&[&["/main.wasm"], args].concat())?;
    container.install(&c(&format!("hostile/{guest}"))?, "main.wasm")?;
    for list in ["maskedPaths", "readonlyPaths"] {
        container.config["linux"][list] = json!([]);
    }
    let capabilities =
        ["CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_SYS_ADMIN", "CAP_SYS_PTRACE"];
    for set in ["bounding", "effective", "permitted"] {
        container.config["process"]["capabilities"][set] = json!(capabilities);
    }
    if !openat2 {
        container.config["linux"]["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["openat2"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38}],
        });
    }
    Ok(container)
}

/// The programs of the runtime: any write or new name changes one of these numbers.
fn programs() -> Result<Vec<(u64, u64, i64, i64)>> {
    ["coracle", "coracle-wasi", "coracle-wasmc"]
        .iter()
        .map(|name| {
            let file = fs::metadata(coracle().with_file_name(name))?;
            Ok((file.ino(), file.size(), file.ctime(), file.ctime_nsec()))
        })
        .collect()
}

/// The number that follows this word in what the guest has printed.
fn count(done: &Finished, word: &str) -> Result<u32> {
    let mut words = done.stdout.split_whitespace().skip_while(|it| *it != word);
    words.nth(1).and_then(|it| it.parse().ok()).with_context(|| format!("no {word}: {done}"))
}

fn procfs_at(destination: &str) -> serde_json::Value {
    json!({"destination": destination, "type": "proc", "source": "proc"})
}

fn bind(source: &Path, destination: &str) -> serde_json::Value {
    json!({"destination": destination, "type": "bind", "source": source, "options": ["bind", "rw"]})
}

/// The container's procfs, another one, and the host's.
#[test]
fn every_file_of_procfs() -> Result<()> {
    let before = programs()?;
    in_both_ways(|host, openat2| {
        let mut container =
            hostile(host, openat2, "procfs", &["/tmp", "/proc", "/another/self", "/host/self"])?;
        container.mount(procfs_at("/another")).mount(bind(Path::new("/proc"), "/host"));
        let done = container.run()?.ok()?;
        for (word, least) in [("links", 30), ("writes", 500), ("secrets", 12), ("directories", 50)] {
            ensure!(count(&done, word)? >= least, "too few {word}: {done}");
        }
        // A native program can do all this there, so it is the handler that refuses it.
        let script = "echo changed > /proc/self/comm && stat -L /proc/1/exe /host/self/root/ && \
                      head -c 1 /proc/1/environ && exec 3<> /proc/self/mem && : > /host/self/oom_score_adj";
        container.config["process"]["args"] = json!(["/bin/sh", "-c", script]);
        container.run()?.ok()?;
        Ok(())
    })?;
    assert_eq!(programs()?, before);
    Ok(())
}

/// The promises of docs/security-comparison.md.
#[test]
fn nothing_of_the_process_that_runs_it() -> Result<()> {
    in_both_ways(|host, openat2| {
        let done = hostile(host, openat2, "reach", &[])?.run()?.ok()?;
        ensure!(done.lines().count() == 10 && done.lines().all(|line| line.ends_with(": no")), "{done}");
        Ok(())
    })
}

/// Processes of the same container: another module and a native program, and the other way round.
#[test]
fn other_processes_of_the_container() -> Result<()> {
    in_both_ways(|host, openat2| {
        for first in [&["/blocked.wasm"][..], &["/bin/sleep", "1000"]] {
            let mut container = hostile(host, openat2, "procfs", &[])?;
            container.config["process"]["args"] = json!(first);
            container.install(&wat("blocked")?, "blocked.wasm")?;
            container.create()?.start()?;
            let alone = container.exec(&["/main.wasm", "/tmp", "/proc/self"])?.ok()?;
            let both = container.exec(&["/main.wasm", "/tmp", "/proc/1", "/proc/self"])?.ok()?;
            for word in ["links", "writes", "secrets"] {
                ensure!(count(&both, word)? > count(&alone, word)?, "nothing more of {word}: {both}");
            }
            container.delete()?;
            container.wait_exit()?;
        }
        Ok(())
    })
}

#[test]
fn every_way_to_procfs() -> Result<()> {
    in_both_ways(|host, openat2| {
        let volume = host.path().join("volume");
        fs::create_dir(&volume)?;
        symlink("/proc/self", volume.join("absolute"))?;
        symlink("../../proc/1/../self", volume.join("relative"))?;
        let ways =
            ["/host/self", "/another/thread-self", "/volume/absolute", "/volume/relative", "/volume/proc/1"];
        let mut container = hostile(host, openat2, "ways", &ways)?;
        container.mount(procfs_at("/another")).mount(bind(Path::new("/proc"), "/host"));
        container.mount(bind(&volume, "/volume")).mount(procfs_at("/volume/proc"));
        container.run()?.ok()?.prints_some(" ways")?;
        Ok(())
    })
}

/// A root file system with /box, which is all that the guest has, and a canary beside it.
fn with_a_box<'h>(
    host: &'h Host,
    openat2: bool,
    guest: &str,
    args: &[&str],
) -> Result<(Container<'h>, PathBuf, Canary)> {
    let mut container = hostile(host, openat2, guest, args)?;
    container.annotate("org.coracle.wasm.dirs", "/box");
    let inside = container.rootfs().join("box");
    fs::create_dir(&inside)?;
    fs::write(container.rootfs().join("secret"), SECRET)?;
    let canary = Canary::plant(host, &format!("{}/rootfs/other", container.id))?;
    Ok((container, inside, canary))
}

#[test]
fn out_of_a_preopened_directory() -> Result<()> {
    in_both_ways(|host, openat2| {
        let (mut container, inside, canary) = with_a_box(host, openat2, "beneath", &[])?;
        let planted = inside.join("planted");
        fs::create_dir(&planted)?;
        let links = [
            "/",
            "/secret",
            "/other",
            "/other/dir",
            "../../other",
            "../../secret",
            "/proc/self/root/secret",
            "/proc/self/cwd",
            "/proc/1/root/other",
            "/box/../other",
            "../../box/mine",
        ];
        for (number, target) in links.iter().enumerate() {
            symlink(target, planted.join(format!("link{number}")))?;
        }
        container.run()?.ok()?.prints_some(" ways out")?;
        canary.is_untouched()?;
        // With procfs mounted in it, of which the root and the working directory are outside.
        container.install(&c("hostile/procfs")?, "main.wasm")?;
        container.config["process"]["args"] = json!(["/main.wasm", "/box", "/box/proc"]);
        container.mount(procfs_at("/box/proc"));
        let done = container.run()?.ok()?;
        ensure!(count(&done, "links")? >= 10, "too few links: {done}");
        canary.is_untouched()
    })
}

/// Exchanges these pairs of names, over and over, while the guest of the container runs.
fn exchanging(container: &Container, pairs: &[(PathBuf, PathBuf)]) -> Result<Finished> {
    let running = AtomicBool::new(true);
    std::thread::scope(|scope| {
        let exchanger = scope.spawn(|| {
            while running.load(Ordering::Relaxed) {
                for (one, other) in pairs {
                    renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE)?;
                }
            }
            Ok::<_, rustix::io::Errno>(())
        });
        let done = container.run();
        running.store(false, Ordering::Relaxed);
        exchanger.join().map_err(|_| anyhow::anyhow!("the exchanger panicked"))??;
        done
    })
}

/// Makes a directory of decoys.
fn decoys(directory: &Path, names: &[&str]) -> Result<()> {
    fs::create_dir_all(directory.join("inner"))?;
    for name in names.iter().chain(&["victim"]) {
        fs::write(directory.join(name), "decoy")?;
    }
    Ok(())
}

/// What a guest opens is a directory at one moment, and a link to /proc/self at the next.
#[test]
fn names_that_turn_into_links_to_procfs() -> Result<()> {
    in_both_ways(|host, openat2| {
        let names = ["mem", "environ", "exe", "auxv"];
        let container = hostile(host, openat2, "racing", &[&["/race"][..], &names].concat())?;
        let race = container.rootfs().join("race");
        decoys(&race.join("swapped"), &names)?;
        decoys(&race.join("moved"), &names)?;
        fs::write(race.join("file"), "decoy")?;
        symlink("/proc/self", race.join("link"))?;
        symlink("../../proc/self/task", race.join("task"))?;
        symlink("../proc/self/mem", race.join("memory"))?;
        let pairs = [("swapped", "link"), ("moved/inner", "task"), ("file", "memory")];
        exchanging(&container, &pairs.map(|(one, other)| (race.join(one), race.join(other))))?.ok()?;
        Ok(())
    })
}

/// What a guest opens leads out of its directory at one moment, or is moved out of it.
#[test]
fn directories_that_are_moved_out() -> Result<()> {
    in_both_ways(|host, openat2| {
        let (container, inside, canary) = with_a_box(host, openat2, "racing", &["/box", "file"])?;
        decoys(&inside.join("swapped"), &["file"])?;
        decoys(&inside.join("moved"), &["file"])?;
        fs::write(inside.join("file"), "decoy")?;
        symlink("../other", inside.join("link"))?;
        symlink("../other/file", inside.join("file-link"))?;
        // Moved back and forth between the box and a directory that has everything the guest asks for.
        let elsewhere = container.rootfs().join("elsewhere");
        fs::create_dir_all(elsewhere.join("inner"))?;
        fs::write(elsewhere.join("file"), SECRET)?;
        fs::write(elsewhere.join("victim"), SECRET)?;
        let before = fs::metadata(elsewhere.join("victim"))?;
        let pairs = [
            (inside.join("swapped"), inside.join("link")),
            (inside.join("moved/inner"), elsewhere.join("inner")),
            (inside.join("file"), inside.join("file-link")),
        ];
        exchanging(&container, &pairs)?.ok()?;
        canary.is_untouched()?;
        let after = fs::metadata(elsewhere.join("victim"))?;
        assert_eq!((before.ctime(), before.ctime_nsec()), (after.ctime(), after.ctime_nsec()));
        let mut names: Vec<_> = fs::read_dir(&elsewhere)?.flatten().map(|it| it.file_name()).collect();
        names.sort();
        assert_eq!(names, ["file", "inner", "victim"]);
        Ok(())
    })
}

/// Directories of the host that its engine passes in are as far as the guest comes there.
#[test]
fn directories_from_outside_of_the_container() -> Result<()> {
    in_both_ways(|host, openat2| {
        let canary = Canary::plant(host, "outside")?;
        let given = host.path().join("given");
        fs::create_dir(&given)?;
        fs::write(given.join("file"), "given")?;
        fs::write(host.path().join("secret"), SECRET)?;
        symlink("../outside/file", given.join("link"))?;
        symlink("/etc/passwd", given.join("absolute"))?;
        let mut container = hostile(host, openat2, "outside", &["3"])?;
        container.config["process"]["env"] = json!(["LISTEN_FDS=1"]);
        let run = container.run_command(&["--preserve-fds", "1"])?;
        after("exec 3< \"$0\" < \"$0\" && exec \"$@\"", &given.to_string_lossy(), &run).finish()?.ok()?;
        canary.is_untouched()
    })
}
