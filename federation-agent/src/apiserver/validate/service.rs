//! Services.
//!
//! There is no service network behind this API, so nothing allocates `clusterIP` or `nodePort`; what a writer sets is kept.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{ClientIPConfig, Service, ServicePort, ServiceSpec, SessionAffinityConfig};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{exposure, names};
use crate::apiserver::kinds::Admission;
use crate::apiserver::status::FieldErrors;

const TYPES: [&str; 4] = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];
const AFFINITIES: [&str; 2] = ["ClientIP", "None"];
const FAMILIES: [&str; 2] = ["IPv4", "IPv6"];
const FAMILY_POLICIES: [&str; 3] = ["PreferDualStack", "RequireDualStack", "SingleStack"];
const TRAFFIC_POLICIES: [&str; 2] = ["Cluster", "Local"];
const DISTRIBUTIONS: [&str; 3] = ["PreferClose", "PreferSameNode", "PreferSameZone"];
const PORT_RANGE: &str = "must be between 1 and 65535, inclusive";
/// Seconds that a client keeps its backend, where nothing else is said.
const AFFINITY_TIMEOUT: i32 = 10_800;
const LONGEST_AFFINITY_TIMEOUT: i32 = 86_400;

impl Admission for Service {
    fn set_defaults(&mut self, old: Option<&Self>) {
        let spec = self.spec.get_or_insert_default();
        spec.type_.get_or_insert_with(|| "ClusterIP".to_owned());
        if let Some(old) = old.and_then(|old| old.spec.as_ref()) {
            keep_allocated(spec, old);
            exposure::drop_what_the_type_lost(spec, old);
        }
        spec.session_affinity.get_or_insert_with(|| "None".to_owned());
        if spec.session_affinity.as_deref() == Some("ClientIP") {
            let config = spec.session_affinity_config.get_or_insert_with(SessionAffinityConfig::default);
            let client_ip = config.client_ip.get_or_insert_with(ClientIPConfig::default);
            client_ip.timeout_seconds.get_or_insert(AFFINITY_TIMEOUT);
        } else {
            spec.session_affinity_config = None;
        }
        for port in spec.ports.iter_mut().flatten() {
            port.protocol.get_or_insert_with(|| "TCP".to_owned());
            if matches!(&port.target_port, None | Some(IntOrString::Int(0)))
                && spec.cluster_ip.as_deref() != Some("None")
            {
                port.target_port = Some(IntOrString::Int(port.port));
            }
        }
        if is_type(spec, "ExternalName") {
            return;
        }
        spec.internal_traffic_policy.get_or_insert_with(|| "Cluster".to_owned());
        exposure::set_defaults(spec);
        let policy = spec.ip_family_policy.get_or_insert_with(|| "SingleStack".to_owned());
        let wanted = if policy == "SingleStack" { 1 } else { 2 };
        let families = spec.ip_families.get_or_insert_default();
        for family in FAMILIES {
            if families.len() < wanted && !families.iter().any(|one| one == family) {
                families.push(family.to_owned());
            }
        }
        if let (Some(ip), None) = (&spec.cluster_ip, &spec.cluster_ips)
            && !ip.is_empty()
        {
            spec.cluster_ips = Some(vec![ip.clone()]);
        }
    }

    fn validate(&self, old: Option<&Self>, errors: &mut FieldErrors) {
        let Some(spec) = &self.spec else { return };
        if spec.ports.as_ref().is_none_or(Vec::is_empty)
            && !is_headless(spec)
            && !is_type(spec, "ExternalName")
        {
            errors.required("spec.ports", "");
        }
        one_of("spec.type", spec.type_.as_deref(), &TYPES, errors);
        one_of("spec.sessionAffinity", spec.session_affinity.as_deref(), &AFFINITIES, errors);
        one_of("spec.ipFamilyPolicy", spec.ip_family_policy.as_deref(), &FAMILY_POLICIES, errors);
        one_of(
            "spec.internalTrafficPolicy",
            spec.internal_traffic_policy.as_deref(),
            &TRAFFIC_POLICIES,
            errors,
        );
        one_of("spec.trafficDistribution", spec.traffic_distribution.as_deref(), &DISTRIBUTIONS, errors);
        affinity(spec, errors);
        families(spec, errors);
        ports(spec.ports.as_deref().unwrap_or_default(), errors);
        exposure::validate(spec, old.and_then(|old| old.spec.as_ref()), errors);
        if is_type(spec, "ExternalName") {
            external_name(spec, errors);
        }
        for (key, value) in spec.selector.iter().flatten() {
            if let Some(wrong) = names::qualified_name(key) {
                errors.invalid("spec.selector", key.as_str(), &wrong);
            }
            if let Some(wrong) = names::label_value(value) {
                errors.invalid("spec.selector", value.as_str(), &wrong);
            }
        }
        if let Some(old) = old.and_then(|old| old.spec.as_ref()) {
            immutable_cluster_ip(spec, old, errors);
        }
    }
}

/// What was allocated once stays, also where a writer who never saw it leaves it out.
fn keep_allocated(spec: &mut ServiceSpec, old: &ServiceSpec) {
    if is_type(spec, "ExternalName") && !is_type(old, "ExternalName") {
        if spec.cluster_ips == old.cluster_ips {
            spec.cluster_ip = None;
            spec.cluster_ips = None;
        }
        if spec.ip_families == old.ip_families {
            spec.ip_families = None;
        }
        if spec.ip_family_policy == old.ip_family_policy {
            spec.ip_family_policy = None;
        }
    }
    if is_type(spec, "ExternalName") || is_type(old, "ExternalName") {
        return;
    }
    if spec.cluster_ip.as_ref().is_none_or(String::is_empty) && spec.cluster_ips.is_none() {
        spec.cluster_ip.clone_from(&old.cluster_ip);
        spec.cluster_ips.clone_from(&old.cluster_ips);
    }
    if spec.ip_family_policy.is_none() && spec.ip_families.is_none() {
        spec.ip_family_policy.clone_from(&old.ip_family_policy);
        spec.ip_families.clone_from(&old.ip_families);
    }
    if is_type(spec, "ClusterIP") {
        return;
    }
    for port in spec.ports.iter_mut().flatten().filter(|port| port.node_port.is_none()) {
        let protocol = |port: &ServicePort| port.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
        let mut before = old.ports.iter().flatten();
        let same = before.find(|old| old.port == port.port && protocol(old) == protocol(port));
        port.node_port = same.and_then(|old| old.node_port);
    }
}

pub(super) fn is_type(spec: &ServiceSpec, name: &str) -> bool {
    spec.type_.as_deref() == Some(name)
}

/// `clusterIP: None`
pub(super) fn is_headless(spec: &ServiceSpec) -> bool {
    spec.cluster_ip.as_deref() == Some("None")
}

pub(super) fn one_of(field: &str, value: Option<&str>, supported: &[&str], errors: &mut FieldErrors) {
    if let Some(value) = value.filter(|value| !supported.contains(value)) {
        errors.unsupported(field, value, supported);
    }
}

fn external_name(spec: &ServiceSpec, errors: &mut FieldErrors) {
    let is_set = [
        ("clusterIPs", spec.cluster_ips.as_ref().is_some_and(|ips| !ips.is_empty())),
        ("ipFamilies", spec.ip_families.as_ref().is_some_and(|families| !families.is_empty())),
        ("ipFamilyPolicy", spec.ip_family_policy.is_some()),
    ];
    for (field, _) in is_set.into_iter().filter(|(_, is_set)| *is_set) {
        errors.forbidden(&format!("spec.{field}"), "may not be set for ExternalName services");
    }
    match spec.external_name.as_deref().unwrap_or_default().trim_end_matches('.') {
        "" => errors.required("spec.externalName", ""),
        name => {
            if let Some(wrong) = names::dns_subdomain(name) {
                errors.invalid("spec.externalName", name, &wrong);
            }
        }
    }
}

fn affinity(spec: &ServiceSpec, errors: &mut FieldErrors) {
    let config = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
    let Some(seconds) = config.and_then(|client_ip| client_ip.timeout_seconds) else { return };
    if seconds <= 0 || seconds > LONGEST_AFFINITY_TIMEOUT {
        let detail = format!("must be greater than 0 and less than {LONGEST_AFFINITY_TIMEOUT}");
        errors.invalid("spec.sessionAffinityConfig.clientIP.timeoutSeconds", seconds, &detail);
    }
}

fn families(spec: &ServiceSpec, errors: &mut FieldErrors) {
    let families = spec.ip_families.as_deref().unwrap_or_default();
    let mut seen = BTreeSet::new();
    for (index, family) in families.iter().enumerate() {
        let field = format!("spec.ipFamilies[{index}]");
        one_of(&field, Some(family), &FAMILIES, errors);
        if !seen.insert(family) {
            errors.duplicate(&field, family.as_str());
        }
    }
    if families.len() > 1 && spec.ip_family_policy.as_deref() == Some("SingleStack") {
        let detail = "must be RequireDualStack or PreferDualStack when multiple 'ipFamilies' are specified";
        errors.invalid("spec.ipFamilyPolicy", "SingleStack", detail);
    }
    for (index, ip) in spec.cluster_ips.iter().flatten().enumerate() {
        if ip != "None" && ip.parse::<std::net::IpAddr>().is_err() {
            let detail = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
            errors.invalid(&format!("spec.clusterIPs[{index}]"), ip.as_str(), detail);
        }
    }
    if spec.cluster_ips.iter().flatten().next() != spec.cluster_ip.as_ref().filter(|ip| !ip.is_empty()) {
        let first = serde_json::json!(spec.cluster_ips);
        errors.invalid("spec.clusterIPs", first, "first value must match `clusterIP`");
    }
}

fn ports(ports: &[ServicePort], errors: &mut FieldErrors) {
    let mut named = BTreeSet::new();
    let mut numbered = BTreeSet::new();
    for (index, port) in ports.iter().enumerate() {
        let field = |name: &str| format!("spec.ports[{index}].{name}");
        match port.name.as_deref().unwrap_or_default() {
            "" if ports.len() > 1 => errors.required(&field("name"), ""),
            "" => {}
            name => {
                if let Some(wrong) = names::dns_label(name) {
                    errors.invalid(&field("name"), name, &wrong);
                } else if !named.insert(name) {
                    errors.duplicate(&field("name"), name);
                }
            }
        }
        if !(1..=65_535).contains(&port.port) {
            errors.invalid(&field("port"), port.port, PORT_RANGE);
        }
        one_of(&field("protocol"), port.protocol.as_deref(), &PROTOCOLS, errors);
        if let Some((protocol, wrong)) =
            port.app_protocol.as_deref().and_then(|name| Some((name, names::qualified_name(name)?)))
        {
            errors.invalid(&field("appProtocol"), protocol, &wrong);
        }
        match &port.target_port {
            Some(IntOrString::Int(number)) if !(1..=65_535).contains(number) => {
                errors.invalid(&field("targetPort"), *number, PORT_RANGE);
            }
            Some(IntOrString::String(name)) => {
                if let Some(wrong) = names::port_name(name) {
                    errors.invalid(&field("targetPort"), name.as_str(), &wrong);
                }
            }
            _ => {}
        }
        if !numbered.insert((port.port, port.protocol.as_deref())) {
            let duplicate = serde_json::json!({ "port": port.port, "protocol": port.protocol });
            errors.duplicate(&format!("spec.ports[{index}]"), duplicate);
        }
    }
}

fn immutable_cluster_ip(spec: &ServiceSpec, old: &ServiceSpec, errors: &mut FieldErrors) {
    let set = |spec: &ServiceSpec| spec.cluster_ip.clone().filter(|ip| !ip.is_empty());
    if is_type(spec, "ExternalName") || is_type(old, "ExternalName") {
        return;
    }
    if let Some(before) = set(old).filter(|before| set(spec).as_ref() != Some(before)) {
        let now = spec.cluster_ips.clone().unwrap_or_default();
        let detail =
            if before == "None" { "may not change once set" } else { "primary clusterIP can not be unset" };
        errors.invalid("spec.clusterIPs[0]", now.first().cloned().unwrap_or_default(), detail);
    }
}
