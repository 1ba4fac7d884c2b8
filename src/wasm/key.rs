//! What an artifact depends on, as one digest: the module, the compiler, and the CPU.
//!
//! `coracle-wasmc` is a static program with fixed options that sees nothing of its environment but the CPU. So the
//! digest of its file stands for everything that went into it: the versions of Wasmer and Cranelift, the
//! layout of artifacts, the target, the options, our own build. None of these has to be listed, and none can be
//! forgotten. The CPU's features are listed as Wasmer looks at them; its loader checks them again.

use std::fmt::Write as _;

use blake3::{Hash, Hasher};

/// The name under which an artifact is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// Digest of the module, in the form in which the image has it.
    pub module: Hash,
    /// Digest of the compiler's program.
    pub compiler: Hash,
    /// Digest of these two and of the CPU's features.
    pub digest: Hash,
}

impl Key {
    #[cfg(test)]
    pub fn new(module: Hash, compiler: Hash) -> Self {
        Self::on_cpu(module, compiler, &cpu())
    }

    /// The key of a module's artifact for what [`cpu`] says.
    pub fn on_cpu(module: Hash, compiler: Hash, cpu: &str) -> Self {
        let digest = Hasher::new()
            .update(b"coracle wasm artifact, version 1\0")
            .update(module.as_bytes())
            .update(compiler.as_bytes())
            .update(cpu.as_bytes())
            .finalize();
        Self { module, compiler, digest }
    }

    /// The name of the artifact's file.
    pub fn file_name(&self) -> String {
        self.digest.to_hex().to_string()
    }
}

macro_rules! features {
    ($text:ident, $detected:ident: $($name:tt)*) => {
        $(let _ = write!($text, " {}{}", $name, u8::from(std::arch::$detected!($name)));)*
    };
}

/// The architecture, and each feature that Wasmer's Cranelift back end asks for with whether it is there.
pub fn cpu() -> String {
    let mut text = String::from(std::env::consts::ARCH);
    #[cfg(target_arch = "x86_64")]
    features!(text, is_x86_feature_detected: "sse2" "sse3" "ssse3" "sse4.1" "sse4.2" "popcnt" "avx" "bmi1" "bmi2" "avx2"
        "fma" "avx512dq" "avx512vl" "avx512f" "lzcnt");
    #[cfg(target_arch = "aarch64")]
    features!(text, is_aarch64_feature_detected: "neon");
    text
}
