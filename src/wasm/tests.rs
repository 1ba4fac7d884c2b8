//! The cache's promises, with shell scripts in the compiler's place.

use std::fs::{self, File, Permissions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::*;

/// A cache, a module, and a compiler that counts its runs.
struct Bench {
    root: tempfile::TempDir,
    cache: Cache,
    compiler: PathBuf,
}

const ECHO: &str = "printf 'native:'; cat";

impl Bench {
    fn new(script: &str) -> Self {
        let root = tempfile::tempdir().unwrap();
        let cache = Cache::new(Directory::open_at(&root.path().join("cache")).unwrap());
        let compiler = root.path().join("compiler");
        let bench = Self { root, cache, compiler };
        bench.install(script);
        bench
    }

    /// Written by another process: a fork of this one, at the wrong moment, would keep the file open for writing
    /// until its exec, and nothing could execute it.
    fn install(&self, script: &str) {
        let path = self.compiler.to_str().unwrap();
        let mut shell = Command::new("sh")
            .args(["-c", "cat > \"$0.tmp\" && chmod 755 \"$0.tmp\" && mv \"$0.tmp\" \"$0\"", path])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let script = format!("#!/bin/sh\necho run >> {}\n{script}\n", self.path("runs").display());
        shell.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
        assert!(shell.wait().unwrap().success());
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn runs(&self) -> usize {
        fs::read_to_string(self.path("runs")).map_or(0, |text| text.lines().count())
    }

    fn ask(&self, module: &[u8]) -> Result<Vec<u8>, Error> {
        self.ask_with(Some(&self.cache), module)
    }

    fn ask_with(&self, cache: Option<&Cache>, module: &[u8]) -> Result<Vec<u8>, Error> {
        let mut file = tempfile::tempfile_in(self.root.path()).unwrap();
        file.write_all(module).unwrap();
        let found = artifact(&self.compiler, cache, file.as_fd(), "/m.wasm", false, Origin::Container(None))?;
        let mut bytes = Vec::new();
        let mut artifact = File::from(found.artifact);
        artifact.rewind().unwrap();
        artifact.read_to_end(&mut bytes).unwrap();
        Ok(bytes)
    }

    /// Asks twice more, and expects the compiler to have run once more.
    fn expect_recompiled(&self, module: &[u8], what: &str) {
        let before = self.runs();
        let expected = [b"native:", module].concat();
        for _ in 0..2 {
            assert!(self.ask(module).unwrap().starts_with(&expected), "{what}");
        }
        assert_eq!(self.runs(), before + 1, "{what}");
    }

    fn names(&self) -> Vec<String> {
        self.cache.directory.names().unwrap()
    }

    fn entry(&self) -> PathBuf {
        let entries = self.cache.entries().unwrap();
        assert_eq!(entries.len(), 1, "{entries:?}");
        self.cache.path().join(&entries[0].name)
    }
}

fn flip(path: &Path, offset: u64) {
    fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
    let file = File::options().read(true).write(true).open(path).unwrap();
    let times = fs::FileTimes::new()
        .set_modified(file.metadata().unwrap().modified().unwrap())
        .set_accessed(file.metadata().unwrap().accessed().unwrap());
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 1], offset).unwrap();
    file.set_times(times).unwrap();
    fs::set_permissions(path, Permissions::from_mode(0o400)).unwrap();
}

#[test]
fn eight_bytes_tell_what_a_file_is() {
    let kind = |bytes: &[u8]| {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        sniff(file.as_fd()).unwrap()
    };
    assert_eq!(kind(b"\0asm\x01\0\0\0rest"), Kind::Module);
    assert_eq!(kind(b"\0asm\x0d\0\x01\0"), Kind::Component);
    assert_eq!(kind(b"\0asm\x02\0\0\0"), Kind::UnknownVersion(2));
    assert_eq!(kind(b"\0asm\x01\0"), Kind::Truncated);
    assert_eq!(kind(b"\0as"), Kind::NotWasm);
    assert_eq!(kind(b"\x7fELF\x02\x01\x01\0"), Kind::NotWasm);
    assert_eq!(kind(b""), Kind::NotWasm);
}

#[test]
fn the_second_start_does_not_compile() {
    let bench = Bench::new(ECHO);
    for _ in 0..3 {
        assert!(bench.ask(b"one").unwrap().starts_with(b"native:one"));
    }
    assert_eq!(bench.runs(), 1);
    bench.ask(b"two").unwrap();
    assert_eq!(bench.runs(), 2);
    let metadata = fs::metadata(bench.cache.path()).unwrap();
    assert_eq!(metadata.mode() & 0o7777, 0o700);
    assert_eq!(bench.names().len(), 2);
    for entry in bench.cache.entries().unwrap() {
        assert_eq!(fs::metadata(bench.cache.path().join(entry.name)).unwrap().mode() & 0o7777, 0o400);
    }
}

#[test]
fn many_starts_at_once_compile_once() {
    let bench = Bench::new("sleep 0.3; printf 'native:'; cat");
    std::thread::scope(|scope| {
        for _ in 0..10 {
            scope.spawn(|| assert!(bench.ask(b"same").unwrap().starts_with(b"native:same")));
        }
    });
    assert_eq!(bench.runs(), 1);
    assert_eq!(bench.names().len(), 1, "neither locks nor temporaries remain: {:?}", bench.names());
}

#[test]
fn waiting_ones_take_over_from_a_compiler_that_was_killed() {
    // The first run kills itself, the next ones work.
    let bench = Bench::new("sleep 0.2; mkdir \"$0.first\" && kill -9 $$; printf 'native:'; cat");
    let (mut failed, mut done) = (0, 0);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..5).map(|_| scope.spawn(|| bench.ask(b"m"))).collect();
        for thread in threads {
            match thread.join().unwrap() {
                Ok(_) => done += 1,
                Err(error) => {
                    assert_eq!(error.to_string(), "/m.wasm: the compiler was killed by signal 9");
                    failed += 1;
                }
            }
        }
    });
    assert_eq!((failed, done, bench.runs()), (1, 4, 2));
}

#[test]
fn damage_is_found_and_compiled_away() {
    let bench = Bench::new(ECHO);
    bench.ask(b"module").unwrap();
    let entry = bench.entry();
    let length = fs::metadata(&entry).unwrap().len();
    for offset in [0, 8, length - 40, length - 1] {
        flip(&entry, offset);
        bench.expect_recompiled(b"module", "a flipped byte");
    }
    for size in [0, 5, length - 1, length + 1] {
        fs::set_permissions(&entry, Permissions::from_mode(0o600)).unwrap();
        File::options().write(true).open(&entry).unwrap().set_len(size).unwrap();
        bench.expect_recompiled(b"module", "another length");
    }
    for mode in [0o644, 0o460, 0o700, 0o4400] {
        fs::set_permissions(&entry, Permissions::from_mode(mode)).unwrap();
        bench.expect_recompiled(b"module", "another mode");
    }
}

#[test]
fn what_is_not_a_file_of_ours_is_replaced() {
    let bench = Bench::new(ECHO);
    bench.ask(b"module").unwrap();
    let entry = bench.entry();
    let copy = bench.path("copy");
    fs::copy(&entry, &copy).unwrap();

    fs::remove_file(&entry).unwrap();
    symlink(&copy, &entry).unwrap();
    bench.expect_recompiled(b"module", "a symlink to a sound entry");

    fs::hard_link(&entry, bench.path("second name")).unwrap();
    bench.expect_recompiled(b"module", "a file with a second name");

    fs::remove_file(&entry).unwrap();
    rustix::fs::mknodat(CWD, &entry, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    bench.expect_recompiled(b"module", "a FIFO");

    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(&entry, Some(1), None).unwrap();
        bench.expect_recompiled(b"module", "somebody else's file");
    }

    // Another key's sound entry under this name.
    bench.ask(b"other").unwrap();
    let other = bench.cache.entries().unwrap().into_iter().map(|e| bench.cache.path().join(e.name));
    let other = other.into_iter().find(|path| *path != entry).unwrap();
    fs::rename(other, &entry).unwrap();
    bench.expect_recompiled(b"module", "another module's artifact");
}

#[test]
fn a_directory_in_an_entrys_place_costs_only_time() {
    let bench = Bench::new(ECHO);
    bench.ask(b"module").unwrap();
    let entry = bench.entry();
    fs::remove_file(&entry).unwrap();
    fs::create_dir(&entry).unwrap();
    assert!(bench.ask(b"module").unwrap().starts_with(b"native:module"));
    assert_eq!(bench.names(), [entry.file_name().unwrap().to_str().unwrap()]);
}

/// Large enough for digests to be remembered.
const LARGE: &str = "printf 'native:'; cat; head -c 400000 /dev/zero";

#[test]
fn a_remembered_digest_does_not_survive_a_change() {
    let bench = Bench::new(LARGE);
    bench.ask(b"module").unwrap();
    let records = || bench.names().iter().filter(|name| name.starts_with(digest::RECORD)).count();
    bench.ask(b"module").unwrap();
    assert_eq!(records(), 0, "a file that has just been written is not at rest");
    std::thread::sleep(Duration::from_millis(2100));
    bench.ask(b"module").unwrap();
    assert_eq!(records(), 1);
    let record = bench.names().into_iter().find(|name| name.starts_with(digest::RECORD)).unwrap();
    let record = bench.cache.path().join(record);

    // The record is what is believed: without it the entry would be hashed and found sound.
    let content = fs::read(&record).unwrap();
    flip(&record, 3);
    bench.ask(b"module").unwrap();
    assert_eq!(bench.runs(), 1, "a damaged record is not believed");
    assert_eq!(fs::read(&record).unwrap(), content, "and is written again");

    flip(&bench.entry(), 200_000);
    bench.expect_recompiled(b"module", "a flipped byte in a remembered entry");
}

#[test]
fn a_large_module_is_remembered_and_noticed_to_change() {
    let bench = Bench::new(ECHO);
    let path = bench.path("module");
    let ask = || {
        let file = File::open(&path).unwrap();
        artifact(&bench.compiler, Some(&bench.cache), file.as_fd(), "/m", false, Origin::Container(None))
            .unwrap()
    };
    let mut content = vec![1; 300_000];
    fs::write(&path, &content).unwrap();
    let kind = rustix::fs::statfs(&path).unwrap().f_type;
    std::thread::sleep(Duration::from_millis(2100));
    ask();
    // On an overlay nobody vouched for, nothing is remembered.
    let believed = digest::keeps_times(kind);
    assert_eq!(bench.names().iter().any(|name| name.starts_with(digest::RECORD)), believed);
    content[150_000] = 2;
    let before = ask().module;
    let times = fs::FileTimes::new().set_modified(fs::metadata(&path).unwrap().modified().unwrap());
    let file = File::options().write(true).open(&path).unwrap();
    file.write_all_at(&content, 0).unwrap();
    file.set_times(times).unwrap();
    let found = ask();
    assert!(found.compiled);
    assert_ne!(found.module, before);
    assert_eq!(bench.runs(), 2);
}

/// A module of 300 KB on an overlay that is mounted nowhere; none if we may not mount one.
fn module_on_overlay(root: &Path) -> Option<File> {
    use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};
    let context = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).ok()?;
    for (option, name) in [("lowerdir", "lower"), ("upperdir", "upper"), ("workdir", "work")] {
        let path = root.join(name);
        fs::create_dir(&path).unwrap();
        rustix::mount::fsconfig_set_string(context.as_fd(), option, path).ok()?;
    }
    let module = root.join("lower/module");
    fs::write(&module, vec![7; 300_000]).unwrap();
    // As unpacked from an image: an old time of modification.
    let old = fs::FileTimes::new().set_modified(std::time::UNIX_EPOCH);
    File::options().write(true).open(&module).unwrap().set_times(old).unwrap();
    rustix::mount::fsconfig_create(context.as_fd()).ok()?;
    let mount =
        rustix::mount::fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
            .ok()?;
    Some(rustix::fs::openat(&mount, "module", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?.into())
}

#[test]
fn an_overlay_is_believed_if_it_is_the_root_file_system() {
    let bench = Bench::new(ECHO);
    let Some(module) = module_on_overlay(bench.root.path()) else {
        return;
    };
    std::thread::sleep(Duration::from_millis(2100));
    let device = module.metadata().unwrap().dev();
    for (rootfs, records) in [(None, 0), (Some(device + 1), 0), (Some(device), 1), (Some(device), 1)] {
        let origin = Origin::Container(rootfs);
        artifact(&bench.compiler, Some(&bench.cache), module.as_fd(), "/m", false, origin).unwrap();
        let names = bench.names();
        assert_eq!(
            names.iter().filter(|name| name.starts_with(digest::RECORD)).count(),
            records,
            "{rootfs:?}"
        );
    }
    assert_eq!(bench.runs(), 1);
}

#[test]
fn another_compiler_or_cpu_means_another_artifact() {
    let bench = Bench::new(ECHO);
    bench.ask(b"module").unwrap();
    bench.install("true; printf 'native:'; cat");
    bench.expect_recompiled(b"module", "another compiler");
    bench.install(ECHO);
    bench.ask(b"module").unwrap();
    assert_eq!(bench.runs(), 2, "the first compiler's artifact is still there");

    let (module, compiler) = (blake3::hash(b"m"), blake3::hash(b"c"));
    let here = Key::new(module, compiler);
    assert_eq!(here, Key::new(module, compiler));
    assert_ne!(here.digest, Key::on_cpu(module, compiler, "x86_64 sse20").digest);
    assert_ne!(here.digest, Key::new(compiler, module).digest);
}

#[test]
fn leftovers_of_a_killed_process_are_never_used() {
    let bench = Bench::new(ECHO);
    bench.ask(b"module").unwrap();
    let entry = bench.entry();
    let unfinished = PathBuf::from(format!("{}.new", entry.display()));
    fs::rename(&entry, &unfinished).unwrap();
    flip(&unfinished, 2);
    bench.expect_recompiled(b"module", "an unfinished file");
    assert!(!unfinished.exists());

    // Of another key: swept when something is added.
    let other = bench.cache.path().join("0".repeat(64) + ".new");
    fs::write(&other, b"half").unwrap();
    fs::set_permissions(&other, Permissions::from_mode(0o600)).unwrap();
    bench.ask(b"another").unwrap();
    assert!(!other.exists());
}

#[test]
fn the_compilers_refusal_is_the_message() {
    let bench = Bench::new("echo 'unknown import env.foo'; exit 1");
    let message = bench.ask(b"module").unwrap_err().to_string();
    assert_eq!(message, "/m.wasm: unknown import env.foo");
    assert_eq!(bench.names(), [""; 0]);
    // It has read the module, and may say what the module wants it to say.
    bench.install(r"printf '\033[2Jgone\nsecond line\n'; exit 1");
    assert_eq!(bench.ask(b"m").unwrap_err().to_string(), "/m.wasm: ?[2Jgone");
    bench.install("exit 3");
    assert_eq!(bench.ask(b"m").unwrap_err().to_string(), "/m.wasm: the compiler failed with exit status: 3");
    bench.install("exit 0");
    assert_eq!(bench.ask(b"m").unwrap_err().to_string(), "/m.wasm: the compiler produced nothing");
    fs::remove_file(&bench.compiler).unwrap();
    assert!(bench.ask(b"m").unwrap_err().to_string().ends_with("compiler: no such file or directory"));
}

#[test]
fn the_compiler_sees_no_environment_and_no_blocked_signals() {
    let bench = Bench::new("env; grep SigBlk /proc/self/status");
    let blocked = std::thread::spawn(move || {
        // SAFETY: plain data, and the mask is this thread's alone.
        unsafe {
            let mut all = std::mem::zeroed();
            libc::sigfillset(&raw mut all);
            libc::pthread_sigmask(libc::SIG_BLOCK, &raw const all, std::ptr::null_mut());
        }
        String::from_utf8_lossy(&bench.ask(b"m").unwrap()).into_owned()
    });
    let text = blocked.join().unwrap();
    assert!(text.contains("SigBlk:\t0000000000000000"), "{text}");
    assert!(!text.contains("HOME="), "{text}");
}

#[test]
fn without_a_cache_modules_are_compiled_in_memory() {
    let bench = Bench::new(ECHO);
    for _ in 0..2 {
        assert_eq!(bench.ask_with(None, b"module").unwrap(), b"native:module");
    }
    assert_eq!(bench.runs(), 2);
    if !rustix::process::geteuid().is_root() {
        // A directory that was fine when it was opened.
        fs::set_permissions(bench.cache.path(), Permissions::from_mode(0o500)).unwrap();
        assert_eq!(bench.ask(b"module").unwrap(), b"native:module");
    }
}

#[test]
fn only_a_directory_of_our_own_is_a_cache() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("cache");
    fs::create_dir(&path).unwrap();
    for mode in [0o755, 0o750, 0o702, 0o1777] {
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        assert!(matches!(Directory::open_at(&path), Err(directory::Error::Mode { .. })), "{mode:o}");
    }
    fs::set_permissions(&path, Permissions::from_mode(0o700)).unwrap();
    assert!(Directory::open_at(&path).is_ok());

    let link = root.path().join("link");
    symlink(&path, &link).unwrap();
    assert!(matches!(Directory::open_at(&link), Err(directory::Error::Open { .. })));
    let file = root.path().join("file");
    fs::write(&file, b"").unwrap();
    assert!(matches!(Directory::open_at(&file), Err(directory::Error::Open { .. })));
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(&path, Some(1), None).unwrap();
        assert!(matches!(Directory::open_at(&path), Err(directory::Error::Owner { owner: 1, .. })));
    }
}

#[test]
fn nobody_else_can_put_another_directory_in_its_place() {
    let root = tempfile::tempdir().unwrap();
    let below = |name: &str| root.path().join(name);
    let untrusted = |path: &str| ancestors::untrusted(&below(path)).unwrap();
    fs::create_dir_all(below("a/b/cache")).unwrap();
    symlink("a/b", below("relative")).unwrap();
    symlink(below("a"), below("absolute")).unwrap();
    symlink("loop", below("loop")).unwrap();
    let ways =
        ["a/b/cache", "relative/cache", "absolute/b/cache", "absolute/../relative/./cache", "a/none/cache"];
    for way in ways {
        assert_eq!(untrusted(way), None, "{way}");
    }
    assert!(ancestors::untrusted(&below("loop/cache")).is_err());
    let chmod = |name, mode| fs::set_permissions(below(name), Permissions::from_mode(mode)).unwrap();
    for mode in [0o777, 0o757] {
        chmod("a", mode);
        for way in &ways[..3] {
            assert_eq!(untrusted(way), Some(below("a")), "{way} {mode:o}");
            assert!(matches!(Directory::open_at(&below(way)), Err(directory::Error::Above { .. })));
        }
    }
    // Nobody but the owner of an entry replaces it here, as in /tmp.
    chmod("a", 0o1777);
    assert_eq!(untrusted("relative/cache"), None);
    if rustix::process::geteuid().is_root() {
        let chown = |name, user, group| std::os::unix::fs::lchown(below(name), user, group).unwrap();
        chown("a/b", Some(1), None);
        assert_eq!(untrusted("relative/cache"), Some(below("a/b")));
        chown("a/b", Some(0), None);
        chown("relative", Some(1), None);
        assert_eq!(untrusted("relative/cache"), Some(below("relative")));
        chmod("a/b", 0o775);
        assert_eq!(untrusted("a/b/cache"), None, "our own group");
        chown("a/b", None, Some(1));
        assert_eq!(untrusted("a/b/cache"), Some(below("a/b")), "another group");
    }
}

#[test]
fn only_files_can_be_modules() {
    let bench = Bench::new(ECHO);
    let directory = File::open(bench.root.path()).unwrap();
    let ask = |file: BorrowedFd<'_>| {
        artifact(&bench.compiler, Some(&bench.cache), file, "/m", false, Origin::Container(None))
            .unwrap_err()
            .to_string()
    };
    assert_eq!(ask(directory.as_fd()), "/m: not a regular file");
    let huge = tempfile::tempfile().unwrap();
    huge.set_len(LARGEST_MODULE + 1).unwrap();
    assert!(ask(huge.as_fd()).starts_with("/m: larger than a module may be"));
    assert_eq!(bench.runs(), 0);
}

#[test]
fn a_snapshot_is_bounded_and_sealed() {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(b"12345").unwrap();
    assert!(compiler::snapshot(file.as_fd(), 4).unwrap().is_none());
    let copy = compiler::snapshot(file.as_fd(), 5).unwrap().unwrap();
    assert_eq!(copy.metadata().unwrap().len(), 5);
    assert!(copy.write_at(b"x", 0).is_err());
    assert!(copy.set_len(9).is_err());
}

#[test]
fn verify_removes_what_is_damaged() {
    let bench = Bench::new(ECHO);
    for module in [b"one", b"two", b"six"] {
        bench.ask(module).unwrap();
    }
    let bad = bench.cache.entries().unwrap().remove(1).name;
    flip(&bench.cache.path().join(&bad), 3);
    let (sound, removed) = bench.cache.verify().unwrap();
    assert_eq!(sound, 2);
    assert_eq!(removed.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), [bad.as_str()]);
    assert_eq!(bench.cache.entries().unwrap().len(), 2);
    bench.cache.clear().unwrap();
    assert_eq!(bench.names(), [""; 0]);
}
