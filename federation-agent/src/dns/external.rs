//! Where clients from outside, who cannot reach a VIP, are sent: to the shards' own ingress addresses. Pure.
//!
//! Hierarchical, as names are: a zone stands for its healthy shards, or where it has none for its region, and that for the
//! whole federation.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use crate::{
    model::{
        Cluster, ClusterName, Federation, HostName, IngressPoint, Readiness, Region, Scope, Service,
        ServiceKey, Shard, ShardState, Zone,
    },
    plan::{Health, ShardHealth, Verdict},
};

/// The addresses of load balancers that are known by a name alone.
pub type Hosts = BTreeMap<HostName, BTreeSet<IpAddr>>;

/// What a name of the external view leads to.
#[derive(Debug, PartialEq, Eq)]
pub enum Target {
    Addresses(BTreeSet<IpAddr>),
    /// The load balancer's own name, which follows its addresses.
    Host(HostName),
    /// Nobody here is healthy: the next wider scope.
    Wider(Scope),
    /// Nobody anywhere is.
    Nowhere,
}

/// Where `scope` of a service leads. Without `health`, what the Federation API says of shards counts.
pub fn target(
    federation: &Federation,
    health: Option<&Health>,
    hosts: &Hosts,
    (key, service): (&ServiceKey, &Service),
    scope: &Scope,
) -> Target {
    let found = Federated { federation, health, key, service };
    let healthy = found.points(scope, &found.serving());
    if !healthy.is_empty() {
        return led_to(&healthy, hosts);
    }
    match wider(&federation.clusters, scope) {
        Some(wider) => Target::Wider(wider),
        None => Target::Nowhere,
    }
}

/// Every name that a load balancer of the federation is known by.
pub fn host_names(federation: &Federation) -> BTreeSet<HostName> {
    let points = federation.services.values().flat_map(|service| service.ingress.values());
    points
        .flat_map(|ingress| &ingress.points)
        .filter_map(|point| if let IngressPoint::Host(name) = point { Some(name.clone()) } else { None })
        .collect()
}

struct Federated<'f> {
    federation: &'f Federation,
    health: Option<&'f Health>,
    key: &'f ServiceKey,
    service: &'f Service,
}

impl<'f> Federated<'f> {
    /// The shards that are sent clients.
    ///
    /// A shard of which nothing is known is no dead one: where none is known to be healthy, for the clusters' APIs are
    /// silent, those are what is left.
    fn serving(&self) -> BTreeSet<&'f ClusterName> {
        let of_state = |wanted| {
            let shards = self.service.ingress.iter().filter(move |(cluster, ingress)| {
                !ingress.points.is_empty() && self.state(cluster, ingress.state) == wanted
            });
            shards.map(|(cluster, _)| cluster).collect::<BTreeSet<_>>()
        };
        let healthy = of_state(ShardState::Healthy);
        if healthy.is_empty() { of_state(ShardState::Unknown) } else { healthy }
    }

    /// What this node has seen itself counts more than what the Federation API says.
    fn state(&self, cluster: &ClusterName, said: ShardState) -> ShardState {
        let Some(health) = self.health else { return said };
        let Some(shard) = self.service.shards.get(cluster) else { return ShardState::Unhealthy };
        let default = ShardHealth::default();
        let health = health.of(self.key, cluster).unwrap_or(&default);
        if serves(self.service, shard, health) { ShardState::Healthy } else { ShardState::Unhealthy }
    }

    /// Where the shards of a scope are met, of those clusters.
    fn points(&self, scope: &Scope, clusters: &BTreeSet<&ClusterName>) -> BTreeSet<&'f IngressPoint> {
        let lies_in = |name: &ClusterName| {
            let Some(cluster) = self.federation.clusters.get(name) else { return false };
            match scope {
                Scope::Nearest | Scope::Global => true,
                Scope::Region(region) => cluster.region == *region,
                Scope::Zone(zone) => cluster.zones.contains(zone),
            }
        };
        let shards = self.service.ingress.iter();
        shards
            .filter(|(cluster, _)| clusters.contains(cluster) && lies_in(cluster))
            .flat_map(|(_, ingress)| &ingress.points)
            .collect()
    }
}

/// Whether some endpoint of a shard serves some port.
fn serves(service: &Service, shard: &Shard, health: &ShardHealth) -> bool {
    shard.endpoints.iter().filter(|endpoint| endpoint.readiness != Readiness::NotReady).any(|endpoint| {
        let mut served =
            service.ports.iter().filter_map(|port| Some((endpoint.serves(port)?, port.protocol)));
        served.any(|(address, protocol)| {
            // One that is doubted, or was ejected for a while, is no dead one.
            !matches!(health.verdict(address, protocol), Some(Verdict::Failed { .. }))
        })
    })
}

fn led_to(points: &BTreeSet<&IngressPoint>, hosts: &Hosts) -> Target {
    let names: Vec<_> = points
        .iter()
        .filter_map(|point| if let IngressPoint::Host(name) = point { Some(name) } else { None })
        .collect();
    if let ([name], 1) = (&names[..], points.len()) {
        return Target::Host((*name).clone());
    }
    let own = points
        .iter()
        .filter_map(|point| if let IngressPoint::Address(ip) = point { Some(*ip) } else { None });
    let looked_up = names.iter().filter_map(|name| hosts.get(*name)).flatten().copied();
    let addresses: BTreeSet<_> = own.chain(looked_up).collect();
    match names.first() {
        // Not looked up yet, or in vain: one of them is better than none.
        Some(name) if addresses.is_empty() => Target::Host((*name).clone()),
        _ => Target::Addresses(addresses),
    }
}

fn wider(clusters: &BTreeMap<ClusterName, Cluster>, scope: &Scope) -> Option<Scope> {
    match scope {
        Scope::Nearest | Scope::Global => None,
        Scope::Region(_) => Some(Scope::Global),
        Scope::Zone(zone) => Some(region_of(clusters, zone).map_or(Scope::Global, Scope::Region)),
    }
}

fn region_of(clusters: &BTreeMap<ClusterName, Cluster>, zone: &Zone) -> Option<Region> {
    clusters.values().find(|cluster| cluster.zones.contains(zone)).map(|cluster| cluster.region.clone())
}
