//! TLS for guests that leave it to their host, as those of 2022 and 2023 did: the state behind two modules that
//! WasmEdge had as plugins.
//!
//! [`Codecs`] is `rustls_client`: the guest has the socket, and passes what it reads and writes through a codec here.
//! [`httpsreq`] is `wasmedge_httpsreq`: the guest hands over a whole request and fetches the whole reply.
//!
//! Whom both trust is what the container says, in its bundle of CA certificates ([`trust`]), and nobody if it has none.
//! Nothing here knows of an engine or of the guest's memory; files are read and names resolved by the caller.

#[cfg(any(test, feature = "testing"))]
pub mod authority;
mod codecs;
mod errors;
pub mod httpsreq;
mod reply;
#[cfg(test)]
mod testing;
pub mod trust;

pub use codecs::{Codecs, State};
pub use errors::TlsError;
pub use rustls::ClientConfig;
