//! Wasm images on podman.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use coracle_integration::{Engine, Host, Run, Terminal, c, eventually, wat};
use serde_json::{Value, json};

/// An engine with the images `hello` and `show`, each one module and nothing else.
fn engine() -> Result<Engine> {
    let engine = Engine::new()?;
    engine.wasm_image("hello", &wat("hello")?)?;
    engine.wasm_image("show", &c("show")?)?;
    Ok(engine)
}

const HELLO: &str = "hello from a module";

#[test]
fn with_the_annotation_and_without() -> Result<()> {
    let engine = engine()?;
    engine.run(&["--annotation", "run.oci.handler=wasm", "hello"]).finish()?.ok()?.prints(HELLO)?;
    engine
        .run(&["--annotation", "module.wasm.image/variant=compat", "hello"])
        .finish()?
        .ok()?
        .prints(HELLO)?;
    engine.run(&["hello"]).finish()?.ok()?.prints(HELLO)?;
    engine.is_clean()
}

#[test]
fn an_image_with_the_annotation_in_its_manifest() -> Result<()> {
    let engine = engine()?;
    let from = engine.buildah().args(["from", "--pull-never", "localhost/hello"]).finish()?.ok()?;
    let container = from.stdout.trim().to_owned();
    engine
        .buildah()
        .args(["config", "--annotation", "module.wasm.image/variant=compat", &container])
        .finish()?
        .ok()?;
    engine.buildah().args(["commit", &container, "annotated"]).finish()?.ok()?;
    engine.buildah().args(["rm", &container]).finish()?.ok()?;
    engine.run(&["annotated"]).finish()?.ok()?.prints(HELLO)?;
    engine.is_clean()
}

#[test]
fn arguments_environment_streams_and_exit_code() -> Result<()> {
    let engine = engine()?;
    let done = engine
        .run(&["-i", "-e", "A=b", "show", "args", "env", "stdin", "stderr", "7"])
        .finish_with(b"typed\n")?
        .exits(7)?;
    assert!(done.stdout.starts_with("</main.wasm><args><env><stdin><stderr><7>\n"), "{done}");
    assert!(done.stdout.contains("\nA=b\n") && done.stdout.ends_with("\ntyped\n"), "{done}");
    assert_eq!(done.stderr, "to stderr\n");
    engine.is_clean()
}

#[test]
fn with_a_terminal() -> Result<()> {
    let engine = engine()?;
    let mut terminal = Terminal::spawn(&mut engine.run(&["-it", "show", "tty", "line", "5"]))?;
    terminal.expect("tty 1 1 1")?;
    terminal.type_in("word\r")?;
    terminal.expect("got word")?;
    assert_eq!(terminal.wait()?.0, 5);
    engine.is_clean()
}

#[test]
fn stop_is_quick() -> Result<()> {
    let engine = engine()?;
    for (word, ready) in [("spin", "spinning"), ("sleep", "sleeping")] {
        engine.start(&["--name", word, "show", word])?;
        eventually(ready, || Ok(engine.do_podman(&["logs", word])?.stdout.contains(ready)))?;
        let start = Instant::now();
        engine.do_podman(&["stop", "--time=10", word])?.ok()?;
        assert!(start.elapsed() < Duration::from_secs(5), "{word}: {:?}", start.elapsed());
        engine.do_podman(&["inspect", "--format", "{{.State.ExitCode}}", word])?.ok()?.prints("143")?;
    }
    engine.is_clean()
}

#[test]
fn logs_inspect_stats_and_exec() -> Result<()> {
    let engine = engine()?;
    let root = engine.path().join("two");
    fs::create_dir(&root)?;
    for (module, name) in [(c("show")?, "main.wasm"), (wat("hello")?, "hello.wasm")] {
        fs::copy(module, root.join(name))?;
        fs::set_permissions(root.join(name), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    }
    engine.import("two", &root, &[&format!("ENTRYPOINT {}", json!(["/main.wasm"]))])?;
    engine.start(&["--name", "c", "two", "tick"])?;
    eventually("ticking", || Ok(engine.do_podman(&["logs", "c"])?.stdout.contains("ticking")))?;
    let inspect: Value = serde_json::from_str(&engine.do_podman(&["inspect", "c"])?.ok()?.stdout)?;
    assert_eq!(inspect[0]["State"]["Status"], "running");
    let stats =
        engine.do_podman(&["stats", "--no-stream", "--format", "{{.MemUsage}} {{.PIDs}}", "c"])?.ok()?;
    assert!(stats.stdout.trim().ends_with(" 1"), "one thread: {stats}");
    engine.do_podman(&["exec", "c", "/hello.wasm"])?.ok()?.prints(HELLO)?;
    engine.do_podman(&["exec", "c", "/main.wasm", "9"])?.exits(9)?;
    engine.do_podman(&["exec", "c", "/nosuch.wasm"])?.exits(127)?;
    engine.do_podman(&["pause", "c"])?.ok()?;
    engine.do_podman(&["unpause", "c"])?.ok()?;
    engine.do_podman(&["kill", "c"])?.ok()?;
    engine.do_podman(&["wait", "c"])?.ok()?.prints("137")?;
    engine.is_clean()
}

#[test]
fn the_memory_limit_kills_the_guest() -> Result<()> {
    let engine = engine()?;
    engine.wasm_image("hog", &wat("hog")?)?;
    engine.run(&["--memory", "48m", "--memory-swap", "48m", "hog"]).finish()?.exits(137)?;
    engine.is_clean()
}

#[test]
fn volumes_read_only_and_users() -> Result<()> {
    let engine = engine()?;
    let dir = engine.path().join("volume");
    fs::create_dir(&dir)?;
    fs::write(dir.join("f"), "from the host\n")?;
    let volume = format!("{}:/data", dir.display());
    engine
        .run(&["-v", &volume, "show", "cat=/data/f", "touch=/data/g"])
        .finish()?
        .ok()?
        .prints("from the host\nmade /data/g")?;
    assert!(dir.join("g").exists());
    let read_only = format!("{volume}:ro");
    engine
        .run(&["-v", &read_only, "show", "touch=/data/h"])
        .finish()?
        .ok()?
        .prints("/data/h: Read-only file system")?;
    engine.run(&["--read-only", "show", "touch=/h"]).finish()?.ok()?.prints("/h: Read-only file system")?;
    engine.run(&["--user", "1000", "show", "touch=/h"]).finish()?.ok()?.prints("/h: Permission denied")?;
    engine.run(&["show", "touch=/h"]).finish()?.ok()?.prints("made /h")?;
    engine.is_clean()
}

#[test]
fn a_module_from_a_volume_in_a_native_image() -> Result<()> {
    let engine = engine()?;
    let volume = format!("{}:/module.wasm:ro", wat("hello")?.display());
    // The compiled guest is not executable for engines that ask; it is for the kernel's check of ours.
    fs::set_permissions(wat("hello")?, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    engine.run(&["-v", &volume, "native", "/module.wasm"]).finish()?.ok()?.prints(HELLO)?;
    engine.is_clean()
}

#[test]
fn a_pod_with_a_native_and_a_wasm_container() -> Result<()> {
    let engine = engine()?;
    let parent = engine.common()[2].clone();
    engine.podman().args(["pod", "create", "--name", "p", "--network=none", &parent]).finish()?.ok()?;
    engine
        .podman()
        .args(["run", "--detach", "--pod", "p", "--name", "n", "native", "sleep", "1000"])
        .finish()?
        .ok()?;
    engine.podman().args(["run", "--detach", "--pod", "p", "--name", "w", "show", "tick"]).finish()?.ok()?;
    eventually("ticking", || Ok(engine.do_podman(&["logs", "w"])?.stdout.contains("ticking")))?;
    let ps = engine.do_podman(&["ps", "--filter", "pod=p", "--format", "{{.Names}} {{.State}}"])?.ok()?;
    assert!(ps.stdout.contains("n Up") && ps.stdout.contains("w Up"), "{ps}");
    engine.do_podman(&["pod", "stop", "--time=5", "p"])?.ok()?;
    engine.do_podman(&["pod", "rm", "p"])?.ok()?;
    engine.is_clean()
}

#[test]
fn what_cannot_be_run() -> Result<()> {
    let engine = engine()?;
    let component = engine.path().join("component.wasm");
    fs::write(&component, b"\0asm\x0d\0\x01\0")?;
    engine.wasm_image("component", &component)?;
    engine.run(&["component"]).finish()?.exits(126)?.fails_with("component")?;
    engine.wasm_image("unknown", &wat("unknown-import")?)?;
    engine.run(&["unknown"]).finish()?.exits(126)?.fails_with("env.foo")?;
    engine
        .run(&["--annotation", "run.oci.handler=wasm", "native", "true"])
        .finish()?
        .exits(126)?
        .fails_with("WebAssembly")?;
    engine.is_clean()
}

#[test]
fn rootfs_userns_and_no_cgroup() -> Result<()> {
    let engine = engine()?;
    let maps = ["--uidmap", "0:100000:5000", "--gidmap", "0:100000:5000", "show", "touch=/made", "3"];
    engine.run(&maps).finish()?.exits(3)?.prints("made /made")?;
    let mut podman = engine.podman();
    podman
        .args(["run", "--rm", "--network=none", "--cgroups=disabled", "hello"])
        .finish()?
        .ok()?
        .prints(HELLO)?;
    engine.is_clean()
}

/// An engine restarts what crashed; it has to see the difference between a trap and an exit.
#[test]
fn a_trap_is_134() -> Result<()> {
    let engine = engine()?;
    engine.wasm_image("trap", &wat("trap-unreachable")?)?;
    engine.run(&["trap"]).finish()?.exits(134)?.fails_with("unreachable")?;
    engine.is_clean()
}

#[test]
fn the_handler_is_all_that_runs() -> Result<()> {
    let engine = engine()?;
    let id = engine.start(&["--name", "c", "show", "tick"])?;
    let pid = engine.do_podman(&["inspect", "--format", "{{.State.Pid}}", "c"])?.ok()?;
    let pid = pid.stdout.trim();
    eventually("ticking", || Ok(engine.do_podman(&["logs", "c"])?.stdout.contains("ticking")))?;
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let field = |name: &str| status.lines().find_map(|l| l.strip_prefix(name)).map(str::trim);
    assert_eq!(field("Threads:"), Some("1"));
    assert_eq!(field("Seccomp:"), Some("2"));
    let mut artifact = None;
    for descriptor in fs::read_dir(format!("/proc/{pid}/fd"))? {
        let descriptor = descriptor?.path();
        let target = fs::read_link(&descriptor)?;
        let text = target.to_string_lossy();
        if fs::metadata(&descriptor)?.is_file() {
            // The engine looks for the names of a trap's backtrace in it.
            artifact = Some(descriptor);
        } else {
            let known = ["pipe:", "anon_inode:", "/dev/null"].iter().any(|kind| text.starts_with(kind));
            assert!(known || text == "/", "{text}");
        }
    }
    // Root in the container can open it once more by its number, but not change what other containers run.
    let again = fs::OpenOptions::new().write(true).open(artifact.expect("an artifact"));
    assert_eq!(again.err().and_then(|e| e.raw_os_error()), Some(libc::EROFS));
    let cgroup = Host::cgroup_dir(&format!("{}/libpod-{id}", engine.host().name()), "pids")?;
    assert_eq!(fs::read_to_string(cgroup.join("pids.current")).context("pids.current")?.trim(), "1");
    engine.is_clean()
}
