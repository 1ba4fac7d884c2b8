//! A connection to systemd's D-Bus interface, org.freedesktop.systemd1(5): one call at a time, and the signal by which
//! systemd tells that a job is done.
//!
//! zbus gives the wire format. Its connections bring an asynchronous runtime, which would be a sixth of this program
//! for four method calls. The bus is not told who we are: it knows from the socket, where we look the same from inside
//! a user namespace (D-Bus specification, "Authentication Mechanisms").

use std::io::{ErrorKind, Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;
use zbus::wire::serialized::{Context, Data};
use zbus::wire::{BE, LE, to_bytes};
use zbus::{ObjectPath, Type, Variant};

use crate::error::Os;

/// A property of a unit: its name on the bus, and a value.
pub type Property = (String, Variant<'static>);

/// How long systemd may take for anything: as long as runc gives it.
const PATIENCE: Duration = Duration::from_secs(30);

const SYSTEM_BUS: &str = "unix:path=/run/dbus/system_bus_socket";
/// systemd itself, for root, where no bus daemon runs.
const PRIVATE: &str = "/run/systemd/private";

const SYSTEMD: Peer = Peer {
    name: "org.freedesktop.systemd1",
    path: "/org/freedesktop/systemd1",
    interface: "org.freedesktop.systemd1.Manager",
};
const DAEMON: Peer =
    Peer { name: "org.freedesktop.DBus", path: "/org/freedesktop/DBus", interface: "org.freedesktop.DBus" };

/// What goes wrong between us and systemd.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum Error {
    #[error("bus address {address:?}: {reason}")]
    Connect { address: String, reason: Os },
    #[error(
        "no user bus: neither DBUS_SESSION_BUS_ADDRESS nor $XDG_RUNTIME_DIR/bus is there (is dbus-user-session installed?)"
    )]
    NoUserBus,
    #[error("the bus refuses us: {0}")]
    Refused(String),
    #[error("connection to the bus: {0}")]
    Connection(Os),
    #[error("no answer from systemd within {} s", PATIENCE.as_secs())]
    Patience,
    #[error("message of the bus: {0}")]
    Message(#[from] zbus::Error),
    #[error("{text}")]
    Failed { name: String, text: String },
    #[error("unit {unit}: its job ended with {result:?}")]
    Job { unit: String, result: String },
}

/// Who is called.
struct Peer {
    name: &'static str,
    path: &'static str,
    interface: &'static str,
}

/// A connection.
#[derive(Debug)]
pub struct Bus {
    stream: UnixStream,
    /// systemd at the other end, not a bus.
    private: bool,
    serial: u32,
    deadline: Instant,
    /// Jobs that have ended: their paths, and how.
    ended: Vec<(String, String)>,
}

/// A message, as far as we look at it (D-Bus specification, "Message Format").
struct Message {
    kind: u8,
    reply_to: u32,
    member: String,
    error: String,
    signature: String,
    body: Data<'static, 'static>,
}

/// Length of what comes before the fields of a header.
const FIXED: usize = 16;

const CALL: u8 = 1;
const REPLY: u8 = 2;
const ERROR: u8 = 3;
const SIGNAL: u8 = 4;

// Header fields.
const PATH: u8 = 1;
const INTERFACE: u8 = 2;
const MEMBER: u8 = 3;
const ERROR_NAME: u8 = 4;
const REPLY_SERIAL: u8 = 5;
const DESTINATION: u8 = 6;
const SIGNATURE: u8 = 8;

impl Bus {
    /// The bus of the host, or that of the user.
    pub fn open(user: bool) -> Result<Self, Error> {
        if user {
            return Self::connect(&user_address()?, false);
        }
        let address = std::env::var("DBUS_SYSTEM_BUS_ADDRESS");
        let address = address.as_deref().unwrap_or(SYSTEM_BUS);
        match Self::connect(address, false) {
            Err(Error::Connect { .. }) if Path::new(PRIVATE).exists() => {
                Self::connect(&format!("unix:path={PRIVATE}"), true)
            }
            result => result,
        }
    }

    fn connect(address: &str, private: bool) -> Result<Self, Error> {
        let stream =
            connect(address).map_err(|e| Error::Connect { address: address.into(), reason: e.into() })?;
        let deadline = Instant::now() + PATIENCE;
        let mut bus = Self { stream, private, serial: 0, deadline, ended: Vec::new() };
        bus.authenticate()?;
        if !private {
            bus.call::<String>(&DAEMON, "Hello", &())?;
        }
        Ok(bus)
    }

    fn authenticate(&mut self) -> Result<(), Error> {
        self.write(b"\0AUTH EXTERNAL\r\n")?;
        let mut said = self.line()?;
        if said == "DATA" {
            self.write(b"DATA\r\n")?;
            said = self.line()?;
        }
        if !said.starts_with("OK ") {
            return Err(Error::Refused(said));
        }
        self.write(b"BEGIN\r\n")
    }

    /// Starts a transient unit, and waits until it has.
    pub fn start_transient_unit(&mut self, unit: &str, properties: &[Property]) -> Result<(), Error> {
        self.watch_jobs()?;
        let none: [(String, Vec<Property>); 0] = [];
        let start = |bus: &mut Self| bus.job("StartTransientUnit", &(unit, "replace", properties, &none[..]));
        let job = match start(self) {
            // A unit of that name that failed long ago is still remembered.
            Err(Error::Failed { name, .. }) if name == "org.freedesktop.systemd1.UnitExists" => {
                let _ = self.reset_failed_unit(unit);
                start(self)
            }
            result => result,
        }?;
        match self.wait(&job) {
            Ok(result) if result == "done" => Ok(()),
            failed => {
                let _ = self.reset_failed_unit(unit);
                Err(failed.map_or_else(|e| e, |result| Error::Job { unit: unit.into(), result }))
            }
        }
    }

    /// Stops a unit, and makes systemd forget that it failed. One that is not there is fine.
    pub fn stop_unit(&mut self, unit: &str) -> Result<(), Error> {
        self.watch_jobs()?;
        match self.job("StopUnit", &(unit, "replace")) {
            Ok(job) => drop(self.wait(&job)?),
            Err(Error::Failed { .. }) => {}
            Err(error) => return Err(error),
        }
        match self.reset_failed_unit(unit) {
            Ok(()) | Err(Error::Failed { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn reset_failed_unit(&mut self, unit: &str) -> Result<(), Error> {
        self.call_nothing(&SYSTEMD, "ResetFailedUnit", &(unit,))
    }

    /// Changes properties of a unit, until the next boot.
    pub fn set_unit_properties(&mut self, unit: &str, properties: &[Property]) -> Result<(), Error> {
        self.call_nothing(&SYSTEMD, "SetUnitProperties", &(unit, true, properties))
    }

    /// A property of systemd itself that is a string.
    pub fn manager_property(&mut self, name: &str) -> Result<String, Error> {
        let properties = Peer { interface: "org.freedesktop.DBus.Properties", ..SYSTEMD };
        let reply = self.request(&properties, "Get", &(SYSTEMD.interface, name))?;
        let (value, _) = reply.body.deserialize::<Variant<'_>>()?;
        Ok(value.downcast::<String>()?)
    }

    /// Asks to be told of jobs that end.
    fn watch_jobs(&mut self) -> Result<(), Error> {
        if !self.private {
            let rule = format!("type='signal',interface='{}',member='JobRemoved'", SYSTEMD.interface);
            self.call_nothing(&DAEMON, "AddMatch", &(rule,))?;
        }
        match self.call_nothing(&SYSTEMD, "Subscribe", &()) {
            Err(Error::Failed { name, .. }) if name == "org.freedesktop.systemd1.AlreadySubscribed" => Ok(()),
            result => result,
        }
    }

    fn job<B: Serialize + Type>(&mut self, member: &str, body: &B) -> Result<String, Error> {
        let reply = self.request(&SYSTEMD, member, body)?;
        let (path, _) = reply.body.deserialize::<ObjectPath<'_>>()?;
        Ok(path.as_str().to_owned())
    }

    /// How a job ended.
    fn wait(&mut self, job: &str) -> Result<String, Error> {
        loop {
            if let Some((_, result)) = self.ended.iter().find(|(path, _)| path == job) {
                return Ok(result.clone());
            }
            let message = self.receive()?;
            self.note(&message)?;
        }
    }

    fn note(&mut self, message: &Message) -> Result<(), Error> {
        if message.kind == SIGNAL && message.member == "JobRemoved" {
            let ((_, path, _, result), _): ((u32, ObjectPath<'_>, String, String), _) =
                message.body.deserialize()?;
            self.ended.push((path.as_str().to_owned(), result));
        }
        Ok(())
    }

    fn call_nothing<B: Serialize + Type>(
        &mut self,
        peer: &Peer,
        member: &str,
        body: &B,
    ) -> Result<(), Error> {
        self.request(peer, member, body).map(drop)
    }

    fn call<R: DeserializeOwned + Type>(
        &mut self,
        peer: &Peer,
        member: &str,
        body: &(impl Serialize + Type),
    ) -> Result<R, Error> {
        let reply = self.request(peer, member, body)?;
        let (value, _) = reply.body.deserialize::<R>()?;
        Ok(value)
    }

    /// Calls a method and waits for what it returns.
    fn request<B: Serialize + Type>(
        &mut self,
        peer: &Peer,
        member: &str,
        body: &B,
    ) -> Result<Message, Error> {
        self.deadline = Instant::now() + PATIENCE;
        self.serial += 1;
        let mut fields = vec![
            (PATH, Variant::new(ObjectPath::try_from(peer.path)?)),
            (INTERFACE, Variant::new(peer.interface)),
            (MEMBER, Variant::new(member)),
        ];
        if !self.private {
            fields.push((DESTINATION, Variant::new(peer.name)));
        }
        self.write(&encode(CALL, self.serial, &fields, body)?)?;
        loop {
            let message = self.receive()?;
            match message.kind {
                REPLY if message.reply_to == self.serial => return Ok(message),
                ERROR if message.reply_to == self.serial => {
                    let text = match message.signature.strip_prefix('s') {
                        Some(_) => message.body.deserialize::<String>()?.0,
                        None => message.error.clone(),
                    };
                    return Err(Error::Failed { name: message.error, text });
                }
                _ => self.note(&message)?,
            }
        }
    }

    fn receive(&mut self) -> Result<Message, Error> {
        let mut bytes = self.read(FIXED)?;
        let big = bytes[0] == b'B';
        let number = |at: usize| {
            let four = [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]];
            (if big { u32::from_be_bytes(four) } else { u32::from_le_bytes(four) }) as usize
        };
        // The largest that the specification allows: more is not a message.
        const LARGEST: usize = 1 << 27;
        let (body, fields) = (number(4), number(12));
        if body > LARGEST || fields > LARGEST {
            return Err(Error::Connection(std::io::Error::from(ErrorKind::InvalidData).into()));
        }
        bytes.extend(self.read(fields.next_multiple_of(8))?);
        let context = Context::new(if big { BE } else { LE }, 0);
        let header = Data::new(bytes, context);
        type Header<'a> = (u8, u8, u8, u8, u32, u32, Vec<(u8, Variant<'a>)>);
        let ((_, kind, _, _, _, _, fields), _) = header.deserialize::<Header<'_>>()?;
        let body = Data::new(self.read(body)?, context);
        let none = String::new;
        let mut message =
            Message { kind, reply_to: 0, member: none(), error: none(), signature: none(), body };
        for (field, value) in fields {
            match (field, value) {
                (REPLY_SERIAL, Variant::U32(serial)) => message.reply_to = serial,
                (MEMBER, Variant::Str(text)) => message.member = text.as_str().to_owned(),
                (ERROR_NAME, Variant::Str(text)) => message.error = text.as_str().to_owned(),
                (SIGNATURE, Variant::Signature(signature)) => {
                    message.signature = signature.to_string_no_parens();
                }
                _ => {}
            }
        }
        Ok(message)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.stream.write_all(bytes).map_err(|e| Error::Connection(e.into()))
    }

    fn read(&mut self, length: usize) -> Result<Vec<u8>, Error> {
        let mut bytes = vec![0; length];
        let mut filled = 0;
        while filled < length {
            let left = self.deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Error::Patience);
            }
            let read = self
                .stream
                .set_read_timeout(Some(left))
                .and_then(|()| self.stream.read(&mut bytes[filled..]));
            match read {
                Ok(0) => {
                    return Err(Error::Connection(std::io::Error::from(ErrorKind::UnexpectedEof).into()));
                }
                Ok(count) => filled += count,
                Err(e) if matches!(e.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock) => {}
                Err(e) => return Err(Error::Connection(e.into())),
            }
        }
        Ok(bytes)
    }

    /// A line of the authentication, which ends with `\r\n`.
    fn line(&mut self) -> Result<String, Error> {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            line.extend(self.read(1)?);
        }
        Ok(String::from_utf8_lossy(&line).trim_end().to_owned())
    }
}

/// A message as it goes over the wire.
fn encode<B: Serialize + Type>(
    kind: u8,
    serial: u32,
    fields: &[(u8, Variant<'_>)],
    body: &B,
) -> Result<Vec<u8>, Error> {
    let context = Context::new(LE, 0);
    let body = to_bytes(context, body)?;
    let length = u32::try_from(body.len()).unwrap_or(u32::MAX);
    let mut bytes = to_bytes(context, &(b'l', kind, 0u8, 1u8, length, serial, fields))?.to_vec();
    // Several arguments have a signature that is none of a single value, so zbus's values cannot hold it: one more
    // entry of the array of fields, a structure of a byte and a variant of type g.
    let signature = B::SIGNATURE.to_string_no_parens();
    if !signature.is_empty() {
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        bytes.extend([SIGNATURE, 1, b'g', 0, u8::try_from(signature.len()).unwrap_or(u8::MAX)]);
        bytes.extend_from_slice(signature.as_bytes());
        bytes.push(0);
        // The array begins behind its length, the last word of the fixed part.
        let length = u32::try_from(bytes.len() - FIXED).unwrap_or(u32::MAX);
        bytes[FIXED - 4..FIXED].copy_from_slice(&length.to_le_bytes());
    }
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    bytes.extend_from_slice(&body);
    Ok(bytes)
}

/// Where the user's bus is, if there is one.
pub fn user_address() -> Result<String, Error> {
    if let Ok(address) = std::env::var("DBUS_SESSION_BUS_ADDRESS")
        && !address.is_empty()
    {
        return Ok(address);
    }
    let runtime = std::env::var("XDG_RUNTIME_DIR").unwrap_or_default();
    let socket = format!("{runtime}/bus");
    if runtime.is_empty() || !Path::new(&socket).exists() {
        return Err(Error::NoUserBus);
    }
    Ok(format!("unix:path={socket}"))
}

/// The first of the addresses that answers (D-Bus specification, "Server Addresses"); Unix sockets only.
fn connect(addresses: &str) -> std::io::Result<UnixStream> {
    let mut result = Err(ErrorKind::Unsupported.into());
    for address in addresses.split(';') {
        let Some(options) = address.strip_prefix("unix:") else { continue };
        for (key, value) in options.split(',').filter_map(|option| option.split_once('=')) {
            result = match key {
                "path" => UnixStream::connect(unescape(value)),
                "abstract" => SocketAddr::from_abstract_name(unescape(value))
                    .and_then(|address| UnixStream::connect_addr(&address)),
                _ => continue,
            };
        }
        if result.is_ok() {
            break;
        }
    }
    result
}

/// `%41` for `A`, as in URLs.
fn unescape(value: &str) -> String {
    let mut parts = value.split('%');
    let mut text = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        match part.get(..2).and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                text.push(byte);
                text.extend_from_slice(&part.as_bytes()[2..]);
            }
            None => {
                text.push(b'%');
                text.extend_from_slice(part.as_bytes());
            }
        }
    }
    String::from_utf8_lossy(&text).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers like a bus: authentication, Hello, and then `script`.
    fn served(script: impl FnOnce(&mut Bus) + Send + 'static) -> Bus {
        let (ours, theirs) = UnixStream::pair().unwrap();
        std::thread::spawn(move || {
            let mut server = Bus {
                stream: theirs,
                private: true,
                serial: 0,
                deadline: Instant::now() + PATIENCE,
                ended: Vec::new(),
            };
            script(&mut server);
        });
        Bus { stream: ours, private: true, serial: 0, deadline: Instant::now() + PATIENCE, ended: Vec::new() }
    }

    fn send<B: Serialize + Type>(bus: &mut Bus, kind: u8, fields: Vec<(u8, Variant<'_>)>, body: &B) {
        bus.write(&encode(kind, 1, &fields, body).unwrap()).unwrap();
    }

    fn reply<B: Serialize + Type>(bus: &mut Bus, serial: u32, body: &B) {
        send(bus, REPLY, vec![(REPLY_SERIAL, Variant::U32(serial))], body);
    }

    #[test]
    fn the_bus_knows_us_by_our_socket() {
        let mut bus = served(|server| {
            assert_eq!(server.line().unwrap(), "\0AUTH EXTERNAL");
            server.write(b"DATA\r\n").unwrap();
            assert_eq!(server.line().unwrap(), "DATA");
            server.write(b"OK 1234\r\n").unwrap();
            assert_eq!(server.line().unwrap(), "BEGIN");
        });
        bus.authenticate().unwrap();
        let mut bus = served(|server| {
            server.line().unwrap();
            server.write(b"REJECTED EXTERNAL\r\n").unwrap();
        });
        assert!(bus.authenticate().unwrap_err().to_string().contains("REJECTED EXTERNAL"));
    }

    #[test]
    fn a_unit_is_started_when_its_job_is_done() {
        let job = "/org/freedesktop/systemd1/job/7";
        let mut bus = served(move |server| {
            let call = server.receive().unwrap();
            assert_eq!((call.kind, call.member.as_str()), (CALL, "Subscribe"));
            reply(server, 1, &());
            let call = server.receive().unwrap();
            assert_eq!(
                (call.member.as_str(), call.signature.as_str()),
                ("StartTransientUnit", "ssa(sv)a(sa(sv))")
            );
            let (name, _): ((String, String), _) = call.body.deserialize().unwrap();
            assert_eq!(name.0, "x.scope");
            let path = || ObjectPath::try_from(job).unwrap();
            let removed = |n: u32, path: ObjectPath<'static>, how: &'static str| (n, path, "x.scope", how);
            let other = ObjectPath::try_from("/other").unwrap();
            let member = || vec![(MEMBER, Variant::new("JobRemoved"))];
            send(server, SIGNAL, member(), &removed(6, other, "failed"));
            reply(server, 2, &(path(),));
            send(server, SIGNAL, member(), &removed(7, path(), "done"));
        });
        bus.start_transient_unit("x.scope", &[("Delegate".into(), Variant::Bool(true))]).unwrap();
    }

    #[test]
    fn what_systemd_refuses_is_told_in_its_words() {
        let mut bus = served(|server| {
            server.receive().unwrap();
            let fields = vec![
                (REPLY_SERIAL, Variant::U32(1)),
                (ERROR_NAME, Variant::new("org.freedesktop.DBus.Error.PropertyReadOnly")),
            ];
            send(server, ERROR, fields, &("Cannot set property Nonsense",));
        });
        let error = bus.set_unit_properties("x.scope", &[]).unwrap_err();
        assert_eq!(error.to_string(), "Cannot set property Nonsense");
    }

    #[test]
    fn arguments_have_a_signature_without_parentheses() {
        let signature = |message: Vec<u8>| {
            let at = message.windows(4).position(|field| field == [SIGNATURE, 1, b'g', 0]).unwrap() + 4;
            let length = usize::from(message[at]);
            assert_eq!(message[at + length + 1], 0);
            String::from_utf8(message[at + 1..=at + length].to_vec()).unwrap()
        };
        let fields = [(MEMBER, Variant::new("AddMatch"))];
        assert_eq!(signature(encode(CALL, 1, &fields, &("x",)).unwrap()), "s");
        assert_eq!(signature(encode(CALL, 1, &fields, &("x", true)).unwrap()), "sb");
        assert_eq!(encode(CALL, 1, &[], &()).unwrap().len(), FIXED);
    }

    #[test]
    fn addresses_are_unescaped() {
        assert_eq!(unescape("/run/user/1%20a%2fb%"), "/run/user/1 a/b%");
        assert!(connect("tcp:host=x;unixexec:path=y").is_err());
    }
}
