//! Native code that is planted in the cache of compiled modules: it must never run.
//!
//! Every attack uses an artifact of another module that was forged to be sound as far as its bytes can tell, so that it
//! would print something else. [`the_forgery_is_good`] shows that it would.

mod damage;

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, ensure};
use coracle_integration::{Container, Host, Run, command, coracle, forge, wat, words};
use rustix::fs::{CWD, FileType, Mode, RenameFlags, mknodat, renameat_with};

/// An ordinary user.
const USER: u32 = 64_127;
const GOOD: &str = "hello from a module";
const WRONG: &str = "WRONG from a module";

/// A cache with the artifact of a module, and a forged one in its name.
struct Prey {
    host: Host,
    module: PathBuf,
    name: String,
    sound: Vec<u8>,
    forged: Vec<u8>,
}

impl Prey {
    fn new() -> Result<Prey> {
        let host = Host::new()?;
        let module = wat("hello")?;
        let mut bytes = fs::read(&module)?;
        let at = bytes.windows(5).position(|it| it == b"hello").context("text")?;
        bytes[at..at + 5].copy_from_slice(b"WRONG");
        let wrong = host.path().join("wrong.wasm");
        fs::write(&wrong, bytes)?;
        let (name, sound) = compiled(&host, &module, "cache")?;
        let (_, other) = compiled(&host, &wrong, "other")?;
        let forged = forge(&other, &name)?;
        Ok(Prey { host, module, name, sound, forged })
    }

    fn entry(&self) -> PathBuf {
        self.host.cache_dir().join(&self.name)
    }

    /// Puts the forged artifact in the sound one's place.
    fn plant(&self) -> Result<()> {
        write(&self.entry(), &self.forged)
    }

    /// A directory that looks like the cache, with the forged artifact.
    fn directory(&self, path: &str) -> Result<PathBuf> {
        let path = self.host.path().join(path);
        fs::create_dir_all(&path)?;
        fs::set_permissions(&path, Permissions::from_mode(0o700))?;
        write(&path.join(&self.name), &self.forged)?;
        Ok(path)
    }

    fn container(&self) -> Result<Container<'_>> {
        let container = self.host.empty_container(&["/main.wasm"])?;
        container.install(&self.module, "main.wasm")?;
        Ok(container)
    }

    /// Starts the module with a cache directory.
    fn prints_with(&self, cache: &Path, expected: &str) -> Result<()> {
        let mut run = self.container()?.run_command(&[])?;
        run.env("CORACLE_CACHE_DIR", cache).finish()?.ok()?.prints(expected).map(drop)
    }

    /// Written by another program: a fork of this one at the wrong moment would hold them open, and none could be executed.
    fn copies_of_the_programs(&self) -> Result<PathBuf> {
        let bin = self.host.path().join("bin");
        fs::create_dir(&bin)?;
        let programs = ["coracle", "coracle-wasi", "coracle-wasmc"].map(|it| coracle().with_file_name(it));
        command("cp").args(programs).arg(&bin).finish()?.ok()?;
        Ok(bin)
    }

    fn prints(&self, expected: &str) -> Result<()> {
        self.prints_with(&self.host.cache_dir(), expected)
    }

    /// Attacks the entry, and expects the next start to run the module and to put a sound artifact back.
    fn withstands(&self, what: &str, attack: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        let entry = self.entry();
        attack(&entry).with_context(|| what.to_owned())?;
        self.prints(GOOD).with_context(|| what.to_owned())?;
        let metadata = entry.symlink_metadata().with_context(|| what.to_owned())?;
        ensure!(metadata.is_file() && metadata.nlink() == 1 && metadata.uid() == 0, "{what}: {metadata:?}");
        ensure!(metadata.mode() & 0o7777 == 0o400, "{what}: {metadata:?}");
        ensure!(fs::read(&entry)? == self.sound, "{what}: another artifact");
        Ok(())
    }
}

/// Compiles a module into a cache of this name, and returns the artifact's name and bytes.
fn compiled(host: &Host, module: &Path, cache: &str) -> Result<(String, Vec<u8>)> {
    let cache = host.path().join(cache);
    let mut compile = host.runtime();
    compile.env("CORACLE_CACHE_DIR", &cache).args(["wasm", "compile"]).arg(module).finish()?.ok()?;
    let name = artifacts(&cache)?.pop().context("no artifact")?;
    Ok((name.clone(), fs::read(cache.join(name))?))
}

fn artifacts(cache: &Path) -> Result<Vec<String>> {
    let names = fs::read_dir(cache)?.map(|it| Ok(it?.file_name().to_string_lossy().into_owned()));
    Ok(names.collect::<Result<Vec<_>>>()?.into_iter().filter(|name| name.len() == 64).collect())
}

/// Writes a file of root's with the mode that an artifact has.
fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    if path.symlink_metadata().is_ok() {
        fs::remove_file(path)?;
    }
    fs::write(path, bytes)?;
    Ok(fs::set_permissions(path, Permissions::from_mode(0o400))?)
}

/// Only because root itself has put it there. If this did not print it, nothing below would mean anything.
#[test]
fn the_forgery_is_good() -> Result<()> {
    let prey = Prey::new()?;
    prey.plant()?;
    prey.prints(WRONG)?;
    let planted = prey.directory("planted")?;
    prey.prints_with(&planted, WRONG)
}

#[test]
fn a_planted_file() -> Result<()> {
    let prey = Prey::new()?;
    let elsewhere = prey.host.path().join("elsewhere");
    let forged = |path: &Path| write(path, &prey.forged);
    prey.withstands("another user's file", |entry| {
        forged(entry)?;
        Ok(chown(entry, Some(1000), Some(1000))?)
    })?;
    for mode in [0o600 | 0o020, 0o602, 0o440, 0o404, 0o500, 0o4400, 0o2400] {
        prey.withstands(&format!("mode {mode:o}"), |entry| {
            forged(entry)?;
            Ok(fs::set_permissions(entry, Permissions::from_mode(mode))?)
        })?;
    }
    prey.withstands("a symlink", |entry| {
        forged(&elsewhere)?;
        fs::remove_file(entry)?;
        Ok(symlink(&elsewhere, entry)?)
    })?;
    prey.withstands("a hard link", |entry| {
        forged(&elsewhere)?;
        fs::remove_file(entry)?;
        Ok(fs::hard_link(&elsewhere, entry)?)
    })?;
    prey.withstands("a FIFO", |entry| {
        fs::remove_file(entry)?;
        Ok(mknodat(CWD, entry, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?)
    })?;
    prey.withstands("a device", |entry| {
        fs::remove_file(entry)?;
        let zero = rustix::fs::makedev(1, 5);
        Ok(mknodat(CWD, entry, FileType::CharacterDevice, Mode::RUSR, zero)?)
    })?;
    prey.withstands("another module's own artifact", |entry| {
        let (name, other) = compiled(&prey.host, &prey.host.path().join("wrong.wasm"), "other")?;
        ensure!(name != prey.name, "two modules have one key");
        write(entry, &other)
    })?;
    prey.withstands("an unfinished one", |entry| {
        forged(&entry.with_extension("new"))?;
        Ok(fs::remove_file(entry)?)
    })?;
    // The module runs all the same where the artifact cannot be replaced.
    fs::remove_file(prey.entry())?;
    fs::create_dir(prey.entry())?;
    write(&prey.entry().join(&prey.name), &prey.forged)?;
    prey.prints(GOOD)
}

#[test]
fn a_planted_directory() -> Result<()> {
    let prey = Prey::new()?;
    let planted = prey.directory("planted")?;
    let link = prey.host.path().join("link");
    symlink(&planted, &link)?;
    prey.prints_with(&link, GOOD)?;
    for mode in [0o777, 0o1777, 0o755, 0o750, 0o711, 0o702] {
        fs::set_permissions(&planted, Permissions::from_mode(mode))?;
        prey.prints_with(&planted, GOOD).with_context(|| format!("mode {mode:o}"))?;
    }
    fs::set_permissions(&planted, Permissions::from_mode(0o700))?;
    chown(&planted, Some(1000), None)?;
    prey.prints_with(&planted, GOOD).context("another owner")?;
    ensure!(
        fs::read(planted.join(&prey.name))? == prey.forged,
        "nothing is done in a directory that is not ours"
    );
    prey.host.is_clean()
}

/// A directory that root of a container has made on a volume is root's and closed to others. Who can change a directory
/// above the cache, or a link on the way to it, leads there.
#[test]
fn a_way_that_others_can_change() -> Result<()> {
    let prey = Prey::new()?;
    let way = prey.host.path().join("way");
    prey.directory("volume/wasm")?;
    fs::create_dir(&way)?;
    symlink("../volume", way.join("link"))?;
    let through_link = way.join("link/wasm");
    prey.prints_with(&through_link, WRONG).context("root's own link must do")?;
    fs::set_permissions(&way, Permissions::from_mode(0o777))?;
    prey.prints_with(&through_link, GOOD).context("a world-writable directory on the way")?;
    fs::set_permissions(&way, Permissions::from_mode(0o755))?;
    std::os::unix::fs::lchown(way.join("link"), Some(1000), None)?;
    prey.prints_with(&through_link, GOOD).context("another user's link")?;
    chown(&way, Some(1000), None)?;
    prey.prints_with(&through_link, GOOD).context("another user's directory")?;
    let volume = prey.host.path().join("volume");
    prey.prints_with(&volume.join("wasm"), WRONG)?;
    chown(&volume, Some(1000), None)?;
    prey.prints_with(&volume.join("wasm"), GOOD).context("another user's directory above")?;
    prey.host.is_clean()
}

/// The cache is a link to a planted directory at one moment, another user's directory at the next, and itself in between.
#[test]
fn a_directory_that_is_swapped_meanwhile() -> Result<()> {
    let prey = Prey::new()?;
    let cache = prey.host.cache_dir();
    let planted = prey.directory("planted")?;
    let theirs = prey.directory("theirs")?;
    chown(&theirs, Some(1000), Some(1000))?;
    chown(theirs.join(&prey.name), Some(1000), Some(1000))?;
    let link = prey.host.path().join("link");
    symlink(&planted, &link)?;
    let rounds = if std::env::var_os("CORACLE_FULL").is_some() { 200 } else { 12 };
    let running = AtomicBool::new(true);
    std::thread::scope(|scope| {
        let swapper = scope.spawn(|| {
            while running.load(Ordering::Relaxed) {
                for other in [&link, &theirs] {
                    renameat_with(CWD, &cache, CWD, other, RenameFlags::EXCHANGE)?;
                    renameat_with(CWD, &cache, CWD, other, RenameFlags::EXCHANGE)?;
                }
            }
            Ok::<_, rustix::io::Errno>(())
        });
        // Every other time there is nothing to be found in the cache itself.
        let done = (0..rounds).try_for_each(|round| {
            let gone = if round % 2 == 0 { fs::remove_file(prey.entry()) } else { Ok(()) };
            prey.prints(GOOD).with_context(|| format!("round {round}, entry gone: {gone:?}"))
        });
        running.store(false, Ordering::Relaxed);
        swapper.join().map_err(|_| anyhow::anyhow!("the swapper panicked"))??;
        done
    })?;
    prey.host.is_clean()
}

/// During an update, two versions use one cache: neither runs what the other has compiled.
#[test]
fn two_compilers_at_once() -> Result<()> {
    let prey = Prey::new()?;
    let bin = prey.copies_of_the_programs()?;
    // A static program with a byte more at its end is another version that works.
    let script = "printf x >> \"$0\"";
    command("/bin/sh").args(["-c", script]).arg(bin.join("coracle-wasmc")).finish()?.ok()?;
    let new = || prey.host.runtime_at(bin.join("coracle"));
    let run_new = |expected: &str| -> Result<()> {
        let container = prey.container()?;
        container.save()?;
        let mut run = new();
        run.arg("run").arg("--bundle").arg(container.bundle()).arg(&container.id);
        run.finish()?.ok()?.prints(expected).map(drop)
    };
    // The old version's artifact is the forged one, which only the old version runs.
    prey.plant()?;
    run_new(GOOD)?;
    prey.prints(WRONG)?;
    let mut names = artifacts(&prey.host.cache_dir())?;
    names.retain(|name| *name != prey.name);
    ensure!(names.len() == 1, "{names:?}");
    // Both compile at the same time, again and again.
    for _ in 0..4 {
        new().args(["wasm", "prune", "--all"]).finish()?.ok()?;
        std::thread::scope(|scope| {
            let old = scope.spawn(|| prey.prints(GOOD));
            run_new(GOOD)?;
            old.join().map_err(|_| anyhow::anyhow!("the old one panicked"))?
        })?;
        ensure!(artifacts(&prey.host.cache_dir())?.len() == 2, "one artifact each");
    }
    prey.host.is_clean()
}

/// A shell script as root of a user namespace, which is an ordinary user.
fn as_root_of_a_namespace(script: &str, argument: &Path) -> Command {
    let mut run = command("setpriv");
    run.args(words(&format!("--reuid={USER} --regid={USER} --clear-groups unshare --user --map-root-user")));
    run.args(["/bin/sh", "-e", "-c", script]).arg(argument);
    run
}

/// Root of a user namespace has uid 0 too, and so have its files, in its own eyes. To root they are an ordinary user's.
#[test]
fn what_root_of_a_user_namespace_makes() -> Result<()> {
    let prey = Prey::new()?;
    let theirs = prey.host.path().join("theirs");
    fs::create_dir(&theirs)?;
    chown(&theirs, Some(USER), None)?;
    let source = prey.host.path().join("forged");
    fs::write(&source, &prey.forged)?;
    let name = &prey.name;
    let script = format!(
        "mkdir -m 700 wasm; cp \"$0\" wasm/{name}; chmod 400 wasm/{name}; id -u; stat -c %u wasm wasm/{name}"
    );
    as_root_of_a_namespace(&script, &source).current_dir(&theirs).finish()?.ok()?.prints("0\n0\n0")?;
    prey.prints_with(&theirs.join("wasm"), GOOD)?;
    // Nor would it help to get the directories into root's hands: the owner of the file counts as well.
    for path in [&theirs, &theirs.join("wasm")] {
        chown(path, Some(0), None)?;
    }
    prey.prints_with(&theirs.join("wasm"), GOOD)?;
    prey.host.is_clean()
}

/// The other way round: what the host's root and other users have made is not that root's own.
#[test]
fn what_root_of_a_user_namespace_finds() -> Result<()> {
    let prey = Prey::new()?;
    let bin = prey.copies_of_the_programs()?;
    let planted = prey.directory("planted")?;
    fs::set_permissions(planted.join(&prey.name), Permissions::from_mode(0o444))?;
    let bundle = prey.host.path().join("home/bundle");
    fs::create_dir_all(bundle.join("rootfs"))?;
    fs::copy(&prey.module, bundle.join("rootfs/main.wasm"))?;
    command("chown").arg("-R").arg(USER.to_string()).arg(prey.host.path().join("home")).finish()?.ok()?;
    let script = "\"$0\" spec --rootless; sed -i 's|\"sh\"|\"/main.wasm\"|; /\"terminal\"/s/true/false/' config.json; \
                  exec \"$0\" --root ../state run c";
    let run = |cache: &Path, expected: &str| {
        let mut run = as_root_of_a_namespace(script, &bin.join("coracle"));
        let _ = fs::remove_file(bundle.join("config.json"));
        run.current_dir(&bundle).env("CORACLE_CACHE_DIR", cache).env("XDG_RUNTIME_DIR", &bundle);
        run.finish()?.ok()?.prints(expected).map(drop)
    };
    for (owner, mode) in [(0, 0o700), (0, 0o755), (0, 0o777), (1000, 0o755), (1000, 0o777)] {
        chown(&planted, Some(owner), None)?;
        fs::set_permissions(&planted, Permissions::from_mode(mode))?;
        run(&planted, GOOD).with_context(|| format!("of user {owner}, mode {mode:o}"))?;
    }
    // Its own cache is used, and what is planted there by a user of the container, say, is not.
    let own = prey.host.path().join("home/cache");
    run(&own, GOOD)?;
    let entry = own.join(artifacts(&own)?.pop().context("nothing in its own cache")?);
    let own_forged = forge(&prey.forged, &entry.file_name().unwrap_or_default().to_string_lossy())?;
    for (owner, expected) in [(USER, WRONG), (1000, GOOD)] {
        write(&entry, &own_forged)?;
        chown(&entry, Some(owner), None)?;
        run(&own, expected).with_context(|| format!("a file of user {owner}"))?;
    }
    Ok(())
}
