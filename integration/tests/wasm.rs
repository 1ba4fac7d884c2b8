//! Modules through the runtime's command line: who runs them, what cannot be run, how they end.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use coracle_integration::{ConsoleSocket, Container, Host, Run, Terminal, c, coracle, rust, wat};
use rustix::process::Signal;
use serde_json::{Value, json};

/// A container with this module as `/main.wasm` in an otherwise empty root file system.
fn module<'h>(host: &'h Host, module: &Path, args: &[&str]) -> Result<Container<'h>> {
    let all: Vec<_> = std::iter::once("/main.wasm").chain(args.iter().copied()).collect();
    let container = host.empty_container(&all)?;
    container.install(module, "main.wasm")?;
    Ok(container)
}

fn show<'h>(host: &'h Host, args: &[&str]) -> Result<Container<'h>> {
    module(host, &c("show")?, args)
}

const HELLO: &str = "hello from a module";

#[test]
fn found_by_its_first_bytes() -> Result<()> {
    let host = Host::new()?;
    module(&host, &wat("hello")?, &[])?.run()?.ok()?.prints(HELLO)?;
    // Neither the name nor an extension plays a part.
    let container = host.container(&["program"])?;
    container.install(&wat("hello")?, "bin/program")?;
    container.run()?.ok()?.prints(HELLO)?;
    host.is_clean()
}

#[test]
fn asked_for_by_annotation() -> Result<()> {
    let host = Host::new()?;
    for (key, value) in [
        ("run.oci.handler", "wasm"),
        ("run.oci.handler", "wasm-smart"),
        ("run.oci.handler", "wasmtime"),
        ("run.oci.handler", "wasmedge"),
        ("run.oci.handler", "wasmer"),
        ("run.oci.handler", "wamr"),
        ("module.wasm.image/variant", "compat"),
        ("module.wasm.image/variant", "compat-smart"),
    ] {
        let mut container = module(&host, &wat("hello")?, &[])?;
        container.annotate(key, value).run()?.ok()?.prints(HELLO).context(format!("{key}={value}"))?;
    }
    let mut container = module(&host, &wat("hello")?, &[])?;
    let refused = container.annotate("run.oci.handler", "krun").run()?.fails_with("krun")?;
    assert!(refused.stderr.contains("wasm-smart"), "the known ones are listed: {refused}");
    host.is_clean()
}

#[test]
fn asked_for_by_the_programs_name() -> Result<()> {
    let host = Host::new()?;
    for name in ["crun-wasm", "coracle-wasm"] {
        let link = host.path().join(name);
        symlink(coracle(), &link)?;
        let container = module(&host, &wat("hello")?, &[])?;
        container.save()?;
        let run = |container: &Container| {
            host.runtime_at(&link)
                .arg("run")
                .arg("--bundle")
                .arg(container.bundle())
                .arg(&container.id)
                .finish()
        };
        run(&container)?.ok()?.prints(HELLO)?;
        let native = host.container(&["true"])?;
        native.save()?;
        run(&native)?.fails_with("WebAssembly")?;
    }
    host.is_clean()
}

#[test]
fn a_native_program_where_a_module_is_demanded() -> Result<()> {
    let host = Host::new()?;
    for (key, value) in [("run.oci.handler", "wasm"), ("module.wasm.image/variant", "compat")] {
        let mut container = host.container(&["true"])?;
        container.annotate(key, value).try_create(&[])?.exits(1)?.fails_with("WebAssembly")?;
        host.is_clean()?;
    }
    for (key, value) in [("run.oci.handler", "wasm-smart"), ("module.wasm.image/variant", "compat-smart")] {
        let mut container = host.container(&["echo", "native"])?;
        container.annotate(key, value).run()?.ok()?.prints("native")?;
    }
    Ok(())
}

#[test]
fn detection_can_be_switched_off() -> Result<()> {
    let host = Host::new()?;
    let mut container = module(&host, &wat("hello")?, &[])?;
    let failed = container.annotate("org.coracle.wasm.detect", "false").run()?;
    failed.fails_with("exec format error")?;
    container.annotate("run.oci.handler", "wasm").run()?.ok()?.prints(HELLO)?;
    host.is_clean()
}

#[test]
fn features_list_the_handlers() -> Result<()> {
    let host = Host::new()?;
    let features: Value = serde_json::from_str(&host.runtime().arg("features").finish()?.ok()?.stdout)?;
    assert!(features["ociVersionMin"].is_string() && features["ociVersionMax"].is_string(), "{features}");
    assert!(features["mountOptions"].as_array().is_some_and(|o| o.iter().any(|o| o == "rro")), "{features}");
    let annotations = features["annotations"].to_string();
    assert!(annotations.contains("wasm"), "{features}");
    Ok(())
}

#[test]
fn what_is_no_module_that_can_run() -> Result<()> {
    let host = Host::new()?;
    let hello = fs::read(wat("hello")?)?;
    let mut garbage = hello[..8].to_vec();
    garbage.extend([0xff; 64]);
    let file = host.path().join("bad.wasm");
    for (what, bytes, message) in [
        ("a component", b"\0asm\x0d\0\x01\0".to_vec(), "component"),
        ("another version", b"\0asm\x02\0\0\0".to_vec(), "version"),
        ("cut off in the header", hello[..6].to_vec(), "truncated"),
        ("cut off in the body", hello[..40].to_vec(), ""),
        ("an invalid one", garbage, "invalid"),
        ("one with an unknown import", fs::read(wat("unknown-import")?)?, "env.foo"),
        ("an empty file", Vec::new(), ""),
    ] {
        fs::write(&file, bytes)?;
        let mut container = module(&host, &file, &[])?;
        container.annotate("run.oci.handler", "wasm");
        let failed = container.try_create(&[])?.exits(1).context(what)?.fails_with(message).context(what)?;
        assert_eq!(failed.stderr.trim().lines().count(), 1, "{failed}");
        assert!(failed.stderr.contains("main.wasm"), "the file is named: {failed}");
        host.is_clean().context(what)?;
    }
    Ok(())
}

#[test]
fn commands_that_cannot_be_executed() -> Result<()> {
    let host = Host::new()?;
    for (command, message) in [
        ("/nosuch.wasm", "exec: \"/nosuch.wasm\": stat /nosuch.wasm: no such file or directory"),
        ("nosuch.wasm", "exec: \"nosuch.wasm\": executable file not found in $PATH"),
    ] {
        let mut container = host.empty_container(&[command])?;
        container.annotate("run.oci.handler", "wasm").try_create(&[])?.exits(1)?.fails_with(message)?;
    }
    host.is_clean()
}

#[test]
fn arguments_environment_and_streams() -> Result<()> {
    let host = Host::new()?;
    let mut container = show(&host, &["args", "env", "stderr", "stdin", "3"])?;
    container.config["process"]["env"] = json!(["PATH=/bin", "A=b c", "EMPTY="]);
    let done = container.run_command(&[])?.finish_with(b"typed\n")?.exits(3)?;
    let expected = "</main.wasm><args><env><stderr><stdin><3>\nPATH=/bin\nA=b c\nEMPTY=\ntyped\n";
    assert_eq!(done.stdout, expected);
    assert_eq!(done.stderr, "to stderr\n");
    assert!(!done.stdout.contains("CORACLE"));
    // Nothing is made up, but a home that the image has counts as for a native program.
    let mut container = show(&host, &["env"])?;
    container.config["process"]["env"] = json!([]);
    container.run()?.ok()?.prints("")?;
    fs::create_dir(container.rootfs().join("etc"))?;
    fs::write(container.rootfs().join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n")?;
    container.run()?.ok()?.prints("HOME=/root")?;
    Ok(())
}

#[test]
fn exit_codes_and_traps() -> Result<()> {
    let host = Host::new()?;
    module(&host, &wat("exit7")?, &[])?.run()?.exits(7)?;
    show(&host, &["255"])?.run()?.exits(255)?;
    let trap = module(&host, &wat("trap-unreachable")?, &[])?.run()?.exits(134)?.fails_with("unreachable")?;
    assert!(trap.stderr.contains("inner"), "a backtrace names the function: {trap}");
    module(&host, &rust("panic")?, &[])?.run()?.exits(134)?.fails_with("the reason")?.prints("before")?;
    show(&host, &["abort"])?.run()?.exits(134)?;
    host.is_clean()
}

/// PID 1 has no default signal actions of its own; a guest must end all the same, and at once.
#[test]
fn sigterm_ends_a_guest_at_once() -> Result<()> {
    let host = Host::new()?;
    for (word, ready) in [("spin", "spinning"), ("sleep", "sleeping"), ("tick", "ticking")] {
        let mut container = show(&host, &[word])?;
        container.create()?.start()?;
        container.expect(ready)?;
        let start = Instant::now();
        container.kill("TERM")?;
        assert_eq!(container.wait_exit()?, 143, "{word}");
        assert!(start.elapsed() < Duration::from_secs(2), "{word}: {:?}", start.elapsed());
    }
    let mut container = module(&host, &wat("busy")?, &[])?;
    container.create()?.start()?;
    container.kill("INT")?;
    assert_eq!(container.wait_exit()?, 130);
    container.delete()?;
    // Blocked in a read.
    let container = show(&host, &["stdin"])?;
    let mut run = container.run_command(&[])?.stdin(std::process::Stdio::piped()).job()?;
    let stdin = run.stdin();
    std::thread::sleep(Duration::from_millis(300));
    run.signal(Signal::TERM)?;
    run.wait_for(Duration::from_secs(10))?.exits(143)?;
    drop(stdin);
    host.is_clean()
}

#[test]
fn the_memory_limit() -> Result<()> {
    let host = Host::new()?;
    let mut container = module(&host, &wat("hog")?, &[])?;
    container.config["linux"]["resources"]["memory"] = json!({"limit": 48 << 20, "swap": 48 << 20});
    container.run()?.exits(137)?;
    // Below the limit nothing happens.
    let mut container = show(&host, &["alloc=16", "4"])?;
    container.config["linux"]["resources"]["memory"] = json!({"limit": 64 << 20, "swap": 64 << 20});
    container.run()?.exits(4)?.prints("allocated\ntouched")?;
    host.is_clean()
}

#[test]
fn the_file_system_is_the_containers() -> Result<()> {
    let host = Host::new()?;
    let volume = host.path().join("volume");
    fs::create_dir(&volume)?;
    fs::write(volume.join("f"), "from a volume\n")?;
    let mut container = show(&host, &["cat=/data/f", "touch=/data/new", "touch=/made", "cat=/nosuch"])?;
    container
        .mount(json!({"destination": "/data", "type": "bind", "source": volume, "options": ["rbind", "ro"]}));
    let done = container.run()?.ok()?;
    assert_eq!(
        done.stdout,
        "from a volume\n/data/new: Read-only file system\nmade /made\n/nosuch: No such file or directory\n"
    );
    assert!(container.rootfs().join("made").exists());
    Ok(())
}

#[test]
fn directories_by_annotation() -> Result<()> {
    let host = Host::new()?;
    let mut container = show(&host, &["cat=/visible/f", "cat=/main.wasm"])?;
    fs::create_dir(container.rootfs().join("data"))?;
    fs::write(container.rootfs().join("data/f"), "seen\n")?;
    let done = container.annotate("org.coracle.wasm.dirs", "/data::/visible").run()?.ok()?;
    assert!(done.stdout.starts_with("seen\n") && done.stdout.lines().count() == 2, "{done}");
    container.annotate("org.coracle.wasm.dirs", "/nosuch::/visible").run()?.fails_with("/nosuch")?;
    Ok(())
}

#[test]
fn users_and_permissions() -> Result<()> {
    let host = Host::new()?;
    let mut container = show(&host, &["cat=/secret", "touch=/made"])?;
    fs::write(container.rootfs().join("secret"), "s")?;
    fs::set_permissions(
        container.rootfs().join("secret"),
        std::os::unix::fs::PermissionsExt::from_mode(0o600),
    )?;
    container.config["process"]["user"] = json!({"uid": 1000, "gid": 1000});
    container.config["process"]["capabilities"] = json!({});
    container.run()?.ok()?.prints("/secret: Permission denied\n/made: Permission denied")?;
    Ok(())
}

#[test]
fn a_read_only_root() -> Result<()> {
    let host = Host::new()?;
    let mut container = show(&host, &["touch=/made"])?;
    container.config["root"]["readonly"] = json!(true);
    container.run()?.ok()?.prints("/made: Read-only file system")?;
    Ok(())
}

/// Podman's default profile, no new privileges, no capabilities: what an engine gives a module.
#[test]
fn confined_as_engines_do() -> Result<()> {
    let host = Host::new()?;
    let mut container = show(&host, &["args", "cat=/proc/self/status", "5"])?;
    container.config["process"]["noNewPrivileges"] = json!(true);
    container.config["process"]["capabilities"] = json!({});
    container.config["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": []});
    // With nothing allowed at all not even the handler can be executed: an error, no hang.
    let refused = container.run()?;
    assert_ne!(refused.code, 5);
    container.config["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["mkdir", "ptrace", "unshare"], "action": "SCMP_ACT_ERRNO"}]});
    container.run()?.exits(5)?;
    host.is_clean()
}

#[test]
fn terminals() -> Result<()> {
    let host = Host::new()?;
    show(&host, &["tty"])?.run()?.ok()?.prints("tty 0 0 0")?;
    let mut container = show(&host, &["tty", "line", "6"])?;
    container.config["process"]["terminal"] = json!(true);
    let mut terminal = Terminal::spawn(&mut container.run_command(&[])?)?;
    terminal.expect("tty 1 1 1")?;
    terminal.type_in("word\r")?;
    terminal.expect("got word")?;
    assert_eq!(terminal.wait()?.0, 6);

    let socket = ConsoleSocket::bind(&host.path().join("console.sock"))?;
    container.try_create(&["--console-socket", socket.path()])?.ok()?;
    let mut terminal = socket.accept()?;
    container.start()?;
    terminal.expect("tty 1 1 1")?;
    terminal.type_in("\u{3}")?;
    assert_eq!(container.wait_exit()?, 130);
    Ok(())
}

#[test]
fn exec_of_modules_and_native_programs() -> Result<()> {
    let host = Host::new()?;
    let mut container = host.container(&["/main.wasm", "sleep"])?;
    container.install(&c("show")?, "main.wasm")?.install(&wat("hello")?, "hello.wasm")?;
    container.create()?.start()?;
    container.expect("sleeping")?;
    container.exec(&["/hello.wasm"])?.ok()?.prints(HELLO)?;
    container.exec(&["/main.wasm", "args", "9"])?.exits(9)?.prints("</main.wasm><args><9>")?;
    container.exec(&["sh", "-c", "echo native; exit 2"])?.exits(2)?.prints("native")?;
    // The other way round: a module in a native container.
    let mut native = host.container(&["sleep", "1000"])?;
    native.install(&wat("hello")?, "hello.wasm")?;
    native.create()?.start()?;
    native.exec(&["/hello.wasm"])?.ok()?.prints(HELLO)?;
    Ok(())
}

#[test]
fn a_module_in_a_user_namespace() -> Result<()> {
    let host = Host::new()?;
    let mut container = show(&host, &["touch=/made", "5"])?;
    container.namespace("user", None);
    let map = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
    container.config["linux"]["uidMappings"] = map.clone();
    container.config["linux"]["gidMappings"] = map;
    std::os::unix::fs::chown(container.rootfs(), Some(100_000), Some(100_000))?;
    container.run()?.exits(5)?.prints("made /made")?;
    host.is_clean()
}
