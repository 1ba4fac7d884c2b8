//! A pod of two on podman: a service that is a module, and a native sidecar that speaks Dapr's HTTP routes. That through
//! containerd's CRI is in `containerd_cri/dapr.rs`.

mod conversation;

use anyhow::Result;
use coracle_integration::{Engine, Network, Run, eventually, package, words};
use serde_json::json;

use conversation::{Pod, SERVICE, SIDECAR};

#[test]
fn a_service_and_its_sidecar() -> Result<()> {
    let engine = Engine::new()?;
    engine.wasm_image("service", &package("dapr")?)?;
    let root = engine.path().join("sidecar.root");
    conversation::sidecar_root(&root)?;
    engine.import("sidecar", &root, &[&format!("ENTRYPOINT {}", json!(SIDECAR[..1]))])?;
    let create = words("pod create --network=none --name=shop --infra-name=infra");
    engine.podman().args(create).arg(engine.cgroup_parent()).finish()?.ok()?;
    let run = |name: &str, image: &str, arguments: &[&str]| {
        let mut run = engine.podman();
        run.args(words("run --detach --pod=shop --stop-timeout=1 --name"))
            .args([name, image])
            .args(arguments);
        run.finish()?.ok()?;
        engine.logged(name, "listening on 127.0.0.1:")
    };
    run("service", "service", &[SERVICE])?;
    let pid = engine.inspect("service", "{{.State.Pid}}")?.parse()?;
    let pod = Pod(Network::of(pid)?);
    // The sidecar may be late, go away and come back.
    pod.service("GET", "/ready", "")?.is(502)?;
    run("sidecar", "sidecar", &SIDECAR[1..])?;
    pod.converse()?;
    engine.do_podman(&["kill", "sidecar"])?.ok()?;
    eventually("nobody to answer the service", || Ok(pod.service("GET", "/ready", "")?.status == 502))?;
    engine.do_podman(&["start", "sidecar"])?.ok()?;
    eventually("an answer to the service", || Ok(pod.service("GET", "/ready", "")?.status == 204))?;
    // Another one, which knows nothing of the state.
    pod.service("GET", "/items/b", "")?.is(404)?;
    pod.converse()?;

    engine.do_podman(&["stop", "--time=20", "service"])?.ok()?;
    assert_eq!(engine.inspect("service", "{{.State.ExitCode}}")?, "143");
    let unreachable = pod.sidecar("POST", "invoke/shop/method/shout", "x")?.is(500)?;
    assert!(unreachable.text().contains("ERR_DIRECT_INVOKE"), "{unreachable:?}");
    engine.do_podman(&["pod", "rm", "--force", "--time=1", "shop"])?.ok()?;
    engine.is_clean()
}
