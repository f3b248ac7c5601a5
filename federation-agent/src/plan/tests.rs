//! What a plan promises, on a small federation: three clusters in two regions.

mod local;

use proptest::prelude::*;

use super::*;
use crate::model::{Cluster, Endpoint, Port, Readiness, Readiness::*, Shard, TrafficDistribution};

const NEAR: &str = "europe-west1-d";
const NEXT: &str = "europe-west1-b";
const FAR: &str = "us-east1-b";
const HTTP: u16 = 8080;

fn service_key() -> ServiceKey {
    ServiceKey::new("my-namespace", "my-service")
}

fn place() -> Place {
    let locality = Locality {
        provider: "gcp".into(),
        region: "europe-west1".into(),
        zone: NEAR.into(),
        cluster: NEAR.into(),
    };
    Place { locality, node: "node-1".into() }
}

fn vip(scope: &Scope) -> IpAddr {
    let last = match scope {
        Scope::Nearest => 1,
        Scope::Global => 2,
        Scope::Region(_) => 3,
        Scope::Zone(_) => 4,
    };
    IpAddr::from([198, 18, 0, last])
}

/// Endpoint `n` of the cluster in the `c`th place, on port 8080.
fn endpoint(c: u8, n: u8, readiness: Readiness) -> Endpoint {
    Endpoint {
        address: IpAddr::from([10, 8, c, n]),
        ports: Arc::new([((String::new(), Protocol::Tcp), HTTP)].into()),
        readiness,
        node: Some(format!("node-{n}").into()),
        zone: None,
    }
}

/// A federation of three clusters whose shards have endpoints of the given readiness.
fn federation(shards: [&[Readiness]; 3]) -> Federation {
    let mut federation = Federation::default();
    let mut service = Service {
        ports: vec![Port { name: String::new(), protocol: Protocol::Tcp, port: 80 }],
        ..Service::default()
    };
    for scope in [Scope::Nearest, Scope::Global, Scope::Region("us-east1".into()), Scope::Zone(NEXT.into())] {
        Arc::make_mut(&mut service.vips).insert(scope.clone(), vec![vip(&scope)]);
    }
    for ((c, name), readiness) in (0..).zip([NEAR, NEXT, FAR]).zip(shards) {
        let region = name.rsplit_once('-').expect("a region before the zone").0;
        let cluster = Cluster { provider: "gcp".into(), region: region.into(), zones: vec![name.into()] };
        federation.clusters.insert(name.into(), cluster);
        let endpoints = (1..).zip(readiness).map(|(n, readiness)| endpoint(c, n, *readiness)).collect();
        service.shards.insert(name.into(), Shard { weight: Shard::DEFAULT_WEIGHT, endpoints });
    }
    federation.services.insert(service_key(), service.into());
    federation
}

fn edit(federation: &mut Federation, change: impl FnOnce(&mut Service)) {
    let service = federation.services.get_mut(&service_key()).expect("the service");
    let mut changed = Service::clone(service);
    change(&mut changed);
    *service = changed.into();
}

fn target(plan: &Plan, scope: &Scope) -> Target {
    Target::clone(&frontends(plan)[&Frontend { vip: vip(scope), protocol: Protocol::Tcp, port: 80 }])
}

fn frontends(plan: &Plan) -> &BTreeMap<Frontend, Arc<Target>> {
    &plan.services[&service_key()].frontends
}

fn dead(plan: &Plan) -> Vec<SocketAddr> {
    plan.services[&service_key()].dead.iter().map(|backend| backend.address).collect()
}

fn address(c: u8, n: u8) -> SocketAddr {
    SocketAddr::from(([10, 8, c, n], HTTP))
}

fn addresses(parts: &BTreeMap<Arc<Backend>, u32>) -> Vec<SocketAddr> {
    parts.keys().map(|backend| backend.address).collect()
}

fn failed() -> Verdict {
    Verdict::Failed { evidence: "no answer".into() }
}

/// What is known of shards, by the place of their cluster, and of endpoints, by cluster and number.
fn health(shards: &[(u8, Verdict)], endpoints: &[(u8, u8, Verdict)]) -> Health {
    let mut service = ServiceHealth::new();
    let name = |c: u8| ClusterName::from([NEAR, NEXT, FAR][usize::from(c)]);
    for (c, verdict) in shards {
        service.entry(name(*c)).or_default().all = Some(verdict.clone());
    }
    for (c, n, verdict) in endpoints {
        let known = &mut service.entry(name(*c)).or_default().endpoints;
        known.insert((address(*c, *n), Protocol::Tcp), verdict.clone());
    }
    Health { services: [(service_key(), Arc::new(service))].into_iter().collect(), ..Health::default() }
}

/// Each cluster's part of a scope's load, in per cent, in the order near, next, far.
fn percent(plan: &Plan, scope: &Scope) -> [u32; 3] {
    let target = target(plan, scope);
    let sum: u32 = target.backends.values().sum();
    [NEAR, NEXT, FAR].map(|name| {
        let part: u32 =
            target.backends.iter().filter(|(b, _)| b.cluster.as_str() == name).map(|(_, part)| part).sum();
        (part * 100 + sum / 2).checked_div(sum).unwrap_or(0)
    })
}

#[test]
fn nearest_walks_outwards_and_spills_gradually() {
    let none: &[Readiness] = &[];
    for (shards, expected) in [
        ([&[Ready, Ready][..], &[Ready], &[Ready]], [100, 0, 0]),
        ([&[Ready, NotReady], &[Ready], &[Ready]], [70, 30, 0]),
        ([&[Ready, NotReady, NotReady, NotReady], &[Ready, NotReady], &[Ready]], [35, 65, 0]),
        ([&[NotReady, NotReady], &[Ready], &[Ready]], [0, 100, 0]),
        ([&[NotReady], &[NotReady], &[Ready]], [0, 0, 100]),
        ([none, none, &[Ready]], [0, 0, 100]),
        // Nobody can carry the rest: it is borne in proportion.
        ([&[Ready, NotReady, NotReady, NotReady], none, none], [100, 0, 0]),
        ([none, &[NotReady], none], [0, 0, 0]),
    ] {
        let plan = plan(&federation(shards), &place(), &Health::default());
        assert_eq!(percent(&plan, &Scope::Nearest), expected, "{shards:?}");
    }
}

#[test]
fn a_first_ready_pod_is_not_flooded() {
    let near: Vec<Readiness> = [Ready].into_iter().chain([NotReady; 29]).collect();
    let plan = plan(&federation([&near, &[Ready; 90], &[]]), &place(), &Health::default());
    assert_eq!(percent(&plan, &Scope::Nearest), [5, 95, 0]);
}

#[test]
fn every_scope_has_its_own_order() {
    let all = federation([&[Ready], &[Ready], &[Ready, Ready]]);
    let plan = plan(&all, &place(), &Health::default());
    for (scope, expected) in [
        (Scope::Nearest, [100, 0, 0]),
        (Scope::Global, [25, 25, 50]),
        (Scope::Region("us-east1".into()), [0, 0, 100]),
        (Scope::Zone(NEXT.into()), [0, 100, 0]),
    ] {
        assert_eq!(percent(&plan, &scope), expected, "{scope}");
    }
}

#[test]
fn region_and_zone_fall_back_upwards() {
    let lost = federation([&[Ready], &[NotReady], &[NotReady]]);
    let plan = plan(&lost, &place(), &Health::default());
    for scope in [Scope::Region("us-east1".into()), Scope::Zone(NEXT.into())] {
        assert_eq!(percent(&plan, &scope), [100, 0, 0], "{scope}");
    }
}

#[test]
fn another_provider_is_farther_than_another_region() {
    let mut abroad = federation([&[], &[Ready], &[Ready]]);
    let next = abroad.clusters.get_mut(NEXT).expect("the cluster");
    (next.provider, next.region) = ("elsewhere".into(), "berlin".into());
    assert_eq!(percent(&plan(&abroad, &place(), &Health::default()), &Scope::Nearest), [0, 0, 100]);
}

#[test]
fn weights_divide_a_tier_and_zero_waits_for_the_end() {
    let mut weighted = federation([&[Ready], &[Ready], &[Ready]]);
    let weigh = |federation: &mut Federation, weights: [u16; 3]| {
        edit(federation, |service| {
            for (name, weight) in [NEAR, NEXT, FAR].into_iter().zip(weights) {
                service.shards.get_mut(name).expect("a shard").weight = weight;
            }
        });
    };
    weigh(&mut weighted, [100, 50, 50]);
    assert_eq!(percent(&plan(&weighted, &place(), &Health::default()), &Scope::Global), [50, 25, 25]);
    weigh(&mut weighted, [0, 0, 100]);
    assert_eq!(percent(&plan(&weighted, &place(), &Health::default()), &Scope::Nearest), [0, 0, 100]);
    weigh(&mut weighted, [0, 0, 0]);
    assert_eq!(percent(&plan(&weighted, &place(), &Health::default()), &Scope::Nearest), [100, 0, 0]);
}

#[test]
fn terminating_endpoints_serve_only_when_alone() {
    for (near, expected) in [(&[Serving, Ready][..], [false, true]), (&[Serving, NotReady], [true, false])] {
        let plan = plan(&federation([near, &[], &[]]), &place(), &Health::default());
        let target = target(&plan, &Scope::Nearest);
        let chosen =
            [1, 2].map(|n| target.backends.keys().any(|b| b.address.ip() == IpAddr::from([10, 8, 0, n])));
        assert_eq!(chosen, expected, "{near:?}");
    }
}

#[test]
fn failed_probes_take_an_endpoint_out_and_name_it_dead() {
    let all = federation([&[Ready, Ready], &[Ready], &[Ready]]);
    let plan = plan(&all, &place(), &health(&[], &[(0, 1, failed())]));
    assert_eq!(percent(&plan, &Scope::Nearest), [70, 30, 0]);
    assert_eq!(dead(&plan), [address(0, 1)]);
}

#[test]
fn a_failed_shard_is_out_with_all_its_endpoints() {
    let all = federation([&[Ready, Ready], &[Ready], &[Ready]]);
    let plan = plan(&all, &place(), &health(&[(0, failed())], &[]));
    assert_eq!(percent(&plan, &Scope::Nearest), [0, 100, 0]);
    assert_eq!(dead(&plan).len(), 2);
}

#[test]
fn the_doubted_are_a_last_resort_and_never_dead() {
    let doubted = || Verdict::Doubted { evidence: "no answer".into() };
    let all = federation([&[Ready], &[Ready], &[Ready]]);
    for (doubts, expected) in [
        (&[(0, doubted())][..], [0, 100, 0]),
        (&[(0, doubted()), (1, doubted())], [0, 0, 100]),
        (&[(0, doubted()), (1, doubted()), (2, doubted())], [100, 0, 0]),
        (&[(0, failed()), (1, doubted()), (2, failed())], [0, 100, 0]),
    ] {
        let plan = plan(&all, &place(), &health(doubts, &[]));
        assert_eq!(percent(&plan, &Scope::Nearest), expected, "{doubts:?}");
        let failures = doubts.iter().filter(|(_, verdict)| *verdict == failed()).count();
        assert_eq!(dead(&plan).len(), failures, "{doubts:?}");
    }
}

#[test]
fn at_most_half_of_a_tier_is_ejected_and_the_first_to_be_so() {
    let all = federation([&[Ready; 4], &[Ready], &[]]);
    for ejected in 0..=4_u8 {
        // The last endpoint was ejected first.
        let verdict = |n: u8| Verdict::Ejected { rank: u64::from(10 - n), evidence: "refused".into() };
        let ejections: Vec<_> = (1..=ejected).map(|n| (0, n, verdict(n))).collect();
        let plan = plan(&all, &place(), &health(&[], &ejections));
        let target = target(&plan, &Scope::Nearest);
        let near: Vec<u8> =
            (1..=4).filter(|n| target.backends.keys().any(|b| b.address == address(0, *n))).collect();
        let out = ejected.min(2);
        let expected: Vec<u8> = (1..=4).filter(|n| !(ejected - out + 1..=ejected).contains(n)).collect();
        assert_eq!(near, expected, "{ejected} ejected");
        assert!(dead(&plan).is_empty());
    }
}

#[test]
fn a_tier_of_one_is_never_ejected() {
    let verdict = Verdict::Ejected { rank: 1, evidence: "refused".into() };
    let plan = plan(&federation([&[Ready], &[Ready], &[]]), &place(), &health(&[], &[(0, 1, verdict)]));
    assert_eq!(percent(&plan, &Scope::Nearest), [100, 0, 0]);
}

#[test]
fn regions_are_asked_by_provider_and_then_by_round_trip() {
    let mut all = federation([&[], &[Ready], &[Ready]]);
    all.clusters.get_mut(NEXT).expect("the cluster").region = "asia-east1".into();
    let measured = |next, far| {
        let distances = [(NEXT, next), (FAR, far)];
        let distances =
            distances.into_iter().filter_map(|(name, n)| Some((name.into(), Distance(n?)))).collect();
        Health { distances: Arc::new(distances), ..Health::default() }
    };
    for (next, far, expected) in [
        (Some(20), Some(30), [0, 100, 0]),
        (Some(30), Some(20), [0, 0, 100]),
        (Some(20), Some(20), [0, 50, 50]),
        (None, Some(60), [0, 0, 100]),
        (None, None, [0, 50, 50]),
    ] {
        assert_eq!(percent(&plan(&all, &place(), &measured(next, far)), &Scope::Nearest), expected);
    }
    all.clusters.get_mut(NEXT).expect("the cluster").provider = "elsewhere".into();
    assert_eq!(percent(&plan(&all, &place(), &measured(Some(1), Some(60))), &Scope::Nearest), [0, 0, 100]);
}

#[test]
fn a_traffic_distribution_splits_the_own_cluster() {
    let mut all = federation([&[Ready, Ready, Ready], &[Ready], &[]]);
    edit(&mut all, |service| {
        let shard = service.shards.get_mut(NEAR).expect("a shard");
        let zone = |n| if n == 3 { "elsewhere" } else { NEAR };
        let endpoints = std::mem::take(&mut shard.endpoints);
        shard.endpoints = (1..)
            .zip(endpoints.iter().cloned())
            .map(|(n, e)| Endpoint { zone: Some(zone(n).into()), ..e })
            .collect();
    });
    for (distribution, expected) in [
        (TrafficDistribution::Any, &[1, 2, 3][..]),
        (TrafficDistribution::SameZone, &[1, 2]),
        (TrafficDistribution::SameNode, &[1]),
    ] {
        edit(&mut all, |service| service.distribution = distribution);
        let target = target(&plan(&all, &place(), &Health::default()), &Scope::Nearest);
        let expected: Vec<_> = expected.iter().map(|n| address(0, *n)).collect();
        assert_eq!(addresses(&target.backends), expected, "{distribution:?}");
    }
}

#[test]
fn the_fallback_is_who_would_serve_without_the_nearest_tier() {
    let all = federation([&[Ready], &[Ready], &[Ready]]);
    let plan = plan(&all, &place(), &Health::default());
    for (scope, expected) in [
        (Scope::Nearest, &[address(1, 1)][..]),
        (Scope::Global, &[]),
        (Scope::Region("us-east1".into()), &[address(0, 1), address(1, 1)]),
        (Scope::Zone(NEXT.into()), &[address(0, 1)]),
    ] {
        assert_eq!(addresses(&target(&plan, &scope).fallback), expected, "{scope}");
    }
}

#[test]
fn one_change_replans_one_service() {
    let mut all = federation([&[Ready], &[Ready], &[Ready]]);
    let other = ServiceKey::new("my-namespace", "other");
    let service = all.services[&service_key()].clone();
    all.services.insert(other.clone(), service);
    let mut planner = Planner::new(place());
    let before = planner.follow(&all, &Health::default()).clone();
    let after = planner.follow(&all, &health(&[(0, failed())], &[])).clone();
    assert!(Arc::ptr_eq(&before.services[&other], &after.services[&other]));
    assert_ne!(before.services[&service_key()], after.services[&service_key()]);
    all.services.remove(&service_key());
    assert_eq!(planner.follow(&all, &Health::default()).services.len(), 1);
}

#[test]
fn an_sctp_endpoint_at_another_port_than_the_services_cannot_be_used() {
    let mut both = federation([&[Ready], &[Ready], &[]]);
    edit(&mut both, |service| {
        service.ports.push(Port { name: "signalling".into(), protocol: Protocol::Sctp, port: 3868 });
        for (shard, number) in service.shards.values_mut().zip([3869, 3868, 3868]) {
            let endpoints = std::mem::take(&mut shard.endpoints);
            shard.endpoints = endpoints
                .iter()
                .cloned()
                .map(|mut endpoint| {
                    Arc::make_mut(&mut endpoint.ports).insert(("signalling".into(), Protocol::Sctp), number);
                    endpoint
                })
                .collect();
        }
    });
    let plan = plan(&both, &place(), &Health::default());
    let frontend = Frontend { vip: vip(&Scope::Nearest), protocol: Protocol::Sctp, port: 3868 };
    let chosen: Vec<_> =
        frontends(&plan)[&frontend].backends.keys().map(|backend| backend.address.port()).collect();
    assert_eq!(chosen, [3868]);
    assert!(dead(&plan).is_empty());
}

#[test]
fn local_means_this_node_of_this_cluster() {
    let plan = plan(&federation([&[Ready, Ready], &[Ready], &[]]), &place(), &Health::default());
    let target = target(&plan, &Scope::Global);
    let local: Vec<_> = target.backends.keys().filter(|b| b.local).map(|b| b.address.ip()).collect();
    assert_eq!(local, [IpAddr::from([10, 8, 0, 1])]);
}

#[test]
fn an_empty_federation_plans_nothing() {
    assert_eq!(plan(&Federation::default(), &place(), &Health::default()), Plan::default());
}

fn readiness() -> impl Strategy<Value = Readiness> {
    prop_oneof![Just(Ready), Just(Serving), Just(NotReady)]
}

fn shard() -> impl Strategy<Value = Vec<Readiness>> {
    prop::collection::vec(readiness(), 0..6)
}

proptest! {
    #[test]
    fn only_usable_endpoints_are_chosen(near in shard(), next in shard(), far in shard(), failed in 0_u8..18) {
        let federation = federation([&near, &next, &far]);
        let down = address(failed / 6, failed % 6 + 1);
        let verdict = Verdict::Failed { evidence: "no answer".into() };
        let plan = plan(&federation, &place(), &health(&[], &[(failed / 6, failed % 6 + 1, verdict)]));
        let service = &federation.services[&service_key()];
        let usable = service.shards.values().flat_map(|shard| shard.endpoints.iter()).any(|endpoint| {
            endpoint.readiness != NotReady && endpoint.address != down.ip()
        });
        for target in frontends(&plan).values() {
            prop_assert_eq!(!target.backends.is_empty(), usable);
            for (backend, part) in &target.backends {
                prop_assert!(*part > 0);
                prop_assert_ne!(backend.address, down);
                let shard = &service.shards[&backend.cluster];
                let endpoint = shard.endpoints.iter().find(|e| e.address == backend.address.ip()).expect("an endpoint");
                prop_assert_ne!(endpoint.readiness, NotReady);
            }
        }
    }

    #[test]
    fn a_nearer_tier_gets_what_its_health_allows(near in shard(), next in shard()) {
        let count = |shard: &[Readiness], wanted| shard.iter().map(|r| u32::from(*r == wanted)).sum::<u32>();
        let (ready, not_ready) = (count(&near, Ready), count(&near, NotReady));
        prop_assume!(ready > 0);
        let plan = plan(&federation([&near, &next, &[Ready]]), &place(), &Health::default());
        let allowed = (100 * 14 * ready / (10 * (ready + not_ready))).min(100);
        prop_assert!(percent(&plan, &Scope::Nearest)[0] + 1 >= allowed);
    }

    #[test]
    fn every_load_is_divided_without_a_rest(near in shard(), next in shard(), far in shard()) {
        let plan = plan(&federation([&near, &next, &far]), &place(), &Health::default());
        for target in frontends(&plan).values().filter(|target| !target.backends.is_empty()) {
            // Shares are parts of their sum: what no tier could carry is borne by all.
            let sum: f64 = target.backends.values().map(|part| f64::from(*part)).sum();
            let shares: f64 = target.backends.values().map(|part| f64::from(*part) / sum).sum();
            prop_assert!((shares - 1.0).abs() < 1e-9);
            prop_assert!(sum <= 1e6);
        }
    }

    #[test]
    fn a_shard_that_leaves_takes_nothing_from_the_others(counts in prop::array::uniform3(0_usize..5), gone in 0_usize..3) {
        let ready = counts.map(|count| vec![Ready; count]);
        let mut all = federation([&ready[0], &ready[1], &ready[2]]);
        let before = plan(&all, &place(), &Health::default());
        let gone = [NEAR, NEXT, FAR][gone];
        edit(&mut all, |service| drop(service.shards.remove(gone)));
        let after = plan(&all, &place(), &Health::default());
        for scope in [Scope::Nearest, Scope::Global, Scope::Zone(NEXT.into())] {
            let (before, after) = (target(&before, &scope), target(&after, &scope));
            let share = |target: &Target, part: u32| f64::from(part) / f64::from(target.backends.values().sum::<u32>());
            for (backend, part) in before.backends.iter().filter(|(backend, _)| backend.cluster.as_str() != gone) {
                let now = after.backends.get(backend).map_or(0.0, |part| share(&after, *part));
                prop_assert!(now + 1e-5 >= share(&before, *part), "{backend:?}");
            }
        }
    }

    #[test]
    fn the_same_input_gives_the_same_plan_however_it_came_about(steps in prop::collection::vec([shard(), shard(), shard()], 1..5)) {
        let mut planner = Planner::new(place());
        for [near, next, far] in &steps {
            let federation = federation([near, next, far]);
            let followed = planner.follow(&federation, &Health::default()).clone();
            prop_assert_eq!(followed, plan(&federation, &place(), &Health::default()));
        }
    }
}

#[test]
fn an_explanation_names_the_rule_for_every_endpoint() {
    let mut all = federation([&[Ready, NotReady, Serving], &[Ready, Ready], &[Ready]]);
    edit(&mut all, |service| service.shards.get_mut(FAR).expect("a shard").weight = 0);
    let known =
        health(&[], &[(1, 1, failed()), (1, 2, Verdict::Ejected { rank: 1, evidence: "refused".into() })]);
    let vip = Some(vip(&Scope::Nearest));
    let [explanation] = &explain(&all, &place(), &known, &service_key(), vip)[..] else {
        panic!("one frontend has this VIP")
    };
    let tiers: Vec<_> =
        explanation.tiers.iter().map(|t| (t.name.as_str(), t.usable, t.total, t.percent.round())).collect();
    assert_eq!(
        tiers,
        [
            ("same cluster", 1, 2, 70.0),
            ("same region", 1, 2, 30.0),
            ("same provider, round trip not measured", 1, 1, 0.0)
        ]
    );
    let lines: Vec<_> = explanation
        .endpoints
        .iter()
        .map(|line| (line.address, line.percent.round(), line.why.as_str()))
        .collect();
    assert_eq!(
        lines,
        [
            (address(0, 1), 70.0, "well"),
            (address(0, 2), 0.0, "not ready, by its cluster's word"),
            (address(0, 3), 0.0, "terminating, while others of its shard are ready"),
            (address(1, 1), 0.0, "out: no answer"),
            (address(1, 2), 30.0, "stays, since half of its tier is ejected already: refused"),
            (address(2, 1), 0.0, "weight 0: only when nothing else is left"),
        ]
    );
    assert!(explain(&all, &place(), &known, &ServiceKey::new("no", "service"), None).is_empty());
}

#[test]
fn clients_stand_where_an_address_a_node_or_a_cluster_is() {
    let all = federation([&[Ready], &[Ready], &[Ready]]);
    for (from, cluster, node) in
        [("10.8.1.1", NEXT, "node-1"), ("us-east1-b/node-1", FAR, "node-1"), (NEXT, NEXT, "")]
    {
        let place = place_of(&all, from).expect("a place");
        assert_eq!((place.locality.cluster.as_str(), place.node.as_str()), (cluster, node), "{from}");
    }
    for (from, word) in [("node-1", "more than one"), ("10.9.9.9", "neither"), ("mars", NEAR)] {
        assert!(place_of(&all, from).expect_err("no place").contains(word), "{from}");
    }
}
