//! containerfile: text for buildah and podman.

use anyhow::{Context, Result, ensure};

use crate::common::Host;

/// The lines outside of documents, with continued ones joined, and the documents.
fn parse(text: &str) -> Result<(Vec<String>, Vec<String>)> {
    let (mut instructions, mut documents) = (Vec::new(), Vec::new());
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if line.starts_with('#') {
            continue;
        }
        let mut line = line.to_owned();
        while line.ends_with('\\') {
            line.pop();
            line += lines.next().context("a line that goes on")?.trim_start();
        }
        if line.contains("<<\"END\"") {
            let document: Vec<_> = lines.by_ref().take_while(|line| *line != "END").collect();
            documents.push(document.join("\n") + "\n");
        }
        instructions.push(line);
    }
    Ok((instructions, documents))
}

#[test]
fn it_derives_from_the_upstream_image() -> Result<()> {
    let host = Host::new()?;
    let run = host.run(&["containerfile"])?.ok()?;
    ensure!(run.stderr.is_empty(), "{run:?}");
    let (instructions, documents) = parse(&run.stdout)?;
    let expected = [
        "FROM quay.io/podman/machine-os:",
        "COPY --chmod=755 coracle /usr/bin/coracle",
        "COPY --chmod=755 coracle-wasi coracle-wasmc /usr/libexec/coracle/",
        "RUN ln -s coracle /usr/bin/coracle-wasm",
        "COPY <<\"END\" /usr/share/containers/containers.conf.d/10-coracle.conf",
        "RUN mkdir -p /etc/containers/containers.conf.d && cp /usr/share/containers/containers.conf.d/10-coracle.conf ",
        "RUN coracle --version && ",
    ];
    assert_eq!(instructions.len(), expected.len(), "{instructions:?}");
    for (instruction, expected) in instructions.iter().zip(expected) {
        ensure!(instruction.starts_with(expected), "{instruction:?} is not {expected:?}");
    }
    let [configuration] = documents.as_slice() else { panic!("{documents:?}") };
    ensure!(configuration.lines().any(|line| line == "runtime = \"coracle\""), "{configuration}");
    // What an injected image has, to the letter.
    let packaged = include_str!("../../../packaging/podman/containers.conf");
    assert_eq!(*configuration, packaged.replace("# runtime = \"coracle\"", "runtime = \"coracle\""));
    Ok(())
}

#[test]
fn another_base_is_taken() -> Result<()> {
    let host = Host::new()?;
    let base = "registry.example/machine-os@sha256:0123";
    let text = host.run(&["containerfile", "--base", base])?.ok()?.stdout;
    ensure!(text.lines().any(|line| line == format!("FROM {base}")), "{text}");
    let report = host.run(&["--json", "containerfile", "--base", base])?.ok()?.json()?;
    assert_eq!((&report["base"], &report["containerfile"]), (&base.into(), &text.into()));
    Ok(())
}
