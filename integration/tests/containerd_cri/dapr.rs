//! The pod of `dapr_pod` as a kubelet would start it: a service that is a module, and its native sidecar.

use anyhow::Result;
use coracle_integration::{Network, package};
use k8s_cri::v1::ContainerState;

use crate::client::Cri;
use crate::dapr_conversation::{Pod, SERVICE, SIDECAR, sidecar_root};

const PLATFORM: (&str, &str) = ("linux", "amd64");

#[test]
fn a_service_and_its_sidecar() -> Result<()> {
    let cri = Cri::new()?;
    let (service, sidecar) = ("localhost/service:latest", "localhost/sidecar:latest");
    cri.containerd.import_modules(service, PLATFORM, &[("/main.wasm", &package("dapr")?)])?;
    let root = cri.containerd.path().join("sidecar.root");
    sidecar_root(&root)?;
    cri.containerd.import(sidecar, PLATFORM, &root, &SIDECAR[..1])?;

    let pod = cri.pod("shop", &[])?;
    let sidecar = pod.run("sidecar", sidecar, &SIDECAR)?;
    pod.expect("sidecar", "listening on 127.0.0.1:3500")?;
    let service = pod.run("service", service, &["/main.wasm", SERVICE])?;
    pod.expect("service", "listening on 127.0.0.1:8080")?;
    Pod(Network::of(cri.pid(&service)?)?).converse()?;
    assert_eq!(pod.status(&sidecar)?.state(), ContainerState::ContainerRunning);
    pod.stop(&service, 20)?;
    assert_eq!(pod.wait(&service)?.0, 143);
    pod.end()
}
