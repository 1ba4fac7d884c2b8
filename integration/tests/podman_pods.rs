//! Containers that share: pods, pods from Kubernetes' files, and another container's namespaces.

use std::fs;

use anyhow::{Context, Result, ensure};
use coracle_integration::{Engine, Host, Run, after, words};
use serde_json::Value;

const NAMESPACES: [&str; 5] = ["net", "ipc", "uts", "pid", "mnt"];

/// The namespaces of a container's process, as the host sees them.
fn namespaces(engine: &Engine, container: &str) -> Result<Vec<String>> {
    let pid = engine.inspect(container, "{{.State.Pid}}")?;
    NAMESPACES
        .iter()
        .map(|name| Ok(fs::read_link(format!("/proc/{pid}/ns/{name}"))?.to_string_lossy().into_owned()))
        .collect()
}

/// Which of [`NAMESPACES`] two containers share.
fn shared(engine: &Engine, one: &str, other: &str) -> Result<Vec<&'static str>> {
    let pairs = namespaces(engine, one)?.into_iter().zip(namespaces(engine, other)?);
    Ok(NAMESPACES.into_iter().zip(pairs).filter(|(_, (a, b))| a == b).map(|(name, _)| name).collect())
}

#[test]
fn a_pod_with_a_native_and_a_wasm_container() -> Result<()> {
    let engine = Engine::new()?;
    let create = |more: &str| {
        let parent = engine.cgroup_parent();
        engine.podman().args(["pod", "create", &parent, "--network=none"]).args(words(more)).finish()?.ok()
    };
    let run = |line: &str| engine.podman().args(words("run --detach")).args(words(line)).finish()?.ok();
    create("--name p --infra-name infra --share net,ipc,uts --hostname ship")?;
    run("--pod p --name n --stop-timeout=1 native sleep 1000")?;
    run("--pod p --name w --annotation run.oci.handler=wasm show cat=/etc/hostname tick")?;
    engine.logged("w", "ship")?;
    for container in ["n", "w"] {
        assert_eq!(shared(&engine, "infra", container)?, ["net", "ipc", "uts"], "{container}");
    }
    let state = |format: &str| -> Result<String> {
        Ok(engine.do_podman(&["pod", "inspect", "--format", format, "p"])?.ok()?.stdout.trim().to_owned())
    };
    assert_eq!(state("{{.State}} {{.NumContainers}}")?, "Running 3");
    let top = engine.do_podman(&["pod", "top", "p", "args"])?.ok()?;
    assert!(top.stdout.contains("sleep 1000") && top.stdout.contains("/main.wasm"), "{top}");
    let stats =
        engine.do_podman(&["pod", "stats", "--no-stream", "--format={{.Name}} {{.PIDS}}", "p"])?.ok()?;
    for line in ["infra 1", "n 1", "w 1"] {
        assert!(stats.lines().any(|l| l == line), "{stats}");
    }
    engine.do_podman(&["pod", "pause", "p"])?.ok()?;
    assert_eq!(state("{{.State}}")?, "Paused");
    engine.do_podman(&["pod", "unpause", "p"])?.ok()?;
    engine.do_podman(&["pod", "restart", "p"])?.ok()?;
    assert_eq!(shared(&engine, "n", "w")?, ["net", "ipc", "uts"]);
    engine.do_podman(&["pod", "stop", "p"])?.ok()?;
    // The first process of a PID namespace that does not listen to TERM, and a module, which obeys.
    assert_eq!(engine.inspect("n", "{{.State.ExitCode}}")?, "137");
    assert_eq!(engine.inspect("w", "{{.State.ExitCode}}")?, "143");
    engine.do_podman(&["pod", "rm", "p"])?.ok()?;

    // One PID namespace for all: the infra container's first process is everybody's.
    create("--name q --infra-name infra --share pid")?;
    run("--pod q --name n native sleep 1000")?;
    run("--pod q --name w show tick")?;
    assert_eq!(shared(&engine, "infra", "w")?, ["pid"]);
    let ps = engine.do_podman(&["exec", "n", "ps", "-o", "pid,args"])?.ok()?;
    assert!(ps.lines().any(|l| l.contains(" 1 /catatonit")), "{ps}");
    assert!(ps.stdout.contains("/main.wasm tick"), "{ps}");
    engine.do_podman(&["pod", "kill", "q"])?.ok()?;
    engine.do_podman(&["pod", "rm", "q"])?.ok()?;

    engine.do_podman(&["pod", "create", "--name=r", "--infra=false", &engine.cgroup_parent()])?.ok()?;
    run("--pod r --name w show tick")?;
    engine.do_podman(&["pod", "rm", "--force", "--time=0", "r"])?.ok()?;
    engine.is_clean()
}

const POD: &str = r#"
apiVersion: v1
kind: Pod
metadata:
  name: both
  annotations:
    # The native container is no module, so the pod must not demand one.
    run.oci.handler: wasm-smart
spec:
  restartPolicy: Never
  volumes:
  - name: shared
    emptyDir: {}
  initContainers:
  - name: first
    image: localhost/native
    command: [sh, -c, "echo from the first > /shared/file"]
    volumeMounts: [{name: shared, mountPath: /shared}]
  containers:
  - name: native
    image: localhost/native
    command: [sh, -c, "cat /shared/file; id -u; trap 'exit 0' TERM; sleep 1000 & wait"]
    securityContext: {runAsUser: 1000}
    volumeMounts: [{name: shared, mountPath: /shared, readOnly: true}]
    resources: {limits: {memory: 64Mi, cpu: 500m}}
    livenessProbe: {exec: {command: ["true"]}, periodSeconds: 1000, timeoutSeconds: 60}
  - name: module
    image: localhost/show
    args: [cat=/shared/file, env, tick]
    env: [{name: A, value: b}]
    volumeMounts: [{name: shared, mountPath: /shared}]
"#;

#[test]
fn kubernetes_files() -> Result<()> {
    let engine = Engine::new()?;
    let file = engine.path().join("pod.yaml");
    fs::write(&file, POD)?;
    let file = file.to_string_lossy().into_owned();
    let play = |file: &str| engine.do_podman(&["kube", "play", "--network=none", file])?.ok();
    play(&file)?;
    engine.logged("both-native", "from the first\n1000\n")?;
    engine.logged("both-module", "ticking")?;
    let logs = engine.do_podman(&["logs", "both-module"])?.ok()?;
    assert!(logs.stdout.starts_with("from the first\n") && logs.stdout.contains("A=b\n"), "{logs}");
    assert_eq!(shared(&engine, "both-native", "both-module")?, ["net", "ipc", "uts"]);
    engine.do_podman(&["healthcheck", "run", "both-native"])?.ok()?;
    let pods =
        engine.do_podman(&["pod", "ps", "--format={{.Name}} {{.Status}} {{.NumberOfContainers}}"])?.ok()?;
    pods.prints("both Running 3")?;

    // What podman makes of the pod is a file that makes it again.
    let generated = engine.do_podman(&["generate", "kube", "both"])?.ok()?;
    engine.do_podman(&["kube", "down", &file])?.ok()?;
    engine.do_podman(&["ps", "--all", "--quiet"])?.ok()?.prints("")?;
    let again = engine.path().join("again.yaml");
    fs::write(&again, generated.stdout)?;
    play(&again.to_string_lossy())?;
    let names =
        engine.do_podman(&["ps", "--format={{.Names}} {{.Status}}", "--filter=status=running"])?.ok()?;
    let running = |part: &str| names.lines().any(|l| l.contains(part) && l.contains(" Up "));
    ensure!(running("native") && running("module"), "{names}");
    engine.do_podman(&["kube", "down", &again.to_string_lossy()])?.ok()?;

    // A demand for a module is the whole pod's, and an error for the container that has none.
    let demand = POD.replace("wasm-smart", "wasm");
    fs::write(&again, demand)?;
    let played = engine.do_podman(&["kube", "play", "--network=none", &again.to_string_lossy()])?;
    ensure!(
        played.code != 0 && (played.stdout + &played.stderr).contains("not a WebAssembly module"),
        "no error"
    );
    engine.do_podman(&["kube", "down", &again.to_string_lossy()])?;
    engine.is_clean()
}

#[test]
fn namespaces_of_another_container() -> Result<()> {
    let engine = Engine::new()?;
    let maps = words("--uidmap 0:100000:5000 --gidmap 0:100000:5000 --ipc=shareable");
    engine.start(&[words("--name plain --ipc=shareable"), words("native sleep 1000")].concat())?;
    engine.start(&[maps, words("--name mapped native sleep 1000")].concat())?;
    let all = "--pid=container:X --ipc=container:X --uts=container:X --network=container:X";
    for (other, more) in [("plain", ""), ("mapped", "--userns=container:X")] {
        for (name, image) in [("n", "native sleep 1000"), ("w", "show tick")] {
            let flags = format!("--name {name} {all} {more} {image}").replace('X', other);
            engine.start(&words(&flags))?;
            assert_eq!(shared(&engine, other, name)?, ["net", "ipc", "uts", "pid"], "{name} {other}");
            let pid = engine.inspect(name, "{{.State.Pid}}")?;
            let uid_map = fs::read_to_string(format!("/proc/{pid}/uid_map"))?;
            assert_eq!(uid_map.contains("100000"), other == "mapped", "{uid_map}");
            // It is not the first process there, and stops like any other.
            engine.do_podman(&["stop", "--time=5", name])?.ok()?;
            assert_eq!(engine.inspect(name, "{{.State.ExitCode}}")?, "143", "{name} {other}");
            engine.do_podman(&["rm", name])?.ok()?;
        }
    }
    engine.run(&words("--pid=host native sh -c")).arg("kill -0 1; exit 3").finish()?.exits(3)?;
    let own = fs::read_link("/proc/self/ns/ipc")?.to_string_lossy().into_owned();
    let host = words("--ipc=host --uts=host --cgroupns=host native readlink /proc/self/ns/ipc");
    engine.run(&host).finish()?.ok()?.prints(&own)?;
    let private = engine.run(&words("--cgroupns=private native cat /proc/self/cgroup")).finish()?.ok()?;
    assert!(private.lines().all(|l| l.ends_with(":/")), "{private}");
    engine.is_clean()
}

#[test]
fn user_namespaces() -> Result<()> {
    let engine = Engine::new()?;
    let maps = words("--uidmap 0:100000:5000 --gidmap 0:100000:5000");
    let script = "id -u; tr -s ' ' < /proc/self/uid_map; touch /f && stat -c %u /f";
    engine.run(&maps).args(["native", "sh", "-c", script]).finish()?.ok()?.prints("0\n 0 100000 5000\n0")?;
    engine.run(&maps).args(["show", "touch=/made", "3"]).finish()?.exits(3)?.prints("made /made")?;

    // `auto` takes from the ranges of the user "containers", which this podman finds in an /etc of its own.
    let ranges = engine.path().join("etc");
    fs::create_dir(&ranges)?;
    for file in ["subuid", "subgid"] {
        fs::write(ranges.join(file), "containers:300000:100000\n")?;
    }
    fs::create_dir(engine.path().join("work"))?;
    let script =
        "mount -t overlay -o lowerdir=/etc,upperdir=$0/etc,workdir=$0/work overlay /etc && exec \"$@\"";
    let auto = |image: &[&str]| {
        let run = engine.run(&[&["--userns=auto:size=1000"], image].concat());
        let inside = after(script, &engine.path().to_string_lossy(), &run);
        after("exec unshare --mount \"$@\"", "", &inside).finish()?.ok()
    };
    let map = auto(&words("native cat /proc/self/uid_map"))?;
    assert_eq!(words(&map.stdout), ["0", "300000", "1000"]);
    let map = auto(&words("show cat=/proc/self/uid_map touch=/made"))?;
    assert_eq!(words(&map.stdout), words("0 300000 1000 made /made"));
    engine.is_clean()
}

/// Where a container of a pod is in the tree of cgroups: podman keeps all of them in the pod's.
#[test]
fn a_pods_cgroup() -> Result<()> {
    let engine = Engine::new()?;
    let parent = engine.cgroup_parent();
    let pod = engine
        .podman()
        .args(["pod", "create", &parent, "--network=none", "--name=p", "--cpus=1"])
        .finish()?
        .ok()?;
    engine.podman().args(words("run --detach --pod p --name w show tick")).finish()?.ok()?;
    let inspect: Value = serde_json::from_str(&engine.do_podman(&["inspect", "w"])?.ok()?.stdout)?;
    let id = inspect[0]["Id"].as_str().context("id")?;
    let cgroup = format!("{}/{}/libpod-{id}", engine.host().name(), pod.stdout.trim());
    ensure!(!Host::cgroup_dirs(&cgroup).is_empty(), "no cgroup {cgroup}");
    engine.is_clean()
}
