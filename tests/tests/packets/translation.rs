//! Whatever a packet looks like, it keeps all but its ends, and every checksum is right.

use etherparse::{EtherType, IpNumber, ip_number};
use federation_agent::model::Protocol::{Sctp, Tcp, Udp};
use federation_ebpf::outcome::Outcome::*;

use crate::{
    families::{FAMILIES, Family, People, at_port},
    frames::{Body, ETHERNET, Frame, Segment, Trouble, sctp, tcp, udp, udp_unchecked},
    node::{Node, Sent, TO_VIP, service},
    refusals::told,
};

const VLAN: EtherType = EtherType::VLAN_TAGGED_FRAME;
const SERVICE_VLAN: EtherType = EtherType::PROVIDER_BRIDGING;

const HOP_BY_HOP: IpNumber = ip_number::IPV6_HOP_BY_HOP;
const DESTINATION: IpNumber = ip_number::IPV6_DEST_OPTIONS;
const ROUTING: IpNumber = ip_number::IPV6_ROUTE;

/// One option of padding that fills a header of so many words of 8 bytes (RFC 8200, section 4.2).
fn padding(words: u8) -> Vec<u8> {
    let mut bytes = vec![0; usize::from(words) * 8 - 2];
    (bytes[0], bytes[1]) = (1, words * 8 - 4);
    bytes
}

/// A routing header that names so many more places to go to.
fn routing(segments_left: u8) -> Vec<u8> {
    vec![0, segments_left, 0, 0, 0, 0]
}

fn tagged(frame: &Frame, tags: &[EtherType]) -> Frame {
    Frame { tags: tags.to_vec(), ..frame.clone() }
}

fn extended(frame: &Frame, extensions: &[(IpNumber, Vec<u8>)]) -> Frame {
    Frame { extensions: extensions.to_vec(), ..frame.clone() }
}

/// The same packet in every dress of its family, each with a name.
fn dressed(frame: &Frame) -> Vec<(&'static str, Frame)> {
    let mut dressed = vec![
        ("plain", frame.clone()),
        ("a VLAN tag", tagged(frame, &[VLAN])),
        ("two VLAN tags", tagged(frame, &[SERVICE_VLAN, VLAN])),
        ("no length", Frame { says_no_length: true, ..frame.clone() }),
        ("the last hop", Frame { hops: 1, ..frame.clone() }),
    ];
    if frame.from.is_ipv4() {
        for words in [1, 3, 10] {
            dressed.push(("IP options", Frame { options: vec![1; words * 4], ..frame.clone() }));
        }
        let options = Frame { options: vec![1; 8], ..frame.clone() };
        dressed.push(("IP options behind a VLAN tag", tagged(&options, &[VLAN])));
    } else {
        for (name, extensions) in [
            ("hop-by-hop options", vec![(HOP_BY_HOP, padding(1))]),
            ("destination options", vec![(DESTINATION, padding(2))]),
            ("a routing header that is used up", vec![(ROUTING, routing(0))]),
            (
                "all of them",
                vec![
                    (HOP_BY_HOP, padding(3)),
                    (DESTINATION, padding(1)),
                    (ROUTING, routing(0)),
                    (DESTINATION, padding(1)),
                ],
            ),
            ("as many as are walked past", vec![(DESTINATION, padding(1)); 5]),
        ] {
            dressed.push((name, extended(frame, &extensions)));
        }
        dressed.push((
            "options behind two VLAN tags",
            tagged(&extended(frame, &[(HOP_BY_HOP, padding(1))]), &[SERVICE_VLAN, VLAN]),
        ));
    }
    dressed
}

#[test]
fn a_packet_keeps_its_dress() {
    for family in FAMILIES {
        let People { client, vip, a, .. } = family.people();
        let node = Node::serving(&[
            service(Tcp, vip, &[a]).local(),
            service(Udp, vip, &[a]).local(),
            service(Sctp, at_port(vip, a.port()), &[a]).local(),
        ]);
        for (forth, back) in [
            (tcp(client, vip, Segment::Syn), tcp(a, client, Segment::SynAck)),
            (udp(client, vip), udp(a, client)),
            (udp_unchecked(client, vip), udp_unchecked(a, client)),
            (sctp(client, at_port(vip, a.port())), sctp(a, client)),
        ] {
            for (to_vip, reply) in [("from_pod", "to_pod"), ("edge", "to_wire")] {
                for ((name, forth), (_, back)) in dressed(&forth).into_iter().zip(dressed(&back)) {
                    let sent = node.send(to_vip, &forth);
                    let known = matches!(sent.outcome, Some(Opened | Forwarded));
                    assert!(
                        known && sent.bytes == forth.to(a).bytes(),
                        "{name}: {to_vip} made {sent:?} of {forth:?}"
                    );
                    let vip = at_port(vip, forth.to.port());
                    node.turns(reply, &back, &back.from(vip), Replied);
                }
            }
        }
    }
}

#[test]
fn what_is_not_of_the_packet_stays_behind_it() {
    for family in FAMILIES {
        let People { client, vip, a, .. } = family.people();
        let node = Node::serving(&[service(Tcp, vip, &[a]).local()]);
        let first = tcp(client, vip, Segment::Syn);
        for (program, outcome) in [("from_pod", Opened), ("edge", Forwarded)] {
            let trailer = [0xee; 7];
            let sent = node.send_bytes(program, &[&first.bytes()[..], &trailer].concat());
            let bytes = [&first.to(a).bytes()[..], &trailer].concat();
            assert_eq!(sent, Sent { verdict: outcome.verdict(), bytes, outcome: Some(outcome) });
        }
    }
}

#[test]
fn a_udp_checksum_never_becomes_none() {
    for family in FAMILIES {
        let People { client, vip, a, .. } = family.people();
        let node = Node::serving(&[service(Udp, vip, &[a]).local()]);
        let checksum = |frame: &Frame| {
            let at = ETHERNET + frame.header_length() + 6;
            frame.bytes()[at..at + 2].to_vec()
        };
        // Of 65 536 sums one is 0, which is sent as 0xffff (RFC 768).
        let zero = |frame: &Frame| {
            (0..=u16::MAX)
                .map(|word| frame.with_payload(&word.to_be_bytes()))
                .find(|frame| checksum(frame) == [0xff, 0xff])
                .expect("one that sums up to nothing")
        };
        let forth = zero(&udp(client, a)).to(vip);
        let back = zero(&udp(vip, client)).from(a);
        assert_ne!(checksum(&forth), [0xff, 0xff]);
        for (to_vip, reply) in [("from_pod", "to_pod"), ("edge", "to_wire")] {
            let outcome = if to_vip == "from_pod" { Opened } else { Forwarded };
            node.turns(to_vip, &forth, &forth.to(a), outcome);
            node.turns(reply, &back, &back.from(vip), Replied);
        }
    }
}

#[test]
fn a_packet_that_goes_elsewhere_first_is_not_translated() {
    let People { client, vip, a, .. } = Family::V6.people();
    let node = Node::serving(&[service(Tcp, vip, &[a]).local()]);
    let first = tcp(client, vip, Segment::Syn);
    node.turns("from_pod", &first, &first.to(a), Opened);
    for program in TO_VIP {
        node.leaves(program, &extended(&first, &[(ROUTING, routing(1))]), Malformed);
        node.leaves(program, &extended(&first, &vec![(DESTINATION, padding(1)); 7]), Malformed);
    }
    let answer = tcp(a, client, Segment::SynAck);
    for program in ["to_pod", "to_wire"] {
        node.leaves(program, &extended(&answer, &[(ROUTING, routing(1))]), None);
        node.leaves(program, &extended(&answer, &vec![(DESTINATION, padding(1)); 7]), None);
    }
}

#[test]
fn sctp_keeps_its_ports() {
    for family in FAMILIES {
        let People { client, vip, a, .. } = family.people();
        let node = Node::serving(&[service(Sctp, vip, &[a]).local()]);
        for program in TO_VIP {
            let packet = sctp(client, vip);
            node.turns(program, &packet, &told(&packet, Trouble::Port), PortMustStay);
        }
        assert_eq!(node.entries(), []);
    }
}

#[test]
fn every_length_of_data_sums_up() {
    for family in FAMILIES {
        let People { client, vip, a, .. } = family.people();
        let node = Node::serving(&[service(Tcp, vip, &[a]).local(), service(Udp, vip, &[a]).local()]);
        for first in [tcp(client, vip, Segment::Ack), udp(client, vip)] {
            node.send("from_pod", &first);
            for length in [0, 1, 2, 3, 255, 256, 1399, 1400] {
                let packet = first.with_payload(&vec![0xa5; length]);
                for program in TO_VIP {
                    node.turns(program, &packet, &packet.to(a), Forwarded);
                }
            }
        }
    }
}

#[test]
fn tcp_options_stay() {
    for family in FAMILIES {
        let People { client, vip, a, .. } = family.people();
        let node = Node::serving(&[service(Tcp, vip, &[a]).local()]);
        let mut first = tcp(client, vip, Segment::Syn);
        let Body::Tcp(header, _) = &mut first.body else { panic!("it is TCP") };
        header.set_options_raw(&[2, 4, 5, 0xb4, 1, 1, 8, 10, 0, 1, 2, 3, 4, 5, 6, 7]).unwrap();
        node.turns("from_pod", &first, &first.to(a), Opened);
        node.turns("edge", &first, &first.to(a), Forwarded);
    }
}
