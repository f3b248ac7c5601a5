//! The endpoint controller's part: what a cluster's API says of a shard's endpoints, one slice for each IP family.

use std::net::IpAddr;

use anyhow::{Result, bail};
use k8s_openapi::{
    api::{
        core::v1::{ObjectReference, Service},
        discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice},
    },
    apimachinery::pkg::util::intstr::IntOrString,
};
use kube::{ResourceExt as _, api::ObjectMeta};

use crate::lab::Pod;

#[derive(Clone, Copy)]
enum Family {
    V4,
    V6,
}

/// One endpoint, as its cluster's API lists it.
#[derive(Clone, Debug)]
pub struct Listed {
    pub pod: String,
    pub node: String,
    /// At most one of each family.
    pub addresses: Vec<IpAddr>,
    pub ready: bool,
}

/// The slices of `shard`, for the families that it has.
///
/// # Errors
/// The shard has a family that is none.
pub fn slices(shard: &Service, endpoints: &[Listed], zone: &str) -> Result<Vec<EndpointSlice>> {
    let families = shard.spec.iter().flat_map(|spec| spec.ip_families.iter().flatten());
    families.map(|family| Ok(slice(shard, Family::named(family)?, endpoints, zone))).collect()
}

fn slice(shard: &Service, family: Family, endpoints: &[Listed], zone: &str) -> EndpointSlice {
    let endpoint = |listed: &Listed| Endpoint {
        addresses: listed.addresses.iter().filter(|ip| family.has(**ip)).map(IpAddr::to_string).collect(),
        conditions: Some(EndpointConditions {
            ready: Some(listed.ready),
            serving: Some(listed.ready),
            terminating: Some(false),
        }),
        node_name: Some(listed.node.clone()),
        target_ref: Some(ObjectReference {
            kind: Some("Pod".to_owned()),
            name: Some(listed.pod.clone()),
            ..ObjectReference::default()
        }),
        zone: Some(zone.to_owned()),
        ..Endpoint::default()
    };
    let endpoints = endpoints.iter().map(endpoint).filter(|endpoint| !endpoint.addresses.is_empty());
    let ports = shard.spec.iter().flat_map(|spec| spec.ports.iter().flatten()).map(|port| EndpointPort {
        name: port.name.clone(),
        protocol: port.protocol.clone(),
        port: match port.target_port {
            Some(IntOrString::Int(number)) => Some(number),
            _ => Some(port.port),
        },
        ..EndpointPort::default()
    });
    let name = shard.name_any();
    let slice_name = format!("{name}-{}", family.suffix());
    let labels = [
        ("kubernetes.io/service-name", name.as_str()),
        ("endpointslice.kubernetes.io/managed-by", "endpointslice-controller.k8s.io"),
    ];
    EndpointSlice {
        metadata: ObjectMeta {
            name: Some(slice_name),
            labels: Some(labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into()),
            ..ObjectMeta::default()
        },
        address_type: family.name().to_owned(),
        endpoints: endpoints.collect(),
        ports: Some(ports.collect()),
    }
}

// === impl Family ===

impl Family {
    fn named(name: &str) -> Result<Self> {
        match name {
            "IPv4" => Ok(Self::V4),
            "IPv6" => Ok(Self::V6),
            other => bail!("{other:?} is not an IP family"),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }

    /// What tells the slices of one shard apart.
    fn suffix(self) -> &'static str {
        match self {
            Self::V4 => "1",
            Self::V6 => "v6",
        }
    }

    fn has(self, address: IpAddr) -> bool {
        match self {
            Self::V4 => address.is_ipv4(),
            Self::V6 => address.is_ipv6(),
        }
    }
}

// === impl Listed ===

impl Listed {
    pub(super) fn new(pod: &Pod, ready: bool) -> Self {
        Self {
            pod: pod.name().to_owned(),
            node: pod.node_name().to_owned(),
            addresses: vec![pod.address().into(), pod.address_v6().into()],
            ready,
        }
    }
}
