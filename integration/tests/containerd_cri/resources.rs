//! What a container may use, and what it uses.

use std::fs;

use anyhow::Result;
use coracle_integration::wat;
use k8s_cri::v1::{
    ContainerStatsRequest, LinuxContainerResources, PodSandboxStatsRequest, UpdateContainerResourcesRequest,
};

use crate::client::{Cri, NATIVE, SHOW};

#[test]
fn limits_updates_and_statistics() -> Result<()> {
    let cri = Cri::new()?;
    let pod = cri.pod("pod", &[])?;
    for (name, image, command) in
        [("native", NATIVE, &["sleep", "1000"][..]), ("module", SHOW, &["/main.wasm", "alloc=8", "tick"])]
    {
        let mut config = pod.container_config(name, image, command);
        let linux = config.linux.get_or_insert_default();
        let mut resources = LinuxContainerResources {
            cpu_period: 100_000,
            cpu_quota: 50_000,
            cpu_shares: 512,
            memory_limit_in_bytes: 64 << 20,
            ..Default::default()
        };
        linux.resources = Some(resources.clone());
        let id = pod.run_with(config)?;
        let read = |controller: &str, v1: &str, v2: &str| -> Result<String> {
            let dir = cri.cgroup(&id, controller)?;
            let file = if dir.join("cgroup.controllers").exists() { v2 } else { v1 };
            Ok(fs::read_to_string(dir.join(file))?.trim().to_owned())
        };
        let memory = || read("memory", "memory.limit_in_bytes", "memory.max");
        let quota = || read("cpu", "cpu.cfs_quota_us", "cpu.max").map(|q| q.replace(" 100000", ""));
        assert_eq!((memory()?, quota()?), ((64 << 20).to_string(), "50000".to_owned()));
        resources.memory_limit_in_bytes = 96 << 20;
        resources.cpu_quota = 75_000;
        let request = UpdateContainerResourcesRequest {
            container_id: id.clone(),
            linux: Some(resources),
            ..Default::default()
        };
        cri.call(async |c| c.update_container_resources(request).await)?;
        assert_eq!((memory()?, quota()?), ((96 << 20).to_string(), "75000".to_owned()));

        if name == "module" {
            pod.expect(name, "ticking")?;
        }
        let request = ContainerStatsRequest { container_id: id.clone() };
        let stats = cri.call(async |c| c.container_stats(request).await)?.stats.unwrap_or_default();
        let used = stats.memory.and_then(|m| m.working_set_bytes).unwrap_or_default().value;
        let least = if name == "module" { 8 << 20 } else { 1 };
        assert!((least..96 << 20).contains(&used), "{name} uses {used} bytes");
        let cpu = stats.cpu.and_then(|c| c.usage_core_nano_seconds).unwrap_or_default().value;
        assert!(cpu > 0, "{name} has used no processor");
    }
    let request = PodSandboxStatsRequest { pod_sandbox_id: pod.id.clone() };
    let stats = cri.call(async |c| c.pod_sandbox_stats(request).await)?.stats.unwrap_or_default();
    let linux = stats.linux.unwrap_or_default();
    assert_eq!(linux.containers.len(), 2);
    let processes = linux.process.and_then(|p| p.process_count).unwrap_or_default().value;
    assert_eq!(processes, 2, "a native program and a module");
    let interface = linux.network.and_then(|n| n.default_interface).unwrap_or_default();
    assert_eq!(interface.name, "eth0");
    pod.end()
}

#[test]
fn out_of_memory() -> Result<()> {
    let cri = Cri::new()?;
    let hog = wat("hog")?;
    cri.containerd.import_modules("localhost/hog:latest", ("linux", "amd64"), &[("/hog.wasm", &hog)])?;
    let pod = cri.pod("pod", &[])?;
    for (name, image, command) in
        [("native", NATIVE, &["tail", "/dev/zero"][..]), ("module", "localhost/hog:latest", &["/hog.wasm"])]
    {
        let mut config = pod.container_config(name, image, command);
        let limit = LinuxContainerResources {
            memory_limit_in_bytes: 32 << 20,
            memory_swap_limit_in_bytes: 32 << 20,
            ..Default::default()
        };
        config.linux.get_or_insert_default().resources = Some(limit);
        let id = pod.run_with(config)?;
        assert_eq!(pod.wait(&id)?, (137, "OOMKilled".to_owned()), "{name}");
    }
    pod.end()
}
