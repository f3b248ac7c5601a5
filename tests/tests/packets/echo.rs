//! Pings of a VIP: answered while any of its ports has a backend, refused otherwise.

use etherparse::EtherType;
use federation_agent::model::Protocol::{Tcp, Udp};
use federation_ebpf::outcome::Outcome::*;

use crate::{
    families::{FAMILIES, Family, People, at_port},
    frames::{Body, Fragment, Frame, echo_request},
    node::{Node, REPLY, TO_VIP, service},
};

/// The same message on the way back to who sent it.
fn answered(request: &Frame) -> Frame {
    let mut answer = Frame { from: request.to, to: request.from, ..request.back() };
    let Body::Icmp { kind, .. } = &mut answer.body else { panic!("{request:?} is no ping") };
    *kind = if request.from.is_ipv4() { 0 } else { 129 };
    answer
}

#[test]
fn pings_of_a_vip_are_answered_while_it_serves() {
    for family in FAMILIES {
        let People { client, vip, a, .. } = family.people();
        let mut node = Node::serving(&[service(Tcp, vip, &[a]), service(Udp, vip, &[])]);
        let request = echo_request(client, vip);
        let mut requests = vec![
            request.with_payload(b""),
            request.clone(),
            request.with_payload(&[0xff; 1400]),
            Frame { tags: vec![EtherType::VLAN_TAGGED_FRAME], ..request.clone() },
            request.fragment(Fragment::Atomic),
        ];
        if family == Family::V4 {
            requests.push(Frame { options: vec![1; 12], ..request.clone() });
        } else {
            let options = (etherparse::ip_number::IPV6_HOP_BY_HOP, vec![1, 4, 0, 0, 0, 0]);
            requests.push(Frame { extensions: vec![options], ..request.clone() });
        }
        for program in TO_VIP {
            for request in &requests {
                node.turns(program, request, &answered(request), EchoAnswered);
            }
        }
        node.serve(&[service(Tcp, vip, &[]), service(Udp, vip, &[a])]);
        node.turns("from_pod", &request, &answered(&request), EchoAnswered);
        node.serve(&[service(Tcp, vip, &[]), service(Udp, vip, &[])]);
        assert_eq!(node.send("from_pod", &request).outcome, Some(NoBackend));
        node.serve(&[]);
        assert_eq!(node.send("from_pod", &request).outcome, Some(NoFrontend));
        assert_eq!(node.entries(), []);
    }
}

#[test]
fn every_checksum_of_a_ping_is_right() {
    for family in FAMILIES {
        let People { client, vip, a, .. } = family.people();
        let node = Node::serving(&[service(Tcp, vip, &[a])]);
        // Among these words are those whose sums fold in every way that there is.
        for word in (0..=u16::MAX).step_by(257).chain([0xf7fe, 0xf7ff, 0xf800, 0x7fff, 0x8000]) {
            let request = echo_request(client, vip).with_payload(&word.to_be_bytes());
            for program in TO_VIP {
                node.turns(program, &request, &answered(&request), EchoAnswered);
            }
        }
    }
}

#[test]
fn a_ping_in_pieces_is_answered_in_pieces() {
    for family in FAMILIES {
        let People { client, vip, a, .. } = family.people();
        let node = Node::serving(&[service(Tcp, vip, &[a])]);
        let request = echo_request(client, vip);
        for (identification, program) in (1..).zip(TO_VIP) {
            let piece = |fragment| Frame { identification, ..request.fragment(fragment) };
            // The sum is over all pieces, as the answer's is.
            let whole = answered(&Frame { identification, ..request.clone() });
            let (first, later) = (piece(Fragment::First), piece(Fragment::Later));
            node.leaves(program, &later, FragmentUnknown);
            node.turns(program, &first, &whole.fragment(Fragment::First), EchoAnswered);
            node.turns(program, &later, &whole.fragment(Fragment::Later), EchoAnswered);
        }
        let refused = Frame { identification: 7, ..request.to(at_port(family.vip(99, 0), 0)) };
        assert_eq!(node.send("from_pod", &refused.fragment(Fragment::First)).outcome, Some(NoFrontend));
        node.leaves("from_pod", &refused.fragment(Fragment::Later), FragmentUnknown);
    }
}

#[test]
fn pings_of_others_are_theirs() {
    for family in FAMILIES {
        let People { client, vip, a, b, .. } = family.people();
        let node = Node::serving(&[service(Tcp, vip, &[a])]);
        for packet in [echo_request(client, a), echo_request(client, b), echo_request(a, client)] {
            for program in TO_VIP.into_iter().chain(REPLY) {
                node.leaves(program, &packet, None);
            }
        }
        // A backend pings a VIP: by the programs for its answers it passes.
        for program in REPLY {
            node.leaves(program, &echo_request(a, vip), None);
        }
    }
}
