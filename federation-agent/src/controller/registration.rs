//! Whether a `Cluster` can be a member, by what it says of itself and beside the others. Pure.

use std::sync::Arc;

use ipnet::IpNet;
use kube::ResourceExt as _;

use crate::{
    api::{Cluster, Reachability, marks::LEAVING_ANNOTATION},
    settings::is_dns_label,
};

/// Why a registration cannot be accepted: a word for programs, a sentence for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub reason: &'static str,
    pub message: String,
}

impl Refusal {
    pub fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }
}

/// # Errors
/// It cannot be accepted. Of two clusters whose networks overlap, the younger cannot.
pub fn check(cluster: &Cluster, all: &[Arc<Cluster>], vip_ranges: &[IpNet]) -> Result<(), Refusal> {
    let spec = &cluster.spec;
    let name = cluster.name_any();
    let labels = [("name", &name), ("spec.region", &spec.region)];
    let zones = spec.zones.iter().map(|zone| ("spec.zones", zone));
    for (field, text) in labels.into_iter().chain(zones) {
        if !is_dns_label(text) {
            let message = format!(
                "{field} {text:?} cannot be part of a DNS name: use at most 63 of a-z, 0-9 and '-', with a letter or \
                 digit at both ends"
            );
            return Err(Refusal::new("NameInvalid", message));
        }
    }
    if spec.zones.is_empty() {
        return Err(Refusal::new("ZonesMissing", "spec.zones names no zone; give at least one"));
    }
    for network in &spec.networks {
        if let Some(range) = vip_ranges.iter().find(|range| overlap(range, network)) {
            return Err(Refusal::new(
                "NetworksOverlap",
                format!("its network {network} overlaps the VIP range {range}; narrow spec.networks"),
            ));
        }
    }
    for other in all.iter().filter(|other| is_flat_beside(cluster, other) && precedes(other, cluster)) {
        let pairs =
            spec.networks.iter().flat_map(|own| other.spec.networks.iter().map(move |its| (own, its)));
        if let Some((own, its)) = pairs.into_iter().find(|(own, its)| overlap(own, its)) {
            let other = other.name_any();
            return Err(Refusal::new(
                "NetworksOverlap",
                format!(
                    "its network {own} overlaps network {its} of cluster {other}, which registered first; narrow \
                     spec.networks of one of them"
                ),
            ));
        }
    }
    Ok(())
}

/// Whether its shards shall go, before it is deleted.
pub fn is_leaving(cluster: &Cluster) -> bool {
    cluster.annotations().get(LEAVING_ANNOTATION).is_some_and(|value| value == "true")
}

fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(&b.network()) || b.contains(&a.network())
}

/// Behind gateways nobody sees pod addresses, so they may be anyone's.
fn is_flat_beside(cluster: &Cluster, other: &Cluster) -> bool {
    let both_flat = [cluster, other].iter().all(|one| one.spec.reachability == Reachability::Pod);
    both_flat && cluster.name_any() != other.name_any()
}

fn precedes(other: &Cluster, cluster: &Cluster) -> bool {
    let age = |cluster: &Cluster| (cluster.creation_timestamp().map(|time| time.0), cluster.name_any());
    age(other) < age(cluster)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn cluster(name: &str, created: &str, changes: &Value) -> Arc<Cluster> {
        let mut value = json!({
            "apiVersion": "federation.dev/v1alpha1", "kind": "Cluster",
            "metadata": { "name": name, "creationTimestamp": created },
            "spec": {
                "server": "https://203.0.113.7:6443", "credentialsRef": { "name": name }, "region": "europe-west1",
                "zones": ["europe-west1-d"], "networks": ["10.8.0.0/14"],
            },
        });
        for (field, change) in changes.as_object().into_iter().flatten() {
            value["spec"][field] = change.clone();
        }
        Arc::new(serde_json::from_value(value).expect("a Cluster"))
    }

    fn reason(cluster: &Cluster, all: &[Arc<Cluster>]) -> Option<&'static str> {
        let vip_ranges = ["172.30.0.0/16".parse().expect("a range")];
        check(cluster, all, &vip_ranges).err().map(|refusal| refusal.reason)
    }

    #[test]
    fn what_a_cluster_says_of_itself() {
        let cases = [
            ("one", json!({}), None),
            ("one.two", json!({}), Some("NameInvalid")),
            ("one", json!({ "region": "Europe" }), Some("NameInvalid")),
            ("one", json!({ "zones": ["a", "b."] }), Some("NameInvalid")),
            ("one", json!({ "zones": ["a", ""] }), Some("NameInvalid")),
            ("one", json!({ "zones": [] }), Some("ZonesMissing")),
            ("one", json!({ "networks": ["172.16.0.0/12"] }), Some("NetworksOverlap")),
            ("one", json!({ "networks": ["172.30.4.0/24"] }), Some("NetworksOverlap")),
            ("one", json!({ "networks": ["fd00::/8", "172.31.0.0/16"] }), None),
        ];
        for (name, changes, expected) in cases {
            let cluster = cluster(name, "2026-01-01T00:00:00Z", &changes);
            assert_eq!(reason(&cluster, &[]), expected, "{name} {changes}");
        }
    }

    #[test]
    fn of_two_clusters_with_overlapping_networks_the_younger_is_refused() {
        let old = cluster("z-old", "2026-01-01T00:00:00Z", &json!({}));
        let young = cluster("a-young", "2026-01-02T00:00:00Z", &json!({ "networks": ["10.9.0.0/16"] }));
        let gateway = cluster("b-gateway", "2026-01-03T00:00:00Z", &json!({ "reachability": "NodePort" }));
        let all = [Arc::clone(&old), Arc::clone(&young), Arc::clone(&gateway)];
        assert_eq!(reason(&old, &all), None);
        assert_eq!(reason(&young, &all), Some("NetworksOverlap"));
        assert_eq!(reason(&gateway, &all), None, "its pod addresses are seen by nobody else");
        let message = check(&young, &all, &[]).expect_err("an overlap").message;
        assert_eq!(
            message,
            "its network 10.9.0.0/16 overlaps network 10.8.0.0/14 of cluster z-old, which registered first; narrow \
             spec.networks of one of them"
        );
    }
}
