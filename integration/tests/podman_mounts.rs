//! What podman mounts into containers: volumes, temporary and image file systems, read-only roots.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;

use anyhow::{Result, ensure};
use coracle_integration::{Engine, Run, busybox_root, c, wat, words};

/// A directory on the host for containers, with a file in it.
fn directory(engine: &Engine, name: &str) -> Result<String> {
    let directory = engine.path().join(name);
    fs::create_dir(&directory)?;
    fs::write(directory.join("file"), "from the host\n")?;
    Ok(directory.to_string_lossy().into_owned())
}

#[test]
fn volumes() -> Result<()> {
    let engine = Engine::new()?;
    let dir = directory(&engine, "volume")?;
    let run = |volume: &str, image: &[&str]| engine.run(&["-v", volume]).args(image).finish();
    let (plain, read_only) = (format!("{dir}:/data"), format!("{dir}:/data:ro"));
    run(&plain, &["native", "sh", "-c", "cat /data/file; echo new > /data/n"])?
        .ok()?
        .prints("from the host")?;
    let module = run(&plain, &["show", "cat=/data/file", "touch=/data/w"])?.ok()?;
    module.prints("from the host\nmade /data/w")?;
    for name in ["n", "w"] {
        assert!(Path::new(&dir).join(name).exists(), "{name}");
    }
    run(&read_only, &["native", "touch", "/data/x"])?.exits(1)?.fails_with("Read-only")?;
    run(&read_only, &["show", "touch=/data/x"])?.ok()?.prints("/data/x: Read-only file system")?;

    // :U gives it to the container's user; :z and :Z are for SELinux and no harm without; options are the kernel's.
    for (flags, image) in [("u", words("native touch /data/by-u")), ("v", words("show touch=/data/by-v"))] {
        let dir = directory(&engine, flags)?;
        let volume = format!("{dir}:/data:U,z");
        engine.run(&["--user", "1000:1000", "-v", &volume]).args(image).finish()?.ok()?;
        let stat = fs::metadata(Path::new(&dir).join(format!("by-{flags}")))?;
        assert_eq!((stat.uid(), stat.gid()), (1000, 1000));
    }
    let options = format!("{dir}:/data:noexec,nosuid,nodev,rslave");
    let mounted = run(&options, &["native", "grep", " /data ", "/proc/self/mountinfo"])?.ok()?;
    for option in ["nosuid", "nodev", "noexec"] {
        assert!(mounted.stdout.contains(option), "{mounted}");
    }

    // A named volume starts with what the image has there, and stays; :O is a layer that is thrown away.
    run("named:/etc", &["native", "sh", "-c", "echo changed > /etc/group; ls /etc/passwd"])?.ok()?;
    run("named:/v:O", &["native", "sh", "-c", "cat /v/group; rm /v/group"])?.ok()?.prints("changed")?;
    run("named:/v:O", &["show", "cat=/v/group", "touch=/v/x"])?.ok()?.prints("changed\nmade /v/x")?;
    let kept = run("named:/v:ro", &["native", "ls", "/v"])?.ok()?;
    ensure!(!kept.lines().any(|l| l == "x"), "a file of a layer that was to be thrown away: {kept}");
    engine.start(&words("--name holder -v named:/v native sleep 1000"))?;
    engine.run(&words("--volumes-from holder show cat=/v/group")).finish()?.ok()?.prints("changed")?;
    engine.do_podman(&["rm", "--force", "--time=0", "holder"])?.ok()?;

    // The host's ids, seen through the container's map.
    let mapped = directory(&engine, "mapped")?;
    chown(&mapped, Some(0), Some(0))?;
    let flags = ["--uidmap=0:100000:5000", "--gidmap=0:100000:5000", "-v", &format!("{mapped}:/data:idmap")];
    engine.run(&flags).args(["native", "touch", "/data/n"]).finish()?.ok()?;
    engine.run(&flags).args(["show", "touch=/data/w"]).finish()?.ok()?.prints("made /data/w")?;
    for name in ["n", "w"] {
        assert_eq!(fs::metadata(Path::new(&mapped).join(name))?.uid(), 0, "{name}");
    }
    engine.is_clean()
}

#[test]
fn other_mounts() -> Result<()> {
    let engine = Engine::new()?;
    // podman mounts no image of a second storage.
    engine.wasm_image("own", &c("show")?)?;
    let dir = directory(&engine, "source")?;
    let bind = format!("type=bind,src={dir},dst=/bind,ro=true,bind-propagation=rslave");
    let flags = [
        "--mount=type=tmpfs,dst=/t,tmpfs-size=1m,tmpfs-mode=0710",
        "--mount=type=devpts,dst=/pts",
        "--mount=type=image,src=localhost/own,dst=/image",
        "--mount=type=volume,src=of-mount,dst=/volume",
        "--tmpfs=/scratch:size=1m,noexec",
        "--mount",
        &bind,
    ];
    let script = "stat -c %a /t; ls /pts /image; touch /volume/f /scratch/f /t/f; cat /bind/file; \
                  dd if=/dev/zero of=/scratch/f bs=1M count=2 2> /dev/null || echo full; touch /bind/x";
    let done = engine.run(&flags).args(["native", "sh", "-c", script]).finish()?;
    done.fails_with("Read-only")?.prints("710\n/image:\nmain.wasm\n\n/pts:\nptmx\nfrom the host\nfull")?;
    let script = ["show", "ls=/image", "ls=/volume", "touch=/scratch/f", "touch=/bind/x", "cat=/bind/file"];
    let expected = "main.wasm\nf\nmade /scratch/f\n/bind/x: Read-only file system\nfrom the host";
    engine.run(&flags).args(script).finish()?.ok()?.prints(expected)?;

    // A module that comes with a volume, in an image without one.
    let module = wat("hello")?;
    fs::set_permissions(&module, PermissionsExt::from_mode(0o755))?;
    let volume = format!("{}:/module.wasm:ro", module.display());
    engine.run(&["-v", &volume, "native", "/module.wasm"]).finish()?.ok()?.prints("hello from a module")?;
    engine.is_clean()
}

#[test]
fn roots() -> Result<()> {
    let engine = Engine::new()?;
    let shell =
        |flags: &str, script: &str| engine.run(&words(flags)).args(["native", "sh", "-c", script]).finish();
    shell("--read-only", "touch /tmp/f /run/f /dev/shm/f; touch /f")?
        .exits(1)?
        .fails_with("/f: Read-only")?;
    shell("--read-only --read-only-tmpfs=false", "touch /tmp/f")?.exits(1)?.fails_with("Read-only")?;
    let module = engine.run(&words("--read-only show touch=/f touch=/tmp/f")).finish()?.ok()?;
    module.prints("/f: Read-only file system\nmade /tmp/f")?;
    engine.run(&words("--user 1000 show touch=/f")).finish()?.ok()?.prints("/f: Permission denied")?;
    engine.run(&words("show touch=/f")).finish()?.ok()?.prints("made /f")?;

    // A directory as the root: changed, or below a layer that is thrown away.
    let root = engine.path().join("native");
    busybox_root(&root)?;
    let rootfs =
        |root: &str, script: &str| engine.run(&["--rootfs", root]).args(["sh", "-c", script]).finish();
    let path = root.to_string_lossy().into_owned();
    rootfs(&format!("{path}:O"), "echo made > /made; cat /made")?.ok()?.prints("made")?;
    ensure!(!root.join("made").exists(), "the root has been changed");
    rootfs(&path, "echo made > /made")?.ok()?;
    ensure!(root.join("made").exists(), "the root has not been changed");
    let module = engine.path().join("module");
    fs::create_dir(&module)?;
    fs::copy(c("show")?, module.join("main.wasm"))?;
    let module = module.to_string_lossy().into_owned();
    engine
        .run(&["--rootfs", &module, "/main.wasm", "touch=/f", "3"])
        .finish()?
        .exits(3)?
        .prints("made /f")?;
    engine.is_clean()
}
