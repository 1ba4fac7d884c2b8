//! Wasm images on podman: how they are recognised, how they end, and what runs of them.

use std::fs;

use anyhow::{Context, Result};
use coracle_integration::{Engine, Host, Run, wat};

const HELLO: &str = "hello from a module";

#[test]
fn with_the_annotation_and_without() -> Result<()> {
    let engine = Engine::new()?;
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
    let engine = Engine::new()?;
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
    let engine = Engine::new()?;
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
fn the_memory_limit_kills_the_guest() -> Result<()> {
    let engine = Engine::new()?;
    engine.wasm_image("hog", &wat("hog")?)?;
    engine.run(&["--memory", "48m", "--memory-swap", "48m", "hog"]).finish()?.exits(137)?;
    engine.is_clean()
}

#[test]
fn what_cannot_be_run() -> Result<()> {
    let engine = Engine::new()?;
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

/// An engine restarts what crashed; it has to see the difference between a trap and an exit.
#[test]
fn a_trap_is_134() -> Result<()> {
    let engine = Engine::new()?;
    engine.wasm_image("trap", &wat("trap-unreachable")?)?;
    engine.run(&["trap"]).finish()?.exits(134)?.fails_with("unreachable")?;
    engine.is_clean()
}

#[test]
fn the_handler_is_all_that_runs() -> Result<()> {
    let engine = Engine::new()?;
    let id = engine.start(&["--name", "c", "show", "tick"])?;
    let pid = engine.inspect("c", "{{.State.Pid}}")?;
    engine.logged("c", "ticking")?;
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
