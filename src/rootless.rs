//! Whether we are the host's root, and where state goes when we are not.

use std::path::PathBuf;

use crate::file;

/// Whether we lack the host's root: another effective uid, or root inside a user namespace, where podman's
/// rootless mode calls us.
pub fn is_rootless() -> bool {
    !rustix::process::geteuid().is_root() || in_user_namespace()
}

/// Whether this is not the initial user namespace. See user_namespaces(7) on uid_map: that one maps all of its ids.
pub fn in_user_namespace() -> bool {
    file::read_record("/proc/self/uid_map").is_ok_and(|map| !is_initial_namespace(&map))
}

fn is_initial_namespace(uid_map: &[u8]) -> bool {
    uid_map.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()).eq([
        &b"0"[..],
        b"0",
        b"4294967295",
    ])
}

/// The default of `--root`. As with runc, `XDG_RUNTIME_DIR` counts only for those without the host's root;
/// conmon sets it to the empty string.
pub fn default_root(rootless: bool) -> PathBuf {
    match std::env::var_os("XDG_RUNTIME_DIR") {
        Some(dir) if rootless && !dir.is_empty() => PathBuf::from(dir).join("coracle"),
        _ => PathBuf::from("/run/coracle"),
    }
}

#[cfg(test)]
mod tests {
    use super::is_initial_namespace;

    #[test]
    fn only_the_full_identity_map_is_the_initial_namespace() {
        assert!(is_initial_namespace(b"         0          0 4294967295\n"));
        assert!(!is_initial_namespace(
            b"         0       1000          1\n         1     100000      65536\n"
        ));
        assert!(!is_initial_namespace(b""));
    }
}
