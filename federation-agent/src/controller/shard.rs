//! What a service looks like in one cluster, and whose an existing Service there is. Pure.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use kube::{ResourceExt as _, core::ObjectMeta};

use crate::api::{
    GROUP,
    marks::{ADOPT_ANNOTATION, FEDERATION_LABEL, MANAGED_BY, MANAGED_BY_LABEL, ORPHAN_ANNOTATION},
};

/// What `kubectl apply` keeps for itself.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Whose a Service that a cluster has already is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claim {
    /// We made it.
    Ours,
    /// It was there before us, and we may have it: taken over, or waiting to be.
    Adopted,
    /// Never touched; with the reason.
    Foreign(String),
}

/// The Service that `federated` shall be in a cluster. It leaves out what each cluster decides itself: addresses,
/// families, node ports and status.
pub fn manifest(federated: &Service, federation: &str) -> Service {
    let spec = federated.spec.clone().unwrap_or_default();
    let type_ = spec.type_.unwrap_or_else(|| "ClusterIP".to_owned());
    let is_external = type_ != "ClusterIP";
    Service {
        metadata: ObjectMeta {
            name: federated.metadata.name.clone(),
            namespace: federated.metadata.namespace.clone(),
            labels: Some(labels(federated, federation)),
            annotations: Some(annotations(federated)).filter(|annotations| !annotations.is_empty()),
            ..ObjectMeta::default()
        },
        spec: Some(ServiceSpec {
            ports: spec.ports.map(|ports| ports.into_iter().map(port).collect()),
            selector: spec.selector,
            session_affinity: spec.session_affinity,
            session_affinity_config: spec.session_affinity_config,
            ip_family_policy: spec.ip_family_policy,
            internal_traffic_policy: spec.internal_traffic_policy,
            external_traffic_policy: spec.external_traffic_policy.filter(|_| is_external),
            publish_not_ready_addresses: spec.publish_not_ready_addresses,
            traffic_distribution: spec.traffic_distribution,
            type_: Some(type_),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

fn port(port: ServicePort) -> ServicePort {
    ServicePort { node_port: None, ..port }
}

fn labels(federated: &Service, federation: &str) -> BTreeMap<String, String> {
    let mut labels = federated.labels().clone();
    labels.insert(MANAGED_BY_LABEL.to_owned(), MANAGED_BY.to_owned());
    labels.insert(FEDERATION_LABEL.to_owned(), federation.to_owned());
    labels
}

/// Our own annotations say what to do with this object, here: they would say it to the shard's cluster, too.
fn annotations(federated: &Service) -> BTreeMap<String, String> {
    let ours = format!("{GROUP}/");
    let kept = federated.annotations().iter();
    kept.filter(|(key, _)| *key != LAST_APPLIED && !key.starts_with(&ours))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

/// Whether `federation` may write to, and delete, a Service that it finds.
pub fn claim(existing: &Service, federation: &str) -> Claim {
    let label = |key: &str| existing.labels().get(key).map(String::as_str);
    let is_marked = label(MANAGED_BY_LABEL) == Some(MANAGED_BY);
    let may_adopt = existing.annotations().get(ADOPT_ANNOTATION).is_some_and(|value| value == "true");
    match label(FEDERATION_LABEL) {
        Some(other) if is_marked && other != federation => {
            Claim::Foreign(format!("it is a shard of federation {other}"))
        }
        _ if may_adopt => Claim::Adopted,
        Some(_) if is_marked => Claim::Ours,
        _ => Claim::Foreign(format!(
            "a Service of this name was there before; annotate it {ADOPT_ANNOTATION}=true to let the federation \
             have it, or delete it"
        )),
    }
}

/// The ports that a shard shall have, where it has others beside: applying ours would leave the others, which belong to
/// whoever added them, and fail where both have one name. A port that stays keeps what the cluster gave it.
pub fn ports_without_others(existing: &Service, manifest: &Service) -> Option<Vec<ServicePort>> {
    let ports =
        |service: &Service| service.spec.as_ref().and_then(|spec| spec.ports.clone()).unwrap_or_default();
    let key = |port: &ServicePort| (port.port, port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()));
    let (existing, wanted) = (ports(existing), ports(manifest));
    let is_wanted = |port: &ServicePort| wanted.iter().any(|wanted| key(wanted) == key(port));
    if existing.iter().all(is_wanted) {
        return None;
    }
    let kept = |port: &ServicePort| {
        let before = existing.iter().find(|before| key(before) == key(port));
        ServicePort { node_port: before.and_then(|before| before.node_port), ..port.clone() }
    };
    Some(wanted.iter().map(kept).collect())
}

/// The address that a cluster gave a shard, and the VIP range that it lies in: the cluster's Service range and the
/// federation's VIPs are not apart.
pub fn address_in_vip_range(shard: &Service, vip_ranges: &[IpNet]) -> Option<(IpAddr, IpNet)> {
    let spec = shard.spec.as_ref()?;
    let ips = spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip).filter_map(|ip| ip.parse().ok());
    ips.into_iter().find_map(|ip| Some((ip, *vip_ranges.iter().find(|range| range.contains(&ip))?)))
}

/// Whether shards stay when the federated Service is deleted.
pub fn is_orphaning(federated: &Service) -> bool {
    federated.annotations().get(ORPHAN_ANNOTATION).is_some_and(|value| value == "true")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn service(value: Value) -> Service {
        serde_json::from_value(value).expect("a Service")
    }

    #[test]
    fn a_shard_has_what_the_user_said_and_nothing_that_the_cluster_decides() {
        let federated = service(json!({
            "metadata": {
                "name": "my-service", "namespace": "my-namespace", "uid": "1", "resourceVersion": "7",
                "finalizers": ["federation.dev/shards"],
                "labels": { "app": "web", "app.kubernetes.io/managed-by": "Helm" },
                "annotations": { "team": "shop", LAST_APPLIED: "{}", ORPHAN_ANNOTATION: "true", ADOPT_ANNOTATION: "true" },
            },
            "spec": {
                "type": "NodePort", "selector": { "app": "web" }, "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"],
                "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack", "externalIPs": ["192.0.2.1"],
                "healthCheckNodePort": 30002, "internalTrafficPolicy": "Local", "sessionAffinity": "ClientIP",
                "sessionAffinityConfig": { "clientIP": { "timeoutSeconds": 60 } },
                "ports": [{ "name": "http", "port": 80, "targetPort": "web", "protocol": "TCP", "nodePort": 30001 }],
            },
            "status": { "loadBalancer": { "ingress": [{ "ip": "192.0.2.1" }] } },
        }));
        let shard = serde_json::to_value(manifest(&federated, "my-federation")).expect("JSON");
        let expected = json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {
                "name": "my-service", "namespace": "my-namespace",
                "labels": {
                    "app": "web", "app.kubernetes.io/managed-by": "federation-agent",
                    "federation.dev/federation": "my-federation",
                },
                "annotations": { "team": "shop" },
            },
            "spec": {
                "type": "NodePort", "selector": { "app": "web" }, "ipFamilyPolicy": "SingleStack",
                "internalTrafficPolicy": "Local", "sessionAffinity": "ClientIP", "sessionAffinityConfig": { "clientIP": { "timeoutSeconds": 60 } },
                "ports": [{ "name": "http", "port": 80, "targetPort": "web", "protocol": "TCP" }],
            },
        });
        assert_eq!(shard, expected);
    }

    #[test]
    fn ports_that_somebody_added_are_found_and_those_that_stay_keep_their_node_port() {
        let of = |ports: Value| service(json!({ "spec": { "ports": ports } }));
        let manifest = of(
            json!([{ "name": "http", "port": 80, "protocol": "TCP" }, { "name": "dns", "port": 53, "protocol": "UDP" }]),
        );
        let without = |ports: Value| ports_without_others(&of(ports), &manifest);
        assert_eq!(
            without(json!([{ "port": 80, "nodePort": 30001 }])),
            None,
            "nothing is there that is not wanted"
        );
        let ports = without(
            json!([{ "port": 80, "nodePort": 30001 }, { "name": "mine", "port": 53, "protocol": "TCP" }]),
        );
        let expected = of(json!([
            { "name": "http", "port": 80, "protocol": "TCP", "nodePort": 30001 },
            { "name": "dns", "port": 53, "protocol": "UDP" },
        ]));
        assert_eq!(ports, expected.spec.and_then(|spec| spec.ports));
    }

    #[test]
    fn a_cluster_that_gives_services_virtual_ips_of_the_federation_is_found_out() {
        let ranges: Vec<IpNet> =
            ["198.18.0.0/16", "fd98::/64"].iter().map(|range| range.parse().expect("a range")).collect();
        let cases = [
            (json!({ "clusterIP": "10.0.0.7", "clusterIPs": ["10.0.0.7", "fd00::7"] }), None),
            (json!({ "clusterIP": "None" }), None),
            (json!({}), None),
            (json!({ "clusterIP": "198.18.3.4" }), Some("198.18.3.4 198.18.0.0/16")),
            (json!({ "clusterIPs": ["10.0.0.7", "fd98::7"] }), Some("fd98::7 fd98::/64")),
        ];
        for (spec, expected) in cases {
            let found = address_in_vip_range(&service(json!({ "spec": spec })), &ranges);
            assert_eq!(found.map(|(ip, range)| format!("{ip} {range}")).as_deref(), expected);
        }
    }

    #[test]
    fn whose_an_existing_service_is() {
        let of = |labels: Value, annotations: Value| {
            claim(&service(json!({ "metadata": { "labels": labels, "annotations": annotations } })), "one")
        };
        let marks = |federation: &str| json!({ MANAGED_BY_LABEL: MANAGED_BY, FEDERATION_LABEL: federation });
        let adopt = json!({ ADOPT_ANNOTATION: "true" });
        assert_eq!(of(marks("one"), json!({})), Claim::Ours);
        assert_eq!(of(marks("one"), adopt.clone()), Claim::Adopted);
        assert_eq!(of(json!({}), adopt.clone()), Claim::Adopted);
        for (labels, annotations) in [
            (json!({}), json!({})),
            (json!({}), json!({ ADOPT_ANNOTATION: "yes" })),
            (json!({ MANAGED_BY_LABEL: "Helm", FEDERATION_LABEL: "one" }), json!({})),
            (json!({ MANAGED_BY_LABEL: MANAGED_BY }), json!({})),
        ] {
            assert!(matches!(of(labels.clone(), annotations), Claim::Foreign(_)), "{labels}");
        }
        // Two federations must not fight over one Service.
        assert_eq!(of(marks("two"), adopt), Claim::Foreign("it is a shard of federation two".to_owned()));
    }
}
