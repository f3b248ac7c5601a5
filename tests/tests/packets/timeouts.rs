//! How long a flow is remembered, what is written of it meanwhile, and how a lost entry comes back.

use std::{slice, time::Duration};

use federation_agent::model::{self, Protocol::Tcp};
use federation_ebpf::{maps::Protocol, outcome::Outcome::*, tcp::TcpState};

use crate::{
    families::{FAMILIES, People, at_port},
    frames::{Fragment, Frame, Segment, Trouble, error, sctp, tcp, udp},
    node::{Node, service},
    state::tuple,
};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_flow_is_over_after_silence_as_long_as_its_state_allows() {
    for family in FAMILIES {
        let People { client, vip, a, b, .. } = family.people();
        // SCTP keeps its port.
        let vip = at_port(vip, a.port());
        let syn = tcp(client, vip, Segment::Syn);
        let ack = tcp(client, vip, Segment::Ack);
        let services = |backend| {
            [model::Protocol::Tcp, model::Protocol::Udp, model::Protocol::Sctp]
                .map(|protocol| service(protocol, vip, &[backend]))
        };
        // What was sent, what comes after the silence, how long that may be, and the outcome of a new choice.
        let cases: [(&str, Protocol, &[Frame], &Frame, u64, _); 5] = [
            ("opening", Protocol::Tcp, slice::from_ref(&syn), &syn, 240, Opened),
            ("established", Protocol::Tcp, &[syn.clone(), ack.clone()], &ack, 7440, Adopted),
            ("closing", Protocol::Tcp, &[syn.clone(), tcp(client, vip, Segment::Fin)], &ack, 240, Adopted),
            ("UDP", Protocol::Udp, &[udp(client, vip)], &udp(client, vip), 300, Opened),
            ("SCTP", Protocol::Sctp, &[sctp(client, vip)], &sctp(client, vip), 7440, Opened),
        ];
        for (name, protocol, sent, next, timeout, anew) in cases {
            let mut node = Node::serving(&services(a));
            for packet in sent {
                node.send("from_pod", packet);
            }
            if name == "opening" {
                // Else the client would be sent elsewhere when it asks again.
                node.send("to_pod", &tcp(a, client, Segment::SynAck));
            }
            node.serve(&services(b));
            let key = tuple(protocol, client, vip);
            node.age_both(key, Duration::from_secs(timeout - 10));
            node.turns("from_pod", next, &next.to(a), Forwarded);
            let answer = Frame { from: a, to: client, ..next.clone() };
            // A second is held to have 30 ticks, which is 0.6 % more than it has.
            node.age_both(key, Duration::from_secs(timeout + timeout / 50));
            // The backend is heard no longer either.
            let late = if protocol == Protocol::Tcp { tcp(a, client, Segment::Ack) } else { answer };
            node.leaves("to_pod", &late, NoFlow);
            assert_eq!(node.entries().len(), 1, "{name}: the entry of replies is gone");
            node.turns("from_pod", next, &next.to(b), anew);
            assert_eq!(node.entries().len(), 2, "{name}");
        }
    }
}

#[test]
fn what_was_seen_is_written_once_a_second_at_most() {
    for family in FAMILIES {
        let People { client, vip, a, .. } = family.people();
        let node = Node::serving(&[service(Tcp, vip, &[a])]);
        let (forward, reply) = (tuple(Protocol::Tcp, client, vip), tuple(Protocol::Tcp, a, client));
        let ack = tcp(client, vip, Segment::Ack);
        node.turns("from_pod", &ack, &ack.to(a), Adopted);
        let answer = tcp(a, client, Segment::Ack);
        for (program, packet, out, outcome) in
            [("from_pod", &ack, ack.to(a), Forwarded), ("to_pod", &answer, answer.from(vip), Replied)]
        {
            let seen = |key| node.entry(key).expect("an entry").last_seen;
            node.age_both(forward, SECOND / 4);
            let before = (seen(forward), seen(reply));
            node.turns(program, packet, &out, outcome);
            assert_eq!((seen(forward), seen(reply)), before, "{program}: a second is not over");
            node.age_both(forward, 2 * SECOND);
            let before = (seen(forward), seen(reply));
            node.turns(program, packet, &out, outcome);
            assert_eq!(seen(forward), seen(reply), "{program}: both entries at once");
            // A tick is a 30th of a second, of which two went by at least.
            let passed = seen(forward).wrapping_sub(before.0);
            assert!((60..3000).contains(&passed), "{program}: {passed} ticks");
        }
    }
}

#[test]
fn a_lost_entry_is_put_back_by_packets_of_the_other() {
    for family in FAMILIES {
        let People { client, vip, a, .. } = family.people();
        for protocol in [model::Protocol::Tcp, model::Protocol::Udp] {
            let node = Node::serving(&[service(protocol, vip, &[a])]);
            let (forth, back, number) = match protocol {
                model::Protocol::Tcp => {
                    (tcp(client, vip, Segment::Ack), tcp(a, client, Segment::Ack), Protocol::Tcp)
                }
                _ => (udp(client, vip), udp(a, client), Protocol::Udp),
            };
            let (forward, reply) = (tuple(number, client, vip), tuple(number, a, client));
            node.send("from_pod", &forth);
            let whole = node.view().flows().unwrap();
            assert!(whole[0].answerable);
            for (program, packet, kept, lost) in
                [("from_pod", &forth, forward, reply), ("to_pod", &back, reply, forward)]
            {
                let (before, partner) = (node.entry(lost).unwrap(), node.entry(kept).unwrap());
                node.lose(lost);
                node.send(program, packet);
                assert_eq!(node.entry(lost), None, "{program}: not before a second is over");
                node.age(kept, 2 * SECOND);
                node.send(program, packet);
                let after = node.entry(lost).unwrap_or_else(|| panic!("{program} puts {lost:?} back"));
                assert_eq!(
                    (after.to, after.backend, after.generation),
                    (before.to, before.backend, before.generation)
                );
                assert_eq!(node.entry(kept).unwrap().to, partner.to);
            }
            let healed = node.view().flows().unwrap();
            assert_eq!(healed.len(), 1);
            assert!(healed[0].answerable);
            assert_eq!(healed[0].state, whole[0].state);
            node.turns("from_pod", &forth, &forth.to(a), Forwarded);
            node.turns("to_pod", &back, &back.from(vip), Replied);
        }
    }
}

#[test]
fn a_lost_forward_entry_is_made_anew_onto_its_own_reply_entry() {
    for family in FAMILIES {
        let People { client, vip, a, .. } = family.people();
        let node = Node::serving(&[service(Tcp, vip, &[a])]);
        let ack = tcp(client, vip, Segment::Ack);
        node.turns("from_pod", &ack, &ack.to(a), Adopted);
        node.lose(tuple(Protocol::Tcp, client, vip));
        // Not at another port: what holds the reply key is its own.
        node.turns("from_pod", &ack, &ack.to(a), Adopted);
        assert_eq!(node.entries().len(), 2);
        assert_eq!(node.view().flows().unwrap()[0].state, TcpState::Established);
    }
}

#[test]
fn what_belongs_to_a_flow_that_is_over_belongs_to_none() {
    for family in FAMILIES {
        let People { client, vip, a, router, .. } = family.people();
        let node = Node::serving(&[service(model::Protocol::Udp, vip, &[a])]);
        let (forth, back) = (udp(client, vip), udp(a, client));
        let later = forth.fragment(Fragment::Later);
        let to_client = error(router, client, Trouble::Time, &forth.to(a));
        let to_vip = error(client, vip, Trouble::Port, &back.from(vip));
        node.send("from_pod", &forth.fragment(Fragment::First));
        node.turns("from_pod", &later, &later.to(a), FragmentTranslated);
        node.turns("to_pod", &to_client, &to_client.about(&forth), ErrorTranslated);
        node.turns("from_pod", &to_vip, &to_vip.to(a).about(&back), ErrorTranslated);
        node.age_both(tuple(Protocol::Udp, client, vip), 310 * SECOND);
        node.leaves("from_pod", &later, FragmentUnknown);
        node.leaves("to_pod", &to_client, NoFlow);
        node.leaves("from_pod", &to_vip, ErrorUnknown);
    }
}
