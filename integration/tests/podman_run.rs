//! `podman run` and its flags, with native programs and with modules.

use std::fs;

use anyhow::{Context, Result, ensure};
use coracle_integration::{Engine, Host, Run, after, eventually, words};

#[test]
fn run_and_its_exit_code() -> Result<()> {
    let engine = Engine::new()?;
    engine.run(&["native", "echo", "hello"]).finish()?.ok()?.prints("hello")?;
    engine.run(&["native", "sh", "-c", "exit 7"]).finish()?.exits(7)?;
    engine.run(&["native", "sh", "-c", "kill -9 $$; sleep 1; exit 3"]).finish()?.exits(3)?;
    engine.run(&["show", "7"]).finish()?.exits(7)?;
    let echo = ["-i", "native", "sh", "-c", "cat; echo err >&2"];
    let done = engine.run(&echo).finish_with(b"typed")?.ok()?;
    assert_eq!((done.stdout.as_str(), done.stderr.as_str()), ("typed", "err\n"));
    // conmon counts the seconds, and podman has no other code for it.
    for sleep in [["native", "sleep", "1000"].as_slice(), &["show", "sleep"]] {
        engine.run(&["--timeout=1"]).args(sleep).finish()?.exits(255)?;
    }
    engine.is_clean()
}

#[test]
fn what_cannot_be_executed() -> Result<()> {
    let engine = Engine::new()?;
    engine.run(&["native", "nosuch"]).finish()?.exits(127)?.fails_with("not found")?;
    engine.run(&["native", "/nosuch"]).finish()?.exits(127)?;
    engine.run(&["native", "/etc"]).finish()?.exits(126)?.fails_with("ermission denied")?;
    engine.run(&["native", "/etc/passwd"]).finish()?.exits(126)?;
    engine.run(&["--workdir", "/etc/passwd", "native", "true"]).finish()?.fails_with("/etc/passwd")?;
    engine.is_clean()
}

#[test]
fn from_scratch_with_one_static_program() -> Result<()> {
    let engine = Engine::new()?;
    let root = engine.path().join("one");
    fs::create_dir(&root)?;
    fs::copy("/bin/busybox", root.join("echo"))?;
    engine.import("one", &root, &["ENTRYPOINT [\"/echo\"]"])?;
    engine.run(&["one", "alone"]).finish()?.ok()?.prints("alone")?;
    engine.is_clean()
}

#[test]
fn what_a_process_is_given() -> Result<()> {
    let engine = Engine::new()?;
    let flags = "--user 1000:1000 --group-add 7 --hostname boat --env A=b --tz Asia/Tokyo \
                 --umask 0027 --sysctl kernel.msgmax=4096 --shm-size 1m --oom-score-adj 100 --env-host \
                 --ulimit nofile=321:322 --ulimit nproc=1000:1000 --personality LINUX32 --device /dev/null:/dev/mine --cap-drop all";
    let script = "id -u; id -G; hostname; pwd; echo $A $OF_THE_HOST; date +%Z; umask; \
                  cat /proc/sys/kernel/msgmax /proc/self/oom_score_adj; ulimit -Sn; ulimit -Hn; uname -m; \
                  stat -c %t:%T /dev/mine; df /dev/shm | grep -c 1024; grep CapEff /proc/self/status";
    let expected = "1000\n1000 7\nboat\n/tmp\nb there\nJST\n0027\n4096\n100\n321\n322\ni686\n1:3\n1\n\
                    CapEff:\t0000000000000000";
    let run = |image: &[&str]| engine.run(&words(flags)).env("OF_THE_HOST", "there").args(image).finish();
    run(&["--workdir", "/tmp", "native", "sh", "-c", script])?.ok()?.prints(expected)?;
    let module =
        run(&["show", "env", "touch=/f", "cat=/proc/self/oom_score_adj", "cat=/etc/hostname"])?.ok()?;
    // Podman 5 ends the name's line, podman 4 does not.
    for text in ["A=b\n", "OF_THE_HOST=there\n", "\n/f: Permission denied\n100\nboat"] {
        assert!(module.stdout.contains(text), "{text:?}: {module}");
    }
    engine
        .run(&["--cap-add", "net_admin", "--user", "1000", "native", "grep", "CapAmb", "/proc/self/status"])
        .finish()?
        .ok()?
        .prints("CapAmb:\t0000000000001000")?;
    let device = ["--device", "/dev/kmsg:/dev/mine:r", "native", "sh", "-c", "echo x > /dev/mine"];
    engine.run(&device).finish()?.exits(1)?.fails_with("Operation not permitted")?;
    engine.is_clean()
}

#[test]
fn descriptors_secrets_and_the_pid_file() -> Result<()> {
    let engine = Engine::new()?;
    let given = engine.path().join("given");
    fs::write(&given, "of the host\n")?;
    engine.do_podman(&["secret", "create", "s", &given.to_string_lossy()])?.ok()?;
    let mut run = engine.run(&words("--preserve-fds=1 --secret s --secret s,type=env,target=S native sh -c"));
    run.arg("cat <&3; cat /run/secrets/s; echo $S");
    let done = after("exec \"$@\" 3< $0", &given.to_string_lossy(), &run).finish()?.ok()?;
    done.prints("of the host\nof the host\nof the host")?;
    let module = words("--secret s --secret s,type=env,target=S show cat=/run/secrets/s env");
    let module = engine.run(&module).finish()?.ok()?;
    assert!(module.stdout.contains("of the host\n") && module.stdout.contains("S=of the host"), "{module}");

    for (name, image) in [("n", words("native sleep 1000")), ("w", words("show sleep"))] {
        let file = engine.path().join(name);
        engine
            .start(&[&["--name", name, "--pidfile", &file.to_string_lossy()], image.as_slice()].concat())?;
        let pid = engine.inspect(name, "{{.State.Pid}}")?;
        assert_eq!(fs::read_to_string(&file)?, pid);
    }
    engine.is_clean()
}

#[test]
fn security_options() -> Result<()> {
    let engine = Engine::new()?;
    let status = |flags: &str, field: &str| -> Result<String> {
        let flags = [words(flags), vec!["native", "grep", field, "/proc/self/status"]].concat();
        Ok(engine.run(&flags).finish()?.ok()?.stdout.trim().to_owned())
    };
    assert_eq!(status("--security-opt seccomp=unconfined", "^Seccomp:")?, "Seccomp:\t0");
    assert_eq!(status("--security-opt no-new-privileges", "^NoNewPrivs")?, "NoNewPrivs:\t1");
    let profile = engine.path().join("profile.json");
    fs::write(
        &profile,
        r#"{"defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}]}"#,
    )?;
    let own = format!("seccomp={}", profile.display());
    let refused = engine.run(&["--security-opt", &own, "native", "mkdir", "/d"]).finish()?.exits(1)?;
    refused.fails_with("Operation not supported")?;
    engine.run(&["--security-opt", &own, "show", "3"]).finish()?.exits(3)?;

    // A masked directory is an empty one; what the engine masks by itself can be shown; /proc has the options asked for.
    let paths = "--security-opt mask=/etc --security-opt unmask=/proc/scsi:/sys/firmware \
                 --security-opt proc-opts=nosuid,hidepid=2 native sh -c";
    let script = "ls /etc | wc -l; grep -cE ' (/proc/scsi|/sys/firmware) ' /proc/mounts; \
                  grep -cE ' /proc proc .*nosuid.*hidepid=(2|invisible)' /proc/mounts";
    engine.run(&words(paths)).arg(script).finish()?.exits(0)?.prints("0\n0\n1")?;
    engine.run(&words("--security-opt mask=/dev show ls=/dev")).finish()?.ok()?.prints("")?;
    // All that this test's own process may, and every device.
    let privileged =
        ["--privileged", "native", "sh", "-c", "test -e /dev/kmsg && mount -t tmpfs t /tmp && echo may"];
    engine.run(&privileged).finish()?.ok()?.prints("may")?;
    engine.run(&["--privileged", "show", "3"]).finish()?.exits(3)?;
    engine.is_clean()
}

#[test]
fn an_init_before_the_program() -> Result<()> {
    let engine = Engine::new()?;
    let script = ["--init", "native", "sh", "-c", "cat /proc/1/comm; exit 5"];
    engine.run(&script).finish()?.exits(5)?.prints("podman-init")?;
    // Signals pass it, and nothing stays a zombie.
    let orphans = "trap 'exit 6' TERM; (sleep 0.01 &); sleep 0.2; grep -l ') Z ' /proc/[0-9]*/stat; echo ready; \
                   while :; do sleep 0.05; done";
    engine.start(&["--init", "--name", "n", "native", "sh", "-c", orphans])?;
    engine.logged("n", "ready")?;
    assert_eq!(engine.do_podman(&["logs", "n"])?.stdout, "ready\n");
    engine.do_podman(&["stop", "n"])?.ok()?;
    assert_eq!(engine.inspect("n", "{{.State.ExitCode}}")?, "6");
    // A module needs none, and an init could not execute it.
    for flags in ["--init", "--init --annotation run.oci.handler=wasm"] {
        let done = engine.run(&words(flags)).args(["show", "args", "5"]).finish()?;
        done.exits(5)?.prints("</main.wasm><args><5>")?;
    }
    engine.start(&words("--init --name w show tick"))?;
    engine.logged("w", "ticking")?;
    engine.do_podman(&["stop", "w"])?.ok()?;
    assert_eq!(engine.inspect("w", "{{.State.ExitCode}}")?, "143");
    engine.is_clean()
}

/// The cgroup of a process in the hierarchy of pids, or in the unified one.
fn cgroup_of(pid: &str) -> Result<String> {
    let lines = fs::read_to_string(format!("/proc/{}/cgroup", pid.trim()))?;
    let line = lines.lines().find(|l| l.contains(":pids:")).or(lines.lines().last()).context("no cgroup")?;
    Ok(line.rsplit(':').next().unwrap_or_default().to_owned())
}

#[test]
fn cgroup_modes() -> Result<()> {
    let engine = Engine::new()?;
    let own = cgroup_of("self")?;
    let (host, parent) = (engine.host().name(), engine.cgroup_parent());
    let images = [("n", words("native sleep 1000")), ("w", words("show sleep"))];
    let mut callers = 0;
    let mut check = |flags: &[&str], container: &str, conmon: &str| -> Result<()> {
        for (name, image) in &images {
            let mut run = engine.podman();
            // In a cgroup of its own, of which `split` makes two: in the unified hierarchy nobody can go into that again.
            callers += 1;
            let caller = format!("/{host}/caller-{callers}");
            run.args(["run", "-d", "--name", name]).args(flags).args(image);
            let started = after(ENTER, &caller, &run).finish()?.ok()?;
            let id = started.stdout.trim();
            let path = |pattern: &str| pattern.replace("<caller>", &caller).replace("<id>", id);
            let pids = engine.inspect(name, "{{.State.Pid}} {{.State.ConmonPid}}")?;
            let (pid, conmon_pid) = pids.split_once(' ').context("pids")?;
            assert_eq!(cgroup_of(pid)?, path(container), "{flags:?}");
            assert_eq!(cgroup_of(conmon_pid)?, path(conmon), "conmon with {flags:?}");
            engine.do_podman(&["rm", "--force", "--time=0", name])?.ok()?;
        }
        Ok(())
    };
    let under_parent = format!("/{host}/libpod-<id>");
    // In the unified hierarchy podman 5 makes conmon's cgroup and puts nothing into it, with crun too.
    let of_conmon = if Host::is_unified() { "<caller>" } else { &format!("/{host}/conmon") };
    check(&[&parent], &under_parent, of_conmon)?;
    check(&[&parent, "--cgroups=no-conmon"], &under_parent, "<caller>")?;
    check(&["--cgroups=split"], "<caller>/libpod-payload-<id>", "<caller>/runtime")?;
    check(&["--cgroups=disabled"], "<caller>", "<caller>")?;
    ensure!(cgroup_of("self")? == own, "this test has been moved");

    let script = "cat /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/cpu/cpu.cfs_quota_us || \
                  cat /sys/fs/cgroup/pids.max /sys/fs/cgroup/cpu.max";
    let limits =
        engine.run(&words("--pids-limit 77 --cpus 0.5 --cpuset-cpus 0 native sh -c")).arg(script).finish()?;
    assert!(limits.stdout.starts_with("77\n50000"), "{limits}");
    engine.run(&words("--memory 32m --memory-swap 32m native tail /dev/zero")).finish()?.exits(137)?;
    engine.is_clean()
}

/// Goes into the cgroup `$0` of every hierarchy, or of the unified one. A new cpuset has no processors and no memory.
const ENTER: &str = r#"
    hierarchies=/sys/fs/cgroup
    test -e $hierarchies/cgroup.procs || hierarchies="$hierarchies/*"
    for h in $hierarchies; do
        test -e $h/cgroup.procs || continue
        d=$h
        for part in $(echo $0 | tr / ' '); do
            mkdir -p $d/$part
            for f in cpus mems; do
                if test -e $h/cpuset.$f; then cat $d/cpuset.$f > $d/$part/cpuset.$f; fi
            done
            d=$d/$part
        done
        echo $$ > $d/cgroup.procs || exit 1
    done
    exec "$@""#;

#[test]
fn many_at_once() -> Result<()> {
    let engine = Engine::new()?;
    let mut jobs = Vec::new();
    for n in 0..8 {
        let code = n.to_string();
        let script = format!("echo {n}; exit {n}");
        let image =
            if n % 2 == 0 { vec!["native", "sh", "-c", &script] } else { vec!["show", "args", &code] };
        jobs.push((n, engine.run(&image).job()?));
    }
    for (n, mut job) in jobs {
        let done = job.wait()?.exits(n)?;
        done.prints(&if n % 2 == 0 { n.to_string() } else { format!("</main.wasm><args><{n}>") })?;
    }
    engine.is_clean()
}

/// `--rm` has the engine delete the container from two sides: the program ends while somebody removes it by force.
#[test]
fn containers_that_end_while_they_are_removed() -> Result<()> {
    let engine = Engine::new()?;
    for round in 0..2 {
        let mut jobs = Vec::new();
        for n in 0..4 {
            let name = format!("c{round}{n}");
            let image = if n % 2 == 0 { words("native sleep 0.1") } else { words("hello") };
            engine.start(&[&["--rm", "--name", &name], image.as_slice()].concat())?;
            jobs.push(engine.podman().args(["rm", "--force", "--time=0", &name]).job()?);
        }
        for mut job in jobs {
            let done = job.wait()?;
            ensure!(done.code == 0 || done.stderr.contains("no such container"), "{done}");
        }
    }
    let left = || Ok(engine.do_podman(&["ps", "--all", "--quiet"])?.ok()?.stdout.is_empty());
    eventually("the end of all containers", left)?;
    engine.is_clean()
}
