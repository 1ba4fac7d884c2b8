//! One question to a name server, and what counts as an answer to it.
//!
//! Invariant: what a reply says is only believed if it carries the id of the question and repeats it. A record is only used if
//! it belongs to the name that was asked for, or to one that this is an alias of.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use simple_dns::rdata::{OPT, RData};
use simple_dns::{CLASS, Name, Packet, PacketFlag, QCLASS, QTYPE, Question, RCODE, TYPE, header_buffer};

/// What fits into a datagram on every path; the usual value since 2020.
const UDP_SIZE: u16 = 1232;
/// An alias of an alias, and so on: a chain that is longer is a loop, or as good as one.
const MAX_ALIASES: usize = 16;
/// Of a name as text, without a dot at its end (RFC 1035, 2.3.4).
const MAX_NAME: usize = 253;
const MAX_LABEL: usize = 63;

/// A question as it is sent.
pub(crate) struct Query<'a> {
    id: u16,
    name: Name<'a>,
    record: TYPE,
    /// What goes over the wire.
    pub bytes: Vec<u8>,
}

/// What a server says.
#[derive(Debug)]
pub(crate) enum Reply {
    /// Addresses, and the name that they belong to.
    Found {
        /// The name at the end of all aliases.
        canonical_name: String,
        /// Its addresses, as many as the answer has.
        addresses: Vec<SocketAddr>,
    },
    /// The name exists and has no such record.
    NoData,
    /// The name does not exist.
    NoName,
    /// The server cannot or does not want to answer, or does not know how to.
    Failed,
    /// The answer did not fit into a datagram.
    Truncated,
}

/// Whether a name can be asked for: letters, digits, `-` and `_` in labels that are neither empty nor too long.
pub(crate) fn is_host_name(name: &str) -> bool {
    let is_label = |label: &str| {
        (1..=MAX_LABEL).contains(&label.len())
            && label.bytes().all(|it| it.is_ascii_alphanumeric() || it == b'-' || it == b'_')
    };
    name.len() <= MAX_NAME && name.split('.').all(is_label)
}

impl<'a> Query<'a> {
    /// The question for one type of record; the caller has looked at the name.
    pub fn new(id: u16, name: &'a str, record: TYPE, edns: bool) -> Option<Self> {
        let name = Name::new(name).ok()?;
        let mut packet = Packet::new_query(id);
        packet.set_flags(PacketFlag::RECURSION_DESIRED);
        packet.questions.push(Question::new(
            name.clone(),
            QTYPE::TYPE(record),
            QCLASS::CLASS(CLASS::IN),
            false,
        ));
        if edns {
            *packet.opt_mut() = Some(OPT { opt_codes: Vec::new(), udp_packet_size: UDP_SIZE, version: 0 });
        }
        let bytes = packet.build_bytes_vec().ok()?;
        Some(Self { id, name, record, bytes })
    }

    /// What the packet answers; nothing if it is no answer to this question.
    pub fn read(&self, packet: &[u8]) -> Option<Reply> {
        let has = |flag| header_buffer::has_flags(packet, flag).unwrap_or(false);
        if header_buffer::id(packet).ok()? != self.id || !has(PacketFlag::RESPONSE) {
            return None;
        }
        // Cut anywhere: the rest need not make sense.
        if has(PacketFlag::TRUNCATION) {
            return Some(Reply::Truncated);
        }
        let Ok(packet) = Packet::parse(packet) else { return Some(Reply::Failed) };
        match packet.questions.as_slice() {
            [question] if self.is_asked_by(question) => {}
            // A server that did not understand the question has nothing to repeat.
            [] if packet.rcode() != RCODE::NoError => return Some(Reply::Failed),
            _ => return None,
        }
        Some(match packet.rcode() {
            RCODE::NoError => self.answer(&packet),
            RCODE::NameError => Reply::NoName,
            _ => Reply::Failed,
        })
    }

    fn is_asked_by(&self, question: &Question<'_>) -> bool {
        question.qname == self.name
            && question.qtype == QTYPE::TYPE(self.record)
            && question.qclass == QCLASS::CLASS(CLASS::IN)
    }

    fn answer(&self, packet: &Packet<'_>) -> Reply {
        let records = || packet.answers.iter().filter(|it| it.class == CLASS::IN);
        let mut name = &self.name;
        for _ in 0..MAX_ALIASES {
            let alias = records().find_map(|it| match &it.rdata {
                RData::CNAME(target) if it.name == *name => Some(&target.0),
                _ => None,
            });
            match alias {
                Some(target) => name = target,
                None => break,
            }
        }
        let address = |rdata: &RData<'_>| match (rdata, self.record) {
            (RData::A(it), TYPE::A) => Some((Ipv4Addr::from(it.address), 0).into()),
            (RData::AAAA(it), TYPE::AAAA) => Some((Ipv6Addr::from(it.address), 0).into()),
            _ => None,
        };
        let addresses: Vec<_> =
            records().filter(|it| it.name == *name).filter_map(|it| address(&it.rdata)).collect();
        let canonical_name = name.to_string();
        if !addresses.is_empty() && is_host_name(&canonical_name) {
            return Reply::Found { canonical_name, addresses };
        }
        // A server that neither knows nor asks others: it has sent us elsewhere.
        let is_referral = packet.answers.is_empty()
            && !packet.has_flags(PacketFlag::AUTHORITATIVE_ANSWER)
            && !packet.has_flags(PacketFlag::RECURSION_AVAILABLE);
        if is_referral { Reply::Failed } else { Reply::NoData }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An answer in which a few bytes are any others: read, or not, and nothing worse.
    #[test]
    fn any_bytes_can_be_read() {
        let query = Query::new(1, "a.example", TYPE::A, false).expect("a query");
        let mut answer = query.bytes.clone();
        answer[2..4].copy_from_slice(&[0x85, 0x80]);
        answer[7] = 3;
        let alias = b"\xc0\x0c\0\x05\0\x01\0\0\0\x3c\0\x04\x01b\xc0\x0e";
        let address = b"\xc0\x27\0\x01\0\x01\0\0\0\x3c\0\x04\xc0\0\x02\x01";
        answer.extend([alias.as_slice(), address, address].concat());
        let Some(Reply::Found { canonical_name, addresses }) = query.read(&answer) else {
            panic!("{:?}", query.read(&answer))
        };
        assert_eq!((canonical_name.as_str(), addresses.len()), ("b.example", 2));

        let mut state = 1_u64;
        let mut random = |below: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) as usize % below
        };
        let mut found = 0;
        for _ in 0..20_000 {
            let mut bytes = answer.clone();
            for _ in 0..=random(3) {
                let at = 2 + random(bytes.len() - 2);
                bytes[at] = random(256) as u8;
            }
            bytes.truncate(bytes.len() - random(8));
            found += usize::from(matches!(query.read(&bytes), Some(Reply::Found { .. })));
        }
        assert!((100..19_000).contains(&found), "{found} of them were answers");
    }
}
