//! Name servers on loopback addresses that answer as a test says, over UDP and TCP, until they are dropped.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, spawn};

use simple_dns::rdata::{A, AAAA, CNAME, RData};
use simple_dns::{CLASS, Name, OPCODE, Packet, PacketFlag, QTYPE, Question, RCODE, ResourceRecord, TYPE};

/// What a server does about a question: the messages that it sends, none for silence.
pub(super) type Handler = Box<dyn FnMut(&Asked) -> Vec<Vec<u8>> + Send>;

/// A question as it arrived.
pub(super) struct Asked {
    pub id: u16,
    pub name: String,
    pub record: TYPE,
    pub over_tcp: bool,
    /// Who asks; an answer from another socket could be sent there.
    pub peer: SocketAddr,
    /// The size that EDNS0 allows.
    pub udp_size: Option<u16>,
}

/// A reply that is being put together.
pub(super) struct Draft(pub Packet<'static>);

/// Servers at 127.0.0.1, 127.0.0.2 and so on, all with the same port.
pub(super) struct Servers {
    sockets: Vec<UdpSocket>,
    is_over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

fn name(text: &str) -> Name<'static> {
    Name::new(text).expect("a name").into_owned()
}

impl Asked {
    fn parse(bytes: &[u8], over_tcp: bool, peer: SocketAddr) -> Self {
        let packet = Packet::parse(bytes).expect("a query that can be read");
        assert!(packet.has_flags(PacketFlag::RECURSION_DESIRED) && packet.opcode() == OPCODE::StandardQuery);
        let [question] = packet.questions.as_slice() else { panic!("{} questions", packet.questions.len()) };
        let QTYPE::TYPE(record) = question.qtype else { panic!("{:?}", question.qtype) };
        Self {
            id: packet.id(),
            name: question.qname.to_string(),
            record,
            over_tcp,
            peer,
            udp_size: packet.opt().map(|it| it.udp_packet_size),
        }
    }

    /// A reply that repeats the question and says nothing yet.
    pub fn reply(&self) -> Draft {
        let mut packet = Packet::new_reply(self.id);
        packet.set_flags(PacketFlag::RECURSION_DESIRED | PacketFlag::RECURSION_AVAILABLE);
        packet.questions.push(Question::new(name(&self.name), self.record.into(), CLASS::IN.into(), false));
        Draft(packet)
    }

    /// A reply with the addresses that are of the type in question.
    pub fn addresses(&self, addresses: &[&str]) -> Draft {
        addresses.iter().fold(self.reply(), |draft, it| draft.address(&self.name, it, self.record))
    }
}

impl Draft {
    fn record(mut self, owner: &str, rdata: RData<'static>) -> Self {
        self.0.answers.push(ResourceRecord::new(name(owner), CLASS::IN, 60, rdata));
        self
    }

    /// An address of `owner`, if it is of this type.
    pub fn address(self, owner: &str, address: &str, record: TYPE) -> Self {
        match (address.parse().expect("an address"), record) {
            (IpAddr::V4(it), TYPE::A) => self.record(owner, RData::A(A { address: it.into() })),
            (IpAddr::V6(it), TYPE::AAAA) => self.record(owner, RData::AAAA(AAAA { address: it.into() })),
            _ => self,
        }
    }

    pub fn alias(self, owner: &str, target: &str) -> Self {
        self.record(owner, RData::CNAME(CNAME(name(target))))
    }

    pub fn code(mut self, code: RCODE) -> Self {
        *self.0.rcode_mut() = code;
        self
    }

    pub fn bytes(&self) -> Vec<u8> {
        self.0.build_bytes_vec_compressed().expect("a reply")
    }

    pub fn send(&self) -> Vec<Vec<u8>> {
        vec![self.bytes()]
    }
}

impl Servers {
    /// Starts one server for each handler.
    pub fn start(handlers: impl IntoIterator<Item = Handler>) -> Self {
        let handlers: Vec<_> = handlers.into_iter().collect();
        // The first port that is free at all addresses, for both protocols.
        let sockets = loop {
            if let Ok(sockets) = bind_all(handlers.len() as u8) {
                break sockets;
            }
        };
        let is_over = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        let mut udp_sockets = Vec::new();
        for ((udp, tcp), handler) in sockets.into_iter().zip(handlers) {
            let handler = Arc::new(std::sync::Mutex::new(handler));
            let ask = move |asked: &Asked| (handler.lock().expect("a handler that has not failed"))(asked);
            udp_sockets.push(udp.try_clone().expect("socket"));
            let (over, answer) = (is_over.clone(), ask.clone());
            threads.push(spawn(move || serve_udp(&udp, &over, answer)));
            let over = is_over.clone();
            threads.push(spawn(move || serve_tcp(&tcp, &over, ask)));
        }
        Self { sockets: udp_sockets, is_over, threads }
    }

    pub fn port(&self) -> u16 {
        self.sockets[0].local_addr().expect("bound").port()
    }
}

fn bind_all(count: u8) -> std::io::Result<Vec<(UdpSocket, TcpListener)>> {
    let mut port = 0;
    (1..=count)
        .map(|n| {
            let address = Ipv4Addr::new(127, 0, 0, n);
            let tcp = TcpListener::bind((address, port))?;
            port = tcp.local_addr()?.port();
            Ok((UdpSocket::bind((address, port))?, tcp))
        })
        .collect()
}

fn serve_udp(socket: &UdpSocket, is_over: &AtomicBool, mut answer: impl FnMut(&Asked) -> Vec<Vec<u8>>) {
    let mut buffer = [0; 512];
    while let Ok((len, peer)) = socket.recv_from(&mut buffer)
        && !is_over.load(Ordering::Relaxed)
    {
        for message in answer(&Asked::parse(&buffer[..len], false, peer)) {
            // Who asked may have gone.
            let _ = socket.send_to(&message, peer);
        }
    }
}

fn serve_tcp(listener: &TcpListener, is_over: &AtomicBool, mut answer: impl FnMut(&Asked) -> Vec<Vec<u8>>) {
    while let Ok((stream, peer)) = listener.accept()
        && !is_over.load(Ordering::Relaxed)
    {
        let _ = serve_stream(stream, peer, &mut answer);
    }
}

/// Each message goes out as it is after its length; an empty one stands for a connection that says no more.
fn serve_stream(
    mut stream: TcpStream,
    peer: SocketAddr,
    answer: &mut impl FnMut(&Asked) -> Vec<Vec<u8>>,
) -> std::io::Result<()> {
    let mut len = [0; 2];
    stream.read_exact(&mut len)?;
    let mut query = vec![0; u16::from_be_bytes(len).into()];
    stream.read_exact(&mut query)?;
    let messages = answer(&Asked::parse(&query, true, peer));
    if messages.is_empty() {
        // Until the other side has had enough.
        stream.read_exact(&mut [0])?;
    }
    for message in messages {
        stream.write_all(&(message.len() as u16).to_be_bytes())?;
        stream.write_all(&message)?;
    }
    Ok(())
}

impl Drop for Servers {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        for socket in &self.sockets {
            let address = socket.local_addr().expect("bound");
            // Something arrives, so the threads look up.
            let _ = UdpSocket::bind("127.0.0.1:0").and_then(|it| it.send_to(&[], address));
            let _ = TcpStream::connect(address);
        }
        for thread in self.threads.drain(..) {
            if thread.join().is_err() && !std::thread::panicking() {
                panic!("a server failed");
            }
        }
    }
}
