use hickory_proto::op::Message;
use proptest::prelude::*;

use super::*;
use crate::dns::{
    answers::View,
    fixtures::{MANY, client, name, query, query_of, responder},
};

const SHORT: &str = "s.n.f.";

#[test]
fn what_fits_is_sent_whole_and_what_does_not_is_marked() {
    let responder = responder(View::External { ttl_seconds: 30 });
    for (payload, expected, truncated) in
        [(None, 512, true), (Some(512), 512, true), (Some(1232), 1232, true), (Some(65_535), 1232, true)]
    {
        let (size, response) = ask(&responder, &query(MANY, RecordType::A, payload));
        assert!(size <= expected && size > expected / 3, "{payload:?}: {size}");
        assert_eq!(response.metadata.truncation, truncated, "{payload:?}");
        assert!(!response.answers.is_empty(), "who cannot ask over TCP takes what there is");
        assert_eq!(response.edns.is_some(), payload.is_some(), "{payload:?}: OPT answers OPT");
    }
    let (_, response) = ask(&responder, &query("s.n.f.svc.example.com.", RecordType::A, None));
    assert!(!response.metadata.truncation);
    assert_eq!(response.answers.len(), 1);
}

#[test]
fn what_was_not_asked_for_gives_way_without_a_mark() {
    let responder = responder(View::External { ttl_seconds: 30 });
    let (size, response) =
        ask(&responder, &query(&format!("_http._tcp.{MANY}"), RecordType::SRV, Some(1232)));
    assert!(size < 512, "{size}");
    assert_eq!((response.answers.len(), response.additionals.len()), (1, 0));
    assert!(!response.metadata.truncation, "RFC 2181, 9");
}

#[test]
fn an_absence_is_told_with_its_soa_and_a_name_that_others_answer_for_is_none() {
    let responder = responder(View::External { ttl_seconds: 30 });
    for (text, code, answers, soas) in [
        ("s.n.f.svc.example.com.", ResponseCode::NoError, 1, 0),
        ("host.n.f.svc.example.com.", ResponseCode::NoError, 1, 0),
        // An alias of a name of ours that has nothing.
        ("none.n.f.svc.r.example.com.", ResponseCode::NoError, 1, 1),
        ("none.n.f.svc.example.com.", ResponseCode::NoError, 0, 1),
        ("missing.n.f.svc.example.com.", ResponseCode::NXDomain, 0, 1),
        ("example.org.", ResponseCode::Refused, 0, 0),
    ] {
        let (_, response) = ask(&responder, &query(text, RecordType::A, None));
        let counts = (response.answers.len(), response.authorities.len());
        assert_eq!((response.metadata.response_code, counts), (code, (answers, soas)), "{text}");
    }
}

#[test]
fn each_odd_request_is_answered_by_the_book() {
    let responder = responder(View::Internal);
    let plain = || query(SHORT, RecordType::A, Some(1232));
    let with = |change: fn(&mut Message)| {
        let mut message = Message::from_vec(&plain()).unwrap();
        change(&mut message);
        message.to_vec().unwrap()
    };
    for (what, packet, expected) in [
        ("a plain question", plain(), ResponseCode::NoError),
        ("no question", with(|m| m.queries.clear()), ResponseCode::FormErr),
        (
            "two questions",
            with(|m| {
                let query = m.queries[0].clone();
                m.add_query(query);
            }),
            ResponseCode::FormErr,
        ),
        (
            "another class",
            with(|m| {
                m.queries[0].set_query_class(DNSClass::CH);
            }),
            ResponseCode::Refused,
        ),
        ("an update", with(|m| m.metadata.op_code = OpCode::Update), ResponseCode::NotImp),
        (
            "a newer EDNS",
            with(|m| {
                m.edns.as_mut().unwrap().set_version(1);
            }),
            ResponseCode::BADVERS,
        ),
        ("a transfer", query("f.", RecordType::AXFR, None), ResponseCode::Refused),
        ("a difference", query("f.", RecordType::IXFR, None), ResponseCode::Refused),
        ("another's zone", query("example.org.", RecordType::A, None), ResponseCode::Refused),
        ("the root", query(".", RecordType::NS, None), ResponseCode::Refused),
        ("half of a question", plain()[..20].to_vec(), ResponseCode::FormErr),
    ] {
        let (_, response) = ask(&responder, &packet);
        // One number has two names.
        assert_eq!(u16::from(response.metadata.response_code), u16::from(expected), "{what}");
        assert_eq!(response.metadata.message_type, MessageType::Response, "{what}");
        assert!(!response.metadata.recursion_available, "{what}");
        assert_eq!(response.metadata.authoritative, expected == ResponseCode::NoError, "{what}");
    }
    for (what, packet) in
        [("a response", with(|m| m.metadata.message_type = MessageType::Response)), ("a rest", vec![0; 11])]
    {
        assert_eq!(answer(&responder, &packet), None, "{what}");
    }
}

#[test]
fn a_question_that_is_pressed_together_is_refused() {
    // A label, then a pointer to it: a name without end is refused by whoever reads it, this one is `a` twice.
    let mut packet = vec![0, 7, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    packet.extend([1, b'a', 0xC0, 4, 0, 1, 0, 1]);
    let (size, response) = ask(&responder(View::Internal), &packet);
    assert_eq!(response.metadata.response_code, ResponseCode::FormErr);
    assert!(size <= packet.len());
}

#[test]
fn the_case_of_a_question_comes_back_and_so_does_its_flag() {
    let responder = responder(View::Internal);
    let mut message = Message::from_vec(&query("S.n.F.", RecordType::A, Some(1232))).unwrap();
    message.edns.as_mut().unwrap().flags_mut().dnssec_ok = true;
    let (_, response) = ask(&responder, &message.to_vec().unwrap());
    assert!(response.queries[0].name().eq_case(&name("S.n.F.")));
    assert!(response.answers[0].name.eq_case(&name("S.n.F.")));
    assert!(response.edns.unwrap().flags().dnssec_ok, "RFC 3225, 3");
}

#[test]
fn a_peer_is_told_the_serial_and_whole_zones() {
    let mut responder = responder(View::Internal);
    responder.transfer = vec!["192.0.2.0/24".parse().unwrap()];
    let (_, response) = ask(&responder, &query("f.", RecordType::IXFR, None));
    assert_eq!(response.answers.len(), 1);
    assert!(response.answers[0].to_string().starts_with("f. 5 IN SOA ns.f. hostmaster.f. 7 "));

    let known = responder.known.load_full().unwrap();
    let zone = responder.authority.zones.iter().find(|zone| zone.apex == name("f.")).unwrap();
    let request = |packet| Request::from_bytes(packet, client(), Protocol::Tcp).unwrap();
    let whole =
        transfer::messages(&responder.authority, &known, zone, &request(query("f.", RecordType::AXFR, None)));
    let records: Vec<_> = whole.iter().flatten().map(ToString::to_string).collect();
    assert_eq!(records[0], records[records.len() - 1], "a zone begins and ends with its SOA");
    assert!(records.contains(&"s.n.f. 300 IN A 198.18.0.1".to_owned()), "{records:?}");

    let mut same = Message::from_vec(&query("f.", RecordType::IXFR, None)).unwrap();
    same.add_authority(Authority::soa(zone, known.serial));
    let same = transfer::messages(&responder.authority, &known, zone, &request(same.to_vec().unwrap()));
    assert_eq!(same.iter().flatten().count(), 1, "whoever has this serial has the zone");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_packet_is_worth_more_than_an_honest_question(packet in prop::collection::vec(any::<u8>(), 0..200)) {
        for view in [View::Internal, View::External { ttl_seconds: 30 }] {
            check(&responder(view), &packet)?;
        }
    }

    #[test]
    fn no_question_that_was_tampered_with_is_worth_more_than_an_honest_one(
        wanted in prop::sample::select(vec![
            RecordType::A, RecordType::AAAA, RecordType::SRV, RecordType::ANY, RecordType::AXFR, RecordType::NS,
        ]),
        text in prop::sample::select(vec![SHORT, MANY, "_http._tcp.many.n.f.svc.example.com.", "f.", "x.f."]),
        payload in prop::option::of(any::<u16>()),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        end in any::<prop::sample::Index>(),
        whole in any::<bool>(),
    ) {
        let mut packet = query(text, wanted, payload);
        for (place, byte) in changes {
            let place = place.index(packet.len());
            packet[place] = byte;
        }
        if !whole {
            packet.truncate(end.index(packet.len()) + 1);
        }
        for view in [View::Internal, View::External { ttl_seconds: 30 }] {
            check(&responder(view), &packet)?;
        }
    }
}

/// Whatever comes in: it is survived, and what goes out is no larger than what a plain question would be told.
fn check(responder: &Responder, packet: &[u8]) -> Result<(), TestCaseError> {
    let Some(response) = answer(responder, packet) else { return Ok(()) };
    let message = Message::from_vec(&response);
    prop_assert!(message.is_ok(), "{message:?}");
    let honest = match &message.unwrap().queries[..] {
        [asked] => {
            let honest = query_of(asked.name().clone(), asked.query_type(), Some(1232));
            answer(responder, &honest).map_or(0, |response| response.len())
        }
        // It comes back with the error, if at all.
        _ => packet.len(),
    };
    prop_assert!(response.len() <= honest, "{} bytes for {}", response.len(), honest);
    Ok(())
}

fn ask(responder: &Responder, packet: &[u8]) -> (usize, Message) {
    let response = answer(responder, packet).expect("an answer");
    (response.len(), Message::from_vec(&response).expect("a message"))
}

fn answer(responder: &Responder, packet: &[u8]) -> Option<Vec<u8>> {
    let known = responder.known.load();
    responder.over_udp(known.as_deref(), packet, client()).map(|response| response.packet)
}
