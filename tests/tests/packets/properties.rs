//! Whatever is sent: there and back again nothing but the ends has changed, and every checksum is right.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use etherparse::{EtherType, ip_number};
use federation_agent::model::Protocol::{Tcp, Udp};
use federation_ebpf::outcome::Verdict;
use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};

use crate::{
    families::{FAMILIES, Family, People, at_port},
    frames::{Body, Fragment, Frame, Segment, tcp, udp, udp_unchecked},
    node::{Node, service},
};

/// A host that may ask: no group, no range of VIPs, and neither backend.
fn host(family: Family) -> BoxedStrategy<IpAddr> {
    match family {
        Family::V4 => (11_u8..190, any::<[u8; 3]>())
            .prop_map(|(a, [b, c, d])| IpAddr::from(Ipv4Addr::new(a, b, c, d)))
            .boxed(),
        Family::V6 => (0x2000_u16..0x3fff, any::<[u16; 7]>())
            .prop_map(|(a, [b, c, d, e, f, g, h])| IpAddr::from(Ipv6Addr::new(a, b, c, d, e, f, g, h)))
            .boxed(),
    }
}

/// A packet from a client to the VIP.
fn request(family: Family) -> impl Strategy<Value = Frame> {
    let kind = prop::sample::select(vec!["SYN", "ACK", "FIN", "UDP", "unchecked"]);
    let payload = prop::collection::vec(any::<u8>(), 0..100);
    let dress = (0_usize..3, 0_usize..4, any::<u8>(), any::<u16>(), any::<[u32; 2]>(), any::<bool>());
    (host(family), 1_u16.., kind, payload, dress).prop_map(
        move |(host, port, kind, payload, (tags, options, hops, identification, [seq, acked], atomic))| {
            let (client, vip) = (SocketAddr::new(host, port), family.people().vip);
            let frame = match kind {
                "SYN" => tcp(client, vip, Segment::Syn),
                "ACK" => tcp(client, vip, Segment::Ack),
                "FIN" => tcp(client, vip, Segment::Fin),
                "UDP" => udp(client, vip),
                _ => udp_unchecked(client, vip),
            };
            let mut frame = frame.with_payload(&payload);
            if let Body::Tcp(header, _) = &mut frame.body {
                (header.sequence_number, header.acknowledgment_number) = (seq, acked);
            }
            Frame {
                tags: vec![EtherType::VLAN_TAGGED_FRAME; tags],
                options: vec![1; 4 * options],
                extensions: vec![(ip_number::IPV6_DEST_OPTIONS, vec![1, 4, 0, 0, 0, 0]); options],
                hops,
                identification,
                fragment: if atomic { Fragment::Atomic } else { Fragment::Whole },
                ..frame
            }
        },
    )
}

#[test]
fn there_and_back_is_where_it_began() {
    for family in FAMILIES {
        let People { vip, a, .. } = family.people();
        let node = Node::serving(&[service(Tcp, vip, &[a]).local(), service(Udp, vip, &[a]).local()]);
        let config = Config { cases: 128, failure_persistence: None, ..Config::default() };
        TestRunner::new(config)
            .run(&request(family), |forth| {
                for (to_vip, reply) in [("from_pod", "to_pod"), ("edge", "to_wire")] {
                    let sent = node.send(to_vip, &forth);
                    prop_assert_eq!(sent.verdict, Verdict::Pass);
                    // The expected bytes are made anew of the same fields but the one: all else must be as it was.
                    prop_assert_eq!(sent.bytes, forth.to(a).bytes());
                    let back = Frame { from: a, to: forth.from, ..forth.clone() };
                    let sent = node.send(reply, &back);
                    let expected = back.from(vip).bytes();
                    // A SYN of the backend's, after the end, is no answer.
                    prop_assert_eq!(sent.verdict, Verdict::Pass);
                    prop_assert_eq!(sent.bytes, expected);
                }
                Ok(())
            })
            .unwrap();
    }
}

#[test]
fn a_translated_port_is_translated_back() {
    for family in FAMILIES {
        let People { vip, other_vip, a, .. } = family.people();
        let services = [Tcp, Udp].map(|protocol| [vip, other_vip].map(|vip| service(protocol, vip, &[a])));
        let node = Node::serving(&services.concat());
        let config = Config { cases: 64, failure_persistence: None, ..Config::default() };
        TestRunner::new(config)
            .run(&request(family), |first| {
                node.send("from_pod", &first);
                let second = first.to(other_vip);
                let sent = node.send("from_pod", &second);
                let flows = node.view().flows().unwrap();
                let is_udp = matches!(first.body, Body::Udp { .. });
                let flow = flows.iter().find(|flow| {
                    let udp = flow.protocol == federation_ebpf::maps::Protocol::Udp;
                    (flow.client, flow.vip, udp) == (second.from, other_vip, is_udp)
                });
                let seen = at_port(second.from, flow.expect("a flow").client_port);
                prop_assert_eq!(sent.bytes, second.to(a).from(seen).bytes());
                let back = Frame { from: a, to: seen, ..second.clone() };
                let sent = node.send("to_pod", &back);
                prop_assert_eq!(sent.bytes, back.from(other_vip).to(second.from).bytes());
                Ok(())
            })
            .unwrap();
    }
}
