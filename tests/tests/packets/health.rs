//! A client whom nobody answers is sent elsewhere, by the program itself.

use std::{net::SocketAddr, time::Duration};

use federation_agent::model::Protocol::Tcp;
use federation_ebpf::{
    maps::{EventKind, Protocol, UNMEASURED},
    outcome::{Outcome::*, Verdict},
};

use crate::{
    evidence::tick_before,
    families::{FAMILIES, People, at_port},
    frames::{Segment, tcp},
    node::{self, Node, service},
    state::tuple,
};

/// When a client that got no answer asks again (RFC 6298).
const SECOND: Duration = Duration::from_secs(1);

/// Opens a connection of `client` by `program`, and lets it ask again after a second; the backends of either time.
#[track_caller]
fn asks_twice(
    node: &Node,
    program: &str,
    [client, vip]: [SocketAddr; 2],
    backends: &[SocketAddr],
) -> [SocketAddr; 2] {
    let syn = tcp(client, vip, Segment::Syn);
    let chosen = |time| {
        let sent = node.send(program, &syn);
        assert_eq!((sent.verdict, sent.outcome), (Verdict::Pass, Some(Opened)), "{time} {syn:?}");
        let chosen = backends.iter().find(|backend| sent.bytes == syn.to(**backend).bytes());
        *chosen.unwrap_or_else(|| panic!("the {time} {syn:?} goes to none of {backends:?}"))
    };
    let first = chosen("first");
    node.age_both(tuple(Protocol::Tcp, client, vip), SECOND);
    [first, chosen("second")]
}

#[test]
fn a_syn_seen_again_after_a_second_moves_to_another_backend() {
    for family in FAMILIES {
        let People { client, vip, a, b, .. } = family.people();
        let node = Node::serving(&[service(Tcp, vip, &[a, b])]);
        for client in (40_000..40_032).map(|port| at_port(client, port)) {
            let [first, second] = asks_twice(&node, "from_pod", [client, vip], &[a, b]);
            assert_ne!(first, second);
            // An answer that comes late is not taken for the second backend's.
            assert_eq!(node.entry(tuple(Protocol::Tcp, first, client)), None);
            node.leaves("to_pod", &tcp(first, client, Segment::SynAck), NoFlow);
            let grant = tcp(second, client, Segment::SynAck);
            node.turns("to_pod", &grant, &grant.from(vip), Replied);
            let ack = tcp(client, vip, Segment::Ack);
            node.turns("from_pod", &ack, &ack.to(second), Forwarded);
        }
        assert_eq!(node.entries().len(), 2 * 32, "nothing is left of the first choices");
    }
}

#[test]
fn a_syn_seen_again_at_once_is_a_duplicate() {
    for family in FAMILIES {
        let People { client, vip, a, b, .. } = family.people();
        let node = Node::serving(&[service(Tcp, vip, &[a, b])]);
        let syn = tcp(client, vip, Segment::Syn);
        let chosen = node.opens(&syn, &[a, b]);
        node.age_both(tuple(Protocol::Tcp, client, vip), SECOND * 6 / 10);
        let before = node.entries();
        node.turns("from_pod", &syn, &syn.to(chosen), Forwarded);
        assert_eq!(node.entries().len(), before.len());
        assert!(before.iter().all(|entry| node.entry(entry.tuple) == Some(*entry)), "nothing changes");
        assert_eq!(node.failures(chosen, Protocol::Tcp), 0);
    }
}

#[test]
fn a_syn_of_another_connection_blames_nobody() {
    for family in FAMILIES {
        let People { client, vip, a, b, .. } = family.people();
        let node = Node::serving(&[service(Tcp, vip, &[a, b])]);
        let given_up = tcp(client, vip, Segment::Syn);
        let chosen = node.opens(&given_up, &[a, b]);
        node.age_both(tuple(Protocol::Tcp, client, vip), 60 * SECOND);
        // The same port again, as a client that opens many connections comes to use it.
        let syn = given_up.numbered(0x0506_0708);
        assert_eq!(node.opens(&syn, &[a, b]), chosen, "the tables have not changed");
        assert_eq!(node.failures(chosen, Protocol::Tcp), 0);
        node.age_both(tuple(Protocol::Tcp, client, vip), SECOND);
        assert_ne!(node.opens(&syn, &[a, b]), chosen, "this one was sent again");
        assert_eq!(node.failures(chosen, Protocol::Tcp), 1);
        assert_eq!(node.entries().len(), 2);
    }
}

#[test]
fn a_backend_whose_answer_was_lost_keeps_its_client() {
    for family in FAMILIES {
        let People { client, vip, a, b, .. } = family.people();
        let node = Node::serving(&[service(Tcp, vip, &[a, b])]);
        let syn = tcp(client, vip, Segment::Syn);
        let chosen = node.opens(&syn, &[a, b]);
        let grant = tcp(chosen, client, Segment::SynAck);
        node.turns("to_pod", &grant, &grant.from(vip), Replied);
        for _ in 0..3 {
            node.age_both(tuple(Protocol::Tcp, client, vip), SECOND);
            node.turns("from_pod", &syn, &syn.to(chosen), Forwarded);
        }
        assert_eq!(node.failures(chosen, Protocol::Tcp), 0);
    }
}

#[test]
fn a_connection_that_is_open_moves_nowhere() {
    for family in FAMILIES {
        let People { client, vip, a, b, .. } = family.people();
        let node = Node::serving(&[service(Tcp, vip, &[a, b])]);
        let chosen = node.opens(&tcp(client, vip, Segment::Syn), &[a, b]);
        for segment in [Segment::Ack, Segment::Syn, Segment::Ack] {
            let packet = tcp(client, vip, segment);
            node.turns("from_pod", &packet, &packet.to(chosen), Forwarded);
            node.age_both(tuple(Protocol::Tcp, client, vip), 2 * SECOND);
        }
    }
}

#[test]
fn a_silent_cluster_is_left_as_a_whole_and_an_answering_one_is_not() {
    const NEAR: u16 = 7;
    const OTHER: u16 = 8;
    let node = Node::fresh(&FAMILIES.map(|family| {
        let People { vip, a, b, c, .. } = family.people();
        service(Tcp, vip, &[a, b, c])
    }));
    for family in FAMILIES {
        let People { client, vip, a, b, c, .. } = family.people();
        for (backend, cluster) in [(a, NEAR), (b, NEAR), (c, OTHER)] {
            node.place(backend, cluster);
        }
        for (answers, base) in [(false, 40_000), (true, 50_000)] {
            let mut within = 0;
            for client in (base..base + 48).map(|port| at_port(client, port)) {
                node.set_answered(NEAR, tick_before(if answers { Duration::ZERO } else { 10 * SECOND }));
                let [first, second] = asks_twice(&node, "from_pod", [client, vip], &[a, b, c]);
                assert_ne!(first, second);
                within += u32::from(first != c && second != c);
            }
            // Of 32 that begin there half would stay, were all the same; and of those who leave, one finds nine slots of it.
            assert!(if answers { within >= 7 } else { within <= 4 }, "{answers}: {within}");
        }
    }
}

#[test]
fn the_fallback_is_for_those_whom_the_nearest_do_not_answer() {
    const NEAR: u16 = 7;
    const FAR: u16 = 8;
    let node = Node::fresh(
        &FAMILIES
            .map(|family| {
                let People { vip, other_vip, a, b, c, .. } = family.people();
                [service(Tcp, vip, &[a, b]), service(Tcp, other_vip, &[c])]
            })
            .concat(),
    );
    for family in FAMILIES {
        let People { client, vip, a, b, c, .. } = family.people();
        for (backend, cluster) in [(a, NEAR), (b, NEAR), (c, FAR)] {
            node.place(backend, cluster);
        }
        node.fall_back(vip, c);
        for client in (40_000..40_032).map(|port| at_port(client, port)) {
            node.set_answered(NEAR, tick_before(10 * SECOND));
            let [first, second] = asks_twice(&node, "from_pod", [client, vip], &[a, b, c]);
            assert!(first != c && second == c, "{first} {second}");
        }
        let mut near = 0;
        for client in (50_000..50_032).map(|port| at_port(client, port)) {
            node.set_answered(NEAR, tick_before(Duration::ZERO));
            let [first, second] = asks_twice(&node, "from_pod", [client, vip], &[a, b, c]);
            assert!(first != c && first != second, "{first} {second}");
            near += u32::from(second != c);
        }
        // Six slots in which the silent one alone is: of 32 clients half a one.
        assert!(near >= 28, "{near}");
    }
}

#[test]
fn a_lone_backend_is_asked_again() {
    for family in FAMILIES {
        let People { client, vip, a, .. } = family.people();
        let node = Node::serving(&[service(Tcp, vip, &[a])]);
        let syn = tcp(client, vip, Segment::Syn);
        node.opens(&syn, &[a]);
        for failures in 1..4 {
            node.age_both(tuple(Protocol::Tcp, client, vip), SECOND);
            node.turns("from_pod", &syn, &syn.to(a), Opened);
            assert_eq!(node.failures(a, Protocol::Tcp), failures);
            assert_eq!(node.entries().len(), 2);
        }
        // Which SYN it answers nobody knows, nor needs to.
        let grant = tcp(a, client, Segment::SynAck);
        node.turns("to_pod", &grant, &grant.from(vip), Replied);
        assert_eq!(node.failures(a, Protocol::Tcp), 0);
    }
}

#[test]
fn nobody_waits_for_a_backend_that_nobody_replaces() {
    for family in FAMILIES {
        let People { client, vip, a, .. } = family.people();
        let mut node = Node::serving(&[service(Tcp, vip, &[a])]);
        let syn = tcp(client, vip, Segment::Syn);
        node.opens(&syn, &[a]);
        node.serve(&[service(Tcp, vip, &[])]);
        node.age_both(tuple(Protocol::Tcp, client, vip), SECOND);
        assert_eq!(node.send("from_pod", &syn).outcome, Some(NoBackend));
        assert_eq!(node.entries(), []);
    }
}

#[test]
fn affinity_does_not_bind_a_client_to_a_silent_backend() {
    for family in FAMILIES {
        let People { client, vip, a, b, c, .. } = family.people();
        let node = Node::serving(&[service(Tcp, vip, &[a, b, c]).with_affinity()]);
        let [first, second] = asks_twice(&node, "from_pod", [client, vip], &[a, b, c]);
        assert_ne!(first, second);
        // All its connections that wait meet again.
        let [other_first, other_second] =
            asks_twice(&node, "from_pod", [at_port(client, 50_000), vip], &[a, b, c]);
        assert_eq!((other_first, other_second), (first, second));
    }
}

#[test]
fn a_client_from_outside_stays_with_backends_of_this_node() {
    let services = FAMILIES.map(|family| {
        let People { vip, other_vip, a, b, c, .. } = family.people();
        let lone = node::Service { local: vec![b], ..service(Tcp, vip, &[a, b]) };
        [lone, node::Service { local: vec![b, c], ..service(Tcp, other_vip, &[a, b, c]) }]
    });
    let node = Node::fresh(&services.concat());
    for family in FAMILIES {
        let People { outside, vip, other_vip, a, b, c, .. } = family.people();
        node.fall_back(vip, a);
        node.fall_back(other_vip, a);
        // Now and then no slot that is tried names one of this node.
        let reached = |client: &SocketAddr, vip| {
            let syn = tcp(at_port(*client, client.port() + 10_000), vip, Segment::Syn);
            node.send("edge", &syn).outcome != Some(NotLocal)
        };
        let clients: Vec<_> = (40_000..40_024).map(|port| at_port(outside, port)).collect();
        assert!(clients.iter().filter(|client| reached(client, vip)).count() > 20);
        for client in &clients {
            let syn = tcp(*client, vip, Segment::Syn);
            if node.send("edge", &syn).outcome == Some(NotLocal) {
                continue;
            }
            node.age_both(tuple(Protocol::Tcp, *client, vip), SECOND);
            node.turns("edge", &syn, &syn.to(b), Opened);
        }
        let mut moved = 0;
        for client in &clients {
            let syn = tcp(*client, other_vip, Segment::Syn);
            if node.send("edge", &syn).outcome == Some(NotLocal) {
                continue;
            }
            let key = tuple(Protocol::Tcp, *client, other_vip);
            let first = node.entry(key).expect("an entry").to.destination;
            node.age_both(key, SECOND);
            assert_eq!(node.send("edge", &syn).outcome, Some(Opened));
            let second = node.entry(key).expect("an entry").to.destination;
            assert!([b, c].contains(&first) && [b, c].contains(&second), "{first} {second}");
            moved += u32::from(first != second);
        }
        assert!(moved > 18, "{moved}");
    }
}

#[test]
fn a_pod_that_does_not_answer_itself_is_sent_to_another() {
    for family in FAMILIES {
        let People { vip, a, b, .. } = family.people();
        let node = Node::serving(&[service(Tcp, vip, &[a, b])]);
        let client = (40_000..40_064).map(|port| at_port(a, port)).find(|client| {
            node.send("from_pod", &tcp(*client, vip, Segment::Syn)).outcome == Some(Hairpinned)
        });
        let client = client.expect("one who meets himself");
        let syn = tcp(client, vip, Segment::Syn);
        node.age_both(tuple(Protocol::Tcp, client, vip), SECOND);
        node.turns("from_pod", &syn, &syn.to(b), Opened);
        assert_eq!(node.failures(a, Protocol::Tcp), 1);
        // One that does answer itself, and whose answer is lost, is asked again.
        let node = Node::serving(&[service(Tcp, vip, &[a])]);
        assert_eq!(node.send("from_pod", &syn).outcome, Some(Hairpinned));
        let grant = tcp(a, at_port(vip, client.port()), Segment::SynAck);
        assert_eq!(node.send("from_pod", &grant).outcome, Some(Hairpinned));
        node.age_both(tuple(Protocol::Tcp, client, vip), SECOND);
        assert_eq!(node.send("from_pod", &syn).outcome, Some(Hairpinned));
        assert_eq!(node.failures(a, Protocol::Tcp), 0);
    }
}

#[test]
fn the_agent_is_told_who_did_not_answer() {
    let mut node = Node::fresh(&FAMILIES.map(|family| {
        let People { vip, a, b, .. } = family.people();
        service(Tcp, vip, &[a, b])
    }));
    let mut told = node.listen();
    for family in FAMILIES {
        let People { client, vip, a, b, .. } = family.people();
        let [first, second] = asks_twice(&node, "from_pod", [client, vip], &[a, b]);
        let event = told.of(EventKind::Unanswered).pop().expect("an event");
        assert_eq!((event.client, event.vip, event.failures), (client, vip, 1));
        assert_eq!(event.backend.and_then(|backend| backend.address), Some(first));
        // It was not measured, whoever answers.
        let reply = node.entry(tuple(Protocol::Tcp, second, client)).expect("an entry");
        assert_eq!(reply.handshake, UNMEASURED);
        let refusal = tcp(second, client, Segment::RstAck);
        node.turns("to_pod", &refusal, &refusal.from(vip), Replied);
        let event = told.of(EventKind::BackendRefused).pop().expect("an event");
        assert_eq!((event.client, event.vip, event.failures), (client, vip, 1));
        assert_eq!(event.backend.and_then(|backend| backend.address), Some(second));
        assert_eq!([first, second].map(|backend| node.failures(backend, Protocol::Tcp)), [1, 1]);
    }
}
