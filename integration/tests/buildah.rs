//! Images built by buildah, and containers of its own: native programs, modules, and both in one build.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, ensure};
use coracle_integration::{Engine, Finished, Run, Terminal, coracle, wat, words};

/// Writes a build's directory.
fn context(engine: &Engine, containerfile: &str) -> Result<PathBuf> {
    let context = engine.path().join("context");
    fs::create_dir_all(&context)?;
    fs::write(context.join("Containerfile"), containerfile)?;
    Ok(context)
}

/// `buildah bud` with the runtime.
fn bud(engine: &Engine, containerfile: &str, flags: &str) -> Result<Finished> {
    let mut buildah = engine.buildah();
    buildah.args(words("bud --network=none --isolation=oci --pull-never --runtime")).arg(coracle());
    buildah.args(words(flags)).args(["-t", "built"]).arg(context(engine, containerfile)?).finish()
}

/// `buildah run` in a container, with the runtime.
fn run(engine: &Engine, container: &str, flags: &str) -> Command {
    let mut buildah = engine.buildah();
    buildah.args(words("run --network=none --isolation=oci --runtime")).arg(coracle());
    buildah.args(words(flags)).args([container, "--"]);
    buildah
}

fn from(engine: &Engine, image: &str) -> Result<String> {
    let from = engine.buildah().args(["from", "--pull-never", image]).finish()?.ok()?;
    Ok(from.stdout.trim().to_owned())
}

#[test]
fn native_builds_and_containers() -> Result<()> {
    let engine = Engine::new()?;
    let containerfile = "
        FROM localhost/native
        ARG WORD=nothing
        ENV B=b
        RUN echo built $WORD > /made && id -u >> /made
        RUN --mount=type=tmpfs,target=/scratch --mount=type=bind,source=Containerfile,target=/file \\
            --mount=type=cache,target=/cache --mount=type=secret,id=s \\
            touch /scratch/f /cache/f && head -n 2 /file | grep -c FROM >> /made && cat /run/secrets/s >> /made
        WORKDIR /tmp
        USER 1000
        RUN id -u > user; pwd >> user; echo $B >> user; umask >> user
        CMD [\"cat\", \"/made\", \"/tmp/user\"]
        ";
    let secret = engine.path().join("secret");
    fs::write(&secret, "hidden\n")?;
    let flags = format!("--build-arg WORD=here --secret id=s,src={}", secret.display());
    bud(&engine, containerfile, &flags)?.ok()?;
    engine.run(&["built"]).finish()?.ok()?.prints("built here\n0\n1\nhidden\n1000\n/tmp\nb\n0022")?;
    engine
        .run(&["built", "ls", "/scratch", "/file", "/cache/f", "/run/secrets/s"])
        .finish()?
        .fails_with("/cache/f")?;
    bud(&engine, "FROM localhost/native\nRUN exit 5\n", "")?.fails_with("exit status 5")?;
    bud(&engine, "FROM localhost/native\nRUN [\"/nosuch\"]\n", "")?
        .fails_with("no such file or directory")?;

    let container = from(&engine, "localhost/built")?;
    let cat = run(&engine, &container, "").args(["cat", "/made"]).finish()?.ok()?;
    assert!(cat.stdout.starts_with("built here\n0\n"), "{cat}");
    run(&engine, &container, "").args(["sh", "-c", "exit 5"]).finish()?.exits(5)?;
    let volume = format!(
        "--user 0 --env C=c --hostname ship --cap-drop all --volume {}:/v:ro",
        engine.path().display()
    );
    let script = "id -u; echo $C; hostname; cat /v/secret; grep CapEff /proc/self/status";
    let done = run(&engine, &container, &volume).args(["sh", "-c", script]).finish()?.ok()?;
    done.prints("0\nc\nship\nhidden\nCapEff:\t0000000000000000")?;
    let mut terminal = Terminal::spawn(run(&engine, &container, "--terminal").args([
        "sh",
        "-c",
        "tty; read x; echo got $x",
    ]))?;
    terminal.expect("/dev/pts/")?;
    terminal.type_in("word\r")?;
    terminal.expect("got word")?;
    assert_eq!(terminal.wait()?.0, 0);

    // Flags for the runtime itself.
    let log = engine.path().join("log");
    let flags =
        format!("--runtime-flag debug --runtime-flag log-format=json --runtime-flag log={}", log.display());
    run(&engine, &container, &flags).arg("true").finish()?.ok()?;
    let lines = fs::read_to_string(log)?;
    ensure!(lines.lines().next().is_some_and(|l| l.starts_with("{\"level\":\"debug\"")), "{lines}");
    engine.buildah().args(["rm", "--all"]).finish()?.ok()?;
    engine.is_clean()
}

#[test]
fn builds_with_modules() -> Result<()> {
    let engine = Engine::new()?;
    let context = context(&engine, "")?;
    fs::copy(wat("hello")?, context.join("hello.wasm"))?;
    let module = "FROM scratch\nCOPY hello.wasm /\nENTRYPOINT [\"/hello.wasm\"]\n";
    bud(&engine, module, "--annotation module.wasm.image/variant=compat")?.ok()?;
    engine.run(&["built"]).finish()?.ok()?.prints("hello from a module")?;

    // A native stage makes what a module then reads, and a module's stage what a native one reads.
    let stages = "
        FROM localhost/native AS native
        COPY hello.wasm /
        RUN echo from the native stage > /n
        RUN [\"/hello.wasm\"]
        FROM localhost/show AS module
        COPY --from=native /n /
        RUN [\"/main.wasm\", \"cat=/n\", \"touch=/w\"]
        USER 1000
        CMD [\"ls=/\", \"touch=/x\"]
        FROM localhost/native AS last
        COPY --from=module /w /w
        RUN test -e /w
        ";
    let built = bud(&engine, stages, "--target module")?.ok()?;
    ensure!(built.stdout.contains("hello from a module\n"), "{built}");
    ensure!(built.stdout.contains("from the native stage\nmade /w\n"), "{built}");
    let done = engine.run(&["built"]).finish()?.ok()?;
    ensure!(done.lines().any(|l| l == "w") && done.stdout.ends_with("/x: Permission denied\n"), "{done}");
    bud(&engine, stages, "")?.ok()?;
    bud(&engine, "FROM localhost/show\nRUN [\"/main.wasm\", \"5\"]\n", "")?.fails_with("exit status 5")?;

    let container = from(&engine, "localhost/show")?;
    let show = |flags: &str, args: &str| run(&engine, &container, flags).args(words(args)).finish();
    show("", "/main.wasm args 7")?.exits(7)?.prints("</main.wasm><args><7>")?;
    let world = show("--user 1000 --env C=c", "/main.wasm env touch=/x")?.ok()?;
    ensure!(
        world.lines().any(|l| l == "C=c") && world.stdout.ends_with("/x: Permission denied\n"),
        "{world}"
    );
    run(&engine, &container, "")
        .args(["/main.wasm", "stdin"])
        .finish_with(b"typed")?
        .ok()?
        .prints("typed")?;
    // Without RUN's shell, an image of one module has only the module.
    show("", "/bin/sh")?.fails_with("no such file or directory")?;
    engine.buildah().args(["rm", "--all"]).finish()?.ok()?;
    engine.is_clean()
}
