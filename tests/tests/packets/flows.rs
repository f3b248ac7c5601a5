//! The life of a connection: opened, followed by the flags of both sides, over, and opened anew.

use federation_agent::model::Protocol::{Sctp, Tcp, Udp};
use federation_ebpf::{
    maps,
    outcome::{Outcome::*, Verdict},
    tcp::TcpState,
};

use crate::{
    families::{FAMILIES, People, at_port},
    frames::{Frame, Segment, sctp, tcp, udp},
    node::{self, Node, REPLY, TO_VIP, service},
    refusals::reset,
    state::tuple,
};

#[test]
fn a_connection_is_translated_forth_and_back() {
    let services = FAMILIES.map(|family| {
        let People { vip, a, .. } = family.people();
        [service(Tcp, vip, &[a]), service(Udp, vip, &[a]), service(Sctp, at_port(vip, a.port()), &[a])]
    });
    let node = Node::fresh(&services.concat());
    for family in FAMILIES {
        let People { client, vip, a, .. } = family.people();
        let sctp_vip = at_port(vip, a.port());
        let stories: [(_, _, &[_]); 3] = [
            (
                maps::Protocol::Tcp,
                vip,
                &[
                    ("from_pod", tcp(client, vip, Segment::Syn), Opened),
                    ("to_pod", tcp(a, client, Segment::SynAck), Replied),
                    ("from_pod", tcp(client, vip, Segment::Ack), Forwarded),
                    ("to_pod", tcp(a, client, Segment::Ack), Replied),
                    ("from_pod", tcp(client, vip, Segment::Fin), Forwarded),
                    ("to_pod", tcp(a, client, Segment::Fin), Replied),
                    ("from_pod", tcp(client, vip, Segment::Ack), Forwarded),
                ],
            ),
            (
                maps::Protocol::Udp,
                vip,
                &[
                    ("from_pod", udp(client, vip), Opened),
                    ("to_pod", udp(a, client), Replied),
                    ("from_pod", udp(client, vip), Forwarded),
                ],
            ),
            (
                maps::Protocol::Sctp,
                sctp_vip,
                &[
                    ("from_pod", sctp(client, sctp_vip), Opened),
                    ("to_pod", sctp(a, client), Replied),
                    ("from_pod", sctp(client, sctp_vip), Forwarded),
                ],
            ),
        ];
        for (protocol, vip, story) in stories {
            for (program, packet, outcome) in story {
                let out = if *program == "from_pod" { packet.to(a) } else { packet.from(vip) };
                node.turns(program, packet, &out, *outcome);
            }
            let flows = node.view().flows().unwrap();
            let flow =
                flows.iter().find(|flow| (flow.protocol, flow.vip) == (protocol, vip)).expect("a flow");
            assert_eq!((flow.client, flow.backend), (client, a));
            assert!(flow.answerable && !flow.hairpin);
            let bytes: usize = story.iter().map(|(_, packet, _)| packet.bytes().len()).sum();
            let expected = maps::Counter { packets: story.len() as u64, bytes: bytes as u64, flows: 1 };
            let frontends = node.view().frontends().unwrap();
            let frontend = frontends.iter().find(|port| (port.protocol, port.vip) == (protocol, vip));
            assert_eq!(frontend.expect("its frontend").counter, expected, "{protocol:?}");
            let backends = node.view().backends().unwrap();
            let backend =
                backends.iter().find(|backend| (backend.protocol, backend.address) == (protocol, a));
            assert_eq!(backend.expect("its backend").counter, expected, "{protocol:?}");
        }
    }
    assert_eq!(node.entries().len(), 12, "two entries a connection");
}

#[test]
fn the_state_of_a_connection_follows_the_flags_of_both_sides() {
    for family in FAMILIES {
        let People { client, vip, a, .. } = family.people();
        let node = Node::serving(&[service(Tcp, vip, &[a])]);
        let (of_client, of_backend) = ("from_pod", "to_pod");
        let stories: [&[_]; 4] = [
            &[
                (of_client, Segment::Syn, TcpState::Opening),
                (of_client, Segment::Syn, TcpState::Opening),
                (of_backend, Segment::SynAck, TcpState::Opening),
                (of_client, Segment::Ack, TcpState::Established),
                (of_backend, Segment::Ack, TcpState::Established),
                (of_client, Segment::Fin, TcpState::Closing),
                (of_backend, Segment::Ack, TcpState::Closing),
                (of_backend, Segment::Fin, TcpState::Closing),
                (of_client, Segment::Ack, TcpState::Closing),
            ],
            &[
                (of_client, Segment::Syn, TcpState::Opening),
                (of_backend, Segment::RstAck, TcpState::Closing),
                (of_client, Segment::Syn, TcpState::Opening),
            ],
            &[(of_client, Segment::Syn, TcpState::Opening), (of_client, Segment::Rst, TcpState::Closing)],
            &[
                (of_client, Segment::Ack, TcpState::Established),
                (of_backend, Segment::Fin, TcpState::Closing),
            ],
        ];
        for (port, story) in (40_000..).zip(stories) {
            let client = at_port(client, port);
            for (program, segment, state) in story {
                let packet =
                    if *program == of_client { tcp(client, vip, *segment) } else { tcp(a, client, *segment) };
                assert_eq!(node.send(program, &packet).verdict, Verdict::Pass);
                let flows = node.view().flows().unwrap();
                let flow = flows.iter().find(|flow| flow.client == client).expect("a flow");
                assert_eq!(flow.state, *state, "after {program} saw {segment:?} of {client}");
            }
        }
    }
}

#[test]
fn a_connection_whose_flow_is_lost_is_adopted() {
    for family in FAMILIES {
        let People { client, vip, a, .. } = family.people();
        let node = Node::serving(&[service(Tcp, vip, &[a])]);
        for (port, segment, state) in [
            (1, Segment::Ack, TcpState::Established),
            (2, Segment::Fin, TcpState::Closing),
            (3, Segment::Rst, TcpState::Closing),
            (4, Segment::SynAck, TcpState::Established),
        ] {
            let client = at_port(client, port);
            let packet = tcp(client, vip, segment);
            node.turns("from_pod", &packet, &packet.to(a), Adopted);
            let answer = tcp(a, client, Segment::Ack);
            node.turns("to_pod", &answer, &answer.from(vip), Replied);
            let flows = node.view().flows().unwrap();
            let flow = flows.iter().find(|flow| flow.client == client).expect("a flow");
            assert_eq!(flow.state, state, "{segment:?}");
        }
    }
}

#[test]
fn connections_spread_over_backends_and_stay() {
    for family in FAMILIES {
        let People { client, vip, a, b, .. } = family.people();
        let node = Node::serving(&[service(Tcp, vip, &[a, b])]);
        let mut met = std::collections::BTreeMap::<_, u32>::new();
        for port in 40_000..40_200 {
            let client = at_port(client, port);
            let chosen = node.opens(&tcp(client, vip, Segment::Syn), &[a, b]);
            *met.entry(chosen).or_default() += 1;
            let next = tcp(client, vip, Segment::Ack);
            node.turns("from_pod", &next, &next.to(chosen), Forwarded);
        }
        assert!(met.values().all(|count| (60..=140).contains(count)), "{met:?}");
    }
}

#[test]
fn a_client_with_affinity_meets_one_backend() {
    for family in FAMILIES {
        let People { client, vip, a, b, c, .. } = family.people();
        let node = Node::serving(&[service(Tcp, vip, &[a, b, c]).with_affinity()]);
        let chosen = node.opens(&tcp(client, vip, Segment::Syn), &[a, b, c]);
        for port in 40_001..40_030 {
            let first = tcp(at_port(client, port), vip, Segment::Syn);
            assert_eq!(node.opens(&first, &[a, b, c]), chosen);
        }
    }
}

#[test]
fn a_port_that_is_used_again_after_the_end_makes_a_new_flow() {
    for family in FAMILIES {
        let People { client, vip, a, b, .. } = family.people();
        let mut node = Node::serving(&[service(Tcp, vip, &[a])]);
        node.opens(&tcp(client, vip, Segment::Syn), &[a]);
        for (program, end) in
            [("from_pod", tcp(client, vip, Segment::Fin)), ("to_pod", tcp(a, client, Segment::Fin))]
        {
            assert_eq!(node.send(program, &end).verdict, Verdict::Pass);
        }
        node.serve(&[service(Tcp, vip, &[b])]);
        // What is still under way of the old connection reaches the old backend.
        let last = tcp(client, vip, Segment::Ack);
        node.turns("from_pod", &last, &last.to(a), Forwarded);
        assert_eq!(node.opens(&tcp(client, vip, Segment::Syn), &[a, b]), b);
        assert_eq!(
            node.entry(tuple(maps::Protocol::Tcp, a, client)),
            None,
            "nothing is left of the old flow"
        );
        assert_eq!(node.entries().len(), 2);
    }
}

#[test]
fn a_grant_after_the_end_is_to_somebody_else() {
    for family in FAMILIES {
        let People { client, vip, a, .. } = family.people();
        let node = Node::serving(&[service(Tcp, vip, &[a])]);
        node.opens(&tcp(client, vip, Segment::Syn), &[a]);
        node.send("from_pod", &tcp(client, vip, Segment::Rst));
        // The client asks the backend itself, from the port that the flow had.
        let grant = tcp(a, client, Segment::SynAck);
        node.leaves("to_pod", &grant, NoFlow);
        node.leaves("to_pod", &tcp(a, client, Segment::Ack), NoFlow);
        assert_eq!(node.entry(tuple(maps::Protocol::Tcp, a, client)), None);
    }
}

#[test]
fn a_backend_that_talks_for_itself_is_left_alone() {
    for family in FAMILIES {
        let People { client, vip, a, .. } = family.people();
        let node = Node::serving(&[service(Tcp, vip, &[a]), service(Udp, vip, &[a])]);
        for program in REPLY {
            for packet in [tcp(a, client, Segment::Ack), tcp(a, client, Segment::SynAck), udp(a, client)] {
                node.leaves(program, &packet, NoFlow);
            }
        }
        assert_eq!(node.entries(), []);
    }
}

#[test]
fn a_client_from_outside_is_served_by_backends_of_this_node() {
    for family in FAMILIES {
        let People { outside, vip, other_vip, a, b, .. } = family.people();
        let mixed = node::Service { local: vec![b], ..service(Tcp, vip, &[a, b]) };
        let node = Node::serving(&[
            mixed,
            service(Udp, vip, &[b]).local(),
            service(Sctp, at_port(vip, b.port()), &[b]).local(),
            service(Tcp, other_vip, &[a]),
        ]);
        let first = tcp(outside, vip, Segment::Syn);
        let datagram = udp(outside, vip);
        let chunk = sctp(outside, at_port(vip, b.port()));
        for (program, packet, out, outcome) in [
            ("edge", &first, first.to(b), Opened),
            ("to_wire", &tcp(b, outside, Segment::SynAck), tcp(vip, outside, Segment::SynAck), Replied),
            ("edge", &tcp(outside, vip, Segment::Ack), tcp(outside, b, Segment::Ack), Forwarded),
            ("edge", &datagram, datagram.to(b), Opened),
            ("to_wire", &udp(b, outside), udp(vip, outside), Replied),
            ("edge", &chunk, chunk.to(b), Opened),
        ] {
            node.turns(program, packet, &out, outcome);
        }
        for port in 1..64 {
            let first = tcp(at_port(outside, port), vip, Segment::Syn);
            let sent = node.send("edge", &first);
            // Eight slots of which about half name the other backend: now and then none is tried that is here.
            if sent.outcome != Some(NotLocal) {
                assert_eq!((sent.outcome, sent.bytes), (Some(Opened), first.to(b).bytes()));
            }
        }
        node.turns("edge", &first.to(other_vip), &reset(&first.to(other_vip)), NotLocal);
    }
}

#[test]
fn whose_first_packet_may_come_through_either_program() {
    let settled = |packet: &Frame| tcp(packet.from, packet.to, Segment::Ack);
    for family in FAMILIES {
        let People { client, vip, a, .. } = family.people();
        let node = Node::serving(&[service(Tcp, vip, &[a]).local()]);
        for (port, program) in (1..).zip(TO_VIP) {
            let first = tcp(at_port(client, port), vip, Segment::Syn);
            node.turns(program, &first, &first.to(a), Opened);
            for program in TO_VIP {
                node.turns(program, &settled(&first), &settled(&first).to(a), Forwarded);
            }
        }
    }
}
