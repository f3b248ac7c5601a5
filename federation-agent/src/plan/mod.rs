//! From what is known (the federation, where this node stands, who is healthy) to what the data plane shall do.
//!
//! Pure: no clock, no I/O, no map. The same input gives the same plan on every node.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use imbl::OrdMap;

use crate::model::{ClusterName, Federation, Locality, Protocol, Scope, Service, ServiceKey, changes};

mod candidates;
mod explain;
mod health;
pub mod maglev;
mod shares;
mod tiers;

use candidates::{Candidate, Candidates, Standing};
pub use explain::{EndpointLine, Explanation, TierLine, explain, place_of};
pub use health::{Distance, Health, ServiceHealth, ShardHealth, Verdict};
use tiers::Ruler;
pub use tiers::{Far, Tier};

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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub scope: Scope,
    pub client_ip_affinity: bool,
    /// Weights above 0, in parts of their sum. Empty: the frontend rejects.
    pub backends: BTreeMap<Arc<Backend>, u32>,
    /// The weights of the nearest tier at full health, where somebody of it is missing: whoever is there keeps the
    /// connections that are his then.
    pub full: BTreeMap<Arc<Backend>, u32>,
    /// Weights of those beyond the nearest tier that serves: for clients that it does not answer.
    pub fallback: BTreeMap<Arc<Backend>, u32>,
}

impl Target {
    /// Of scope Nearest, where all is well.
    pub fn of(backends: impl IntoIterator<Item = (Backend, u32)>) -> Self {
        Self {
            scope: Scope::Nearest,
            client_ip_affinity: false,
            backends: backends.into_iter().map(|(backend, weight)| (Arc::new(backend), weight)).collect(),
            full: BTreeMap::new(),
            fallback: BTreeMap::new(),
        }
    }
}

/// The desired data plane of one service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServicePlan {
    pub frontends: BTreeMap<Frontend, Arc<Target>>,
    /// Backends that health has given up. One that is in no target and not here drains: its flows go on.
    pub dead: BTreeSet<Arc<Backend>>,
}

/// The desired data plane of one node. Plans share what is equal in them: cheap to clone and to compare.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    pub services: OrdMap<ServiceKey, Arc<ServicePlan>>,
}

impl FromIterator<(ServiceKey, ServicePlan)> for Plan {
    fn from_iter<T: IntoIterator<Item = (ServiceKey, ServicePlan)>>(services: T) -> Self {
        Self { services: services.into_iter().map(|(key, plan)| (key, Arc::new(plan))).collect() }
    }
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
    let mut planner = Planner::new(place.clone());
    planner.follow(federation, health);
    planner.plan
}

/// Keeps a plan up to date: what changes in one service replans that service alone.
#[derive(Debug)]
pub struct Planner {
    place: Place,
    federation: Federation,
    health: Health,
    plan: Plan,
}

impl Planner {
    pub fn new(place: Place) -> Self {
        Self { place, federation: Federation::default(), health: Health::default(), plan: Plan::default() }
    }

    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Follows the federation and health to where they are now.
    pub fn follow(&mut self, federation: &Federation, health: &Health) -> &Plan {
        // Places and distances concern everybody, and seldom change.
        let all = self.federation.clusters != federation.clusters
            || self.beyond(&self.health.distances) != self.beyond(&health.distances);
        let touched: BTreeSet<ServiceKey> = if all {
            self.federation.services.keys().chain(federation.services.keys()).cloned().collect()
        } else {
            let services = changes(&self.federation.services, &federation.services).map(|it| it.service);
            let verdicts = changes(&self.health.services, &health.services).map(|it| it.service);
            services.chain(verdicts).cloned().collect()
        };
        self.federation = federation.clone();
        self.health = health.clone();
        for key in touched {
            match federation.services.get(&key) {
                Some(service) => {
                    let plan = plan_service(federation, &key, service, &self.place, health);
                    if self.plan.services.get(&key).is_none_or(|before| **before != plan) {
                        self.plan.services.insert(key, Arc::new(plan));
                    }
                }
                None => drop(self.plan.services.remove(&key)),
            }
        }
        &self.plan
    }

    /// The distances by which anything is decided: of who is in this node's region its place says enough.
    fn beyond(&self, distances: &BTreeMap<ClusterName, Distance>) -> Vec<(ClusterName, Distance)> {
        let region = |name| self.federation.clusters.get(name).map(|cluster| &cluster.region);
        let beyond = distances.iter().filter(|(name, _)| region(*name) != Some(&self.place.locality.region));
        beyond.map(|(name, distance)| (name.clone(), *distance)).collect()
    }
}

fn plan_service(
    federation: &Federation,
    key: &ServiceKey,
    service: &Service,
    place: &Place,
    health: &Health,
) -> ServicePlan {
    let mut plan = ServicePlan::default();
    for port in &service.ports {
        let candidates = Candidates::of(federation, key, service, port, place, health);
        plan.dead.extend(candidates.failed());
        for (scope, vips) in service.vips.iter() {
            let ruler = Ruler::new(scope, place, service.distribution, federation, health);
            for vip in vips {
                let tiers = tiers_of(candidates.of_scope(scope), &ruler, *vip);
                let split = shares::split(&tiers, service.overprovisioning);
                let target = Target {
                    scope: scope.clone(),
                    client_ip_affinity: service.client_ip_affinity,
                    backends: split.backends,
                    full: split.full,
                    fallback: split.fallback,
                };
                let frontend = Frontend { vip: *vip, protocol: port.protocol, port: port.port };
                plan.frontends.insert(frontend, Arc::new(target));
            }
        }
    }
    plan
}

/// The candidates of a VIP's family by distance, but for those to whom its clients never go.
fn tiers_of<'a>(candidates: &'a [Candidate], ruler: &Ruler<'_>, vip: IpAddr) -> shares::Tiers<'a> {
    let of_family = candidates.iter().filter(|c| c.backend.address.is_ipv4() == vip.is_ipv4());
    let in_reach = of_family.filter(|c| c.standing != Standing::OffNode);
    shares::tiers(in_reach, |candidate| ruler.tier(&candidate.locality, candidate.backend.local))
}

#[cfg(test)]
mod tests;
