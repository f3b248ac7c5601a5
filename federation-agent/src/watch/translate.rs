//! What one object of the Federation API means in the words of the model. Values in, values out.
//!
//! An object says what it can: a part that cannot be used is left out with the reason, and the rest holds. Objects
//! come together in `view`.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use k8s_openapi::api::{core, discovery};
use thiserror::Error;

use crate::{
    api::{self, ScopeKind, VipStatus, marks::CLUSTER_LABEL},
    model::{
        Cluster, ClusterName, Endpoint, HealthCheck, Ingress, IngressPoint, Overprovisioning, Port, Protocol,
        Readiness, Region, Scope, ServiceKey, ShardState, TrafficDistribution, Zone,
    },
};

/// Label that names the Service of an `EndpointSlice`.
const SERVICE_LABEL: &str = "kubernetes.io/service-name";

/// Why an object, or a part of it, is not in the model.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Untranslatable {
    #[error("it names no zone; give spec.zones at least one")]
    NoZone,
    #[error("it has no label {0}")]
    NoLabel(&'static str),
    #[error("it has no namespace")]
    NoNamespace,
    #[error("port {port:?} has protocol {protocol}; TCP, UDP and SCTP are served")]
    Protocol { port: String, protocol: String },
    #[error("port {port:?} has number {number:?}; 1 to 65535 can be served")]
    PortNumber { port: String, number: Option<i32> },
    #[error("its VIP of scope {0:?} names no location")]
    NoLocation(ScopeKind),
    #[error("overprovisioning of {0} % would turn load away from a healthy tier; 100 or more can be used")]
    Overprovisioning(u16),
    #[error(
        "traffic distribution {0:?} is unknown; PreferSameZone, PreferSameNode and PreferClose are served"
    )]
    TrafficDistribution(String),
    #[error("internal traffic policy {0:?} is unknown; Cluster and Local are served")]
    InternalTrafficPolicy(String),
    #[error("health check: {0}")]
    HealthCheck(api::Fault),
    #[error("its addresses are of type {0}; IPv4 and IPv6 can be reached")]
    AddressType(String),
    #[error("endpoint address {address:?} is not of type {family}")]
    Address { address: String, family: String },
    #[error("an endpoint has no address")]
    NoAddress,
    #[error("ingress {point} of cluster {cluster} is nothing that a client could be sent to")]
    Ingress { cluster: String, point: String },
}

/// A value and what had to be left out of it.
#[derive(Debug, PartialEq)]
pub struct Translated<T> {
    pub value: T,
    pub left_out: Vec<Untranslatable>,
}

/// What a Service says.
#[derive(Clone, Debug, PartialEq)]
pub struct Offer {
    pub ports: Vec<Port>,
    pub client_ip_affinity: bool,
    pub distribution: TrafficDistribution,
}

/// What a `FederatedService` says.
#[derive(Clone, Debug, PartialEq)]
pub struct Steering {
    /// Empty until the controller has allocated some.
    pub vips: Arc<BTreeMap<Scope, Vec<IpAddr>>>,
    pub weights: BTreeMap<ClusterName, u16>,
    pub overprovisioning: Overprovisioning,
    pub health_check: HealthCheck,
    pub ingress: BTreeMap<ClusterName, Ingress>,
}

/// What an `EndpointSlice` says.
#[derive(Clone, Debug, PartialEq)]
pub struct Slice {
    pub service: ServiceKey,
    pub cluster: ClusterName,
    /// By address, each once.
    pub endpoints: Arc<[Endpoint]>,
}

/// # Errors
/// It stands nowhere.
pub fn cluster(cluster: &api::Cluster) -> Result<Translated<Cluster>, Untranslatable> {
    if cluster.spec.zones.is_empty() {
        return Err(Untranslatable::NoZone);
    }
    let value = Cluster {
        provider: cluster.spec.provider.as_str().into(),
        region: Region::from(&cluster.spec.region),
        zones: cluster.spec.zones.iter().map(Zone::from).collect(),
    };
    Ok(Translated { value, left_out: Vec::new() })
}

pub fn service(service: &core::v1::Service) -> Translated<Offer> {
    let spec = service.spec.as_ref();
    let ports = spec.and_then(|spec| spec.ports.as_deref()).unwrap_or_default();
    let (ports, mut left_out) = sort_out(ports.iter().map(|port| {
        let name = port.name.clone().unwrap_or_default();
        Ok(Port {
            protocol: protocol(&name, port.protocol.as_deref())?,
            port: port_number(&name, Some(port.port))?,
            name,
        })
    }));
    let client_ip_affinity = spec.and_then(|spec| spec.session_affinity.as_deref()) == Some("ClientIP");
    let preferred = match spec.and_then(|spec| spec.traffic_distribution.as_deref()) {
        None => TrafficDistribution::Any,
        Some("PreferClose" | "PreferSameZone") => TrafficDistribution::SameZone,
        Some("PreferSameNode") => TrafficDistribution::SameNode,
        Some(other) => {
            left_out.push(Untranslatable::TrafficDistribution(other.to_owned()));
            TrafficDistribution::Any
        }
    };
    let distribution = match spec.and_then(|spec| spec.internal_traffic_policy.as_deref()) {
        None | Some("Cluster") => preferred,
        Some("Local") => TrafficDistribution::OnlySameNode,
        Some(other) => {
            left_out.push(Untranslatable::InternalTrafficPolicy(other.to_owned()));
            preferred
        }
    };
    Translated { value: Offer { ports, client_ip_affinity, distribution }, left_out }
}

pub fn federated_service(federated: &api::FederatedService) -> Translated<Steering> {
    let status = federated.status.as_ref();
    let vips = status.map(|status| status.vips.as_slice()).unwrap_or_default();
    let (scopes, mut left_out) = sort_out(vips.iter().map(|vip| Ok((scope(vip)?, vip.ips.clone()))));
    let overprovisioning = match federated.spec.overprovisioning_percent {
        None => Overprovisioning::default(),
        Some(percent) => Overprovisioning::from_percent(percent).unwrap_or_else(|| {
            left_out.push(Untranslatable::Overprovisioning(percent));
            Overprovisioning::default()
        }),
    };
    let weights = federated.spec.weights.iter().map(|w| (ClusterName::from(&w.cluster), w.weight)).collect();
    let (health_check, faults) =
        federated.spec.health_check.as_ref().map(api::HealthCheckSpec::read).unwrap_or_default();
    left_out.extend(faults.into_iter().map(Untranslatable::HealthCheck));
    let vips = Arc::new(scopes.into_iter().collect());
    let mut ingress = BTreeMap::new();
    for shard in status.iter().flat_map(|status| &status.shards).filter(|shard| !shard.ingress.is_empty()) {
        let (points, unusable) =
            sort_out(shard.ingress.iter().map(|point| ingress_point(&shard.cluster, point)));
        left_out.extend(unusable);
        let state = match shard.state {
            api::ShardState::Healthy => ShardState::Healthy,
            api::ShardState::Unhealthy => ShardState::Unhealthy,
            api::ShardState::Unknown => ShardState::Unknown,
        };
        let points = points.into_iter().collect();
        ingress.insert(ClusterName::from(&shard.cluster), Ingress { points, state });
    }
    Translated { value: Steering { vips, weights, overprovisioning, health_check, ingress }, left_out }
}

/// No cluster may send clients from outside to themselves, or to their neighbours.
fn ingress_point(cluster: &str, point: &api::IngressStatus) -> Result<IngressPoint, Untranslatable> {
    let is_usable = |ip: &IpAddr| {
        let is_link_local = match ip {
            IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
            IpAddr::V6(v6) => v6.is_unicast_link_local(),
        };
        !(ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || is_link_local)
    };
    let found = match (point.ip, &point.hostname) {
        (Some(ip), _) => {
            Some(IngressPoint::Address(ip.to_canonical())).filter(|_| is_usable(&ip.to_canonical()))
        }
        (None, Some(name)) => {
            let name = name.trim_end_matches('.').to_ascii_lowercase();
            is_host_name(&name).then(|| IngressPoint::Host(name.into()))
        }
        (None, None) => None,
    };
    found.ok_or_else(|| Untranslatable::Ingress {
        cluster: cluster.to_owned(),
        point: point.ip.map(|ip| ip.to_string()).or_else(|| point.hostname.clone()).unwrap_or_default(),
    })
}

/// RFC 1123, 2.1.
fn is_host_name(name: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    name.len() <= 253 && name.split('.').all(is_label)
}

/// # Errors
/// It cannot be told whose endpoints these are, or how to reach them.
pub fn endpoint_slice(slice: &discovery::v1::EndpointSlice) -> Result<Translated<Slice>, Untranslatable> {
    let namespace = slice.metadata.namespace.as_deref().ok_or(Untranslatable::NoNamespace)?;
    let service = ServiceKey::new(namespace, label(slice, SERVICE_LABEL)?);
    let cluster = ClusterName::from(label(slice, CLUSTER_LABEL)?);
    let family = Family::named(&slice.address_type)?;

    let ports = slice.ports.as_deref().unwrap_or_default();
    let (ports, mut left_out) = sort_out(ports.iter().map(|port| {
        let name = port.name.clone().unwrap_or_default();
        let protocol = protocol(&name, port.protocol.as_deref())?;
        let number = port_number(&name, port.port)?;
        Ok(((name, protocol), number))
    }));
    let ports: Arc<BTreeMap<_, _>> = Arc::new(ports.into_iter().collect());
    let mut names = Shared::default();

    let (endpoints, unusable) = sort_out(slice.endpoints.iter().map(|endpoint| {
        Ok(Endpoint {
            // Addresses after the first have no meaning (`Endpoint.addresses` of `discovery.k8s.io/v1`).
            address: family.parse(endpoint.addresses.first().ok_or(Untranslatable::NoAddress)?)?,
            ports: Arc::clone(&ports),
            readiness: readiness(endpoint.conditions.as_ref()),
            node: endpoint.node_name.as_deref().map(|name| names.node(name)),
            zone: endpoint.zone.as_deref().map(|name| names.zone(name)),
        })
    }));
    left_out.extend(unusable);
    let endpoints: BTreeSet<_> = endpoints.into_iter().collect();
    let endpoints = endpoints.into_iter().collect();
    Ok(Translated { value: Slice { service, cluster, endpoints }, left_out })
}

/// Names that many endpoints of a slice have in common.
#[derive(Default)]
struct Shared<'a> {
    nodes: BTreeMap<&'a str, Arc<str>>,
    zones: BTreeMap<&'a str, Zone>,
}

impl<'a> Shared<'a> {
    fn node(&mut self, name: &'a str) -> Arc<str> {
        Arc::clone(self.nodes.entry(name).or_insert_with(|| name.into()))
    }

    fn zone(&mut self, name: &'a str) -> Zone {
        self.zones.entry(name).or_insert_with(|| name.into()).clone()
    }
}

/// As kube-proxy reads them: unset is ready, and what terminates may still serve (KEP-1669).
fn readiness(conditions: Option<&discovery::v1::EndpointConditions>) -> Readiness {
    let Some(conditions) = conditions else { return Readiness::Ready };
    let ready = conditions.ready.unwrap_or(true);
    let serving = conditions.serving.unwrap_or(ready);
    match (ready, serving && conditions.terminating == Some(true)) {
        (true, _) => Readiness::Ready,
        (false, true) => Readiness::Serving,
        (false, false) => Readiness::NotReady,
    }
}

fn scope(vip: &VipStatus) -> Result<Scope, Untranslatable> {
    let location = || vip.location.as_deref().ok_or(Untranslatable::NoLocation(vip.scope));
    Ok(match vip.scope {
        ScopeKind::Nearest => Scope::Nearest,
        ScopeKind::Global => Scope::Global,
        ScopeKind::Region => Scope::Region(Region::from(location()?)),
        ScopeKind::Zone => Scope::Zone(Zone::from(location()?)),
    })
}

/// TCP where none is named, as in every Kubernetes port.
fn protocol(port: &str, protocol: Option<&str>) -> Result<Protocol, Untranslatable> {
    match protocol {
        None | Some("TCP") => Ok(Protocol::Tcp),
        Some("UDP") => Ok(Protocol::Udp),
        Some("SCTP") => Ok(Protocol::Sctp),
        Some(other) => Err(Untranslatable::Protocol { port: port.to_owned(), protocol: other.to_owned() }),
    }
}

fn port_number(port: &str, number: Option<i32>) -> Result<u16, Untranslatable> {
    number
        .and_then(|number| u16::try_from(number).ok())
        .filter(|number| *number != 0)
        .ok_or_else(|| Untranslatable::PortNumber { port: port.to_owned(), number })
}

fn label<'a>(slice: &'a discovery::v1::EndpointSlice, name: &'static str) -> Result<&'a str, Untranslatable> {
    let labels = slice.metadata.labels.as_ref();
    labels.and_then(|labels| labels.get(name)).map(String::as_str).ok_or(Untranslatable::NoLabel(name))
}

/// The `addressType` of a slice.
#[derive(Clone, Copy)]
enum Family {
    V4,
    V6,
}

impl Family {
    fn named(address_type: &str) -> Result<Self, Untranslatable> {
        match address_type {
            "IPv4" => Ok(Self::V4),
            "IPv6" => Ok(Self::V6),
            other => Err(Untranslatable::AddressType(other.to_owned())),
        }
    }

    fn parse(self, address: &str) -> Result<IpAddr, Untranslatable> {
        let (parsed, family) = match self {
            Self::V4 => (address.parse().map(IpAddr::V4), "IPv4"),
            Self::V6 => (address.parse().map(IpAddr::V6), "IPv6"),
        };
        parsed.map_err(|_| Untranslatable::Address { address: address.to_owned(), family: family.to_owned() })
    }
}

fn sort_out<T>(parts: impl Iterator<Item = Result<T, Untranslatable>>) -> (Vec<T>, Vec<Untranslatable>) {
    let mut usable = Vec::new();
    let mut left_out = Vec::new();
    for part in parts {
        match part {
            Ok(part) => usable.push(part),
            Err(reason) => left_out.push(reason),
        }
    }
    (usable, left_out)
}

#[cfg(test)]
mod tests;
