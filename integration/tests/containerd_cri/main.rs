//! containerd's CRI plugin, called as a kubelet calls it: pods of native and Wasm containers.

#![allow(missing_docs)]

mod client;
mod containers;
mod kubelet;
mod pods;
mod resources;
mod streams;
mod volumes;
mod websocket;
