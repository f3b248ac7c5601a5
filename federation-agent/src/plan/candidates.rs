//! Who serves a port of a service, and whether each may be chosen.

use std::{net::SocketAddr, sync::Arc};

use super::{Backend, Health, Place, ShardHealth, Verdict, tiers};
use crate::model::{
    Endpoint, Federation, Locality, Port, Protocol, Readiness, Scope, Service, ServiceKey,
    TrafficDistribution,
};

/// Everybody who serves one port of a service, as each scope sees them.
pub(super) struct Candidates {
    all: Vec<Candidate>,
    /// As scope Nearest sees them, where it keeps to the client's node.
    nearest: Option<Vec<Candidate>>,
}

/// An endpoint that serves the port in question, judged.
pub(super) struct Candidate {
    pub backend: Arc<Backend>,
    pub locality: Locality,
    pub node: Option<Arc<str>>,
    pub weight: u16,
    pub standing: Standing,
}

/// Whether an endpoint may be chosen (DESIGN: usable endpoints).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    Usable,
    /// Not on the client's node, which the service's clients keep to.
    OffNode,
    /// Its cluster says that it must not serve.
    NotReady,
    /// Packets cannot be made to reach it.
    Unreachable,
    /// Terminating beside others that are ready: takes no new connection and is expected to go.
    Leaving,
    /// Health has given it up.
    Failed,
    /// Health suspects this node more than the endpoint: chosen when nobody else is left.
    Doubted,
    /// Its traffic failed. Of a tier the lower half of the ranks is left out at most.
    Ejected {
        rank: u64,
    },
}

/// How far clients may be sent.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reach {
    Everywhere,
    Node,
}

impl Candidates {
    pub(super) fn of(
        federation: &Federation,
        key: &ServiceKey,
        service: &Service,
        port: &Port,
        place: &Place,
        health: &Health,
    ) -> Self {
        let judged = |reach| judge(federation, key, service, port, place, health, reach);
        Self { all: judged(Reach::Everywhere), nearest: keeps_to_node(service).then(|| judged(Reach::Node)) }
    }

    pub(super) fn of_scope(&self, scope: &Scope) -> &[Candidate] {
        match (scope, &self.nearest) {
            (Scope::Nearest, Some(nearest)) => nearest,
            _ => &self.all,
        }
    }

    /// Whom health has given up.
    pub(super) fn failed(&self) -> impl Iterator<Item = Arc<Backend>> {
        self.all.iter().filter(|c| c.standing == Standing::Failed).map(|c| c.backend.clone())
    }
}

fn keeps_to_node(service: &Service) -> bool {
    service.distribution == TrafficDistribution::OnlySameNode
}

fn judge(
    federation: &Federation,
    key: &ServiceKey,
    service: &Service,
    port: &Port,
    place: &Place,
    health: &Health,
    reach: Reach,
) -> Vec<Candidate> {
    let mut candidates = Vec::new();
    for (name, shard) in &service.shards {
        // A shard of a cluster that left the federation stands nowhere: nobody can tell how far it is.
        let Some(cluster) = federation.clusters.get(name) else { continue };
        let is_local = |endpoint: &Endpoint| {
            *name == place.locality.cluster && endpoint.node.as_deref() == Some(&place.node)
        };
        let is_in_reach = |endpoint: &Endpoint| reach == Reach::Everywhere || is_local(endpoint);
        let verdicts = health.of(key, name);
        let verdict = |endpoint: &Endpoint, address| {
            verdict(service, verdicts?, (address, port.protocol), is_local(endpoint))
        };
        let is_well = |endpoint: &Endpoint| {
            let verdict = endpoint.serves(port).and_then(|address| verdict(endpoint, address));
            endpoint.readiness == Readiness::Ready && matches!(verdict, None | Some(Verdict::Ejected { .. }))
        };
        let has_ready = shard.endpoints.iter().any(|endpoint| is_in_reach(endpoint) && is_well(endpoint));
        for endpoint in shard.endpoints.iter() {
            let Some(address) = endpoint.serves(port) else { continue };
            let standing = match (verdict(endpoint, address), endpoint.readiness) {
                _ if !is_in_reach(endpoint) => Standing::OffNode,
                (Some(Verdict::Failed { .. }), _) => Standing::Failed,
                _ if !is_translatable(port, address) => Standing::Unreachable,
                (_, Readiness::Serving) if has_ready => Standing::Leaving,
                (_, Readiness::NotReady) => Standing::NotReady,
                (Some(Verdict::Doubted { .. }), _) => Standing::Doubted,
                (Some(Verdict::Ejected { rank, .. }), _) => Standing::Ejected { rank: *rank },
                (None, Readiness::Ready | Readiness::Serving) => Standing::Usable,
            };
            let local = is_local(endpoint);
            let backend = Backend { address, protocol: port.protocol, cluster: name.clone(), local };
            candidates.push(Candidate {
                backend: Arc::new(backend),
                locality: tiers::locality(name, cluster, endpoint),
                node: endpoint.node.clone(),
                weight: shard.weight,
                standing,
            });
        }
    }
    candidates
}

/// What health says against an endpoint. Where clients keep to their node, one that is there answers for itself alone:
/// others of its shard that are silent would have clients refused whom it can serve.
pub(super) fn verdict<'a>(
    service: &Service,
    shard: &'a ShardHealth,
    (address, protocol): (SocketAddr, Protocol),
    local: bool,
) -> Option<&'a Verdict> {
    if local && keeps_to_node(service) {
        shard.endpoints.get(&(address, protocol))
    } else {
        shard.verdict(address, protocol)
    }
}

/// SCTP's checksum covers the whole packet, ports and all (RFC 9260, section 6.8), and is not the kind that can be corrected
/// in passing: its port must stay what it is.
fn is_translatable(port: &Port, backend: SocketAddr) -> bool {
    port.protocol != Protocol::Sctp || backend.port() == port.port
}
