//! From the exports of one name to the service that all clusters consume (KEP-1645, "Constraints and Conflict
//! Resolution"). Pure.
//!
//! Ports are united; in everything else, and where ports exclude each other, the oldest export wins. Whoever is
//! overruled by that is told so, and with him everybody who exports the name.

use std::{collections::BTreeMap, fmt};

use super::export::Export;
use crate::api::mcs::ServicePort;

/// The exports of one name, by cluster.
pub type Exports = BTreeMap<String, Export>;

/// The service that the exports make together.
#[derive(Clone, Debug, PartialEq)]
pub struct Merged {
    /// Its properties: those of the oldest export, and everybody's ports.
    pub service: Export,
    /// The cluster with the oldest export.
    pub oldest: String,
    /// How many clusters export it.
    pub clusters: usize,
    /// In the order of their properties, each at most once.
    pub conflicts: Vec<Conflict>,
}

/// A property in which exports differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    pub property: Property,
    /// How many clusters have it otherwise than the oldest export.
    pub disagree: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Property {
    Ports,
    Type,
    SessionAffinity,
    SessionAffinityConfig,
    InternalTrafficPolicy,
    TrafficDistribution,
    IpFamilies,
    Labels,
    Annotations,
}

/// Nothing where nobody exports.
pub fn merge(exports: &Exports) -> Option<Merged> {
    let mut by_age: Vec<_> = exports.iter().collect();
    // Of two that came in the same second, the one whose cluster's name comes first.
    by_age.sort_by_key(|(cluster, export)| (export.since.0, *cluster));
    let (oldest, first) = by_age.first().copied()?;
    let mut service = first.clone();
    service.ports = united(by_age.iter().flat_map(|(_, export)| &export.ports));
    let conflicts = Property::ALL.into_iter().filter_map(|property| {
        let disagree = by_age.iter().filter(|(_, export)| property.differs(first, export)).count();
        (disagree > 0).then_some(Conflict { property, disagree })
    });
    Some(Merged { service, oldest: oldest.clone(), clusters: by_age.len(), conflicts: conflicts.collect() })
}

/// No two with one name, and no two with one protocol and number; the first to come stays.
fn united<'a>(ports: impl Iterator<Item = &'a ServicePort>) -> Vec<ServicePort> {
    let mut united: Vec<ServicePort> = Vec::new();
    for port in ports {
        let excludes = |known: &ServicePort| known.name == port.name || same_number(known, port);
        if !united.iter().any(excludes) {
            united.push(port.clone());
        }
    }
    united
}

pub fn same_number(one: &ServicePort, other: &ServicePort) -> bool {
    (one.port, &one.protocol) == (other.port, &other.protocol)
}

// === impl Property ===

impl Property {
    pub const ALL: [Self; 9] = [
        Self::Ports,
        Self::Type,
        Self::SessionAffinity,
        Self::SessionAffinityConfig,
        Self::InternalTrafficPolicy,
        Self::TrafficDistribution,
        Self::IpFamilies,
        Self::Labels,
        Self::Annotations,
    ];

    /// The reason of the condition `Conflict`, as the API names it.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Ports => "PortConflict",
            Self::Type => "TypeConflict",
            Self::SessionAffinity => "SessionAffinityConflict",
            Self::SessionAffinityConfig => "SessionAffinityConfigConflict",
            Self::InternalTrafficPolicy => "InternalTrafficPolicyConflict",
            Self::TrafficDistribution => "TrafficDistributionConflict",
            Self::IpFamilies => "IPFamilyConflict",
            Self::Labels => "LabelsConflict",
            Self::Annotations => "AnnotationsConflict",
        }
    }

    /// Whether `other` has it otherwise than the oldest export.
    fn differs(self, oldest: &Export, other: &Export) -> bool {
        match self {
            Self::Ports => {
                let mut ports = [oldest, other].map(|export| export.ports.clone());
                for ports in &mut ports {
                    ports.sort();
                }
                ports[0] != ports[1]
            }
            Self::Type => oldest.headless != other.headless,
            Self::SessionAffinity => oldest.session_affinity != other.session_affinity,
            Self::SessionAffinityConfig => {
                oldest.session_affinity == other.session_affinity
                    && oldest.session_affinity_config != other.session_affinity_config
            }
            Self::InternalTrafficPolicy => oldest.internal_traffic_policy != other.internal_traffic_policy,
            Self::TrafficDistribution => oldest.traffic_distribution != other.traffic_distribution,
            // One that has more is reached by all; one that lacks a family is not reached by who uses that.
            Self::IpFamilies => {
                !other.ip_families.is_empty()
                    && oldest.ip_families.iter().any(|family| !other.ip_families.contains(family))
            }
            Self::Labels => oldest.labels != other.labels,
            Self::Annotations => oldest.annotations != other.annotations,
        }
    }
}

impl fmt::Display for Property {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ports => "ports",
            Self::Type => "type",
            Self::SessionAffinity => "sessionAffinity",
            Self::SessionAffinityConfig => "sessionAffinityConfig",
            Self::InternalTrafficPolicy => "internalTrafficPolicy",
            Self::TrafficDistribution => "trafficDistribution",
            Self::IpFamilies => "ipFamilies",
            Self::Labels => "exportedLabels",
            Self::Annotations => "exportedAnnotations",
        })
    }
}

#[cfg(test)]
mod tests;
