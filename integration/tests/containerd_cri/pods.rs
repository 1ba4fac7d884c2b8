//! Whole pods: annotations, namespaces, and the packaged one.

use std::fs;
use std::io::{self, Write};
use std::net::TcpStream;

use anyhow::Result;
use coracle_integration::{c, eventually};
use k8s_cri::v1::{ContainerState, NamespaceMode, PodSandboxState, PodSandboxStatusRequest};

use crate::client::{Cri, HANDLER, HELLO, NATIVE, SHOW, map, namespaces};
use crate::kubelet;

/// A pod's annotations are its sandbox's too, whose program is a native one.
#[test]
fn annotations_of_pods_and_containers() -> Result<()> {
    let cri = Cri::new()?;
    let pod = cri.pod("pod", &[("run.oci.handler", "wasm"), ("example.com/other", "x")])?;
    let request = PodSandboxStatusRequest { pod_sandbox_id: pod.id.clone(), verbose: false };
    let status = cri.call(async |c| c.pod_sandbox_status(request).await)?.status.unwrap_or_default();
    assert_eq!(status.state(), PodSandboxState::SandboxReady);
    assert_eq!(status.runtime_handler, HANDLER);
    let sandbox = cri.config(&pod.id)?["annotations"].clone();
    assert_eq!(sandbox["run.oci.handler"], "wasm");
    assert_eq!(sandbox["io.kubernetes.cri.container-type"], "sandbox");
    assert!(sandbox["example.com/other"].is_null(), "only what the configuration lists: {sandbox}");

    let module = pod.run("module", SHOW, &["/main.wasm", "args", "tick"])?;
    pod.expect("module", "ticking")?;
    assert_eq!(pod.status(&module)?.state(), ContainerState::ContainerRunning);
    assert_eq!(cri.config(&module)?["annotations"]["run.oci.handler"], "wasm");
    let native = pod.create(pod.container_config("native", NATIVE, &["sleep", "1000"]))?;
    let refused = pod.start(&native).expect_err("a native program");
    assert!(refused.message().contains("WebAssembly"), "{refused}");
    pod.end()?;

    let pod = cri.pod("other", &[])?;
    let words = ["/main.wasm", "cat=/visible/hostname", "cat=/etc/hostname"];
    let mut config = pod.container_config("module", SHOW, &words);
    config.annotations = map(&[("org.coracle.wasm.dirs", "/etc::/visible")]);
    let id = pod.run_with(config)?;
    assert_eq!(pod.wait(&id)?.0, 0);
    let seen = pod.log("module", "stdout")?;
    assert!(seen.starts_with("other\n/etc/hostname: "), "the container's own annotation: {seen}");
    let id = pod.run("hello", SHOW, &["/hello.wasm"])?;
    assert_eq!(pod.wait(&id)?, (0, "Completed".to_owned()));
    assert_eq!(pod.log("hello", "stdout")?, HELLO);
    pod.end()
}

/// `packaging/kubernetes`: a module and a native program that share a network and a volume.
#[test]
fn the_packaged_pod() -> Result<()> {
    let class: kubelet::RuntimeClass = kubelet::read("runtimeclass.yaml")?;
    let manifest: kubelet::Pod = kubelet::read("pod.yaml")?;
    assert_eq!((class.api_version.as_str(), class.kind.as_str()), ("node.k8s.io/v1", "RuntimeClass"));
    assert_eq!((manifest.api_version.as_str(), manifest.kind.as_str()), ("v1", "Pod"));
    assert_eq!(manifest.spec.runtime_class_name, class.metadata.name);
    let [module, server] = &manifest.spec.containers[..] else { panic!("two containers") };

    let cri = Cri::new()?;
    let page = c("page")?;
    cri.containerd.import_modules(&module.image, ("linux", "amd64"), &[("/page.wasm", &page)])?;
    cri.containerd.import(
        &server.image,
        ("linux", "amd64"),
        &cri.containerd.path().join("native"),
        &["sh"],
    )?;
    let pod = cri.pod_of(&class.handler, manifest.sandbox(cri.pod_config(&manifest.metadata.name)))?;
    let volumes = cri.containerd.path().join("volumes");
    let mut ids = Vec::new();
    for container in &manifest.spec.containers {
        let every = pod.container_config(&container.name, &container.image, &[]);
        ids.push(pod.run_with(manifest.container(container, every, &volumes)?)?);
    }
    pod.expect("module", "wrote /www/index.html")?;
    for id in [&pod.id, &ids[0], &ids[1]] {
        assert_eq!(cri.config(id)?["annotations"]["module.wasm.image/variant"], "compat-smart");
    }

    // The kubelet's probe, from the node to the pod's address.
    let request = PodSandboxStatusRequest { pod_sandbox_id: pod.id.clone(), verbose: false };
    let status = cri.call(async |c| c.pod_sandbox_status(request).await)?.status.unwrap_or_default();
    let address = status.network.unwrap_or_default().ip;
    let probe = &server.readiness_probe.as_ref().expect("a probe").http_get;
    eventually("an answer", || {
        let answer = cri.containerd.in_network(|| {
            let mut stream = TcpStream::connect((address.as_str(), probe.port))?;
            write!(stream, "GET {} HTTP/1.0\r\n\r\n", probe.path)?;
            Ok(io::read_to_string(stream)?)
        });
        Ok(answer.is_ok_and(|a| a.starts_with("HTTP/1.1 200") && a.contains("Written by a module.")))
    })?;
    // Each container's loopback device is that of the pod.
    let url = format!("http://127.0.0.1:{}/", probe.port);
    assert_eq!(pod.exec_prints(&ids[1], &["wget", "-qO-", &url])?, "<p>Written by a module.\n");
    for namespace in ["net", "ipc", "uts"] {
        let link = |id: &String| Ok(fs::read_link(format!("/proc/{}/ns/{namespace}", cri.pid(id)?))?);
        let links: Vec<_> = [&pod.id, &ids[0], &ids[1]].into_iter().map(link).collect::<Result<_>>()?;
        assert!(links.iter().all(|l| *l == links[0]), "{links:?}");
    }
    let grace = manifest.spec.termination_grace_period_seconds;
    for (id, code) in ids.iter().zip([143, 137]) {
        pod.stop(id, grace)?;
        assert_eq!(pod.wait(id)?, (code, "Error".to_owned()));
    }
    pod.end()
}

/// A daemon that crashes and comes back finds its pods running.
#[test]
fn a_crash_of_containerd() -> Result<()> {
    let mut cri = Cri::new()?;
    let ids = {
        let pod = cri.pod("pod", &[])?;
        let native = pod.run("native", NATIVE, &["sleep", "1000"])?;
        let module = pod.run("module", SHOW, &["/main.wasm", "tick"])?;
        pod.expect("module", "ticking")?;
        (pod.keep(), native, module)
    };
    cri.containerd.crash()?;
    cri.is_ready()?;
    let (pod, native, module) = ids;
    let pod = cri.adopt(pod);
    assert_eq!(pod.exec_prints(&native, &["echo", "native"])?, "native\n");
    assert_eq!(pod.exec_prints(&module, &["/hello.wasm"])?, HELLO);
    pod.stop(&module, 10)?;
    assert_eq!(pod.wait(&module)?, (143, "Error".to_owned()));
    pod.end()
}

/// `shareProcessNamespace`, `hostPID` and `hostNetwork`. Where a container's init is not that of a pid namespace, its
/// processes are only known by the cgroup.
#[test]
fn namespaces_of_the_pod_and_of_the_node() -> Result<()> {
    let cri = Cri::new()?;
    for (name, network, pid) in [
        ("shared", NamespaceMode::Pod, NamespaceMode::Pod),
        ("host", NamespaceMode::Node, NamespaceMode::Node),
    ] {
        let mut config = cri.pod_config(name);
        let linux = config.linux.get_or_insert_default();
        linux.security_context.get_or_insert_default().namespace_options = Some(namespaces(network, pid));
        if network == NamespaceMode::Pod {
            linux.sysctls = map(&[("net.ipv4.ip_unprivileged_port_start", "80")]);
        } else {
            // Whoever has the node's network has its name.
            config.hostname.clear();
        }
        let pod = cri.pod_of(HANDLER, config)?;
        let native =
            pod.run("native", NATIVE, &["sh", "-c", "sleep 1111 & sleep 1112 & echo ready; wait"])?;
        let module = pod.run("module", SHOW, &["/main.wasm", "tick"])?;
        pod.expect("native", "ready")?;
        pod.expect("module", "ticking")?;
        // Everybody sees everybody: the sandbox, and the module by the name of what runs it.
        let seen = pod.exec_prints(&native, &["sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '"])?;
        assert!(seen.contains("/pause -P") && seen.contains("/main.wasm tick"), "{seen}");
        let node = fs::read_link("/proc/self/ns/pid")?;
        for id in [&pod.id, &native, &module] {
            let link = fs::read_link(format!("/proc/{}/ns/pid", cri.pid(id)?))?;
            assert_eq!(link == node, pid == NamespaceMode::Node, "{name}");
        }
        if network == NamespaceMode::Pod {
            let port = pod.exec_prints(&native, &["cat", "/proc/sys/net/ipv4/ip_unprivileged_port_start"])?;
            assert_eq!(port, "80\n");
        } else {
            let daemon = cri.containerd.in_network(|| Ok(fs::read_link("/proc/thread-self/ns/net")?))?;
            assert_eq!(fs::read_link(format!("/proc/{}/ns/net", cri.pid(&module)?))?, daemon);
        }
        let procs = cri.cgroup(&native, "pids")?.join("cgroup.procs");
        assert_eq!(fs::read_to_string(&procs)?.lines().count(), 3);
        pod.stop(&module, 20)?;
        assert_eq!(pod.wait(&module)?.0, 143);
        // A shell that waits ends by SIGTERM, and leaves its children behind.
        pod.stop(&native, 1)?;
        eventually("the end of its children", || {
            Ok(fs::read_to_string(&procs).unwrap_or_default().is_empty())
        })?;
        pod.end()?;
    }
    Ok(())
}
