//! What the loaded programs make of packets: bytes in, bytes out, and what is remembered. Needs root and a kernel, but no
//! network; expected bytes are computed by another library than the programs'.

#[path = "packets/frames.rs"]
mod frames;
#[path = "packets/node.rs"]
mod node;

use federation_agent::{model::Protocol, plan::Plan};
use federation_ebpf::{
    outcome::{Outcome, Verdict},
    tcp::TcpState,
};
use frames::{Fragment, Frame, Kind, Segment, tcp, udp};
use node::{Node, Service, plan, plan_with_dead, service};

const CLIENT: &str = "10.8.1.2:40000";
const VIP: &str = "198.18.0.7:80";
const OTHER_VIP: &str = "198.18.0.8:80";
const A: &str = "10.8.2.2:8080";
const B: &str = "10.8.3.2:8080";

fn tcp_plan(backends: &[&str]) -> Plan {
    plan(&[service(Protocol::Tcp, VIP, backends)])
}

fn udp_plan(backends: &[&str]) -> Plan {
    plan(&[service(Protocol::Udp, VIP, backends)])
}

fn syn() -> Frame {
    tcp(CLIENT, VIP, Segment::Syn)
}

fn ack() -> Frame {
    tcp(CLIENT, VIP, Segment::Ack)
}

/// Opens a flow and says where it goes.
fn open(node: &Node, first: &Frame, backends: &[&'static str]) -> &'static str {
    let sent = node.send("from_pod", first);
    assert_eq!((sent.verdict, sent.outcome), (Verdict::Pass, Some(Outcome::Opened)), "{first:?}");
    backends
        .iter()
        .find(|backend| sent.bytes == first.clone().to(backend).bytes())
        .expect("one of the backends")
}

#[test]
fn a_connection_is_translated_forth_and_back() {
    let tcp_story = [
        ("from_pod", tcp(CLIENT, VIP, Segment::Syn), Outcome::Opened),
        ("to_pod", tcp(A, CLIENT, Segment::SynAck), Outcome::Replied),
        ("from_pod", tcp(CLIENT, VIP, Segment::Ack), Outcome::Forwarded),
        ("to_pod", tcp(A, CLIENT, Segment::Ack), Outcome::Replied),
        ("from_pod", tcp(CLIENT, VIP, Segment::Fin), Outcome::Forwarded),
        ("to_pod", tcp(A, CLIENT, Segment::Fin), Outcome::Replied),
        ("from_pod", tcp(CLIENT, VIP, Segment::Ack), Outcome::Forwarded),
    ];
    let udp_story = [
        ("from_pod", udp(CLIENT, VIP), Outcome::Opened),
        ("to_pod", udp(A, CLIENT), Outcome::Replied),
        ("from_pod", udp(CLIENT, VIP), Outcome::Forwarded),
    ];
    for (plan, story) in [(tcp_plan(&[A]), &tcp_story[..]), (udp_plan(&[A]), &udp_story[..])] {
        let node = Node::with(&plan);
        for (program, packet, outcome) in story {
            let out = if *program == "from_pod" { packet.clone().to(A) } else { packet.clone().from(VIP) };
            node.translates(program, packet, &out, *outcome);
        }
        let [flow] = &node.view().flows().unwrap()[..] else { panic!("one connection, one flow") };
        assert_eq!((flow.client.to_string(), flow.vip.to_string()), (CLIENT.to_owned(), VIP.to_owned()));
        assert_eq!(flow.backend.to_string(), A);
        assert!(flow.answerable);
        let forth = story.iter().filter(|(program, ..)| *program == "from_pod").count() as u64;
        let [frontend] = &node.view().frontends().unwrap()[..] else { panic!("one frontend") };
        assert_eq!(
            (frontend.counter.packets, frontend.counter.flows),
            (story.len() as u64, 1),
            "{forth} forth"
        );
        let [backend] = &node.view().backends().unwrap()[..] else { panic!("one backend") };
        assert_eq!(backend.counter, frontend.counter);
    }
}

#[test]
fn the_state_of_a_connection_follows_the_flags_of_both_sides() {
    let node = Node::with(&tcp_plan(&[A]));
    for (program, packet, state) in [
        ("from_pod", tcp(CLIENT, VIP, Segment::Syn), TcpState::Opening),
        ("to_pod", tcp(A, CLIENT, Segment::SynAck), TcpState::Opening),
        ("from_pod", tcp(CLIENT, VIP, Segment::Ack), TcpState::Established),
        ("to_pod", tcp(A, CLIENT, Segment::Ack), TcpState::Established),
        ("to_pod", tcp(A, CLIENT, Segment::Rst), TcpState::Closing),
    ] {
        node.send(program, &packet);
        assert_eq!(node.view().flows().unwrap()[0].state, state, "after {packet:?}");
    }
}

#[test]
fn what_is_not_for_a_vip_passes_untouched() {
    let node = Node::with(&tcp_plan(&[A]));
    let arp = [&[0xff; 12][..], &[0x08, 0x06], &[0; 46]].concat();
    let ipv6 = [&[2; 12][..], &[0x86, 0xdd, 0x60], &[0; 60]].concat();
    let strangers = [
        arp,
        ipv6,
        tcp(CLIENT, "10.8.2.2:80", Segment::Syn).bytes(),
        udp(CLIENT, "10.8.2.2:53").bytes(),
        tcp(CLIENT, "198.17.255.255:80", Segment::Syn).bytes(),
        tcp(CLIENT, "198.19.0.0:80", Segment::Syn).bytes(),
        tcp("198.18.0.7:80", CLIENT, Segment::Ack).bytes(),
    ];
    for program in ["from_pod", "to_pod", "edge", "to_wire"] {
        for stranger in &strangers {
            node.leaves(program, stranger, None);
        }
    }
}

#[test]
fn a_backend_that_talks_for_itself_is_left_alone() {
    let node = Node::with(&tcp_plan(&[A]));
    for program in ["to_pod", "to_wire"] {
        node.leaves(program, &tcp(A, CLIENT, Segment::Ack).bytes(), Some(Outcome::NoFlow));
    }
}

#[test]
fn what_cannot_be_served_is_dropped_by_name() {
    let icmp = {
        let mut bytes = syn().bytes();
        bytes[23] = 1;
        bytes
    };
    let mut short_header = syn().bytes();
    short_header[14] = 0x44;
    let mut short_total = syn().bytes();
    short_total[16..18].copy_from_slice(&[0, 39]);
    let node =
        Node::with(&plan(&[service(Protocol::Tcp, VIP, &[A]), service(Protocol::Tcp, OTHER_VIP, &[])]));
    for (packet, outcome) in [
        (tcp(CLIENT, "198.18.0.7:81", Segment::Syn).bytes(), Outcome::NoFrontend),
        (udp(CLIENT, VIP).bytes(), Outcome::NoFrontend),
        (tcp(CLIENT, "198.18.99.99:80", Segment::Syn).bytes(), Outcome::NoFrontend),
        (tcp(CLIENT, OTHER_VIP, Segment::Syn).bytes(), Outcome::NoBackend),
        (icmp, Outcome::UnknownProtocol),
        (short_header, Outcome::Malformed),
        (short_total, Outcome::Malformed),
        (Frame { fragment: Fragment::First, ..syn() }.bytes(), Outcome::Fragment),
        (Frame { fragment: Fragment::Later, ..syn() }.bytes(), Outcome::Fragment),
    ] {
        for program in ["from_pod", "edge"] {
            node.drops(program, &packet, outcome);
        }
    }
    assert_eq!(node.view().flows().unwrap(), []);
}

#[test]
fn a_packet_cut_off_anywhere_changes_nothing() {
    let udp_service = service(Protocol::Udp, VIP, &[A]);
    let node = Node::with(&plan(&[service(Protocol::Tcp, VIP, &[A]), udp_service]));
    for (packet, headers) in [
        (syn(), 54),
        (Frame { options: 40, ..syn() }, 94),
        (udp(CLIENT, VIP), 42),
        (Frame { options: 8, ..udp(CLIENT, VIP) }, 50),
    ] {
        let whole = packet.bytes();
        // The kernel itself takes no frame that ends with its Ethernet header.
        for length in 15..headers {
            let cut = &whole[..length];
            // Before the destination is there, nobody can say whose it is; the kernel runs no tc program on such.
            if length < 34 {
                node.leaves("edge", cut, None);
                continue;
            }
            for program in ["from_pod", "edge"] {
                node.drops(program, cut, Outcome::Malformed);
            }
            for program in ["to_pod", "to_wire"] {
                node.leaves(program, cut, None);
            }
        }
    }
    assert_eq!(node.view().flows().unwrap(), []);
}

#[test]
fn ip_options_and_unchecked_udp_are_translated() {
    let unchecked = Frame { kind: Kind::UdpUnchecked, ..udp(CLIENT, VIP) };
    for (plan, first, answer) in [
        (
            tcp_plan(&[A]),
            Frame { options: 4, ..syn() },
            Frame { options: 40, ..tcp(A, CLIENT, Segment::SynAck) },
        ),
        (udp_plan(&[A]), unchecked.clone(), unchecked.clone().from(A).to(CLIENT)),
        (udp_plan(&[A]), Frame { options: 12, ..unchecked.clone() }, udp(A, CLIENT)),
    ] {
        let node = Node::with(&plan);
        node.translates("from_pod", &first, &first.clone().to(A), Outcome::Opened);
        node.translates("to_pod", &answer, &answer.clone().from(VIP), Outcome::Replied);
    }
}

#[test]
fn connections_spread_over_backends_and_stay() {
    let node = Node::with(&tcp_plan(&[A, B]));
    let mut met = std::collections::BTreeMap::<_, u32>::new();
    for port in 40_000..40_200 {
        let client = format!("10.8.1.2:{port}");
        let chosen = open(&node, &syn().from(&client), &[A, B]);
        *met.entry(chosen).or_default() += 1;
        let next = ack().from(&client);
        node.translates("from_pod", &next, &next.clone().to(chosen), Outcome::Forwarded);
    }
    assert!(met.values().all(|count| (60..=140).contains(count)), "{met:?}");
}

#[test]
fn a_client_with_affinity_meets_one_backend() {
    let node = Node::with(&plan(&[Service { affinity: true, ..service(Protocol::Tcp, VIP, &[A, B]) }]));
    let chosen = open(&node, &syn(), &[A, B]);
    for port in 40_001..40_050 {
        assert_eq!(open(&node, &syn().from(&format!("10.8.1.2:{port}")), &[A, B]), chosen);
    }
}

#[test]
fn a_connection_whose_flow_is_lost_is_adopted() {
    let node = Node::with(&tcp_plan(&[A]));
    node.translates("from_pod", &ack(), &ack().to(A), Outcome::Adopted);
    let answer = tcp(A, CLIENT, Segment::Ack);
    node.translates("to_pod", &answer, &answer.clone().from(VIP), Outcome::Replied);
    assert_eq!(node.view().flows().unwrap()[0].state, TcpState::Established);
}

#[test]
fn a_dead_backend_ends_its_connections_and_new_ones_go_elsewhere() {
    let mut node = Node::with(&tcp_plan(&[A, B]));
    let dead = open(&node, &syn(), &[A, B]);
    let alive = if dead == A { B } else { A };
    node.translates("from_pod", &ack(), &ack().to(dead), Outcome::Forwarded);
    node.apply(&plan_with_dead(&[service(Protocol::Tcp, VIP, &[alive])], &[dead]));
    node.drops("from_pod", &ack().bytes(), Outcome::BackendGone);
    node.translates("from_pod", &syn(), &syn().to(alive), Outcome::Opened);
    let late = tcp(dead, CLIENT, Segment::SynAck);
    node.leaves("to_pod", &late.bytes(), Some(Outcome::NoFlow));
}

#[test]
fn udp_leaves_a_dead_backend_at_once() {
    let mut node = Node::with(&udp_plan(&[A, B]));
    let packet = udp(CLIENT, VIP);
    let dead = open(&node, &packet, &[A, B]);
    let alive = if dead == A { B } else { A };
    node.apply(&plan_with_dead(&[service(Protocol::Udp, VIP, &[alive])], &[dead]));
    node.translates("from_pod", &packet, &packet.clone().to(alive), Outcome::Opened);
}

#[test]
fn a_backend_that_leaves_keeps_its_connections_and_gets_no_new_one() {
    let mut node = Node::with(&tcp_plan(&[A]));
    open(&node, &syn(), &[A]);
    node.apply(&tcp_plan(&[B]));
    node.translates("from_pod", &ack(), &ack().to(A), Outcome::Forwarded);
    let answer = tcp(A, CLIENT, Segment::Ack);
    node.translates("to_pod", &answer, &answer.clone().from(VIP), Outcome::Replied);
    for port in 40_001..40_050 {
        assert_eq!(open(&node, &syn().from(&format!("10.8.1.2:{port}")), &[A, B]), B);
    }
}

#[test]
fn a_new_table_leaves_open_connections_where_they_are() {
    let mut node = Node::with(&tcp_plan(&[A, B]));
    let clients: Vec<_> = (40_000..40_064).map(|port| format!("10.8.1.2:{port}")).collect();
    let chosen: Vec<_> = clients.iter().map(|client| open(&node, &syn().from(client), &[A, B])).collect();
    node.apply(&tcp_plan(&[A, B, "10.8.4.2:8080"]));
    for (client, chosen) in clients.iter().zip(chosen) {
        let packet = ack().from(client);
        node.translates("from_pod", &packet, &packet.clone().to(chosen), Outcome::Forwarded);
    }
}

#[test]
fn a_port_that_is_used_again_after_the_end_makes_a_new_flow() {
    let mut node = Node::with(&tcp_plan(&[A]));
    open(&node, &syn(), &[A]);
    for (program, end) in
        [("from_pod", tcp(CLIENT, VIP, Segment::Fin)), ("to_pod", tcp(A, CLIENT, Segment::Fin))]
    {
        assert_eq!(node.send(program, &end).verdict, Verdict::Pass);
    }
    node.apply(&tcp_plan(&[B]));
    // What is still under way of the old connection reaches the old backend.
    node.translates("from_pod", &ack(), &ack().to(A), Outcome::Forwarded);
    assert_eq!(open(&node, &syn(), &[A, B]), B);
}

#[test]
fn two_vips_that_share_backends_do_not_mix_up_their_answers() {
    let node = Node::with(&plan(&[
        service(Protocol::Tcp, VIP, &[A, B]),
        service(Protocol::Tcp, OTHER_VIP, &[A, B]),
    ]));
    for port in 40_000..40_032 {
        let client = format!("10.8.1.2:{port}");
        let one = open(&node, &syn().from(&client), &[A, B]);
        let other = open(&node, &syn().from(&client).to(OTHER_VIP), &[A, B]);
        assert_ne!(one, other, "one reply key cannot serve both");
        for (backend, vip) in [(one, VIP), (other, OTHER_VIP)] {
            let answer = tcp(backend, &client, Segment::SynAck);
            node.translates("to_pod", &answer, &answer.clone().from(vip), Outcome::Replied);
        }
    }
}

#[test]
fn a_shared_backend_serves_a_port_again_once_the_first_connection_is_over() {
    let node =
        Node::with(&plan(&[service(Protocol::Tcp, VIP, &[A]), service(Protocol::Tcp, OTHER_VIP, &[A])]));
    let other = syn().to(OTHER_VIP);
    open(&node, &syn(), &[A]);
    node.drops("from_pod", &other.bytes(), Outcome::NoFreeReply);
    node.send("from_pod", &tcp(CLIENT, VIP, Segment::Rst));
    open(&node, &other, &[A]);
    let answer = tcp(A, CLIENT, Segment::SynAck);
    node.translates("to_pod", &answer, &answer.clone().from(OTHER_VIP), Outcome::Replied);
}

#[test]
fn a_client_from_outside_is_served_by_backends_of_this_node() {
    let local = Service { local: &[B], ..service(Protocol::Tcp, VIP, &[A, B]) };
    let udp_local = Service { local: &[B], ..service(Protocol::Udp, VIP, &[B]) };
    let node = Node::with(&plan(&[local, udp_local, service(Protocol::Tcp, OTHER_VIP, &[A])]));
    let outside = "203.0.113.9:51000";
    let first = syn().from(outside);
    node.translates("edge", &first, &first.clone().to(B), Outcome::Opened);
    let answer = tcp(B, outside, Segment::SynAck);
    node.translates("to_wire", &answer, &answer.clone().from(VIP), Outcome::Replied);
    let next = ack().from(outside);
    node.translates("edge", &next, &next.clone().to(B), Outcome::Forwarded);
    for packet in [
        udp(outside, VIP),
        Frame { kind: Kind::UdpUnchecked, ..udp("203.0.113.9:51001", VIP) },
        Frame { options: 40, ..udp("203.0.113.9:51002", VIP) },
    ] {
        node.translates("edge", &packet, &packet.clone().to(B), Outcome::Opened);
    }
    node.drops("edge", &first.to(OTHER_VIP).bytes(), Outcome::NotLocal);
}

#[test]
fn an_agent_started_anew_finds_flows_and_ids_as_they_were() {
    let node = Node::with(&tcp_plan(&[A, B]));
    let chosen = open(&node, &syn(), &[A, B]);
    let (backends, frontends) = (node.view().backends().unwrap(), node.view().frontends().unwrap());
    let mut node = node.restart();
    node.translates("from_pod", &ack(), &ack().to(chosen), Outcome::Forwarded);
    node.apply(&tcp_plan(&[A, B]));
    node.translates("from_pod", &ack(), &ack().to(chosen), Outcome::Forwarded);
    let ids = |backends: &[federation_agent::dataplane::view::Backend]| -> Vec<_> {
        backends.iter().map(|b| (b.id, b.generation, b.address, b.state)).collect()
    };
    assert_eq!(ids(&node.view().backends().unwrap()), ids(&backends));
    assert_eq!(node.view().frontends().unwrap()[0].shares, frontends[0].shares);
}

#[test]
fn a_map_of_another_shape_is_not_adopted() {
    let node = Node::with(&tcp_plan(&[A]));
    let maps = node.bpf_dir().join(format!("v{}/maps", federation_ebpf::maps::SCHEMA));
    std::fs::remove_file(maps.join("SLOTS")).unwrap();
    std::fs::rename(maps.join("RETURN_FILTER"), maps.join("SLOTS")).unwrap();
    let refusal = federation_agent::dataplane::view::View::open(node.bpf_dir()).err().unwrap().to_string();
    assert!(refusal.contains("SLOTS") && refusal.contains("federation-agent detach"), "{refusal}");
}

#[test]
fn nothing_pinned_is_said_so() {
    let nowhere = std::path::Path::new("/sys/fs/bpf/fed-test-nowhere");
    let refusal = federation_agent::dataplane::view::View::open(nowhere).err().unwrap().to_string();
    assert!(refusal.contains("fed-test-nowhere") && refusal.contains("--bpf-dir"), "{refusal}");
}

#[test]
fn programs_stay_small_for_the_verifier() {
    let node = Node::with(&Plan::default());
    let counts = node.data_plane.verified_instructions().unwrap();
    assert_eq!(counts.len(), 4);
    for (program, count) in counts {
        println!("{program}: {count} instructions verified");
        assert!((1..100_000).contains(&count), "{program}: {count}");
    }
}
