//! From a module to an artifact, with Wasmer's Cranelift.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use wasmer::sys::{CompilerConfig, Cranelift, EngineBuilder, NativeEngineExt};
use wasmer::{CompileError, Engine, SerializeError};
use wasmer_types::CompilationProgressCallback;

/// Why there is no artifact.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("invalid module: {0}")]
    Invalid(String),
    #[error("cannot compile the module: {0}")]
    Compile(CompileError),
    #[error("cannot write the artifact: {0}")]
    Serialize(SerializeError),
}

/// Compiles a module, on all cores.
pub fn artifact(module: &[u8], progress: bool) -> Result<impl AsRef<[u8]> + use<>, Error> {
    let mut config = Cranelift::new();
    // An ELF object that is mapped as it is: its code is not copied at start, and shared between containers.
    // The features are Wasmer's defaults, that is all that Cranelift has: SIMD, bulk memory, reference types,
    // multi-value, exceptions. Tail calls, memory64 and GC are not among them and end as invalid.
    CompilerConfig::experimental_artifact(&mut config, true);
    let engine = Engine::from(EngineBuilder::new(config).engine());
    let bar = progress.then(|| bar(module.len()));
    let shown = bar.clone();
    let callback = CompilationProgressCallback::new(move |step| {
        if let (Some(bar), Some(total), Some(done)) = (&shown, step.phase_step_count(), step.phase_step()) {
            bar.set_length(total);
            bar.set_position(done);
        }
        Ok(())
    });
    let compiled = engine.new_module_with_progress(module, callback);
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    compiled.map_err(refused)?.serialize().map_err(Error::Serialize)
}

fn refused(error: CompileError) -> Error {
    match error {
        CompileError::Validate(reason) => Error::Invalid(reason),
        error => Error::Compile(error),
    }
}

/// The steps are bytes of Wasm code; a small module is done before the bar would show.
fn bar(length: usize) -> ProgressBar {
    let style = ProgressStyle::with_template("compiling [{bar:40}] {percent}% {eta}")
        .map_or_else(|_| ProgressStyle::default_bar(), |style| style.progress_chars("=> "));
    let bar = ProgressBar::new(length as u64).with_style(style);
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}
