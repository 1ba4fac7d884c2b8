//! containerd's CRI plugin, called as a kubelet calls it: pods of native and Wasm containers.

#![allow(missing_docs)]

#[path = "../dapr_pod/conversation.rs"]
mod dapr_conversation;

mod client;
mod containers;
mod dapr;
mod kubelet;
mod pods;
mod resources;
mod streams;
mod volumes;
mod websocket;
