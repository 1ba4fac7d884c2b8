//! What a pod's annotations choose: its sandbox container has them all, and still runs natively.

use std::fs;

use anyhow::Result;
use coracle_integration::{Host, reap, wat};
use serde_json::json;

use crate::caller::Caller;
use crate::table::{Engine, Verb, lines};

#[test]
fn a_sandbox_runs_natively_and_its_containers_as_annotated() -> Result<()> {
    for (engine, mark) in [
        (Engine::Containerd, "io.kubernetes.cri.container-type"),
        (Engine::Crio, "io.kubernetes.cri-o.ContainerType"),
    ] {
        for (key, value) in [("run.oci.handler", "wasm"), ("module.wasm.image/variant", "compat")] {
            let host = Host::new()?;
            let create = lines(engine, Verb::Create)[0];
            let mut pause = Caller::new(engine, &host, &["sleep", "1000"])?;
            pause.container.annotate(key, value).annotate(mark, "sandbox");
            // All that the CRI limits a sandbox by.
            pause.container.config["linux"]["resources"] =
                json!({"devices": [{"allow": false, "access": "rwm"}], "cpu": {"shares": 2}});
            pause.create(create)?;
            pause.verb(Verb::Start)?;
            let sandbox = pause.pid()?;

            let member = |args: &[&str], value: &str| -> Result<Caller<'_>> {
                let mut member = Caller::new(engine, &host, args)?;
                member.container.annotate(key, value).annotate(mark, "container");
                for (kind, file) in [("pid", "pid"), ("ipc", "ipc"), ("uts", "uts"), ("network", "net")] {
                    let path = format!("/proc/{sandbox}/ns/{file}");
                    member.container.namespace(kind, Some(path.as_ref()));
                }
                Ok(member)
            };
            let mut module = member(&["/hello.wasm"], value)?;
            module.container.install(&wat("hello")?, "hello.wasm")?;
            module.create(create)?;
            module.verb(Verb::Start)?;
            assert_eq!(reap(module.pid()?)?, 0);
            assert_eq!(module.rest()?.trim(), "hello from a module");

            // A sidecar that is no module: as wanted where the annotation leaves it open, an error where it does not.
            let mut sidecar = member(&["readlink", "/proc/self/ns/net"], &format!("{value}-smart"))?;
            sidecar.create(create)?;
            sidecar.verb(Verb::Start)?;
            assert_eq!(reap(sidecar.pid()?)?, 0);
            let net = fs::read_link(format!("/proc/{sandbox}/ns/net"))?;
            assert_eq!(sidecar.rest()?.trim(), net.to_string_lossy());
            let (done, _) = member(&["true"], value)?.try_create(create)?;
            assert!(done.message()?.contains("WebAssembly"));
        }
    }
    Ok(())
}
