//! Two flows of one client that would share a reply key: another slot, another port, and never each other's answers.

use std::{
    num::NonZero,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use federation_agent::model::Protocol::{Sctp, Tcp, Udp};
use federation_ebpf::{
    maps::Protocol,
    outcome::{Outcome::*, Verdict},
};

use crate::{
    families::{FAMILIES, People, at_port},
    frames::{Frame, Segment, Trouble, error, sctp, tcp, udp},
    node::{Node, Sent, on_cpu, service},
    refusals::told,
    state::tuple,
};

#[test]
fn two_vips_that_share_backends_do_not_mix_up_their_answers() {
    for family in FAMILIES {
        let People { client, vip, other_vip, a, b, .. } = family.people();
        let node = Node::serving(&[service(Tcp, vip, &[a, b]), service(Tcp, other_vip, &[a, b])]);
        for port in 40_000..40_032 {
            let client = at_port(client, port);
            let one = node.opens(&tcp(client, vip, Segment::Syn), &[a, b]);
            let other = node.opens(&tcp(client, other_vip, Segment::Syn), &[a, b]);
            assert_ne!(one, other, "one reply key cannot serve both");
            for (backend, vip) in [(one, vip), (other, other_vip)] {
                let answer = tcp(backend, client, Segment::SynAck);
                node.turns("to_pod", &answer, &answer.from(vip), Replied);
            }
        }
    }
}

/// Opens a second flow where one port of the client's cannot serve both, and says which the backend sees instead.
fn translated_port(node: &Node, first: &Frame, backend: std::net::SocketAddr) -> u16 {
    let sent = node.send("from_pod", first);
    let flows = node.view().flows().unwrap();
    let flow = flows.iter().find(|flow| flow.vip == first.to).expect("a flow");
    let port = flow.client_port;
    let out = first.to(backend).from(at_port(first.from, port));
    assert_eq!(sent, Sent { verdict: Verdict::Pass, bytes: out.bytes(), outcome: Some(Opened) });
    assert_eq!(flow.backend, backend);
    assert!(port != first.from.port() && port >= 1024 && flow.answerable, "{flow:?}");
    port
}

#[test]
fn a_shared_backend_sees_the_clients_port_translated() {
    for family in FAMILIES {
        let People { client, vip, other_vip, a, router, .. } = family.people();
        for (protocol, first, answer) in [
            (Tcp, tcp(client, vip, Segment::Syn), tcp(a, client, Segment::SynAck)),
            (Udp, udp(client, vip), udp(a, client)),
        ] {
            let node = Node::serving(&[
                service(protocol, vip, &[a]).local(),
                service(protocol, other_vip, &[a]).local(),
            ]);
            node.opens(&first, &[a]);
            let second = first.to(other_vip);
            let port = translated_port(&node, &second, a);
            let seen = at_port(client, port);
            for (to_vip, reply) in [("from_pod", "to_pod"), ("edge", "to_wire")] {
                node.turns(to_vip, &second, &second.to(a).from(seen), Forwarded);
                node.turns(to_vip, &first, &first.to(a), Forwarded);
                node.turns(reply, &answer, &answer.from(vip), Replied);
                node.turns(reply, &answer.to(seen), &answer.from(other_vip), Replied);
                // Errors about either packet lead to its own flow.
                for (sent, arrived) in [(&first, first.to(a)), (&second, second.to(a).from(seen))] {
                    let about = error(router, client, Trouble::TooBig(1400), &arrived);
                    node.turns(reply, &about, &about.about(sent), ErrorTranslated);
                }
                for (sent, arrived) in
                    [(answer.clone(), answer.from(vip)), (answer.to(seen), answer.from(other_vip))]
                {
                    let about = error(client, arrived.from, Trouble::Port, &arrived);
                    node.turns(to_vip, &about, &about.to(a).about(&sent), ErrorTranslated);
                }
            }
        }
    }
}

#[test]
fn a_client_with_affinity_keeps_its_backend_and_not_its_port() {
    for family in FAMILIES {
        let People { client, vip, other_vip, a, b, c, .. } = family.people();
        let services = [vip, other_vip].map(|vip| service(Tcp, vip, &[a, b, c]).with_affinity());
        let node = Node::serving(&services);
        let first = tcp(client, vip, Segment::Syn);
        let chosen = node.opens(&first, &[a, b, c]);
        let port = translated_port(&node, &first.to(other_vip), chosen);
        let answer = tcp(chosen, at_port(client, port), Segment::SynAck);
        node.turns("to_pod", &answer, &answer.from(other_vip).to(client), Replied);
    }
}

#[test]
fn sctp_waits_for_its_port() {
    for family in FAMILIES {
        let People { client, vip, other_vip, a, .. } = family.people();
        let (vip, other_vip) = (at_port(vip, a.port()), at_port(other_vip, a.port()));
        let node = Node::serving(&[service(Sctp, vip, &[a]), service(Sctp, other_vip, &[a])]);
        node.opens(&sctp(client, vip), &[a]);
        let packet = sctp(client, other_vip);
        node.turns("from_pod", &packet, &told(&packet, Trouble::Port), NoFreeReply);
    }
}

#[test]
fn a_shared_backend_serves_a_port_as_it_is_once_the_first_connection_is_over() {
    for family in FAMILIES {
        let People { client, vip, other_vip, a, .. } = family.people();
        let node = Node::serving(&[service(Tcp, vip, &[a]), service(Tcp, other_vip, &[a])]);
        node.opens(&tcp(client, vip, Segment::Syn), &[a]);
        node.send("from_pod", &tcp(client, vip, Segment::Rst));
        node.opens(&tcp(client, other_vip, Segment::Syn), &[a]);
        // What comes late of the first one leaves the second one's entries alone.
        let first = tuple(Protocol::Tcp, client, vip);
        node.age(first, Duration::from_secs(2));
        let late = tcp(client, vip, Segment::Ack);
        node.turns("from_pod", &late, &late.to(a), Forwarded);
        let answer = tcp(a, client, Segment::SynAck);
        node.turns("to_pod", &answer, &answer.from(other_vip), Replied);
    }
}

#[test]
fn an_entry_of_replies_without_its_other_half_is_kept_for_a_second() {
    for family in FAMILIES {
        let People { client, vip, other_vip, a, .. } = family.people();
        for is_young in [true, false] {
            let node = Node::serving(&[service(Udp, vip, &[a]), service(Udp, other_vip, &[a])]);
            node.opens(&udp(client, vip), &[a]);
            node.lose(tuple(Protocol::Udp, client, vip));
            if is_young {
                // Another CPU may just be making the other half.
                translated_port(&node, &udp(client, other_vip), a);
            } else {
                node.age(tuple(Protocol::Udp, a, client), Duration::from_secs(2));
                node.opens(&udp(client, other_vip), &[a]);
            }
        }
    }
}

#[test]
fn first_packets_on_two_cpus_at_once_agree() {
    const ROUNDS: u16 = 200;
    for family in FAMILIES {
        let People { client, vip, a, b, c, .. } = family.people();
        let node = Node::serving(&[service(Tcp, vip, &[a, b, c])]);
        // A lock would wake one long after the other.
        let ready = AtomicUsize::new(0);
        let firsts: Vec<_> =
            (1..=ROUNDS).map(|port| tcp(at_port(client, port), vip, Segment::Syn).bytes()).collect();
        let run = |cpu| {
            on_cpu(cpu, || {
                let sent = firsts.iter().enumerate().map(|(round, first)| {
                    ready.fetch_add(1, Ordering::SeqCst);
                    while ready.load(Ordering::SeqCst) < 2 * (round + 1) {
                        std::hint::spin_loop();
                    }
                    node.run("from_pod", first).expect("a frame")
                });
                sent.collect::<Vec<_>>()
            })
        };
        let cpus = std::thread::available_parallelism().map_or(1, NonZero::get);
        let (one, other) = std::thread::scope(|scope| {
            let other = scope.spawn(|| run(1 % cpus));
            (run(0), other.join().expect("no panic"))
        });
        assert_eq!(one, other);
        assert!(one.iter().all(|(verdict, _)| *verdict == Verdict::Pass));
        let flows = node.view().flows().unwrap();
        assert_eq!(flows.len(), usize::from(ROUNDS));
        assert_eq!(node.count(Opened), u64::from(ROUNDS), "one of both opens");
        assert_eq!(node.count(Opened) + node.count(Forwarded), 2 * u64::from(ROUNDS));
        assert_eq!(node.entries().len(), 2 * usize::from(ROUNDS), "no entry of a choice that lost is left");
        for (port, (_, bytes)) in (1..).zip(one) {
            let client = at_port(client, port);
            let entry = node.entry(tuple(Protocol::Tcp, client, vip)).expect("an entry");
            assert_eq!(bytes, tcp(client, entry.to.destination, Segment::Syn).bytes());
        }
        assert!(flows.iter().all(|flow| flow.answerable));
    }
}
