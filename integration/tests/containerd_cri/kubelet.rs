//! `packaging/kubernetes`, and what a kubelet makes of it.
//!
//! A field that this does not know is an error, so nothing stands in those files that the test passes over.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result};
use coracle_integration::repository;
use k8s_cri::v1::{ContainerConfig, Int64Value, LinuxContainerResources, Mount, PodSandboxConfig};
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RuntimeClass {
    pub api_version: String,
    pub kind: String,
    pub metadata: Metadata,
    pub handler: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Pod {
    pub api_version: String,
    pub kind: String,
    pub metadata: Metadata,
    pub spec: PodSpec,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Metadata {
    pub name: String,
    #[serde(default)]
    annotations: HashMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PodSpec {
    pub runtime_class_name: String,
    pub termination_grace_period_seconds: i64,
    pub containers: Vec<Container>,
    volumes: Vec<Volume>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Container {
    pub name: String,
    pub image: String,
    image_pull_policy: String,
    #[serde(default)]
    command: Vec<String>,
    #[serde(default)]
    args: Vec<String>,
    resources: Resources,
    security_context: Option<SecurityContext>,
    pub readiness_probe: Option<Probe>,
    volume_mounts: Vec<VolumeMount>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Resources {
    limits: Limits,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Limits {
    cpu: String,
    memory: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct SecurityContext {
    run_as_user: i64,
    allow_privilege_escalation: bool,
    read_only_root_filesystem: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Probe {
    pub http_get: HttpGet,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpGet {
    pub port: u16,
    pub path: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct VolumeMount {
    name: String,
    mount_path: String,
    #[serde(default)]
    read_only: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Volume {
    name: String,
    #[serde(rename = "emptyDir")]
    _empty_dir: HashMap<String, IgnoredAny>,
}

/// Reads a file of `packaging/kubernetes`.
pub fn read<T: DeserializeOwned>(name: &str) -> Result<T> {
    let file = repository().join("packaging/kubernetes").join(name);
    let text = fs::read_to_string(&file)?;
    serde_saphyr::from_str(&text).with_context(|| file.display().to_string())
}

impl Pod {
    /// Makes a pod's sandbox out of what every sandbox has.
    pub fn sandbox(&self, every: PodSandboxConfig) -> PodSandboxConfig {
        PodSandboxConfig { annotations: self.metadata.annotations.clone(), ..every }
    }

    /// Makes a container out of what every container has, with its volumes in this directory.
    pub fn container(
        &self,
        container: &Container,
        every: ContainerConfig,
        dir: &Path,
    ) -> Result<ContainerConfig> {
        let mut config = every;
        assert_eq!(container.image_pull_policy, "IfNotPresent", "there is no registry to pull from");
        config.command.clone_from(&container.command);
        config.args.clone_from(&container.args);
        for mount in &container.volume_mounts {
            let volume = self.spec.volumes.iter().find(|v| v.name == mount.name).context("no such volume")?;
            let source = dir.join(&volume.name);
            fs::create_dir_all(&source)?;
            fs::set_permissions(&source, fs::Permissions::from_mode(0o777))?;
            config.mounts.push(Mount {
                container_path: mount.mount_path.clone(),
                host_path: source.to_string_lossy().into_owned(),
                readonly: mount.read_only,
                ..Default::default()
            });
        }
        let linux = config.linux.get_or_insert_default();
        linux.resources = Some(container.resources.limits.resources()?);
        if let Some(asked) = &container.security_context {
            let context = linux.security_context.get_or_insert_default();
            context.run_as_user = Some(Int64Value { value: asked.run_as_user });
            context.no_new_privs = !asked.allow_privilege_escalation;
            context.readonly_rootfs = asked.read_only_root_filesystem;
        }
        Ok(config)
    }
}

impl Limits {
    /// The kubelet's arithmetic: 1024 shares and 100 ms of every 100 ms for a processor.
    fn resources(&self) -> Result<LinuxContainerResources> {
        let thousandths: i64 = self.cpu.strip_suffix('m').context("cpu in m")?.parse()?;
        let mebibytes: i64 = self.memory.strip_suffix("Mi").context("memory in Mi")?.parse()?;
        Ok(LinuxContainerResources {
            cpu_period: 100_000,
            cpu_quota: thousandths * 100,
            cpu_shares: thousandths * 1024 / 1000,
            memory_limit_in_bytes: mebibytes << 20,
            ..Default::default()
        })
    }
}
