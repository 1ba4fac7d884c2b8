//! What the fuzz targets share: a mutator that knows JSON, what `create` derives from a configuration, and an
//! interpreter for the programs that seccomp profiles become.

pub mod bpf;
pub mod cgroup;
pub mod handlers;
pub mod json;
pub mod plan;
pub mod profile;
pub mod random;
