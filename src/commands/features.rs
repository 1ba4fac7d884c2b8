//! `features`: what this runtime supports, for engines that ask before they use it. The form is that of the
//! runtime specification, features.md.
//!
//! Invariant: nothing is claimed here that a container would be refused for, and what another module decides
//! is asked from that module.

use std::collections::{BTreeSet, HashMap};
use std::io::Write;

use oci_spec::runtime::{
    ApparmorBuilder, Arch, CgroupBuilder, Features, FeaturesBuilder, IDMapBuilder, IntelRdtBuilder,
    LinuxFeatureBuilder, LinuxNamespaceType, LinuxSeccompAction, MemoryPolicyBuilder, MountExtensionsBuilder,
    NetDevicesBuilder, SeccompBuilder, SelinuxBuilder,
};

use serde::de::DeserializeOwned;

use crate::cli::Global;
use crate::error::Error;
use crate::rootfs::MOUNT_OPTIONS;

/// The version of the runtime specification that config.json is understood by.
pub const OCI_VERSION: &str = "1.3.0";

const HOOKS: [&str; 6] =
    ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];

const NAMESPACES: [LinuxNamespaceType; 8] = [
    LinuxNamespaceType::Cgroup,
    LinuxNamespaceType::Ipc,
    LinuxNamespaceType::Mount,
    LinuxNamespaceType::Network,
    LinuxNamespaceType::Pid,
    LinuxNamespaceType::Time,
    LinuxNamespaceType::User,
    LinuxNamespaceType::Uts,
];

/// Handlers of WebAssembly modules: a program `coracle-<name>` each.
const WASM_HANDLERS: &str = "wasi";

/// Annotations of a config.json that change how a container is run: an engine should pass them on only from
/// whom it trusts with that. One that ends in a dot is a prefix.
const ANNOTATIONS: [&str; 7] = [
    "io.kubernetes.cri-o.ContainerType",
    "io.kubernetes.cri.container-type",
    "module.wasm.",
    "org.coracle.",
    "org.criu.config",
    "org.systemd.property.",
    "run.oci.",
];

/// What oci-spec parses for `linux.memoryPolicy`, and we hand to set_mempolicy(2).
const MEMORY_POLICIES: [&str; 7] = [
    "MPOL_DEFAULT",
    "MPOL_PREFERRED",
    "MPOL_BIND",
    "MPOL_INTERLEAVE",
    "MPOL_LOCAL",
    "MPOL_PREFERRED_MANY",
    "MPOL_WEIGHTED_INTERLEAVE",
];
const MEMORY_POLICY_FLAGS: [&str; 3] =
    ["MPOL_F_NUMA_BALANCING", "MPOL_F_RELATIVE_NODES", "MPOL_F_STATIC_NODES"];

/// Options of `features`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Prints the features as JSON.
pub fn run(_args: &Args, _global: &Global) -> Result<u8, Error> {
    let features = features().map_err(Error::new)?;
    let mut json = serde_json::to_vec_pretty(&features).map_err(Error::new)?;
    json.push(b'\n');
    std::io::stdout().write_all(&json).map_err(Error::new)?;
    Ok(0)
}

/// Why the features cannot be told: a name that oci-spec does not know.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
enum Unknown {
    Field(#[from] oci_spec::OciSpecError),
    Name(#[from] serde_json::Error),
}

fn features() -> Result<Features, Unknown> {
    let seccomp = SeccompBuilder::default()
        .enabled(true)
        .actions(named::<Vec<LinuxSeccompAction>>(coracle_seccomp::ACTIONS)?)
        .operators(strings(coracle_seccomp::OPERATORS))
        .archs(named::<Vec<Arch>>(&coracle_seccomp::architectures())?)
        .known_flags(strings(coracle_seccomp::FLAGS))
        .supported_flags(supported_flags())
        .build()?;
    let linux = LinuxFeatureBuilder::default()
        .namespaces(NAMESPACES)
        .capabilities(capabilities())
        .cgroup(
            CgroupBuilder::default().v1(true).v2(true).systemd(true).systemd_user(true).rdma(true).build()?,
        )
        .seccomp(seccomp)
        .apparmor(ApparmorBuilder::default().enabled(true).build()?)
        .selinux(SelinuxBuilder::default().enabled(true).build()?)
        .intel_rdt(IntelRdtBuilder::default().enabled(true).schemata(true).monitoring(true).build()?)
        .mount_extensions(
            MountExtensionsBuilder::default()
                .idmap(IDMapBuilder::default().enabled(true).build()?)
                .build()?,
        )
        .memory_policy(
            MemoryPolicyBuilder::default()
                .modes(strings(&MEMORY_POLICIES))
                .flags(strings(&MEMORY_POLICY_FLAGS))
                .build()?,
        )
        .net_devices(NetDevicesBuilder::default().enabled(true).build()?)
        .build()?;
    let features = FeaturesBuilder::default()
        .oci_version_min("1.0.0")
        .oci_version_max(OCI_VERSION)
        .hooks(strings(&HOOKS))
        .mount_options(strings(MOUNT_OPTIONS))
        .linux(linux)
        .annotations(HashMap::from([
            // By this name engines look for it.
            ("org.opencontainers.runc.checkpoint.enabled".to_owned(), "true".to_owned()),
            ("io.github.seccomp.libseccomp.version".to_owned(), coracle_seccomp::library_version()),
            ("org.coracle.version".to_owned(), crate::VERSION.to_owned()),
            ("org.coracle.wasm.handlers".to_owned(), WASM_HANDLERS.to_owned()),
            ("org.coracle.wasm.imports".to_owned(), wasm_imports()),
        ]))
        .potentially_unsafe_config_annotations(strings(&ANNOTATIONS))
        .build()?;
    Ok(features)
}

/// The flags that this kernel knows. Without a filter, it answers EINVAL for a flag it does not know, and
/// EFAULT otherwise (seccomp(2)); it never installs anything.
fn supported_flags() -> Vec<String> {
    let known = |flag: &&&str| {
        let bit = match **flag {
            "SECCOMP_FILTER_FLAG_TSYNC" => libc::SECCOMP_FILTER_FLAG_TSYNC,
            "SECCOMP_FILTER_FLAG_LOG" => libc::SECCOMP_FILTER_FLAG_LOG,
            "SECCOMP_FILTER_FLAG_SPEC_ALLOW" => libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW,
            // It only goes with a listener.
            "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV" => 1 << 5 | libc::SECCOMP_FILTER_FLAG_NEW_LISTENER,
            _ => return false,
        };
        // SAFETY: the kernel finds no filter at the null address, and reports that.
        let result = unsafe {
            libc::syscall(
                libc::SYS_seccomp,
                libc::SECCOMP_SET_MODE_FILTER,
                bit,
                std::ptr::null::<libc::sock_fprog>(),
            )
        };
        result == -1 && std::io::Error::last_os_error().raw_os_error() == Some(libc::EFAULT)
    };
    coracle_seccomp::FLAGS.iter().filter(known).map(ToString::to_string).collect()
}

/// Names as the type that oci-spec has for them.
fn named<T: DeserializeOwned>(names: &[&str]) -> Result<T, serde_json::Error> {
    serde_json::from_value(names.into())
}

/// The modules that a guest may import functions from.
fn wasm_imports() -> String {
    let modules: BTreeSet<_> = coracle_abi::IMPORTS.iter().map(|import| import.module).collect();
    modules.into_iter().collect::<Vec<_>>().join(",")
}

/// In the order of their numbers, as capabilities(7) counts them.
fn capabilities() -> Vec<String> {
    let mut all: Vec<_> = caps::all().into_iter().collect();
    all.sort_by_key(caps::Capability::index);
    all.iter().map(ToString::to_string).collect()
}

fn strings(list: &[&str]) -> Vec<String> {
    list.iter().map(ToString::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn engines_find_what_they_look_for() {
        let features = serde_json::to_value(features().unwrap()).unwrap();
        assert_eq!(features["ociVersionMin"], "1.0.0");
        assert_eq!(features["linux"]["mountExtensions"]["idmap"]["enabled"], true);
        let has = |list: &serde_json::Value, name: &str| list.as_array().unwrap().iter().any(|n| n == name);
        assert!(has(&features["mountOptions"], "rro") && has(&features["hooks"], "createRuntime"));
        assert!(has(&features["linux"]["namespaces"], "cgroup"));
        assert_eq!(features["linux"]["capabilities"][0], "CAP_CHOWN");
        let seccomp = &features["linux"]["seccomp"];
        assert!(has(&seccomp["archs"], "SCMP_ARCH_X86_64") && has(&seccomp["actions"], "SCMP_ACT_ERRNO"));
        assert!(has(&seccomp["actions"], "SCMP_ACT_NOTIFY"));
        assert!(has(&seccomp["knownFlags"], "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"));
        assert!(has(&seccomp["supportedFlags"], "SECCOMP_FILTER_FLAG_LOG"));
        assert_eq!(features["annotations"]["org.coracle.wasm.handlers"], "wasi");
        let imports = features["annotations"]["org.coracle.wasm.imports"].as_str().unwrap();
        assert!(imports.split(',').any(|module| module == "wasi_snapshot_preview1"), "{imports}");
    }
}
