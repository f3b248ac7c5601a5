//! Who stands how far: the order in which the tiers of a scope are asked.

use crate::model::{Cluster, ClusterName, Endpoint, Federation, Locality, Region, Scope, Zone};

/// Distance in the order of preference of one scope; the smallest is asked first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Tier(pub u8);

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
    Nearest(&'a Locality),
    Global,
    Region(&'a Region),
    Zone {
        zone: &'a Zone,
        /// Absent when no cluster of the federation spans the zone any more.
        region: Option<&'a Region>,
    },
}

impl<'a> Ruler<'a> {
    pub(super) fn new(scope: &'a Scope, node: &'a Locality, federation: &'a Federation) -> Self {
        match scope {
            Scope::Nearest => Self::Nearest(node),
            Scope::Global => Self::Global,
            Scope::Region(region) => Self::Region(region),
            Scope::Zone(zone) => {
                let owner = federation.clusters.values().find(|cluster| cluster.zones.contains(zone));
                Self::Zone { zone, region: owner.map(|cluster| &cluster.region) }
            }
        }
    }

    pub(super) fn tier(&self, endpoint: &Locality) -> Tier {
        Tier(match self {
            Self::Nearest(node) if endpoint.cluster == node.cluster => 0,
            Self::Nearest(node) if endpoint.region == node.region && endpoint.zone == node.zone => 1,
            Self::Nearest(node) if endpoint.region == node.region => 2,
            Self::Nearest(node) if endpoint.provider == node.provider => 3,
            Self::Nearest(_) => 4,
            Self::Global => 0,
            Self::Region(region) => u8::from(endpoint.region != **region),
            Self::Zone { zone, .. } if endpoint.zone == **zone => 0,
            Self::Zone { region, .. } if Some(&endpoint.region) == *region => 1,
            Self::Zone { .. } => 2,
        })
    }
}
