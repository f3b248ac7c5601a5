//! The Service at the Federation API that stands for what clusters export, and the record of their exports on it. Pure.
//!
//! The record makes an export outlive the silence of its cluster: who cannot be asked is believed to export what it did.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{Service, ServicePort, ServiceSpec},
    apimachinery::pkg::util::intstr::IntOrString,
};
use kube::{ResourceExt as _, core::ObjectMeta};

use super::{
    export::Export,
    merge::{Exports, Merged, same_number},
};
use crate::{
    api::{
        marks::{EXPORTED_LABEL, EXPORTS_ANNOTATION, MANAGED_BY, MANAGED_BY_LABEL},
        mcs,
    },
    model::ServiceKey,
};

/// Whether the controller made this Service of the Federation API out of exports.
pub fn is_exported(service: &Service) -> bool {
    let label = |key: &str| service.labels().get(key).map(String::as_str);
    label(EXPORTED_LABEL) == Some("true") && label(MANAGED_BY_LABEL) == Some(MANAGED_BY)
}

/// Whether clusters export a Service of the Federation API.
pub fn has_record(service: &Service) -> bool {
    service.annotations().contains_key(EXPORTS_ANNOTATION)
}

/// The exports that a Service of the Federation API stands for; none on one without them.
pub fn record(service: &Service) -> Exports {
    let text = service.annotations().get(EXPORTS_ANNOTATION);
    text.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
}

/// The record as an annotation.
pub fn annotation(exports: &Exports) -> BTreeMap<String, String> {
    // Maps with text as keys: nothing in it can fail.
    let text = serde_json::to_string(exports).unwrap_or_default();
    BTreeMap::from([(EXPORTS_ANNOTATION.to_owned(), text)])
}

/// Without selector and families: it has endpoints through its clusters alone, and what VIPs it gets is in the record.
pub fn manifest(key: &ServiceKey, merged: &Merged, exports: &Exports) -> Service {
    let Export { headless, ports, session_affinity, session_affinity_config, .. } = &merged.service;
    let named = hub_ports(ports);
    let ports: Vec<_> = ports
        .iter()
        .zip(named)
        .map(|(port, name)| ServicePort {
            name,
            protocol: port.protocol.clone(),
            app_protocol: port.app_protocol.clone(),
            port: port.port,
            target_port: Some(IntOrString::Int(port.port)),
            ..ServicePort::default()
        })
        .collect();
    let labels = [(MANAGED_BY_LABEL, MANAGED_BY), (EXPORTED_LABEL, "true")];
    Service {
        metadata: ObjectMeta {
            name: Some(key.name.to_string()),
            namespace: Some(key.namespace.to_string()),
            labels: Some(labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into()),
            annotations: Some(annotation(exports)),
            ..ObjectMeta::default()
        },
        spec: Some(ServiceSpec {
            type_: Some("ClusterIP".to_owned()),
            cluster_ip: headless.then(|| "None".to_owned()),
            ports: Some(ports).filter(|ports| !ports.is_empty()),
            session_affinity: Some(session_affinity.clone()),
            session_affinity_config: session_affinity_config.clone(),
            internal_traffic_policy: merged.service.internal_traffic_policy.clone(),
            traffic_distribution: merged.service.traffic_distribution.clone(),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

/// The names of ports in one Service: a port without a name may only be alone there.
fn hub_ports(ports: &[mcs::ServicePort]) -> Vec<Option<String>> {
    let name = |port: &mcs::ServicePort| {
        let protocol = port.protocol.as_deref().unwrap_or("TCP").to_lowercase();
        let own = format!("{protocol}-{}", port.port);
        let is_taken = ports.iter().any(|other| other.name.as_ref() == Some(&own));
        if is_taken { format!("{own}-unnamed") } else { own }
    };
    let is_alone = ports.len() == 1;
    ports.iter().map(|port| port.name.clone().or_else(|| (!is_alone).then(|| name(port)))).collect()
}

/// What a cluster's own name of a port is called at the Federation API, where that is something else: endpoints are
/// found by the names of their ports, and clusters may call one port differently.
pub fn port_names(export: &Export, merged: &Merged) -> BTreeMap<String, String> {
    let named = hub_ports(&merged.service.ports);
    let hub = |own: &mcs::ServicePort| {
        let ports = || merged.service.ports.iter().zip(&named);
        let same = ports().find(|(port, _)| same_number(port, own));
        let same = same.or_else(|| ports().find(|(port, _)| port.name.is_some() && port.name == own.name));
        same.map(|(_, name)| name.clone().unwrap_or_default())
    };
    let names = export.ports.iter().filter_map(|own| Some((own.name.clone().unwrap_or_default(), hub(own)?)));
    names.filter(|(own, hub)| own != hub).collect()
}

/// Whether `existing` can become `desired`: a Service stays headless, or with an address, for its life.
pub fn can_become(existing: &Service, desired: &Service) -> bool {
    let is_headless =
        |service: &Service| service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref()) == Some("None");
    is_headless(existing) == is_headless(desired)
}

/// Whether `actual` says all that `desired` says.
pub fn is_as_desired(actual: &Service, desired: &Service) -> bool {
    let has = |actual: &BTreeMap<String, String>, desired: Option<&BTreeMap<String, String>>| {
        desired.into_iter().flatten().all(|(key, value)| actual.get(key) == Some(value))
    };
    let (Some(is), Some(shall)) = (&actual.spec, &desired.spec) else { return false };
    has(actual.labels(), desired.metadata.labels.as_ref())
        && has(actual.annotations(), desired.metadata.annotations.as_ref())
        && is.ports.as_deref().unwrap_or_default() == shall.ports.as_deref().unwrap_or_default()
        && is.session_affinity == shall.session_affinity
        && is.session_affinity_config == shall.session_affinity_config
        && (shall.internal_traffic_policy.is_none()
            || is.internal_traffic_policy == shall.internal_traffic_policy)
        && is.traffic_distribution == shall.traffic_distribution
        && can_become(actual, desired)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::controller::mcs::merge::merge;

    fn exports(all: Value) -> Exports {
        serde_json::from_value(all).expect("exports")
    }

    fn export(second: u8, ports: &Value) -> Value {
        json!({ "since": format!("2026-01-01T00:00:0{second}Z"), "ports": ports, "sessionAffinity": "None" })
    }

    fn tcp(name: Option<&str>, number: i32) -> Value {
        json!({ "name": name, "protocol": "TCP", "port": number })
    }

    #[test]
    fn what_is_exported_stands_at_the_federation_api_with_its_record() {
        let key = ServiceKey::new("n", "s");
        let exports = exports(json!({ "a": export(1, &json!([tcp(None, 80)])) }));
        let service = manifest(&key, &merge(&exports).expect("a service"), &exports);
        assert!(is_exported(&service));
        assert_eq!(record(&service), exports);
        let spec = serde_json::to_value(&service.spec).expect("JSON");
        let port = json!({ "protocol": "TCP", "port": 80, "targetPort": 80 });
        assert_eq!(spec, json!({ "type": "ClusterIP", "ports": [port], "sessionAffinity": "None" }));
        assert!(is_as_desired(&service, &service));
        let mut foreign = service;
        foreign.labels_mut().remove(MANAGED_BY_LABEL);
        assert!(!is_exported(&foreign), "a user's label alone makes nothing ours");
    }

    #[test]
    fn ports_that_clusters_call_differently_meet_under_one_name() {
        let exports = exports(json!({
            "a": export(1, &json!([tcp(None, 80)])),
            "b": export(2, &json!([tcp(Some("web"), 80), tcp(Some("metrics"), 90)])),
            "c": export(3, &json!([tcp(Some("metrics"), 91)])),
        }));
        let merged = merge(&exports).expect("a service");
        let service = manifest(&ServiceKey::new("n", "s"), &merged, &exports);
        let ports = service.spec.and_then(|spec| spec.ports).unwrap_or_default();
        let names: Vec<_> = ports.iter().map(|port| (port.name.as_deref(), port.port)).collect();
        assert_eq!(names, [(Some("tcp-80"), 80), (Some("metrics"), 90)]);
        let renamed = |cluster: &str| port_names(&exports[cluster], &merged).into_iter().collect::<Vec<_>>();
        let pair = |own: &str, hub: &str| (own.to_owned(), hub.to_owned());
        assert_eq!(renamed("a"), [pair("", "tcp-80")]);
        assert_eq!(renamed("b"), [pair("web", "tcp-80")]);
        assert_eq!(renamed("c"), []);
    }

    #[test]
    fn a_service_does_not_turn_headless() {
        let key = ServiceKey::new("n", "s");
        let mut headless = export(1, &json!([]));
        headless["headless"] = true.into();
        let [plain, headless] = [export(1, &json!([tcp(None, 80)])), headless].map(|export| {
            let exports = exports(json!({ "a": export }));
            manifest(&key, &merge(&exports).expect("a service"), &exports)
        });
        assert!(can_become(&plain, &plain) && can_become(&headless, &headless));
        assert!(!can_become(&plain, &headless) && !can_become(&headless, &plain));
    }
}
