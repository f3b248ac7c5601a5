//! What is neither for a VIP nor from a backend: untouched and uncounted, by every program.

use std::net::SocketAddr;

use etherparse::{EtherType, ip_number};
use federation_agent::model::Protocol::{Tcp, Udp};

use crate::{
    families::{FAMILIES, Family, People, at_port},
    frames::{Body, Fragment, Frame, Segment, Trouble, echo_request, error, other, sctp, tcp, udp},
    node::{Node, PROGRAMS, Sent, service},
};

fn serving(family: Family) -> Node {
    let People { vip, a, .. } = family.people();
    Node::serving(&[service(Tcp, vip, &[a]), service(Udp, vip, &[a])])
}

#[test]
fn what_is_not_ip_passes() {
    let node = serving(Family::V4);
    let frame = |ether_type: &[u8], rest: &[u8]| [&[2; 12][..], ether_type, rest].concat();
    let body = tcp(Family::V4.people().client, Family::V4.people().vip, Segment::Syn).packet();
    for (name, bytes) in [
        ("ARP", frame(&[0x08, 0x06], &[0; 46])),
        ("spanning tree", frame(&[0x00, 0x26], &[0x42; 46])),
        ("LLDP", frame(&[0x88, 0xcc], &[2; 46])),
        ("a VIP's packet that is called something else", frame(&[0x88, 0xb5], &body)),
        ("three tags", frame(&[0x88, 0xa8, 0, 1, 0x81, 0, 0, 1, 0x81, 0, 0, 1, 0x08, 0x00], &body)),
        ("a tag and nothing", frame(&[0x81, 0x00], &[0])),
        ("two tags and nothing", frame(&[0x81, 0x00, 0, 1, 0x81, 0x00], &[0])),
    ] {
        for program in PROGRAMS {
            let expected = Sent {
                verdict: federation_ebpf::outcome::Verdict::Pass,
                bytes: bytes.clone(),
                outcome: None,
            };
            assert_eq!(node.send_bytes(program, &bytes), expected, "{name}: {program}");
        }
    }
}

#[test]
fn packets_between_others_pass() {
    for family in FAMILIES {
        let People { client, vip, a, b, router, outside, .. } = family.people();
        let node = serving(family);
        let edge = |v4, v6| SocketAddr::new(family.address(v4, v6), 80);
        let (below, above) = (edge("198.17.255.255", "fd97:ffff::ffff"), edge("198.19.0.0", "fd98::1:0"));
        let everyone = edge("255.255.255.255", "ff02::1");
        let mut packets = vec![
            tcp(client, at_port(a, 80), Segment::Syn),
            tcp(client, a, Segment::Syn),
            udp(client, at_port(b, 53)),
            udp(outside, client),
            sctp(client, b),
            other(client, b, ip_number::GRE),
            tcp(client, below, Segment::Syn),
            tcp(client, above, Segment::Syn),
            udp(client, everyone),
            // From a VIP, which no pod of this node should be, and from a backend's address at another port.
            tcp(vip, client, Segment::Ack),
            tcp(at_port(a, 22), client, Segment::Ack),
            echo_request(client, b),
            error(router, client, Trouble::TooBig(1400), &tcp(client, b, Segment::Ack)),
        ];
        for fragment in [Fragment::First, Fragment::Later, Fragment::Atomic] {
            packets.push(udp(client, b).fragment(fragment));
            packets.push(tcp(b, client, Segment::Ack).fragment(fragment));
            packets.push(echo_request(client, b).fragment(fragment));
        }
        if family == Family::V6 {
            let mut solicitation = echo_request(client, edge("0.0.0.0", "ff02::1:ff00:7"));
            let Body::Icmp { kind, .. } = &mut solicitation.body else { panic!("it is ICMP") };
            *kind = 135;
            packets.push(Frame { hops: 255, ..solicitation });
        }
        for packet in &packets {
            for tags in [vec![], vec![EtherType::VLAN_TAGGED_FRAME]] {
                let packet = Frame { tags, ..packet.clone() };
                for program in PROGRAMS {
                    node.leaves(program, &packet, None);
                }
            }
        }
        assert_eq!(node.entries(), []);
        assert!(node.view().outcomes().unwrap().iter().all(|(_, count)| *count == 0));
    }
}

#[test]
fn the_range_of_vips_ends_where_its_mask_says() {
    for family in FAMILIES {
        let People { client, .. } = family.people();
        let node = serving(family);
        for (v4, v6, inside) in [
            ("198.17.255.255", "fd97:ffff:ffff:ffff:ffff:ffff:ffff:ffff", false),
            ("198.18.0.0", "fd98::", true),
            ("198.18.255.255", "fd98::ffff", true),
            ("198.19.0.0", "fd98::1:0", false),
        ] {
            let packet = tcp(client, SocketAddr::new(family.address(v4, v6), 80), Segment::Syn);
            let outcome = node.send("from_pod", &packet).outcome;
            assert_eq!(outcome.is_some(), inside, "{packet:?}");
        }
    }
}
