//! From what is known (the federation, where this node stands, who is healthy) to what the data plane shall do.
//!
//! Pure: no clock, no I/O, no map. The same input gives the same plan on every node.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use crate::model::{
    ClusterName, Endpoint, Federation, Locality, Port, Protocol, Readiness, Scope, Service, ServiceKey,
};

mod health;
pub mod maglev;
mod shares;
mod tiers;

pub use health::{Distance, Health, ServiceHealth, ShardHealth, Verdict};
use tiers::Ruler;

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

/// The node that a plan is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub locality: Locality,
    /// Its name in its cluster.
    pub node: String,
}

/// Plans every service of the federation for one node.
pub fn plan(federation: &Federation, place: &Place, health: &Health) -> Plan {
    let mut plan = Plan::default();
    for (key, service) in &federation.services {
        plan_service(&mut plan, federation, key, service, place, health);
    }
    plan
}

fn plan_service(
    plan: &mut Plan,
    federation: &Federation,
    key: &ServiceKey,
    service: &Service,
    place: &Place,
    health: &Health,
) {
    for port in &service.ports {
        let candidates = candidates(federation, key, service, port, place, health);
        plan.dead
            .extend(candidates.iter().filter(|c| c.standing == Standing::Failed).map(|c| c.backend.clone()));
        for (scope, vips) in &service.vips {
            let ruler = Ruler::new(scope, &place.locality, federation);
            for vip in vips {
                let of_family = candidates.iter().filter(|c| c.backend.address.is_ipv4() == vip.is_ipv4());
                let tiers = shares::tiers(of_family, |candidate| ruler.tier(&candidate.locality));
                let target = Target {
                    service: key.clone(),
                    scope: scope.clone(),
                    client_ip_affinity: service.client_ip_affinity,
                    backends: shares::share(&tiers, service.overprovisioning),
                };
                plan.frontends
                    .insert(Frontend { vip: *vip, protocol: port.protocol, port: port.port }, target);
            }
        }
    }
}

/// An endpoint that serves the port in question, judged.
struct Candidate {
    backend: Backend,
    locality: Locality,
    weight: u16,
    standing: Standing,
}

/// Whether an endpoint may be chosen (DESIGN: usable endpoints).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Usable,
    /// Would serve, but its cluster says that it must not, or packets cannot be made to reach it.
    NotReady,
    /// Terminating beside others that are ready: takes no new connection and is expected to go.
    Leaving,
    /// Health has given it up.
    Failed,
}

fn candidates(
    federation: &Federation,
    key: &ServiceKey,
    service: &Service,
    port: &Port,
    place: &Place,
    health: &Health,
) -> Vec<Candidate> {
    let mut candidates = Vec::new();
    for (name, shard) in &service.shards {
        // A shard of a cluster that left the federation stands nowhere: nobody can tell how far it is.
        let Some(cluster) = federation.clusters.get(name) else { continue };
        let verdicts = health.of(key, name);
        let verdict = |endpoint: &Endpoint| {
            verdicts.zip(endpoint.serves(port)).and_then(|(v, address)| v.verdict(address, port.protocol))
        };
        let failed = |endpoint: &Endpoint| matches!(verdict(endpoint), Some(Verdict::Failed { .. }));
        let has_ready = shard.endpoints.iter().any(|e| e.readiness == Readiness::Ready && !failed(e));
        for endpoint in &shard.endpoints {
            let Some(address) = endpoint.serves(port) else { continue };
            let standing = match endpoint.readiness {
                _ if failed(endpoint) => Standing::Failed,
                _ if !is_translatable(port, address) => Standing::NotReady,
                Readiness::Serving if has_ready => Standing::Leaving,
                Readiness::Ready | Readiness::Serving => Standing::Usable,
                Readiness::NotReady => Standing::NotReady,
            };
            let local = *name == place.locality.cluster && endpoint.node.as_ref() == Some(&place.node);
            candidates.push(Candidate {
                backend: Backend { address, protocol: port.protocol, cluster: name.clone(), local },
                locality: tiers::locality(name, cluster, endpoint),
                weight: shard.weight,
                standing,
            });
        }
    }
    candidates
}

/// SCTP's checksum covers the whole packet, ports and all (RFC 9260, section 6.8), and is not the kind that can be corrected
/// in passing: its port must stay what it is.
fn is_translatable(port: &Port, backend: SocketAddr) -> bool {
    port.protocol != Protocol::Sctp || backend.port() == port.port
}

#[cfg(test)]
mod tests;
