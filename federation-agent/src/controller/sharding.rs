//! Which services have a shard in which cluster, told by the reconciler of services to the mirrors of endpoints.

use std::collections::BTreeMap;

use tokio::sync::watch;

use crate::model::{ClusterName, ServiceKey};

type Shards = BTreeMap<(ClusterName, ServiceKey), bool>;

/// Absent: nobody has looked yet since this process started, and nothing may be concluded.
pub(super) struct Sharding {
    known: watch::Sender<Shards>,
}

impl Default for Sharding {
    fn default() -> Self {
        Self { known: watch::Sender::new(Shards::new()) }
    }
}

impl Sharding {
    /// Notes whether the service's Endpoints in that cluster are the federation's.
    pub(super) fn note(&self, cluster: &ClusterName, service: &ServiceKey, sharded: bool) {
        self.known.send_if_modified(|known| {
            known.insert((cluster.clone(), service.clone()), sharded) != Some(sharded)
        });
    }

    pub(super) fn is_sharded(&self, cluster: &ClusterName, service: &ServiceKey) -> Option<bool> {
        self.known.borrow().get(&(cluster.clone(), service.clone())).copied()
    }

    pub(super) fn changes(&self) -> watch::Receiver<Shards> {
        self.known.subscribe()
    }
}
