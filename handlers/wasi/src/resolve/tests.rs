use std::{fs, os::unix::fs::symlink};

use rustix::fs::open as open_path;
use tempfile::TempDir;

use super::{Confinement::*, *};

/// A directory with a sandbox in it, and a file beside the sandbox that must stay out of reach.
fn sandbox() -> (TempDir, OwnedFd) {
    let outer = TempDir::new().expect("a directory");
    fs::write(outer.path().join("secret"), "no").expect("a file");
    let inner = outer.path().join("inner");
    fs::create_dir_all(inner.join("a/b")).expect("directories");
    fs::write(inner.join("a/file"), "yes").expect("a file");
    for (target, link) in [
        ("a/file", "good"),
        ("b/../file", "a/winding"),
        ("../secret", "out"),
        ("/etc/passwd", "absolute"),
        ("a/../../secret", "around"),
        ("loop", "loop"),
        ("nowhere", "dangling"),
        ("a", "dir"),
        ("/proc/self/fd", "magic"),
    ] {
        symlink(target, inner.join(link)).expect("a link");
    }
    let fd = open_path(&inner, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).expect("just made");
    (outer, fd)
}

/// What the two ways of resolving answer; they must agree.
fn try_open(dir: &OwnedFd, confinement: Confinement, path: &str, flags: OFlags) -> Result {
    let path = CString::new(path).expect("no NUL");
    let kernel = open(dir.as_fd(), confinement, &path, flags, Mode::empty()).map(drop);
    let by_hand = walk(dir.as_fd(), confinement, &path, !flags.contains(OFlags::NOFOLLOW)).and_then(
        |(parent, name)| {
            openat(parent.get(dir.as_fd()), &name, flags | OFlags::NOFOLLOW, Mode::empty())?;
            Ok(())
        },
    );
    assert_eq!(kernel, by_hand, "{path:?}");
    kernel
}

#[test]
fn a_path_stays_beneath_its_directory() {
    let (_outer, dir) = sandbox();
    let open = |path| try_open(&dir, Beneath, path, OFlags::RDONLY);
    for path in
        ["a/file", "good", "a/winding", "dir/file", "a/../a/./file", "dir/b/../file", ".", "a/b/../..", "a/"]
    {
        assert_eq!(open(path), Ok(()), "{path}");
    }
    for path in [
        "../secret",
        "out",
        "around",
        "absolute",
        "a/../../inner/a/file",
        "..",
        "/a/file",
        "dir/../../secret",
    ] {
        assert_eq!(open(path), Err(Errno::NotCapable), "{path}");
    }
    assert_eq!(open("loop"), Err(Errno::Loop));
    assert_eq!(open("dangling"), Err(Errno::NoEnt));
    assert_eq!(open("a/file/x"), Err(Errno::NotDir));
    assert_eq!(open("a/file/"), Err(Errno::NotDir));
    assert_eq!(open(""), Err(Errno::NoEnt));
}

#[test]
fn the_last_link_is_followed_only_on_request() {
    let (_outer, dir) = sandbox();
    assert_eq!(try_open(&dir, Beneath, "good", OFlags::NOFOLLOW), Err(Errno::Loop));
    assert_eq!(try_open(&dir, Beneath, "out", OFlags::NOFOLLOW), Err(Errno::Loop));
    assert_eq!(try_open(&dir, Beneath, "dir/file", OFlags::NOFOLLOW), Ok(()));
}

#[test]
fn in_the_container_links_lead_anywhere() {
    let (_outer, dir) = sandbox();
    for path in ["out", "absolute", "around", "../secret", "../../../../../../../../../../etc/passwd"] {
        assert_eq!(try_open(&dir, Container, path, OFlags::RDONLY), Ok(()), "{path}");
    }
}

#[test]
fn magic_links_are_refused() {
    let root = open_path("/", OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).expect("a root");
    for path in ["proc/self/exe", "proc/self/fd/0", "proc/self/ns/mnt", "proc/self/root/etc/passwd"] {
        assert_eq!(try_open(&root, Container, path, OFlags::RDONLY), Err(Errno::Loop), "{path}");
        let path = CString::new(path).expect("no NUL");
        assert_eq!(stat(root.as_fd(), Container, &path, true).err(), Some(Errno::Loop), "{path:?}");
    }
    assert_eq!(try_open(&root, Container, "proc/mounts", OFlags::RDONLY), Ok(()));
    let proc = open_path("/proc/self", OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).expect("procfs");
    assert_eq!(stat(proc.as_fd(), Container, c"exe", true).err(), Some(Errno::Loop));
    assert!(stat(proc.as_fd(), Container, c"exe", false).is_ok());
}

#[test]
fn procfs_is_read_only_and_keeps_its_secrets() {
    let root = open_path("/", OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).expect("a root");
    let open = |path: &CStr, flags| open(root.as_fd(), Container, path, flags, Mode::empty()).map(drop);
    for path in [c"proc/self/mem", c"proc/thread-self/mem", c"proc/self/environ", c"proc/self/auxv"] {
        assert_eq!(open(path, OFlags::RDONLY), Err(Errno::Access), "{path:?}");
    }
    assert_eq!(open(c"proc/self/comm", OFlags::RDONLY), Ok(()));
    for flags in [OFlags::WRONLY, OFlags::RDWR, OFlags::RDONLY | OFlags::TRUNC] {
        assert_eq!(open(c"proc/self/comm", flags), Err(Errno::Access), "{flags:?}");
    }
}

#[test]
fn preopened_directories_are_found_by_hand_too() {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    for path in [c"/", c"///", c"/proc/self/..", c".", c"src/.."] {
        let same =
            |a: OwnedFd, b: OwnedFd| fstat(a).ok().map(|it| it.st_ino) == fstat(b).ok().map(|it| it.st_ino);
        assert!(same(
            open_by_hand(path, flags).expect("by hand"),
            open_preopen(path).expect("by the kernel")
        ));
    }
    assert_eq!(open_by_hand(c"/proc/self/root", flags).err(), Some(Os::LOOP));
    assert_eq!(open_by_hand(c"/proc/self/root/etc", flags).err(), Some(Os::LOOP));
    assert_eq!(open_by_hand(c"/nowhere", flags).err(), Some(Os::NOENT));
}

#[test]
fn the_parent_keeps_what_the_call_must_judge() {
    let (_outer, dir) = sandbox();
    let name = |path: &CStr| parent(dir.as_fd(), Beneath, path).map(|(_, name)| name);
    assert_eq!(name(c"a/b//"), Ok(c"b//".to_owned()));
    assert_eq!(name(c"new"), Ok(c"new".to_owned()));
    assert_eq!(name(c"out/x"), Err(Errno::NotCapable));
    assert_eq!(name(c"a/.."), Ok(c"..".to_owned()));
    assert_eq!(name(c"/x"), Err(Errno::NotCapable));
}

#[test]
fn stat_does_not_leave_either() {
    let (_outer, dir) = sandbox();
    let size = |path: &CStr, follow| stat(dir.as_fd(), Beneath, path, follow).map(|it| it.st_size);
    assert_eq!(size(c"good", true), Ok(3));
    assert_eq!(size(c"good", false), Ok(6));
    assert_eq!(size(c"out", true), Err(Errno::NotCapable));
    assert_eq!(size(c"out", false), Ok(9));
    assert_eq!(size(c"..", false), Err(Errno::NotCapable));
}
