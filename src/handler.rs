//! Choosing who runs a container's program: the kernel, or the Wasm handler.
//!
//! In this order: the annotation `run.oci.handler`; the annotation `module.wasm.image/variant`; the name we were
//! called by; the first bytes of the program. The first three name a candidate before the container
//! exists; whether the program is a module is seen inside the container, where its volumes are in place.

use std::collections::HashMap;
use std::path::Path;

/// crun's annotation, which podman users know.
const HANDLER: &str = "run.oci.handler";
/// The annotation of Wasm images, from the image's manifest.
const VARIANT: &str = "module.wasm.image/variant";
/// Our annotation that switches detection by first bytes off.
const DETECT: &str = "org.coracle.wasm.detect";
/// Directories a module sees: a comma-separated list of `PATH::NAME`.
pub const DIRECTORIES: &str = "org.coracle.wasm.dirs";
/// The configuration switch: a file whose presence turns detection off on this host.
const NO_DETECT_FILE: &str = "/etc/coracle/no-wasm-detect";
/// Marks of a pod's sandbox container, of containerd and of CRI-O. It carries its pod's annotations.
const SANDBOX: [&str; 2] = ["io.kubernetes.cri.container-type", "io.kubernetes.cri-o.ContainerType"];

/// The values of [`HANDLER`] that mean a module must be run; the last four are crun's names of engines.
const WASM_NAMES: [&str; 5] = ["wasm", "wasmtime", "wasmedge", "wasmer", "wamr"];

/// A handler that is not known.
#[derive(Debug, thiserror::Error)]
#[error("annotation {annotation}: unknown handler {value:?} (known: {known})")]
pub struct Error {
    annotation: &'static str,
    value: String,
    known: String,
}

/// What the configuration says about who runs the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// The kernel, whatever the program is.
    Native,
    /// The Wasm handler; a program that is no module is an error.
    Wasm,
    /// The Wasm handler for a module, the kernel for everything else.
    Detect,
}

impl Choice {
    /// Whether a program of that name is likely to be run by the Wasm handler.
    pub fn expects_module(self, program: &str) -> bool {
        match self {
            Self::Native => false,
            Self::Wasm => true,
            Self::Detect => program.ends_with(".wasm"),
        }
    }
}

/// Picks the candidate from annotations and the name this program was called by.
///
/// # Errors
/// [`Error`] for a value that names no known handler.
pub fn choose(annotations: Option<&HashMap<String, String>>, called: &Path) -> Result<Choice, Error> {
    let annotation = |name: &str| annotations.and_then(|a| a.get(name)).map(String::as_str);
    let detect = match annotation(DETECT) {
        Some(value) if value.eq_ignore_ascii_case("false") || value == "0" => Choice::Native,
        _ if Path::new(NO_DETECT_FILE).exists() => Choice::Native,
        _ => Choice::Detect,
    };
    let demanded = if let Some(value) = annotation(HANDLER) {
        Some(named(HANDLER, value, &WASM_NAMES, "wasm-smart")?)
    } else if let Some(value) = annotation(VARIANT) {
        Some(named(VARIANT, value, &["compat"], "compat-smart")?)
    } else if called.file_name().is_some_and(|n| n == "crun-wasm" || n == "coracle-wasm") {
        Some(Choice::Wasm)
    } else {
        None
    };
    let sandbox = SANDBOX.iter().any(|mark| annotation(mark) == Some("sandbox"));
    Ok(match demanded {
        // The pod's annotations are meant for its containers; the pause program is native.
        Some(Choice::Wasm) if sandbox => Choice::Detect,
        Some(choice) => choice,
        None => detect,
    })
}

fn named(annotation: &'static str, value: &str, must: &[&str], may: &str) -> Result<Choice, Error> {
    if must.contains(&value) {
        Ok(Choice::Wasm)
    } else if value == may {
        Ok(Choice::Detect)
    } else {
        let known = must.iter().copied().chain([may]).collect::<Vec<_>>().join(", ");
        Err(Error { annotation, value: value.to_owned(), known })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choice(annotations: &[(&str, &str)], called: &str) -> Result<Choice, String> {
        let map = annotations.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        choose(Some(&map), Path::new(called)).map_err(|e| e.to_string())
    }

    #[test]
    fn nothing_said_means_detection() {
        assert_eq!(choice(&[], "coracle"), Ok(Choice::Detect));
        assert_eq!(choose(None, Path::new("/usr/bin/coracle")).ok(), Some(Choice::Detect));
    }

    #[test]
    fn the_annotation_comes_first() {
        for name in WASM_NAMES {
            assert_eq!(choice(&[(HANDLER, name)], "coracle"), Ok(Choice::Wasm));
        }
        assert_eq!(choice(&[(HANDLER, "wasm-smart"), (VARIANT, "compat")], "crun-wasm"), Ok(Choice::Detect));
        let error = choice(&[(HANDLER, "krun")], "coracle").expect_err("unknown");
        assert!(error.contains("krun") && error.contains("wasm-smart"), "{error}");
    }

    #[test]
    fn then_the_variant_then_the_name() {
        assert_eq!(choice(&[(VARIANT, "compat")], "coracle"), Ok(Choice::Wasm));
        assert_eq!(choice(&[(VARIANT, "compat-smart")], "crun-wasm"), Ok(Choice::Detect));
        assert!(choice(&[(VARIANT, "nonsense")], "coracle").is_err());
        assert_eq!(choice(&[], "/usr/bin/crun-wasm"), Ok(Choice::Wasm));
        assert_eq!(choice(&[], "coracle-wasm"), Ok(Choice::Wasm));
    }

    #[test]
    fn detection_can_be_switched_off_but_a_demand_stands() {
        assert_eq!(choice(&[(DETECT, "false")], "coracle"), Ok(Choice::Native));
        assert_eq!(choice(&[(DETECT, "true")], "coracle"), Ok(Choice::Detect));
        assert_eq!(choice(&[(DETECT, "false"), (HANDLER, "wasm")], "coracle"), Ok(Choice::Wasm));
    }

    #[test]
    fn a_sandbox_runs_natively_unless_it_is_a_module_itself() {
        for mark in SANDBOX {
            assert_eq!(choice(&[(mark, "sandbox"), (HANDLER, "wasm")], "coracle"), Ok(Choice::Detect));
            assert_eq!(choice(&[(mark, "container"), (HANDLER, "wasm")], "coracle"), Ok(Choice::Wasm));
        }
    }
}
