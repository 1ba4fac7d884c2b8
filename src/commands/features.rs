//! `features`: what this runtime supports, for engines that ask before they use it. The form is that of the
//! runtime specification, features.md.
//!
//! Invariant: nothing is claimed here that a container would be refused for, and what another module decides
//! is asked from that module.

use std::collections::HashMap;
use std::io::Write;

use oci_spec::runtime::{
    ApparmorBuilder, Arch, CgroupBuilder, Features, FeaturesBuilder, IDMapBuilder, IntelRdtBuilder,
    LinuxFeatureBuilder, LinuxNamespaceType, LinuxSeccompAction, MountExtensionsBuilder, NetDevicesBuilder,
    SeccompBuilder, SelinuxBuilder,
};

use crate::cli::Global;
use crate::error::Error;
use crate::rootfs::MOUNT_OPTIONS;

/// The version of the runtime specification that config.json is understood by.
pub const OCI_VERSION: &str = "1.2.1";

const HOOKS: [&str; 6] =
    ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];

const NAMESPACES: [LinuxNamespaceType; 7] = [
    LinuxNamespaceType::Cgroup,
    LinuxNamespaceType::Ipc,
    LinuxNamespaceType::Mount,
    LinuxNamespaceType::Network,
    LinuxNamespaceType::Pid,
    LinuxNamespaceType::User,
    LinuxNamespaceType::Uts,
];

/// Everything but SCMP_ACT_NOTIFY.
const SECCOMP_ACTIONS: [LinuxSeccompAction; 8] = [
    LinuxSeccompAction::ScmpActAllow,
    LinuxSeccompAction::ScmpActErrno,
    LinuxSeccompAction::ScmpActKill,
    LinuxSeccompAction::ScmpActKillProcess,
    LinuxSeccompAction::ScmpActKillThread,
    LinuxSeccompAction::ScmpActLog,
    LinuxSeccompAction::ScmpActTrace,
    LinuxSeccompAction::ScmpActTrap,
];

const SECCOMP_OPERATORS: [&str; 7] = [
    "SCMP_CMP_EQ",
    "SCMP_CMP_GE",
    "SCMP_CMP_GT",
    "SCMP_CMP_LE",
    "SCMP_CMP_LT",
    "SCMP_CMP_MASKED_EQ",
    "SCMP_CMP_NE",
];

const SECCOMP_ARCHS: [Arch; 18] = [
    Arch::ScmpArchAarch64,
    Arch::ScmpArchArm,
    Arch::ScmpArchMips,
    Arch::ScmpArchMips64,
    Arch::ScmpArchMips64n32,
    Arch::ScmpArchMipsel,
    Arch::ScmpArchMipsel64,
    Arch::ScmpArchMipsel64n32,
    Arch::ScmpArchParisc,
    Arch::ScmpArchParisc64,
    Arch::ScmpArchPpc,
    Arch::ScmpArchPpc64,
    Arch::ScmpArchPpc64le,
    Arch::ScmpArchRiscv64,
    Arch::ScmpArchS390,
    Arch::ScmpArchS390x,
    Arch::ScmpArchX86,
    Arch::ScmpArchX86_64,
];

/// Flags of seccomp(2) that a profile may set.
const SECCOMP_FLAGS: [(&str, libc::c_ulong); 3] = [
    ("SECCOMP_FILTER_FLAG_LOG", libc::SECCOMP_FILTER_FLAG_LOG),
    ("SECCOMP_FILTER_FLAG_SPEC_ALLOW", libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW),
    ("SECCOMP_FILTER_FLAG_TSYNC", libc::SECCOMP_FILTER_FLAG_TSYNC),
];

/// Handlers of WebAssembly modules: a program `coracle-<name>` each.
const WASM_HANDLERS: &str = "wasi";

/// Annotations of a config.json that change how a container is run: an engine should pass them on only from
/// whom it trusts with that. One that ends in a dot is a prefix.
const ANNOTATIONS: [&str; 4] = ["run.oci.", "module.wasm.", "org.coracle.", "org.systemd.property."];

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

fn features() -> Result<Features, oci_spec::OciSpecError> {
    let seccomp = SeccompBuilder::default()
        .enabled(true)
        .actions(SECCOMP_ACTIONS)
        .operators(strings(&SECCOMP_OPERATORS))
        .archs(SECCOMP_ARCHS)
        .known_flags(SECCOMP_FLAGS.map(|(name, _)| name.to_owned()))
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
        .intel_rdt(IntelRdtBuilder::default().enabled(false).build()?)
        .mount_extensions(
            MountExtensionsBuilder::default()
                .idmap(IDMapBuilder::default().enabled(false).build()?)
                .build()?,
        )
        .net_devices(NetDevicesBuilder::default().enabled(false).build()?)
        .build()?;
    FeaturesBuilder::default()
        .oci_version_min("1.0.0")
        .oci_version_max(OCI_VERSION)
        .hooks(strings(&HOOKS))
        .mount_options(strings(MOUNT_OPTIONS))
        .linux(linux)
        .annotations(HashMap::from([
            ("org.coracle.version".to_owned(), crate::VERSION.to_owned()),
            ("org.coracle.wasm.handlers".to_owned(), WASM_HANDLERS.to_owned()),
        ]))
        .potentially_unsafe_config_annotations(strings(&ANNOTATIONS))
        .build()
}

/// The flags that this kernel knows. Without a filter, it answers EINVAL for a flag it does not know, and
/// EFAULT otherwise (seccomp(2)); it never installs anything.
fn supported_flags() -> Vec<String> {
    let known = |flag: libc::c_ulong| {
        // SAFETY: the kernel finds no filter at the null address, and reports that.
        let result = unsafe {
            libc::syscall(
                libc::SYS_seccomp,
                libc::SECCOMP_SET_MODE_FILTER,
                flag,
                std::ptr::null::<libc::sock_fprog>(),
            )
        };
        result == -1 && std::io::Error::last_os_error().raw_os_error() == Some(libc::EFAULT)
    };
    SECCOMP_FLAGS.iter().filter(|(_, flag)| known(*flag)).map(|(name, _)| (*name).to_owned()).collect()
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
        assert_eq!(features["linux"]["mountExtensions"]["idmap"]["enabled"], false);
        let has = |list: &serde_json::Value, name: &str| list.as_array().unwrap().iter().any(|n| n == name);
        assert!(has(&features["mountOptions"], "rro") && has(&features["hooks"], "createRuntime"));
        assert!(has(&features["linux"]["namespaces"], "cgroup"));
        assert_eq!(features["linux"]["capabilities"][0], "CAP_CHOWN");
        let seccomp = &features["linux"]["seccomp"];
        assert!(has(&seccomp["archs"], "SCMP_ARCH_X86_64") && has(&seccomp["actions"], "SCMP_ACT_ERRNO"));
        assert!(!has(&seccomp["actions"], "SCMP_ACT_NOTIFY"));
        assert!(has(&seccomp["supportedFlags"], "SECCOMP_FILTER_FLAG_LOG"));
        assert_eq!(features["annotations"]["org.coracle.wasm.handlers"], "wasi");
    }
}
