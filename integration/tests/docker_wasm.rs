//! Images whose entrypoint is a module, on dockerd: it passes no annotation, so the module's first bytes must do.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::Result;
use coracle_integration::{Docker, Run, Terminal, c, wat};

const HELLO: &str = "hello from a module";

/// A daemon with the image `show`, which also holds `hello.wasm`.
fn docker() -> Result<Docker> {
    let docker = Docker::new()?;
    docker.wasm_image("show", &[("main.wasm", c("show")?), ("hello.wasm", wat("hello")?)])?;
    Ok(docker)
}

#[test]
fn arguments_environment_streams_and_exit_codes() -> Result<()> {
    let docker = docker()?;
    let done = docker
        .run(&["-i", "-e", "A=b", "show", "args", "env", "stdin", "stderr", "7"])
        .finish_with(b"typed\n")?
        .exits(7)?;
    assert!(done.stdout.starts_with("</main.wasm><args><env><stdin><stderr><7>\n"), "{done}");
    assert!(done.stdout.contains("\nA=b\n") && done.stdout.ends_with("\ntyped\n"), "{done}");
    assert_eq!(done.stderr, "to stderr\n");
    docker.run(&["--entrypoint=/hello.wasm", "show"]).finish()?.ok()?.prints(HELLO)?;
    docker.run(&["--init", "show", "6"]).finish()?.exits(6)?;
    docker.run(&["--entrypoint=/nosuch.wasm", "show"]).finish()?.exits(127)?;
    docker.wasm_image("trap", &[("main.wasm", wat("trap-unreachable")?)])?;
    docker.run(&["trap"]).finish()?.exits(134)?.fails_with("unreachable")?;
    docker.wasm_image("unknown", &[("main.wasm", wat("unknown-import")?)])?;
    docker.run(&["unknown"]).finish()?.exits(125)?.fails_with("env.foo")?;
    let mut terminal = Terminal::spawn(&mut docker.run(&["-it", "show", "tty", "line", "5"]))?;
    terminal.expect("tty 1 1 1")?;
    terminal.type_in("word\r")?;
    terminal.expect("got word")?;
    assert_eq!(terminal.wait()?.0, 5);
    docker.is_clean()
}

#[test]
fn volumes_users_and_limits() -> Result<()> {
    let docker = docker()?;
    let dir = docker.path().join("volume");
    fs::create_dir(&dir)?;
    fs::write(dir.join("f"), "from the host\n")?;
    let volume = format!("{}:/data", dir.display());
    let show = |flags: &[&str], words: &[&str]| docker.run(flags).arg("show").args(words).finish()?.ok();
    show(&["-v", &volume], &["cat=/data/f", "touch=/data/g"])?.prints("from the host\nmade /data/g")?;
    assert!(dir.join("g").exists());
    show(&["-v", &format!("{volume}:ro")], &["touch=/data/h"])?.prints("/data/h: Read-only file system")?;
    show(&["--read-only"], &["touch=/h"])?.prints("/h: Read-only file system")?;
    show(&["--user=1000"], &["touch=/h"])?.prints("/h: Permission denied")?;
    let module = format!("{}:/module.wasm:ro", dir.join("module.wasm").display());
    fs::copy(wat("hello")?, dir.join("module.wasm"))?;
    fs::set_permissions(dir.join("module.wasm"), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    docker.run(&["-v", &module, "native", "/module.wasm"]).finish()?.ok()?.prints(HELLO)?;

    docker.wasm_image("hog", &[("main.wasm", wat("hog")?)])?;
    docker.start("hog", &["--memory=48m", "--memory-swap=48m", "hog"])?;
    docker.docker(&["wait", "hog"])?.ok()?.prints("137")?;
    docker.expect("hog", "{{.State.OOMKilled}}", "true")?;
    docker.is_clean()
}

#[test]
fn exec_stats_pause_and_a_quick_stop() -> Result<()> {
    let docker = docker()?;
    docker.start("tick", &["show", "tick"])?;
    docker.expect_log("tick", "ticking")?;
    docker.docker(&["exec", "tick", "/hello.wasm"])?.ok()?.prints(HELLO)?;
    docker.docker(&["exec", "tick", "/main.wasm", "9"])?.exits(9)?;
    docker.docker(&["exec", "tick", "/nosuch.wasm"])?.exits(126)?;
    let stats = docker.docker(&["stats", "--no-stream", "--format", "{{.PIDs}}", "tick"])?.ok()?;
    stats.prints("1")?;
    docker.docker(&["pause", "tick"])?.ok()?;
    docker.docker(&["unpause", "tick"])?.ok()?;
    docker.docker(&["restart", "--time=20", "tick"])?.ok()?;
    docker.docker(&["kill", "tick"])?.ok()?;
    docker.docker(&["wait", "tick"])?.ok()?.prints("137")?;

    for (word, ready) in [("spin", "spinning"), ("sleep", "sleeping")] {
        docker.start(word, &["show", word])?;
        docker.expect_log(word, ready)?;
        let start = Instant::now();
        docker.docker(&["stop", "--time=20", word])?.ok()?;
        assert!(start.elapsed() < Duration::from_secs(10), "{word}: {:?}", start.elapsed());
        assert_eq!(docker.inspect(word, "{{.State.ExitCode}}")?, "143");
    }
    docker.is_clean()
}
