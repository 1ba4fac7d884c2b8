//! The three steps for real. Each test starts the test program again in namespaces of its own, so that what
//! it mounts, and the root it ends in, are that process's alone.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use oci_spec::runtime::Spec;
use rustix::fs::{RenameFlags, StatVfsMountFlags, renameat_with, statvfs};
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_bind, mount_change};
use rustix::process::{getegid, geteuid};
use serde_json::{Value, json};

use super::*;

const BUNDLE: &str = "CORACLE_TEST_BUNDLE";
const NAMESPACES: libc::c_int = libc::CLONE_NEWNS | libc::CLONE_NEWIPC | libc::CLONE_NEWNET;
const WITH_USER: libc::c_int = NAMESPACES | libc::CLONE_NEWUSER;

/// Runs the body of the named test in new namespaces, on a bundle with an empty root file system.
fn isolated(test: &str, namespaces: libc::c_int, body: fn(&Path)) {
    if let Some(bundle) = std::env::var_os(BUNDLE) {
        return body(Path::new(&bundle));
    }
    let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
    if uid != 0 && namespaces & libc::CLONE_NEWUSER == 0 {
        eprintln!("skipped: only root may mount");
        return;
    }
    let bundle = tempfile::tempdir().unwrap();
    fs::create_dir(bundle.path().join("rootfs")).unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", &format!("rootfs::tests::{test}"), "--nocapture", "--test-threads=1"])
        .env(BUNDLE, bundle.path());
    // SAFETY: only system calls, on values made before the fork.
    unsafe {
        command.pre_exec(move || {
            if libc::unshare(namespaces) != 0 {
                return Err(io::Error::last_os_error());
            }
            if namespaces & libc::CLONE_NEWUSER != 0 { map_root(uid, gid) } else { Ok(()) }
        });
    }
    let output = command.output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

/// Root inside is this user outside, and nobody else exists.
fn map_root(uid: u32, gid: u32) -> io::Result<()> {
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("0 {uid} 1"))?;
    fs::write("/proc/self/gid_map", format!("0 {gid} 1"))
}

fn spec(config: Value) -> Spec {
    let mut spec = json!({
        "ociVersion": "1.0.2",
        "root": { "path": "rootfs" },
        "linux": { "namespaces": [{ "type": "mount" }, { "type": "network" }, { "type": "ipc" }] }
    });
    merge(&mut spec, config);
    serde_json::from_value(spec).unwrap()
}

fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}

/// A runtime that has no more rights than init.
#[derive(Debug)]
struct Nobody;

impl Outside for Nobody {
    fn ask(&self, _: Request) -> Result<Option<std::os::fd::OwnedFd>, Error> {
        Ok(None)
    }
}

struct Container {
    spec: Spec,
    bundle: PathBuf,
    rootfs: PathBuf,
    user_namespace: bool,
    no_pivot: bool,
    new_mount_ns: bool,
    cgroups: Vec<(PathBuf, String)>,
    cgroup_ns: bool,
}

impl Container {
    fn new(bundle: &Path, config: Value) -> Self {
        Self {
            spec: spec(config),
            bundle: bundle.to_owned(),
            rootfs: bundle.join("rootfs"),
            user_namespace: false,
            no_pivot: false,
            new_mount_ns: true,
            cgroups: Vec::new(),
            cgroup_ns: false,
        }
    }

    fn context(&self) -> Context<'_> {
        Context {
            spec: &self.spec,
            rootfs: &self.rootfs,
            bundle: &self.bundle,
            user_namespace: self.user_namespace,
            new_mount_ns: self.new_mount_ns,
            cgroup_mounts: &self.cgroups,
            cgroup_ns: self.cgroup_ns,
            no_pivot: self.no_pivot,
            outside: &Nobody,
        }
    }

    fn prepare(&self) -> Result<Prepared, Error> {
        check(&self.spec)?;
        prepare(&self.context())
    }

    fn run(&self) -> Result<(), Error> {
        let prepared = self.prepare()?;
        enter(&self.context(), &prepared)?;
        finish(&self.context(), &prepared)
    }

    fn fails(&self) -> String {
        self.run().unwrap_err().to_string()
    }
}

fn flags(path: &str) -> StatVfsMountFlags {
    statvfs(path).unwrap().f_flag
}

fn read_only(path: &str) -> bool {
    flags(path).contains(StatVfsMountFlags::RDONLY)
}

fn mode(path: &str) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

/// What podman and containerd mount.
fn usual_mounts(gid: &[&str]) -> Value {
    let pts = [&["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"], gid].concat();
    json!([
        { "destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"] },
        { "destination": "/dev", "type": "tmpfs", "source": "tmpfs",
          "options": ["nosuid", "strictatime", "mode=755", "size=65536k"] },
        { "destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": pts },
        { "destination": "/dev/shm", "type": "tmpfs", "source": "shm",
          "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"] },
        { "destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue",
          "options": ["nosuid", "noexec", "nodev"] },
        { "destination": "/sys", "type": "sysfs", "source": "sysfs",
          "options": ["nosuid", "noexec", "nodev", "ro"] },
        { "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
          "options": ["nosuid", "noexec", "nodev", "relatime", "ro", "rprivate"] },
    ])
}

const MASKED: [&str; 4] = ["/proc/kcore", "/proc/timer_list", "/sys/firmware", "/nothing/here"];
const READ_ONLY: [&str; 3] = ["/proc/sys", "/proc/version", "/nothing/here"];

fn usual(bundle: &Path, gid: &[&str]) -> Container {
    Container::new(
        bundle,
        json!({
            "root": { "path": "rootfs", "readonly": true },
            "mounts": usual_mounts(gid),
            "linux": { "maskedPaths": MASKED, "readonlyPaths": READ_ONLY }
        }),
    )
}

fn check_usual() {
    assert!(fs::read_to_string("/proc/self/status").unwrap().contains("Name:"));
    assert!(read_only("/") && !read_only("/dev") && !read_only("/proc") && read_only("/sys"));
    assert!(flags("/proc").contains(StatVfsMountFlags::NOSUID | StatVfsMountFlags::NODEV));
    for (name, rdev) in [("null", (1, 3)), ("zero", (1, 5)), ("full", (1, 7)), ("tty", (5, 0))] {
        let path = format!("/dev/{name}");
        let device = fs::metadata(&path).unwrap();
        assert!(device.file_type().is_char_device(), "{path}");
        assert_eq!(device.rdev(), rustix::fs::makedev(rdev.0, rdev.1), "{path}");
        assert_eq!(mode(&path), 0o666, "{path}");
    }
    fs::write("/dev/null", "x").unwrap();
    assert_eq!(fs::read_link("/dev/ptmx").unwrap(), Path::new("pts/ptmx"));
    assert_eq!(fs::read_link("/dev/stderr").unwrap(), Path::new("/proc/self/fd/2"));
    assert!(Path::new("/dev/pts/ptmx").exists());
    assert_eq!((mode("/dev"), mode("/dev/shm")), (0o755, 0o1777));
    // Masked, read-only, and still writable beside these.
    assert_eq!(fs::read("/proc/timer_list").unwrap(), b"");
    assert_eq!(fs::read_dir("/sys/firmware").unwrap().count(), 0);
    assert!(read_only("/sys/firmware") && read_only("/proc/sys") && read_only("/proc/version"));
    assert!(flags("/proc/sys").contains(StatVfsMountFlags::NOSUID | StatVfsMountFlags::NOEXEC));
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains("shared:"), "{mounts}");
    assert!(!Path::new("/nothing").exists());
}

#[test]
fn the_usual_container() {
    isolated("the_usual_container", NAMESPACES, |bundle| {
        usual(bundle, &["gid=5"]).run().unwrap();
        check_usual();
        assert!(fs::write("/file", "").unwrap_err().raw_os_error() == Some(libc::EROFS));
    });
}

#[test]
fn the_usual_container_in_a_user_namespace() {
    isolated("the_usual_container_in_a_user_namespace", WITH_USER, |bundle| {
        let mut container = usual(bundle, &[]);
        container.user_namespace = true;
        container.run().unwrap();
        check_usual();
    });
}

#[test]
fn an_unmapped_group_of_terminals_is_an_error() {
    isolated("an_unmapped_group_of_terminals_is_an_error", WITH_USER, |bundle| {
        let mut container = usual(bundle, &["gid=5"]);
        container.user_namespace = true;
        assert_eq!(container.fails(), "mount devpts to /dev/pts: invalid argument");
    });
}

#[test]
fn the_host_s_sysfs_without_a_network_namespace() {
    isolated(
        "the_host_s_sysfs_without_a_network_namespace",
        libc::CLONE_NEWNS | libc::CLONE_NEWUSER,
        |bundle| {
            let mut container = Container::new(
                bundle,
                json!({
                    "mounts": [{ "destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "ro"] }],
                    "linux": { "namespaces": [{ "type": "mount" }] }
                }),
            );
            container.user_namespace = true;
            container.run().unwrap();
            assert!(read_only("/sys") && Path::new("/sys/kernel").exists());
        },
    );
}

fn in_child(body: impl FnOnce()) {
    // SAFETY: the other thread of this process only waits for the test; glibc keeps its allocator usable.
    match unsafe { libc::fork() } {
        0 => {
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body));
            // SAFETY: ends this process, which has nothing to clean up.
            unsafe { libc::_exit(result.is_err().into()) }
        }
        pid => {
            let mut status = 0;
            // SAFETY: `status` is a valid place for the result.
            unsafe { libc::waitpid(pid, &raw mut status, 0) };
            assert_eq!(status, 0);
        }
    }
}

#[test]
fn links_of_the_image_stay_below_the_root() {
    isolated("links_of_the_image_stay_below_the_root", NAMESPACES, |bundle| {
        let rootfs = bundle.join("rootfs");
        let outside = bundle.join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("file"), "host").unwrap();
        fs::write(bundle.join("source"), "bound").unwrap();
        symlink(format!("../../../../../..{}", outside.display()), rootfs.join("dots")).unwrap();
        symlink(&outside, rootfs.join("absolute")).unwrap();
        symlink(outside.join("file"), rootfs.join("file")).unwrap();
        symlink("loop", rootfs.join("loop")).unwrap();
        let bind = |dest: &str| json!({ "destination": dest, "source": "source", "options": ["bind"] });
        Container::new(
            bundle,
            json!({ "mounts": [
                { "destination": "/dots/tmpfs", "type": "tmpfs" },
                bind("/absolute/new"),
                bind("/file"),
                bind("/../../up"),
            ]}),
        )
        .prepare()
        .unwrap();
        let names = |dir: &Path| -> Vec<_> {
            fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect()
        };
        assert_eq!(names(&outside), ["file"]);
        assert_eq!(fs::read(outside.join("file")).unwrap(), b"host");
        let inside = rootfs.join(outside.strip_prefix("/").unwrap());
        for path in [inside.join("new"), inside.join("file"), rootfs.join("up")] {
            assert_eq!(fs::read(&path).unwrap(), b"bound", "{}", path.display());
        }
        assert!(inside.join("tmpfs").is_dir());
        let error = Container::new(bundle, json!({ "mounts": [bind("/loop/x")] })).fails();
        assert_eq!(error, "create mount point /loop/x: too many levels of symbolic links");
    });
}

#[test]
fn a_neighbour_who_swaps_links_gains_nothing() {
    isolated("a_neighbour_who_swaps_links_gains_nothing", NAMESPACES, |bundle| {
        let rootfs = bundle.join("rootfs");
        let outside = bundle.join("outside");
        fs::create_dir(&outside).unwrap();
        fs::create_dir(rootfs.join("dir")).unwrap();
        symlink(&outside, rootfs.join("link")).unwrap();
        // Not by its path, which the mounts made meanwhile cover.
        let image = File::open(&rootfs).unwrap();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    renameat_with(&image, c"dir", &image, c"link", RenameFlags::EXCHANGE).unwrap();
                }
            });
            let mut made = 0;
            for round in 0..100 {
                let dest = format!("/dir/{round}/mount");
                let config = json!({ "mounts": [{ "destination": dest, "type": "tmpfs" }] });
                // It may fail, with directories coming and going.
                made += u32::from(Container::new(bundle, config).prepare().is_ok());
            }
            done.store(true, Ordering::Relaxed);
            assert!(made > 0);
        });
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(mounts.lines().all(|line| !Path::new(line.split(' ').nth(4).unwrap()).starts_with(&outside)));
    });
}

#[test]
fn what_lies_on_top_is_found() {
    isolated("what_lies_on_top_is_found", NAMESPACES, |bundle| {
        let rootfs = bundle.join("rootfs");
        let directory = resolve::open_canonical(&rootfs).unwrap();
        let device = |fd: &std::os::fd::OwnedFd| rustix::fs::fstat(fd).unwrap().st_dev;
        assert_eq!(device(&resolve::top(directory.as_fd()).unwrap()), device(&directory));
        for _ in 0..2 {
            mount(c"tmpfs", &rootfs, c"tmpfs", MountFlags::empty(), None).unwrap();
            let top = resolve::top(directory.as_fd()).unwrap();
            assert_eq!(device(&top), fs::metadata(&rootfs).unwrap().dev());
            let root = Root::below(&directory).unwrap().top().unwrap();
            assert_eq!(device(&root.into()), device(&top));
        }
        symlink("rootfs", bundle.join("link")).unwrap();
        symlink(bundle, bundle.join("same")).unwrap();
        for path in ["link", "same/rootfs"] {
            assert_eq!(resolve::open_canonical(&bundle.join(path)).unwrap_err(), Errno::LOOP);
        }
    });
}

#[test]
fn kernel_file_systems_are_not_mounted_through_links() {
    isolated("kernel_file_systems_are_not_mounted_through_links", NAMESPACES, |bundle| {
        let rootfs = bundle.join("rootfs");
        fs::create_dir(rootfs.join("elsewhere")).unwrap();
        symlink("elsewhere", rootfs.join("proc")).unwrap();
        let proc = json!({ "destination": "/proc", "type": "proc", "source": "proc" });
        assert_eq!(
            Container::new(bundle, json!({ "mounts": [proc] })).fails(),
            "mount /proc: filesystem \"proc\" must be mounted on ordinary directory"
        );
        fs::remove_file(rootfs.join("proc")).unwrap();
        symlink("/proc/sys", rootfs.join("alias")).unwrap();
        let over = json!({ "destination": "/alias/kernel", "type": "tmpfs" });
        assert_eq!(
            Container::new(bundle, json!({ "mounts": [proc, over] })).fails(),
            "\"/alias/kernel\" cannot be mounted because it is inside /proc"
        );
        symlink("/", rootfs.join("top")).unwrap();
        assert_eq!(
            Container::new(bundle, json!({ "mounts": [{ "destination": "/top", "type": "tmpfs" }] })).fails(),
            "mount /top: it is on top of the root file system"
        );
    });
}

#[test]
fn bind_mounts_of_every_kind() {
    isolated("bind_mounts_of_every_kind", NAMESPACES, |bundle| {
        let volume = bundle.join("volume");
        fs::create_dir_all(volume.join("inner")).unwrap();
        fs::write(volume.join("file"), "v").unwrap();
        mount(c"tmpfs", volume.join("inner"), c"tmpfs", MountFlags::NOSUID | MountFlags::NOEXEC, None)
            .unwrap();
        fs::write(volume.join("inner/file"), "i").unwrap();
        let bind = |dest: &str, source: &str, options: &[&str]| json!({ "destination": dest, "type": "bind", "source": source, "options": options });
        Container::new(
            bundle,
            json!({ "mounts": [
                bind("/plain", "volume", &["bind"]),
                bind("/tree", "volume", &["rbind", "rprivate"]),
                bind("/ro", "volume", &["rbind", "ro"]),
                bind("/rro", "volume", &["rbind", "rro", "nodev"]),
                bind("/inner", "volume/inner", &["bind", "ro", "exec"]),
                bind("/dir/file", "volume/file", &["bind", "ro", "noatime"]),
            ]}),
        )
        .run()
        .unwrap();
        assert!(!Path::new("/plain/inner/file").exists());
        fs::write("/plain/written", "").unwrap();
        assert_eq!(fs::read("/tree/inner/file").unwrap(), b"i");
        assert!(read_only("/ro") && !read_only("/ro/inner"));
        assert!(read_only("/rro") && read_only("/rro/inner"));
        assert!(flags("/rro").contains(StatVfsMountFlags::NODEV));
        assert!(!flags("/rro/inner").contains(StatVfsMountFlags::NODEV));
        // Flags of the source stay when there are no others.
        let source = StatVfsMountFlags::NOSUID | StatVfsMountFlags::NOEXEC;
        assert!(flags("/tree/inner").contains(source));
        assert!(flags("/inner").contains(StatVfsMountFlags::RDONLY) && !flags("/inner").intersects(source));
        assert_eq!(fs::read("/dir/file").unwrap(), b"v");
        assert!(flags("/dir/file").contains(StatVfsMountFlags::RDONLY | StatVfsMountFlags::NOATIME));
        assert_eq!(mode("/dir"), 0o755);
    });
}

/// What Linux before 5.12 answers.
fn without_mount_setattr() {
    let profile = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{ "names": ["mount_setattr"], "action": "SCMP_ACT_ERRNO", "errnoRet": libc::ENOSYS }]
    });
    let filter = coracle_seccomp::Filter::compile(
        &serde_json::from_value(profile).unwrap(),
        coracle_seccomp::Unknown::Skip,
    )
    .unwrap();
    filter.install().unwrap();
}

#[test]
fn kernels_without_mount_setattr() {
    isolated("kernels_without_mount_setattr", NAMESPACES, |bundle| {
        without_mount_setattr();
        let volume = bundle.join("volume");
        fs::create_dir(&volume).unwrap();
        fs::write(volume.join("file"), "").unwrap();
        mount(c"tmpfs", &volume, c"tmpfs", MountFlags::NOSUID | MountFlags::NOEXEC, None).unwrap();
        fs::write(volume.join("file"), "").unwrap();
        let mut container = usual(bundle, &[]);
        let mounts = container.spec.mounts_mut().as_mut().unwrap();
        for (dest, source, options) in [
            ("/v", "volume", json!(["rbind", "ro", "exec", "rslave"])),
            ("/file", "volume/file", json!(["bind", "nodev", "noatime", "private"])),
        ] {
            let mount = json!({ "destination": dest, "type": "bind", "source": source, "options": options });
            mounts.push(serde_json::from_value(mount).unwrap());
        }
        container.run().unwrap();
        check_usual();
        let source = StatVfsMountFlags::NOSUID | StatVfsMountFlags::NOEXEC;
        assert!(flags("/v").contains(StatVfsMountFlags::RDONLY) && !flags("/v").intersects(source));
        let all = StatVfsMountFlags::NODEV | StatVfsMountFlags::NOATIME;
        assert!(flags("/file").contains(all) && !flags("/file").intersects(source));
    });
}

#[test]
fn recursive_options_need_mount_setattr() {
    isolated("recursive_options_need_mount_setattr", NAMESPACES, |bundle| {
        without_mount_setattr();
        fs::create_dir(bundle.join("volume")).unwrap();
        let mount = json!({ "destination": "/v", "source": "volume", "options": ["rbind", "rro"] });
        let container = Container::new(bundle, json!({ "mounts": [mount] }));
        assert_eq!(container.fails(), "set options of mount /v: function not implemented");
    });
}

#[test]
fn flags_locked_by_another_user_namespace_stay() {
    isolated("flags_locked_by_another_user_namespace_stay", NAMESPACES, |bundle| {
        let volume = bundle.join("volume");
        fs::create_dir(&volume).unwrap();
        mount_bind(&volume, &volume).unwrap();
        rustix::mount::mount_remount(
            &volume,
            MountFlags::BIND | MountFlags::RDONLY | MountFlags::NOEXEC,
            c"",
        )
        .unwrap();
        let mut container = Container::new(
            bundle,
            json!({ "mounts": [{ "destination": "/v", "source": "volume",
                                 "options": ["bind", "rw", "nosuid"] }] }),
        );
        container.user_namespace = true;
        in_child(|| {
            // SAFETY: no memory is involved.
            assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNS | libc::CLONE_NEWUSER) }, 0);
            map_root(0, 0).unwrap();
            container.run().unwrap();
            let all = StatVfsMountFlags::RDONLY | StatVfsMountFlags::NOEXEC | StatVfsMountFlags::NOSUID;
            assert!(flags("/v").contains(all), "{:?}", flags("/v"));
        });
    });
}

#[test]
fn what_cannot_be_bound_is_named() {
    isolated("what_cannot_be_bound_is_named", NAMESPACES, |bundle| {
        fs::write(bundle.join("source"), "").unwrap();
        fs::create_dir_all(bundle.join("rootfs/dir")).unwrap();
        let fails = |source: &str, dest: &str| {
            let mount = json!({ "destination": dest, "source": source, "options": ["rbind"] });
            Container::new(bundle, json!({ "mounts": [mount] })).fails()
        };
        assert_eq!(fails("/no/such", "/x"), "mount /no/such to /x: no such file or directory");
        let file = bundle.join("source");
        assert_eq!(fails("source", "/dir"), format!("mount {} to /dir: not a directory", file.display()));
        assert_eq!(fails("source", "/proc"), "\"/proc\" cannot be mounted because it is not of type proc");
    });
}

#[test]
fn tmpfs_looks_like_what_it_covers() {
    isolated("tmpfs_looks_like_what_it_covers", NAMESPACES, |bundle| {
        let dir = bundle.join("rootfs/dir");
        fs::create_dir_all(dir.join("sub")).unwrap();
        fs::write(dir.join("sub/tool"), "text").unwrap();
        fs::set_permissions(dir.join("sub/tool"), fs::Permissions::from_mode(0o4751)).unwrap();
        std::os::unix::fs::chown(dir.join("sub"), Some(7), Some(8)).unwrap();
        symlink("sub/tool", dir.join("link")).unwrap();
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o710)).unwrap();
        Container::new(
            bundle,
            json!({ "mounts": [
                { "destination": "/dir", "type": "tmpfs", "options": ["tmpcopyup", "nosuid", "ro", "rprivate"] },
                { "destination": "/new", "type": "tmpfs" },
                { "destination": "/dir/sub/more", "type": "tmpfs", "options": ["mode=700"] },
            ]}),
        )
        .run()
        .unwrap();
        assert_eq!((mode("/dir"), mode("/new"), mode("/dir/sub/more")), (0o710, 0o1777, 0o700));
        assert!(read_only("/dir") && !read_only("/new"));
        assert_eq!(fs::read("/dir/link").unwrap(), b"text");
        assert_eq!(mode("/dir/sub/tool"), 0o4751);
        let sub = fs::metadata("/dir/sub").unwrap();
        assert_eq!((sub.uid(), sub.gid(), sub.mode() & 0o777), (7, 8, 0o755));
    });
}

#[test]
fn mounts_in_a_new_tmpfs() {
    isolated("mounts_in_a_new_tmpfs", NAMESPACES, |bundle| {
        fs::create_dir_all(bundle.join("rootfs")).unwrap();
        fs::write(bundle.join("file"), "text").unwrap();
        symlink("b", bundle.join("link")).unwrap();
        Container::new(
            bundle,
            json!({ "mounts": [
                { "destination": "/new", "type": "tmpfs", "options": ["mode=711"] },
                { "destination": "/new/a", "type": "tmpfs", "options": ["mode=701"] },
                { "destination": "/new/a", "type": "tmpfs" },
                { "destination": "/new/a/b", "type": "tmpfs", "options": ["mode=710"] },
                { "destination": "/new/a/link", "type": "bind", "source": "link", "options": ["copy-symlink"] },
                { "destination": "/new/a/link", "type": "tmpfs" },
                { "destination": "/new/a/b/file", "type": "bind", "source": "file" },
            ]}),
        )
        .run()
        .unwrap();
        assert_eq!((mode("/new"), mode("/new/a"), mode("/new/a/b")), (0o711, 0o701, 0o710));
        assert!(fs::symlink_metadata("/new/a/link").unwrap().is_symlink());
        assert_eq!(fs::read("/new/a/b/file").unwrap(), b"text");
    });
}

#[test]
fn devices_of_every_kind() {
    isolated("devices_of_every_kind", NAMESPACES, |bundle| {
        symlink("/", bundle.join("rootfs/loose")).unwrap();
        Container::new(
            bundle,
            json!({
                "mounts": [{ "destination": "/dev", "type": "tmpfs", "options": ["mode=755", "ro"] }],
                "linux": { "devices": [
                    { "path": "/dev/net/tun", "type": "c", "major": 10, "minor": 200, "fileMode": 438 },
                    { "path": "/dev/null", "type": "u", "major": 1, "minor": 3, "fileMode": 384, "gid": 9 },
                    { "path": "/dev/ptmx", "type": "c", "major": 5, "minor": 2 },
                    { "path": "/loose/srv/pipe", "type": "p", "fileMode": 33188, "uid": 3 },
                    { "path": "/srv/disk", "type": "b", "major": 7, "minor": 0 },
                ]}
            }),
        )
        .run()
        .unwrap();
        let tun = fs::metadata("/dev/net/tun").unwrap();
        assert_eq!((tun.rdev(), tun.mode() & 0o7777), (rustix::fs::makedev(10, 200), 0o666));
        let null = fs::metadata("/dev/null").unwrap();
        assert_eq!((null.gid(), null.mode() & 0o7777), (9, 0o600));
        assert!(fs::symlink_metadata("/dev/ptmx").unwrap().is_symlink());
        let pipe = fs::metadata("/srv/pipe").unwrap();
        assert!(pipe.file_type().is_fifo() && pipe.uid() == 3 && pipe.mode() & 0o777 == 0o644);
        assert!(fs::metadata("/srv/disk").unwrap().file_type().is_block_device());
        assert!(read_only("/dev"));
    });
}

#[test]
fn nothing_but_the_null_device_masks() {
    isolated("nothing_but_the_null_device_masks", NAMESPACES, |bundle| {
        fs::create_dir_all(bundle.join("rootfs/dev")).unwrap();
        fs::write(bundle.join("rootfs/secret"), "s").unwrap();
        fs::write(bundle.join("rootfs/dev/null"), "").unwrap();
        let container = Container::new(bundle, json!({ "linux": { "maskedPaths": ["/secret"] } }));
        assert_eq!(container.fails(), "cannot mask paths: the container's /dev/null is not the null device");
    });
}

#[test]
fn propagation_is_as_asked() {
    isolated("propagation_is_as_asked", NAMESPACES, |bundle| {
        let volume = bundle.join("volume");
        fs::create_dir_all(volume.join("later")).unwrap();
        mount_bind(&volume, &volume).unwrap();
        mount_change("/", MountPropagationFlags::SHARED | MountPropagationFlags::REC).unwrap();
        let container = Container::new(
            bundle,
            json!({
                "mounts": [
                    { "destination": "/proc", "type": "proc" },
                    { "destination": "/shared", "source": "volume", "options": ["rbind", "rshared"] },
                    { "destination": "/slave", "source": "volume", "options": ["rbind", "rslave"] },
                    { "destination": "/private", "source": "volume", "options": ["rbind", "rprivate"] },
                ],
                "linux": { "rootfsPropagation": "rshared" }
            }),
        );
        // The container's namespace is a copy of this one.
        in_child(|| {
            // SAFETY: no memory is involved.
            assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNS) }, 0);
            container.run().unwrap();
            let info = fs::read_to_string("/proc/self/mountinfo").unwrap();
            let of = |dest: &str| {
                info.lines().find(|line| line.split(' ').nth(4) == Some(dest)).unwrap().to_owned()
            };
            assert!(of("/").contains("shared:") && of("/shared").contains("shared:"));
            assert!(of("/slave").contains("master:"));
            assert!(!of("/private").contains("master:"));
            mount(c"tmpfs", c"/shared/later", c"tmpfs", MountFlags::empty(), None).unwrap();
            File::create("/shared/later/seen").unwrap();
            assert!(Path::new("/slave/later/seen").exists());
            assert!(!Path::new("/private/later/seen").exists());
        });
        // The host sees the mount on the shared volume, and no other of the container's.
        assert!(volume.join("later/seen").exists());
        let info = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!info.contains(&*bundle.join("rootfs").to_string_lossy()), "{info}");
    });
}

#[test]
fn the_hosts_mounts_survive_every_propagation() {
    isolated("the_hosts_mounts_survive_every_propagation", NAMESPACES, |bundle| {
        // A host as systemd makes it, but none that is this one.
        for propagation in [MountPropagationFlags::PRIVATE, MountPropagationFlags::SHARED] {
            mount_change("/", propagation | MountPropagationFlags::REC).unwrap();
        }
        let mounts = || fs::read_to_string("/proc/self/mountinfo").unwrap();
        let before = mounts();
        for value in
            ["private", "rprivate", "slave", "rslave", "shared", "rshared", "unbindable", "runbindable"]
        {
            let container = Container::new(
                bundle,
                json!({
                    "mounts": [{ "destination": "/proc", "type": "proc" }],
                    "linux": { "rootfsPropagation": value }
                }),
            );
            in_child(|| {
                // SAFETY: no memory is involved.
                assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNS) }, 0);
                container.run().unwrap();
            });
            assert_eq!(mounts(), before, "{value}");
        }
    });
}

#[test]
fn without_pivot_root() {
    isolated("without_pivot_root", NAMESPACES, |bundle| {
        let mut container = usual(bundle, &[]);
        container.no_pivot = true;
        container.run().unwrap();
        check_usual();
        assert_eq!(std::env::current_dir().unwrap(), Path::new("/"));
    });
}

#[test]
fn a_mount_namespace_of_others_gets_a_chroot() {
    isolated("a_mount_namespace_of_others_gets_a_chroot", NAMESPACES, |bundle| {
        fs::write(bundle.join("rootfs/marker"), "").unwrap();
        let mut container = Container::new(bundle, json!({ "linux": { "namespaces": [] } }));
        container.new_mount_ns = false;
        container.run().unwrap();
        assert!(Path::new("/marker").exists() && Path::new("/dev/null").exists());
        let mut container =
            Container::new(bundle, json!({ "linux": { "namespaces": [], "maskedPaths": ["/x"] } }));
        container.new_mount_ns = false;
        assert!(container.fails().contains("need a namespace of type mount"));
    });
}

#[test]
fn cgroups_of_version_1() {
    isolated("cgroups_of_version_1", NAMESPACES, |bundle| {
        let own = bundle.join("own");
        fs::create_dir(&own).unwrap();
        fs::write(own.join("tasks"), "").unwrap();
        let mut container = Container::new(
            bundle,
            json!({ "mounts": [{ "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
                                 "options": ["nosuid", "noexec", "nodev", "ro", "rprivate"] }] }),
        );
        container.cgroups = vec![(own.clone(), "memory".into()), (own, "cpu,cpuacct".into())];
        container.run().unwrap();
        assert!(Path::new("/sys/fs/cgroup/memory/tasks").exists());
        assert_eq!(fs::read_link("/sys/fs/cgroup/cpuacct").unwrap(), Path::new("cpu,cpuacct"));
        assert!(Path::new("/sys/fs/cgroup/cpu/tasks").exists());
        assert!(read_only("/sys/fs/cgroup") && read_only("/sys/fs/cgroup/memory"));
    });
}

#[test]
fn a_cgroup_namespace_has_hierarchies_of_its_own() {
    let namespaces = NAMESPACES | libc::CLONE_NEWCGROUP;
    isolated("a_cgroup_namespace_has_hierarchies_of_its_own", namespaces, |bundle| {
        hierarchies_of_the_host(bundle, true, false);
    });
}

#[test]
fn hierarchies_in_a_user_namespace() {
    let namespaces = WITH_USER | libc::CLONE_NEWCGROUP;
    isolated("hierarchies_in_a_user_namespace", namespaces, |bundle| {
        hierarchies_of_the_host(bundle, true, true);
    });
}

#[test]
fn hierarchies_bound_in_a_user_namespace() {
    isolated("hierarchies_bound_in_a_user_namespace", WITH_USER, |bundle| {
        hierarchies_of_the_host(bundle, false, true);
    });
}

fn hierarchies_of_the_host(bundle: &Path, cgroup_ns: bool, user_namespace: bool) {
    const CGROUP_MAGICS: [i64; 2] = [0x0027_e0eb, 0x6367_7270];
    let config = json!({ "mounts": [{ "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
                                      "options": ["nosuid", "noexec", "nodev", "ro"] }] });
    let mut container = Container::new(bundle, config);
    container.cgroup_ns = cgroup_ns;
    container.user_namespace = user_namespace;
    let host = Path::new("/sys/fs/cgroup");
    if host.join("cgroup.controllers").exists() {
        container.cgroups = vec![(host.to_owned(), String::new())];
    } else {
        container.cgroups = ["memory", "cpu,cpuacct", "systemd", "unified"]
            .into_iter()
            .map(|name| (host.join(name), name.to_owned()))
            .filter(|(path, _)| path.exists())
            .collect();
    }
    container.run().unwrap();
    for (_, name) in &container.cgroups {
        let path = host.join(name);
        let magic = rustix::fs::statfs(&path).unwrap().f_type;
        assert!(CGROUP_MAGICS.contains(&magic), "{}", path.display());
        assert!(read_only(path.to_str().unwrap()) && path.join("cgroup.procs").exists());
    }
}
