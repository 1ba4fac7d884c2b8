//! The configuration in `packaging/podman`, which every other test of podman uses under its first name.

use std::fs;

use anyhow::{Context, Result};
use coracle_integration::{Engine, Run, command, coracle, words};

#[test]
fn the_names_of_the_runtime() -> Result<()> {
    let engine = Engine::new()?;
    let run = |runtime: &str, line: &str| {
        let mut podman = engine.podman_by_default();
        podman.args(["--runtime", runtime, "run", "--rm"]).args(words(line)).finish()
    };
    let path = engine.path().join("bin/coracle");
    for runtime in ["coracle", &path.to_string_lossy()] {
        run(runtime, "native echo native")?.ok()?.prints("native")?;
        run(runtime, "hello")?.ok()?.prints("hello from a module")?;
    }
    for runtime in ["coracle-wasm", "crun-wasm"] {
        run(runtime, "hello")?.ok()?.prints("hello from a module")?;
        run(runtime, "native true")?.exits(126)?.fails_with("/bin/true: not a WebAssembly module")?;
        run(runtime, "--annotation run.oci.handler=wasm-smart native true")?.ok()?;
    }
    for runtime in ["coracle", "coracle-wasm", "crun-wasm"] {
        // Podman offers this, and reads errors as JSON, only with a runtime that its lists name.
        run(runtime, "--cgroups=disabled show 3")?.exits(3)?;
        let error = run(runtime, "--entrypoint /nosuch show")?.exits(127)?;
        assert!(!error.stderr.contains("level=error") && error.stderr.contains("/nosuch"), "{error}");
    }
    engine.is_clean()
}

#[test]
fn the_default_runtime() -> Result<()> {
    let engine = Engine::new()?;
    let default = |engine: &Engine| -> Result<String> {
        let format = "--format={{.Host.OCIRuntime.Name}} {{.Host.OCIRuntime.Path}}";
        Ok(engine.podman_by_default().args(["info", format]).finish()?.ok()?.stdout)
    };
    assert!(!default(&engine)?.starts_with("coracle "), "it is the default without being asked for");
    // What the comment tells a user to do.
    engine.configure(|packaged| packaged.replace("# runtime = ", "runtime = "))?;
    let path = engine.path().join("bin/coracle");
    assert_eq!(default(&engine)?.trim(), format!("coracle {}", path.display()));
    let run = |line: &str| {
        let mut podman = engine.podman_by_default();
        podman.args(["run", "--name=c"]).args(engine.common()).args(words(line)).finish()
    };
    for (line, output) in [("native echo native", "native"), ("hello", "hello from a module")] {
        run(line)?.ok()?.prints(output)?;
        assert_eq!(engine.inspect("c", "{{.OCIRuntime}}")?, "coracle");
        engine.do_podman(&["rm", "c"])?.ok()?;
    }
    // buildah looks for the name in PATH.
    let context = engine.path().join("context");
    fs::create_dir(&context)?;
    fs::write(context.join("Containerfile"), "FROM localhost/show\nRUN [\"/main.wasm\", \"touch=/made\"]\n")?;
    let path = std::env::join_paths(
        [engine.path().join("bin")]
            .into_iter()
            .chain(std::env::split_paths(&std::env::var_os("PATH").context("PATH")?)),
    )?;
    let mut bud = engine.buildah();
    bud.env("PATH", path).args(words("bud --isolation=oci --pull-never -t made")).arg(&context);
    bud.finish()?.ok()?;
    assert!(run("--rm made ls=/")?.ok()?.lines().any(|l| l == "made"));
    engine.is_clean()
}

#[test]
fn podman_info_shows_the_runtime() -> Result<()> {
    let engine = Engine::new()?;
    let info = engine.do_podman(&["info", "--format", "{{.Host.OCIRuntime.Version}}"])?.ok()?;
    let version = command(coracle()).arg("--version").finish()?.ok()?;
    assert!(info.stdout.trim().starts_with(version.stdout.lines().next().context("version")?), "{info}");
    Ok(())
}
