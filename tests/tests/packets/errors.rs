//! ICMP errors about flows reach whom they are for, about a packet that he has sent, from whom he sent it to.

use federation_agent::model::Protocol::{Sctp, Tcp, Udp};
use federation_ebpf::outcome::Outcome::*;

use crate::{
    families::{FAMILIES, People, at_port},
    frames::{Fragment, Frame, Segment, Trouble, error, sctp, tcp, udp, udp_unchecked},
    node::{Node, REPLY, TO_VIP, service},
};

const TROUBLES: [Trouble; 3] = [Trouble::TooBig(1400), Trouble::Port, Trouble::Time];

/// Flows of every protocol from `client` through `vip`, as the packets that `a` gets and sends.
fn node_with_flows(people: &People) -> (Node, Vec<Frame>) {
    let People { client, vip, a, .. } = *people;
    let same_port = at_port(vip, a.port());
    let node = Node::serving(&[
        service(Tcp, vip, &[a]).local(),
        service(Udp, vip, &[a]).local(),
        service(Sctp, same_port, &[a]).local(),
    ]);
    let firsts = vec![
        tcp(client, vip, Segment::Ack),
        udp(client, vip),
        udp_unchecked(client, vip),
        sctp(client, same_port),
    ];
    for first in &firsts {
        node.send("from_pod", first);
    }
    (node, firsts)
}

/// An error about `arrived` becomes `out` about `sent`, however much of it is quoted.
#[track_caller]
fn translated(node: &Node, program: &str, error: &Frame, out: &Frame, sent: &Frame) {
    // Behind the ports: nothing, up to TCP's checksum and beyond, all headers, and all there is.
    for quoted in [8, 12, 18, 20, 28, usize::MAX] {
        node.turns(program, &error.quoting(quoted), &out.about(sent).quoting(quoted), ErrorTranslated);
    }
}

#[test]
fn a_client_learns_what_became_of_its_packets() {
    for family in FAMILIES {
        let people = family.people();
        let People { client, a, router, .. } = people;
        let (node, firsts) = node_with_flows(&people);
        for sent in &firsts {
            let arrived = sent.to(a);
            for program in REPLY {
                for trouble in TROUBLES {
                    println!("{family:?} {program} {trouble:?}: {arrived:?}");
                    let from_router = error(router, client, trouble, &arrived);
                    translated(&node, program, &from_router, &from_router, sent);
                    let from_backend = error(a, client, trouble, &arrived);
                    translated(&node, program, &from_backend, &from_backend.from(sent.to), sent);
                    // What is inside may be the beginning of a datagram in pieces, with fewer hops to go.
                    let first = |frame: &Frame| Frame { hops: 1, ..frame.fragment(Fragment::First) };
                    let about_first = error(router, client, trouble, &first(&arrived));
                    node.turns(program, &about_first, &about_first.about(&first(sent)), ErrorTranslated);
                }
            }
        }
    }
}

#[test]
fn a_backend_learns_what_became_of_its_packets() {
    for family in FAMILIES {
        let people = family.people();
        let People { client, a, router, .. } = people;
        let (node, firsts) = node_with_flows(&people);
        for first in &firsts {
            // What the backend sent, and what arrived at the client, or nearly.
            let sent = Frame { from: a, to: client, ..first.clone() };
            let arrived = sent.from(first.to);
            for program in TO_VIP {
                for trouble in TROUBLES {
                    println!("{family:?} {program} {trouble:?}: {arrived:?}");
                    let from_client = error(client, first.to, trouble, &arrived);
                    translated(&node, program, &from_client, &from_client.to(a), &sent);
                    let from_router = error(router, first.to, trouble, &arrived);
                    translated(&node, program, &from_router, &from_router.to(a), &sent);
                }
            }
        }
    }
}

#[test]
fn errors_keep_their_dress() {
    use etherparse::EtherType;
    for family in FAMILIES {
        let people = family.people();
        let People { client, a, router, .. } = people;
        let (node, firsts) = node_with_flows(&people);
        let sent = &firsts[0];
        let plain = error(router, client, Trouble::TooBig(1400), &sent.to(a));
        let tags = vec![EtherType::PROVIDER_BRIDGING, EtherType::VLAN_TAGGED_FRAME];
        let mut dressed = vec![
            Frame { tags, ..plain.clone() },
            Frame { hops: 255, identification: 7, ..plain.clone() },
            plain.fragment(Fragment::Atomic),
        ];
        if family == crate::families::Family::V4 {
            dressed.push(Frame { options: vec![1; 8], ..plain.clone() });
            let options = Frame { options: vec![1; 40], ..sent.clone() };
            let about = plain.about(&options.to(a));
            node.turns("to_pod", &about, &about.about(&options), ErrorTranslated);
        } else {
            let options = (etherparse::ip_number::IPV6_DEST_OPTIONS, vec![1, 4, 0, 0, 0, 0]);
            dressed.push(Frame { extensions: vec![options.clone()], ..plain.clone() });
            let options = Frame { extensions: vec![options], ..sent.clone() };
            let about = plain.about(&options.to(a));
            node.turns("to_pod", &about, &about.about(&options), ErrorTranslated);
        }
        for error in dressed {
            node.turns("to_pod", &error, &error.about(sent), ErrorTranslated);
        }
    }
}

#[test]
fn errors_about_no_flow_are_nobodys() {
    for family in FAMILIES {
        let people = family.people();
        let People { client, vip, a, b, router, .. } = people;
        let (node, _) = node_with_flows(&people);
        let stranger = at_port(client, 1);
        for program in TO_VIP {
            for about in [
                tcp(vip, stranger, Segment::Ack),
                udp(vip, stranger),
                // A later piece says no ports, and what no VIP serves has none.
                udp(vip, client).fragment(Fragment::Later),
                crate::frames::other(vip, client, etherparse::ip_number::GRE),
            ] {
                node.leaves(program, &error(client, vip, Trouble::Port, &about), ErrorUnknown);
            }
            let cut = error(client, vip, Trouble::Port, &tcp(vip, client, Segment::Ack));
            for quoted in [0, 3] {
                node.leaves(program, &cut.quoting(quoted), ErrorUnknown);
            }
        }
        for program in REPLY {
            for (about, outcome) in [
                (tcp(stranger, a, Segment::Ack), Some(NoFlow)),
                (tcp(client, b, Segment::Ack), None),
                (udp(client, a).fragment(Fragment::Later), None),
                (crate::frames::echo_request(client, a), None),
            ] {
                node.leaves(program, &error(router, client, Trouble::Port, &about), outcome);
            }
            let cut = error(a, client, Trouble::Port, &tcp(client, a, Segment::Ack));
            node.leaves(program, &cut.quoting(3), None);
        }
    }
}
