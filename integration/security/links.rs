//! An image with a symbolic link in every place where the runtime mounts or makes something: at the end and in the middle
//! of the path, leading out of the root file system by every kind of target. `Root` in src/rootfs/resolve.rs resolves
//! below the root: what is mounted or made is inside, or refused, and the trees outside stay as they are.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use coracle_integration::{Container, Finished, Host, Run, command};
use serde_json::{Value, json};

use crate::bind;
use crate::canary::{Canary, SECRET};

/// What is mounted or made at a path, by a name, and whether it is a file.
struct Thing {
    name: &'static str,
    file: bool,
    put: fn(&mut Container, &str, &Path) -> Value,
}

/// Everything that a link may stand in the way of. `put` changes the configuration, or returns a mount for it.
const THINGS: [Thing; 16] = [
    Thing { name: "bind", file: false, put: |_, at, from| bind(from, at, &["rbind"]) },
    Thing { name: "bind-file", file: true, put: |_, at, from| bind(&from.join("f"), at, &["bind"]) },
    Thing {
        name: "bind-read-only",
        file: false,
        put: |_, at, from| bind(from, at, &["bind", "ro", "noexec"]),
    },
    Thing { name: "tmpfs", file: false, put: |_, at, _| new("tmpfs", at, &["size=64k"]) },
    Thing { name: "tmpfs-read-only", file: false, put: |_, at, _| new("tmpfs", at, &["ro"]) },
    Thing { name: "copy-up", file: false, put: |_, at, _| new("tmpfs", at, &["tmpcopyup"]) },
    Thing { name: "mqueue", file: false, put: |_, at, _| new("mqueue", at, &[]) },
    Thing {
        name: "devpts",
        file: false,
        put: |_, at, _| new("devpts", at, &["newinstance", "ptmxmode=0666"]),
    },
    Thing { name: "cgroup", file: false, put: |_, at, _| new("cgroup", at, &["ro"]) },
    Thing {
        name: "copied-link",
        file: true,
        put: |_, at, from| bind(&from.join("link"), at, &["bind", "copy-symlink"]),
    },
    Thing { name: "masked", file: false, put: |c, at, _| path(c, "maskedPaths", at) },
    Thing { name: "masked-file", file: true, put: |c, at, _| path(c, "maskedPaths", at) },
    Thing { name: "read-only", file: false, put: |c, at, _| path(c, "readonlyPaths", at) },
    Thing {
        name: "device",
        file: true,
        put: |c, at, _| device(c, json!({"path": at, "type": "c", "major": 1, "minor": 3})),
    },
    Thing {
        name: "pipe",
        file: true,
        put: |c, at, _| device(c, json!({"path": at, "type": "p", "uid": 7, "gid": 7})),
    },
    Thing {
        name: "cwd",
        file: false,
        put: |c, at, _| {
            c.config["process"]["cwd"] = json!(at);
            Value::Null
        },
    },
];

fn new(fs: &str, at: &str, options: &[&str]) -> Value {
    json!({"destination": at, "type": fs, "source": fs, "options": options})
}

fn path(c: &mut Container, field: &str, at: &str) -> Value {
    if let Some(paths) = c.config["linux"][field].as_array_mut() {
        paths.push(json!(at));
    }
    Value::Null
}

fn device(c: &mut Container, device: Value) -> Value {
    if !c.config["linux"]["devices"].is_array() {
        c.config["linux"]["devices"] = json!([]);
    }
    if let Some(devices) = c.config["linux"]["devices"].as_array_mut() {
        devices.push(device);
    }
    Value::Null
}

/// Makes the target of a link from the path outside that it is to lead to.
type Route = fn(&str) -> String;

/// How a link leads to a path outside.
const ROUTES: [(&str, Route); 7] = [
    ("absolute", str::to_owned),
    ("relative", |outside| format!("../../../../../../../../../..{outside}")),
    ("up and down", |outside| format!("../bin/../etc/../../..//.{outside}")),
    ("dangling", |outside| format!("{outside}-not-there")),
    ("by a volume", |outside| format!("/volume/out{outside}")),
    ("by the root of a process", |outside| format!("/proc/self/root{outside}")),
    ("by its directory", |outside| format!("/proc/1/cwd/../../../../../../..{outside}")),
];
/// Those that are followed below the root; the others are refused where the file exists at all.
const PLAIN: usize = 5;

/// A place for containers with links.
struct Scene {
    host: Host,
    /// What links lead to, a file or a directory for each thing.
    outside: Canary,
    /// What is mounted, also for the container to write to; with a link to `/`.
    volume: PathBuf,
}

impl Scene {
    fn new() -> Result<Self> {
        let host = Host::new()?;
        let (outside, volume) = (host.path().join("outside"), host.path().join("volume"));
        for name in
            THINGS.iter().filter(|thing| !thing.file).map(|thing| thing.name).chain(["dev", "proc", "sysfs"])
        {
            fs::create_dir_all(outside.join(name).join("below"))?;
            fs::write(outside.join(name).join("file"), SECRET)?;
        }
        for thing in THINGS.iter().filter(|thing| thing.file) {
            fs::write(outside.join(thing.name), SECRET)?;
        }
        fs::create_dir(&volume)?;
        fs::write(volume.join("f"), "inside")?;
        symlink("/", volume.join("out"))?;
        symlink(&outside, volume.join("link"))?;
        Ok(Scene { outside: Canary::watch(&outside)?, host, volume })
    }

    /// A container that looks for the secret behind every link.
    fn container(&self) -> Result<Container<'_>> {
        let look =
            "for l in /links/*; do cat $l $l/file $l/below $l/below/file 2> /dev/null; done; echo looked";
        let mut c = self.host.container(&["timeout", "5", "sh", "-c", look])?;
        c.mount(bind(&self.volume, "/volume", &["bind"]));
        fs::create_dir(c.rootfs().join("links"))?;
        Ok(c)
    }

    /// Makes the link, and returns the path of the thing behind it.
    fn link(&self, c: &Container, thing: &Thing, route: Route, middle: bool) -> Result<String> {
        let outside = self.outside.path().join(if middle { "bind" } else { thing.name });
        symlink(route(outside.to_str().context("path")?), c.rootfs().join("links").join(thing.name))?;
        let below = if middle { format!("/below/{}", thing.name) } else { String::new() };
        Ok(format!("/links/{}{below}", thing.name))
    }

    fn check(&self, what: &str, done: &Finished) -> Result<()> {
        ensure!(!done.stdout.contains(SECRET), "{what}: it is seen: {done}");
        self.outside.is_untouched().with_context(|| what.to_owned())
    }
}

/// Adds a thing to the configuration.
fn add(c: &mut Container, thing: &Thing, at: &str, volume: &Path) {
    let mount = (thing.put)(c, at, volume);
    if !mount.is_null() {
        c.mount(mount);
    }
}

#[test]
fn in_every_place_of_a_configuration() -> Result<()> {
    let scene = Scene::new()?;
    for (route, to) in &ROUTES[..PLAIN] {
        for middle in [false, true] {
            let mut c = scene.container()?;
            // A link that is to be copied replaces no other.
            for thing in THINGS.iter().filter(|thing| middle || thing.name != "copied-link") {
                let at = scene.link(&c, thing, *to, middle)?;
                add(&mut c, thing, &at, &scene.volume);
            }
            let what = format!("{route}, middle {middle}");
            let done = c.run()?;
            scene.check(&what, &done)?;
            done.ok()?.prints_some("looked").context(what)?;
        }
    }
    scene.host.is_clean()
}

/// procfs's own links lead where the runtime itself is, which is outside.
#[test]
fn through_procfs() -> Result<()> {
    let scene = Scene::new()?;
    let mut refused = 0;
    for (route, to) in &ROUTES[PLAIN..] {
        for (number, thing) in THINGS.iter().enumerate() {
            let mut c = scene.container()?;
            let at = scene.link(&c, thing, *to, number % 2 == 1)?;
            add(&mut c, thing, &at, &scene.volume);
            let done = c.run()?;
            scene.check(&format!("{} {route}", thing.name), &done)?;
            refused += u32::from(done.code != 0);
        }
    }
    ensure!(refused > 0, "nothing was refused");
    scene.host.is_clean()
}

/// Where the runtime makes things without being asked: the devices and links of /dev.
#[test]
fn in_the_place_of_dev() -> Result<()> {
    let scene = Scene::new()?;
    for (route, to) in &ROUTES {
        let mut c = scene.container()?;
        if let Some(mounts) = c.config["mounts"].as_array_mut() {
            mounts.retain(|mount| !mount["destination"].as_str().unwrap_or_default().starts_with("/dev"));
        }
        fs::remove_dir(c.rootfs().join("dev"))?;
        let outside = scene.outside.path().join("dev");
        symlink(to(outside.to_str().context("path")?), c.rootfs().join("dev"))?;
        let done = c.run()?;
        scene.check(route, &done)?;
        // Links in /dev itself: what the image has there is kept, and leads nowhere.
        let mut c = scene.container()?;
        if let Some(mounts) = c.config["mounts"].as_array_mut() {
            mounts.retain(|mount| !mount["destination"].as_str().unwrap_or_default().starts_with("/dev"));
        }
        for name in ["null", "zero", "full", "random", "urandom", "tty", "ptmx", "fd", "stdin", "core"] {
            symlink(to(outside.join(name).to_str().context("path")?), c.rootfs().join("dev").join(name))?;
        }
        let done = c.run()?;
        scene.check(route, &done)?;
    }
    scene.host.is_clean()
}

/// `mounts add`, in a container that runs.
#[test]
fn in_a_container_that_runs() -> Result<()> {
    let scene = Scene::new()?;
    let live = ["bind", "bind-file", "bind-read-only", "tmpfs"];
    let mut added = 0;
    for (route, to) in &ROUTES {
        let mut c = scene.container()?;
        c.config["process"]["args"] = json!(["sleep", "1000"]);
        c.create()?.start()?;
        for (number, thing) in THINGS.iter().filter(|thing| live.contains(&thing.name)).enumerate() {
            let at = scene.link(&c, thing, *to, number % 2 == 1)?;
            let mount = (thing.put)(&mut c, &at, &scene.volume);
            let file = c.bundle().join("mounts.json");
            fs::write(&file, json!([mount]).to_string())?;
            let done = c.host.runtime().args(["mounts", "add", &c.id]).arg(&file).finish()?;
            scene.check(&format!("{} {route}", thing.name), &done)?;
            added += u32::from(done.code == 0);
            let look = format!("cat {at} {at}/file {at}/below/file 2> /dev/null; true");
            scene.check(&format!("{} {route}", thing.name), &c.exec(&["sh", "-c", &look])?)?;
            c.host.runtime().args(["mounts", "remove", &c.id]).arg(&file).finish()?;
            scene.check(&format!("{} {route}, removed", thing.name), &done)?;
        }
    }
    ensure!(added > 0, "nothing was ever added");
    Ok(())
}

/// The source of a mount is the engine's to name, links and all; unless it asks for links not to be followed.
#[test]
fn as_the_source() -> Result<()> {
    let scene = Scene::new()?;
    for (options, seen) in
        [(&["bind"][..], true), (&["bind", "src-nofollow"], false), (&["rbind", "copy-symlink"], false)]
    {
        for (route, to) in &ROUTES[..2] {
            let mut c = scene.container()?;
            let source = scene.host.path().join(format!("source-{}", c.id));
            let outside = scene.outside.path().join("bind");
            symlink(to(outside.to_str().context("path")?), &source)?;
            c.mount(bind(&source, "/links/source", options));
            let done = c.run()?;
            ensure!(done.stdout.contains(SECRET) == seen, "{options:?} {route}: {done}");
            scene.outside.is_untouched()?;
        }
    }
    scene.host.is_clean()
}

/// A remount changes a file system for everybody who has it mounted, so no link chooses which.
#[test]
fn in_the_place_of_a_remount() -> Result<()> {
    let host = Host::new()?;
    let volume = host.path().join("volume");
    fs::create_dir(&volume)?;
    for target in ["/", "volume", "/volume/.."] {
        let mut c = host.empty_container(&["/busybox", "true"])?;
        // File systems that a test may lose.
        for place in [&c.rootfs(), &volume] {
            command("mount").args(["-t", "tmpfs", "tmpfs"]).arg(place).finish()?.ok()?;
        }
        c.install(Path::new("/bin/busybox"), "/busybox")?;
        symlink(target, c.rootfs().join("link"))?;
        c.mount(bind(&volume, "/volume", &["bind"]));
        c.mount(
            json!({"destination": "/link", "type": "tmpfs", "source": "tmpfs", "options": ["remount", "ro"]}),
        );
        let done = c.run()?;
        for place in [&c.rootfs(), &volume] {
            ensure!(fs::write(place.join("new"), "").is_ok(), "{} is read-only: {done}", place.display());
        }
        command("umount").arg(&volume).finish()?.ok()?;
    }
    Ok(())
}
