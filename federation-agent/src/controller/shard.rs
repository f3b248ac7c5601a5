//! What a shard looks like: the Service that the federation keeps in a member cluster. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use kube::{ResourceExt as _, api::ObjectMeta};

use crate::api::marks::{
    ADOPT_ANNOTATION, FEDERATION_LABEL, MANAGED_BY, MANAGED_BY_LABEL, ORPHAN_ANNOTATION,
};

/// Annotations that are about the federated Service and not about its shards.
const OWN_ANNOTATIONS: [&str; 2] = ["kubectl.kubernetes.io/last-applied-configuration", ORPHAN_ANNOTATION];

/// The shard of `service`: what the federation owns of it and nothing else, for server-side apply.
pub(super) fn desired(service: &Service, federation: &str) -> Service {
    let spec = service.spec.clone().unwrap_or_default();
    let mut labels = service.labels().clone();
    labels.insert(MANAGED_BY_LABEL.to_owned(), MANAGED_BY.to_owned());
    labels.insert(FEDERATION_LABEL.to_owned(), federation.to_owned());
    let mut annotations: BTreeMap<String, String> = service.annotations().clone();
    annotations.retain(|name, _| !OWN_ANNOTATIONS.contains(&name.as_str()));
    Service {
        metadata: ObjectMeta {
            name: service.metadata.name.clone(),
            namespace: service.metadata.namespace.clone(),
            labels: Some(labels),
            annotations: (!annotations.is_empty()).then_some(annotations),
            ..ObjectMeta::default()
        },
        spec: Some(ServiceSpec {
            ports: spec.ports.map(|ports| ports.into_iter().map(port).collect()),
            selector: spec.selector,
            session_affinity: spec.session_affinity,
            session_affinity_config: spec.session_affinity_config,
            ip_family_policy: spec.ip_family_policy,
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

/// Node ports are each cluster's own.
fn port(port: ServicePort) -> ServicePort {
    ServicePort { node_port: None, ..port }
}

/// Whether the federation may write this Service of a member cluster: it made it, or was told to take it over.
pub(super) fn is_ours(service: &Service, federation: &str) -> bool {
    let label = |name: &str| service.labels().get(name).map(String::as_str);
    let marked = label(MANAGED_BY_LABEL) == Some(MANAGED_BY) && label(FEDERATION_LABEL) == Some(federation);
    marked || service.annotations().get(ADOPT_ANNOTATION).is_some_and(|value| value == "true")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn federated() -> Service {
        serde_json::from_value(serde_json::json!({
            "metadata": {
                "name": "s", "namespace": "n", "uid": "u", "resourceVersion": "7", "generation": 3,
                "labels": {"app": "web"},
                "annotations": {
                    "kubectl.kubernetes.io/last-applied-configuration": "{}", "federation.dev/orphan": "true", "kept": "yes"
                },
                "finalizers": ["federation.dev/shards"]
            },
            "spec": {
                "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"], "ipFamilies": ["IPv4"], "externalIPs": ["192.0.2.1"],
                "ports": [{"port": 80, "protocol": "TCP", "targetPort": 8080, "nodePort": 30000}],
                "selector": {"app": "web"}, "sessionAffinity": "ClientIP", "ipFamilyPolicy": "SingleStack"
            },
            "status": {"loadBalancer": {}}
        }))
        .unwrap()
    }

    #[test]
    fn a_shard_carries_what_the_federation_owns_and_no_more() {
        let shard = serde_json::to_value(desired(&federated(), "my-federation")).unwrap();
        let expected = serde_json::json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {
                "name": "s", "namespace": "n",
                "labels": {
                    "app": "web", "app.kubernetes.io/managed-by": "federation-agent",
                    "federation.dev/federation": "my-federation"
                },
                "annotations": {"kept": "yes"}
            },
            "spec": {
                "ports": [{"port": 80, "protocol": "TCP", "targetPort": 8080}],
                "selector": {"app": "web"}, "sessionAffinity": "ClientIP", "ipFamilyPolicy": "SingleStack"
            }
        });
        assert_eq!(shard, expected);
    }

    #[test]
    fn only_marked_or_adopted_services_are_ours() {
        let mut theirs = federated();
        assert!(!is_ours(&theirs, "my-federation"));
        assert!(is_ours(&desired(&theirs, "my-federation"), "my-federation"));
        assert!(!is_ours(&desired(&theirs, "another"), "my-federation"));
        theirs.annotations_mut().insert(ADOPT_ANNOTATION.to_owned(), "true".to_owned());
        assert!(is_ours(&theirs, "my-federation"));
    }
}
