//! What is imported into a member cluster: the `ServiceImport` of a service, and its endpoints. Pure.

use std::{collections::BTreeMap, net::IpAddr};

use k8s_openapi::{
    api::discovery::v1::EndpointSlice,
    apimachinery::pkg::apis::meta::v1::{Condition, OwnerReference},
    jiff::Timestamp,
};
use kube::{ResourceExt as _, core::ObjectMeta};

use super::merge::{Exports, merge};
use crate::{
    api::{
        FederatedService, ScopeKind,
        marks::{FEDERATION_LABEL, MANAGED_BY, MANAGED_BY_LABEL},
        mcs::{
            self, ClusterStatus, EndpointSliceObjects, ServiceImport, ServiceImportSpec, ServiceImportStatus,
            ServiceImportType,
        },
    },
    controller::{
        mirrored::{SLICE_MANAGER_LABEL, slice_name},
        slices::cluster_of,
        status::{ACCEPTED, Verdict, find},
    },
    model::ServiceKey,
};

const READY: &str = "Ready";
/// What the names of imported slices begin with; no endpoint controller makes names with a dot.
const IMPORTED: &str = "imported";

/// The import of a service that `exports` make. Nothing while its VIPs are not known: an import keeps its address for
/// life.
pub fn import(
    key: &ServiceKey,
    exports: &Exports,
    federated: Option<&FederatedService>,
    federation: &str,
) -> Option<ServiceImport> {
    let merged = merge(exports)?;
    let service = merged.service;
    let (ips, ready) = if service.headless {
        (Vec::new(), Verdict::new(true, "Ready", "its endpoints are imported"))
    } else {
        let ips = nearest(federated, &service.ip_families);
        let ready = match (ips.is_empty(), refused(federated)) {
            (false, _) => Verdict::new(true, "Ready", "its VIPs serve in this cluster"),
            (true, Some(why)) if why.reason == "VIPRangeMissing" => {
                Verdict::new(false, "IPFamilyNotSupported", &why.message)
            }
            (true, Some(why)) => Verdict::new(false, "Pending", &why.message),
            (true, None) => return None,
        };
        (ips, ready)
    };
    let families = |ip: &IpAddr| if ip.is_ipv4() { "IPv4" } else { "IPv6" }.to_owned();
    let ip_families = if service.headless { service.ip_families } else { ips.iter().map(families).collect() };
    let mut labels = service.labels;
    labels.extend(marks(federation));
    let type_ = if service.headless { ServiceImportType::Headless } else { ServiceImportType::ClusterSetIp };
    let clusters = exports.keys().map(|cluster| ClusterStatus { cluster: cluster.clone() });
    Some(ServiceImport {
        metadata: ObjectMeta {
            name: Some(key.name.to_string()),
            namespace: Some(key.namespace.to_string()),
            labels: Some(labels),
            annotations: Some(service.annotations).filter(|annotations| !annotations.is_empty()),
            ..ObjectMeta::default()
        },
        spec: ServiceImportSpec {
            ports: service.ports,
            ips: ips.iter().map(ToString::to_string).collect(),
            type_,
            session_affinity: Some(service.session_affinity),
            session_affinity_config: service.session_affinity_config,
            ip_families,
            internal_traffic_policy: service.internal_traffic_policy,
            traffic_distribution: service.traffic_distribution,
        },
        status: Some(ServiceImportStatus {
            endpoint_slice_objects: Some(EndpointSliceObjects::Present),
            clusters: clusters.collect(),
            // Its time is put right where it is known what was said before.
            conditions: vec![ready.condition(READY, &[], None, Timestamp::UNIX_EPOCH)],
        }),
    })
}

/// The status with the times of its conditions: since when they say what they say.
pub fn timed(mut status: ServiceImportStatus, before: &[Condition], now: Timestamp) -> ServiceImportStatus {
    for condition in &mut status.conditions {
        let same = find(before, &condition.type_).filter(|before| before.status == condition.status);
        let since = same.map_or(now, |before| before.last_transition_time.0);
        condition.last_transition_time.0 = since;
    }
    status
}

/// The VIPs of scope Nearest, in the order of the families that are asked for; of every family where none is.
fn nearest(federated: Option<&FederatedService>, families: &[String]) -> Vec<IpAddr> {
    let status = federated.and_then(|federated| federated.status.as_ref());
    let vips = status.map(|status| status.vips.as_slice()).unwrap_or_default();
    let ips = vips.iter().filter(|vip| vip.scope == ScopeKind::Nearest).flat_map(|vip| &vip.ips).copied();
    if families.is_empty() {
        return ips.collect();
    }
    let mut ips: Vec<_> = ips
        .filter_map(|ip| {
            let family = if ip.is_ipv4() { "IPv4" } else { "IPv6" };
            Some((families.iter().position(|asked| asked == family)?, ip))
        })
        .collect();
    ips.sort_unstable();
    ips.into_iter().map(|(_, ip)| ip).collect()
}

fn refused(federated: Option<&FederatedService>) -> Option<&Condition> {
    let accepted = find(&federated?.status.as_ref()?.conditions, ACCEPTED)?;
    (accepted.status == "False").then_some(accepted)
}

fn marks(federation: &str) -> BTreeMap<String, String> {
    let marks = [(MANAGED_BY_LABEL, MANAGED_BY), (FEDERATION_LABEL, federation)];
    marks.map(|(key, value)| (key.to_owned(), value.to_owned())).into()
}

/// Whether we made it.
pub fn is_ours(labels: &BTreeMap<String, String>, federation: &str) -> bool {
    marks(federation).iter().all(|(key, value)| labels.get(key) == Some(value))
}

/// Whether `actual` says all that `desired` says.
pub fn is_as_desired(actual: &ServiceImport, desired: &ServiceImport) -> bool {
    let has = |actual: &BTreeMap<String, String>, desired: &BTreeMap<String, String>| {
        desired.iter().all(|(key, value)| actual.get(key) == Some(value))
    };
    actual.spec == desired.spec
        && has(actual.labels(), desired.labels())
        && has(actual.annotations(), desired.annotations())
}

/// A mirrored slice of the Federation API as it is imported; `owner` is the import that it belongs to.
pub fn slice(
    mirrored: &EndpointSlice,
    key: &ServiceKey,
    federation: &str,
    owner: OwnerReference,
) -> EndpointSlice {
    let mut labels = marks(federation);
    let source = cluster_of(mirrored).unwrap_or_default();
    for (label, value) in
        [(mcs::SERVICE_LABEL, &*key.name), (mcs::SOURCE_LABEL, source), (SLICE_MANAGER_LABEL, MANAGED_BY)]
    {
        labels.insert(label.to_owned(), value.to_owned());
    }
    EndpointSlice {
        metadata: ObjectMeta {
            name: Some(slice_name(IMPORTED, &mirrored.name_any())),
            namespace: mirrored.metadata.namespace.clone(),
            labels: Some(labels),
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        address_type: mirrored.address_type.clone(),
        endpoints: mirrored.endpoints.clone(),
        ports: mirrored.ports.clone(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::api::FederatedServiceSpec;

    fn exports(otherwise: Value) -> Exports {
        let mut export = json!({
            "since": "2026-01-01T00:00:00Z", "ports": [{ "name": "http", "protocol": "TCP", "port": 80 }],
            "sessionAffinity": "ClientIP", "sessionAffinityConfig": { "clientIP": { "timeoutSeconds": 10 } },
            "internalTrafficPolicy": "Cluster", "trafficDistribution": "PreferClose", "ipFamilies": ["IPv4"],
            "labels": { "tier": "front", FEDERATION_LABEL: "stolen" },
        });
        let Value::Object(otherwise) = otherwise else { panic!("fields") };
        export.as_object_mut().expect("an object").extend(otherwise);
        serde_json::from_value(json!({ "europe": export })).expect("exports")
    }

    fn federated(ips: &[&str], accepted: (&str, &str)) -> FederatedService {
        let mut federated = FederatedService::new("s", FederatedServiceSpec::default());
        let condition = json!({
            "type": ACCEPTED, "status": accepted.0, "reason": accepted.1, "message": "why",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        });
        let vips = json!([
            { "scope": "Global", "ips": ["198.18.0.9"], "name": "g" }, { "scope": "Nearest", "ips": ips, "name": "n" },
        ]);
        federated.status =
            serde_json::from_value(json!({ "vips": vips, "conditions": [condition] })).expect("a status");
        federated
    }

    fn made(otherwise: Value, federated: Option<&FederatedService>) -> Option<ServiceImport> {
        import(&ServiceKey::new("n", "s"), &exports(otherwise), federated, "my-federation")
    }

    #[test]
    fn an_import_says_how_the_service_is_consumed() {
        let federated = federated(&["198.18.0.1"], ("True", "Accepted"));
        let import = made(json!({}), Some(&federated)).expect("an import");
        let expected = json!({
            "ports": [{ "name": "http", "protocol": "TCP", "port": 80 }], "ips": ["198.18.0.1"], "type": "ClusterSetIP",
            "sessionAffinity": "ClientIP", "sessionAffinityConfig": { "clientIP": { "timeoutSeconds": 10 } },
            "ipFamilies": ["IPv4"], "internalTrafficPolicy": "Cluster", "trafficDistribution": "PreferClose",
        });
        assert_eq!(serde_json::to_value(&import.spec).expect("JSON"), expected);
        assert_eq!(import.labels()["tier"], "front");
        assert!(is_ours(import.labels(), "my-federation"), "an exported label does not replace a mark");
        let status = import.status.expect("a status");
        assert_eq!(status.clusters, [ClusterStatus { cluster: "europe".to_owned() }]);
        assert_eq!(status.conditions[0].status, "True");
    }

    #[test]
    fn addresses_are_of_the_families_that_are_asked_for_and_in_their_order() {
        let both = federated(&["198.18.0.1", "fd00::1"], ("True", "Accepted"));
        let cases = [
            (json!(["IPv4"]), vec!["198.18.0.1"]),
            (json!(["IPv6"]), vec!["fd00::1"]),
            (json!(["IPv6", "IPv4"]), vec!["fd00::1", "198.18.0.1"]),
            (json!([]), vec!["198.18.0.1", "fd00::1"]),
        ];
        for (families, ips) in cases {
            let import = made(json!({ "ipFamilies": families }), Some(&both)).expect("an import");
            assert_eq!(import.spec.ips, ips, "{families}");
            let expected: Vec<_> =
                ips.iter().map(|ip| if ip.contains(':') { "IPv6" } else { "IPv4" }).collect();
            assert_eq!(import.spec.ip_families, expected);
        }
    }

    #[test]
    fn an_import_waits_for_its_address_unless_it_will_have_none() {
        assert_eq!(made(json!({}), None), None);
        assert_eq!(made(json!({}), Some(&federated(&[], ("True", "Accepted")))), None);
        for (reason, expected) in
            [("VIPRangeMissing", "IPFamilyNotSupported"), ("VIPRangeExhausted", "Pending")]
        {
            let import = made(json!({}), Some(&federated(&[], ("False", reason)))).expect("an import");
            let condition = &import.status.expect("a status").conditions[0];
            assert_eq!((condition.status.as_str(), condition.reason.as_str()), ("False", expected));
            assert_eq!(import.spec.ips, Vec::<String>::new());
        }
        let headless = made(json!({ "headless": true }), None).expect("an import");
        assert_eq!((headless.spec.type_, headless.spec.ips), (ServiceImportType::Headless, Vec::new()));
    }

    #[test]
    fn an_imported_slice_names_its_service_its_cluster_and_its_keeper() {
        let mirrored: EndpointSlice = serde_json::from_value(json!({
            "metadata": { "name": "europe.s-x", "namespace": "n", "labels": { "federation.dev/cluster": "europe" } },
            "addressType": "IPv4", "endpoints": [{ "addresses": ["10.8.0.1"] }], "ports": [{ "port": 80 }],
        }))
        .expect("a slice");
        let owner = OwnerReference { name: "s".to_owned(), ..OwnerReference::default() };
        let slice = slice(&mirrored, &ServiceKey::new("n", "s"), "my-federation", owner);
        assert_eq!(slice.name_any(), "imported.europe.s-x");
        assert_eq!(slice.labels()[mcs::SERVICE_LABEL], "s");
        assert_eq!(slice.labels()[mcs::SOURCE_LABEL], "europe");
        assert_eq!(slice.labels()[SLICE_MANAGER_LABEL], MANAGED_BY);
        // Its own cluster's kube-proxy must not take it for the local Service's.
        assert!(!slice.labels().contains_key("kubernetes.io/service-name"));
        assert_eq!(slice.endpoints, mirrored.endpoints);
    }
}
