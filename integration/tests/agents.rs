//! What the runtime hands to others over sockets: descriptors of filters and processes, and word that a container is ready.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use coracle_integration::{Container, Host, Receiver, Run, eventually};
use rustix::process::{Signal, pidfd_send_signal};
use serde_json::{Value, json};

/// Has `getcwd` answered by whoever listens at `path`.
fn notify(c: &mut Container, path: Option<&str>) {
    c.config["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}]});
    if let Some(path) = path {
        c.config["linux"]["seccomp"]["listenerPath"] = json!(path);
        c.config["linux"]["seccomp"]["listenerMetadata"] = json!("for the agent");
    }
}

#[test]
fn the_descriptor_of_a_filter_and_the_state_go_to_the_agent() -> Result<()> {
    let host = Host::new()?;
    for no_new_privileges in [true, false] {
        let agent = Receiver::bind(&host.path().join(format!("agent-{no_new_privileges}")))?;
        let mut c = host.container(&["sleep", "1000"])?;
        c.config["process"]["noNewPrivileges"] = json!(no_new_privileges);
        notify(&mut c, Some(agent.path()));
        c.create()?;
        let (state, filter) = agent.receive()?;
        let state: Value = serde_json::from_str(&state)?;
        assert_eq!(state["fds"], json!(["seccompFd"]));
        assert_eq!(state["metadata"], "for the agent");
        assert_eq!(state["pid"], c.pid()?);
        assert_eq!(state["state"]["id"], c.id.as_str());
        assert_eq!(
            (&state["state"]["status"], &state["state"]["pid"]),
            (&json!("creating"), &json!(c.pid()?))
        );
        c.start()?;
        // exec has a filter of its own. Its agent ends at once, and the kernel answers for it (seccomp_unotify(2)).
        let mut job = c.verb("exec").args(["sh", "-c", "sleep 1; mkdir /x"]).job()?;
        let (state, other) = agent.receive()?;
        let state: Value = serde_json::from_str(&state)?;
        assert_eq!(
            (&state["state"]["status"], &state["state"]["pid"]),
            (&json!("running"), &json!(c.pid()?))
        );
        assert_ne!(state["pid"], json!(c.pid()?));
        drop(other);
        let done = job.wait()?.exits(1)?;
        ensure!(done.stderr.contains("Function not implemented"), "{done}");
        drop(filter);
        c.verb_with("delete", &["--force"]).finish()?.ok()?;
    }
    host.is_clean()
}

#[test]
fn an_agent_that_is_not_there_or_not_named_is_an_error() -> Result<()> {
    let host = Host::new()?;
    let mut c = host.container(&["true"])?;
    notify(&mut c, None);
    c.try_create(&[])?.exits(1)?.fails_with("listenerPath is not set")?;
    notify(&mut c, Some("/nonexistent/agent"));
    c.try_create(&[])?.exits(1)?.fails_with("failed to connect with seccomp agent")?;
    c.config["linux"]["seccomp"]["syscalls"][0]["names"] = json!(["write"]);
    c.try_create(&[])?.exits(1)?.fails_with("SCMP_ACT_NOTIFY cannot be used for the write syscall")?;
    // Nobody has to be there when nobody will be asked.
    c.config["linux"]["seccomp"]["syscalls"] = json!([]);
    c.run()?.ok()?;
    c.annotate("run.oci.seccomp.plugins", "/x.so");
    c.try_create(&[])?.exits(1)?.fails_with("run.oci.seccomp.plugins")?;
    host.is_clean()
}

#[test]
fn annotations_about_seccomp() -> Result<()> {
    let host = Host::new()?;
    let agent = Receiver::bind(&host.path().join("agent"))?;
    let mut c = host.container(&["mkdir", "/x"])?;
    notify(&mut c, None);
    c.annotate("run.oci.seccomp.receiver", agent.path());
    c.create()?;
    drop(agent.receive()?);
    c.start()?;
    assert_eq!(c.wait_exit()?, 1);
    c.delete()?;
    let mut c = host.container(&["true"])?;
    c.config["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["no_such_call"], "action": "SCMP_ACT_ERRNO"}]});
    c.run()?.ok()?;
    c.annotate("run.oci.seccomp_fail_unknown_syscall", "1");
    c.try_create(&[])?.exits(1)?.fails_with("no_such_call")?;
    // One instruction, "allow", instead of a profile under which nothing runs.
    let mut c = host.container(&["echo", "allowed"])?;
    c.config["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_KILL"});
    c.annotate("run.oci.seccomp_bpf_data", "BgAAAAAA/38=");
    c.run()?.ok()?.prints("allowed")?;
    c.annotate("run.oci.seccomp_bpf_data", "?");
    c.try_create(&[])?.exits(1)?.fails_with("run.oci.seccomp_bpf_data")?;
    host.is_clean()
}

#[test]
fn descriptors_of_processes() -> Result<()> {
    let host = Host::new()?;
    let [first, second, third] = ["first", "second", "third"].map(|name| host.path().join(name));
    let (first, second) = (Receiver::bind(&first)?, Receiver::bind(&second)?);
    let third = Receiver::bind(&third)?;
    let mut c = host.container(&["sleep", "1000"])?;
    c.annotate("run.oci.pidfd_receiver", second.path());
    c.try_create(&["--pidfd-socket", first.path()])?.ok()?;
    let (name, init) = first.receive()?;
    assert_eq!(name, "standard");
    second.receive()?;
    c.start()?;
    let mut job = c.verb_with("exec", &["--pidfd-socket", third.path()]).args(["sleep", "1000"]).job()?;
    let (name, other) = third.receive()?;
    assert_eq!(name, "setns");
    pidfd_send_signal(other.as_fd(), Signal::KILL)?;
    job.wait()?.exits(137)?;
    pidfd_send_signal(init.as_fd(), Signal::KILL)?;
    c.wait_status("stopped")?;
    c.delete()?;
    let missing = host.path().join("missing");
    c.try_create(&["--pidfd-socket", missing.to_str().context("path")?])?
        .exits(1)?
        .fails_with("--pidfd-socket")?;
    host.is_clean()
}

/// A container that was created and not started ends by SIGTERM like another.
#[test]
fn a_created_container_can_be_asked_to_end() -> Result<()> {
    let host = Host::new()?;
    let mut c = host.container(&["true"])?;
    c.create()?;
    c.kill("TERM")?;
    c.wait_status("stopped")?;
    c.delete()?;
    host.is_clean()
}

/// While it waits for `start`, nothing of the engine's and little of the host's is open in it.
#[test]
fn a_created_container_holds_nothing_of_its_engine() -> Result<()> {
    let host = Host::new()?;
    let mut c = host.container(&["true"])?;
    let (reader, writer) = rustix::pipe::pipe()?;
    c.create()?;
    drop(writer);
    assert_eq!(rustix::io::read(&reader, &mut [0])?, 0, "init must not hold the engine's pipe");
    let open = fs::read_dir(format!("/proc/{}/fd", c.pid()?))?.flatten();
    let open: Vec<_> = open.filter_map(|entry| fs::read_link(entry.path()).ok()).collect();
    assert!(open.iter().all(|path| !path.starts_with("/sys/fs/cgroup")), "{open:?}");
    Ok(())
}

#[test]
fn readiness_is_told_to_the_service_manager() -> Result<()> {
    let host = Host::new()?;
    let path = host.path().join("manager");
    let manager = UnixDatagram::bind(&path)?;
    manager.set_read_timeout(Some(Duration::from_secs(10)))?;
    let c = host.container(&["sh", "-c", "echo $NOTIFY_SOCKET; ls -l $NOTIFY_SOCKET; sleep 1000"])?;
    c.save()?;
    let mut create = host.runtime();
    create.env("NOTIFY_SOCKET", &path).args(["create", "--bundle"]).arg(c.bundle()).arg(&c.id);
    let log = fs::File::create(host.path().join("out"))?;
    let status = create.stdout(log.try_clone()?).stderr(log).status()?;
    ensure!(status.success(), "create");
    // The container's program would send this; here the test does, through the container's own end.
    let mut start = c.verb("start");
    let mut job = start.env("NOTIFY_SOCKET", &path).job()?;
    let inside = host.state_dir().join(&c.id).join("notify/notify");
    eventually("the container's socket", || Ok(inside.exists()))?;
    let program = UnixDatagram::unbound()?;
    program.send_to(b"STATUS=soon", &inside)?;
    program.send_to(b"STATUS=now\nREADY=1\nMAINPID=1", &inside)?;
    let mut buffer = [0; 100];
    let mut next = || -> Result<String> {
        let length = manager.recv(&mut buffer)?;
        Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
    };
    assert_eq!(next()?, "READY=1\n");
    assert_eq!(next()?, format!("MAINPID={}\n", c.state()?["pid"]));
    assert_eq!(next()?, "BARRIER=1");
    // The barrier's pipe went with a message that took no descriptors, so it is closed.
    job.wait()?.ok()?;
    let printed = fs::read_to_string(host.path().join("out"))?;
    assert!(printed.contains(&format!("{}/notify", path.display())), "{printed}");
    c.verb_with("delete", &["--force"]).finish()?.ok()?;
    host.is_clean()
}

/// What the runtime itself does after the filter is in force is little, and nothing that a profile need not allow.
#[test]
fn a_filter_that_denies_what_the_runtime_does_before() -> Result<()> {
    let host = Host::new()?;
    let mut c = host.container(&["true"])?;
    c.config["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["close_range", "sendmsg", "recvmsg", "setresuid"], "action": "SCMP_ACT_ERRNO"}]});
    c.create()?.start()?;
    assert_eq!(c.wait_exit()?, 0);
    c.delete()?;
    host.is_clean()
}
