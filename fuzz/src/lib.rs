//! What the fuzz targets share: a mutator that knows JSON, what `create` derives from a configuration, an interpreter for
//! the programs that seccomp profiles become, and guests that mean harm with a place for them.

pub mod bpf;
pub mod cgroup;
pub mod guest;
pub mod handlers;
pub mod json;
pub mod module;
pub mod plan;
pub mod profile;
pub mod random;
pub mod sandbox;
