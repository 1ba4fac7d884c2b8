//! From a module to an artifact, with Wasmer's Cranelift.

use std::num::NonZero;

use wasmer::sys::{CompilerConfig, Cranelift, EngineBuilder};
use wasmer_compiler::{ArtifactBuild, ArtifactCreate, Engine, ModuleEnvironment};
use wasmer_types::entity::PrimaryMap;
use wasmer_types::{CompilationProgressCallback, CompileError, SerializeError};

/// Why there is no artifact.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It breaks a rule of WebAssembly, or uses a proposal that the compiler does not have.
    #[error("invalid module: {0}")]
    Invalid(String),
    /// The compiler gave up.
    #[error("cannot compile the module: {0}")]
    Compile(CompileError),
    /// What it made cannot be written down.
    #[error("cannot write the artifact: {0}")]
    Serialize(SerializeError),
}

/// Compiles a module, on that many threads. `progress` hears of bytes of Wasm code: how many are done, of how many.
///
/// The code is written down, never loaded: this process needs no memory that can be executed.
///
/// # Errors
/// What is wrong with the module.
pub fn artifact(
    module: &[u8],
    threads: NonZero<usize>,
    progress: impl Fn(u64, u64) + Send + Sync + 'static,
) -> Result<Vec<u8>, Error> {
    let mut config = Cranelift::new();
    config.num_threads(threads);
    // An ELF object that is mapped as it is: its code is not copied at start, and shared between containers.
    // The features are Wasmer's defaults, that is all that Cranelift has: SIMD, bulk memory, reference types,
    // multi-value, exceptions. Tail calls, memory64 and GC are not among them and end as invalid.
    CompilerConfig::experimental_artifact(&mut config, true);
    let engine: Engine = EngineBuilder::new(config).engine();
    engine.validate(module).map_err(refused)?;

    let declared =
        ModuleEnvironment::new().translate(module).map_err(|e| refused(CompileError::Wasm(e)))?.module;
    let tunables = engine.tunables();
    let memories: PrimaryMap<_, _> = declared.memories.values().map(|it| tunables.memory_style(it)).collect();
    let tables: PrimaryMap<_, _> = declared.tables.values().map(|it| tunables.table_style(it)).collect();
    let callback = CompilationProgressCallback::new(move |step| {
        if let (Some(total), Some(done)) = (step.phase_step_count(), step.phase_step()) {
            progress(done, total);
        }
        Ok(())
    });
    let built = ArtifactBuild::new(
        &mut engine.inner_mut(),
        module,
        engine.target(),
        memories,
        tables,
        Some(&callback),
    );
    built.map_err(refused)?.serialize().map_err(Error::Serialize)
}

fn refused(error: CompileError) -> Error {
    match error {
        CompileError::Validate(reason) => Error::Invalid(reason),
        error => Error::Compile(error),
    }
}
