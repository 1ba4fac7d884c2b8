//! What a guest has beside its memory.

use std::{ffi::CStr, mem::ManuallyDrop, os::fd::OwnedFd};

use crate::{descriptors::Descriptors, preview1::patience::Patience, tls::Tls};

/// The guest's arguments, environment and descriptors.
#[derive(Default)]
pub struct State {
    /// `argv`, as execve(2) passed it.
    pub args: Vec<&'static CStr>,
    /// `NAME=value`, without what was meant for the runner.
    pub environment: Vec<&'static CStr>,
    /// Its descriptors. Those that it leaves open are closed by the end of the process, not before: standard error
    /// must be there to say why it ended.
    pub descriptors: ManuallyDrop<Descriptors>,
    /// How much of it there is left for a guest that asks and does nothing.
    pub patience: Patience,
    /// Where the kernel keeps what `epoll_oneoff` watches; none before the first call.
    pub epoll: Option<OwnedFd>,
    /// Its connections over TLS.
    pub tls: Tls,
}
