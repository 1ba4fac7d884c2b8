//! Every flag of every command is proven by a test, and every flag of runc 1.3 and crun 1.27 is known.
//!
//! [`PROOFS`] says where: in one of this crate's test files, which then has to pass the flag, or in a test here. A flag
//! without an entry fails [`every_flag_has_a_proof`].

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use coracle_integration::{Container, Host, Run, eventually, skip};
use serde_json::Value;

/// A command ("" is the program itself), and its flags by the test file that passes them.
const PROOFS: &[(&str, &[(&str, &str)])] = &[
    (
        "",
        &[
            ("--root", "flags"),
            ("--log", "flags"),
            ("--log-format", "flags"),
            ("--log-level", "flags"),
            ("--debug", "flags"),
            ("--systemd-cgroup", "systemd"),
            ("--cgroup-manager", "flags"),
            ("--rootless", "rootless"),
            ("--version", "flags"),
        ],
    ),
    (
        "create",
        &[
            ("--bundle", "lifecycle"),
            ("--config", "lifecycle"),
            ("--pid-file", "lifecycle"),
            ("--console-socket", "terminal"),
            ("--no-pivot", "mounts"),
            ("--no-new-keyring", "lifecycle"),
            ("--preserve-fds", "flags"),
            ("--pidfd-socket", "flags"),
        ],
    ),
    (
        "run",
        &[
            ("--bundle", "lifecycle"),
            ("--config", "lifecycle"),
            ("--pid-file", "run_foreground"),
            ("--console-socket", "terminal"),
            ("--no-pivot", "mounts"),
            ("--no-new-keyring", "lifecycle"),
            ("--preserve-fds", "flags"),
            ("--pidfd-socket", "flags"),
            ("--no-subreaper", "flags"),
            ("--detach", "checkpoint"),
            ("--keep", "flags"),
        ],
    ),
    ("start", &[]),
    (
        "exec",
        &[
            ("--process", "exec"),
            ("--detach", "exec"),
            ("--tty", "exec"),
            ("--pid-file", "exec"),
            ("--console-socket", "terminal"),
            ("--preserve-fds", "flags"),
            ("--cwd", "exec"),
            ("--env", "exec"),
            ("--user", "exec"),
            ("--additional-gids", "exec"),
            ("--cap", "exec"),
            ("--process-label", "flags"),
            ("--apparmor", "flags"),
            ("--no-new-privs", "exec"),
            ("--ignore-paused", "exec"),
            ("--cgroup", "flags"),
            ("--pidfd-socket", "flags"),
        ],
    ),
    ("state", &[]),
    ("kill", &[("--all", "lifecycle"), ("--regex", "flags")]),
    ("delete", &[("--force", "lifecycle"), ("--regex", "flags")]),
    ("list", &[("--format", "flags"), ("--quiet", "flags")]),
    ("ps", &[("--format", "cgroups")]),
    ("pause", &[]),
    ("resume", &[]),
    (
        "update",
        &[
            ("--resources", "flags"),
            ("--blkio-weight", "flags"),
            ("--cpu-period", "flags"),
            ("--cpu-quota", "flags"),
            ("--cpu-burst", "flags"),
            ("--cpu-share", "flags"),
            ("--cpu-rt-period", "flags"),
            ("--cpu-rt-runtime", "flags"),
            ("--cpu-idle", "flags"),
            ("--cpuset-cpus", "flags"),
            ("--cpuset-mems", "flags"),
            ("--memory", "flags"),
            ("--memory-reservation", "flags"),
            ("--memory-swap", "flags"),
            ("--kernel-memory", "flags"),
            ("--kernel-memory-tcp", "flags"),
            ("--pids-limit", "flags"),
            ("--l3-cache-schema", "flags"),
            ("--mem-bw-schema", "flags"),
        ],
    ),
    ("events", &[("--interval", "flags"), ("--stats", "cgroups")]),
    ("mounts", &[]),
    ("mounts add", &[]),
    ("mounts remove", &[]),
    (
        "checkpoint",
        &[
            ("--image-path", "checkpoint"),
            ("--work-path", "checkpoint"),
            ("--parent-path", "checkpoint"),
            ("--pre-dump", "checkpoint"),
            ("--leave-running", "checkpoint"),
            ("--tcp-established", "flags"),
            ("--tcp-skip-in-flight", "flags"),
            ("--ext-unix-sk", "flags"),
            ("--shell-job", "flags"),
            ("--file-locks", "flags"),
            ("--link-remap", "flags"),
            ("--manage-cgroups-mode", "flags"),
            ("--network-lock", "flags"),
            ("--empty-ns", "flags"),
            ("--auto-dedup", "flags"),
            ("--lazy-pages", "flags"),
            ("--page-server", "flags"),
            ("--status-fd", "flags"),
        ],
    ),
    (
        "restore",
        &[
            ("--image-path", "checkpoint"),
            ("--work-path", "checkpoint"),
            ("--bundle", "checkpoint"),
            ("--detach", "checkpoint"),
            ("--pid-file", "checkpoint"),
            ("--console-socket", "flags"),
            ("--no-subreaper", "flags"),
            ("--no-pivot", "flags"),
            ("--tcp-established", "flags"),
            ("--tcp-close", "flags"),
            ("--ext-unix-sk", "flags"),
            ("--shell-job", "flags"),
            ("--file-locks", "flags"),
            ("--manage-cgroups-mode", "flags"),
            ("--network-lock", "flags"),
            ("--empty-ns", "flags"),
            ("--auto-dedup", "flags"),
            ("--lazy-pages", "flags"),
            ("--lsm-profile", "flags"),
            ("--lsm-mount-context", "flags"),
        ],
    ),
    ("spec", &[("--bundle", "flags"), ("--file", "flags"), ("--rootless", "flags")]),
    ("features", &[]),
    ("wasm", &[]),
    ("wasm compile", &[]),
    ("wasm ls", &[("--format", "flags")]),
    ("wasm prune", &[("--all", "wasm_cache"), ("--older-than", "flags"), ("--max-size", "flags")]),
    ("wasm verify", &[]),
    ("completion", &[]),
];

/// The flags of the peers.
const PEERS: &[(&str, &str, &str)] = &[
    ("", "--cgroup-manager", "crun"),
    ("", "--debug", "runc, crun"),
    ("", "--log", "runc, crun"),
    ("", "--log-format", "runc, crun"),
    ("", "--log-level", "crun"),
    ("", "--root", "runc, crun"),
    ("", "--rootless", "runc, crun"),
    ("", "--systemd-cgroup", "runc, crun"),
    ("checkpoint", "--auto-dedup", "runc"),
    ("checkpoint", "--empty-ns", "runc"),
    ("checkpoint", "--ext-unix-sk", "runc, crun"),
    ("checkpoint", "--file-locks", "runc, crun"),
    ("checkpoint", "--image-path", "runc, crun"),
    ("checkpoint", "--lazy-pages", "runc"),
    ("checkpoint", "--leave-running", "runc, crun"),
    ("checkpoint", "--link-remap", "runc"),
    ("checkpoint", "--manage-cgroups-mode", "runc, crun"),
    ("checkpoint", "--network-lock", "crun"),
    ("checkpoint", "--page-server", "runc"),
    ("checkpoint", "--parent-path", "runc, crun"),
    ("checkpoint", "--pre-dump", "runc, crun"),
    ("checkpoint", "--shell-job", "runc, crun"),
    ("checkpoint", "--status-fd", "runc"),
    ("checkpoint", "--tcp-established", "runc, crun"),
    ("checkpoint", "--tcp-skip-in-flight", "runc"),
    ("checkpoint", "--work-path", "runc, crun"),
    ("create", "--bundle", "runc, crun"),
    ("create", "--config", "crun"),
    ("create", "--console-socket", "runc, crun"),
    ("create", "--no-new-keyring", "runc, crun"),
    ("create", "--no-pivot", "runc, crun"),
    ("create", "--no-subreaper", "crun"),
    ("create", "--pid-file", "runc, crun"),
    ("create", "--pidfd-socket", "runc"),
    ("create", "--preserve-fds", "runc, crun"),
    ("delete", "--force", "runc, crun"),
    ("delete", "--regex", "crun"),
    ("events", "--interval", "runc"),
    ("events", "--stats", "runc"),
    ("exec", "--additional-gids", "runc"),
    ("exec", "--apparmor", "runc, crun"),
    ("exec", "--cap", "runc, crun"),
    ("exec", "--cgroup", "runc, crun"),
    ("exec", "--console-socket", "runc, crun"),
    ("exec", "--cwd", "runc, crun"),
    ("exec", "--detach", "runc, crun"),
    ("exec", "--env", "runc, crun"),
    ("exec", "--ignore-paused", "runc"),
    ("exec", "--no-new-privs", "runc, crun"),
    ("exec", "--pid-file", "runc, crun"),
    ("exec", "--pidfd-socket", "runc"),
    ("exec", "--preserve-fds", "runc, crun"),
    ("exec", "--process", "runc, crun"),
    ("exec", "--process-label", "runc, crun"),
    ("exec", "--tty", "runc, crun"),
    ("exec", "--user", "runc, crun"),
    ("kill", "--all", "crun"),
    ("kill", "--regex", "crun"),
    ("list", "--format", "runc, crun"),
    ("list", "--quiet", "runc, crun"),
    ("ps", "--format", "runc, crun"),
    ("restore", "--auto-dedup", "runc"),
    ("restore", "--bundle", "runc, crun"),
    ("restore", "--console-socket", "runc, crun"),
    ("restore", "--detach", "runc, crun"),
    ("restore", "--empty-ns", "runc"),
    ("restore", "--ext-unix-sk", "runc, crun"),
    ("restore", "--file-locks", "runc, crun"),
    ("restore", "--image-path", "runc, crun"),
    ("restore", "--lazy-pages", "runc"),
    ("restore", "--lsm-mount-context", "runc, crun"),
    ("restore", "--lsm-profile", "runc, crun"),
    ("restore", "--manage-cgroups-mode", "runc, crun"),
    ("restore", "--network-lock", "crun"),
    ("restore", "--no-pivot", "runc"),
    ("restore", "--no-subreaper", "runc"),
    ("restore", "--pid-file", "runc, crun"),
    ("restore", "--shell-job", "runc, crun"),
    ("restore", "--tcp-close", "crun"),
    ("restore", "--tcp-established", "runc, crun"),
    ("restore", "--work-path", "runc, crun"),
    ("run", "--bundle", "runc, crun"),
    ("run", "--config", "crun"),
    ("run", "--console-socket", "runc, crun"),
    ("run", "--detach", "runc, crun"),
    ("run", "--keep", "runc, crun"),
    ("run", "--no-new-keyring", "runc, crun"),
    ("run", "--no-pivot", "runc, crun"),
    ("run", "--no-subreaper", "runc, crun"),
    ("run", "--pid-file", "runc, crun"),
    ("run", "--pidfd-socket", "runc"),
    ("run", "--preserve-fds", "runc, crun"),
    ("spec", "--bundle", "runc, crun"),
    ("spec", "--file", "crun"),
    ("spec", "--rootless", "runc, crun"),
    ("update", "--blkio-weight", "runc, crun"),
    ("update", "--cpu-burst", "runc"),
    ("update", "--cpu-idle", "runc"),
    ("update", "--cpu-period", "runc, crun"),
    ("update", "--cpu-quota", "runc, crun"),
    ("update", "--cpu-rt-period", "runc, crun"),
    ("update", "--cpu-rt-runtime", "runc, crun"),
    ("update", "--cpu-share", "runc, crun"),
    ("update", "--cpuset-cpus", "runc, crun"),
    ("update", "--cpuset-mems", "runc, crun"),
    ("update", "--kernel-memory", "crun"),
    ("update", "--kernel-memory-tcp", "crun"),
    ("update", "--l3-cache-schema", "runc, crun"),
    ("update", "--mem-bw-schema", "runc, crun"),
    ("update", "--memory", "runc, crun"),
    ("update", "--memory-reservation", "runc, crun"),
    ("update", "--memory-swap", "runc, crun"),
    ("update", "--pids-limit", "runc, crun"),
    ("update", "--resources", "runc, crun"),
];

/// A flag of a peer's that is not known, and why.
const UNKNOWN: &[(&str, &str, &str)] =
    &[("create", "--no-subreaper", "create does not stay, so it adopts nobody; crun ignores the flag too")];

fn help(host: &Host, command: &str) -> Result<String> {
    let done = host.runtime().args(command.split_whitespace()).arg("--help").finish()?.ok()?;
    Ok(done.stdout)
}

/// The long flags in a help text: the first word, or the second after a short one.
fn flags(help: &str) -> BTreeSet<String> {
    let long = |line: &str| {
        let word = line.split_whitespace().find(|word| word.starts_with('-') && !word.ends_with(','))?;
        word.starts_with("--").then(|| word.trim_end_matches("...").to_owned())
    };
    let lines = help.lines().filter(|line| line.trim_start().starts_with('-'));
    lines.filter_map(long).filter(|flag| flag != "--help").collect()
}

/// The names in the list of subcommands.
fn subcommands(help: &str) -> Vec<&str> {
    let list = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    list.take_while(|line| !line.is_empty()).filter_map(|line| line.split_whitespace().next()).collect()
}

/// Every command with its flags, as `--help` tells.
fn walk(host: &Host) -> Result<BTreeMap<String, BTreeSet<String>>> {
    let mut found = BTreeMap::new();
    let mut todo = vec![String::new()];
    while let Some(command) = todo.pop() {
        let text = help(host, &command)?;
        todo.extend(subcommands(&text).into_iter().map(|sub| format!("{command} {sub}").trim().to_owned()));
        found.insert(command, flags(&text));
    }
    ensure!(
        found.len() > 20 && found["run"].contains("--bundle"),
        "the help texts are not understood: {found:?}"
    );
    Ok(found)
}

#[test]
fn every_flag_has_a_proof() -> Result<()> {
    let host = Host::new()?;
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let mut problems = Vec::new();
    for (command, flags) in walk(&host)? {
        let proofs = PROOFS.iter().find(|(name, _)| *name == command).map(|(_, proofs)| *proofs);
        let Some(proofs) = proofs else {
            problems.push(format!("{command}: a command without an entry"));
            continue;
        };
        for flag in flags {
            match proofs.iter().find(|(name, _)| **name == flag) {
                None => problems.push(format!("{command} {flag}: no proof")),
                Some((_, file)) => {
                    let text = fs::read_to_string(directory.join(file).with_extension("rs"))?;
                    let harness = fs::read_to_string(directory.join("../src/container.rs"))?;
                    // The table above is no proof: there, a flag is followed by a file's name.
                    let passed = |text: &str| {
                        text.match_indices(&format!("\"{flag}")).any(|(at, found)| {
                            let rest = &text[at + found.len()..];
                            (rest.starts_with('"') || rest.starts_with([' ', '=']))
                                && !rest.starts_with(&format!("\", \"{file}\")"))
                                && !rest.starts_with("\", \"runc\")")
                                && !rest.starts_with("\", \"crun\")")
                        })
                    };
                    let short = format!(" {flag} ");
                    if !passed(&text) && !passed(&harness) && !text.contains(&short) {
                        problems.push(format!("{command} {flag}: {file}.rs does not pass it"));
                    }
                }
            }
        }
    }
    ensure!(problems.is_empty(), "{}", problems.join("\n"));
    Ok(())
}

/// Whether a command takes a flag that its help does not tell of, for old callers.
fn hidden(host: &Host, command: &str, flag: &str) -> bool {
    let refused = format!("unexpected argument '{flag}'");
    let done = host.runtime().args(command.split_whitespace()).arg(flag).finish();
    done.is_ok_and(|done| done.code != 0 && !done.stderr.contains(&refused))
}

#[test]
fn every_flag_of_runc_and_crun_is_known() -> Result<()> {
    let host = Host::new()?;
    let ours = walk(&host)?;
    let missing = PEERS.iter().filter(|(command, flag, _)| {
        let known =
            ours.get(*command).is_some_and(|flags| flags.contains(*flag)) || hidden(&host, command, flag);
        !known && !UNKNOWN.iter().any(|(c, f, _)| c == command && f == flag)
    });
    let missing: Vec<String> = missing.map(|(c, f, peer)| format!("{c} {f} ({peer})")).collect();
    ensure!(missing.is_empty(), "{}", missing.join("\n"));
    Ok(())
}

#[test]
fn the_version_is_printed_by_three_flags() -> Result<()> {
    let host = Host::new()?;
    for flag in ["--version", "-v", "-V"] {
        let done = host.runtime().arg(flag).finish()?.ok()?;
        assert!(done.stdout.starts_with("coracle version "), "{done}");
        assert!(done.lines().any(|line| line.starts_with("spec: 1.")), "{done}");
    }
    host.runtime().args(["nonsense", "-h"]).finish()?.exits(3)?.fails_with("No help topic for 'nonsense'")?;
    Ok(())
}

#[test]
fn the_log_goes_where_it_is_told() -> Result<()> {
    let host = Host::new()?;
    let file = host.path().join("log");
    let log = |destination: &str, more: &[&str]| {
        host.runtime().args(["--log", destination]).args(more).args(["state", "none"]).finish()?.exits(1)
    };
    let path = file.to_str().context("path")?;
    let done = log(path, &["--log-format", "json"])?;
    assert_eq!(done.stderr, "container does not exist\n", "the bare message");
    let line: Value = serde_json::from_str(&fs::read_to_string(&file)?)?;
    assert_eq!((&line["level"], &line["msg"]), (&"error".into(), &"container does not exist".into()));
    log(&format!("file:{path}"), &["--log-format", "text"])?;
    let text = fs::read_to_string(&file)?;
    assert!(
        text.lines().count() == 2 && text.contains("level=error msg=\"container does not exist\""),
        "{text}"
    );
    log("/nowhere/log", &[])?.fails_with("open log file /nowhere/log: no such file or directory")?;
    for (daemon, socket) in [("syslog:me", "/dev/log"), ("journald:me", "/run/systemd/journal/socket")] {
        // Where the daemon is, its log is the host's business.
        if !fs::metadata(socket).is_ok_and(|m| m.file_type().is_socket()) {
            log(daemon, &[])?.fails_with(&format!("open log file {daemon}: "))?;
        }
    }
    host.runtime().args(["--log-format", "xml", "list"]).finish()?.exits(1)?.fails_with("'xml'")?;
    Ok(())
}

#[test]
fn the_log_s_level_says_how_much() -> Result<()> {
    let host = Host::new()?;
    let c = host.container(&["true"])?;
    c.save()?;
    let run = |more: &[&str]| {
        let mut command = host.runtime();
        command.args(more).args(["run", "--bundle"]).arg(c.bundle()).arg(&c.id);
        command.finish()?.ok()
    };
    assert_eq!(run(&[])?.stderr, "");
    assert_eq!(run(&["--log-level", "warning"])?.stderr, "");
    for flags in [&["--debug"][..], &["--log-level", "debug"]] {
        let done = run(flags)?;
        assert!(done.stderr.contains("level=debug") && done.stderr.contains(&c.id), "{done}");
    }
    host.runtime().args(["--log-level", "loud", "list"]).finish()?.exits(1)?.fails_with("'loud'")?;
    Ok(())
}

#[test]
fn the_root_is_not_the_host_s() -> Result<()> {
    let host = Host::new()?;
    let complaint = "Option --root argument should not be set to /";
    let mut command = coracle_integration::command(coracle_integration::coracle());
    command.args(["--root", "/", "list"]).finish()?.exits(1)?.fails_with(complaint)?;
    let mut c = host.container(&["sleep", "1000"])?;
    c.create()?;
    let other = host.path().join("other");
    let mut command = coracle_integration::command(coracle_integration::coracle());
    command.arg("--root").arg(&other).args(["list", "--quiet"]).finish()?.ok()?.prints("")?;
    Ok(())
}

#[test]
fn cgroups_can_be_left_alone() -> Result<()> {
    let host = Host::new()?;
    let mut c = host.container(&["cat", "/proc/self/cgroup"])?;
    c.without_namespace("cgroup");
    if let Some(linux) = c.config["linux"].as_object_mut() {
        linux.remove("resources");
    }
    c.save()?;
    let mut command = host.runtime();
    command.args(["--cgroup-manager", "disabled", "run", "--bundle"]).arg(c.bundle()).arg(&c.id);
    command.finish()?.ok()?.prints(&fs::read_to_string("/proc/self/cgroup")?)?;
    Ok(())
}

#[test]
fn lists_are_tables_json_or_ids() -> Result<()> {
    let host = Host::new()?;
    let mut c = host.container(&["sleep", "1000"])?;
    c.create()?;
    let list = |flags: &[&str]| host.runtime().arg("list").args(flags).finish()?.ok();
    list(&["--quiet"])?.prints(&format!("{}\n", c.id))?;
    let table = list(&["--format", "table"])?;
    let head: Vec<&str> = table.stdout.lines().next().unwrap_or_default().split_whitespace().collect();
    assert_eq!(head, ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"]);
    let json: Value = serde_json::from_str(&list(&["--format", "json"])?.stdout)?;
    let mut keys: Vec<&String> = json[0].as_object().context("a container")?.keys().collect();
    keys.sort();
    assert_eq!(keys, ["bundle", "created", "id", "ociVersion", "owner", "pid", "rootfs", "status"]);
    assert_eq!(json[0]["owner"], "root");
    Ok(())
}

#[test]
fn a_regular_expression_names_many() -> Result<()> {
    let host = Host::new()?;
    let mut all = Vec::new();
    for _ in 0..3 {
        let mut c = host.container(&["sleep", "1000"])?;
        c.create()?.start()?;
        all.push(c);
    }
    let id = |n: usize| all[n].id.clone();
    let two = format!("^({}|{})$", id(0), id(1));
    host.runtime().args(["kill", "--regex", &two, "KILL"]).finish()?.ok()?;
    all[0].wait_status("stopped")?;
    all[1].wait_status("stopped")?;
    assert_eq!(all[2].status()?, "running");
    // One that cannot be deleted does not keep the others.
    let done = host.runtime().args(["delete", "--regex", "."]).finish()?.exits(1)?;
    done.fails_with(&format!("{}: cannot delete container", id(2)))?;
    host.runtime().args(["list", "--quiet"]).finish()?.ok()?.prints(&format!("{}\n", id(2)))?;
    host.runtime().args(["delete", "--force", "--regex", "."]).finish()?.ok()?;
    host.runtime()
        .args(["delete", "--regex", "("])
        .finish()?
        .exits(1)?
        .fails_with("invalid regular expression")?;
    host.runtime().args(["delete", "--regex", "none"]).finish()?.ok()?;
    drop(all);
    host.is_clean()
}

#[test]
fn a_specification_is_written_where_it_is_asked_for() -> Result<()> {
    let host = Host::new()?;
    let bundle = host.path().join("bundle");
    fs::create_dir(&bundle)?;
    let spec = |flags: &[&str]| host.runtime().arg("spec").arg("--bundle").arg(&bundle).args(flags).finish();
    spec(&[])?.ok()?;
    spec(&[])?.exits(1)?.fails_with("File config.json exists. Remove it first")?;
    spec(&["--file", "other.json", "--rootless"])?.ok()?;
    let read = |name: &str| -> Result<Value> { Ok(serde_json::from_slice(&fs::read(bundle.join(name))?)?) };
    assert_eq!(read("config.json")?["linux"]["uidMappings"], Value::Null);
    assert_eq!(read("other.json")?["linux"]["uidMappings"][0]["size"], 1);
    Ok(())
}

#[test]
fn a_kept_container_is_there_after_its_end() -> Result<()> {
    let host = Host::new()?;
    let c = host.container(&["true"])?;
    c.run_command(&["--keep"])?.finish()?.ok()?;
    assert_eq!(c.state()?["status"], "stopped");
    c.verb("delete").finish()?.ok()?;
    host.is_clean()
}

/// A descriptor from 3 on reaches the program only if it is asked for.
#[test]
fn descriptors_are_preserved_by_number() -> Result<()> {
    let host = Host::new()?;
    let mut c = host.container(&["readlink", "/proc/self/fd/3"])?;
    c.save()?;
    let shell = |redirection: &str, args: &[&str]| {
        let mut shell = coracle_integration::command("sh");
        shell.args(["-c", &format!("exec \"$@\" {redirection}"), "sh"]).arg(coracle_integration::coracle());
        shell.arg("--root").arg(host.state_dir()).args(args);
        shell.finish()
    };
    let with_descriptor = |args: &[&str]| shell("3</etc/passwd", args);
    let bundle = c.bundle().to_owned();
    let bundle = bundle.to_str().context("path")?;
    let id = c.id.clone();
    with_descriptor(&["run", "--preserve-fds", "1", "--bundle", bundle, &id])?
        .ok()?
        .prints("/etc/passwd\n")?;
    with_descriptor(&["run", "--bundle", bundle, &id])?.exits(1)?;
    shell("3<&-", &["create", "--preserve-fds", "1", "--bundle", bundle, &id])?
        .exits(1)?
        .fails_with("--preserve-fds 1: descriptor 3")?;
    c.config["process"]["args"] = serde_json::json!(["sleep", "1000"]);
    c.create()?.start()?;
    let link = ["readlink", "/proc/self/fd/3"];
    with_descriptor(&[&["exec", "--preserve-fds", "1", &id][..], &link].concat())?
        .ok()?
        .prints("/etc/passwd\n")?;
    with_descriptor(&[&["exec", &id][..], &link].concat())?.exits(1)?;
    Ok(())
}

/// What the host lacks, or nobody listens on, is named by the error.
#[test]
fn what_cannot_be_had_is_named() -> Result<()> {
    let host = Host::new()?;
    let mut c = host.container(&["sleep", "1000"])?;
    c.create()?.start()?;
    let fails = |flags: &[&str], needle: &str| {
        c.exec_with(flags, &["true"])?.exits(255)?.fails_with(needle).map(|_| ())
    };
    fails(&["--apparmor", "no-such-profile"], "apparmor")?;
    fails(&["--process-label", "no:such:label"], "selinuxLabel")?;
    c.verb_with("events", &["--interval", "0s"]).finish()?.exits(1)?.fails_with("--interval")?;
    fails(&["--cgroup", "no-such-cgroup"], "no-such-cgroup")?;
    fails(&["--pidfd-socket", "/nowhere/socket"], "/nowhere/socket")?;
    for verb in ["create", "run"] {
        let other = host.container(&["true"])?;
        other.save()?;
        let bundle = other.bundle().to_str().context("path")?.to_owned();
        let flags = ["--pidfd-socket", "/nowhere/socket", "--bundle", &bundle];
        other.verb_with(verb, &flags).finish()?.exits(1)?.fails_with("/nowhere/socket")?;
    }
    let other = host.container(&["true"])?;
    other.run_command(&["--no-subreaper"])?.finish()?.ok()?;
    Ok(())
}

/// Each flag of `update` ends in its field of the configuration, or, where the kernel or the host refuses, in an error that
/// names flag, field or file.
#[test]
fn updates_reach_their_fields() -> Result<()> {
    const FLAGS: [(&str, &str, &str, i64, &str); 16] = [
        ("--blkio-weight", "300", "/blockIO/weight", 300, "blkio"),
        ("--cpu-period", "50000", "/cpu/period", 50000, "cpu"),
        ("--cpu-quota", "20000", "/cpu/quota", 20000, "cpu"),
        ("--cpu-burst", "1000", "/cpu/burst", 1000, "cpu"),
        ("--cpu-share", "512", "/cpu/shares", 512, "cpu"),
        ("--cpu-rt-period", "900000", "/cpu/realtimePeriod", 900_000, "cpu"),
        ("--cpu-rt-runtime", "1000", "/cpu/realtimeRuntime", 1000, "cpu"),
        ("--memory-reservation", "50000000", "/memory/reservation", 50_000_000, "memory"),
        ("--memory", "100000000", "/memory/limit", 100_000_000, "memory"),
        ("--memory-swap", "200000000", "/memory/swap", 200_000_000, "memory"),
        ("--kernel-memory", "10000000", "/memory/kernel", 10_000_000, "memory"),
        ("--kernel-memory-tcp", "10000000", "/memory/kernelTCP", 10_000_000, "memory"),
        ("--pids-limit", "77", "/pids/limit", 77, "pids"),
        ("--cpu-idle", "1", "/cpu/idle", 1, "cpu"),
        ("--l3-cache-schema", "L3:0=f", "/l3CacheSchema", 0, "Intel RDT"),
        ("--mem-bw-schema", "MB:0=20", "/memBwSchema", 0, "Intel RDT"),
    ];
    let host = Host::new()?;
    let mut c = host.container(&["sleep", "1000"])?;
    c.create()?.start()?;
    let resources = || -> Result<Value> {
        let saved = fs::read(host.state_dir().join(&c.id).join("config.json"))?;
        Ok(serde_json::from_slice::<Value>(&saved)?["linux"]["resources"].take())
    };
    let reached = |flag: &str, given: &str, field: &str, value: Value, word: &str| -> Result<()> {
        let done = c.verb_with("update", &[flag, given]).finish()?;
        if done.code != 0 {
            ensure!(done.stderr.contains(word), "{flag}: {done}");
            return Ok(());
        }
        let resources = resources()?;
        ensure!(resources.pointer(field) == Some(&value), "{flag}: {resources}");
        Ok(())
    };
    for (flag, given, field, value, word) in FLAGS {
        reached(flag, given, field, value.into(), word)?;
    }
    reached("--cpuset-cpus", "0", "/cpu/cpus", "0".into(), "cpuset")?;
    reached("--cpuset-mems", "0", "/cpu/mems", "0".into(), "cpuset")?;
    let mut all = c.verb_with("update", &["--resources", "-"]);
    all.finish_with(br#"{"pids":{"limit":55}}"#)?.ok()?;
    assert_eq!(resources()?["pids"]["limit"], 55);
    Ok(())
}

#[test]
fn the_cache_is_pruned_by_age_and_size() -> Result<()> {
    let host = Host::new()?;
    for flags in [["--older-than", "1"], ["--max-size", "1M"]] {
        let done = host.runtime().args(["wasm", "prune"]).args(flags).finish()?.ok()?;
        assert!(done.stdout.starts_with("removed 0 compiled modules"), "{done}");
    }
    host.runtime().args(["wasm", "ls", "--format", "json"]).finish()?.ok()?.prints("[]\n")?;
    host.runtime()
        .args(["wasm", "prune", "--max-size", "1T"])
        .finish()?
        .exits(1)?
        .fails_with("--max-size")?;
    Ok(())
}

/// A container to be checkpointed; its network is the host's, so that nothing has to be locked.
fn running(host: &Host) -> Result<Container<'_>> {
    let mut c = host.container(&["sleep", "1000"])?;
    c.without_namespace("network");
    c.create()?.start()?;
    Ok(c)
}

/// A text log as what was logged.
fn logged(text: &str) -> String {
    text.replace("\\\"", "\"")
}

fn has_criu() -> bool {
    std::process::Command::new("criu").arg("--version").output().is_ok_and(|done| done.status.success())
}

/// What CRIU is asked for is in the debug log, whether it can do it here or not.
#[test]
fn criu_is_asked_for_what_the_flags_of_checkpoint_say() -> Result<()> {
    const FLAGS: [(&[&str], &str); 13] = [
        (&["--tcp-established"], "tcp_established: true"),
        (&["--tcp-skip-in-flight"], "tcp_skip_in_flight: true"),
        (&["--ext-unix-sk"], "ext_unix_sk: true"),
        (&["--shell-job"], "shell_job: true"),
        (&["--file-locks"], "file_locks: true"),
        (&["--link-remap"], "link_remap: true"),
        (&["--manage-cgroups-mode", "ignore"], "manage_cgroups_mode: IGNORE"),
        (&["--manage-cgroups-mode", "strict"], "manage_cgroups_mode: STRICT"),
        (&["--network-lock", "nftables"], "network_lock: NFTABLES"),
        (&["--empty-ns", "network"], "empty_ns: 1073741824"),
        (&["--auto-dedup"], "auto_dedup: true"),
        (&["--page-server", "127.0.0.1:9"], "ps {address: \"127.0.0.1\" port: 9}"),
        // A question of its own comes first, and may be answered with no.
        (&["--lazy-pages", "--status-fd", "1"], "lazy_pages: true"),
    ];
    if !has_criu() {
        skip("criu_is_asked_for_what_the_flags_of_checkpoint_say", "criu is not installed");
        return Ok(());
    }
    let host = Host::new()?;
    for (flags, request) in FLAGS {
        let c = running(&host)?;
        let images = c.bundle().join("images");
        let mut command = host.runtime();
        command.args(["--debug", "checkpoint", "--image-path"]).arg(&images).args(flags).arg(&c.id);
        let done = command.finish()?;
        ensure!(logged(&done.stderr).contains(request), "{flags:?}: {done}");
        c.delete()?;
    }
    let c = running(&host)?;
    for (flags, complaint) in [
        (["--empty-ns", "user"], "'user'"),
        (["--manage-cgroups-mode", "none"], "'none'"),
        (["--network-lock", "none"], "'none'"),
        (["--page-server", "here"], "not ADDRESS:PORT"),
        (["--lazy-pages", "--status-fd=77"], "bad file descriptor"),
        (["--lazy-pages", "--status-fd=0"], "not writable"),
    ] {
        c.verb_with("checkpoint", &flags).finish()?.exits(1)?.fails_with(complaint)?;
    }
    Ok(())
}

#[test]
fn criu_is_asked_for_what_the_flags_of_restore_say() -> Result<()> {
    const FLAGS: [(&[&str], &str); 15] = [
        (&["--tcp-established"], "tcp_established: true"),
        (&["--tcp-close"], "tcp_close: true"),
        (&["--ext-unix-sk"], "ext_unix_sk: true"),
        (&["--shell-job"], "shell_job: true"),
        (&["--file-locks"], "file_locks: true"),
        (&["--manage-cgroups-mode", "full"], "manage_cgroups_mode: FULL"),
        (&["--manage-cgroups-mode", "soft"], "manage_cgroups_mode: SOFT"),
        (&["--network-lock", "iptables"], "network_lock: IPTABLES"),
        (&["--empty-ns", "network"], "empty_ns: 1073741824"),
        (&["--auto-dedup"], "auto_dedup: true"),
        (&["--lazy-pages"], "lazy_pages: true"),
        (&["--lsm-profile", "apparmor:x"], "lsm_profile: \"apparmor:x\""),
        (&["--lsm-mount-context", "a:b:c"], "lsm_mount_context: \"a:b:c\""),
        (&["--no-subreaper"], "rst_sibling: true"),
        (&["--no-pivot"], "rst_sibling: true"),
    ];
    if !has_criu() {
        skip("criu_is_asked_for_what_the_flags_of_restore_say", "criu is not installed");
        return Ok(());
    }
    let host = Host::new()?;
    let c = host.container(&["sleep", "1000"])?;
    c.save()?;
    let images = c.bundle().join("images");
    fs::create_dir(&images)?;
    fs::write(images.join("descriptors.json"), r#"["pipe:[1]","/dev/null","/dev/null"]"#)?;
    for (flags, request) in FLAGS {
        let mut command = host.runtime();
        command.args(["--debug", "restore", "--bundle"]).arg(c.bundle()).arg("--image-path").arg(&images);
        let done = command.args(flags).arg(&c.id).finish()?.exits(1)?;
        let text = logged(&done.stderr);
        ensure!(text.contains(request), "{flags:?}: {done}");
        ensure!(text.contains("inherit_fd {key: \"pipe:[1]\" fd: 0}"), "{done}");
    }
    // What podman looks for to find out whether the flag is there.
    let done = host.runtime().args(["restore", "--lsm-mount-context"]).finish()?;
    ensure!(done.code != 0 && done.stderr.contains("requires an argument"), "{done}");
    let flags = ["--console-socket", "/nowhere/socket"];
    let mut command = c.verb_with("restore", &flags);
    command.arg("--bundle").arg(c.bundle()).arg("--image-path").arg(&images);
    command.finish()?.exits(1)?.fails_with("console socket")?;
    eventually("nothing is left", || Ok(host.list()?.is_empty()))?;
    host.is_clean()
}
