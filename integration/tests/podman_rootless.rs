//! Podman as an ordinary user: user namespaces from ranges of ids, native programs and modules.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use coracle_integration::{
    Engine, Finished, Run, after, busybox_root, c, command, coracle, eventually, forge, wat, words,
};
use rustix::process::{Pid, Signal, kill_process};

const USER: u32 = 64_321;

/// A user with a name, a home and ids to give away, which only the user's own view of `/etc` knows.
struct User {
    engine: Engine,
    home: PathBuf,
}

impl User {
    fn new() -> Result<User> {
        let engine = Engine::new()?;
        let home = engine.path().join("home");
        for directory in ["home/bin", "r", "etc", "work"] {
            fs::create_dir_all(engine.path().join(directory))?;
        }
        let etc = engine.path().join("etc");
        let entry = |file: &str, line: String| -> Result<()> {
            let old = fs::read_to_string(PathBuf::from("/etc").join(file)).unwrap_or_default();
            Ok(fs::write(etc.join(file), format!("{old}{line}\n"))?)
        };
        entry("passwd", format!("sailor:x:{USER}:{USER}::{}:/bin/sh", home.display()))?;
        entry("group", format!("sailor:x:{USER}:"))?;
        entry("subuid", "sailor:600000:65536".into())?;
        entry("subgid", "sailor:600000:65536".into())?;
        // Copies, for the source tree may be out of reach; by another program, so that nobody holds them open for writing.
        let programs = coracle().parent().context("directory of the runtime")?.to_owned();
        for program in ["coracle", "coracle-wasmc", "coracle-wasi"] {
            command("cp").arg(programs.join(program)).arg(home.join("bin")).finish()?.ok()?;
        }
        command("ln").args(["-s", "coracle"]).arg(home.join("bin/coracle-wasm")).finish()?.ok()?;
        let conf = fs::read_to_string(engine.path().join("containers.conf"))?;
        let own = |what: &str| {
            (engine.path().join(what).display().to_string(), home.join(what).display().to_string())
        };
        let ((bin, own_bin), (cache, own_cache)) = (own("bin"), own("cache"));
        fs::write(home.join("containers.conf"), conf.replace(&bin, &own_bin).replace(&cache, &own_cache))?;
        command("chown")
            .args(["-R", &format!("{USER}:{USER}")])
            .arg(&home)
            .arg(engine.path().join("r"))
            .finish()?
            .ok()?;
        let user = User { engine, home };
        let roots = user.engine.path();
        busybox_root(&roots.join("native"))?;
        fs::create_dir(roots.join("show"))?;
        fs::copy(c("show")?, roots.join("show/main.wasm"))?;
        for (image, change) in [("native", "CMD [\"/bin/sh\"]"), ("show", "ENTRYPOINT [\"/main.wasm\"]")] {
            let archive = user.home.join("image.tar");
            let root = user.engine.path().join(image);
            command("tar").arg("-C").arg(root).arg("-cf").arg(&archive).arg(".").finish()?.ok()?;
            user.done(&["import", "--change", change, &archive.to_string_lossy(), image])?.ok()?;
        }
        Ok(user)
    }

    /// Runs podman as the user, in a mount namespace with the user's `/etc`.
    fn done(&self, args: &[&str]) -> Result<Finished> {
        let mut podman = command("setpriv");
        podman.args(words(&format!("--reuid={USER} --regid={USER} --clear-groups")));
        podman.args(words("podman --storage-driver overlay --runtime coracle")).args(args);
        podman
            .env("HOME", &self.home)
            // Whose ids these are.
            .env("USER", "sailor")
            // A short path: podman refuses what is longer than 50 characters with its own directory in it.
            .env("XDG_RUNTIME_DIR", self.engine.path().join("r"))
            .env("CONTAINERS_CONF", self.home.join("containers.conf"));
        let script = "mount -t overlay -o lowerdir=/etc,upperdir=$0/etc,workdir=$0/work overlay /etc && \
                      cd $0/home && exec \"$@\"";
        let mounted = after(script, &self.engine.path().to_string_lossy(), &podman);
        after("exec unshare --mount \"$@\"", "", &mounted).finish()
    }
}

impl Drop for User {
    fn drop(&mut self) {
        let _ = self.done(&words("rm --all --force --time=0"));
        // The process that keeps the user's namespaces between two commands.
        let file = self.engine.path().join("r/libpod/tmp/pause.pid");
        let pause = fs::read_to_string(file).ok().and_then(|pid| Pid::from_raw(pid.trim().parse().ok()?));
        let _ = pause.map(|pid| kill_process(pid, Signal::KILL));
    }
}

#[test]
fn containers_of_an_ordinary_user() -> Result<()> {
    let user = User::new()?;
    let run = |line: &str| user.done(&[&["run", "--rm"], words(line).as_slice()].concat());
    run("native id -u")?.ok()?.prints("0")?;
    run("native cat /proc/self/uid_map")?.ok().map(|map| {
        assert_eq!(words(&map.stdout), ["0", &USER.to_string(), "1", "1", "600000", "65536"]);
    })?;
    run("--user 1000 native id -u")?.ok()?.prints("1000")?;
    run("show args 3")?.exits(3)?.prints("</main.wasm><args><3>")?;
    run("native nosuch")?.exits(127)?;
    let volume = user.home.join("volume");
    fs::create_dir(&volume)?;
    chown(&volume, Some(USER), Some(USER))?;
    let volume = volume.display();
    run(&format!("--userns=keep-id -v {volume}:/v native touch /v/n"))?.ok()?;
    run(&format!("--userns=keep-id -v {volume}:/v show touch=/v/w"))?.ok()?.prints("made /v/w")?;
    run("--userns=keep-id native id -u")?.ok()?.prints(&USER.to_string())?;
    for name in ["n", "w"] {
        assert_eq!(fs::metadata(user.home.join("volume").join(name))?.uid(), USER, "{name}");
    }
    for (name, image) in [("n", "native sleep 1000"), ("w", "show tick")] {
        user.done(&[&["run", "--detach", "--name", name], words(image).as_slice()].concat())?.ok()?;
        let running = || {
            Ok(user.done(&["top", name])?.ok()?.stdout.contains(image.split_once(' ').map_or("", |i| i.1)))
        };
        eventually("it in top", running)?;
    }
    user.done(&words("exec n id -u"))?.ok()?.prints("0")?;
    // A runtime that is root in the user's namespace alone cannot come back from another pid namespace.
    let processes = run("--pid=container:n native ps")?.ok()?;
    ensure!(processes.stdout.contains("1 root     sleep 1000"), "{processes}");
    run("--pid=container:n show 3")?.exits(3)?;
    user.done(&words("run --detach --name h --pid=host native sleep 1000"))?.ok()?;
    user.done(&words("exec h echo host"))?.ok()?.prints("host")?;
    user.done(&words("exec w /main.wasm 5"))?.exits(5)?;
    user.done(&words("stop --time=1 n w h"))?.ok()?;
    let codes = user.done(&words("inspect --format {{.State.ExitCode}} n w h"))?.ok()?;
    ensure!(words(&codes.stdout) == ["137", "143", "143"], "{codes}");
    user.done(&words("rm n w h"))?.ok()?;
    runs_nothing_planted(&user)?;
    user.engine.is_clean()
}

/// Another module's artifact in the name of `show`'s, which the user alone may put there: none of the container's users.
fn runs_nothing_planted(user: &User) -> Result<()> {
    let cache = user.home.join("cache");
    let mode = fs::metadata(&cache)?;
    assert_eq!((mode.uid(), mode.mode() & 0o7777), (USER, 0o700));
    let artifact = |cache: &Path| -> Result<PathBuf> {
        let mut files = fs::read_dir(cache)?.flatten().map(|entry| entry.path());
        let is_artifact = |path: &PathBuf| path.file_name().is_some_and(|name| name.len() == 64);
        files.find(is_artifact).context("no artifact")
    };
    let host = user.engine.host();
    let other = host.path().join("other");
    let mut compile = host.runtime();
    compile.env("CORACLE_CACHE_DIR", &other).args(["wasm", "compile"]).arg(wat("exit7")?).finish()?.ok()?;
    let entry = artifact(&cache)?;
    let name = entry.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let forged = forge(&fs::read(artifact(&other)?)?, &name)?;
    let plant = |directory: &Path, owner: u32| -> Result<()> {
        let entry = directory.join(&name);
        let _ = fs::remove_file(&entry);
        fs::write(&entry, &forged)?;
        fs::set_permissions(&entry, fs::Permissions::from_mode(0o400))?;
        Ok(chown(&entry, Some(owner), Some(owner))?)
    };
    let exits = |code, what: &str| -> Result<()> {
        user.done(&words("run --rm show 3"))?.exits(code).map(drop).context(what.to_owned())
    };
    plant(&cache, USER)?;
    exits(7, "the user's own")?;
    for owner in [0, 600_000] {
        plant(&cache, owner)?;
        exits(3, "a file of another user")?;
    }
    let planted = user.home.join("planted");
    fs::create_dir(&planted)?;
    fs::set_permissions(&planted, fs::Permissions::from_mode(0o700))?;
    plant(&planted, USER)?;
    fs::rename(&cache, user.home.join("moved"))?;
    symlink(&planted, &cache)?;
    exits(3, "a link to another directory")?;
    fs::remove_file(&cache)?;
    fs::rename(&planted, &cache)?;
    for owner in [0, 600_000] {
        chown(&cache, Some(owner), None)?;
        exits(3, "another user's directory")?;
    }
    Ok(())
}
