//! Where a shard is met by clients from outside of the federation.

use std::{collections::BTreeSet, net::IpAddr};

use serde::{Deserialize, Serialize};

use super::HostName;

/// What a shard's own cluster has put before it: its load balancers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ingress {
    pub points: BTreeSet<IngressPoint>,
    pub state: ShardState,
}

/// A load balancer, as its provider tells of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum IngressPoint {
    Address(IpAddr),
    /// A name, whose addresses the provider may change.
    Host(HostName),
}

/// What the controller says of a shard: all that is known of its health where nobody probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ShardState {
    Healthy,
    Unhealthy,
    /// Its cluster's API is silent, which says nothing about the pods.
    Unknown,
}
