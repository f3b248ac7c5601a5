//! Who cannot be served is told so: by RST or by ICMP, as his packet allows, and never by more answers than are allowed.

use std::time::Instant;

use etherparse::{EtherType, TcpHeader, ip_number};
use federation_agent::model::Protocol::{Tcp, Udp};
use federation_ebpf::outcome::{Outcome::*, Verdict};

use crate::{
    families::{FAMILIES, Family, People, at_port},
    frames::{
        Body, Fragment, Frame, Segment, Trouble, echo_request, error, other, sctp, tcp, udp, udp_unchecked,
    },
    node::{Node, TO_VIP, on_cpu, service},
};

/// Bytes of transport that an ICMP error of ours quotes.
const QUOTED: usize = 8;

/// The packet's sender told that the packet was in vain, by whom it was sent to.
pub fn told(packet: &Frame, trouble: Trouble) -> Frame {
    let answer = error(packet.to, packet.from, trouble, packet).quoting(QUOTED);
    made_here(&Frame { tags: packet.tags.clone(), ..answer })
}

/// The RST that answers a segment.
pub fn reset(packet: &Frame) -> Frame {
    let Body::Tcp(header, payload) = &packet.body else { panic!("{packet:?} is not TCP") };
    let mut answer = TcpHeader::new(0, 0, 0, 0);
    answer.rst = true;
    if header.ack {
        answer.sequence_number = header.acknowledgment_number;
    } else {
        let data = u32::try_from(payload.len()).unwrap() + u32::from(header.syn) + u32::from(header.fin);
        answer.acknowledgment_number = header.sequence_number.wrapping_add(data);
        answer.ack = true;
    }
    made_here(&Frame {
        from: packet.to,
        to: packet.from,
        body: Body::Tcp(answer, Vec::new()),
        options: Vec::new(),
        extensions: Vec::new(),
        ..packet.clone()
    })
}

/// A new packet on the way back.
fn made_here(answer: &Frame) -> Frame {
    Frame { hops: 64, identification: 0, ..answer.back() }
}

fn with_header(packet: &Frame, change: impl FnOnce(&mut TcpHeader)) -> Frame {
    let mut packet = packet.clone();
    let Body::Tcp(header, _) = &mut packet.body else { panic!("{packet:?} is not TCP") };
    change(header);
    packet
}

#[test]
fn tcp_is_reset() {
    for family in FAMILIES {
        let People { client, vip, other_vip, a, .. } = family.people();
        let node = Node::serving(&[service(Tcp, vip, &[a]), service(Tcp, other_vip, &[])]);
        let nowhere = at_port(vip, 81);
        let syn = tcp(client, nowhere, Segment::Syn);
        let timestamps = [1, 1, 8, 10, 0, 1, 2, 3, 0, 0, 0, 0];
        let mut packets = vec![
            ("SYN", syn.with_payload(b"")),
            ("SYN with data", syn.clone()),
            ("SYN with much data", syn.with_payload(&[7; 1000])),
            ("SYN with options", with_header(&syn, |h| h.set_options_raw(&timestamps).unwrap())),
            ("SYN at the end of the numbers", with_header(&syn, |h| h.sequence_number = u32::MAX)),
            ("FIN without ACK", with_header(&syn, |h| (h.syn, h.fin) = (false, true))),
            ("no flags", with_header(&syn, |h| h.syn = false)),
            ("ACK", tcp(client, nowhere, Segment::Ack)),
            ("FIN", tcp(client, nowhere, Segment::Fin)),
            ("SYN-ACK", tcp(client, nowhere, Segment::SynAck).with_payload(b"")),
            ("a VLAN tag", Frame { tags: vec![EtherType::VLAN_TAGGED_FRAME], ..syn.clone() }),
            (
                "two VLAN tags",
                Frame {
                    tags: vec![EtherType::PROVIDER_BRIDGING, EtherType::VLAN_TAGGED_FRAME],
                    ..syn.clone()
                },
            ),
        ];
        if family == Family::V4 {
            packets.push(("IP options", Frame { options: vec![1; 40], ..syn.clone() }));
        } else {
            let options = (ip_number::IPV6_DEST_OPTIONS, vec![1, 4, 0, 0, 0, 0]);
            packets.push(("destination options", Frame { extensions: vec![options], ..syn.clone() }));
        }
        for (name, packet) in packets {
            for program in TO_VIP {
                println!("{family:?} {program}: {name}");
                node.turns(program, &packet, &reset(&packet), NoFrontend);
                let packet = packet.to(other_vip);
                node.turns(program, &packet, &reset(&packet), NoBackend);
                let packet = packet.to(family.vip(99, 80));
                node.turns(program, &packet, &reset(&packet), NoFrontend);
            }
        }
        assert_eq!(node.entries(), []);
    }
}

#[test]
fn all_but_tcp_is_unreachable() {
    for family in FAMILIES {
        let People { client, vip, other_vip, a, .. } = family.people();
        let node = Node::serving(&[service(Tcp, vip, &[a]), service(Udp, other_vip, &[])]);
        let datagram = udp(client, vip);
        let mut packets = vec![
            (datagram.clone(), Trouble::Port, NoFrontend),
            (udp(client, other_vip), Trouble::Port, NoBackend),
            (udp_unchecked(client, vip), Trouble::Port, NoFrontend),
            (datagram.with_payload(b""), Trouble::Port, NoFrontend),
            (datagram.with_payload(&[7; 1200]), Trouble::Port, NoFrontend),
            (datagram.fragment(Fragment::First), Trouble::Port, NoFrontend),
            (datagram.fragment(Fragment::Atomic), Trouble::Port, NoFrontend),
            (
                Frame { tags: vec![EtherType::VLAN_TAGGED_FRAME], ..datagram.clone() },
                Trouble::Port,
                NoFrontend,
            ),
            (sctp(client, vip), Trouble::Port, NoFrontend),
            (other(client, vip, ip_number::GRE), Trouble::Protocol, UnknownProtocol),
            (echo_request(client, family.vip(99, 0)), Trouble::Host, NoFrontend),
            (echo_request(client, other_vip), Trouble::Host, NoBackend),
        ];
        if family == Family::V4 {
            for options in [4, 40] {
                let packet = Frame { options: vec![1; options], ..datagram.clone() };
                packets.push((packet, Trouble::Port, NoFrontend));
            }
        } else {
            let options = (ip_number::IPV6_DEST_OPTIONS, vec![1, 4, 0, 0, 0, 0]);
            let packet = Frame { extensions: vec![options; 2], ..datagram.clone() };
            packets.push((packet, Trouble::Port, NoFrontend));
        }
        for (packet, trouble, outcome) in packets {
            for program in TO_VIP {
                println!("{family:?} {program}: {packet:?}");
                node.turns(program, &packet, &told(&packet, trouble), outcome);
            }
        }
        assert_eq!(node.entries(), []);
    }
}

#[test]
fn what_must_not_be_answered_is_not() {
    for family in FAMILIES {
        let People { client, vip, a, .. } = family.people();
        let node = Node::serving(&[service(Tcp, vip, &[a])]);
        let nowhere = at_port(vip, 81);
        let mut packets = vec![
            tcp(client, nowhere, Segment::Rst),
            tcp(client, nowhere, Segment::RstAck),
            other(client, vip, ip_number::GRE).fragment(Fragment::Later),
        ];
        for nobody in [
            family.address("0.0.0.0", "::"),
            family.address("224.0.0.1", "ff02::1"),
            family.address("255.255.255.255", "ff0e::1"),
        ] {
            let nobody = std::net::SocketAddr::new(nobody, 40_000);
            packets.extend([
                tcp(nobody, nowhere, Segment::Syn),
                udp(nobody, nowhere),
                echo_request(nobody, nowhere),
            ]);
            packets.extend([other(nobody, vip, ip_number::GRE), echo_request(nobody, family.vip(99, 0))]);
        }
        // An answer, not a question, and what asks for the time.
        for kind in if family == Family::V4 { [0, 13] } else { [129, 133] } {
            let mut packet = echo_request(client, vip);
            let Body::Icmp { kind: own, .. } = &mut packet.body else { panic!("it is ICMP") };
            *own = kind;
            packets.push(packet);
        }
        for packet in packets {
            for program in TO_VIP {
                node.leaves(program, &packet, Unanswerable);
            }
        }
        for later in [tcp(client, nowhere, Segment::Syn), udp(client, nowhere), sctp(client, nowhere)] {
            for program in TO_VIP {
                node.leaves(program, &later.fragment(Fragment::Later), FragmentUnknown);
            }
        }
    }
}

#[test]
fn no_more_answers_leave_than_are_allowed() {
    for family in FAMILIES {
        let People { client, vip, a, .. } = family.people();
        let nowhere = at_port(vip, 81);
        for (program, allowed) in [("edge", 1_000), ("from_pod", 10_000)] {
            let node = Node::serving(&[service(Tcp, vip, &[a])]);
            let packets = [tcp(client, nowhere, Segment::Syn).bytes(), udp(client, nowhere).bytes()];
            // Each CPU has an allowance of its own.
            let (answered, limited, elapsed) = on_cpu(0, || {
                let (begin, mut answered, mut limited) = (Instant::now(), 0_u32, 0_u32);
                while limited < 100 && answered < 2 * allowed {
                    let packet = &packets[(answered % 2) as usize];
                    match node.run(program, packet).expect("a frame") {
                        (Verdict::Back, _) => answered += 1,
                        (Verdict::Drop, bytes) => {
                            assert_eq!(&bytes, packet);
                            limited += 1;
                        }
                        other => panic!("{other:?}"),
                    }
                }
                (answered, limited, begin.elapsed())
            });
            let refilled = elapsed.as_secs_f64() * f64::from(allowed);
            println!("{family:?} {program}: {answered} answered, {limited} not, in {elapsed:?}");
            assert_eq!(limited, 100, "{program}");
            assert!(answered >= allowed, "{program}: {answered}");
            assert!(f64::from(answered) <= f64::from(allowed) + refilled + 1.0, "{program}: {answered}");
            assert_eq!(node.count(RefusalLimited), 100);
        }
    }
}
