//! What one cluster exports under a name, and whether it may. Pure.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::{
    api::core::v1::{Service, SessionAffinityConfig},
    apimachinery::pkg::apis::meta::v1::Time,
    jiff::Timestamp,
};
use kube::ResourceExt as _;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{
    api::{
        Cluster, SYSTEM_NAMESPACE,
        marks::EXPORT_NAMESPACES_ANNOTATION,
        mcs::{ServiceExport, ServicePort},
    },
    model::ServiceKey,
};

/// The properties of one cluster's Service that matter to all who consume it, as they stand in the record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Export {
    /// When the `ServiceExport` was made: the oldest one wins where exports differ.
    pub since: Time,
    #[serde(default, skip_serializing_if = "is_false")]
    pub headless: bool,
    pub ports: Vec<ServicePort>,
    pub session_affinity: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_affinity_config: Option<SessionAffinityConfig>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub internal_traffic_policy: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traffic_distribution: Option<String>,
    /// Empty where the cluster does not say.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ip_families: Vec<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// Why a `ServiceExport` exports nothing.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Invalid {
    #[error("there is no Service {0} in this cluster; create it, or delete this ServiceExport")]
    NoService(ServiceKey),
    #[error("a Service of type ExternalName has no endpoints to export; use another type")]
    ExternalName,
    #[error("what is in namespace {0} serves its own cluster alone; export from another namespace")]
    SystemNamespace(String),
    #[error(
        "namespace {0} is named like the federation, whose names would hide those of its services; use another \
         namespace"
    )]
    NamespaceShadowed(String),
    #[error(
        "this cluster may not export from namespace {namespace}, only from {}; name it in the annotation \
         {EXPORT_NAMESPACES_ANNOTATION} of the Cluster",
        listed(allowed)
    )]
    NamespaceNotAllowed { namespace: String, allowed: BTreeSet<String> },
}

/// Which namespaces a cluster may export from.
#[derive(Clone, Debug)]
pub struct Policy {
    federation: String,
    /// Every namespace where nothing is said.
    allowed: Option<BTreeSet<String>>,
}

// === impl Export ===

impl Export {
    /// What `object` exports; `service` is the Service of its name in the same cluster.
    ///
    /// # Errors
    /// Nothing, for a reason that its owner can put right.
    pub fn judge(
        object: &ServiceExport,
        service: Option<&Service>,
        policy: &Policy,
    ) -> Result<Self, Invalid> {
        let key = ServiceKey::new(object.namespace().unwrap_or_default(), object.name_any());
        policy.admit(&key)?;
        let spec = service.ok_or(Invalid::NoService(key))?.spec.clone().unwrap_or_default();
        if spec.type_.as_deref() == Some("ExternalName") {
            return Err(Invalid::ExternalName);
        }
        let headless = spec.cluster_ip.as_deref() == Some("None");
        let ports = spec.ports.unwrap_or_default().into_iter().map(|port| ServicePort {
            name: port.name.filter(|name| !name.is_empty()),
            protocol: Some(port.protocol.unwrap_or_else(|| "TCP".to_owned())),
            app_protocol: port.app_protocol,
            port: port.port,
        });
        let session_affinity = spec.session_affinity.unwrap_or_else(|| "None".to_owned());
        let since = object.metadata.creation_timestamp.clone();
        Ok(Self {
            // Set on everything that an API server holds.
            since: since.unwrap_or(Time(Timestamp::MAX)),
            headless,
            ports: ports.collect(),
            session_affinity_config: spec.session_affinity_config.filter(|_| session_affinity == "ClientIP"),
            session_affinity,
            internal_traffic_policy: spec.internal_traffic_policy,
            traffic_distribution: spec.traffic_distribution,
            ip_families: spec.ip_families.unwrap_or_default(),
            labels: object.spec.exported_labels.clone(),
            annotations: object.spec.exported_annotations.clone(),
        })
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_false(value: &bool) -> bool {
    !value
}

// === impl Invalid ===

impl Invalid {
    /// The words of the API where it has one.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoService(_) => "NoService",
            Self::ExternalName => "InvalidServiceType",
            Self::SystemNamespace(_) | Self::NamespaceShadowed(_) | Self::NamespaceNotAllowed { .. } => {
                "NamespaceNotAllowed"
            }
        }
    }
}

fn listed(names: &BTreeSet<String>) -> String {
    if names.is_empty() { "none".to_owned() } else { names.iter().cloned().collect::<Vec<_>>().join(", ") }
}

// === impl Policy ===

impl Policy {
    pub fn of(cluster: &Cluster, federation: &str) -> Self {
        let allowed = cluster.annotations().get(EXPORT_NAMESPACES_ANNOTATION);
        let names = |text: &String| {
            text.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect()
        };
        Self { federation: federation.to_owned(), allowed: allowed.map(names) }
    }

    fn admit(&self, key: &ServiceKey) -> Result<(), Invalid> {
        let namespace = key.namespace.to_string();
        // The prefix is Kubernetes' own; its API server's Service stands in `default`.
        let is_system = namespace.starts_with("kube-")
            || namespace == SYSTEM_NAMESPACE
            || (namespace == "default" && &*key.name == "kubernetes");
        if is_system {
            return Err(Invalid::SystemNamespace(namespace));
        }
        if namespace == self.federation {
            return Err(Invalid::NamespaceShadowed(namespace));
        }
        match &self.allowed {
            Some(allowed) if !allowed.contains(&namespace) => {
                Err(Invalid::NamespaceNotAllowed { namespace, allowed: allowed.clone() })
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::api::ClusterSpec;

    fn cluster(annotations: Value) -> Cluster {
        let spec: ClusterSpec = serde_json::from_value(json!({
            "server": "https://203.0.113.7:6443", "credentialsRef": { "name": "c" }, "region": "r", "zones": ["z"],
            "networks": ["10.8.0.0/14"],
        }))
        .expect("a spec");
        let mut cluster = Cluster::new("c", spec);
        cluster.metadata.annotations = serde_json::from_value(annotations).expect("annotations");
        cluster
    }

    fn export(namespace: &str, name: &str) -> ServiceExport {
        serde_json::from_value(json!({ "metadata": {
            "namespace": namespace, "name": name, "creationTimestamp": "2026-01-01T00:00:00Z",
        } }))
        .expect("an export without a spec")
    }

    fn judged(namespace: &str, service: Option<Value>, annotations: Value) -> Result<Export, Invalid> {
        let service = service.map(|spec| serde_json::from_value(json!({ "spec": spec })).expect("a Service"));
        let policy = Policy::of(&cluster(annotations), "my-federation");
        Export::judge(&export(namespace, "s"), service.as_ref(), &policy)
    }

    #[test]
    fn what_cannot_be_exported_is_said_in_the_words_of_the_api() {
        let plain = || Some(json!({ "ports": [{ "port": 80 }] }));
        let restricted = json!({ EXPORT_NAMESPACES_ANNOTATION: "a, b" });
        let cases = [
            ("n", plain(), json!({}), None),
            ("n", None, json!({}), Some("NoService")),
            ("n", Some(json!({ "type": "ExternalName" })), json!({}), Some("InvalidServiceType")),
            ("kube-system", plain(), json!({}), Some("NamespaceNotAllowed")),
            ("federation-system", plain(), json!({}), Some("NamespaceNotAllowed")),
            ("my-federation", plain(), json!({}), Some("NamespaceNotAllowed")),
            ("n", plain(), restricted.clone(), Some("NamespaceNotAllowed")),
            ("b", plain(), restricted, None),
            ("b", plain(), json!({ EXPORT_NAMESPACES_ANNOTATION: "" }), Some("NamespaceNotAllowed")),
        ];
        for (namespace, service, annotations, expected) in cases {
            let found = judged(namespace, service.clone(), annotations).err();
            assert_eq!(found.as_ref().map(Invalid::reason), expected, "{namespace} {service:?} {found:?}");
        }
    }

    #[test]
    fn an_export_is_what_its_service_says() {
        let said = json!({
            "ports": [{ "port": 80, "name": "", "targetPort": 8080, "nodePort": 30001 }], "type": "NodePort",
            "sessionAffinity": "None", "sessionAffinityConfig": { "clientIP": { "timeoutSeconds": 5 } },
            "internalTrafficPolicy": "Local", "trafficDistribution": "PreferClose", "ipFamilies": ["IPv6"],
        });
        let export = judged("n", Some(said), json!({})).expect("valid");
        let expected = json!({
            "since": "2026-01-01T00:00:00Z", "ports": [{ "port": 80, "protocol": "TCP" }], "sessionAffinity": "None",
            "internalTrafficPolicy": "Local", "trafficDistribution": "PreferClose", "ipFamilies": ["IPv6"],
        });
        assert_eq!(serde_json::to_value(&export).expect("JSON"), expected);
        assert_eq!(serde_json::from_value::<Export>(expected).expect("an export"), export);
        let headless = judged("n", Some(json!({ "clusterIP": "None" })), json!({})).expect("valid");
        assert!(headless.headless && headless.ports.is_empty());
    }
}
