//! From the compiled module to a running guest.

use std::{mem::ManuallyDrop, os::fd::RawFd};

use coracle_abi::{Import, Unsatisfied, ValType, resolve};
use wasmer::{
    Engine, Extern, ExternType, FunctionEnv, FunctionType, ImportType, Instance, InstantiationError, Module,
    RuntimeError, Store, Type,
    sys::{EngineBuilder, vm::set_stack_size},
};

use crate::{
    artifact,
    imports::{Context, define},
    sandbox,
    start::Start,
    state::State,
};

/// Stack for the guest's calls, as large as a native program's usually is. Only what is used of it takes memory.
const STACK: usize = 8 << 20;

/// Why a guest did not run to its end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no module to run.
    #[error(transparent)]
    Artifact(#[from] artifact::Error),
    /// The process cannot be confined.
    #[error(transparent)]
    Sandbox(#[from] coracle_confine::Error),
    /// It imports what we do not have.
    #[error(transparent)]
    Import(#[from] Unsatisfied),
    /// It has no entry point.
    #[error("the module exports no function _start: it is a library (reactor), not a program (command)")]
    NoStart,
    /// Its memory or tables cannot be had.
    #[error("cannot instantiate the module: {0}")]
    Instantiate(Box<InstantiationError>),
    /// It ended by a trap.
    #[error("{}", .0.message())]
    Trap(RuntimeError),
}

/// Runs the guest; returns if its `_start` does.
///
/// # Safety
/// As [`artifact::load`].
pub unsafe fn run(start: Start) -> Result<(), Error> {
    set_stack_size(STACK);
    let engine = Engine::from(EngineBuilder::headless().engine());
    let fd: RawFd = start.artifact.ok_or(artifact::Error::Missing)?;
    // SAFETY: the caller's.
    let module = unsafe { artifact::load(&engine, fd) }?;
    let imports = imported(&module)?;
    // The last executable memory is mapped, and no code of the guest has run yet.
    sandbox::enter(imports.iter().any(|it| it.network))?;
    // The process ends with the guest: to free its memory first would be wasted.
    let mut store = ManuallyDrop::new(Store::new(engine));
    let store = &mut *store;
    let (env, imports) = define_all(store, &imports, start.state)?;
    if !is_entry(&module, "_start") {
        return Err(Error::NoStart);
    }
    let instance = Instance::new_by_index(store, &module, &imports).map_err(|error| match error {
        InstantiationError::Start(trap) => Error::Trap(trap),
        error => Error::Instantiate(Box::new(error)),
    })?;
    env.as_mut(store).memory = instance.exports.get_memory("memory").ok().cloned();
    give_memory_back();
    // A command has no `_initialize`; a toolchain that makes one all the same expects it to be called first.
    for name in ["_initialize", "_start"] {
        if let Ok(function) = instance.exports.get_typed_function::<(), ()>(store, name) {
            function.call(store).map_err(Error::Trap)?;
        }
    }
    Ok(())
}

/// Loading takes memory that the guest's run does not need, and there may be many idle guests: 128 KiB of a server's.
fn give_memory_back() {
    // SAFETY: a plain integer. It only returns pages that nobody has allocated.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
}

fn is_entry(module: &Module, name: &str) -> bool {
    let entry = ExternType::Function(FunctionType::new([], []));
    module.exports().any(|it| it.name() == name && *it.ty() == entry)
}

/// The host functions that the module imports.
fn imported(module: &Module) -> Result<Vec<&'static Import>, Unsatisfied> {
    let host_function = |import: ImportType| {
        let ExternType::Function(ty) = import.ty() else {
            return Err(unknown(import.module(), import.name()));
        };
        let types = |list: &[Type]| list.iter().copied().map(val_type).collect::<Vec<_>>();
        resolve(import.module(), import.name(), &types(ty.params()), &types(ty.results()))
    };
    module.imports().map(host_function).collect()
}

/// These functions, in this order, for a module may import two of one name.
fn define_all(
    store: &mut Store,
    imported: &[&Import],
    state: State,
) -> Result<(FunctionEnv<Context>, Vec<Extern>), Unsatisfied> {
    let env = FunctionEnv::new(store, Context { state, memory: None });
    let function = |import: &&Import| {
        define(store, &env, import).map(Extern::Function).ok_or_else(|| unknown(import.module, import.name))
    };
    let externs = imported.iter().map(function).collect::<Result<_, _>>()?;
    Ok((env, externs))
}

fn unknown(module: &str, name: &str) -> Unsatisfied {
    Unsatisfied::Unknown { import: format!("{module}.{name}") }
}

/// The engine's name for a type as the table has it.
pub fn val_type(ty: Type) -> ValType {
    match ty {
        Type::I32 => ValType::I32,
        Type::I64 => ValType::I64,
        _ => ValType::Other,
    }
}
