//! What is noted of backends that answer, refuse and are used.

use std::time::Duration;

use federation_agent::model::Protocol::{Sctp, Tcp, Udp};
use federation_ebpf::{
    maps::{ANSWERED, EventKind, Protocol, UNMEASURED, Use, is_measured},
    outcome::Outcome::*,
};

use crate::{
    evidence::tick_before,
    families::{FAMILIES, People, at_port},
    frames::{Frame, Segment, Trouble, error, sctp, tcp, udp},
    node::{Node, service},
    state::tuple,
};

const SECOND: Duration = Duration::from_secs(1);

/// The number that the agent gives to the first cluster that it meets.
const CLUSTER: u16 = 1;

#[test]
fn failures_are_counted_until_the_backend_answers() {
    for family in FAMILIES {
        let People { client, vip, a, .. } = family.people();
        let node = Node::serving(&[service(Tcp, vip, &[a])]);
        for failures in 1..4 {
            node.opens(&tcp(client, vip, Segment::Syn), &[a]);
            let refusal = tcp(a, client, Segment::RstAck);
            for _ in 0..2 {
                node.turns("to_pod", &refusal, &refusal.from(vip), Replied);
                assert_eq!(node.failures(a, Protocol::Tcp), failures, "once a connection");
            }
        }
        assert_eq!(node.answered(CLUSTER), 0, "nothing was granted");
        node.opens(&tcp(client, vip, Segment::Syn), &[a]);
        node.send("to_pod", &tcp(a, client, Segment::SynAck));
        assert_eq!(node.failures(a, Protocol::Tcp), 0);
        let ago = tick_before(Duration::ZERO).wrapping_sub(node.answered(CLUSTER));
        assert!(ago < 300, "{ago} ticks ago");
        // Who has granted a connection and ends it has not refused it.
        node.send("to_pod", &tcp(a, client, Segment::Rst));
        assert_eq!(node.failures(a, Protocol::Tcp), 0);
    }
}

#[test]
fn a_cluster_without_a_place_in_the_map_is_no_harm() {
    let node = Node::fresh(&FAMILIES.map(|family| {
        let People { vip, a, b, .. } = family.people();
        service(Tcp, vip, &[a, b])
    }));
    for family in FAMILIES {
        let People { client, vip, a, b, .. } = family.people();
        for backend in [a, b] {
            node.place(backend, u16::MAX);
        }
        let syn = tcp(client, vip, Segment::Syn);
        let first = node.opens(&syn, &[a, b]);
        node.age_both(tuple(Protocol::Tcp, client, vip), SECOND);
        let second = node.opens(&syn, &[a, b]);
        assert_ne!(first, second);
        let grant = tcp(second, client, Segment::SynAck);
        node.turns("to_pod", &grant, &grant.from(vip), Replied);
    }
}

#[test]
fn one_handshake_in_so_many_is_measured_and_that_once() {
    /// Units of a stamp in a hundred milliseconds.
    const AGO: u16 = 1_526;
    let mut node = Node::fresh(&FAMILIES.map(|family| {
        let People { vip, a, .. } = family.people();
        service(Tcp, vip, &[a])
    }));
    let mut told = node.listen();
    for family in FAMILIES {
        let People { client, vip, a, .. } = family.people();
        let mut measured = 0;
        for client in (10_000..10_640).map(|port| at_port(client, port)) {
            node.run("from_pod", &tcp(client, vip, Segment::Syn).bytes()).expect("a frame");
            let reply = tuple(Protocol::Tcp, a, client);
            let opened = node.entry(reply).expect("an entry").handshake;
            assert_ne!(opened, ANSWERED);
            if is_measured(opened) {
                measured += 1;
                node.stamp(reply, opened.wrapping_sub(AGO).max(UNMEASURED + 1));
            }
            for _ in 0..2 {
                node.run("to_pod", &tcp(a, client, Segment::SynAck).bytes()).expect("a frame");
                assert_eq!(node.entry(reply).expect("an entry").handshake, ANSWERED);
            }
        }
        // Ten on average.
        assert!((1..40).contains(&measured), "{measured}");
        let events = told.of(EventKind::RoundTrip);
        assert_eq!(events.len(), measured, "none twice");
        for event in events {
            let took = event.round_trip.expect("a measurement");
            assert!((90..1_500).contains(&took.as_millis()), "{took:?}");
            assert_eq!((event.vip, event.failures), (vip, 0));
            assert_eq!(event.backend.and_then(|backend| backend.address), Some(a));
        }
    }
}

#[test]
fn a_handshake_that_was_retransmitted_is_not_measured() {
    let node = Node::fresh(&FAMILIES.map(|family| {
        let People { vip, a, .. } = family.people();
        service(Tcp, vip, &[a])
    }));
    for family in FAMILIES {
        let People { client, vip, a, .. } = family.people();
        // Of as many, one that is not retransmitted would be measured but once in twenty thousand runs.
        for client in (10_000..10_640).map(|port| at_port(client, port)) {
            let syn = tcp(client, vip, Segment::Syn).bytes();
            node.run("from_pod", &syn).expect("a frame");
            node.age_both(tuple(Protocol::Tcp, client, vip), SECOND);
            node.run("from_pod", &syn).expect("a frame");
            let reply = node.entry(tuple(Protocol::Tcp, a, client)).expect("an entry");
            assert_eq!(reply.handshake, UNMEASURED);
        }
    }
}

#[test]
fn a_backend_that_cannot_be_reached_counts_as_failing_where_nothing_else_tells() {
    for family in FAMILIES {
        let People { client, vip, a, router, .. } = family.people();
        let vip = at_port(vip, a.port());
        for (protocol, number, sent) in
            [(Udp, Protocol::Udp, udp(client, vip)), (Sctp, Protocol::Sctp, sctp(client, vip))]
        {
            let mut node = Node::fresh(&[service(protocol, vip, &[a])]);
            let mut told = node.listen();
            node.opens(&sent, &[a]);
            let arrived = sent.to(a);
            let cases = [
                (a, Trouble::Port, 1),
                (router, Trouble::Host, 2),
                (router, Trouble::TooBig(1400), 2),
                (router, Trouble::Time, 2),
                (a, Trouble::Port, 3),
            ];
            for (from, trouble, failures) in cases {
                let error = error(from, client, trouble, &arrived);
                let out = if from == a { error.from(sent.to) } else { error.clone() };
                node.turns("to_pod", &error, &out.about(&sent), ErrorTranslated);
                assert_eq!(node.failures(a, number), failures, "{trouble:?}");
            }
            let refusals = told.of(EventKind::BackendRefused);
            let counted: Vec<_> = refusals.iter().map(|event| event.failures).collect();
            assert_eq!(counted, [1, 2, 3]);
            assert!(refusals.iter().all(|event| (event.client, event.vip) == (client, vip)), "{refusals:?}");
            // The first answer is the end of it, however soon it comes.
            let answer = Frame { from: a, to: client, ..sent.clone() };
            node.turns("to_pod", &answer, &answer.from(vip), Replied);
            assert_eq!(node.failures(a, number), 0);
        }
        // A client of TCP asks again by itself.
        let node = Node::serving(&[service(Tcp, vip, &[a])]);
        let syn = tcp(client, vip, Segment::Syn);
        node.opens(&syn, &[a]);
        node.send("to_pod", &error(a, client, Trouble::Port, &syn.to(a)));
        assert_eq!(node.failures(a, Protocol::Tcp), 0);
    }
}

#[test]
fn what_this_nodes_traffic_uses_is_known() {
    for family in FAMILIES {
        let People { client, vip, a, b, .. } = family.people();
        let other = at_port(vip, 81);
        let node =
            Node::fresh(&[service(Tcp, vip, &[a]), service(Udp, vip, &[a]), service(Tcp, other, &[b])]);
        let mut usage = node.data_plane().usage().expect("a map");
        let mut used = |within| {
            let mut used = usage.used_since(within).expect("maps");
            used.sort();
            used
        };
        assert_eq!(used(10 * SECOND), []);
        node.opens(&tcp(client, vip, Segment::Syn), &[a]);
        assert_eq!(used(10 * SECOND), [(a, Tcp)]);
        node.opens(&udp(client, vip), &[a]);
        assert_eq!(used(10 * SECOND), [(a, Tcp), (a, Udp)]);
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let value = Use { last_used: tick_before(15 * SECOND), failures: 0 };
            node.set_used(a, protocol, value);
        }
        assert_eq!(used(10 * SECOND), []);
        assert_eq!(used(30 * SECOND), [(a, Tcp), (a, Udp)]);
        // What goes on is noted with what is written of it anyway.
        let ack = tcp(client, vip, Segment::Ack);
        node.turns("from_pod", &ack, &ack.to(a), Forwarded);
        assert_eq!(used(10 * SECOND), [(a, Tcp)]);
        let datagram = udp(client, vip);
        node.turns("from_pod", &datagram, &datagram.to(a), Forwarded);
        assert_eq!(used(10 * SECOND), [(a, Tcp)], "not before a second is over");
        node.age_both(tuple(Protocol::Udp, client, vip), 2 * SECOND);
        node.turns("from_pod", &datagram, &datagram.to(a), Forwarded);
        assert_eq!(used(10 * SECOND), [(a, Tcp), (a, Udp)]);
    }
}
