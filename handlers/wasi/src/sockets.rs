//! WasmEdge's socket functions beside preview1's: what guests of 2022 and after import to reach the network.
//!
//! Each is a system call on the guest's own descriptors, in the container's network namespace; what is here is
//! the translation of addresses ([`address`]), options and errors. Some functions have two versions, of which a module
//! gets the one that fits the type of its import: [`v1`] and [`v2`].
//!
//! Source: WasmEdge's `lib/host/wasi` and the crate `wasmedge_wasi_socket`.

#![allow(clippy::too_many_arguments)] // the interface has so many

pub use self::{
    connect::{sock_bind, sock_connect, sock_listen, sock_open},
    edges::epoll_oneoff,
    message::sock_send_to,
    names::sock_getaddrinfo,
    option::{sock_getsockopt, sock_setsockopt},
};

mod address;
mod connect;
pub(crate) mod edges;
mod message;
mod names;
mod option;
mod unix;
pub mod v1;
pub mod v2;
