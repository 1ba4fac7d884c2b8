//! `linux.netDevices`: interfaces of the host that become the container's (config-linux.md, "Network Devices").
//!
//! An interface leaves its addresses behind when it changes its namespace, so they are read before and given back
//! after; then it is set up. As with runc, these are the permanent addresses of global scope: all others belong to
//! where it comes from. libcontainer has the same, but loses broadcast addresses and the kernel's reasons.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use oci_spec::runtime::{LinuxNamespaceType, Spec};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::config;
use crate::error::Os;

/// What can go wrong with an interface.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "each variant says itself what happened")]
pub enum Error {
    #[error("config.json: linux.netDevices: {name}: {problem}")]
    Wrong { name: String, problem: &'static str },
    #[error("config.json: linux.netDevices: {name}: {step}: {reason}")]
    Step { name: String, step: &'static str, reason: Os },
    #[error("network namespace {path}: {reason}")]
    Namespace { path: String, reason: Os },
}

/// Refuses what cannot be moved, in runc's words.
///
/// # Errors
/// [`Error::Wrong`].
pub fn check(spec: &Spec) -> Result<(), Error> {
    for (name, inside) in devices(spec) {
        let wrong = |problem| Err(Error::Wrong { name: name.to_owned(), problem });
        if !config::has_namespace(spec, LinuxNamespaceType::Network) {
            return wrong("unable to move network devices without a private NET namespace");
        }
        if !rustix::process::geteuid().is_root() {
            return wrong("network devices are not supported for rootless containers");
        }
        if !is_valid(name) || !is_valid(inside) {
            return wrong("invalid network device name (1 to 15 characters, no space, slash or colon)");
        }
    }
    Ok(())
}

/// Each interface with its name inside, in the order of names: JSON objects have none.
fn devices(spec: &Spec) -> Vec<(&str, &str)> {
    let listed = spec.linux().as_ref().and_then(|linux| linux.net_devices().as_ref());
    let names = listed.into_iter().flatten().map(|(name, device)| {
        (name.as_str(), device.name().as_deref().filter(|inside| !inside.is_empty()).unwrap_or(name))
    });
    let mut names: Vec<_> = names.collect();
    names.sort_unstable();
    names
}

/// As the kernel judges names: dev_valid_name().
fn is_valid(name: &str) -> bool {
    const LONGEST: usize = libc::IFNAMSIZ - 1;
    (1..=LONGEST).contains(&name.len())
        && !matches!(name, "." | "..")
        && !name.contains(|c: char| matches!(c, '/' | ':') || c.is_ascii_whitespace())
}

/// Moves the interfaces of config.json to the network namespace of the container, whose process `pid` is.
///
/// # Errors
/// [`Error`]; an interface that was moved already goes where the namespace goes.
pub fn attach(spec: &Spec, pid: i32) -> Result<(), Error> {
    let devices = devices(spec);
    if devices.is_empty() {
        return Ok(());
    }
    // Init joins an existing namespace later than this.
    let joined = config::namespace(spec, LinuxNamespaceType::Network).and_then(config::joined_path);
    let path = joined.map_or_else(|| format!("/proc/{pid}/ns/net"), |path| path.display().to_string());
    let open = |path: &str| {
        File::open(path).map_err(|e| Error::Namespace { path: path.to_owned(), reason: e.into() })
    };
    let (ours, theirs) = (open("/proc/self/ns/net")?, open(&path)?);
    for (name, inside) in devices {
        let failed = |step| move |reason: Os| Error::Step { name: name.to_owned(), step, reason };
        let mut host = Client::new().map_err(failed("netlink"))?;
        let index = host.index(name).map_err(failed("find the interface"))?;
        let addresses = host.addresses(index).map_err(failed("read its addresses"))?;
        host.give_away(index, inside, theirs.as_raw_fd()).map_err(failed("move it"))?;

        enter(&theirs).map_err(failed("enter the container's network namespace"))?;
        let settled = settle(inside, addresses);
        enter(&ours).map_err(failed("leave the container's network namespace"))?;
        settled.map_err(failed("set it up in the container"))?;
    }
    Ok(())
}

fn enter(namespace: &File) -> Result<(), Os> {
    Ok(move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?)
}

/// In the container's namespace: addresses, then up.
fn settle(name: &str, addresses: Vec<AddressMessage>) -> Result<(), Os> {
    let mut client = Client::new()?;
    let index = client.index(name)?;
    for address in addresses {
        client.add(index, address)?;
    }
    client.set_up(index)
}

/// A connection to the kernel (rtnetlink(7)), in the network namespace where it was made.
struct Client {
    socket: Socket,
    sequence: u32,
}

impl Client {
    fn new() -> Result<Self, Os> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Sends a request, and returns every message that answers it.
    fn request(&mut self, flags: u16, request: RouteNetlinkMessage) -> Result<Vec<RouteNetlinkMessage>, Os> {
        self.sequence += 1;
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(request));
        message.finalize();
        let mut buffer = vec![0; message.buffer_len()];
        message.serialize(&mut buffer);
        self.socket.send(&buffer, 0)?;

        let mut answers = Vec::new();
        loop {
            let (received, _) = self.socket.recv_from_full()?;
            let mut rest = &received[..];
            while !rest.is_empty() {
                let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest)
                    .map_err(|e| io::Error::other(e.to_string()))?;
                // Messages are aligned to four bytes (netlink(7)).
                let length = (message.header.length as usize).next_multiple_of(4);
                rest = rest.get(length.max(4)..).unwrap_or_default();
                match message.payload {
                    NetlinkPayload::InnerMessage(answer) => answers.push(answer),
                    NetlinkPayload::Error(error) => match error.code {
                        None => return Ok(answers),
                        Some(_) => return Err(error.to_io().into()),
                    },
                    NetlinkPayload::Done(_) => return Ok(answers),
                    _ => {}
                }
            }
        }
    }

    fn index(&mut self, name: &str) -> Result<u32, Os> {
        let mut link = LinkMessage::default();
        link.attributes.push(LinkAttribute::IfName(name.to_owned()));
        let answers = self.request(NLM_F_ACK, RouteNetlinkMessage::GetLink(link))?;
        let index = answers.iter().find_map(|answer| match answer {
            RouteNetlinkMessage::NewLink(link) => Some(link.header.index),
            _ => None,
        });
        index.ok_or_else(|| io::Error::from_raw_os_error(libc::ENODEV).into())
    }

    fn addresses(&mut self, index: u32) -> Result<Vec<AddressMessage>, Os> {
        let all = self.request(NLM_F_DUMP, RouteNetlinkMessage::GetAddress(AddressMessage::default()))?;
        let wanted = all.into_iter().filter_map(|answer| match answer {
            RouteNetlinkMessage::NewAddress(address) => Some(address),
            _ => None,
        });
        Ok(wanted.filter(|address| address.header.index == index && is_kept(address)).collect())
    }

    /// Moves and renames in one step. An interface is down before it gets a name.
    fn give_away(&mut self, index: u32, name: &str, namespace: i32) -> Result<(), Os> {
        let mut link = LinkMessage::default();
        link.header.index = index;
        link.header.change_mask = LinkFlags::Up;
        self.request(NLM_F_ACK, RouteNetlinkMessage::SetLink(link.clone()))?;
        link.header.change_mask = LinkFlags::default();
        link.attributes.push(LinkAttribute::NetNsFd(namespace));
        link.attributes.push(LinkAttribute::IfName(name.to_owned()));
        self.request(NLM_F_ACK, RouteNetlinkMessage::SetLink(link)).map(drop)
    }

    fn add(&mut self, index: u32, mut address: AddressMessage) -> Result<(), Os> {
        address.header.index = index;
        // A label is the old name, and lifetimes are those of a permanent address by default.
        address.attributes.retain(|attribute| {
            matches!(
                attribute,
                AddressAttribute::Address(_)
                    | AddressAttribute::Local(_)
                    | AddressAttribute::Broadcast(_)
                    | AddressAttribute::Flags(_)
            )
        });
        let flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
        self.request(flags, RouteNetlinkMessage::NewAddress(address)).map(drop)
    }

    fn set_up(&mut self, index: u32) -> Result<(), Os> {
        let mut link = LinkMessage::default();
        link.header.index = index;
        link.header.flags = LinkFlags::Up;
        link.header.change_mask = LinkFlags::Up;
        self.request(NLM_F_ACK, RouteNetlinkMessage::SetLink(link)).map(drop)
    }
}

fn is_kept(address: &AddressMessage) -> bool {
    let flags = address.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Flags(flags) => Some(*flags),
        _ => None,
    });
    let flags = flags.unwrap_or(AddressFlags::from_bits_retain(address.header.flags.bits().into()));
    address.header.scope == AddressScope::Universe && flags.contains(AddressFlags::Permanent)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn verdict(namespace: &str, devices: Value) -> Result<(), String> {
        let config = json!({"ociVersion": "1.0.2",
            "linux": {"namespaces": [{"type": namespace}], "netDevices": devices}});
        let spec: Spec = serde_json::from_value(config).expect("a configuration");
        check(&spec).map_err(|error| error.to_string())
    }

    #[test]
    fn names_are_judged_as_the_kernel_does() {
        for name in ["eth0", "a", "0123456789abcde"] {
            assert!(is_valid(name), "{name:?}");
        }
        for name in ["", "0123456789abcdef", ".", "..", "a/b", "a:b", "a b"] {
            assert!(!is_valid(name), "{name:?}");
        }
    }

    #[test]
    fn what_cannot_be_moved_is_named() {
        let error = verdict("pid", json!({"eth7": {}})).expect_err("no namespace");
        assert!(error.contains("eth7") && error.contains("without a private NET namespace"), "{error}");
        if rustix::process::geteuid().is_root() {
            assert_eq!(verdict("network", json!({"eth7": {"name": "inside0"}, "eth8": {}})), Ok(()));
            let error =
                verdict("network", json!({"eth7": {"name": "much-too-long-name"}})).expect_err("long");
            assert!(error.contains("eth7") && error.contains("invalid network device name"), "{error}");
        }
    }
}
