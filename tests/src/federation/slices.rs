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

/// The slices of `shard`, for the families that it has. Of each server: whether it is ready.
///
/// # Errors
/// The shard has a family that is none.
pub fn slices(shard: &Service, servers: &[(Pod, bool)], zone: &str) -> Result<Vec<EndpointSlice>> {
    let families = shard.spec.iter().flat_map(|spec| spec.ip_families.iter().flatten());
    families.map(|family| Ok(slice(shard, Family::named(family)?, servers, zone))).collect()
}

fn slice(shard: &Service, family: Family, servers: &[(Pod, bool)], zone: &str) -> EndpointSlice {
    let endpoints = servers.iter().map(|(pod, ready)| Endpoint {
        addresses: vec![family.address(pod).to_string()],
        conditions: Some(EndpointConditions {
            ready: Some(*ready),
            serving: Some(*ready),
            terminating: Some(false),
        }),
        node_name: Some(pod.node_name().to_owned()),
        target_ref: Some(ObjectReference {
            kind: Some("Pod".to_owned()),
            name: Some(pod.name().to_owned()),
            ..ObjectReference::default()
        }),
        zone: Some(zone.to_owned()),
        ..Endpoint::default()
    });
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

    fn address(self, pod: &Pod) -> IpAddr {
        match self {
            Self::V4 => pod.address().into(),
            Self::V6 => pod.address_v6().into(),
        }
    }
}
