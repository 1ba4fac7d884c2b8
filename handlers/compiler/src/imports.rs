//! What the module asks of its host, against what coracle-wasi has.
//!
//! A module that asks for more is refused here, where the message reaches the person who starts the container,
//! and not in the container, where it would end up in a log.

use wasmer::sys::wasmparser::{BinaryReaderError, FuncType, Import, Parser, Payload, TypeRef, ValType};

/// Why the module cannot be given what it asks for.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum Error {
    #[error("invalid module: {0}")]
    Invalid(#[from] BinaryReaderError),
    #[error(transparent)]
    Function(#[from] coracle_abi::Unsatisfied),
    #[error("import {name} is a {kind}; only functions can be imported")]
    Kind { name: String, kind: &'static str },
    #[error("import {0} is a shared memory; threads are not supported")]
    SharedMemory(String),
    #[error("import {0} has an undefined type")]
    UndefinedType(String),
}

/// Checks every import of the module. What follows the import section is left to the compiler's validation.
///
/// # Errors
/// The first import that cannot be had.
pub fn check(module: &[u8]) -> Result<(), Error> {
    let mut types = Vec::new();
    for payload in Parser::new(0).parse_all(module) {
        match payload? {
            Payload::TypeSection(section) => {
                for ty in section.into_iter_err_on_gc_types() {
                    types.push(ty?);
                }
            }
            Payload::ImportSection(section) => {
                for import in section.into_imports() {
                    check_one(&import?, &types)?;
                }
                break;
            }
            Payload::CodeSectionStart { .. } => break,
            _ => {}
        }
    }
    Ok(())
}

fn check_one(import: &Import<'_>, types: &[FuncType]) -> Result<(), Error> {
    // Names are any text; escaped, they stay on one line and print as they are. Ours have nothing to escape.
    let (module, item) = (import.module.escape_debug().to_string(), import.name.escape_debug().to_string());
    let name = format!("{module}.{item}");
    let kind = match import.ty {
        TypeRef::Func(index) | TypeRef::FuncExact(index) => {
            let ty = types.get(index as usize).ok_or_else(|| Error::UndefinedType(name.clone()))?;
            let (params, results) = (abi_types(ty.params()), abi_types(ty.results()));
            coracle_abi::resolve(&module, &item, &params, &results)?;
            return Ok(());
        }
        TypeRef::Memory(memory) if memory.shared => return Err(Error::SharedMemory(name)),
        TypeRef::Memory(_) => "memory",
        TypeRef::Table(_) => "table",
        TypeRef::Global(_) => "global",
        TypeRef::Tag(_) => "tag",
    };
    Err(Error::Kind { name, kind })
}

/// The table knows only the types that occur in it.
fn abi_types(types: &[ValType]) -> Vec<coracle_abi::ValType> {
    let abi_type = |ty: &ValType| match ty {
        ValType::I32 => coracle_abi::ValType::I32,
        ValType::I64 => coracle_abi::ValType::I64,
        _ => coracle_abi::ValType::Other,
    };
    types.iter().map(abi_type).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn says(wat: &str) -> String {
        check(&wat::parse_str(wat).unwrap()).map_or_else(|e| e.to_string(), |()| "fine".into())
    }

    #[test]
    fn known_functions_pass() {
        assert_eq!(says("(module)"), "fine");
        assert_eq!(
            says(r#"(module (import "wasi_snapshot_preview1" "proc_exit" (func (param i32))) (memory 1))"#),
            "fine"
        );
    }

    #[test]
    fn the_missing_import_is_named() {
        assert_eq!(says(r#"(module (import "env" "foo" (func)))"#), "unknown import env.foo");
        assert_eq!(says("(module (import \"env\" \"a\\0ab\" (func)))"), "unknown import env.a\\nb");
    }

    #[test]
    fn another_signature_is_shown_beside_ours() {
        assert_eq!(
            says(r#"(module (import "wasi_snapshot_preview1" "proc_exit" (func (param i64) (result i32))))"#),
            "import wasi_snapshot_preview1.proc_exit has type (i32) -> (), the module wants (i64) -> (i32)"
        );
    }

    #[test]
    fn only_functions_are_offered() {
        let global = r#"(module (import "env" "g" (global i32)))"#;
        assert_eq!(says(global), "import env.g is a global; only functions can be imported");
        let memory = r#"(module (import "env" "memory" (memory 1)))"#;
        assert_eq!(says(memory), "import env.memory is a memory; only functions can be imported");
        let shared = r#"(module (import "env" "memory" (memory 1 2 shared)))"#;
        assert_eq!(says(shared), "import env.memory is a shared memory; threads are not supported");
    }

    #[test]
    fn damage_is_located() {
        assert!(says_bytes(b"\0asm\x01\0\0\0\x01\x05\x01").contains("offset"));
    }

    fn says_bytes(bytes: &[u8]) -> String {
        check(bytes).map_or_else(|e| e.to_string(), |()| "fine".into())
    }
}
