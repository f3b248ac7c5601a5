use serde::de::DeserializeOwned;
use serde_json::{Value, from_value, json};

use super::*;
use crate::model::{Protocol, Readiness, Scope};

#[test]
fn there_is_no_federation_before_every_kind_is_listed() {
    let mut view = View::default();
    for observed in [
        listed([cluster("a")], Observed::Cluster),
        listed([service("s", 80)], Observed::Service),
        listed([federated("s", &json!({}))], Observed::FederatedService),
    ] {
        apply(&mut view, observed);
        assert_eq!(view.take_changed(), None);
    }
    apply(&mut view, listed([slice("1", "s", "a", &["10.8.0.1"])], Observed::EndpointSlice));
    let federation = view.take_changed().expect("all kinds are listed");
    assert_eq!(federation.clusters.keys().map(ClusterName::as_str).collect::<Vec<_>>(), ["a"]);
    assert_eq!(addresses(&federation, "s", "a"), ["10.8.0.1"]);
}

#[test]
fn an_empty_federation_is_known_too() {
    let mut view = synced([], [], [], []);
    assert_eq!(view.take_changed().as_deref(), Some(&Federation::default()));
    assert_eq!(view.take_changed(), None);
}

#[test]
fn a_change_of_one_service_leaves_the_others_as_they_are() {
    let mut view = synced(
        [cluster("a")],
        [service("s", 80), service("t", 80)],
        [federated("s", &json!({})), federated("t", &json!({}))],
        [],
    );
    let before = view.take_changed().unwrap();
    view.apply(Observed::EndpointSlice(Event::Apply(slice("1", "t", "a", &["10.8.0.1"]))));
    let after = view.take_changed().unwrap();
    assert!(Arc::ptr_eq(&before.services[&key("s")], &after.services[&key("s")]));
    assert_eq!(addresses(&after, "t", "a"), ["10.8.0.1"]);
}

#[test]
fn an_event_that_changes_nothing_makes_no_snapshot() {
    let mut view = synced([cluster("a")], [service("s", 80)], [federated("s", &json!({}))], []);
    view.take_changed().unwrap();
    let mut reported = federated("s", &json!({}));
    reported.status.as_mut().unwrap().shard_summary = Some("1/1".into());
    view.apply(Observed::FederatedService(Event::Apply(reported)));
    view.apply(Observed::Cluster(Event::Apply(cluster("a"))));
    assert_eq!(view.take_changed(), None);
}

#[test]
fn a_service_needs_both_objects_and_a_vip() {
    let mut view = synced([cluster("a")], [service("s", 80)], [], []);
    assert!(view.take_changed().unwrap().services.is_empty());

    let mut fresh = federated("s", &json!({}));
    fresh.status = None;
    view.apply(Observed::FederatedService(Event::Apply(fresh)));
    assert_eq!(view.take_changed(), None);

    view.apply(Observed::FederatedService(Event::Apply(federated("s", &json!({})))));
    assert!(view.take_changed().unwrap().services.contains_key(&key("s")));

    view.apply(Observed::Service(Event::Delete(service("s", 80))));
    assert!(view.take_changed().unwrap().services.is_empty());
}

#[test]
fn what_vanished_while_the_watch_was_down_is_gone_after_the_next_listing() {
    let mut view = synced(
        [cluster("a")],
        [service("s", 80)],
        [federated("s", &json!({}))],
        [slice("1", "s", "a", &["10.8.0.1"]), slice("2", "s", "a", &["10.8.0.2"])],
    );
    assert_eq!(addresses(&view.take_changed().unwrap(), "s", "a"), ["10.8.0.1", "10.8.0.2"]);

    view.apply(Observed::EndpointSlice(Event::Init));
    view.apply(Observed::EndpointSlice(Event::InitApply(slice("2", "s", "a", &["10.8.0.2"]))));
    assert_eq!(view.take_changed(), None, "a listing that runs says nothing yet about what is not in it");
    view.apply(Observed::EndpointSlice(Event::InitDone));
    assert_eq!(addresses(&view.take_changed().unwrap(), "s", "a"), ["10.8.0.2"]);
}

#[test]
fn a_slice_that_changes_its_service_leaves_the_first_one() {
    let mut view = synced(
        [cluster("a")],
        [service("s", 80), service("t", 80)],
        [federated("s", &json!({})), federated("t", &json!({}))],
        [slice("1", "s", "a", &["10.8.0.1"])],
    );
    view.take_changed().unwrap();
    view.apply(Observed::EndpointSlice(Event::Apply(slice("1", "t", "a", &["10.8.0.1"]))));
    let federation = view.take_changed().unwrap();
    assert!(federation.services[&key("s")].shards.is_empty());
    assert_eq!(addresses(&federation, "t", "a"), ["10.8.0.1"]);
}

#[test]
fn a_shard_appears_and_goes_with_its_cluster() {
    let mut view =
        synced([], [service("s", 80)], [federated("s", &json!({}))], [slice("1", "s", "a", &["10.8.0.1"])]);
    assert!(view.take_changed().unwrap().services[&key("s")].shards.is_empty());
    view.apply(Observed::Cluster(Event::Apply(cluster("a"))));
    assert_eq!(addresses(&view.take_changed().unwrap(), "s", "a"), ["10.8.0.1"]);
    view.apply(Observed::Cluster(Event::Delete(cluster("a"))));
    assert!(view.take_changed().unwrap().services[&key("s")].shards.is_empty());
}

#[test]
fn weights_are_those_of_the_federated_service() {
    let weights = json!({ "weights": [{ "cluster": "b", "weight": 7 }] });
    let mut view = synced(
        [cluster("a"), cluster("b")],
        [service("s", 80)],
        [federated("s", &weights)],
        [slice("1", "s", "a", &["10.8.0.1"]), slice("2", "s", "b", &["10.9.0.1"])],
    );
    let federation = view.take_changed().unwrap();
    let shards = &federation.services[&key("s")].shards;
    assert_eq!(shards["a"].weight, Shard::DEFAULT_WEIGHT);
    assert_eq!(shards["b"].weight, 7);
}

#[test]
fn an_address_in_two_slices_serves_the_ports_of_both_and_is_as_ready_as_the_better_says() {
    let mut metrics = slice("2", "s", "a", &["10.8.0.1"]);
    metrics.ports.as_mut().unwrap()[0].name = Some("metrics".into());
    metrics.endpoints[0].conditions.get_or_insert_default().ready = Some(false);
    let mut view = synced(
        [cluster("a")],
        [service("s", 80)],
        [federated("s", &json!({}))],
        [slice("1", "s", "a", &["10.8.0.1"]), metrics],
    );
    let federation = view.take_changed().unwrap();
    let endpoints = &federation.services[&key("s")].shards["a"].endpoints;
    let endpoint = endpoints.first().unwrap();
    assert_eq!(endpoints.len(), 1);
    assert_eq!(
        *endpoint.ports,
        BTreeMap::from([((String::new(), Protocol::Tcp), 8080), (("metrics".into(), Protocol::Tcp), 8080)])
    );
    assert_eq!(endpoint.readiness, Readiness::Ready);
}

#[test]
fn an_object_without_meaning_is_as_good_as_absent() {
    let mut view = synced([cluster("a")], [service("s", 80)], [federated("s", &json!({}))], []);
    let federation = view.take_changed().unwrap();
    assert_eq!(federation.services[&key("s")].vips[&Scope::Nearest].len(), 1);
    let mut nowhere = cluster("a");
    nowhere.spec.zones.clear();
    view.apply(Observed::Cluster(Event::Apply(nowhere)));
    assert!(view.take_changed().unwrap().clusters.is_empty());
}

fn synced<const A: usize, const B: usize, const C: usize, const D: usize>(
    clusters: [api::Cluster; A],
    services: [core::Service; B],
    federated: [api::FederatedService; C],
    slices: [discovery::EndpointSlice; D],
) -> View {
    let mut view = View::default();
    apply(&mut view, listed(clusters, Observed::Cluster));
    apply(&mut view, listed(services, Observed::Service));
    apply(&mut view, listed(federated, Observed::FederatedService));
    apply(&mut view, listed(slices, Observed::EndpointSlice));
    view
}

fn apply(view: &mut View, events: Vec<Observed>) {
    for event in events {
        view.apply(event);
    }
}

fn listed<K, const N: usize>(objects: [K; N], observed: fn(Event<K>) -> Observed) -> Vec<Observed> {
    let objects = objects.into_iter().map(Event::InitApply);
    [Event::Init].into_iter().chain(objects).chain([Event::InitDone]).map(observed).collect()
}

fn key(service: &str) -> ServiceKey {
    ServiceKey::new("n", service)
}

fn addresses(federation: &Federation, service: &str, cluster: &str) -> Vec<String> {
    let endpoints = &federation.services[&key(service)].shards[cluster].endpoints;
    endpoints.iter().map(|endpoint| endpoint.address.to_string()).collect()
}

fn cluster(name: &str) -> api::Cluster {
    object(json!({
        "metadata": { "name": name },
        "spec": {
            "server": "https://192.0.2.1:6443", "credentialsRef": { "name": name },
            "region": "europe-west1", "zones": ["europe-west1-d"], "networks": [],
        },
    }))
}

fn service(name: &str, port: u16) -> core::Service {
    object(json!({ "metadata": { "name": name, "namespace": "n" }, "spec": { "ports": [{ "port": port }] } }))
}

fn federated(name: &str, spec: &Value) -> api::FederatedService {
    object(json!({
        "metadata": { "name": name, "namespace": "n" },
        "spec": spec,
        "status": { "vips": [{ "scope": "Nearest", "ips": ["172.31.0.1"], "name": "s.n.f" }] },
    }))
}

fn slice(name: &str, service: &str, cluster: &str, addresses: &[&str]) -> discovery::EndpointSlice {
    let endpoints: Vec<_> = addresses.iter().map(|address| json!({ "addresses": [address] })).collect();
    object(json!({
        "metadata": {
            "name": name,
            "namespace": "n",
            "labels": { "kubernetes.io/service-name": service, "federation.dev/cluster": cluster },
        },
        "addressType": "IPv4",
        "ports": [{ "port": 8080 }],
        "endpoints": endpoints,
    }))
}

fn object<K: DeserializeOwned>(value: Value) -> K {
    from_value(value).unwrap()
}
