//! Whole calls, against name servers of the tests on loopback addresses.

mod server;
mod trouble;

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use simple_dns::{PacketFlag, RCODE, TYPE};

use self::server::{Asked, Handler, Servers};
use super::*;

const ONE: &str = "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n";
const TWO: &str = "nameserver 127.0.0.1\nnameserver 127.0.0.2\noptions timeout:1 attempts:2\n";

/// What there is in `/etc`.
#[derive(Clone, Copy, Default)]
struct Etc<'a> {
    resolv_conf: &'a str,
    hosts: &'a str,
}

impl Files for Etc<'_> {
    fn read(&self, path: &str) -> io::Result<Vec<u8>> {
        match path {
            "/etc/resolv.conf" => Ok(self.resolv_conf.into()),
            "/etc/hosts" => Ok(self.hosts.into()),
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }
}

fn ask(servers: &Servers, etc: Etc<'_>, node: &str, hints: Hints) -> Result<Answer, Error> {
    resolve_at(servers.port(), &etc, node, "80", &Hints { socket_type: Some(Transport::Tcp), ..hints })
}

/// The addresses of a name, of any family.
fn addresses(servers: &Servers, resolv_conf: &str, node: &str) -> Result<Vec<String>, Error> {
    ask(servers, Etc { resolv_conf, hosts: "" }, node, Hints::default()).map(|it| text(&it))
}

fn text(answer: &Answer) -> Vec<String> {
    answer.entries.iter().map(|it| it.address.ip().to_string()).collect()
}

fn handler(act: impl FnMut(&Asked) -> Vec<Vec<u8>> + Send + 'static) -> Handler {
    Box::new(act)
}

/// One address of each kind for every name.
fn good() -> Handler {
    handler(|asked| asked.addresses(&["192.0.2.1", "2001:db8::1"]).send())
}

fn says(code: RCODE) -> Handler {
    handler(move |asked| asked.reply().code(code).send())
}

fn silent() -> Handler {
    handler(|_| vec![])
}

/// A handler that writes down the names that it is asked for.
fn noting(mut inner: Handler) -> (Handler, Arc<Mutex<Vec<String>>>) {
    let names = Arc::new(Mutex::new(Vec::new()));
    let noted = names.clone();
    let handler = handler(move |asked| {
        let mut noted = noted.lock().expect("names");
        if noted.last() != Some(&asked.name) {
            noted.push(asked.name.clone());
        }
        inner(asked)
    });
    (handler, names)
}

const BOTH: [&str; 2] = ["192.0.2.1", "2001:db8::1"];

#[test]
fn both_families_ipv4_first() {
    let servers = Servers::start([handler(|asked| {
        // The order of arrival decides nothing.
        if asked.record == TYPE::A {
            std::thread::sleep(Duration::from_millis(50));
        }
        asked.addresses(&["2001:db8::1", "192.0.2.1", "192.0.2.2"]).send()
    })]);
    let etc = Etc { resolv_conf: ONE, hosts: "" };
    let one = |family, flags| {
        let hints = Hints { family, flags, ..Hints::default() };
        text(&ask(&servers, etc, "www.example.com", hints).expect("addresses"))
    };
    let none = Flags::empty();
    assert_eq!(one(Family::Unspecified, none), ["192.0.2.1", "192.0.2.2", "2001:db8::1"]);
    assert_eq!(one(Family::Inet4, none), ["192.0.2.1", "192.0.2.2"]);
    assert_eq!(one(Family::Inet6, none), ["2001:db8::1"]);
    assert_eq!(one(Family::Inet6, Flags::V4MAPPED), ["2001:db8::1"]);
    let all = ["2001:db8::1", "::ffff:192.0.2.1", "::ffff:192.0.2.2"];
    assert_eq!(one(Family::Inet6, Flags::V4MAPPED | Flags::ALL), all);
}

#[test]
fn mapped_where_there_is_nothing_else() {
    let servers = Servers::start([handler(|asked| asked.addresses(&["192.0.2.1"]).send())]);
    let etc = Etc { resolv_conf: ONE, hosts: "" };
    let mut hints = Hints { family: Family::Inet6, ..Hints::default() };
    assert!(matches!(ask(&servers, etc, "a.example", hints), Err(Error::NoData)));
    hints.flags = Flags::V4MAPPED;
    assert_eq!(text(&ask(&servers, etc, "a.example", hints).expect("address")), ["::ffff:192.0.2.1"]);
    assert_eq!(text(&ask(&servers, etc, "192.0.2.7", hints).expect("address")), ["::ffff:192.0.2.7"]);
}

#[test]
fn addresses_hosts_and_localhost_need_no_server() {
    let (handler, names) = noting(says(RCODE::NameError));
    let servers = Servers::start([handler]);
    let etc = Etc { resolv_conf: ONE, hosts: "192.0.2.9 db db.example\n" };
    let find = |node, family, flags| ask(&servers, etc, node, Hints { family, flags, ..Hints::default() });
    let found = |node, family| text(&find(node, family, Flags::ADDRCONFIG).expect(node));
    assert_eq!(found("10.0.0.1", Family::Unspecified), ["10.0.0.1"]);
    assert_eq!(found("::ffff:10.0.0.1", Family::Inet4), ["10.0.0.1"]);
    assert_eq!(found("db", Family::Unspecified), ["192.0.2.9"]);
    assert_eq!(found("localhost", Family::Inet4), ["127.0.0.1"]);
    assert_eq!(found("a.LOCALHOST.", Family::Inet4), ["127.0.0.1"]);
    let canonical = find("db.example", Family::Inet4, Flags::CANONNAME).expect("in the file").canonical_name;
    assert_eq!(canonical.as_deref(), Some("db"));
    assert!(matches!(find("::1", Family::Inet4, Flags::empty()), Err(Error::AddrFamily)));
    assert!(matches!(find("10.0.0.1", Family::Inet6, Flags::empty()), Err(Error::AddrFamily)));
    assert!(matches!(find("db", Family::Inet4, Flags::NUMERICHOST), Err(Error::NoName)));
    assert!(names.lock().expect("names").is_empty());
    // A family that the file does not have is asked for.
    assert!(matches!(find("db", Family::Inet6, Flags::empty()), Err(Error::NoName)));
    assert_eq!(*names.lock().expect("names"), ["db"]);
}

#[test]
fn without_a_name() {
    let find = |service, flags| {
        resolve(&Etc::default(), "", service, &Hints { flags, ..Hints::default() })
            .map(|it| it.entries.iter().map(|it| (it.address.to_string(), it.transport)).collect::<Vec<_>>())
    };
    let [tcp, udp] = [Transport::Tcp, Transport::Udp];
    let entries = |v4: &str, v6: &str| {
        vec![(v4.to_owned(), tcp), (v4.to_owned(), udp), (v6.to_owned(), tcp), (v6.to_owned(), udp)]
    };
    assert_eq!(find("8080", Flags::empty()).expect("loopback"), entries("127.0.0.1:8080", "[::1]:8080"));
    assert_eq!(find("8080", Flags::PASSIVE).expect("any"), entries("0.0.0.0:8080", "[::]:8080"));
    assert!(matches!(find("80", Flags::CANONNAME), Err(Error::BadFlags)));
    assert!(matches!(find("", Flags::PASSIVE), Err(Error::NoName)));
}

#[test]
fn aliases_lead_to_the_canonical_name() {
    let servers = Servers::start([handler(|asked| {
        let reply = match asked.name.as_str() {
            "chain.example" => {
                asked.reply().alias("chain.example", "B.example").alias("b.EXAMPLE", "c.example")
            }
            "loop.example" => {
                asked.reply().alias("loop.example", "b.example").alias("b.example", "loop.example")
            }
            "odd.example" => asked.reply().alias("odd.example", "c/../etc.example"),
            _ => asked.reply(),
        };
        // An address of somebody else's is none.
        reply
            .address("other.example", "192.0.2.66", asked.record)
            .address("c.example", "192.0.2.3", asked.record)
            .address("c/../etc.example", "192.0.2.4", asked.record)
            .send()
    })]);
    let etc = Etc { resolv_conf: ONE, hosts: "" };
    let hints = Hints { flags: Flags::CANONNAME, ..Hints::default() };
    let answer = ask(&servers, etc, "chain.example", hints).expect("an address");
    assert_eq!(
        (text(&answer), answer.canonical_name.as_deref()),
        (vec!["192.0.2.3".into()], Some("c.example"))
    );
    for name in ["loop.example", "odd.example", "plain.example"] {
        assert!(matches!(ask(&servers, etc, name, hints), Err(Error::NoData)), "{name}");
    }
}

#[test]
fn the_search_list() {
    let (handler, names) = noting(handler(|asked| match asked.name.as_str() {
        "web.b.example" | "x.y" => asked.addresses(&BOTH).send(),
        "empty.b.example" => asked.reply().send(),
        _ => asked.reply().code(RCODE::NameError).send(),
    }));
    let servers = Servers::start([handler]);
    let search = format!("{ONE}search a.example .b.example. toolong.{} .\n", "x".repeat(64));
    let asked = |resolv_conf: &str, name| {
        let result = addresses(&servers, resolv_conf, name);
        (result, std::mem::take(&mut *names.lock().expect("names")))
    };
    let (result, names) = asked(&search, "web");
    assert_eq!(
        (result.expect("address").len(), names),
        (2, vec!["web.a.example".into(), "web.b.example".into()])
    );
    let (result, names) = asked(&search, "x.y");
    assert_eq!((result.expect("address").len(), names), (2, vec!["x.y".into()]));
    let (result, names) = asked(&format!("{search}options ndots:2\n"), "x.y");
    assert_eq!(result.expect("address").len(), 2);
    assert_eq!(names, ["x.y.a.example", "x.y.b.example", "x.y"]);
    let (result, names) = asked(&search, "web.");
    assert!(matches!(result, Err(Error::NoName)) && names == ["web"], "{names:?}");
    let (result, names) = asked(&search, "no.such");
    assert!(matches!(result, Err(Error::NoName)) && names.len() == 3, "{names:?}");
    assert!(matches!(asked(&search, "empty").0, Err(Error::NoData)));
}

#[test]
fn what_is_no_host_name_is_not_asked_for() {
    let (handler, names) = noting(good());
    let servers = Servers::start([handler]);
    let long = ["x".repeat(64), format!("{}x", "x.".repeat(127))];
    for name in ["a..b", ".", "..", ".a", "a b", "a/b", "a\\046b", "a\0b", "n\u{e4}me", &long[0], &long[1]] {
        assert!(matches!(addresses(&servers, ONE, name), Err(Error::NoName)), "{name:?}");
    }
    assert!(names.lock().expect("names").is_empty());
    assert_eq!(addresses(&servers, ONE, "my_service-1.x").expect("addresses"), BOTH);
}

/// More addresses than a datagram holds.
fn large(asked: &Asked) -> server::Draft {
    (0..300_u16).fold(asked.reply(), |draft, n| {
        let address = format!("10.0.{}.{}", n / 256, n % 256);
        draft.address(&asked.name, &address, asked.record)
    })
}

fn truncating(over_tcp: impl Fn(&Asked) -> Vec<Vec<u8>> + Send + 'static) -> Handler {
    handler(move |asked| {
        if asked.over_tcp {
            return over_tcp(asked);
        }
        let mut draft = large(asked);
        draft.0.set_flags(PacketFlag::TRUNCATION);
        let mut bytes = draft.bytes();
        bytes.truncate(500);
        vec![bytes]
    })
}

#[test]
fn what_is_cut_comes_over_tcp() {
    let servers = Servers::start([truncating(|asked| large(asked).send())]);
    assert_eq!(addresses(&servers, ONE, "a.example").expect("addresses").len(), 300);
}

#[test]
fn tcp_has_deadlines_and_checks_too() {
    let other_id = |asked: &Asked| {
        let mut draft = large(asked);
        draft.0.set_id(asked.id ^ 1);
        draft.send()
    };
    let cut = |asked: &Asked| {
        let mut draft = large(asked);
        draft.0.set_flags(PacketFlag::TRUNCATION);
        draft.send()
    };
    let empty = |_: &Asked| vec![vec![]];
    let never: fn(&Asked) -> Vec<Vec<u8>> = |_| vec![];
    for over_tcp in [other_id, cut, empty, never] {
        let config = format!("{TWO}options attempts:1\n");
        let servers = Servers::start([truncating(over_tcp), good()]);
        let start = Instant::now();
        assert_eq!(addresses(&servers, &config, "a.example").expect("addresses"), BOTH);
        assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    }
}

#[test]
fn tcp_only() {
    let servers = Servers::start([handler(|asked| {
        assert!(asked.over_tcp);
        asked.addresses(&BOTH).send()
    })]);
    let config = format!("{ONE}options use-vc\n");
    assert_eq!(addresses(&servers, &config, "a.example").expect("addresses"), BOTH);
}

#[test]
fn edns0_is_said_once_and_not_insisted_on() {
    let servers = Servers::start([handler(|asked| match asked.udp_size {
        Some(size) => {
            assert_eq!(size, 1232);
            asked.reply().code(RCODE::FormatError).send()
        }
        None => asked.addresses(&BOTH).send(),
    })]);
    let config = "nameserver 127.0.0.1\noptions timeout:1 attempts:2 edns0\n";
    assert_eq!(addresses(&servers, config, "a.example").expect("addresses"), BOTH);
}

#[test]
fn rotation_begins_anywhere() {
    let counts = [const { AtomicUsize::new(0) }; 2].map(Arc::new);
    let counting = |count: &Arc<AtomicUsize>| {
        let count = count.clone();
        handler(move |asked| {
            count.fetch_add(1, Ordering::Relaxed);
            asked.addresses(&BOTH).send()
        })
    };
    let servers = Servers::start([counting(&counts[0]), counting(&counts[1])]);
    let config = format!("{TWO}options rotate\n");
    // That one of them is never first is as likely as a coin that falls 64 times the same way.
    for _ in 0..64 {
        addresses(&servers, &config, "a.example").expect("addresses");
    }
    assert!(counts.iter().all(|it| it.load(Ordering::Relaxed) > 0), "{counts:?}");
}

/// Nobody can know the id and the port of a question in advance.
#[test]
fn ids_and_ports_differ() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let noted = seen.clone();
    let servers = Servers::start([handler(move |asked| {
        noted.lock().expect("seen").push((asked.id, asked.peer.port()));
        asked.addresses(&BOTH).send()
    })]);
    for _ in 0..32 {
        addresses(&servers, ONE, "a.example").expect("addresses");
    }
    let seen = seen.lock().expect("seen");
    let different = |mut list: Vec<u16>| {
        list.sort_unstable();
        list.dedup();
        list.len()
    };
    assert!(different(seen.iter().map(|it| it.0).collect()) > 60, "{seen:?}");
    assert!(different(seen.iter().map(|it| it.1).collect()) > 24, "{seen:?}");
}

#[test]
fn files_that_cannot_be_read() {
    let with = |kind: io::ErrorKind| {
        resolve(&move |_: &str| Err::<Vec<u8>, _>(kind.into()), "a.example", "80", &Hints::default())
    };
    assert!(matches!(with(io::ErrorKind::InvalidData), Err(Error::System(_))));
    let garbage = |_: &str| Ok((0..=255).cycle().take(100_000).collect());
    let hints = Hints::default();
    assert!(resolve(&garbage, "localhost", "80", &hints).is_ok());
    assert!(matches!(resolve(&garbage, "localhost", "http", &hints), Err(Error::Service)));
}
