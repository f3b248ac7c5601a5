//! What is known of who answers and how far everyone is: an input of the plan.

use std::{collections::BTreeMap, fmt, net::SocketAddr, sync::Arc};

use imbl::OrdMap;

use crate::model::{ClusterName, Protocol, ServiceKey};

/// What this node has found out. Cheap to clone and to change one service of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// Only services of which something is to be said; of the others all are well.
    pub services: OrdMap<ServiceKey, Arc<ServiceHealth>>,
    /// How far clusters are, by measured round trips.
    pub distances: Arc<BTreeMap<ClusterName, Distance>>,
}

/// By shard; a shard that is not here is well.
pub type ServiceHealth = BTreeMap<ClusterName, ShardHealth>;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShardHealth {
    /// Of all endpoints: nobody answered who was asked.
    pub all: Option<Verdict>,
    /// Of single ones, by address and protocol of what they serve.
    pub endpoints: BTreeMap<(SocketAddr, Protocol), Verdict>,
}

/// Why an endpoint is not to be chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It does not answer, and others do: it is dead.
    Failed { evidence: Arc<str> },
    /// It does not answer, but neither do most others: this node's own network may be what failed. It is a last resort,
    /// and its connections stay.
    Doubted { evidence: Arc<str> },
    /// Its traffic failed, though it may answer probes. At most half of a tier is left out for this, those with the
    /// lowest rank first.
    Ejected { rank: u64, evidence: Arc<str> },
}

impl Verdict {
    /// What led to it, in words.
    pub fn evidence(&self) -> &str {
        match self {
            Self::Failed { evidence } | Self::Doubted { evidence } | Self::Ejected { evidence, .. } => {
                evidence
            }
        }
    }
}

impl Health {
    pub fn of(&self, service: &ServiceKey, cluster: &ClusterName) -> Option<&ShardHealth> {
        self.services.get(service)?.get(cluster)
    }
}

impl ShardHealth {
    /// What is said of an endpoint, the gravest first.
    pub fn verdict(&self, address: SocketAddr, protocol: Protocol) -> Option<&Verdict> {
        let own = self.endpoints.get(&(address, protocol));
        self.all.iter().chain(own).min_by_key(|verdict| match verdict {
            Verdict::Failed { .. } => 0,
            Verdict::Doubted { .. } => 1,
            Verdict::Ejected { .. } => 2,
        })
    }
}

/// A band of round trips: clusters in the same one are equally far. Whoever measures keeps it steady.
///
/// Band 0 is up to a millisecond; each further one is a quarter wider than the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Distance(pub u16);

impl fmt::Display for Distance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "up to {:.1} ms", 1.25_f64.powi(i32::from(self.0)))
    }
}
