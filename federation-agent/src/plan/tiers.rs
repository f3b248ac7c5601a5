//! Who stands how far: the order in which the tiers of a scope are asked.

use std::fmt;

use super::{Distance, Health, Place};
use crate::model::{
    Cluster, ClusterName, Endpoint, Federation, Locality, Region, Scope, TrafficDistribution, Zone,
};

/// The backends at one distance of a scope. The smallest is asked first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tier {
    /// Every endpoint alike (Global).
    Everywhere,
    SameNode,
    /// Of the client's cluster, where its zone is preferred.
    ClusterZone,
    SameCluster,
    SameZone,
    SameRegion,
    /// Another region of the client's provider; who was never measured is farthest.
    SameProvider(Far),
    OtherProvider(Far),
    /// In the zone, or the region, that the scope names.
    There,
    /// In the region of the zone that the scope names.
    RegionOfThere,
    Elsewhere,
}

/// How far a cluster is whose place says nothing about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Far {
    Measured(Distance),
    Unknown,
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Everywhere => f.write_str("everywhere"),
            Self::SameNode => f.write_str("same node"),
            Self::ClusterZone => f.write_str("same cluster and zone"),
            Self::SameCluster => f.write_str("same cluster"),
            Self::SameZone => f.write_str("same zone"),
            Self::SameRegion => f.write_str("same region"),
            Self::SameProvider(far) => write!(f, "same provider, {far}"),
            Self::OtherProvider(far) => write!(f, "other provider, {far}"),
            Self::There => f.write_str("as named"),
            Self::RegionOfThere => f.write_str("region of the zone named"),
            Self::Elsewhere => f.write_str("elsewhere"),
        }
    }
}

impl fmt::Display for Far {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Measured(distance) => write!(f, "round trip {distance}"),
            Self::Unknown => f.write_str("round trip not measured"),
        }
    }
}

/// Where an endpoint of `cluster` stands; its zone is its own, or the first of its cluster.
pub(super) fn locality(name: &ClusterName, cluster: &Cluster, endpoint: &Endpoint) -> Locality {
    Locality {
        provider: cluster.provider.clone(),
        region: cluster.region.clone(),
        zone: endpoint.zone.clone().unwrap_or_else(|| cluster.zones[0].clone()),
        cluster: name.clone(),
    }
}

/// A scope made ready to measure endpoints: what must be looked up in the federation is found once.
pub(super) enum Ruler<'a> {
    Nearest {
        place: &'a Place,
        distribution: TrafficDistribution,
        health: &'a Health,
    },
    Global,
    Region(&'a Region),
    Zone {
        zone: &'a Zone,
        /// Absent when no cluster of the federation spans the zone any more.
        region: Option<&'a Region>,
    },
}

impl<'a> Ruler<'a> {
    pub(super) fn new(
        scope: &'a Scope,
        place: &'a Place,
        distribution: TrafficDistribution,
        federation: &'a Federation,
        health: &'a Health,
    ) -> Self {
        match scope {
            Scope::Nearest => Self::Nearest { place, distribution, health },
            Scope::Global => Self::Global,
            Scope::Region(region) => Self::Region(region),
            Scope::Zone(zone) => {
                let owner = federation.clusters.values().find(|cluster| cluster.zones.contains(zone));
                Self::Zone { zone, region: owner.map(|cluster| &cluster.region) }
            }
        }
    }

    /// `local`: the endpoint runs on the client's node.
    pub(super) fn tier(&self, endpoint: &Locality, local: bool) -> Tier {
        match self {
            Self::Nearest { place, distribution, health } => {
                nearest(&place.locality, endpoint, local, *distribution, health)
            }
            Self::Global => Tier::Everywhere,
            Self::Region(region) if endpoint.region == **region => Tier::There,
            Self::Zone { zone, .. } if endpoint.zone == **zone => Tier::There,
            Self::Zone { region, .. } if Some(&endpoint.region) == *region => Tier::RegionOfThere,
            Self::Region(_) | Self::Zone { .. } => Tier::Elsewhere,
        }
    }
}

fn nearest(
    node: &Locality,
    endpoint: &Locality,
    local: bool,
    distribution: TrafficDistribution,
    health: &Health,
) -> Tier {
    let far = || health.distances.get(&endpoint.cluster).map_or(Far::Unknown, |d| Far::Measured(*d));
    let same_region = endpoint.region == node.region;
    let same_zone = same_region && endpoint.zone == node.zone;
    if endpoint.cluster == node.cluster {
        return match distribution {
            TrafficDistribution::SameNode | TrafficDistribution::OnlySameNode if local => Tier::SameNode,
            TrafficDistribution::SameNode | TrafficDistribution::SameZone if same_zone => Tier::ClusterZone,
            _ => Tier::SameCluster,
        };
    }
    if same_zone {
        Tier::SameZone
    } else if same_region {
        Tier::SameRegion
    } else if endpoint.provider == node.provider {
        Tier::SameProvider(far())
    } else {
        Tier::OtherProvider(far())
    }
}
