//! A pod that reaches itself through a VIP: each packet goes back to it from the VIP, in both directions.

use federation_agent::model::Protocol::{Sctp, Tcp, Udp};
use federation_ebpf::{outcome::Outcome::*, tcp::TcpState};

use crate::{
    families::{FAMILIES, People, at_port},
    frames::{Fragment, Frame, Segment, Trouble, error, sctp, tcp, udp},
    node::{Node, service},
};

#[test]
fn a_pod_meets_itself() {
    for family in FAMILIES {
        let People { vip, a: pod, .. } = family.people();
        let client = at_port(pod, 40_000);
        let same_port = at_port(vip, pod.port());
        let node = Node::serving(&[
            service(Tcp, vip, &[pod]),
            service(Udp, vip, &[pod]),
            service(Sctp, same_port, &[pod]),
        ]);
        let (asks, answers) = (true, false);
        let syn = |segment| tcp(client, vip, segment);
        let story = [
            (asks, syn(Segment::Syn)),
            (answers, syn(Segment::SynAck)),
            (asks, syn(Segment::Ack)),
            (answers, syn(Segment::Ack)),
            (answers, syn(Segment::Fin)),
            (asks, syn(Segment::Fin)),
            (asks, udp(client, vip)),
            (answers, udp(client, vip)),
            (asks, udp(client, vip)),
            (asks, sctp(client, same_port)),
            (answers, sctp(client, same_port)),
        ];
        for (asks, packet) in story {
            // As the one side sends it, and as the other gets it.
            let (sent, got) = if asks {
                (packet.clone(), packet.from(at_port(vip, client.port())).to(pod))
            } else {
                (packet.from(pod).to(at_port(vip, client.port())), packet.from(packet.to).to(client))
            };
            node.turns("from_pod", &sent, &got.back(), Hairpinned);
            // What comes back passes the program on the way into the pod, which does nothing by these entries.
            node.leaves("to_pod", &got.back(), None);
            node.leaves("to_pod", &sent, (!asks).then_some(NoFlow));
        }
        let flows = node.view().flows().unwrap();
        assert_eq!(flows.len(), 3);
        for flow in flows {
            assert!(flow.hairpin && flow.answerable, "{flow:?}");
            assert_eq!((flow.client, flow.backend), (client, pod));
            assert!(matches!(flow.state, TcpState::Closing | TcpState::None));
        }
    }
}

#[test]
fn errors_and_fragments_go_back_too() {
    for family in FAMILIES {
        let People { vip, a: pod, .. } = family.people();
        let client = at_port(pod, 40_000);
        let node = Node::serving(&[service(Tcp, vip, &[pod]), service(Udp, vip, &[pod])]);
        let seen_client = at_port(vip, client.port());
        for forth in [tcp(client, vip, Segment::Ack), udp(client, vip)] {
            let forth_got = forth.from(seen_client).to(pod);
            node.turns("from_pod", &forth, &forth_got.back(), Hairpinned);
            let answer = Frame { from: pod, to: seen_client, ..forth.clone() };
            let answer_got = answer.from(vip).to(client);
            node.turns("from_pod", &answer, &answer_got.back(), Hairpinned);
            for (sent, got) in [(&forth, &forth_got), (&answer, &answer_got)] {
                let complaint = error(pod, vip, Trouble::Port, got);
                let heard = error(vip, pod, Trouble::Port, sent);
                node.turns("from_pod", &complaint, &heard.back(), Hairpinned);
                for fragment in [Fragment::First, Fragment::Later] {
                    node.turns(
                        "from_pod",
                        &sent.fragment(fragment),
                        &got.fragment(fragment).back(),
                        Hairpinned,
                    );
                }
            }
        }
    }
}

#[test]
fn a_pod_with_company_meets_itself_now_and_then() {
    for family in FAMILIES {
        let People { vip, a: pod, b, .. } = family.people();
        let node = Node::serving(&[service(Tcp, vip, &[pod, b])]);
        let mut met = [0; 2];
        for port in 1..100 {
            let first = tcp(at_port(pod, port), vip, Segment::Syn);
            let sent = node.send("from_pod", &first);
            if sent.outcome == Some(Hairpinned) {
                assert_eq!(sent.bytes, first.from(at_port(vip, port)).to(pod).back().bytes());
                met[0] += 1;
            } else {
                assert_eq!((sent.outcome, sent.bytes), (Some(Opened), first.to(b).bytes()));
                met[1] += 1;
            }
        }
        assert!(met.iter().all(|count| *count > 20), "{met:?}");
    }
}
