//! `rustls_client`: TLS without the socket, which stays the guest's.
//!
//! Each function answers with a number of its own, below zero if it is an error ([`TlsError::number`]). A buffer that is
//! not in the memory is a wrong parameter.

use std::slice;

use coracle_tls::{Codecs, TlsError};

use crate::{memory::Memory, state::State, stderr};

/// What a function answers: none can be so much that it looks like an error.
type Answer = Result<u32, TlsError>;

/// The number of the only configuration: the container's certificates.
pub fn default_config(_: &mut State, _: Memory<'_>) -> Answer {
    Ok(Codecs::DEFAULT_CONFIG)
}

/// A new connection to a server of that name.
pub fn new_codec(state: &mut State, memory: Memory<'_>, config: u32, name: u32, name_len: u32) -> Answer {
    let name = memory.bytes(name, name_len).map_err(|_| TlsError::Parameter)?;
    if state.tls.codecs.is_none() {
        let config = state.tls.config(&state.environment).map_err(|error| {
            // The guest gets no more than a number.
            stderr::print(&format!("coracle-wasi: rustls_client: {error}\n"));
            TlsError::Untrusting
        })?;
        state.tls.codecs = Some(Codecs::new(config));
    }
    codecs(state)?.open(config, &name)
}

/// Whether the handshake is not over yet.
pub fn codec_is_handshaking(state: &mut State, _: Memory<'_>, codec: u32) -> Answer {
    codecs(state)?.is_handshaking(codec).map(u32::from)
}

/// Whether to read from the socket (bit 0) and to write to it (bit 1).
pub fn codec_wants(state: &mut State, _: Memory<'_>, codec: u32) -> Answer {
    codecs(state)?.wants(codec)
}

/// Forgets a connection, or nothing.
pub fn delete_codec(state: &mut State, _: Memory<'_>, codec: u32) -> Answer {
    if let Some(codecs) = &mut state.tls.codecs {
        codecs.delete(codec);
    }
    Ok(0)
}

/// Says that no more plain text follows.
pub fn send_close_notify(state: &mut State, _: Memory<'_>, codec: u32) -> Answer {
    codecs(state)?.send_close_notify(codec).map(|()| 0)
}

/// Makes of what was read from the socket what can be read as plain text.
pub fn process_new_packets(state: &mut State, memory: Memory<'_>, codec: u32, result: u32) -> Answer {
    // Before anything has changed.
    memory.range(result, 12).map_err(|_| TlsError::Parameter)?;
    let layout = codecs(state)?.process(codec)?.layout();
    memory.write(result, &layout).map(|()| 0).map_err(|_| TlsError::Parameter)
}

/// Plain text for the peer.
pub fn write_raw(state: &mut State, memory: Memory<'_>, codec: u32, buffer: u32, len: u32) -> Answer {
    let buffer = readable(memory, buffer, len)?;
    codecs(state)?.write_raw(codec, buffer).map(count)
}

/// Plain text of the peer.
pub fn read_raw(state: &mut State, memory: Memory<'_>, codec: u32, buffer: u32, len: u32) -> Answer {
    let buffer = writable(memory, buffer, len)?;
    codecs(state)?.read_raw(codec, buffer).map(count)
}

/// What should be written to the socket.
pub fn write_tls(state: &mut State, memory: Memory<'_>, codec: u32, buffer: u32, len: u32) -> Answer {
    let buffer = writable(memory, buffer, len)?;
    codecs(state)?.write_tls(codec, buffer).map(count)
}

/// What was read from the socket.
pub fn read_tls(state: &mut State, memory: Memory<'_>, codec: u32, buffer: u32, len: u32) -> Answer {
    let buffer = readable(memory, buffer, len)?;
    codecs(state)?.read_tls(codec, buffer).map(count)
}

/// Without a connection there has been none.
fn codecs(state: &mut State) -> Result<&mut Codecs, TlsError> {
    state.tls.codecs.as_mut().ok_or(TlsError::Parameter)
}

fn readable(memory: Memory<'_>, buffer: u32, len: u32) -> Result<&[u8], TlsError> {
    writable(memory, buffer, len).map(|it| &*it)
}

fn writable(memory: Memory<'_>, buffer: u32, len: u32) -> Result<&mut [u8], TlsError> {
    // What is longer would have a length below zero.
    let len = len.min(i32::MAX as u32);
    let start = memory.range(buffer, len).map_err(|_| TlsError::Parameter)?;
    // SAFETY: `range` checked it; for the length of the call nothing else refers to the memory.
    Ok(unsafe { slice::from_raw_parts_mut(start, len as usize) })
}

/// Never more than was asked for.
fn count(bytes: usize) -> u32 {
    bytes as u32
}
