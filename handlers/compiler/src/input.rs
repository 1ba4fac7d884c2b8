//! What the bytes are: a module, its text form, or something that is often mistaken for one.

use std::borrow::Cow;

use wat::Detect;

/// Why the bytes are not a module.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum Error {
    #[error("the file is empty")]
    Empty,
    #[error("a truncated WebAssembly module: {0} bytes")]
    Truncated(usize),
    #[error("a WebAssembly component; only core modules (WASI preview 1) can be run")]
    Component,
    #[error("WebAssembly binary version {0} is not known; version 1 is")]
    Version(u32),
    #[error("not a WebAssembly module but native code ({0}): a program, or a module compiled ahead of time")]
    Native(&'static str),
    #[error("neither a WebAssembly module nor its text form")]
    Unknown,
    #[error("WebAssembly text: {0}")]
    Text(wat::Error),
}

/// The binary form of the module in `bytes`.
///
/// # Errors
/// What they are instead.
pub fn module(bytes: &[u8]) -> Result<Cow<'_, [u8]>, Error> {
    if bytes.is_empty() {
        return Err(Error::Empty);
    }
    if let Some(rest) = bytes.strip_prefix(b"\0asm") {
        return match rest.first_chunk() {
            None => Err(Error::Truncated(bytes.len())),
            Some([1, 0, 0, 0]) => Ok(Cow::Borrowed(bytes)),
            // The component model's binaries have the layer, 1, in the upper half of the version.
            Some([_, _, 1, 0]) => Err(Error::Component),
            Some(version) => Err(Error::Version(u32::from_le_bytes(*version))),
        };
    }
    for (magic, name) in [
        (&b"\x7fELF"[..], "ELF"),
        (b"wasmer-universal", "Wasmer"),
        (b"\xcf\xfa\xed\xfe", "Mach-O"),
        (b"MZ", "PE"),
    ] {
        if bytes.starts_with(magic) {
            return Err(Error::Native(name));
        }
    }
    if b"\0asm".starts_with(bytes) {
        return Err(Error::Truncated(bytes.len()));
    }
    match Detect::from_bytes(bytes) {
        Detect::WasmText => wat::parse_bytes(bytes).map_err(Error::Text),
        _ => Err(Error::Unknown),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn says(bytes: &[u8]) -> String {
        module(bytes).map_or_else(|e| e.to_string(), |m| format!("{} bytes", m.len()))
    }

    #[test]
    fn names_what_it_found() {
        assert_eq!(says(b"\0asm\x01\0\0\0"), "8 bytes");
        assert_eq!(says(b" ;; hello\n(module)"), "8 bytes");
        assert!(says(b"\0asm\x0d\0\x01\0").starts_with("a WebAssembly component"));
        assert_eq!(says(b"\0asm\x02\0\0\0"), "WebAssembly binary version 2 is not known; version 1 is");
        assert_eq!(says(b"\0asm\x01\0"), "a truncated WebAssembly module: 6 bytes");
        assert_eq!(says(b"\0a"), "a truncated WebAssembly module: 2 bytes");
        assert_eq!(says(b""), "the file is empty");
        assert!(says(b"\x7fELF\x02\x01").starts_with("not a WebAssembly module but native code (ELF)"));
        assert_eq!(says(b"#!/bin/sh\n"), "neither a WebAssembly module nor its text form");
        assert!(says(b"(module (func").starts_with("WebAssembly text: "));
    }
}
