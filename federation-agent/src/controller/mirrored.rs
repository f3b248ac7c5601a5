//! What a member's `EndpointSlice` looks like in the Federation API. Pure.

use std::{collections::BTreeMap, hash::Hasher as _};

use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use kube::{ResourceExt as _, core::ObjectMeta};
use siphasher::sip::SipHasher24;

use super::{
    admit::{Refused, Rules},
    slices::SERVICE_LABEL,
};
use crate::api::marks::{CLUSTER_LABEL, MANAGED_BY, MANAGED_BY_LABEL};

/// Label that tells an API server's own endpoint controllers to leave a slice alone.
pub const SLICE_MANAGER_LABEL: &str = "endpointslice.kubernetes.io/managed-by";
/// The longest name of an object.
const LONGEST_NAME: usize = 253;

/// The mirror image of `source`, and what had to be left out of it.
pub fn mirrored(source: &EndpointSlice, cluster: &str, rules: Rules<'_>) -> (EndpointSlice, Option<Refused>) {
    let (admitted, refused) = rules.admit(&source.endpoints);
    let slice = EndpointSlice {
        metadata: ObjectMeta {
            name: Some(slice_name(cluster, &source.name_any())),
            namespace: source.metadata.namespace.clone(),
            labels: Some(labels(source, cluster)),
            ..ObjectMeta::default()
        },
        address_type: source.address_type.clone(),
        endpoints: admitted.into_iter().map(endpoint).collect(),
        ports: source.ports.clone(),
    };
    (slice, refused)
}

/// Two clusters never share one: cluster names have no dot, so what stands before the first is the cluster.
pub fn slice_name(cluster: &str, slice: &str) -> String {
    let name = format!("{cluster}.{slice}");
    if name.len() <= LONGEST_NAME {
        return name;
    }
    let mut hasher = SipHasher24::new();
    hasher.write(slice.as_bytes());
    let hash = format!("-{:016x}", hasher.finish());
    // Names of objects are ASCII, and no part of one begins with a hyphen.
    format!("{}{hash}", name[..LONGEST_NAME - hash.len()].trim_end_matches('.'))
}

fn labels(source: &EndpointSlice, cluster: &str) -> BTreeMap<String, String> {
    let service = source.labels().get(SERVICE_LABEL).cloned().unwrap_or_default();
    let labels = [
        (SERVICE_LABEL, service.as_str()),
        (CLUSTER_LABEL, cluster),
        (SLICE_MANAGER_LABEL, MANAGED_BY),
        (MANAGED_BY_LABEL, MANAGED_BY),
    ];
    labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into()
}

/// Without what has a meaning inside its own cluster alone: the pod and its host name, hints to kube-proxy.
fn endpoint(endpoint: &Endpoint) -> Endpoint {
    Endpoint {
        addresses: endpoint.addresses.clone(),
        conditions: endpoint.conditions.clone(),
        node_name: endpoint.node_name.clone(),
        zone: endpoint.zone.clone(),
        ..Endpoint::default()
    }
}

/// Whether `actual` says all that `desired` says.
pub fn is_as_desired(actual: &EndpointSlice, desired: &EndpointSlice) -> bool {
    let has_label = |(key, value): (&String, &String)| actual.labels().get(key) == Some(value);
    actual.endpoints == desired.endpoints
        && actual.ports.as_deref().unwrap_or_default() == desired.ports.as_deref().unwrap_or_default()
        && actual.address_type == desired.address_type
        && desired.labels().iter().all(has_label)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn source() -> EndpointSlice {
        serde_json::from_value(json!({
            "metadata": {
                "name": "my-service-x7k2p", "namespace": "my-namespace", "resourceVersion": "7",
                "labels": { SERVICE_LABEL: "my-service", "app": "web" },
            },
            "addressType": "IPv4",
            "ports": [{ "name": "http", "port": 8080, "protocol": "TCP" }],
            "endpoints": [
                {
                    "addresses": ["10.8.0.1"], "nodeName": "node-1", "zone": "europe-west1-d", "hostname": "web-0",
                    "conditions": { "ready": true, "serving": true, "terminating": false },
                    "targetRef": { "kind": "Pod", "name": "web-0" },
                    "hints": { "forZones": [{ "name": "europe-west1-d" }] },
                },
                { "addresses": ["192.0.2.1"] },
            ],
        }))
        .expect("a slice")
    }

    #[test]
    fn a_mirror_image_has_what_routing_needs_and_only_the_clusters_own_addresses() {
        let networks = ["10.8.0.0/14".parse().expect("a network")];
        let rules = Rules { networks: &networks, vip_ranges: &[] };
        let (slice, refused) = mirrored(&source(), "europe-west1-d", rules);
        assert_eq!(refused.map(|refused| refused.count), Some(1));
        let expected = json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": "europe-west1-d.my-service-x7k2p", "namespace": "my-namespace",
                "labels": {
                    "kubernetes.io/service-name": "my-service",
                    "federation.dev/cluster": "europe-west1-d",
                    "endpointslice.kubernetes.io/managed-by": "federation-agent",
                    "app.kubernetes.io/managed-by": "federation-agent",
                },
            },
            "addressType": "IPv4",
            "ports": [{ "name": "http", "port": 8080, "protocol": "TCP" }],
            "endpoints": [{
                "addresses": ["10.8.0.1"], "nodeName": "node-1", "zone": "europe-west1-d",
                "conditions": { "ready": true, "serving": true, "terminating": false },
            }],
        });
        assert_eq!(serde_json::to_value(&slice).expect("JSON"), expected);

        let mut actual = slice.clone();
        actual.metadata.resource_version = Some("9".to_owned());
        actual.labels_mut().insert("seen".to_owned(), "yes".to_owned());
        assert!(is_as_desired(&actual, &slice));
        actual.endpoints[0].conditions = None;
        assert!(!is_as_desired(&actual, &slice));
    }

    #[test]
    fn long_names_are_cut_and_stay_apart() {
        let long = |last: char| format!("{}{last}", "a".repeat(240));
        let names = [slice_name("europe-west1-d", &long('a')), slice_name("europe-west1-d", &long('b'))];
        assert_ne!(names[0], names[1]);
        for name in names {
            assert_eq!(name.len(), LONGEST_NAME);
            assert!(name.starts_with("europe-west1-d.a"), "{name}");
        }
        assert_eq!(slice_name("a", "b-c"), "a.b-c");
        assert_ne!(slice_name("a", "b-c"), slice_name("a-b", "c"));
    }
}
