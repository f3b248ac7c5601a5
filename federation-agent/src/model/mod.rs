//! The federation as the data plane sees it: clusters, services, shards and their endpoints.
//!
//! Values only. Nothing here knows Kubernetes, the kernel or a clock; `node` translates watched objects into
//! these, `plan` decides on them, `dns` names them.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use imbl::OrdMap;
use serde::{Deserialize, Serialize};

mod changes;
mod health_check;
mod ingress;
mod name;
mod pairs;

pub use changes::{Change, changes};
pub use health_check::{HealthCheck, Question};
pub use ingress::{Ingress, IngressPoint, ShardState};
pub use name::{ClusterName, HostName, Region, ServiceKey, Zone};

/// Everything that a node knows of its federation. Cheap to clone and to change one service of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Federation {
    pub clusters: BTreeMap<ClusterName, Cluster>,
    pub services: OrdMap<ServiceKey, Arc<Service>>,
}

/// A member cluster's place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cluster {
    pub provider: Arc<str>,
    pub region: Region,
    /// The zones that it spans, its first is where an endpoint stands that names none. Never empty.
    pub zones: Vec<Zone>,
}

/// Where a node or an endpoint stands.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Locality {
    pub provider: Arc<str>,
    pub region: Region,
    pub zone: Zone,
    pub cluster: ClusterName,
}

/// Which shards a VIP prefers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Scope {
    Nearest,
    Global,
    Region(Region),
    Zone(Zone),
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nearest => f.write_str("Nearest"),
            Self::Global => f.write_str("Global"),
            Self::Region(region) => write!(f, "Region({region})"),
            Self::Zone(zone) => write!(f, "Zone({zone})"),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        })
    }
}

/// A federated service with the shards that its clusters announce.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    pub ports: Vec<Port>,
    /// At most one address of each family a scope.
    #[serde(with = "pairs")]
    pub vips: Arc<BTreeMap<Scope, Vec<IpAddr>>>,
    pub shards: BTreeMap<ClusterName, Shard>,
    /// Where the shards are met from outside, of those that are.
    pub ingress: BTreeMap<ClusterName, Ingress>,
    /// Session affinity `ClientIP`.
    pub client_ip_affinity: bool,
    pub overprovisioning: Overprovisioning,
    pub distribution: TrafficDistribution,
    pub health_check: HealthCheck,
}

/// Which endpoints of a client's own cluster are preferred (`trafficDistribution` of a Service), or the only ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum TrafficDistribution {
    #[default]
    Any,
    /// `PreferSameZone`, and `PreferClose`, its older name (KEP-3015).
    SameZone,
    /// `PreferSameNode`: the client's node, then its zone.
    SameNode,
    /// `internalTrafficPolicy: Local`, whatever is preferred: the client's node, and nobody beyond it.
    OnlySameNode,
}

/// How much more than its healthy part a tier may carry before load spills over to the next, in per cent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overprovisioning(u16);

impl Overprovisioning {
    /// `None` below 100 per cent, where a healthy tier would turn load away.
    pub fn from_percent(percent: u16) -> Option<Self> {
        (percent >= 100).then_some(Self(percent))
    }

    pub fn percent(self) -> u16 {
        self.0
    }
}

impl Default for Overprovisioning {
    fn default() -> Self {
        Self(140)
    }
}

/// A port that the service's VIPs serve.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Port {
    /// Empty where the Service's only port has no name; shards' endpoints are matched by it.
    pub name: String,
    pub protocol: Protocol,
    pub port: u16,
}

/// The service in one cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shard {
    /// 0 to 1000; 0 means only when nothing else is left.
    pub weight: u16,
    /// By address, each once.
    pub endpoints: Arc<[Endpoint]>,
}

impl Shard {
    pub const DEFAULT_WEIGHT: u16 = 100;
}

/// One pod address of a shard, with the ports that it serves.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Endpoint {
    pub address: IpAddr,
    /// Port name and protocol to number: the same for many endpoints.
    #[serde(with = "pairs")]
    pub ports: Arc<BTreeMap<(String, Protocol), u16>>,
    pub readiness: Readiness,
    /// The node that runs it, as its cluster names it.
    pub node: Option<Arc<str>>,
    pub zone: Option<Zone>,
}

impl Endpoint {
    /// Where it serves `port`, if it does.
    pub fn serves(&self, port: &Port) -> Option<SocketAddr> {
        // Few, and to look one up would take a copy of its name.
        let is_it = |(name, protocol): &(String, Protocol)| *name == port.name && *protocol == port.protocol;
        let number = self.ports.iter().find_map(|(key, number)| is_it(key).then_some(*number))?;
        Some(SocketAddr::new(self.address, number))
    }
}

/// What its cluster says of an endpoint (`EndpointConditions` of `discovery.k8s.io/v1`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Readiness {
    Ready,
    /// Terminating, but still serving: used when a shard has no ready endpoint (KEP-1669).
    Serving,
    /// Not serving; counts in what its tier could carry at full health.
    NotReady,
}
