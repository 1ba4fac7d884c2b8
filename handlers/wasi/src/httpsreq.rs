//! `wasmedge_httpsreq`: a request over TLS as one call. Its functions have no errors to return: they end the guest, as a
//! trap does.

use std::net::SocketAddr;

use coracle_resolver::{Hints, Transport, resolve};
use coracle_tls::httpsreq;

use crate::{files::Container, memory::Memory, signals, state::State, stderr, trap, types};

/// Sends a request to a host and keeps the reply.
pub fn wasmedge_httpsreq_send_data(
    state: &mut State,
    memory: Memory<'_>,
    host: u32,
    host_len: u32,
    port: u32,
    request: u32,
    request_len: u32,
) {
    let host = inside(memory.bytes(host, host_len));
    let request = inside(memory.bytes(request, request_len));
    state.tls.reply.clear();
    let config = state.tls.config(&state.environment).unwrap_or_else(|error| end(&error.to_string()));
    let reply = httpsreq::send(config, &host, port, &request, addresses);
    state.tls.reply = reply.unwrap_or_else(|error| end(&error.to_string()));
}

/// The length of the last reply.
pub fn wasmedge_httpsreq_get_rcv_len(state: &mut State, _: Memory<'_>) -> u32 {
    state.tls.reply.len() as u32
}

/// The last reply, as often as it is asked for.
pub fn wasmedge_httpsreq_get_rcv(state: &mut State, memory: Memory<'_>, buffer: u32) {
    inside(memory.write(buffer, &state.tls.reply));
}

/// By the container's own files and servers of names.
fn addresses(host: &str, port: u16) -> Result<Vec<SocketAddr>, String> {
    let hints = Hints { socket_type: Some(Transport::Tcp), ..Hints::default() };
    let answer = resolve(&Container, host, &port.to_string(), &hints).map_err(|it| it.to_string())?;
    Ok(answer.entries.iter().map(|it| it.address).collect())
}

/// What was found in the memory, or the end of the guest.
fn inside<T>(found: types::Result<T>) -> T {
    found.unwrap_or_else(|_| end("out of bounds memory access"))
}

fn end(reason: &str) -> ! {
    stderr::print(&format!("wasm trap: wasmedge_httpsreq: {reason}\n"));
    signals::exit(trap::EXIT_CODE)
}
