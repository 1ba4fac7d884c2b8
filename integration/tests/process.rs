//! What `process` in config.json says, seen from inside.

use std::os::unix::process::CommandExt;

use anyhow::{Context, Result};
use coracle_integration::{Container, Host, Run};
use rustix::thread::CapabilitySet;
use serde_json::json;

/// Runs a shell script in the container.
fn script(c: &mut Container, script: &str) -> Result<String> {
    c.config["process"]["args"] = json!(["sh", "-c", script]);
    Ok(c.run()?.ok()?.stdout.trim().to_owned())
}

fn status_field(status: &str, field: &str) -> Result<String> {
    let line = status.lines().find(|l| l.starts_with(field)).context("field")?;
    Ok(line.split_once(':').context("colon")?.1.trim().to_owned())
}

#[test]
fn user_and_groups() -> Result<()> {
    let host = Host::new()?;
    let mut c = host.container(&[])?;
    c.config["process"]["user"] = json!({"uid": 1000, "gid": 1001, "additionalGids": [5, 6]});
    assert_eq!(script(&mut c, "id -u; id -g; id -G")?, "1000\n1001\n1001 5 6");
    c.config["process"]["user"] = json!({"uid": 0, "gid": 0});
    assert_eq!(script(&mut c, "id -G")?, "0", "groups of the caller must not come along");
    Ok(())
}

#[test]
fn umask() -> Result<()> {
    let host = Host::new()?;
    let mut c = host.container(&[])?;
    assert_eq!(script(&mut c, "umask")?, "0022");
    c.config["process"]["user"]["umask"] = json!(0o27);
    assert_eq!(script(&mut c, "umask; touch /f; stat -c %a /f")?, "0027\n640");
    Ok(())
}

#[test]
fn the_five_capability_sets() -> Result<()> {
    let host = Host::new()?;
    let mut c = host.container(&[])?;
    // chown is bit 0, kill 5, net_bind_service 10.
    c.config["process"]["capabilities"] = json!({
        "bounding": ["CAP_CHOWN", "CAP_KILL", "CAP_NET_BIND_SERVICE"],
        "permitted": ["CAP_CHOWN", "CAP_KILL"],
        "effective": ["CAP_CHOWN"],
        "inheritable": ["CAP_KILL"],
        "ambient": ["CAP_KILL"],
    });
    c.config["process"]["user"] = json!({"uid": 1000, "gid": 1000});
    let status = script(&mut c, "grep ^Cap /proc/self/status")?;
    // After execve an ordinary user keeps the ambient ones.
    for (field, bits) in [
        ("CapInh", 1 << 5),
        ("CapPrm", 1 << 5),
        ("CapEff", 1 << 5),
        ("CapBnd", 0b100_0010_0001),
        ("CapAmb", 1 << 5),
    ] {
        assert_eq!(u64::from_str_radix(&status_field(&status, field)?, 16)?, bits, "{field} in {status}");
    }
    c.config["process"]["capabilities"] = json!({});
    c.config["process"]["user"] = json!({"uid": 0, "gid": 0});
    let status = script(&mut c, "grep ^Cap /proc/self/status")?;
    for field in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(u64::from_str_radix(&status_field(&status, field)?, 16)?, 0, "{field} in {status}");
    }
    Ok(())
}

#[test]
fn resource_limits() -> Result<()> {
    let host = Host::new()?;
    let mut c = host.container(&[])?;
    c.config["process"]["rlimits"] = json!([
        {"type": "RLIMIT_NOFILE", "hard": 333, "soft": 222},
        {"type": "RLIMIT_CORE", "hard": 0, "soft": 0},
        {"type": "RLIMIT_FSIZE", "hard": 1 << 20, "soft": 1 << 20},
    ]);
    assert_eq!(script(&mut c, "ulimit -n; ulimit -Hn; ulimit -c; ulimit -f")?, "222\n333\n0\n2048");
    Ok(())
}

#[test]
fn oom_score() -> Result<()> {
    let host = Host::new()?;
    let mut c = host.container(&[])?;
    c.config["process"]["oomScoreAdj"] = json!(321);
    assert_eq!(script(&mut c, "cat /proc/self/oom_score_adj")?, "321");
    Ok(())
}

#[test]
fn no_new_privileges() -> Result<()> {
    let host = Host::new()?;
    let mut c = host.container(&[])?;
    for (value, shown) in [(true, "1"), (false, "0")] {
        c.config["process"]["noNewPrivileges"] = json!(value);
        assert_eq!(status_field(&script(&mut c, "cat /proc/self/status")?, "NoNewPrivs")?, shown);
    }
    Ok(())
}

#[test]
fn seccomp_with_and_without_no_new_privileges() -> Result<()> {
    let host = Host::new()?;
    let mut c = host.container(&[])?;
    c.config["linux"]["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
        "syscalls": [
            {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 122},
            {"names": ["kill"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 1, "value": 10, "op": "SCMP_CMP_EQ"}]},
        ]
    });
    for (privileges, user) in [(true, 0), (false, 0), (false, 1000), (true, 1000)] {
        c.config["process"]["noNewPrivileges"] = json!(privileges);
        c.config["process"]["user"] = json!({"uid": user, "gid": user});
        let out = script(
            &mut c,
            "mkdir /tmp/x 2>&1; kill -USR1 1 2>&1 && echo sent; kill -0 1 && echo alive; grep ^Seccomp: /proc/self/status",
        )?;
        assert!(out.contains("quota"), "{privileges} {user}: {out}");
        assert!(!out.contains("sent") && out.contains("alive"), "{privileges} {user}: {out}");
        assert_eq!(status_field(&out, "Seccomp")?, "2");
    }
    Ok(())
}

/// config.md, "Linux Process": what cannot be granted is a warning, and the container runs.
#[test]
fn a_capability_that_the_runtime_does_not_have() -> Result<()> {
    let host = Host::new()?;
    let mut c = host.container(&["grep", "^Cap", "/proc/self/status"])?;
    let sets = json!(["CAP_CHOWN", "CAP_MKNOD"]);
    c.config["process"]["capabilities"] = json!({"bounding": sets, "effective": sets, "permitted": sets});
    let mut run = c.run_command(&[])?;
    // SAFETY: one system call, and nothing allocated.
    unsafe {
        run.pre_exec(|| Ok(rustix::thread::remove_capability_from_bounding_set(CapabilitySet::MKNOD)?));
    }
    let done = run.finish()?.ok()?;
    assert!(
        done.stderr.contains("level=warning")
            && done.stderr.contains("unavailable capabilities: [CAP_MKNOD]"),
        "{done}"
    );
    for set in ["CapPrm", "CapEff", "CapBnd"] {
        assert_eq!(u64::from_str_radix(&status_field(&done.stdout, set)?, 16)?, 1, "{done}");
    }
    Ok(())
}

/// A filter holds for what is left of the runtime in the container as well: it gets along with what runc's needs, and so
/// with any profile that allows a program to run.
#[test]
fn a_seccomp_profile_of_few_calls() -> Result<()> {
    let host = Host::new()?;
    let mut c = host.container(&["true"])?;
    c.config["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_KILL_PROCESS", "syscalls": [{
        "names": ["execve", "exit_group", "arch_prctl", "brk", "prctl", "set_tid_address", "set_robust_list", "rseq",
            "prlimit64", "readlink", "readlinkat", "getrandom", "mprotect", "getuid", "geteuid", "getgid", "getegid",
            "capset", "read", "write", "sendmsg", "recvmsg", "sendto", "recvfrom", "close", "fcntl", "futex",
            "rt_sigaction", "rt_sigprocmask", "sigaltstack", "munmap"],
        "action": "SCMP_ACT_ALLOW",
    }]});
    c.create()?.start()?;
    assert_eq!(c.wait_exit()?, 0, "{}", c.stderr()?);
    Ok(())
}

#[test]
fn a_seccomp_action_that_kills() -> Result<()> {
    let host = Host::new()?;
    let mut c = host.container(&["sh", "-c", "mkdir /tmp/x; echo code $?"])?;
    c.config["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_KILL_PROCESS"}]});
    // SIGSYS
    c.run()?
        .ok()?
        .prints("code 159")
        .or_else(|e| if e.to_string().contains("code 159") { c.run() } else { Err(e) })?;
    Ok(())
}

#[test]
fn environment_and_working_directory() -> Result<()> {
    let host = Host::new()?;
    let mut c = host.container(&[])?;
    c.config["process"]["env"] = json!(["PATH=/bin", "A=1 2", "B=x=y", "EMPTY="]);
    c.config["process"]["cwd"] = json!("/var/empty");
    assert_eq!(script(&mut c, "echo \"$A|$B|${EMPTY-unset}|$HOME\"; pwd")?, "1 2|x=y||/root\n/var/empty");
    c.config["process"]["env"] = json!(["PATH=/bin", "HOME=/elsewhere"]);
    assert_eq!(script(&mut c, "echo $HOME")?, "/elsewhere");
    Ok(())
}

#[test]
fn a_missing_working_directory_is_made() -> Result<()> {
    let host = Host::new()?;
    let mut c = host.container(&[])?;
    c.config["process"]["cwd"] = json!("/made/for/it");
    assert_eq!(script(&mut c, "pwd")?, "/made/for/it");
    Ok(())
}

#[test]
fn a_working_directory_that_is_private_to_the_user() -> Result<()> {
    let host = Host::new()?;
    let mut c = host.container(&[])?;
    let home = c.rootfs().join("home");
    std::fs::create_dir(&home)?;
    std::os::unix::fs::chown(&home, Some(1000), Some(1000))?;
    std::fs::set_permissions(&home, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
    c.config["process"]["user"] = json!({"uid": 1000, "gid": 1000});
    c.config["process"]["capabilities"] = json!({});
    c.config["process"]["cwd"] = json!("/home");
    assert_eq!(script(&mut c, "pwd; touch f && echo yes")?, "/home\nyes");
    Ok(())
}

#[test]
fn hostname_domainname_and_sysctl() -> Result<()> {
    let host = Host::new()?;
    let mut c = host.container(&[])?;
    c.config["hostname"] = json!("coracle-host");
    c.config["linux"]["sysctl"] = json!({"net.ipv4.ip_unprivileged_port_start": "0", "kernel.shmmni": "4097", "net.ipv4.conf.lo.forwarding": "1"});
    let out = script(
        &mut c,
        "hostname; cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shmmni /proc/sys/net/ipv4/conf/lo/forwarding",
    )?;
    assert_eq!(out, "coracle-host\n0\n4097\n1");
    Ok(())
}

#[test]
fn a_sysctl_of_the_hosts_is_refused() -> Result<()> {
    let host = Host::new()?;
    let mut c = host.container(&["true"])?;
    c.config["linux"]["sysctl"] = json!({"kernel.panic": "1"});
    c.try_create(&[])?.exits(1)?.fails_with("kernel.panic")?;
    let mut c = host.container(&["true"])?;
    c.without_namespace("network");
    c.config["linux"]["sysctl"] = json!({"net.ipv4.ip_forward": "1"});
    c.try_create(&[])?.exits(1)?.fails_with("net.ipv4.ip_forward")?;
    host.is_clean()
}

#[test]
fn arguments_arrive_unchanged() -> Result<()> {
    let host = Host::new()?;
    let mut c =
        host.container(&["sh", "-c", "for a; do echo \"<$a>\"; done", "zero", "", "a b", "-x", "ä\n"])?;
    c.run()?.ok()?.prints("<>\n<a b>\n<-x>\n<ä\n>")?;
    // argv[0] is as written, found through PATH.
    c.config["process"]["args"] = json!(["cat", "/proc/self/cmdline"]);
    c.run()?.ok()?.prints("cat\0/proc/self/cmdline\0")?;
    Ok(())
}

#[test]
fn scripts_with_an_interpreter() -> Result<()> {
    let host = Host::new()?;
    let c = host.container(&["/hello.sh", "x"])?;
    let file = host.path().join("hello.sh");
    std::fs::write(&file, "#!/bin/sh\necho \"$0 $1\"\n")?;
    c.install(&file, "hello.sh")?;
    c.run()?.ok()?.prints("/hello.sh x")?;
    Ok(())
}

/// Fields that are not done are refused by name, never ignored.
#[test]
fn what_is_not_done_is_refused() -> Result<()> {
    let host = Host::new()?;
    let mut c = host.container(&["true"])?;
    c.config["process"]["apparmorProfile"] = json!("nosuch-profile");
    c.try_create(&[])?.exits(1)?.fails_with("apparmor")?;
    let mut c = host.container(&["true"])?;
    c.config["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["nosuchcall_nonsense"], "action": "SCMP_ACT_NONSENSE"}]});
    c.try_create(&[])?.exits(1)?.fails_with("seccomp")?;
    host.is_clean()
}

#[test]
fn variables_of_the_environment() -> Result<()> {
    let host = Host::new()?;
    let mut c = host.container(&[])?;
    c.config["process"]["env"] = json!(["A=1", "PATH=/bin", "A=2", "HOME="]);
    assert_eq!(script(&mut c, "echo $A $HOME; env | grep -c ^A=")?, "2 /root\n1");
    for (variable, text) in [("A", "missing '='"), ("=b", "name cannot be empty")] {
        c.config["process"]["env"] = json!([variable]);
        c.try_create(&[])?.exits(1)?.fails_with(text)?;
    }
    Ok(())
}

#[test]
fn unknown_and_impossible_capabilities_are_warned_of() -> Result<()> {
    let host = Host::new()?;
    let mut c = host.container(&["grep", "CapEff", "/proc/self/status"])?;
    c.config["process"]["capabilities"] = json!({"effective": ["CAP_CHOWN", "CAP_OF_THE_FUTURE"], "permitted": ["CAP_CHOWN"],
            "bounding": ["CAP_CHOWN"], "ambient": ["CAP_CHOWN"]});
    let done = c.run()?.ok()?.prints("CapEff:\t0000000000000001")?;
    assert!(done.stderr.contains("unavailable capabilities: [CAP_OF_THE_FUTURE]"), "{done}");
    assert!(
        done.stderr.contains("can't raise ambient capability CAP_CHOWN: operation not permitted"),
        "{done}"
    );
    Ok(())
}

#[test]
fn the_engines_groups_are_kept_on_request() -> Result<()> {
    let host = Host::new()?;
    let mut c = host.container(&["grep", "^Groups", "/proc/self/status"])?;
    c.config["process"]["user"] = json!({"uid": 0, "gid": 0, "additionalGids": [7]});
    let groups = |c: &Container| -> Result<String> { Ok(c.run()?.ok()?.stdout.trim().replace('\t', " ")) };
    assert_eq!(groups(&c)?, "Groups: 7");
    c.annotate("run.oci.keep_original_groups", "1");
    let own = std::fs::read_to_string("/proc/self/status")?;
    let own = own.lines().find(|l| l.starts_with("Groups")).context("groups")?.trim().replace('\t', " ");
    assert_eq!(groups(&c)?, own);
    c.annotate("run.oci.keep_original_groups", "0");
    assert_eq!(groups(&c)?, "Groups: 7");
    Ok(())
}
