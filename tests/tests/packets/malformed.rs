//! Packets that are cut off, contradict themselves or are mere noise: never translated by halves, never remembered.

use etherparse::{EtherType, ip_number};
use federation_agent::model::Protocol::{Sctp, Tcp, Udp};
use federation_ebpf::outcome::{Outcome, Outcome::*, Verdict};
use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};

use crate::{
    families::{FAMILIES, Family, People, at_port},
    frames::{ETHERNET, Fragment, Frame, Segment, Trouble, echo_request, error, other, sctp, tcp, udp},
    node::{Node, PROGRAMS, REPLY, Sent, Service, TO_VIP, service},
};

fn serving(family: Family) -> Node {
    Node::serving(&services(family.people()))
}

fn services(People { vip, a, .. }: People) -> [Service; 3] {
    [
        service(Tcp, vip, &[a]).local(),
        service(Udp, vip, &[a]).local(),
        service(Sctp, at_port(vip, a.port()), &[a]).local(),
    ]
}

/// Packets to a VIP and from a backend, with the bytes that each needs behind its IP header.
fn packets(people: &People) -> Vec<(Frame, Frame, usize)> {
    let People { client, vip, a, .. } = *people;
    let same_port = at_port(vip, a.port());
    let mut packets = vec![
        (tcp(client, vip, Segment::Syn), tcp(a, client, Segment::Ack), 20),
        (tcp(client, at_port(vip, 81), Segment::Syn), tcp(a, client, Segment::SynAck), 20),
        (udp(client, vip), udp(a, client), 8),
        (sctp(client, same_port), sctp(a, client), 12),
        (echo_request(client, vip), echo_request(a, client), 8),
    ];
    for (forth, back, needed) in packets.clone() {
        packets.push((forth.fragment(Fragment::First), back.fragment(Fragment::First), needed));
        let tags = vec![EtherType::PROVIDER_BRIDGING, EtherType::VLAN_TAGGED_FRAME];
        packets.push((Frame { tags: tags.clone(), ..forth.clone() }, Frame { tags, ..back.clone() }, needed));
        let options = vec![1; 8];
        let extensions = vec![(ip_number::IPV6_DEST_OPTIONS, vec![1, 4, 0, 0, 0, 0]); 2];
        packets.push((
            Frame { options: options.clone(), extensions: extensions.clone(), ..forth },
            Frame { options, extensions, ..back },
            needed,
        ));
    }
    packets
}

/// The packet stays as it came, wherever the kernel takes it at all.
#[track_caller]
fn stays(node: &Node, program: &str, bytes: &[u8], outcome: Option<Outcome>) {
    let Some(sent) = node.try_send_bytes(program, bytes) else {
        // It runs no tc program on less than an IP header.
        assert!(program != "edge" && bytes.len() < ETHERNET + 40, "{program} on {} bytes", bytes.len());
        return;
    };
    let verdict = outcome.unwrap_or(NotOurs).verdict();
    assert_eq!(sent, Sent { verdict, bytes: bytes.to_vec(), outcome }, "{program} on {} bytes", bytes.len());
}

#[test]
fn headers_cut_off_anywhere_change_nothing() {
    for family in FAMILIES {
        let node = serving(family);
        for (forth, back, needed) in packets(&family.people()) {
            let headers = forth.network() + forth.header_length() + needed;
            let destination = forth.network() + if family == Family::V4 { 20 } else { 40 };
            // The kernel itself takes no frame that ends with its Ethernet header.
            for length in 15..headers {
                // Before the destination is there, nobody can say whose it is.
                let outcome = (length >= destination).then_some(Malformed);
                for program in TO_VIP {
                    stays(&node, program, &forth.bytes()[..length], outcome);
                }
                for program in REPLY {
                    stays(&node, program, &back.bytes()[..length], None);
                }
            }
        }
        assert_eq!(node.entries(), [], "nothing is remembered");
    }
}

#[test]
fn data_cut_off_anywhere_is_the_receivers_to_judge() {
    for family in FAMILIES {
        let People { client, vip, a, .. } = family.people();
        let node = serving(family);
        for first in [tcp(client, vip, Segment::Ack), udp(client, vip), sctp(client, at_port(vip, a.port()))]
        {
            let whole = node.send("from_pod", &first);
            assert_eq!(whole.bytes, first.to(a).bytes());
            let headers = first.network() + first.header_length() + 20;
            for length in headers..first.bytes().len() {
                for program in TO_VIP {
                    let sent = node.send_bytes(program, &first.bytes()[..length]);
                    assert_eq!((sent.outcome, &sent.bytes[..]), (Some(Forwarded), &whole.bytes[..length]));
                }
            }
        }
    }
}

#[test]
fn errors_cut_off_anywhere_keep_their_length() {
    for family in FAMILIES {
        let People { client, vip, a, router, .. } = family.people();
        let node = serving(family);
        let sent = tcp(client, vip, Segment::Ack);
        node.send("from_pod", &sent);
        for (programs, error, unknown) in [
            (REPLY, error(router, client, Trouble::TooBig(1400), &sent.to(a)), None),
            (TO_VIP, error(client, vip, Trouble::Port, &tcp(vip, client, Segment::Ack)), Some(ErrorUnknown)),
        ] {
            let bytes = error.bytes();
            let ip = error.header_length();
            // The error's own header, the IP header inside, and the ports there.
            let (header, ports) = (error.network() + ip + 8, error.network() + ip + 8 + ip + 4);
            for length in 15..bytes.len() {
                for program in programs {
                    if length < header {
                        let ours = programs == TO_VIP && length >= error.network() + ip;
                        stays(&node, program, &bytes[..length], ours.then_some(Malformed));
                    } else if length < ports {
                        stays(&node, program, &bytes[..length], unknown);
                    } else {
                        let sent = node.send_bytes(program, &bytes[..length]);
                        assert_eq!((sent.verdict, sent.outcome), (Verdict::Pass, Some(ErrorTranslated)));
                        assert_eq!(sent.bytes.len(), length);
                    }
                }
            }
        }
    }
}

#[test]
fn headers_that_contradict_themselves_are_malformed() {
    for family in FAMILIES {
        let People { client, vip, .. } = family.people();
        let node = serving(family);
        let whole = tcp(client, vip, Segment::Syn).bytes();
        let cases: &[(usize, &[u8], &str)] = match family {
            Family::V4 => &[
                (0, &[0x44], "a header shorter than the least"),
                (0, &[0x65], "version 6"),
                (0, &[0x4f], "a header longer than the packet's own length allows"),
                (2, &[0, 39], "total length short of the headers"),
                (2, &[0, 19], "total length short of its own header"),
            ],
            Family::V6 => &[
                (0, &[0x40], "version 4"),
                (4, &[0, 19], "payload length short of the headers"),
                (6, &[0], "options that are no options"),
            ],
        };
        for (at, wrong, name) in cases {
            let mut bytes = whole.clone();
            bytes[ETHERNET + at..][..wrong.len()].copy_from_slice(wrong);
            if *name == "a header longer than the packet's own length allows" {
                bytes[ETHERNET + 3] = 59;
            }
            for program in TO_VIP {
                println!("{name}");
                stays(&node, program, &bytes, Some(Malformed));
            }
        }
        assert_eq!(node.entries(), []);
    }
}

/// Frames of every kind that something happened to: some bytes are others, and the end may be missing.
fn damaged() -> impl Strategy<Value = Vec<u8>> {
    let mut frames = Vec::new();
    for family in FAMILIES {
        let people = family.people();
        let People { client, vip, a, router, .. } = people;
        for (forth, back, _) in packets(&people) {
            frames.extend([forth, back]);
        }
        frames.push(other(client, vip, ip_number::GRE));
        frames.push(error(router, client, Trouble::Time, &tcp(client, a, Segment::Ack)));
        frames.push(error(client, vip, Trouble::Port, &udp(vip, client)));
    }
    let frames: Vec<_> = frames.iter().map(Frame::bytes).collect();
    // Nearer to the beginning there is more to be damaged.
    let place = prop_oneof![12_usize..64, 12_usize..140];
    let others = prop::collection::vec((place, any::<u8>()), 0..5);
    let end = prop_oneof![2 => Just(usize::MAX), 1 => 15_usize..140];
    (prop::sample::select(frames), others, end).prop_map(|(mut frame, others, end)| {
        for (place, byte) in others {
            if let Some(there) = frame.get_mut(place) {
                *there = byte;
            }
        }
        frame.truncate(end);
        frame
    })
}

/// Bytes of which only the type says something.
fn noise() -> impl Strategy<Value = Vec<u8>> {
    let kinds = prop::sample::select(vec![0x0800_u16, 0x86dd, 0x8100, 0x88a8]);
    (kinds, prop::collection::vec(any::<u8>(), 1..160))
        .prop_map(|(kind, body)| [&[2; 12][..], &kind.to_be_bytes(), &body].concat())
}

#[test]
fn whatever_comes_gets_a_verdict() {
    let services = FAMILIES.map(|family| services(family.people()));
    let node = Node::serving(&services.concat());
    let config = Config { cases: 512, failure_persistence: None, ..Config::default() };
    TestRunner::new(config)
        .run(&prop_oneof![7 => damaged(), 1 => noise()], |bytes| {
            for program in PROGRAMS {
                // An unknown verdict and a second outcome are panics in here.
                let Some(sent) = node.try_send_bytes(program, &bytes) else { continue };
                let outcome = sent.outcome.unwrap_or(NotOurs);
                prop_assert_eq!(sent.verdict, outcome.verdict(), "{}", program);
                if matches!(outcome, NotOurs | NoFlow) || sent.verdict == Verdict::Drop {
                    prop_assert_eq!(&sent.bytes, &bytes, "{} {:?}", program, outcome);
                }
            }
            Ok(())
        })
        .unwrap();
    // Nor did all of them end at the door.
    for outcome in [Opened, Replied, EchoAnswered, NoFrontend, UnknownProtocol, ErrorTranslated, Malformed] {
        assert!(node.count(outcome) > 0, "{outcome:?}");
    }
}

#[test]
fn what_no_vip_serves_is_cut_off_too() {
    for family in FAMILIES {
        let People { client, vip, .. } = family.people();
        let node = serving(family);
        let packet = other(client, vip, ip_number::GRE);
        let headers = packet.network() + packet.header_length();
        for length in headers..headers + 8 {
            // Too little is there to be quoted.
            for program in TO_VIP {
                stays(&node, program, &packet.bytes()[..length], Some(Unanswerable));
            }
        }
        assert_eq!(node.send_bytes("edge", &packet.bytes()[..headers + 8]).outcome, Some(UnknownProtocol));
    }
}
