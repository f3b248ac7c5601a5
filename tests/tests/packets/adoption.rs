//! Maps outlive the agent: the next one finds flows and ids as they were, or says why it cannot use them.

use federation_agent::{
    dataplane::{
        DataPlane,
        view::{Backend, View},
    },
    model::Protocol::Tcp,
};
use federation_ebpf::outcome::Outcome::*;

use crate::{
    families::{FAMILIES, Family, People},
    frames::{Segment, tcp},
    loaded::config,
    node::{Node, PROGRAMS, service},
};

#[test]
fn an_agent_started_anew_finds_flows_and_ids_as_they_were() {
    let services = FAMILIES.map(|family| {
        let People { vip, a, b, .. } = family.people();
        service(Tcp, vip, &[a, b])
    });
    let node = Node::fresh(&services);
    let chosen = FAMILIES.map(|family| {
        let People { client, vip, a, b, .. } = family.people();
        node.opens(&tcp(client, vip, Segment::Syn), &[a, b])
    });
    let ids = |backends: &[Backend]| -> Vec<_> {
        backends.iter().map(|b| (b.id, b.generation, b.address, b.state)).collect()
    };
    let (backends, frontends) = (node.view().backends().unwrap(), node.view().frontends().unwrap());
    let mut node = node.restart();
    for served in [false, true] {
        if served {
            node.serve(&services);
        }
        for (family, chosen) in FAMILIES.into_iter().zip(chosen) {
            let People { client, vip, .. } = family.people();
            let next = tcp(client, vip, Segment::Ack);
            node.turns("from_pod", &next, &next.to(chosen), Forwarded);
        }
        assert_eq!(ids(&node.view().backends().unwrap()), ids(&backends));
        for (now, before) in node.view().frontends().unwrap().iter().zip(&frontends) {
            assert_eq!((now.vip, &now.shares), (before.vip, &before.shares));
        }
    }
}

#[test]
fn a_map_of_another_shape_is_not_adopted() {
    let People { vip, a, .. } = Family::V4.people();
    let node = Node::fresh(&[service(Tcp, vip, &[a])]);
    let maps = node.maps_dir();
    std::fs::remove_file(maps.join("SLOTS")).unwrap();
    std::fs::rename(maps.join("RETURN_FILTER"), maps.join("SLOTS")).unwrap();
    let to_viewer = View::open(node.bpf_dir()).err();
    let to_agent = DataPlane::open(&config(node.bpf_dir())).err();
    for refusal in [to_viewer, to_agent] {
        let refusal = refusal.expect("a refusal").to_string();
        assert!(refusal.contains("SLOTS") && refusal.contains("federation-agent detach"), "{refusal}");
    }
    assert!(maps.join("FLOWS_V4").exists(), "nothing of it is removed");
}

#[test]
fn nothing_pinned_is_said_so() {
    let nowhere = std::path::Path::new("/sys/fs/bpf/fed-test-nowhere");
    let refusal = View::open(nowhere).err().expect("a refusal").to_string();
    assert!(refusal.contains("fed-test-nowhere") && refusal.contains("--bpf-dir"), "{refusal}");
}

#[test]
fn programs_stay_small_for_the_verifier() {
    let node = Node::fresh(&[]);
    let counts = node.data_plane().verified_instructions().unwrap();
    for program in PROGRAMS {
        assert!(counts.iter().any(|(counted, _)| counted == program), "{program} is not counted");
    }
    for (program, count) in &counts {
        println!("{program}: {count} instructions verified");
    }
    for (program, count) in counts {
        assert!((1..100_000).contains(&count), "{program}: {count}");
    }
}
