//! Datagrams in pieces: only the first piece has ports, and the others follow it.

use federation_agent::model::Protocol::{Sctp, Tcp, Udp};
use federation_ebpf::outcome::Outcome::*;

use crate::{
    families::{FAMILIES, People, at_port},
    frames::{Fragment::*, Frame, Segment, sctp, tcp, udp, udp_unchecked},
    node::{Node, REPLY, TO_VIP, service},
};

fn numbered(frame: &Frame, identification: u16) -> Frame {
    Frame { identification, ..frame.clone() }
}

#[test]
fn later_fragments_follow_the_first_in_both_directions() {
    for family in FAMILIES {
        let People { client, vip, a, .. } = family.people();
        let same_port = at_port(vip, a.port());
        let node = Node::serving(&[
            service(Tcp, vip, &[a]).local(),
            service(Udp, vip, &[a]).local(),
            service(Sctp, same_port, &[a]).local(),
        ]);
        for (number, (forth, back)) in (1..).step_by(10).zip([
            (tcp(client, vip, Segment::Ack), tcp(a, client, Segment::Ack)),
            (udp(client, vip), udp(a, client)),
            (udp_unchecked(client, vip), udp_unchecked(a, client)),
            (sctp(client, same_port), sctp(a, client)),
        ]) {
            node.send("from_pod", &forth);
            for ((to_vip, reply), number) in
                [("from_pod", "to_pod"), ("edge", "to_wire")].into_iter().zip(number..)
            {
                let (forth, back) = (numbered(&forth, number), numbered(&back, number));
                for (program, packet, out, whole, unknown) in [
                    (to_vip, &forth, forth.to(a), Forwarded, Some(FragmentUnknown)),
                    (reply, &back, back.from(forth.to), Replied, None),
                ] {
                    println!("{family:?} {program}: {packet:?}");
                    node.leaves(program, &packet.fragment(Later), unknown);
                    node.turns(program, &packet.fragment(Atomic), &out.fragment(Atomic), whole);
                    node.leaves(program, &packet.fragment(Later), unknown);
                    node.turns(program, &packet.fragment(First), &out.fragment(First), whole);
                    for _ in 0..2 {
                        let (later, out) = (packet.fragment(Later), out.fragment(Later));
                        node.turns(program, &later, &out, FragmentTranslated);
                    }
                    // Of another datagram, of whose first fragment nothing is known.
                    node.leaves(program, &numbered(&packet.fragment(Later), 9999), unknown);
                }
            }
        }
    }
}

#[test]
fn a_first_fragment_may_open_a_flow() {
    for family in FAMILIES {
        let People { client, vip, a, .. } = family.people();
        let node = Node::serving(&[service(Udp, vip, &[a]).local()]);
        for (port, program) in (1..).zip(TO_VIP) {
            let packet = numbered(&udp(at_port(client, port), vip), port);
            node.turns(program, &packet.fragment(First), &packet.fragment(First).to(a), Opened);
            node.turns(program, &packet.fragment(Later), &packet.fragment(Later).to(a), FragmentTranslated);
        }
    }
}

#[test]
fn a_first_fragment_that_is_refused_leads_nobody() {
    for family in FAMILIES {
        let People { client, vip, a, .. } = family.people();
        let node = Node::serving(&[service(Udp, vip, &[a])]);
        for program in TO_VIP {
            let packet = udp(client, at_port(vip, 81));
            assert_eq!(node.send(program, &packet.fragment(First)).outcome, Some(NoFrontend));
            node.leaves(program, &packet.fragment(Later), FragmentUnknown);
        }
    }
}

#[test]
fn fragments_of_others_are_left_alone() {
    for family in FAMILIES {
        let People { client, vip, a, b, .. } = family.people();
        let node = Node::serving(&[service(Udp, vip, &[a])]);
        node.opens(&udp(client, vip), &[a]);
        for program in REPLY {
            for packet in [udp(b, client), tcp(b, client, Segment::Ack), udp(client, b)] {
                for fragment in [First, Later, Atomic] {
                    node.leaves(program, &packet.fragment(fragment), None);
                }
            }
            // From the backend's own address and port, but of no flow: nothing is remembered of it.
            let direct = udp(a, at_port(client, 1));
            node.leaves(program, &direct.fragment(First), NoFlow);
            node.leaves(program, &direct.fragment(Later), None);
        }
    }
}
