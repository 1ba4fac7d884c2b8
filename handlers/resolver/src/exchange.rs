//! Questions to servers over the network, one thread and one deadline at a time.
//!
//! A socket is connected to the one server that it speaks to, so that the kernel drops what others send, and its port is
//! the kernel's random choice; a new one is taken for each attempt.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, Result, retry_on_intr};
use rustix::net::sockopt::socket_error;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, connect, recv, send, socket_with,
};

use crate::message::{Query, Reply};

/// A discard port: nothing is sent to it.
const ANY_PORT: u16 = 9;
/// The largest datagram, and the largest message over TCP.
const MAX_MESSAGE: usize = u16::MAX as usize;

/// A connected socket, and when to stop waiting for it.
struct Connection {
    socket: OwnedFd,
    deadline: Instant,
}

/// Whether the network has addresses of this family at all; the loopback address stands for them.
pub(crate) fn has_family(loopback: IpAddr) -> bool {
    open(&SocketAddr::new(loopback, ANY_PORT), SocketType::DGRAM).is_ok()
}

/// Sends the questions to one server and waits for their answers; what was not answered is `None`.
pub(crate) fn ask(
    server: &SocketAddr,
    queries: &[Query<'_>],
    timeout: Duration,
    use_tcp: bool,
) -> Vec<Option<Reply>> {
    let mut replies: Vec<Option<Reply>> = queries.iter().map(|_| None).collect();
    if !use_tcp {
        // Whatever went wrong: the answers so far count.
        let _ = datagrams(server, queries, timeout, &mut replies);
    }
    for (query, reply) in queries.iter().zip(&mut replies) {
        if use_tcp || matches!(reply, Some(Reply::Truncated)) {
            *reply = stream(server, query, timeout).ok().flatten();
        }
    }
    replies
}

fn datagrams(
    server: &SocketAddr,
    queries: &[Query<'_>],
    timeout: Duration,
    replies: &mut [Option<Reply>],
) -> Result<()> {
    let connection =
        Connection { socket: open(server, SocketType::DGRAM)?, deadline: Instant::now() + timeout };
    for query in queries {
        connection.send(&query.bytes)?;
    }
    let mut buffer = vec![0; MAX_MESSAGE];
    while replies.iter().any(Option::is_none) {
        let len = connection.receive(&mut buffer)?;
        for (query, reply) in queries.iter().zip(replies.iter_mut()).filter(|(_, reply)| reply.is_none()) {
            *reply = query.read(&buffer[..len]);
        }
    }
    Ok(())
}

/// RFC 1035, 4.2.2: each message after its length.
fn stream(server: &SocketAddr, query: &Query<'_>, timeout: Duration) -> Result<Option<Reply>> {
    let connection =
        Connection { socket: open(server, SocketType::STREAM)?, deadline: Instant::now() + timeout };
    connection.wait(PollFlags::OUT)?;
    socket_error(&connection.socket)??;
    let len = u16::try_from(query.bytes.len()).map_err(|_| Errno::MSGSIZE)?;
    let message = [&len.to_be_bytes(), query.bytes.as_slice()].concat();
    let mut sent = 0;
    while sent < message.len() {
        sent += connection.send(&message[sent..])?;
    }
    let mut len = [0; 2];
    connection.fill(&mut len)?;
    let mut answer = vec![0; u16::from_be_bytes(len).into()];
    connection.fill(&mut answer)?;
    // There is nothing larger to ask for it with.
    Ok(query.read(&answer).filter(|it| !matches!(it, Reply::Truncated)))
}

fn open(server: &SocketAddr, kind: SocketType) -> Result<OwnedFd> {
    let family = if server.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, kind, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
    match connect(&socket, server) {
        // Interrupted, it goes on all the same.
        Ok(()) | Err(Errno::INPROGRESS | Errno::INTR) => Ok(socket),
        Err(errno) => Err(errno),
    }
}

impl Connection {
    /// Waits until the socket is ready, or has failed.
    fn wait(&self, events: PollFlags) -> Result<()> {
        loop {
            let left = self.deadline.saturating_duration_since(Instant::now());
            // Also for one who is never silent.
            if left.is_zero() {
                return Err(Errno::TIMEDOUT);
            }
            let timeout = Timespec::try_from(left).map_err(|_| Errno::INVAL)?;
            match poll(&mut [PollFd::from_borrowed_fd(self.socket.as_fd(), events)], Some(&timeout)) {
                Err(Errno::INTR) => {}
                Ok(0) => return Err(Errno::TIMEDOUT),
                Ok(_) => return Ok(()),
                Err(errno) => return Err(errno),
            }
        }
    }

    fn send(&self, bytes: &[u8]) -> Result<usize> {
        loop {
            match retry_on_intr(|| send(&self.socket, bytes, SendFlags::NOSIGNAL)) {
                Err(Errno::AGAIN) => self.wait(PollFlags::OUT)?,
                result => return result,
            }
        }
    }

    fn receive(&self, buffer: &mut [u8]) -> Result<usize> {
        self.wait(PollFlags::IN)?;
        loop {
            match retry_on_intr(|| recv(&self.socket, &mut *buffer, RecvFlags::empty())) {
                Err(Errno::AGAIN) => self.wait(PollFlags::IN)?,
                result => return result.map(|(len, _)| len),
            }
        }
    }

    fn fill(&self, mut buffer: &mut [u8]) -> Result<()> {
        while !buffer.is_empty() {
            match self.receive(buffer)? {
                0 => return Err(Errno::CONNRESET),
                len => buffer = &mut buffer[len..],
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    /// Packets without end, none of them an answer.
    #[test]
    fn noise_does_not_outlast_the_deadline() {
        let server = UdpSocket::bind("127.0.0.1:0").expect("socket");
        let socket = open(&server.local_addr().expect("bound"), SocketType::DGRAM).expect("connected");
        let peer = rustix::net::getsockname(&socket).expect("bound");
        let late = Connection { socket, deadline: Instant::now() };
        let peer = SocketAddr::try_from(peer).expect("an address");
        server.send_to(b"noise", peer).expect("sent");
        assert_eq!(late.receive(&mut [0; 16]), Err(Errno::TIMEDOUT));
        let connection = Connection { deadline: Instant::now() + Duration::from_secs(9), ..late };
        assert_eq!(connection.receive(&mut [0; 16]), Ok(5));
    }
}
