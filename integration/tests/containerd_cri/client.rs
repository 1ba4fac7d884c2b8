//! The CRI as a kubelet calls it, one blocking call at a time.

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use coracle_integration::{Containerd, Host, KUBERNETES, PAUSE, c, eventually, wat};
use k8s_cri::v1::runtime_service_client::RuntimeServiceClient;
use k8s_cri::v1::{
    AttachRequest, ContainerConfig, ContainerMetadata, ContainerState, ContainerStatus,
    ContainerStatusRequest, CreateContainerRequest, ExecRequest, ExecSyncRequest, ExecSyncResponse,
    ImageSpec, LinuxContainerConfig, LinuxContainerSecurityContext, LinuxPodSandboxConfig,
    LinuxSandboxSecurityContext, NamespaceMode, NamespaceOption, PodSandboxConfig, PodSandboxMetadata,
    RemoveContainerRequest, RemovePodSandboxRequest, RunPodSandboxRequest, StartContainerRequest,
    StatusRequest, StopContainerRequest, StopPodSandboxRequest,
};
use serde_json::Value;
use tonic::transport::{Channel, Endpoint};
use tonic::{Response, Status};

use crate::websocket::Stream;

/// The handler of `packaging/containerd/config.toml` and `packaging/kubernetes`.
pub const HANDLER: &str = "coracle";
/// busybox.
pub const NATIVE: &str = "localhost/native:latest";
/// The guest `show` as `/main.wasm`, and `/hello.wasm`, of a usual platform: kubelets pull for that of the node.
pub const SHOW: &str = "localhost/show:latest";

/// What `/hello.wasm` prints.
pub const HELLO: &str = "hello from a module\n";

/// A containerd and a connection to its CRI plugin.
pub struct Cri {
    /// The daemon.
    pub containerd: Containerd,
    tokio: tokio::runtime::Runtime,
    channel: Channel,
}

impl Cri {
    /// Starts containerd with the images of these tests, and waits until it is ready for pods.
    pub fn new() -> Result<Cri> {
        let containerd = Containerd::new()?;
        let pause = containerd.path().join("pause");
        fs::create_dir(&pause)?;
        // Podman's pause program: unlike a mere sleep it reaps what is orphaned in a pod's pid namespace.
        fs::copy("/usr/bin/catatonit", pause.join("pause")).context("copy catatonit")?;
        containerd.import(PAUSE, ("linux", "amd64"), &pause, &["/pause", "-P"])?;
        let (show, hello) = (c("show")?, wat("hello")?);
        let modules = [("/main.wasm", show.as_path()), ("/hello.wasm", hello.as_path())];
        containerd.import_modules(SHOW, ("linux", "amd64"), &modules)?;
        let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let socket = format!("unix://{}", containerd.socket().display());
        let channel = {
            let _inside = tokio.enter();
            Endpoint::from_shared(socket)?.timeout(Duration::from_secs(60)).connect_lazy()
        };
        let cri = Cri { containerd, tokio, channel };
        cri.is_ready()?;
        Ok(cri)
    }

    /// Waits until runtime and network are ready.
    pub fn is_ready(&self) -> Result<()> {
        eventually("the CRI plugin", || {
            let status = self.call(async |c| c.status(StatusRequest { verbose: false }).await);
            let conditions = status.ok().and_then(|s| s.status).map(|s| s.conditions).unwrap_or_default();
            Ok(!conditions.is_empty() && conditions.iter().all(|c| c.status))
        })
    }

    /// Calls the runtime service.
    pub fn call<T>(
        &self,
        rpc: impl AsyncFnOnce(&mut RuntimeServiceClient<Channel>) -> Result<Response<T>, Status>,
    ) -> Result<T, Status> {
        let mut client = RuntimeServiceClient::new(self.channel.clone());
        self.tokio.block_on(rpc(&mut client)).map(Response::into_inner)
    }

    /// Starts a pod with a network of its own and these annotations.
    pub fn pod(&self, name: &str, annotations: &[(&str, &str)]) -> Result<Pod<'_>> {
        let config = PodSandboxConfig { annotations: map(annotations), ..self.pod_config(name) };
        self.pod_of(HANDLER, config)
    }

    /// What a kubelet says about every pod.
    pub fn pod_config(&self, name: &str) -> PodSandboxConfig {
        PodSandboxConfig {
            metadata: Some(PodSandboxMetadata {
                name: name.to_owned(),
                uid: name.to_owned(),
                namespace: "default".to_owned(),
                attempt: 0,
            }),
            hostname: name.to_owned(),
            log_directory: self.containerd.path().join("logs").join(name).to_string_lossy().into_owned(),
            linux: Some(LinuxPodSandboxConfig {
                cgroup_parent: format!("/{}", self.containerd.host().name()),
                security_context: Some(LinuxSandboxSecurityContext {
                    namespace_options: Some(namespaces(NamespaceMode::Pod, NamespaceMode::Container)),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    /// Starts a pod of a runtime handler.
    pub fn pod_of(&self, handler: &str, config: PodSandboxConfig) -> Result<Pod<'_>> {
        fs::create_dir_all(&config.log_directory)?;
        let request =
            RunPodSandboxRequest { config: Some(config.clone()), runtime_handler: handler.to_owned() };
        let id = self.call(async |c| c.run_pod_sandbox(request).await)?.pod_sandbox_id;
        Ok(Pod { cri: self, id, config })
    }

    /// `config.json` of a sandbox or a container that runs, as the runtime gets it.
    pub fn config(&self, id: &str) -> Result<Value> {
        Ok(serde_json::from_slice(&fs::read(self.bundle(id).join("config.json"))?)?)
    }

    /// The pid of a sandbox's or a container's init.
    pub fn pid(&self, id: &str) -> Result<i32> {
        Ok(fs::read_to_string(self.bundle(id).join("init.pid"))?.parse()?)
    }

    fn bundle(&self, id: &str) -> PathBuf {
        self.containerd.path().join("run/io.containerd.runtime.v2.task").join(KUBERNETES).join(id)
    }

    /// The directory of a container's cgroup that has this controller.
    pub fn cgroup(&self, id: &str, controller: &str) -> Result<PathBuf> {
        Host::cgroup_dir(&format!("{}/{id}", self.containerd.host().name()), controller)
    }

    /// The pod that [`Pod::keep`] has left alone.
    pub fn adopt(&self, (id, config): (String, PodSandboxConfig)) -> Pod<'_> {
        Pod { cri: self, id, config }
    }
}

/// A pod. Dropping it removes it.
pub struct Pod<'c> {
    pub cri: &'c Cri,
    /// The id of its sandbox.
    pub id: String,
    pub config: PodSandboxConfig,
}

impl Pod<'_> {
    /// What a kubelet says about every container; its name is that of its log file.
    pub fn container_config(&self, name: &str, image: &str, command: &[&str]) -> ContainerConfig {
        let pod = self.config.linux.as_ref().and_then(|l| l.security_context.as_ref());
        ContainerConfig {
            metadata: Some(ContainerMetadata { name: name.to_owned(), attempt: 0 }),
            image: Some(ImageSpec { image: image.to_owned(), ..Default::default() }),
            command: command.iter().map(|&word| word.to_owned()).collect(),
            log_path: format!("{name}.log"),
            linux: Some(LinuxContainerConfig {
                security_context: Some(LinuxContainerSecurityContext {
                    namespace_options: pod.and_then(|c| c.namespace_options.clone()),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    /// Creates a container and starts it.
    pub fn run(&self, name: &str, image: &str, command: &[&str]) -> Result<String> {
        self.run_with(self.container_config(name, image, command))
    }

    /// Creates a container with a configuration of its own and starts it.
    pub fn run_with(&self, config: ContainerConfig) -> Result<String> {
        let id = self.create(config)?;
        self.start(&id)?;
        Ok(id)
    }

    /// Creates a container; containerd calls the runtime when it is started.
    pub fn create(&self, config: ContainerConfig) -> Result<String> {
        let request = CreateContainerRequest {
            pod_sandbox_id: self.id.clone(),
            config: Some(config),
            sandbox_config: Some(self.config.clone()),
        };
        Ok(self.cri.call(async |c| c.create_container(request).await)?.container_id)
    }

    /// Starts a container.
    pub fn start(&self, id: &str) -> Result<(), Status> {
        let request = StartContainerRequest { container_id: id.to_owned() };
        self.cri.call(async |c| c.start_container(request).await).map(drop)
    }

    /// The status of a container.
    pub fn status(&self, id: &str) -> Result<ContainerStatus> {
        let request = ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
        self.cri.call(async |c| c.container_status(request).await)?.status.context("no status")
    }

    /// Waits for the end of a container, and returns its exit code and the reason.
    pub fn wait(&self, id: &str) -> Result<(i32, String)> {
        eventually(
            "the container's end",
            || Ok(self.status(id)?.state() == ContainerState::ContainerExited),
        )?;
        let status = self.status(id)?;
        Ok((status.exit_code, status.reason))
    }

    /// Stops a container: SIGTERM, and SIGKILL after so many seconds.
    pub fn stop(&self, id: &str, timeout: i64) -> Result<()> {
        let request = StopContainerRequest { container_id: id.to_owned(), timeout };
        Ok(self.cri.call(async |c| c.stop_container(request).await).map(drop)?)
    }

    /// Removes a container, which it kills first.
    pub fn remove(&self, id: &str) -> Result<()> {
        let request = RemoveContainerRequest { container_id: id.to_owned() };
        Ok(self.cri.call(async |c| c.remove_container(request).await).map(drop)?)
    }

    /// Executes a command in a container, with a timeout in seconds (0: none).
    pub fn exec(&self, id: &str, cmd: &[&str], timeout: i64) -> Result<ExecSyncResponse, Status> {
        let cmd = cmd.iter().map(|&word| word.to_owned()).collect();
        let request = ExecSyncRequest { container_id: id.to_owned(), cmd, timeout };
        self.cri.call(async |c| c.exec_sync(request).await)
    }

    /// What a command prints, which has to succeed.
    pub fn exec_prints(&self, id: &str, cmd: &[&str]) -> Result<String> {
        let done = self.exec(id, cmd, 0)?;
        let stdout = String::from_utf8(done.stdout)?;
        let stderr = String::from_utf8_lossy(&done.stderr);
        ensure!(done.exit_code == 0, "{cmd:?}: exit code {}, {stdout:?}, {stderr:?}", done.exit_code);
        Ok(stdout)
    }

    /// Executes a command in a container with its streams on a connection of its own.
    pub fn exec_stream(&self, id: &str, cmd: &[&str], tty: bool) -> Result<Stream> {
        let request = ExecRequest {
            container_id: id.to_owned(),
            cmd: cmd.iter().map(|&word| word.to_owned()).collect(),
            tty,
            stdin: true,
            stdout: true,
            stderr: !tty,
        };
        let url = self.cri.call(async |c| c.exec(request).await)?.url;
        Stream::open(&self.cri.containerd, &url)
    }

    /// Attaches to the streams of a container's program.
    pub fn attach(&self, id: &str, tty: bool) -> Result<Stream> {
        let request =
            AttachRequest { container_id: id.to_owned(), stdin: true, tty, stdout: true, stderr: !tty };
        let url = self.cri.call(async |c| c.attach(request).await)?.url;
        Stream::open(&self.cri.containerd, &url)
    }

    /// The log file of a container.
    pub fn log_file(&self, name: &str) -> PathBuf {
        PathBuf::from(&self.config.log_directory).join(format!("{name}.log"))
    }

    /// What a container has written to a stream, by its log.
    pub fn log(&self, name: &str, stream: &str) -> Result<String> {
        let text = fs::read_to_string(self.log_file(name))?;
        let mut written = String::new();
        for line in text.lines() {
            // TIME STREAM F|P TEXT: the whole rest of a line, or a part that the next one continues.
            let [time, of, tag, text] = line.splitn(4, ' ').collect::<Vec<_>>()[..] else {
                bail!("no line of a log: {line:?}");
            };
            ensure!(time.contains('T') && time.len() > 20, "no time: {line:?}");
            ensure!(["stdout", "stderr"].contains(&of) && ["F", "P"].contains(&tag), "{line:?}");
            if of == stream {
                written.push_str(text);
                written.push_str(if tag == "F" { "\n" } else { "" });
            }
        }
        Ok(written)
    }

    /// Waits until a container has written something to its standard output.
    pub fn expect(&self, name: &str, needle: &str) -> Result<()> {
        eventually(&format!("{needle:?} in the log"), || Ok(self.log(name, "stdout")?.contains(needle)))
            .with_context(|| format!("{:?}", self.log(name, "stdout")))
    }

    /// Leaves the pod running.
    pub fn keep(self) -> (String, PodSandboxConfig) {
        let mut this = std::mem::ManuallyDrop::new(self);
        (std::mem::take(&mut this.id), std::mem::take(&mut this.config))
    }

    /// Stops and removes the pod with its containers, and requires that nothing of them is left.
    pub fn end(self) -> Result<()> {
        let cri = self.cri;
        self.stop_and_remove()?;
        drop(self);
        cri.containerd.is_clean()
    }

    fn stop_and_remove(&self) -> Result<(), Status> {
        let stop = StopPodSandboxRequest { pod_sandbox_id: self.id.clone() };
        self.cri.call(async |c| c.stop_pod_sandbox(stop).await)?;
        let remove = RemovePodSandboxRequest { pod_sandbox_id: self.id.clone() };
        self.cri.call(async |c| c.remove_pod_sandbox(remove).await).map(drop)
    }
}

impl Drop for Pod<'_> {
    fn drop(&mut self) {
        // After `end` there is none of this id any more, which is no error.
        let _ = self.stop_and_remove();
    }
}

/// Whose network and whose processes the containers of a pod see.
pub fn namespaces(network: NamespaceMode, pid: NamespaceMode) -> NamespaceOption {
    NamespaceOption { network: network.into(), pid: pid.into(), ..Default::default() }
}

/// A map of strings.
pub fn map(pairs: &[(&str, &str)]) -> HashMap<String, String> {
    pairs.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect()
}
