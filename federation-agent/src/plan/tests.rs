//! What a plan promises, on a small federation: three clusters in two regions.

use proptest::prelude::*;

use super::*;
use crate::model::{Cluster, Readiness::*, Shard};

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
        ports: BTreeMap::from([((String::new(), Protocol::Tcp), HTTP)]),
        readiness,
        node: Some(format!("node-{n}")),
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
        service.vips.insert(scope.clone(), vec![vip(&scope)]);
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
    plan.frontends[&Frontend { vip: vip(scope), protocol: Protocol::Tcp, port: 80 }].clone()
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
    let dead = SocketAddr::from(([10, 8, 0, 1], HTTP));
    let health = Health { failed: BTreeSet::from([dead]), ..Health::default() };
    let plan = plan(&all, &place(), &health);
    assert_eq!(percent(&plan, &Scope::Nearest), [70, 30, 0]);
    assert_eq!(plan.dead.iter().map(|backend| backend.address).collect::<Vec<_>>(), [dead]);
}

#[test]
fn a_failed_shard_is_out_with_all_its_endpoints() {
    let all = federation([&[Ready, Ready], &[Ready], &[Ready]]);
    let health = Health {
        failed_shards: BTreeSet::from([(service_key(), ClusterName::from(NEAR))]),
        ..Health::default()
    };
    let plan = plan(&all, &place(), &health);
    assert_eq!(percent(&plan, &Scope::Nearest), [0, 100, 0]);
    assert_eq!(plan.dead.len(), 2);
}

#[test]
fn a_udp_port_falls_with_all_tcp_ports_of_its_endpoint() {
    let mut both = federation([&[Ready], &[Ready], &[]]);
    edit(&mut both, |service| {
        service.ports.push(Port { name: "dns".into(), protocol: Protocol::Udp, port: 53 });
        for shard in service.shards.values_mut() {
            let endpoints = std::mem::take(&mut shard.endpoints);
            shard.endpoints = endpoints
                .into_iter()
                .map(|mut endpoint| {
                    endpoint.ports.insert(("dns".into(), Protocol::Udp), 5353);
                    endpoint
                })
                .collect();
        }
    });
    let health =
        Health { failed: BTreeSet::from([SocketAddr::from(([10, 8, 0, 1], HTTP))]), ..Health::default() };
    let plan = plan(&both, &place(), &health);
    let frontend = Frontend { vip: vip(&Scope::Nearest), protocol: Protocol::Udp, port: 53 };
    let chosen: Vec<_> = plan.frontends[&frontend].backends.keys().map(|backend| backend.address).collect();
    assert_eq!(chosen, [SocketAddr::from(([10, 8, 1, 1], 5353))]);
}

#[test]
fn an_sctp_endpoint_at_another_port_than_the_services_cannot_be_used() {
    let mut both = federation([&[Ready], &[Ready], &[]]);
    edit(&mut both, |service| {
        service.ports.push(Port { name: "signalling".into(), protocol: Protocol::Sctp, port: 3868 });
        for (shard, number) in service.shards.values_mut().zip([3869, 3868, 3868]) {
            let endpoints = std::mem::take(&mut shard.endpoints);
            shard.endpoints = endpoints
                .into_iter()
                .map(|mut endpoint| {
                    endpoint.ports.insert(("signalling".into(), Protocol::Sctp), number);
                    endpoint
                })
                .collect();
        }
    });
    let plan = plan(&both, &place(), &Health::default());
    let frontend = Frontend { vip: vip(&Scope::Nearest), protocol: Protocol::Sctp, port: 3868 };
    let chosen: Vec<_> =
        plan.frontends[&frontend].backends.keys().map(|backend| backend.address.port()).collect();
    assert_eq!(chosen, [3868]);
    assert_eq!(plan.dead, BTreeSet::new());
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
        let down = SocketAddr::from(([10, 8, failed / 6, failed % 6 + 1], HTTP));
        let health = Health { failed: BTreeSet::from([down]), ..Health::default() };
        let plan = plan(&federation, &place(), &health);
        let service = &federation.services[&service_key()];
        let usable = service.shards.values().flat_map(|shard| &shard.endpoints).any(|endpoint| {
            endpoint.readiness != NotReady && endpoint.address != down.ip()
        });
        for target in plan.frontends.values() {
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
}
