//! `EndpointSlice`s.

use std::collections::BTreeSet;
use std::net::IpAddr;

use k8s_openapi::api::discovery::v1::{EndpointSlice, ForZone};

use super::names;
use crate::apiserver::kinds::Admission;
use crate::apiserver::status::FieldErrors;

const ADDRESS_TYPES: [&str; 3] = ["FQDN", "IPv4", "IPv6"];
const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];
const MOST_ENDPOINTS: usize = 1_000;
const MOST_ADDRESSES: usize = 100;
const MOST_PORTS: usize = 20_000;
const MOST_ZONE_HINTS: usize = 8;

impl Admission for EndpointSlice {
    fn set_defaults(&mut self, _old: Option<&Self>) {
        for port in self.ports.iter_mut().flatten() {
            port.protocol.get_or_insert_with(|| "TCP".to_owned());
            port.name.get_or_insert_default();
        }
    }

    fn validate(&self, old: Option<&Self>, errors: &mut FieldErrors) {
        if self.address_type.is_empty() {
            errors.required("addressType", "");
        } else if !ADDRESS_TYPES.contains(&self.address_type.as_str()) {
            errors.unsupported("addressType", &self.address_type, &ADDRESS_TYPES);
        }
        if old.is_some_and(|old| old.address_type != self.address_type) {
            errors.invalid("addressType", self.address_type.as_str(), "field is immutable");
        }
        self.validate_endpoints(errors);
        self.validate_ports(errors);
    }
}

trait Parts {
    fn validate_endpoints(&self, errors: &mut FieldErrors);
    fn validate_ports(&self, errors: &mut FieldErrors);
}

impl Parts for EndpointSlice {
    fn validate_endpoints(&self, errors: &mut FieldErrors) {
        let endpoints = &self.endpoints;
        if endpoints.len() > MOST_ENDPOINTS {
            errors.too_many("endpoints", endpoints.len(), MOST_ENDPOINTS);
            return;
        }
        for (index, endpoint) in endpoints.iter().enumerate() {
            let field = format!("endpoints[{index}].addresses");
            if endpoint.addresses.is_empty() {
                errors.required(&field, "must contain at least 1 address");
            } else if endpoint.addresses.len() > MOST_ADDRESSES {
                errors.too_many(&field, endpoint.addresses.len(), MOST_ADDRESSES);
            }
            for (number, address) in endpoint.addresses.iter().enumerate() {
                if let Some(wrong) = wrong_address(&self.address_type, address) {
                    errors.invalid(&format!("{field}[{number}]"), address.as_str(), &wrong);
                }
            }
            let mut name = |field: &str, name: Option<&String>, rule: names::Rule| {
                if let Some((name, wrong)) = name.and_then(|name| Some((name, rule(name)?))) {
                    errors.invalid(&format!("endpoints[{index}].{field}"), name.as_str(), &wrong);
                }
            };
            name("nodeName", endpoint.node_name.as_ref(), names::dns_subdomain);
            name("hostname", endpoint.hostname.as_ref(), names::dns_label);
            let zones = endpoint.hints.as_ref().and_then(|hints| hints.for_zones.as_deref());
            zone_hints(zones.unwrap_or_default(), &format!("endpoints[{index}].hints.forZones"), errors);
        }
    }

    fn validate_ports(&self, errors: &mut FieldErrors) {
        let ports = self.ports.as_deref().unwrap_or_default();
        if ports.len() > MOST_PORTS {
            errors.too_many("ports", ports.len(), MOST_PORTS);
            return;
        }
        let mut seen = BTreeSet::new();
        for (index, port) in ports.iter().enumerate() {
            let name = port.name.as_deref().unwrap_or_default();
            if let Some(wrong) = names::dns_label(name).filter(|_| !name.is_empty()) {
                errors.invalid(&format!("ports[{index}].name"), name, &wrong);
            }
            if !seen.insert(name) {
                errors.duplicate(&format!("ports[{index}].name"), name);
            }
            if let Some(number) = port.port.filter(|number| !(1..=65_535).contains(number)) {
                errors.invalid(
                    &format!("ports[{index}].port"),
                    number,
                    "must be between 1 and 65535, inclusive",
                );
            }
            if let Some(protocol) = port.protocol.as_deref().filter(|protocol| !PROTOCOLS.contains(protocol))
            {
                errors.unsupported(&format!("ports[{index}].protocol"), protocol, &PROTOCOLS);
            }
        }
    }
}

fn zone_hints(zones: &[ForZone], field: &str, errors: &mut FieldErrors) {
    if zones.len() > MOST_ZONE_HINTS {
        errors.too_many(field, zones.len(), MOST_ZONE_HINTS);
        return;
    }
    let mut seen = BTreeSet::new();
    for (index, zone) in zones.iter().enumerate() {
        let field = format!("{field}[{index}].name");
        if !seen.insert(&zone.name) {
            errors.duplicate(&field, zone.name.as_str());
        }
        if let Some(wrong) = names::label_value(&zone.name) {
            errors.invalid(&field, zone.name.as_str(), &wrong);
        }
    }
}

/// What kube-apiserver says about an endpoint's address: another family, or one of a special kind.
fn wrong_address(address_type: &str, address: &str) -> Option<String> {
    let ip = address.parse::<IpAddr>().ok();
    let (ip, wanted) = match address_type {
        "IPv4" => (ip.filter(IpAddr::is_ipv4), "must be a valid IPv4 address"),
        "IPv6" => (ip.filter(IpAddr::is_ipv6), "must be a valid IPv6 address"),
        "FQDN" => return names::dns_subdomain(address.trim_end_matches('.')),
        _ => return None,
    };
    match ip {
        Some(ip) => special_address(ip),
        None => Some(wanted.to_owned()),
    }
}

/// What kube-apiserver says about an address that no packet from elsewhere should be sent to.
pub(super) fn special_address(ip: IpAddr) -> Option<String> {
    let link_local = match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    let link_local_multicast = match ip {
        IpAddr::V4(ip) => ip.octets()[..3] == [224, 0, 0],
        IpAddr::V6(ip) => ip.segments()[0] == 0xff02,
    };
    let range = if ip.is_unspecified() {
        return Some(format!("may not be unspecified ({ip})"));
    } else if ip.is_loopback() {
        "loopback range (127.0.0.0/8, ::1/128)"
    } else if link_local {
        "link-local range (169.254.0.0/16, fe80::/10)"
    } else if link_local_multicast {
        "link-local multicast range (224.0.0.0/24, ff02::/10)"
    } else {
        return None;
    };
    Some(format!("may not be in the {range}"))
}
