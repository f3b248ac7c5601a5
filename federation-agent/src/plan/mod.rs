//! From what is known (the federation, where this node stands, who is healthy) to what the data plane shall do.
//!
//! Pure: no clock, no I/O, no map. The same input gives the same plan on every node.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use crate::model::{ClusterName, Protocol, Scope, ServiceKey};

/// What packets to one (VIP, protocol, port) shall meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Frontend {
    pub vip: IpAddr,
    pub protocol: Protocol,
    pub port: u16,
}

/// Where the data plane sends to. Its identity is address and port: two shards' endpoints never share one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Backend {
    pub address: SocketAddr,
    pub protocol: Protocol,
    pub cluster: ClusterName,
    /// Runs on the node that this plan is for.
    pub local: bool,
}

/// The backends of one frontend and each one's part of the load.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    pub service: ServiceKey,
    pub scope: Scope,
    pub client_ip_affinity: bool,
    /// Weights above 0, in parts of their sum. Empty: the frontend rejects.
    pub backends: BTreeMap<Backend, u32>,
}

/// The desired data plane of one node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    pub frontends: BTreeMap<Frontend, Target>,
    /// Backends that health has given up. One that is in no target and not here drains: its flows go on.
    pub dead: BTreeSet<Backend>,
}
