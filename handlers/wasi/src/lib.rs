//! WASI preview1 as system calls on the container's own descriptors.
//!
//! The program `coracle-wasi` is all of this, for one module and its process; a library it is for those who call the
//! functions in another way, as the fuzzers do.
//!
//! The runtime executes the program by descriptor, inside the container, with the compiled module on an inherited
//! descriptor ([`start`]). The module's host functions ([`preview1`]) reach the kernel directly: there is no file
//! system between guest and kernel, and no second thread. What the guest passes is checked in [`memory`], paths in
//! [`resolve`], descriptors in [`descriptors`]. The root file system may be empty: nothing here opens a path of its own
//! but the directories that the guest gets, and where functions for the network need them, the files that say who is
//! trusted and what names mean ([`files`]).

mod artifact;
pub mod descriptors;
pub mod files;
pub mod httpsreq;
pub mod imports;
pub mod memory;
pub mod module;
pub mod preview1;
pub mod resolve;
pub mod rustls;
mod sandbox;
pub mod signals;
pub mod sockets;
pub mod start;
pub mod state;
pub mod stderr;
pub mod tls;
pub mod trap;
pub mod types;
pub mod unstable;
