//! What becomes of flows when their backend leaves, dies, or its id goes to another.

use etherparse::TcpHeader;
use federation_agent::model::Protocol::{Sctp, Tcp, Udp};
use federation_ebpf::{
    maps,
    outcome::{Outcome::*, Verdict},
};

use crate::{
    families::{FAMILIES, People, at_port},
    frames::{Body, Frame, Segment, sctp, tcp, udp},
    node::{Node, service},
    state::tuple,
};

/// The RST that answers an ACK.
fn reset(ack: &Frame) -> Frame {
    let Body::Tcp(asked, _) = &ack.body else { panic!("{ack:?} is not TCP") };
    let mut header = TcpHeader::new(0, 0, asked.acknowledgment_number, 0);
    header.rst = true;
    let body = Body::Tcp(header, Vec::new());
    Frame { from: ack.to, to: ack.from, body, hops: 64, identification: 0, ..ack.back() }
}

#[test]
fn a_backend_that_leaves_keeps_its_connections_and_gets_no_new_one() {
    for family in FAMILIES {
        let People { client, vip, a, b, .. } = family.people();
        let mut node = Node::serving(&[service(Tcp, vip, &[a]), service(Udp, vip, &[a])]);
        for first in [tcp(client, vip, Segment::Syn), udp(client, vip)] {
            node.opens(&first, &[a]);
        }
        node.serve(&[service(Tcp, vip, &[b]), service(Udp, vip, &[b])]);
        for (forth, back) in [
            (tcp(client, vip, Segment::Ack), tcp(a, client, Segment::Ack)),
            (udp(client, vip), udp(a, client)),
        ] {
            node.turns("from_pod", &forth, &forth.to(a), Forwarded);
            node.turns("to_pod", &back, &back.from(vip), Replied);
        }
        for port in 1..30 {
            let client = at_port(client, port);
            assert_eq!(node.opens(&tcp(client, vip, Segment::Syn), &[a, b]), b);
            assert_eq!(node.opens(&udp(client, vip), &[a, b]), b);
        }
        // All leave: those that are known stay, the others are refused.
        node.serve(&[service(Tcp, vip, &[]), service(Udp, vip, &[])]);
        let known = tcp(client, vip, Segment::Ack);
        node.turns("from_pod", &known, &known.to(a), Forwarded);
        let late = tcp(at_port(client, 99), vip, Segment::Syn);
        assert_eq!(node.send("from_pod", &late).outcome, Some(NoBackend));
    }
}

#[test]
fn a_dead_backend_ends_its_connections_and_new_ones_go_elsewhere() {
    for family in FAMILIES {
        let People { client, vip, a, b, .. } = family.people();
        let mut node = Node::serving(&[service(Tcp, vip, &[a, b])]);
        let (syn, ack) = (tcp(client, vip, Segment::Syn), tcp(client, vip, Segment::Ack));
        let dead = node.opens(&syn, &[a, b]);
        let alive = if dead == a { b } else { a };
        node.turns("from_pod", &ack, &ack.to(dead), Forwarded);
        node.serve_without(&[service(Tcp, vip, &[alive])], &[service(Tcp, vip, &[dead])]);
        for program in ["from_pod", "edge", "from_pod"] {
            node.turns(program, &ack, &reset(&ack), BackendGone);
        }
        node.leaves("from_pod", &tcp(client, vip, Segment::RstAck), Unanswerable);
        node.turns("from_pod", &syn, &syn.to(alive), Opened);
        node.turns("from_pod", &ack, &ack.to(alive), Forwarded);
        node.leaves("to_pod", &tcp(dead, client, Segment::SynAck), NoFlow);
    }
}

#[test]
fn what_has_no_connection_leaves_a_dead_backend_at_once() {
    for family in FAMILIES {
        let People { client, vip, a, b, .. } = family.people();
        let vip = at_port(vip, a.port());
        for (protocol, packet) in [(Udp, udp(client, vip)), (Sctp, sctp(client, vip))] {
            let mut node = Node::serving(&[service(protocol, vip, &[a, b])]);
            let dead = node.opens(&packet, &[a, b]);
            let alive = if dead == a { b } else { a };
            node.serve_without(&[service(protocol, vip, &[alive])], &[service(protocol, vip, &[dead])]);
            node.turns("from_pod", &packet, &packet.to(alive), Opened);
            node.leaves("to_pod", &packet.from(dead).to(client), NoFlow);
            node.serve_without(&[service(protocol, vip, &[])], &[service(protocol, vip, &[a, b])]);
            let sent = node.send("from_pod", &packet);
            assert_eq!((sent.verdict, sent.outcome), (Verdict::Back, Some(NoBackend)));
        }
    }
}

#[test]
fn a_backend_that_comes_back_serves_its_connections_again() {
    for family in FAMILIES {
        let People { client, vip, a, .. } = family.people();
        let services = [service(Tcp, vip, &[a])];
        let mut node = Node::serving(&services);
        let ack = tcp(client, vip, Segment::Ack);
        node.turns("from_pod", &ack, &ack.to(a), Adopted);
        node.serve_without(&[service(Tcp, vip, &[])], &services);
        node.turns("from_pod", &ack, &reset(&ack), BackendGone);
        node.serve(&services);
        node.turns("from_pod", &ack, &ack.to(a), Forwarded);
    }
}

#[test]
fn an_id_that_another_has_got_leads_no_flow_to_him() {
    let services = FAMILIES.map(|family| {
        let People { vip, a, .. } = family.people();
        [service(Tcp, vip, &[a]), service(Udp, vip, &[a])]
    });
    let node = Node::fresh(&services.concat());
    for family in FAMILIES {
        let People { client, vip, a, b, .. } = family.people();
        let (ack, syn, datagram) =
            (tcp(client, vip, Segment::Ack), tcp(client, vip, Segment::Syn), udp(client, vip));
        node.turns("from_pod", &ack, &ack.to(a), Adopted);
        node.turns("from_pod", &datagram, &datagram.to(a), Opened);
        let generation = |protocol| node.entry(tuple(protocol, client, vip)).expect("an entry").generation;
        for protocol in [maps::Protocol::Tcp, maps::Protocol::Udp] {
            assert_eq!(generation(protocol), 1);
            node.recycle(node.entry(tuple(protocol, client, vip)).expect("an entry").backend, b);
        }
        node.turns("from_pod", &ack, &reset(&ack), BackendGone);
        node.turns("from_pod", &syn, &syn.to(b), Opened);
        node.turns("from_pod", &datagram, &datagram.to(b), Opened);
        for protocol in [maps::Protocol::Tcp, maps::Protocol::Udp] {
            assert_eq!(generation(protocol), 2);
            assert_eq!(node.entry(tuple(protocol, a, client)), None, "nothing is left of the flow before");
        }
    }
}

#[test]
fn a_new_table_leaves_open_connections_where_they_are() {
    for family in FAMILIES {
        let People { client, vip, a, b, c, .. } = family.people();
        let mut node = Node::serving(&[service(Tcp, vip, &[a, b])]);
        let clients: Vec<_> = (1..64).map(|port| at_port(client, port)).collect();
        let chosen: Vec<_> =
            clients.iter().map(|client| node.opens(&tcp(*client, vip, Segment::Syn), &[a, b])).collect();
        node.serve(&[service(Tcp, vip, &[a, b, c])]);
        for (client, chosen) in clients.iter().zip(chosen) {
            let packet = tcp(*client, vip, Segment::Ack);
            node.turns("from_pod", &packet, &packet.to(chosen), Forwarded);
        }
    }
}
