//! Why the next connection goes where it goes: the plan's reasons, for people.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use serde::{Deserialize, Serialize};

use super::{
    Backend, Candidate, Candidates, Health, Place, Standing, Tier, Verdict, candidates, shares, tiers::Ruler,
    tiers_of,
};
use crate::model::{Federation, Locality, Service, ServiceKey};

/// One (VIP, protocol, port) and everybody who could serve it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    pub vip: SocketAddr,
    pub protocol: String,
    pub scope: String,
    /// One client's connections stay together.
    pub client_ip_affinity: bool,
    /// The nearest first.
    pub tiers: Vec<TierLine>,
    /// By tier.
    pub endpoints: Vec<EndpointLine>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TierLine {
    pub name: String,
    pub usable: usize,
    pub total: u64,
    /// Of all connections, in per cent.
    pub percent: f64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EndpointLine {
    pub address: SocketAddr,
    pub cluster: String,
    pub zone: String,
    pub node: Option<String>,
    pub tier: String,
    /// Of all connections, in per cent.
    pub percent: f64,
    /// The rule that it gets this by.
    pub why: String,
}

/// Every frontend of a service, or only those of one VIP, as clients at `place` meet them. Nothing where there is no
/// such service.
pub fn explain(
    federation: &Federation,
    place: &Place,
    health: &Health,
    key: &ServiceKey,
    vip: Option<IpAddr>,
) -> Vec<Explanation> {
    let Some(service) = federation.services.get(key) else { return Vec::new() };
    let mut explanations = Vec::new();
    for port in &service.ports {
        let candidates = Candidates::of(federation, key, service, port, place, health);
        for (scope, vips) in service.vips.iter() {
            let candidates = candidates.of_scope(scope);
            let ruler = Ruler::new(scope, place, service.distribution, federation, health);
            for address in vips.iter().filter(|address| vip.is_none_or(|vip| vip == **address)) {
                let tiers = tiers_of(candidates, &ruler, *address);
                let division = Division { split: shares::split(&tiers, service.overprovisioning), tiers };
                let of_family =
                    candidates.iter().filter(|c| c.backend.address.is_ipv4() == address.is_ipv4());
                let mut endpoints: Vec<_> = of_family
                    .map(|candidate| {
                        let tier = ruler.tier(&candidate.locality, candidate.backend.local);
                        (tier, division.endpoint(candidate, tier, evidence(health, key, service, candidate)))
                    })
                    .collect();
                endpoints.sort_by(|(a, one), (b, other)| (a, one.address).cmp(&(b, other.address)));
                explanations.push(Explanation {
                    vip: SocketAddr::new(*address, port.port),
                    protocol: port.protocol.to_string(),
                    scope: scope.to_string(),
                    client_ip_affinity: service.client_ip_affinity,
                    tiers: division.tiers(),
                    endpoints: endpoints.into_iter().map(|(_, line)| line).collect(),
                });
            }
        }
    }
    explanations
}

/// What health says against an endpoint.
fn evidence<'a>(health: &'a Health, key: &ServiceKey, service: &Service, candidate: &Candidate) -> &'a str {
    let Backend { address, protocol, cluster, local } = &*candidate.backend;
    let shard = health.of(key, cluster);
    let verdict = shard.and_then(|shard| candidates::verdict(service, shard, (*address, *protocol), *local));
    verdict.map(Verdict::evidence).unwrap_or_default()
}

/// How the connections to one frontend are divided.
struct Division<'a> {
    tiers: shares::Tiers<'a>,
    split: shares::Split,
}

impl Division<'_> {
    fn percent(&self, part: u64) -> f64 {
        match self.split.taken.values().sum::<u64>() {
            0 => 0.0,
            borne => part as f64 * 100.0 / borne as f64,
        }
    }

    fn tiers(&self) -> Vec<TierLine> {
        let line = |(tier, members): (&Tier, &shares::Members<'_>)| TierLine {
            name: tier.to_string(),
            usable: members.usable.len(),
            total: members.total(),
            percent: self.percent(self.split.taken.get(tier).copied().unwrap_or(0)),
        };
        self.tiers.iter().map(line).collect()
    }

    fn endpoint(&self, candidate: &Candidate, tier: Tier, evidence: &str) -> EndpointLine {
        let part = self.split.backends.get(&candidate.backend).copied().unwrap_or(0);
        let ejected = self.tiers.get(&tier).map_or(&[][..], |members| &members.ejected);
        let is_ejected = ejected.iter().any(|other| other.backend == candidate.backend);
        EndpointLine {
            address: candidate.backend.address,
            cluster: candidate.backend.cluster.to_string(),
            zone: candidate.locality.zone.to_string(),
            node: candidate.node.as_deref().map(str::to_owned),
            tier: tier.to_string(),
            percent: self.percent(part.into()),
            why: why(candidate, part, is_ejected, evidence),
        }
    }
}

fn why(candidate: &Candidate, part: u32, ejected: bool, evidence: &str) -> String {
    match candidate.standing {
        Standing::OffNode => "not on the client's node, and internalTrafficPolicy is Local".to_owned(),
        Standing::NotReady => "not ready, by its cluster's word".to_owned(),
        Standing::Unreachable => "SCTP cannot be sent to another port than the VIP's".to_owned(),
        Standing::Leaving => "terminating, while others of its shard are ready".to_owned(),
        Standing::Failed => format!("out: {evidence}"),
        Standing::Doubted if part > 0 => format!("a last resort: {evidence}"),
        Standing::Doubted => format!("doubted, as this node's own network may be at fault: {evidence}"),
        Standing::Ejected { .. } if ejected => format!("ejected: {evidence}"),
        Standing::Ejected { .. } => {
            format!("stays, since half of its tier is ejected already: {evidence}")
        }
        Standing::Usable if part == 0 && candidate.weight == 0 => {
            "weight 0: only when nothing else is left".to_owned()
        }
        Standing::Usable if part == 0 => "well, but nearer tiers take everything".to_owned(),
        Standing::Usable => "well".to_owned(),
    }
}

/// Where clients stand that `from` names: an endpoint's address, a node (`NODE` or `CLUSTER/NODE`) that has endpoints, or
/// a cluster.
///
/// # Errors
/// Nobody is known by that name, or more than one.
pub fn place_of(federation: &Federation, from: &str) -> Result<Place, String> {
    let address: Option<IpAddr> = from.parse().ok();
    let mut places: BTreeMap<(String, String), Place> = BTreeMap::new();
    for service in federation.services.values() {
        for (name, shard) in &service.shards {
            let Some(cluster) = federation.clusters.get(name) else { continue };
            for endpoint in shard.endpoints.iter() {
                let Some(node) = endpoint.node.as_deref() else { continue };
                let named = match address {
                    Some(address) => endpoint.address == address,
                    None => from == node || from.split_once('/') == Some((name.as_str(), node)),
                };
                if named {
                    let locality = super::tiers::locality(name, cluster, endpoint);
                    let place = Place { locality, node: node.to_owned() };
                    places.insert((name.to_string(), node.to_owned()), place);
                }
            }
        }
    }
    let mut places = places.into_iter();
    match (places.next(), places.next()) {
        (Some((_, place)), None) => Ok(place),
        (Some(((one, node), _)), Some(((other, _), _))) => {
            Err(format!("more than one cluster has a node {node}: name {one}/{node} or {other}/{node}"))
        }
        (None, _) => in_cluster(federation, from),
    }
}

fn in_cluster(federation: &Federation, from: &str) -> Result<Place, String> {
    let Some((name, cluster)) = federation.clusters.get_key_value(from) else {
        let known: Vec<_> = federation.clusters.keys().map(ToString::to_string).collect();
        return Err(format!(
            "{from} is neither an endpoint's address, nor a node with endpoints, nor a cluster (which are: {})",
            known.join(", ")
        ));
    };
    let locality = Locality {
        provider: cluster.provider.clone(),
        region: cluster.region.clone(),
        zone: cluster.zones[0].clone(),
        cluster: name.clone(),
    };
    Ok(Place { locality, node: String::new() })
}
