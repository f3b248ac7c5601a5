//! How a Service is reached from outside of a cluster: node ports, load balancers, external addresses.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::ServiceSpec;

use super::endpoint_slice::special_address;
use super::names;
use super::service::{is_headless, is_type, one_of};
use crate::apiserver::status::FieldErrors;

const TRAFFIC_POLICIES: [&str; 2] = ["Cluster", "Local"];
const FOR_LOAD_BALANCERS: &str = "may only be used when `type` is 'LoadBalancer'";
/// A load balancer in front of it would open it to the world.
const KUBELET_PORT: i32 = 10_250;

fn has_node_ports(spec: &ServiceSpec) -> bool {
    is_type(spec, "NodePort") || is_type(spec, "LoadBalancer")
}

fn is_reached_from_outside(spec: &ServiceSpec) -> bool {
    let has_address = spec.external_ips.as_ref().is_some_and(|ips| !ips.is_empty());
    has_node_ports(spec) || (is_type(spec, "ClusterIP") && has_address)
}

fn needs_health_check(spec: &ServiceSpec) -> bool {
    is_type(spec, "LoadBalancer") && spec.external_traffic_policy.as_deref() == Some("Local")
}

/// Takes out what the Service had only for its former type, unless the writer has just changed it: whoever changes the
/// type need not know what came with it.
pub fn drop_what_the_type_lost(spec: &mut ServiceSpec, old: &ServiceSpec) {
    let node_ports =
        |spec: &ServiceSpec| -> Vec<_> { spec.ports.iter().flatten().map(|port| port.node_port).collect() };
    if has_node_ports(old) && !has_node_ports(spec) && node_ports(old) == node_ports(spec) {
        for port in spec.ports.iter_mut().flatten() {
            port.node_port = None;
        }
    }
    if needs_health_check(old)
        && !needs_health_check(spec)
        && old.health_check_node_port == spec.health_check_node_port
    {
        spec.health_check_node_port = None;
    }
    if is_type(old, "LoadBalancer") && !is_type(spec, "LoadBalancer") {
        if old.allocate_load_balancer_node_ports == spec.allocate_load_balancer_node_ports {
            spec.allocate_load_balancer_node_ports = None;
        }
        if old.load_balancer_class == spec.load_balancer_class {
            spec.load_balancer_class = None;
        }
    }
    if is_reached_from_outside(old)
        && !is_reached_from_outside(spec)
        && old.external_traffic_policy == spec.external_traffic_policy
    {
        spec.external_traffic_policy = None;
    }
}

pub fn set_defaults(spec: &mut ServiceSpec) {
    if is_reached_from_outside(spec) {
        spec.external_traffic_policy.get_or_insert_with(|| "Cluster".to_owned());
    }
    if is_type(spec, "LoadBalancer") {
        spec.allocate_load_balancer_node_ports.get_or_insert(true);
    }
}

pub fn validate(spec: &ServiceSpec, old: Option<&ServiceSpec>, errors: &mut FieldErrors) {
    if has_node_ports(spec) && is_headless(spec) {
        let kind = spec.type_.as_deref().unwrap_or_default();
        let detail = format!("may not be set to 'None' for {kind} services");
        errors.invalid("spec.clusterIPs[0]", "None", &detail);
    }
    node_ports(spec, errors);
    addresses(spec, errors);
    load_balancer(spec, old, errors);
    let policy = spec.external_traffic_policy.as_deref();
    if is_reached_from_outside(spec) {
        one_of("spec.externalTrafficPolicy", policy, &TRAFFIC_POLICIES, errors);
    } else if let Some(policy) = policy {
        let detail = "may only be set for externally-accessible services";
        errors.invalid("spec.externalTrafficPolicy", policy, detail);
    }
    let port = spec.health_check_node_port.filter(|port| *port != 0);
    if let Some(port) = port.filter(|_| !needs_health_check(spec)) {
        let detail = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
        errors.invalid("spec.healthCheckNodePort", port, detail);
    }
    if let Some(old) = old
        && needs_health_check(old)
        && needs_health_check(spec)
        && old.health_check_node_port.is_some()
        && old.health_check_node_port != spec.health_check_node_port
    {
        errors.forbidden("spec.healthCheckNodePort", "field is immutable");
    }
}

fn node_ports(spec: &ServiceSpec, errors: &mut FieldErrors) {
    let mut seen = BTreeSet::new();
    for (index, port) in spec.ports.iter().flatten().enumerate() {
        let Some(node_port) = port.node_port.filter(|port| *port != 0) else { continue };
        let field = format!("spec.ports[{index}].nodePort");
        if is_type(spec, "ClusterIP") {
            errors.forbidden(&field, "may not be used when `type` is 'ClusterIP'");
        } else if !(1..=65_535).contains(&node_port) {
            errors.invalid(&field, node_port, "must be between 1 and 65535, inclusive");
        } else if !seen.insert((port.protocol.as_deref(), node_port)) {
            errors.duplicate(&field, node_port);
        }
    }
}

fn addresses(spec: &ServiceSpec, errors: &mut FieldErrors) {
    for (index, text) in spec.external_ips.iter().flatten().enumerate() {
        let field = format!("spec.externalIPs[{index}]");
        let wrong = match text.parse::<IpAddr>() {
            Ok(ip) => special_address(ip),
            Err(_) => Some("must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".to_owned()),
        };
        if let Some(wrong) = wrong {
            errors.invalid(&field, text.as_str(), &wrong);
        }
    }
}

fn load_balancer(spec: &ServiceSpec, old: Option<&ServiceSpec>, errors: &mut FieldErrors) {
    let is_load_balancer = is_type(spec, "LoadBalancer");
    for (index, port) in spec.ports.iter().flatten().enumerate() {
        if is_load_balancer && port.port == KUBELET_PORT {
            let detail = format!("may not expose port {KUBELET_PORT} externally since it is used by kubelet");
            errors.invalid(&format!("spec.ports[{index}]"), port.port, &detail);
        }
    }
    let ranges = spec.load_balancer_source_ranges.as_deref().unwrap_or_default();
    if !ranges.is_empty() && !is_load_balancer {
        errors.forbidden("spec.LoadBalancerSourceRanges", FOR_LOAD_BALANCERS);
    }
    for (index, range) in ranges.iter().enumerate() {
        let range = range.trim();
        if range.parse::<IpNet>().is_err() {
            let detail = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
            errors.invalid(&format!("spec.LoadBalancerSourceRanges[{index}]"), range, detail);
        }
    }
    if spec.allocate_load_balancer_node_ports.is_some() && !is_load_balancer {
        errors.forbidden("spec.allocateLoadBalancerNodePorts", FOR_LOAD_BALANCERS);
    }
    match spec.load_balancer_class.as_deref() {
        Some(_) if !is_load_balancer => errors.forbidden("spec.loadBalancerClass", FOR_LOAD_BALANCERS),
        Some(class) => {
            if let Some(wrong) = names::qualified_name(class) {
                errors.invalid("spec.loadBalancerClass", class, &wrong);
            }
        }
        None => {}
    }
    if let Some(old) = old
        && is_load_balancer
        && is_type(old, "LoadBalancer")
        && old.load_balancer_class != spec.load_balancer_class
    {
        let class = spec.load_balancer_class.clone();
        errors.invalid("spec.loadBalancerClass", class, "may not change once set");
    }
}
