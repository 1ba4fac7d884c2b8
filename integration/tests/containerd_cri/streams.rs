//! `kubectl exec -it` and `kubectl attach`.

use anyhow::Result;
use coracle_integration::eventually;

use crate::client::{Cri, NATIVE, SHOW};

#[test]
fn streams_of_exec() -> Result<()> {
    let cri = Cri::new()?;
    let pod = cri.pod("pod", &[])?;
    let native = pod.run("native", NATIVE, &["sleep", "1000"])?;
    let module = pod.run("module", SHOW, &["/main.wasm", "tick"])?;
    for (id, cmd, code) in [
        (&native, &["sh", "-c", "read x; echo got $x; echo to stderr >&2; exit 6"][..], 6),
        (&module, &["/main.wasm", "line", "stderr", "9"], 9),
        (&module, &["/main.wasm", "line", "stderr"], 0),
    ] {
        let mut stream = pod.exec_stream(id, cmd, false)?;
        stream.type_in("word\n")?;
        assert_eq!(stream.wait()?, code);
        assert_eq!((stream.stdout.as_str(), stream.stderr.as_str()), ("got word\n", "to stderr\n"));
    }
    let script = "tty; read x; stty size; exit 5";
    let mut stream = pod.exec_stream(&native, &["sh", "-c", script], true)?;
    stream.expect("/dev/pts/0")?;
    stream.resize(33, 99)?;
    // The size is set by a process of its own: give it the time that a user takes.
    eventually("the size", || {
        let size = pod.exec_prints(&native, &["sh", "-c", "stty size < /dev/pts/0"])?;
        Ok(size == "33 99\n")
    })?;
    stream.type_in("\r")?;
    stream.expect("33 99")?;
    assert_eq!(stream.wait()?, 5);
    let mut stream = pod.exec_stream(&module, &["/main.wasm", "tty", "line", "4"], true)?;
    stream.expect("tty 1 1 1")?;
    stream.type_in("word\r")?;
    stream.expect("got word")?;
    assert_eq!(stream.wait()?, 4);
    // Ctrl-C.
    let mut stream = pod.exec_stream(&module, &["/main.wasm", "spin"], true)?;
    stream.expect("spinning")?;
    stream.type_in("\u{3}")?;
    assert_eq!(stream.wait()?, 130);
    let mut stream = pod.exec_stream(&native, &["nosuch"], false)?;
    let refused = stream.wait().expect_err("no such command").to_string();
    assert!(refused.contains("executable file not found in $PATH"), "{refused}");
    pod.end()
}

#[test]
fn streams_of_attach() -> Result<()> {
    let cri = Cri::new()?;
    let pod = cri.pod("pod", &[])?;
    for (name, image, command) in [
        ("native", NATIVE, &["sh", "-c", "read x; echo got $x; echo to stderr >&2; sleep 0.3; exit 6"][..]),
        ("module", SHOW, &["/main.wasm", "line", "stderr", "line", "6"]),
    ] {
        let mut config = pod.container_config(name, image, command);
        config.stdin = true;
        let id = pod.run_with(config)?;
        let mut stream = pod.attach(&id, false)?;
        stream.type_in("word\n")?;
        stream.expect("got word\n")?;
        if name == "module" {
            stream.type_in("again\n")?;
        }
        assert_eq!(pod.wait(&id)?.0, 6);
        assert!(pod.log(name, "stdout")?.starts_with("got word\n"));
        assert_eq!(pod.log(name, "stderr")?, "to stderr\n");
    }
    for (name, image, command, ready) in [
        (
            "native-tty",
            NATIVE,
            &["sh", "-c", "stty -echo; tty; read x; echo got $x; read y; exit 5"][..],
            "pts/0",
        ),
        ("module-tty", SHOW, &["/main.wasm", "tty", "line", "line", "5"], "tty 1 1 1"),
    ] {
        let mut config = pod.container_config(name, image, command);
        (config.stdin, config.tty) = (true, true);
        let id = pod.run_with(config)?;
        pod.expect(name, ready)?;
        let mut stream = pod.attach(&id, true)?;
        stream.type_in("word\r")?;
        stream.expect("got word")?;
        // Detached and attached again.
        drop(stream);
        let mut stream = pod.attach(&id, true)?;
        stream.type_in("\r")?;
        assert_eq!(pod.wait(&id)?.0, 5);
    }
    pod.end()
}
