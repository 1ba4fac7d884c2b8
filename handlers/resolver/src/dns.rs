//! From a name to its addresses: which names to ask for, whom, and what to make of the answers.

use std::net::SocketAddr;

use rustix::rand::{GetRandomFlags, getrandom};
use simple_dns::TYPE;

use crate::config::Config;
use crate::message::{Query, Reply, is_host_name};
use crate::{Error, Family, Flags, Hints, Host, exchange};

/// The families to ask for.
#[derive(Clone, Copy)]
pub(crate) struct Families {
    pub v4: bool,
    pub v6: bool,
}

impl Families {
    /// What the hints can make use of.
    pub fn wanted(hints: &Hints) -> Self {
        let is_mapped = hints.flags.contains(Flags::V4MAPPED);
        Self { v4: hints.family != Family::Inet6 || is_mapped, v6: hints.family != Family::Inet4 }
    }

    /// Whether this address is of one of them.
    pub fn include(self, address: &SocketAddr) -> bool {
        if address.is_ipv4() { self.v4 } else { self.v6 }
    }
}

/// What came of one name.
enum Outcome {
    Found(Host),
    NoData,
    NoName,
    /// No server could say.
    Failed,
    /// No server said anything.
    Silent,
}

/// Tries the name in the order of resolv.conf(5): one with enough dots first as it is, then in the domains of the list.
///
/// # Errors
/// [`Error::NoData`] if any of the names exists, [`Error::Again`] if that could not be found out.
pub(crate) fn search(config: &Config, name: &str, families: Families) -> Result<Host, Error> {
    let mut result = Error::NoName;
    for name in candidates(config, name).iter().filter(|it| is_host_name(it)) {
        match look_up(config, name, families)? {
            Outcome::Found(host) => return Ok(host),
            Outcome::NoData => result = Error::NoData,
            Outcome::NoName => {}
            Outcome::Failed if matches!(result, Error::NoName) => result = Error::Again,
            Outcome::Failed => {}
            // The next name would mean the same wait.
            Outcome::Silent => return Err(Error::Again),
        }
    }
    Err(result)
}

fn candidates(config: &Config, name: &str) -> Vec<String> {
    if let Some(absolute) = name.strip_suffix('.') {
        return vec![absolute.to_owned()];
    }
    let mut names: Vec<String> = config
        .search
        .iter()
        .map(|it| it.trim_matches('.'))
        .filter(|it| !it.is_empty())
        .map(|domain| format!("{name}.{domain}"))
        .collect();
    let dots = name.matches('.').count();
    names.insert(if dots >= config.ndots { 0 } else { names.len() }, name.to_owned());
    names
}

/// Asks for one name: every server in turn, until each question has an answer.
fn look_up(config: &Config, name: &str, families: Families) -> Result<Outcome, Error> {
    let mut open = Vec::new();
    open.extend(families.v4.then_some(TYPE::A));
    open.extend((families.v6 && !config.no_aaaa).then_some(TYPE::AAAA));
    if open.is_empty() {
        return Ok(Outcome::NoData);
    }
    let first = if config.rotate { usize::from(random()?) } else { 0 };
    let mut answers = Vec::new();
    let mut has_failed = false;
    for attempt in 0..config.attempts {
        // A server that is too old for it may not answer at all.
        let edns = config.edns && attempt == 0;
        for turn in 0..config.servers.len() {
            let server = &config.servers[(first + turn) % config.servers.len()];
            let ids = ids(open.len())?;
            let queries =
                ids.iter().zip(&open).map(|(&id, &record)| Query::new(id, name, record, edns)).collect();
            let Some(queries): Option<Vec<_>> = queries else { return Ok(Outcome::NoName) };
            let at_once = if config.one_by_one { 1 } else { queries.len() };
            let replies = queries
                .chunks(at_once)
                .flat_map(|it| exchange::ask(server, it, config.timeout, config.use_tcp));
            let mut left = Vec::new();
            for (record, reply) in open.into_iter().zip(replies) {
                match reply {
                    Some(Reply::Failed) => {
                        has_failed = true;
                        left.push(record);
                    }
                    None | Some(Reply::Truncated) => left.push(record),
                    Some(reply) => answers.push(reply),
                }
            }
            if left.is_empty() {
                return Ok(combine(answers));
            }
            open = left;
        }
    }
    // Half an answer is better than none.
    if answers.iter().any(|it| matches!(it, Reply::Found { .. })) {
        return Ok(combine(answers));
    }
    Ok(if has_failed { Outcome::Failed } else { Outcome::Silent })
}

fn combine(replies: Vec<Reply>) -> Outcome {
    let mut outcome = Outcome::NoName;
    for reply in replies {
        outcome = match (outcome, reply) {
            (Outcome::Found(mut host), Reply::Found { addresses, .. }) => {
                host.addresses.extend(addresses);
                Outcome::Found(host)
            }
            (_, Reply::Found { canonical_name, addresses }) => {
                Outcome::Found(Host { canonical_name, addresses, is_numeric: false })
            }
            (Outcome::NoName, Reply::NoData) => Outcome::NoData,
            (outcome, _) => outcome,
        };
    }
    outcome
}

/// As many different ids.
fn ids(count: usize) -> Result<Vec<u16>, Error> {
    let mut ids: Vec<u16> = Vec::new();
    while ids.len() < count {
        let id = random()?;
        if !ids.contains(&id) {
            ids.push(id);
        }
    }
    Ok(ids)
}

fn random() -> Result<u16, Error> {
    let mut bytes = [0_u8; 2];
    // So few bytes come whole.
    rustix::io::retry_on_intr(|| getrandom(&mut bytes, GetRandomFlags::empty()))
        .map_err(std::io::Error::from)?;
    Ok(u16::from_ne_bytes(bytes))
}
