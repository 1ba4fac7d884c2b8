//! `exec`: a second process gets what the container has.

use std::fs;
use std::io::Write;
use std::process::Stdio;

use anyhow::{Context, Result};
use coracle_integration::{ConsoleSocket, Container, Host, Run, Terminal, reap};
use rustix::process::Signal;
use serde_json::{Value, json};

fn running<'h>(host: &'h Host, change: impl FnOnce(&mut Value)) -> Result<Container<'h>> {
    let mut c = host.container(&["sleep", "1000"])?;
    change(&mut c.config);
    c.create()?.start()?;
    Ok(c)
}

/// The value of a line of `/proc/self/status` of an exec'd process.
fn status(c: &Container, flags: &[&str], field: &str) -> Result<String> {
    let done = c.exec_with(flags, &["grep", &format!("^{field}:"), "/proc/self/status"])?.ok()?;
    Ok(done.stdout.split_once(':').context("field")?.1.trim().to_owned())
}

#[test]
fn namespaces_and_root_are_the_containers() -> Result<()> {
    let host = Host::new()?;
    let c = running(&host, |_| {})?;
    for ns in ["mnt", "pid", "net", "ipc", "uts"] {
        let link = fs::read_link(format!("/proc/{}/ns/{ns}", c.pid()?))?;
        c.exec(&["readlink", &format!("/proc/self/ns/{ns}")])?
            .ok()?
            .prints(link.to_str().context("link")?)?;
    }
    c.exec(&["sh", "-c", "cat /proc/1/comm; ls -d /bin/busybox"])?.ok()?.prints("sleep\n/bin/busybox")?;
    Ok(())
}

#[test]
fn the_cgroup_is_the_containers() -> Result<()> {
    let host = Host::new()?;
    let c = running(&host, |_| {})?;
    let mut job = c.verb("exec").args(["sh", "-c", "echo ready; sleep 1000"]).job()?;
    job.expect("ready")?;
    let ps = c.verb_with("ps", &["--format", "json"]).finish()?.ok()?;
    let pids: Vec<i32> = serde_json::from_str(&ps.stdout)?;
    assert!(pids.len() >= 2 && pids.contains(&c.pid()?), "{pids:?}");
    for pid in pids {
        assert_eq!(fs::read_to_string(format!("/proc/{pid}/cgroup"))?, c.proc("cgroup")?);
    }
    job.signal(Signal::TERM)?;
    job.wait()?.exits(143)?;
    Ok(())
}

#[test]
fn seccomp_capabilities_and_no_new_privileges_apply() -> Result<()> {
    let host = Host::new()?;
    let c = running(&host, |config| {
        config["linux"]["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "architectures": ["SCMP_ARCH_X86_64"],
            "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 122}]
        });
        config["process"]["noNewPrivileges"] = json!(true);
    })?;
    assert_eq!(status(&c, &[], "Seccomp")?, "2");
    assert_eq!(status(&c, &[], "NoNewPrivs")?, "1");
    c.exec(&["mkdir", "/tmp/x"])?.exits(1)?.fails_with("quota")?;
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        let init = c.proc("status")?;
        let init = init.lines().find_map(|l| l.strip_prefix(set)).context("field")?;
        assert_eq!(status(&c, &[], set)?, init.trim_start_matches(':').trim(), "{set}");
    }
    Ok(())
}

#[test]
fn seccomp_without_no_new_privileges() -> Result<()> {
    let host = Host::new()?;
    let c = running(&host, |config| {
        config["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
            {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}]});
        config["process"]["noNewPrivileges"] = json!(false);
        config["process"]["user"] = json!({"uid": 1000, "gid": 1000});
        config["process"]["capabilities"] = json!({});
    })?;
    for (field, value) in [("Seccomp", "2"), ("NoNewPrivs", "0")] {
        assert_eq!(status(&c, &[], field)?, value);
    }
    c.exec(&["mkdir", "/tmp/x"])?.exits(1)?.fails_with("not permitted")?;
    Ok(())
}

#[test]
fn user_cwd_and_environment() -> Result<()> {
    let host = Host::new()?;
    let c = running(&host, |config| {
        config["process"]["env"] = json!(["PATH=/bin", "BASE=1"]);
        config["process"]["cwd"] = json!("/etc");
    })?;
    c.exec(&["sh", "-c", "id -u; id -g; pwd; echo $BASE $EXTRA"])?.ok()?.prints("0\n0\n/etc\n1")?;
    c.exec_with(
        &["--user", "1000:1001", "--cwd=/tmp", "--env", "EXTRA=2", "--env=BASE=3"],
        &["sh", "-c", "id -u; id -g; pwd; echo $BASE $EXTRA"],
    )?
    .ok()?
    .prints("1000\n1001\n/tmp\n3 2")?;
    c.exec_with(&["--additional-gids", "7", "--additional-gids=8"], &["id", "-G"])?.ok()?.prints("0 7 8")?;
    c.exec_with(&["--cwd", "/nodir"], &["true"])?.exits(255)?.fails_with("no such file or directory")?;
    Ok(())
}

#[test]
fn capability_and_no_new_privileges_flags() -> Result<()> {
    let host = Host::new()?;
    let c = running(&host, |config| config["process"]["noNewPrivileges"] = json!(false))?;
    assert_eq!(status(&c, &["--no-new-privs"], "NoNewPrivs")?, "1");
    // CAP_SYS_PTRACE is bit 19.
    let bounding = u64::from_str_radix(&status(&c, &["--cap", "CAP_SYS_PTRACE"], "CapEff")?, 16)?;
    assert_ne!(bounding & 1 << 19, 0);
    let without = u64::from_str_radix(&status(&c, &[], "CapEff")?, 16)?;
    assert_eq!(without & 1 << 19, 0);
    Ok(())
}

#[test]
fn a_process_file() -> Result<()> {
    let host = Host::new()?;
    let c = running(&host, |_| {})?;
    let file = host.path().join("process.json");
    let mut process = c.config["process"].clone();
    process["args"] = json!(["sh", "-c", "echo $0-$X; id -u; exit 6", "arg"]);
    process["env"] = json!(["PATH=/bin", "X=y"]);
    process["user"] = json!({"uid": 5, "gid": 6});
    process["cwd"] = json!("/tmp");
    fs::write(&file, process.to_string())?;
    let exec = c.verb_with("exec", &["--process", file.to_str().context("path")?]).finish()?;
    exec.exits(6)?.prints("arg-y\n5")?;
    Ok(())
}

#[test]
fn detached_with_a_pid_file() -> Result<()> {
    let host = Host::new()?;
    let c = running(&host, |_| {})?;
    let pid_file = host.path().join("exec.pid");
    let flags = ["--detach", "--pid-file", pid_file.to_str().context("path")?];
    c.exec_with(&flags, &["sh", "-c", "sleep 0.3; touch /tmp/done"])?.ok()?.prints("")?;
    let pid: i32 = fs::read_to_string(&pid_file)?.parse().context("a bare number")?;
    assert_eq!(fs::read_to_string(format!("/proc/{pid}/cgroup"))?, c.proc("cgroup")?);
    assert_eq!(reap(pid)?, 0);
    assert!(c.rootfs().join("tmp/done").exists());
    Ok(())
}

#[test]
fn foreground_exit_codes_signals_and_streams() -> Result<()> {
    let host = Host::new()?;
    let c = running(&host, |_| {})?;
    for code in [0, 3, 126, 255] {
        c.exec(&["sh", "-c", &format!("exit {code}")])?.exits(code)?;
    }
    c.exec(&["sh", "-c", "kill -KILL $$"])?.exits(137)?;
    c.exec(&["sh", "-c", "kill -TERM $$"])?.exits(143)?;
    let done = c.verb("exec").args(["sh", "-c", "echo e >&2; cat"]).finish_with(b"in")?.ok()?.prints("in")?;
    assert_eq!(done.stderr, "e\n");

    let mut job = c.verb("exec").args(["cat"]).stdin(Stdio::piped()).job()?;
    let mut stdin = job.stdin().context("stdin")?;
    stdin.write_all(b"line\n")?;
    job.expect("line")?;
    drop(stdin);
    job.wait()?.ok()?;

    let script = "trap 'exit 8' TERM; echo ready; while :; do sleep 0.05; done";
    let mut job = c.verb("exec").args(["sh", "-c", script]).job()?;
    job.expect("ready")?;
    job.signal(Signal::TERM)?;
    job.wait()?.exits(8)?;
    Ok(())
}

#[test]
fn no_exit_status_is_lost_in_100_short_execs() -> Result<()> {
    let host = Host::new()?;
    let c = running(&host, |_| {})?;
    for _ in 0..100 {
        c.exec(&["sh", "-c", "exit 5"])?.exits(5)?;
    }
    Ok(())
}

#[test]
fn only_in_a_running_container() -> Result<()> {
    let host = Host::new()?;
    let mut c = host.container(&["sleep", "1000"])?;
    c.create()?;
    // Created is fine, as for runc: the namespaces are there.
    c.exec(&["true"])?.ok()?;
    c.start()?;
    c.verb("pause").finish()?.ok()?;
    c.exec(&["true"])?
        .exits(255)?
        .fails_with("cannot exec in a paused container (use --ignore-paused to override)")?;
    c.verb("resume").finish()?.ok()?;
    c.kill("KILL")?;
    c.wait_status("stopped")?;
    c.exec(&["true"])?.exits(255)?.fails_with("cannot exec in a stopped container")?;
    Ok(())
}

#[test]
fn with_a_terminal_of_its_own() -> Result<()> {
    let host = Host::new()?;
    let c = running(&host, |_| {})?;
    let mut command = c.verb_with("exec", &["--tty"]);
    command.args(["sh", "-c", "tty; stty size; read x; echo got $x; exit 4"]);
    let mut terminal = Terminal::spawn(&mut command)?;
    terminal.expect("/dev/pts/0")?;
    terminal.expect("24 80")?;
    terminal.type_in("word\r")?;
    terminal.expect("got word")?;
    assert_eq!(terminal.wait()?.0, 4);
    Ok(())
}

#[test]
fn with_a_console_socket() -> Result<()> {
    let host = Host::new()?;
    let c = running(&host, |_| {})?;
    let socket = ConsoleSocket::bind(&host.path().join("console.sock"))?;
    let pid_file = host.path().join("exec.pid");
    let pid_flag = format!("--pid-file={}", pid_file.display());
    let flags = ["--tty", "--detach", &pid_flag, "--console-socket", socket.path()];
    let mut exec = c.verb_with("exec", &flags).args(["sh", "-c", "tty; read x; echo got $x"]).job()?;
    let mut terminal = socket.accept()?;
    exec.wait()?.ok()?;
    terminal.expect("/dev/pts/0")?;
    terminal.type_in("word\n")?;
    terminal.expect("got word")?;
    terminal.rest()?;
    assert_eq!(reap(fs::read_to_string(&pid_file)?.parse()?)?, 0);
    Ok(())
}

#[test]
fn into_a_user_namespace() -> Result<()> {
    let host = Host::new()?;
    let mut c = host.container(&["sleep", "1000"])?;
    c.namespace("user", None);
    let map = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
    c.config["linux"]["uidMappings"] = map.clone();
    c.config["linux"]["gidMappings"] = map;
    std::os::unix::fs::chown(c.rootfs(), Some(100_000), Some(100_000))?;
    c.create()?.start()?;
    c.exec(&["sh", "-c", "id -u; cat /proc/self/uid_map | tr -s ' '"])?.ok()?.prints("0\n 0 100000 65536")?;
    let link = fs::read_link(format!("/proc/{}/ns/user", c.pid()?))?;
    c.exec(&["readlink", "/proc/self/ns/user"])?.ok()?.prints(link.to_str().context("link")?)?;
    Ok(())
}

#[test]
fn into_a_cgroup_below_the_containers() -> Result<()> {
    let host = Host::new()?;
    // In a namespace of its own, as on cgroup v2, it would not see where it is.
    let c = running(&host, |config| {
        if let Some(namespaces) = config["linux"]["namespaces"].as_array_mut() {
            namespaces.retain(|namespace| namespace["type"] != "cgroup");
        }
    })?;
    let own = c.proc("cgroup")?;
    let directories: Vec<_> = Host::cgroup_dirs(c.cgroup()).iter().map(|d| d.join("below")).collect();
    let exec = |place: &str| c.exec_with(&["--cgroup", place], &["cat", "/proc/self/cgroup"]);
    exec("below")?.exits(255)?.fails_with("/below/cgroup.procs: no such file")?;
    exec("..")?.exits(255)?.fails_with(".. is not a sub cgroup path")?;
    exec("nonsense:below")?.exits(255)?.fails_with("unknown controller nonsense")?;
    directories.iter().try_for_each(fs::create_dir)?;
    if let Some(dir) = directories.iter().find(|d| d.join("cpuset.cpus").exists() && d.join("tasks").exists())
    {
        // A v1 cpuset takes processes only when it has CPUs and memory.
        for name in ["cpuset.cpus", "cpuset.mems"] {
            fs::write(dir.join(name), fs::read(dir.with_file_name(name))?)?;
        }
    }
    let inside = exec("below")?.ok()?.stdout;
    for (before, after) in own.lines().zip(inside.lines()) {
        let mine = before.contains(c.cgroup());
        assert_eq!(after, if mine { format!("{before}/below") } else { before.to_owned() });
    }
    exec("/")?.ok()?.prints(own.trim())?;
    directories.iter().rev().try_for_each(fs::remove_dir)?;
    Ok(())
}
