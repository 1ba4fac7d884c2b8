//! One container of a pod: how it starts, runs and ends.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::Result;
use coracle_integration::{eventually, wat};
use k8s_cri::v1::{
    Capability, ContainerConfig, ContainerState, Int64Value, ReopenContainerLogRequest, SecurityProfile,
};

use crate::client::{Cri, HELLO, NATIVE, SHOW};

#[test]
fn exec_sync() -> Result<()> {
    let cri = Cri::new()?;
    let pod = cri.pod("pod", &[])?;
    let native = pod.run("native", NATIVE, &["sleep", "1000"])?;
    let module = pod.run("module", SHOW, &["/main.wasm", "tick"])?;
    let script = "echo out; echo err >&2; hostname; exit 6";
    for (id, cmd, stdout, stderr, code) in [
        (&native, &["sh", "-c", script][..], "out\npod\n", "err\n", 6),
        (
            &module,
            &["/main.wasm", "args", "stderr", "9"],
            "</main.wasm><args><stderr><9>\n",
            "to stderr\n",
            9,
        ),
        (&module, &["/hello.wasm"], HELLO, "", 0),
    ] {
        let done = pod.exec(id, cmd, 0)?;
        assert_eq!((String::from_utf8(done.stdout)?.as_str(), done.exit_code), (stdout, code));
        assert_eq!(String::from_utf8(done.stderr)?, stderr);
    }
    for (id, cmd, message) in [
        (&native, "nosuch", "exec: \"nosuch\": executable file not found in $PATH"),
        (&native, "/etc", "permission denied"),
        (&module, "/nosuch.wasm", "stat /nosuch.wasm: no such file or directory"),
    ] {
        let refused = pod.exec(id, &[cmd], 0).expect_err(cmd);
        assert!(refused.message().contains("OCI runtime exec failed: "), "{refused}");
        assert!(refused.message().contains(message), "{refused}");
    }
    // A probe that takes too long is killed.
    for (id, cmd, name) in [
        (&native, &["sh", "-c", "while :; do sleep 0.1; done"][..], "while :"),
        (&module, &["/main.wasm", "spin"], "spin"),
    ] {
        let refused = pod.exec(id, cmd, 1).expect_err("a timeout");
        assert_eq!(refused.code(), tonic::Code::DeadlineExceeded, "{refused}");
        let cgroup = cri.cgroup(id, "pids")?.join("cgroup.procs");
        let lines = fs::read_to_string(cgroup)?;
        for pid in lines.lines() {
            let line = fs::read_to_string(format!("/proc/{pid}/cmdline"))?;
            assert!(!line.contains(name), "{pid} still runs: {line:?}");
        }
        assert_eq!(pod.status(id)?.state(), ContainerState::ContainerRunning);
    }
    pod.end()
}

#[test]
fn stopping() -> Result<()> {
    let cri = Cri::new()?;
    let pod = cri.pod("pod", &[])?;
    let obeys = "trap 'exit 9' TERM; echo ready; while :; do sleep 0.05; done";
    let ignores = "trap '' TERM; echo ready; while :; do sleep 0.05; done";
    for (name, image, command, ready, code) in [
        ("obeys", NATIVE, &["sh", "-c", obeys][..], "ready", 9),
        ("ignores", NATIVE, &["sh", "-c", ignores], "ready", 137),
        ("spins", SHOW, &["/main.wasm", "spin"], "spinning", 143),
        ("sleeps", SHOW, &["/main.wasm", "sleep"], "sleeping", 143),
    ] {
        let id = pod.run(name, image, command)?;
        pod.expect(name, ready)?;
        let start = Instant::now();
        let timeout = if code == 137 { 1 } else { 20 };
        pod.stop(&id, timeout)?;
        let took = start.elapsed();
        let status = pod.status(&id)?;
        assert_eq!((status.exit_code, status.reason.as_str()), (code, "Error"), "{name}");
        assert!(took < Duration::from_secs(10), "{name}: {took:?}");
        assert!(code != 137 || took >= Duration::from_secs(1), "{name}: killed after {took:?}");
        // Once more, as kubelets do.
        pod.stop(&id, timeout)?;
        pod.remove(&id)?;
    }
    let id = pod.run("exits", SHOW, &["/main.wasm", "7"])?;
    assert_eq!(pod.wait(&id)?, (7, "Error".to_owned()));
    let id = pod.run("aborts", SHOW, &["/main.wasm", "abort"])?;
    assert_eq!(pod.wait(&id)?, (134, "Error".to_owned()));
    // The pod goes with a container that has not been stopped.
    pod.run("left", SHOW, &["/main.wasm", "spin"])?;
    pod.end()
}

/// The status of a container that could not be started, which a kubelet shows its user.
#[test]
fn what_cannot_be_started() -> Result<()> {
    let cri = Cri::new()?;
    cri.containerd.import_modules(
        "localhost/unknown:latest",
        ("linux", "amd64"),
        &[("/main.wasm", &wat("unknown-import")?)],
    )?;
    let pod = cri.pod("pod", &[])?;
    for (name, image, command, message) in [
        ("a", NATIVE, "nosuch", "exec: \"nosuch\": executable file not found in $PATH"),
        ("b", NATIVE, "/etc", "permission denied"),
        ("c", SHOW, "/nosuch.wasm", "stat /nosuch.wasm: no such file or directory"),
        ("d", "localhost/unknown:latest", "/main.wasm", "unknown import env.foo"),
    ] {
        let id = pod.create(pod.container_config(name, image, &[command]))?;
        let refused = pod.start(&id).expect_err(name);
        let status = pod.status(&id)?;
        assert_eq!(status.state(), ContainerState::ContainerExited);
        assert_eq!((status.exit_code, status.reason.as_str()), (128, "StartError"));
        for said in [refused.message(), &status.message] {
            assert!(said.contains("failed to create shim task: OCI runtime create failed: "), "{said}");
            assert!(said.contains(message), "{said}");
        }
        pod.remove(&id)?;
    }
    pod.end()
}

#[test]
fn logs() -> Result<()> {
    let cri = Cri::new()?;
    let pod = cri.pod("pod", &[])?;
    let script =
        "echo one; echo two >&2; printf three; sleep 0.3; echo; head -c 40000 /dev/zero | tr '\\0' x; echo";
    let id = pod.run("native", NATIVE, &["sh", "-c", script])?;
    assert_eq!(pod.wait(&id)?.0, 0);
    let long = "x".repeat(40_000);
    assert_eq!(pod.log("native", "stdout")?, format!("one\nthree\n{long}\n"));
    assert_eq!(pod.log("native", "stderr")?, "two\n");
    let id = pod.run("module", SHOW, &["/main.wasm", "args", "stderr", "3"])?;
    assert_eq!(pod.wait(&id)?.0, 3);
    assert_eq!(pod.log("module", "stdout")?, "</main.wasm><args><stderr><3>\n");
    assert_eq!(pod.log("module", "stderr")?, "to stderr\n");
    // Rotated away under a container that writes.
    let id = pod.run("writes", NATIVE, &["sh", "-c", "while :; do echo line; sleep 0.05; done"])?;
    pod.expect("writes", "line")?;
    fs::rename(pod.log_file("writes"), pod.log_file("writes.1"))?;
    let request = ReopenContainerLogRequest { container_id: id };
    cri.call(async |c| c.reopen_container_log(request).await)?;
    pod.expect("writes", "line")?;
    pod.end()
}

/// What a pod's `securityContext` asks for.
#[test]
fn users_and_confinement() -> Result<()> {
    let cri = Cri::new()?;
    let pod = cri.pod("pod", &[])?;
    let confine = |mut config: ContainerConfig| {
        let linux = config.linux.get_or_insert_default();
        let context = linux.security_context.get_or_insert_default();
        context.run_as_user = Some(Int64Value { value: 1000 });
        context.run_as_group = Some(Int64Value { value: 1000 });
        context.readonly_rootfs = true;
        context.no_new_privs = true;
        context.seccomp = Some(SecurityProfile::default());
        context.capabilities =
            Some(Capability { drop_capabilities: vec!["ALL".to_owned()], ..Default::default() });
        config
    };
    let fields = "^(Uid|CapEff|CapBnd|NoNewPrivs|Seccomp):";
    let script = format!("grep -E '{fields}' /proc/self/status; touch /x; sleep 1000");
    pod.run_with(confine(pod.container_config("native", NATIVE, &["sh", "-c", &script])))?;
    eventually("the refusal", || Ok(pod.log("native", "stderr")?.contains("Read-only file system")))?;
    let expected = "Uid:\t1000\t1000\t1000\t1000\nCapBnd:\t0000000000000000\nCapEff:\t0000000000000000\n";
    let sorted = |name: &str| -> Result<String> {
        let log = pod.log(name, "stdout")?;
        let wanted = ["Uid:", "CapBnd:", "CapEff:", "NoNewPrivs:", "Seccomp:"];
        let line = |field: &&str| log.lines().find(|l| l.starts_with(field)).unwrap_or_default().to_owned();
        Ok(wanted.iter().map(line).collect::<Vec<_>>().join("\n"))
    };
    let expected = format!("{expected}NoNewPrivs:\t1\nSeccomp:\t2");
    assert_eq!(sorted("native")?, expected);
    let words = ["/main.wasm", "cat=/proc/self/status", "touch=/x", "cat=/proc/kcore", "5"];
    let id = pod.run_with(confine(pod.container_config("module", SHOW, &words)))?;
    assert_eq!(pod.wait(&id)?.0, 5);
    assert_eq!(sorted("module")?, expected);
    let log = pod.log("module", "stdout")?;
    assert!(log.contains("/x: Read-only file system\n"), "{log}");
    pod.end()
}
