//! From a WebAssembly module to a native artifact.
//!
//! The program `coracle-wasmc` is all of this, in a sandbox of its own; a library it is for those who compile in
//! another way, as the fuzzers do. A module takes this way: [`input`] says what the bytes are, [`imports`] whether the
//! handler has what the module asks for, [`compile`] makes the artifact.

pub mod compile;
pub mod imports;
pub mod input;
