//! The lines that fail: exit code, text, where it is written, and what each engine makes of it.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use coracle_integration::{Host, reap, wat};
use serde_json::{Value, json};

use crate::caller::{Caller, Done};
use crate::readers::{self, Gone};
use crate::table::{ENGINES, Engine, Verb, lines, root};

/// Requires a code and words from a failed line, and that no pid file is written. Returns what the engine reads.
fn fails(caller: &Caller<'_>, line: &str, done: &Done, code: i32, words: &str) -> Result<String> {
    let what = || format!("{:?}: {line}", caller.engine);
    let message = done.message().with_context(what)?;
    ensure!(done.finished.code == code, "{}: exit code {code} expected: {}", what(), done.finished);
    ensure!(message.ends_with(words), "{}: {words:?} expected, not {message:?}", what());
    ensure!(!line.contains("$P") || !caller.file("pid").exists(), "{}: a pid file", what());
    // conmon and buildah pass standard error on, with the quotes escaped in it.
    let raw =
        matches!(caller.engine, Engine::Podman | Engine::Buildah | Engine::Crio) && !line.contains("$L");
    Ok(if raw { done.finished.stderr.clone() } else { message })
}

/// The lines for a verb that have neither a terminal nor another question than the plain ones.
fn plain(engine: Engine, verb: Verb) -> impl Iterator<Item = &'static str> {
    lines(engine, verb)
        .iter()
        .copied()
        .filter(|line| !["$S", "preserve", "disabled"].iter().any(|w| line.contains(w)))
}

/// What dockerd and its client read of a message of the runtime's.
fn by_docker(message: &str, program: &str) -> (Option<i32>, i32) {
    let error = format!("failed to create shim task: OCI runtime create failed: {message}: unknown");
    (readers::dockerd(&error, program), readers::docker_client(&error))
}

#[test]
fn programs_that_cannot_be_executed() -> Result<()> {
    let programs = [
        ("nosuch", "exec: \"nosuch\": executable file not found in $PATH", 127),
        ("/nosuch", "exec: \"/nosuch\": stat /nosuch: no such file or directory", 127),
        ("/etc", "exec: \"/etc\": permission denied", 126),
        ("/etc/passwd", "exec: \"/etc/passwd\": permission denied", 126),
    ];
    for engine in ENGINES {
        let host = Host::new()?;
        let mut caller = Caller::new(engine, &host, &[])?;
        for (program, words, code) in programs {
            caller.container.config["process"]["args"] = json!([program]);
            for line in plain(engine, Verb::Create) {
                let (done, _) = caller.try_create(line)?;
                let message = fails(&caller, line, &done, 1, words)?;
                assert_eq!(readers::podman(&message), code, "{message}");
                assert_eq!(readers::podman5(&message), code, "{message}");
                assert_eq!(by_docker(&message, program), (Some(code), code), "{message}");
                host.is_clean()?;
            }
        }
        let running = Caller::running(engine, &host, &["sleep", "1000"])?;
        for (program, words, code) in programs {
            for line in plain(engine, Verb::Exec) {
                fs::remove_file(running.file("pid")).ok();
                running.process_file(&[program], |_| ())?;
                let message = fails(&running, line, &running.call(line)?, 255, words)?;
                assert_eq!(readers::podman(&message), code, "{message}");
                assert_eq!(by_docker(&message, program), (Some(code), code), "{message}");
            }
        }
    }
    Ok(())
}

#[test]
fn a_working_directory_that_is_not_there() -> Result<()> {
    let host = Host::new()?;
    for engine in ENGINES {
        let caller = Caller::running(engine, &host, &["sleep", "1000"])?;
        for line in plain(engine, Verb::Exec) {
            fs::remove_file(caller.file("pid")).ok();
            caller.process_file(&["true"], |process| process["cwd"] = json!("/nodir"))?;
            let words = "chdir to cwd (\"/nodir\") set in config.json failed: no such file or directory";
            let message = fails(&caller, line, &caller.call(line)?, 255, words)?;
            assert_eq!(readers::podman(&message), 127);
        }
    }
    Ok(())
}

#[test]
fn an_unknown_id() -> Result<()> {
    let host = Host::new()?;
    let verbs =
        [Verb::Start, Verb::Exec, Verb::Kill, Verb::Delete, Verb::State, Verb::Pause, Verb::Update, Verb::Ps];
    for engine in ENGINES {
        let caller = Caller::new(engine, &host, &["true"])?;
        caller.process_file(&["true"], |_| ())?;
        fs::write(caller.file("resources.json"), "{}")?;
        for verb in verbs {
            for line in plain(engine, verb).filter(|line| !line.contains("--force")) {
                let code = if verb == Verb::Exec { 255 } else { 1 };
                let done = caller.call_with(line, b"{}")?;
                fails(&caller, line, &done, code, "container does not exist")?;
                match verb {
                    Verb::State => assert!(readers::podman_gone(&done.finished.stderr)),
                    Verb::Kill => {
                        assert_eq!(readers::containerd_kill(&done.finished.stderr), Gone::Container)
                    }
                    Verb::Delete => assert!(readers::containerd_delete_ignores(&done.finished.stderr)),
                    _ => (),
                }
            }
        }
        // Of what is gone already, or never was.
        caller.silently(&format!("{}delete --force ID", root(engine)))?;
    }
    Ok(())
}

#[test]
fn an_id_in_use() -> Result<()> {
    for engine in ENGINES {
        let host = Host::new()?;
        let first = Caller::running(engine, &host, &["sleep", "1000"])?;
        let mut second = Caller::new(engine, &host, &["true"])?;
        second.container.id.clone_from(&first.container.id);
        for line in plain(engine, Verb::Create) {
            let (done, _) = second.try_create(line)?;
            fails(&second, line, &done, 1, "container with given ID already exists")?;
        }
        assert_eq!(first.state()?["status"], "running", "the first one must not notice");
    }
    Ok(())
}

#[test]
fn statuses_that_a_verb_does_not_take() -> Result<()> {
    for engine in ENGINES {
        let host = Host::new()?;
        let caller = Caller::running(engine, &host, &["sleep", "1000"])?;
        let id = &caller.container.id;
        let line = |words: &str| format!("{}{words}", root(engine));
        let fails = |words: &str, code: i32, message: &str| {
            let line = line(words);
            let done = caller.call(&line)?;
            fails(&caller, &line, &done, code, message)?;
            Ok::<_, anyhow::Error>(done.finished.stderr)
        };
        fails("start ID", 1, "cannot start an already running container")?;
        fails("delete ID", 1, &format!("cannot delete container {id} that is not stopped: running"))?;
        fails("resume ID", 1, "container not paused")?;
        let bad = fails("kill ID BADSIG", 1, "unknown signal \"BADSIG\"")?;
        assert_eq!((readers::containerd_kill(&bad), readers::crio_kill(&bad)), (Gone::No, Gone::No));
        caller.silently(&line("pause ID"))?;
        let words = "cannot exec in a paused container (use --ignore-paused to override)";
        caller.process_file(&["true"], |_| ())?;
        fails("exec --process $J ID", 255, words)?;
        caller.silently(&line("resume ID"))?;

        caller.silently(&line("kill ID KILL"))?;
        assert_eq!(reap(caller.pid()?)?, 137);
        for verb in plain(engine, Verb::Kill) {
            let done = caller.call(verb)?;
            if verb.contains("--all") || verb.contains("-a ") {
                // Nothing is left to be killed, which is what was wanted.
                done.silent()?;
                continue;
            }
            ensure!(done.message()? == "container not running", "{}", done.finished);
            let stderr = &done.finished.stderr;
            assert_eq!(
                (readers::containerd_kill(stderr), readers::crio_kill(stderr)),
                (Gone::Process, Gone::Process)
            );
        }
    }
    Ok(())
}

/// runc fails with "unable to apply caps: operation not permitted"; here what the runtime does not have is left out.
/// That is warned of, but not in an engine's log: with a second object in it podman could not read an error.
#[test]
fn capabilities_that_are_not_held() -> Result<()> {
    let host = Host::new()?;
    for engine in ENGINES {
        let mut caller = Caller::new(engine, &host, &[])?;
        for set in ["bounding", "effective", "permitted"] {
            let all = caller.container.config["process"]["capabilities"][set].as_array_mut();
            all.context("capabilities")?.extend(["CAP_SYS_RESOURCE", "CAP_OF_THE_FUTURE"].map(Value::from));
        }
        for line in plain(engine, Verb::Create) {
            let mut create = |program: &str| -> Result<Done> {
                caller.container.config["process"]["args"] = json!([program]);
                let (done, _) = caller.try_create(line)?;
                caller.silently(&format!("{}delete --force ID", root(engine)))?;
                Ok(done)
            };
            let (done, failed) = (create("true")?, create("nosuch")?);
            if done.has_log() {
                done.silent()?;
                assert!(failed.message()?.contains("executable file not found"));
            } else {
                let done = done.finished.ok()?;
                ensure!(done.stderr.lines().all(|l| l.contains("level=warning")), "{done}");
            }
        }
    }
    Ok(())
}

/// What CRI-O and the kubelet give a sandbox, and pods of the class Guaranteed. It takes CAP_SYS_RESOURCE.
#[test]
fn an_oom_score_below_the_engines_own() -> Result<()> {
    let status = fs::read_to_string("/proc/self/status")?;
    let held = status.lines().find_map(|l| l.strip_prefix("CapEff:\t")).context("CapEff")?;
    let held = u64::from_str_radix(held, 16)? & 1 << 24 != 0;
    let host = Host::new()?;
    for engine in [Engine::Crio, Engine::Containerd] {
        for line in plain(engine, Verb::Create) {
            let mut caller = Caller::new(engine, &host, &["true"])?;
            caller.container.config["process"]["oomScoreAdj"] = json!(-998);
            let (done, _) = caller.try_create(line)?;
            if held {
                done.silent()?;
            } else {
                fails(&caller, line, &done, 1, "/oom_score_adj: permission denied")?;
            }
        }
    }
    Ok(())
}

#[test]
fn systemds_cgroups_without_systemd() -> Result<()> {
    if Path::new("/run/systemd/system").exists() {
        return Ok(());
    }
    let host = Host::new()?;
    for engine in ENGINES {
        let mut caller = Caller::new(engine, &host, &["true"])?;
        caller.container.config["linux"]["cgroupsPath"] = json!("machine.slice:foo:deadbeef");
        for line in plain(engine, Verb::Create) {
            let line = format!("--systemd-cgroup {line}");
            let (done, _) = caller.try_create(&line)?;
            let words = "systemd not running on this host, cannot use systemd cgroups manager";
            fails(&caller, &line, &done, 1, words)?;
        }
    }
    Ok(())
}

/// What a user sees of a module where modules are switched off: runc's words, after `start`.
#[test]
fn a_module_without_a_handler() -> Result<()> {
    let host = Host::new()?;
    for engine in ENGINES {
        let mut caller = Caller::new(engine, &host, &["/hello.wasm"])?;
        caller.container.install(&wat("hello")?, "hello.wasm")?;
        caller.container.annotate("org.coracle.wasm.detect", "false");
        caller.create(lines(engine, Verb::Create)[0])?;
        caller.verb(Verb::Start)?;
        assert_eq!(reap(caller.pid()?)?, 1);
        assert_eq!(caller.rest()?, "exec /hello.wasm: exec format error\n");
    }
    Ok(())
}

/// Usage errors are failures too, and go where the others go.
#[test]
fn usage_errors() -> Result<()> {
    let host = Host::new()?;
    for engine in ENGINES {
        let caller = Caller::new(engine, &host, &["true"])?;
        for (line, code) in [("create --nosuchflag ID", 1), ("nosuchverb ID", 3)] {
            let done = caller.call(line)?.finished.exits(code)?;
            ensure!(!done.stderr.is_empty(), "{done}");
        }
    }
    Ok(())
}
