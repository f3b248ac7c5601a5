use hickory_proto::rr::RecordType;
use proptest::prelude::*;

use super::*;
use crate::dns::{
    answers::{Known, View},
    fixtures::{MANY, client, query, responder},
};

/// Enough to be remembered, and then to be answered from memory.
const TIMES: u8 = 3;

#[test]
fn the_number_of_an_answer_is_that_of_its_question() {
    let mut cache = cache();
    for number in 0..TIMES {
        let mut packet = query("s.n.f.", RecordType::A, Some(1232));
        packet[..NUMBER].copy_from_slice(&[number, 7]);
        let answer = cache.over_udp(&packet, client()).expect("an answer");
        assert_eq!(answer[..NUMBER], [number, 7]);
        assert_eq!(Some(answer), made(&cache, &packet, client()));
    }
    assert_eq!(cache.exchanges.len(), 1);
}

#[test]
fn who_is_asked_for_once_takes_no_room() {
    let mut cache = cache();
    for number in 0..NEWCOMERS + 10 {
        ask(&mut cache, &format!("x{number}.n.f."), RecordType::A);
    }
    assert_eq!((cache.exchanges.len(), cache.packets.len()), (0, 0));
}

#[test]
fn errors_take_no_room() {
    let mut cache = cache();
    for _ in 0..TIMES {
        ask(&mut cache, "example.org.", RecordType::A);
        ask(&mut cache, "f.", RecordType::AXFR);
        assert!(cache.over_udp(&query("s.n.f.", RecordType::A, None)[..20], client()).is_some());
    }
    assert!(cache.exchanges.is_empty());
}

#[test]
fn what_a_peer_may_know_is_told_to_nobody_else() {
    let mut responder = responder(View::Internal);
    responder.transfer = vec!["192.0.2.0/24".parse().unwrap()];
    let mut cache = PacketCache::new(Arc::new(responder));
    let packet = query("f.", RecordType::IXFR, None);
    for client in [client(), client(), client(), "198.51.100.7:5353".parse().unwrap()] {
        assert_eq!(cache.over_udp(&packet, client), made(&cache, &packet, client), "{client}");
    }
    assert!(cache.exchanges.is_empty());
}

#[test]
fn nothing_is_remembered_of_what_was_known_before() {
    let mut cache = cache();
    let known = cache.responder.known.load_full();
    let nothing = Some(Arc::new(Known { version: 1, ..Known::default() }));
    let packet = query("s.n.f.", RecordType::A, None);
    let code = |packet: Option<Vec<u8>>| packet.expect("an answer")[3] & 15;
    for (known, expected) in [(known.clone(), 0), (nothing, 3), (None, 2), (known, 0), (None, 2)] {
        cache.responder.known.store(known);
        for _ in 0..TIMES {
            assert_eq!(code(cache.over_udp(&packet, client())), expected);
        }
    }
}

#[test]
fn the_room_has_an_end() {
    let mut cache = PacketCache::new(Arc::new(responder(View::External { ttl_seconds: 30 })));
    // Questions with something behind them, which is a question of its own each time.
    let packet = |number: usize| {
        let mut packet = query(MANY, RecordType::A, None);
        packet[11] = 1;
        let option = number.to_be_bytes();
        packet.extend([0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 12, 253, 233, 0, 8]);
        packet.extend(option);
        packet
    };
    let mut most = 0;
    for number in 0..10_000 {
        for _ in 0..2 {
            assert!(cache.over_udp(&packet(number), client()).is_some());
        }
        assert!(cache.packets.len() + cache.exchanges.len() * size_of::<(u64, Exchange)>() <= MOST);
        most = most.max(cache.exchanges.len());
    }
    let now = cache.exchanges.len();
    assert!((1..most).contains(&now), "{now} of {most}: it began anew");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn an_answer_from_memory_is_the_one_that_would_be_made(
        is_external in any::<bool>(),
        asked in prop::collection::vec((0..8_usize, 0..3_usize, any::<bool>(), any::<u16>(), 0..30_u8), 1..80),
    ) {
        let view = if is_external { View::External { ttl_seconds: 30 } } else { View::Internal };
        let mut cache = PacketCache::new(Arc::new(responder(view)));
        let texts = [
            "s.n.f.", "S.n.F.", "x.n.f.", "example.org.", MANY,
            "_http._tcp.many.n.f.svc.example.com.", "host.n.f.svc.example.com.", "none.n.f.svc.r.example.com.",
        ];
        let kinds = [RecordType::A, RecordType::SRV, RecordType::ANY];
        let whole = cache.responder.known.load_full();
        let nothing = Arc::new(Known { version: 1, ..Known::default() });
        for (text, kind, has_edns, number, change) in asked {
            match change {
                0 => cache.responder.known.store(None),
                1 => cache.responder.known.store(Some(Arc::clone(&nothing))),
                2 => cache.responder.known.store(whole.clone()),
                _ => {}
            }
            let mut packet = query(texts[text], kinds[kind], has_edns.then_some(1232));
            packet[..NUMBER].copy_from_slice(&number.to_be_bytes());
            let expected = made(&cache, &packet, client());
            prop_assert_eq!(cache.over_udp(&packet, client()), expected);
        }
    }
}

fn ask(cache: &mut PacketCache, text: &str, wanted: RecordType) {
    assert!(cache.over_udp(&query(text, wanted, None), client()).is_some(), "{text}");
}

/// The answer without a memory.
fn made(cache: &PacketCache, packet: &[u8], client: SocketAddr) -> Option<Vec<u8>> {
    let known = cache.responder.known.load();
    cache.responder.over_udp(known.as_deref(), packet, client).map(|response| response.packet)
}

fn cache() -> PacketCache {
    PacketCache::new(Arc::new(responder(View::Internal)))
}
