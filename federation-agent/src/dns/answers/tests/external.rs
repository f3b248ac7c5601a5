//! The view of clients from outside, case by case as Federation v1 answered, and where we are better.

use std::{collections::BTreeSet, net::IpAddr};

use super::*;
use crate::{
    dns::external::Hosts,
    model::{Endpoint, Ingress, IngressPoint, Protocol, Readiness, Shard, ShardState},
    plan::{Health, ShardHealth, Verdict},
};

/// A cluster's shard: its state, and where it is met. Clusters are `d` and `b` in region `west`, `d` spans the zones `d` and
/// `d2`, and `e` in region `east`.
type Shards = [(&'static str, ShardState, &'static [&'static str])];

const ZONE: &str = "s.n.f.svc.d.west.example.com.";
const REGION: &str = "s.n.f.svc.west.example.com.";
const GLOBAL: &str = "s.n.f.svc.example.com.";

use ShardState::{Healthy, Unhealthy, Unknown};

pub const EVERYBODY: [(&str, ShardState, &[&str]); 3] = [
    ("d", Healthy, &["192.0.2.1"]),
    ("b", Healthy, &["lb.example.net"]),
    ("e", Healthy, &["192.0.2.3", "2001:db8::3"]),
];

/// Shards, and what is said to who asks for the names of zone, region and federation.
const CASES: &[(&str, &Shards, [&str; 3])] = &[
    (
        "nobody has a shard",
        &[],
        [
            "CNAME s.n.f.svc.west.example.com., s.n.f.svc.west.example.com. CNAME s.n.f.svc.example.com.",
            "CNAME s.n.f.svc.example.com.",
            "NODATA example.com.",
        ],
    ),
    (
        "one healthy shard, one ingress address",
        &[("d", Healthy, &["192.0.2.1"])],
        ["A 192.0.2.1", "A 192.0.2.1", "A 192.0.2.1"],
    ),
    (
        "one healthy shard, two ingress addresses",
        &[("d", Healthy, &["192.0.2.1", "192.0.2.2"])],
        ["A 192.0.2.1, A 192.0.2.2", "A 192.0.2.1, A 192.0.2.2", "A 192.0.2.1, A 192.0.2.2"],
    ),
    (
        "a healthy shard in each zone",
        &[("d", Healthy, &["192.0.2.1"]), ("b", Healthy, &["192.0.2.2"]), ("e", Healthy, &["192.0.2.3"])],
        ["A 192.0.2.1", "A 192.0.2.1, A 192.0.2.2", "A 192.0.2.1, A 192.0.2.2, A 192.0.2.3"],
    ),
    (
        "the zone's shard is not healthy",
        &[("d", Unhealthy, &["192.0.2.1"]), ("b", Healthy, &["192.0.2.2"]), ("e", Healthy, &["192.0.2.3"])],
        [
            "CNAME s.n.f.svc.west.example.com., s.n.f.svc.west.example.com. A 192.0.2.2",
            "A 192.0.2.2",
            "A 192.0.2.2, A 192.0.2.3",
        ],
    ),
    (
        "no shard of the region is healthy",
        &[("d", Unhealthy, &["192.0.2.1"]), ("b", Unhealthy, &["192.0.2.2"]), ("e", Healthy, &["192.0.2.3"])],
        [
            "CNAME s.n.f.svc.west.example.com., s.n.f.svc.west.example.com. CNAME s.n.f.svc.example.com., \
             s.n.f.svc.example.com. A 192.0.2.3",
            "CNAME s.n.f.svc.example.com., s.n.f.svc.example.com. A 192.0.2.3",
            "A 192.0.2.3",
        ],
    ),
    (
        "no shard is healthy",
        &[("d", Unhealthy, &["192.0.2.1"]), ("b", Unhealthy, &["192.0.2.2"])],
        [
            "CNAME s.n.f.svc.west.example.com., s.n.f.svc.west.example.com. CNAME s.n.f.svc.example.com.",
            "CNAME s.n.f.svc.example.com.",
            "NODATA example.com.",
        ],
    ),
    (
        "a healthy shard that is not met from outside counts as none",
        &[("d", Healthy, &[]), ("b", Healthy, &["192.0.2.2"])],
        [
            "CNAME s.n.f.svc.west.example.com., s.n.f.svc.west.example.com. A 192.0.2.2",
            "A 192.0.2.2",
            "A 192.0.2.2",
        ],
    ),
    (
        "one load balancer is known by its name",
        &[("d", Healthy, &["lb.example.net"])],
        ["CNAME lb.example.net.", "CNAME lb.example.net.", "CNAME lb.example.net."],
    ),
    (
        "one of several is known by its name, whose addresses stand for it",
        &[("d", Healthy, &["192.0.2.1"]), ("b", Healthy, &["lb.example.net"])],
        [
            "A 192.0.2.1",
            "A 192.0.2.1, A 203.0.113.1, A 203.0.113.2",
            "A 192.0.2.1, A 203.0.113.1, A 203.0.113.2",
        ],
    ),
    (
        "a name that cannot be looked up stands for itself where there is nothing better",
        &[("d", Healthy, &["gone.example.net"]), ("b", Healthy, &["lost.example.net"])],
        ["CNAME gone.example.net.", "CNAME gone.example.net.", "CNAME gone.example.net."],
    ),
    (
        "a cluster whose API is silent is no dead one, but those of which more is known come first",
        &[("d", Unknown, &["192.0.2.1"]), ("e", Healthy, &["192.0.2.3"])],
        [
            "CNAME s.n.f.svc.west.example.com., s.n.f.svc.west.example.com. CNAME s.n.f.svc.example.com., \
             s.n.f.svc.example.com. A 192.0.2.3",
            "CNAME s.n.f.svc.example.com., s.n.f.svc.example.com. A 192.0.2.3",
            "A 192.0.2.3",
        ],
    ),
    (
        "nobody's API answers",
        &[("d", Unknown, &["192.0.2.1"]), ("b", Unhealthy, &["192.0.2.2"])],
        ["A 192.0.2.1", "A 192.0.2.1", "A 192.0.2.1"],
    ),
];

#[test]
fn each_case_is_answered_as_federation_v1_did() {
    for (case, shards, expected) in CASES {
        let (authority, known) = world(shards);
        for (name, expected) in [ZONE, REGION, GLOBAL].into_iter().zip(expected) {
            assert_eq!(ask(&authority, Some(&known), name, "A"), *expected, "{case}: {name}");
        }
    }
}

#[test]
fn all_zones_of_a_cluster_and_both_families_are_answered() {
    let (authority, known) = world(&[("d", Healthy, &["192.0.2.1", "2001:db8::1"])]);
    for name in
        ["s.n.f.svc.d2.west.example.com.", "s.n.f.svc.d2.example.com.", "s.n.f.", "s.n.f.svc.cluster.local."]
    {
        assert_eq!(ask(&authority, Some(&known), name, "A"), "A 192.0.2.1", "{name}");
        assert_eq!(ask(&authority, Some(&known), name, "AAAA"), "AAAA 2001:db8::1", "{name}");
    }
    let (authority, known) = world(&[("d", Healthy, &["192.0.2.1"]), ("e", Healthy, &["2001:db8::3"])]);
    // Who is healthy and has no address of that family is still the one who is meant.
    assert_eq!(ask(&authority, Some(&known), ZONE, "AAAA"), "NODATA example.com.");
    assert_eq!(ask(&authority, Some(&known), GLOBAL, "AAAA"), "AAAA 2001:db8::3");
}

#[test]
fn answers_may_be_remembered_as_long_as_is_said() {
    let (authority, known) = world(&[("d", Healthy, &["192.0.2.1"])]);
    let name = name(ZONE);
    let Answer::Found(_, records) = authority.answer(Some(&known), &name, &name, RecordType::A) else {
        panic!("it is there")
    };
    assert_eq!(records.answers[0].to_string(), format!("{ZONE} 30 IN A 192.0.2.1"));
}

#[test]
fn a_port_leads_to_who_has_addresses_and_never_to_an_alias() {
    let port = |zone: &str| format!("_http._tcp.s.n.f.svc.{zone}.west.example.com.");
    let shards: &Shards = &[("d", Unhealthy, &["192.0.2.1"]), ("b", Healthy, &["192.0.2.2"])];
    let (authority, known) = world(shards);
    let told = ask(&authority, Some(&known), &port("d"), "SRV");
    assert_eq!(told, "SRV 0 100 80 s.n.f.svc.west.example.com.");
    let (authority, known) = world(&[("d", Healthy, &["lb.example.net"])]);
    assert_eq!(ask(&authority, Some(&known), &port("d2"), "SRV"), "SRV 0 100 80 lb.example.net.");
    let (authority, known) = world(&[("d", Unhealthy, &["192.0.2.1"])]);
    assert_eq!(ask(&authority, Some(&known), &port("d"), "SRV"), "NODATA example.com.");
}

#[test]
fn no_vip_is_told_outside() {
    let (authority, known) = world(&EVERYBODY);
    assert_eq!(ask(&authority, Some(&known), "1.0.18.198.in-addr.arpa.", "PTR"), "REFUSED");
    for name in ["s.n.f.", ZONE, REGION, GLOBAL, "s.n.svc.clusterset.local."] {
        let told = ask(&authority, Some(&known), name, "A");
        assert!(!told.contains("198.18."), "{name}: {told}");
    }
}

#[test]
fn what_is_deleted_leaves_nothing_behind() {
    let (authority, known) = world(&EVERYBODY);
    let mut federation = known.names.federation.clone();
    let key = ServiceKey::new("n", "s");
    let mut service = Service::clone(&federation.services[&key]);
    service.ingress.remove("d");
    federation.services.insert(key.clone(), Arc::new(service));
    let shard_gone = Known { names: known.names.follow(&federation), ..known.clone() };
    assert_eq!(
        ask(&authority, Some(&shard_gone), "s.n.f.svc.d.west.example.com.", "CNAME"),
        format!("CNAME {REGION}")
    );

    federation.services.remove(&key);
    let service_gone = Known { names: shard_gone.names.follow(&federation), ..known.clone() };
    for name in [ZONE, REGION, GLOBAL] {
        assert_eq!(ask(&authority, Some(&service_gone), name, "A"), "NXDOMAIN example.com.", "{name}");
    }

    federation = known.names.federation.clone();
    federation.clusters.remove("d");
    let cluster_gone = Known { names: known.names.follow(&federation), ..known.clone() };
    assert_eq!(ask(&authority, Some(&cluster_gone), ZONE, "A"), "NXDOMAIN example.com.");
    assert_eq!(ask(&authority, Some(&cluster_gone), REGION, "A"), "CNAME lb.example.net.");
}

#[test]
fn what_a_node_has_seen_counts_more_than_what_it_is_told() {
    let shards: &Shards = &[("d", Unknown, &["192.0.2.1"]), ("e", Healthy, &["192.0.2.3"])];
    let (authority, known) = world(shards);
    let evidence: Arc<str> = "it was seen".into();
    let health = |cluster: &str, verdict: Verdict| {
        let shard = ShardHealth { all: Some(verdict), ..ShardHealth::default() };
        let service = Arc::new(BTreeMap::from([(cluster.into(), shard)]));
        Health { services: [(ServiceKey::new("n", "s"), service)].into_iter().collect(), ..Health::default() }
    };
    let failed = |cluster| health(cluster, Verdict::Failed { evidence: Arc::clone(&evidence) });
    for (case, health, expected) in [
        ("all are well", Health::default(), "A 192.0.2.1, A 192.0.2.3"),
        ("one is dead, whatever its cluster's API says", failed("e"), "A 192.0.2.1"),
        (
            "this node's own network may be what failed",
            health("e", Verdict::Doubted { evidence: Arc::clone(&evidence) }),
            "A 192.0.2.1, A 192.0.2.3",
        ),
    ] {
        let known = Known { health: Some(health), ..known.clone() };
        assert_eq!(ask(&authority, Some(&known), GLOBAL, "A"), expected, "{case}");
    }
    let mut federation = known.names.federation.clone();
    let key = ServiceKey::new("n", "s");
    let mut service = Service::clone(&federation.services[&key]);
    service.shards.get_mut("e").unwrap().endpoints = [endpoint(Readiness::NotReady)].into();
    federation.services.insert(key, Arc::new(service));
    let unready =
        Known { names: known.names.follow(&federation), health: Some(Health::default()), ..known.clone() };
    assert_eq!(ask(&authority, Some(&unready), GLOBAL, "A"), "A 192.0.2.1");
}

pub fn world(shards: &Shards) -> (Authority, Known) {
    let cluster = |region: &str, zones: &[&str]| Cluster {
        provider: "p".into(),
        region: region.into(),
        zones: zones.iter().map(Into::into).collect(),
    };
    let point =
        |text: &&str| text.parse().map_or_else(|_| IngressPoint::Host((*text).into()), IngressPoint::Address);
    let ingress = shards.iter().map(|(cluster, state, points)| {
        let points = points.iter().map(point).collect();
        ((*cluster).into(), Ingress { points, state: *state })
    });
    let endpoints: Arc<[_]> = [endpoint(Readiness::Ready)].into();
    let of_cluster = |(cluster, ..): &(&'static str, _, _)| {
        ((*cluster).into(), Shard { weight: Shard::DEFAULT_WEIGHT, endpoints: endpoints.clone() })
    };
    let service = Service {
        ports: vec![Port { name: "http".to_owned(), protocol: Protocol::Tcp, port: 80 }],
        vips: Arc::new([(Scope::Nearest, vec!["198.18.0.1".parse().unwrap()])].into()),
        shards: shards.iter().map(of_cluster).collect(),
        ingress: ingress.collect(),
        ..Service::default()
    };
    let federation = Federation {
        clusters: BTreeMap::from([
            ("d".into(), cluster("west", &["d", "d2"])),
            ("b".into(), cluster("west", &["b"])),
            ("e".into(), cluster("east", &["e"])),
        ]),
        services: imbl::OrdMap::from_iter([(ServiceKey::new("n", "s"), Arc::new(service))]),
    };
    let addresses = ["203.0.113.1", "203.0.113.2"].map(|ip| ip.parse::<IpAddr>().unwrap());
    let hosts = Hosts::from([
        ("lb.example.net".into(), addresses.into()),
        ("lost.example.net".into(), BTreeSet::new()),
    ]);
    let names = Names::default().follow(&federation);
    let known = Known { names, hosts: Arc::new(hosts), serial: 7, ..Known::default() };
    (authority("f", "example.com", View::External { ttl_seconds: 30 }), known)
}

fn endpoint(readiness: Readiness) -> Endpoint {
    Endpoint {
        address: "10.0.0.1".parse().unwrap(),
        ports: Arc::new([(("http".to_owned(), Protocol::Tcp), 8080)].into()),
        readiness,
        node: None,
        zone: None,
    }
}
