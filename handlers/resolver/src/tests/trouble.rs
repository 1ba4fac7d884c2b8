//! Servers that fail, are silent, lie, or make no sense: the next one is asked, and it ends in time.

use std::net::UdpSocket;

use simple_dns::Question;

use super::*;

#[test]
fn the_next_server_after_a_failure() {
    for first in [
        says(RCODE::ServerFailure),
        says(RCODE::Refused),
        says(RCODE::NotImplemented),
        says(RCODE::FormatError),
    ] {
        let servers = Servers::start([first, good()]);
        let start = Instant::now();
        assert_eq!(addresses(&servers, TWO, "a.example").expect("addresses"), BOTH);
        assert!(start.elapsed() < Duration::from_millis(900), "an answer is no reason to wait");
    }
    // No recursion, no authority, no answer.
    let referral = handler(|asked| {
        let mut draft = asked.reply();
        draft.0.remove_flags(PacketFlag::RECURSION_AVAILABLE);
        draft.send()
    });
    let servers = Servers::start([referral, good()]);
    assert_eq!(addresses(&servers, TWO, "a.example").expect("addresses"), BOTH);
    // A name that does not exist does not exist.
    let servers = Servers::start([says(RCODE::NameError), good()]);
    assert!(matches!(addresses(&servers, TWO, "a.example"), Err(Error::NoName)));
    let servers = Servers::start([says(RCODE::ServerFailure), says(RCODE::ServerFailure)]);
    assert!(matches!(addresses(&servers, TWO, "a.example"), Err(Error::Again)));
}

#[test]
fn a_failure_in_one_domain_does_not_end_the_search() {
    let servers = Servers::start([handler(|asked| match asked.name.as_str() {
        "web.a.example" => asked.reply().code(RCODE::ServerFailure).send(),
        "web.b.example" => asked.addresses(&BOTH).send(),
        _ => asked.reply().code(RCODE::NameError).send(),
    })]);
    let search = format!("{ONE}search a.example b.example\n");
    assert_eq!(addresses(&servers, &search, "web").expect("addresses"), BOTH);
    assert!(matches!(addresses(&servers, &search, "other"), Err(Error::NoName)));
    assert!(matches!(addresses(&servers, &format!("{ONE}search a.example\n"), "web"), Err(Error::Again)));
}

#[test]
fn silence_is_bounded() {
    let (first, names) = noting(silent());
    let servers = Servers::start([first, silent()]);
    let start = Instant::now();
    let config = format!("{TWO}search a.example b.example c.example\n");
    assert!(matches!(addresses(&servers, &config, "web"), Err(Error::Again)));
    // Two servers, twice, a second each; and no other name after that.
    assert!((3.9..6.0).contains(&start.elapsed().as_secs_f64()), "{:?}", start.elapsed());
    assert_eq!(*names.lock().expect("names"), ["web.a.example"]);
}

#[test]
fn nobody_there() {
    // The port is free again, or somebody's who was never asked.
    let servers = Servers::start([good()]);
    let port = servers.port();
    drop(servers);
    let start = Instant::now();
    let etc = Etc { resolv_conf: TWO, hosts: "" };
    assert!(matches!(resolve_at(port, &etc, "a.example", "", &Hints::default()), Err(Error::Again)));
    assert!(start.elapsed() < Duration::from_millis(900), "the kernel says so at once");
}

#[test]
fn lost_questions_are_sent_again() {
    let mut lost = 0;
    let flaky = handler(move |asked| {
        lost += 1;
        if lost <= 3 { vec![] } else { asked.addresses(&BOTH).send() }
    });
    let servers = Servers::start([flaky]);
    let config = "nameserver 127.0.0.1\noptions timeout:1 attempts:3\n";
    assert_eq!(addresses(&servers, config, "a.example").expect("addresses"), BOTH);
}

/// A server that never answers for one of the types, as some do.
#[test]
fn half_an_answer_is_better_than_none() {
    let servers = Servers::start([handler(|asked| match asked.record {
        TYPE::AAAA => vec![],
        _ => asked.addresses(&BOTH).send(),
    })]);
    assert_eq!(addresses(&servers, ONE, "a.example").expect("address"), ["192.0.2.1"]);
    let config = format!("{ONE}options no-aaaa\n");
    let start = Instant::now();
    assert_eq!(addresses(&servers, &config, "a.example").expect("address"), ["192.0.2.1"]);
    assert!(start.elapsed() < Duration::from_millis(900));
}

/// A server that answers the first question from a port, and no other, as some boxes do.
#[test]
fn one_question_at_a_time() {
    let mut last = None;
    let servers = Servers::start([handler(move |asked| {
        let again = last.replace(asked.peer) == Some(asked.peer);
        if again { vec![] } else { asked.addresses(&BOTH).send() }
    })]);
    assert_eq!(addresses(&servers, ONE, "a.example").expect("one").len(), 1);
    let config = format!("{ONE}options single-request-reopen\n");
    assert_eq!(addresses(&servers, &config, "a.example").expect("addresses"), BOTH);
}

#[test]
fn lies_are_passed_over() {
    let liar = handler(|asked| {
        let bad = ["192.0.2.66", "2001:db8::66"];
        let mut other_id = asked.addresses(&bad);
        other_id.0.set_id(asked.id ^ 1);
        let mut other_name = asked.addresses(&bad);
        other_name.0.questions[0].qname = "evil.example".try_into().expect("name");
        let mut other_type = asked.addresses(&bad);
        other_type.0.questions[0].qtype = TYPE::TXT.into();
        let mut two = asked.addresses(&bad);
        let again: Question<'static> = two.0.questions[0].clone();
        two.0.questions.push(again);
        let mut none = asked.addresses(&bad);
        none.0.questions.clear();
        let mut query = asked.addresses(&bad).bytes();
        query[2] &= 0x7f;
        // Somebody else, who knows everything.
        let stranger = UdpSocket::bind("127.0.0.1:0").expect("socket");
        let _ = stranger.send_to(&asked.addresses(&bad).bytes(), asked.peer);
        let lies = [other_id, other_name, other_type, two, none].map(|it| it.bytes());
        let noise = [query, vec![], vec![0; 3], asked.id.to_be_bytes().to_vec()];
        let truth = asked.addresses(&BOTH).bytes();
        lies.into_iter().chain(noise).chain([truth]).collect()
    });
    let servers = Servers::start([liar]);
    assert_eq!(addresses(&servers, ONE, "a.example").expect("addresses"), BOTH);
}

#[test]
fn packets_that_make_no_sense_are_failures() {
    // The header of an answer with one record, and what follows it.
    let with_record = |asked: &Asked, record: &[u8]| {
        let mut bytes = asked.reply().bytes();
        bytes[7] = 1;
        bytes.extend(record);
        bytes
    };
    let records: [&'static [u8]; 6] = [
        b"",
        // A name that is itself, one after itself, and one that never ends.
        b"\xc0\x1b\0\x01\0\x01\0\0\0\x3c\0\x04\xc0\0\x02\x01",
        b"\xff\xff\0\x01\0\x01\0\0\0\x3c\0\x04\xc0\0\x02\x01",
        b"\x3faaaaaaaaaaaa",
        // An address that is too long, and one that is too short.
        b"\xc0\x0c\0\x01\0\x01\0\0\0\x3c\xff\xff\xc0\0\x02\x01",
        b"\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x02\xc0\0",
    ];
    for record in records {
        let broken = handler(move |asked| vec![with_record(asked, record)]);
        let servers = Servers::start([broken, good()]);
        let start = Instant::now();
        assert_eq!(addresses(&servers, TWO, "a.example").expect("addresses"), BOTH, "{record:?}");
        assert!(start.elapsed() < Duration::from_millis(900), "{record:?}");
    }
}
