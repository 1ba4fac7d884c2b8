//! What a guest has beside its memory.

use std::ffi::CStr;

use crate::descriptors::Descriptors;

/// The guest's arguments, environment and descriptors.
pub struct State {
    /// `argv`, as execve(2) passed it.
    pub args: Vec<&'static CStr>,
    /// `NAME=value`, without what was meant for the runner.
    pub environment: Vec<&'static CStr>,
    /// Its descriptors.
    pub descriptors: Descriptors,
}
