//! What became of each shard since this process started: who asks what is in place need not ask the clusters.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use crate::model::ServiceKey;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Being worked on, for the first time or anew.
    Pending,
    /// The cluster has it as it shall be.
    InPlace,
    /// There is nothing of ours, and shall not be.
    Absent,
    /// The cluster has a Service of that name that is not ours.
    Conflict(String),
    /// The cluster's API refuses it.
    Failed(String),
}

#[derive(Clone, Debug)]
pub struct Entry {
    pub outcome: Outcome,
    /// What was wished for, as a number that changes with it.
    pub wish: u64,
    pub since: Instant,
    /// Somebody else has changed the shard since.
    pub is_doubted: bool,
    /// Of the federated Service: one of the same name that is made later is another.
    uid: String,
}

/// Shards by service and cluster.
#[derive(Debug, Default)]
pub struct Book(Mutex<BTreeMap<ServiceKey, BTreeMap<String, Entry>>>);

impl Book {
    /// Notes an outcome. True when it differs from what was known.
    pub fn note(&self, service: &ServiceKey, uid: &str, cluster: &str, wish: u64, outcome: Outcome) -> bool {
        let mut book = self.lock();
        let shards = book.entry(service.clone()).or_default();
        let entry = Entry { outcome, wish, since: Instant::now(), is_doubted: false, uid: uid.to_owned() };
        let outcome = entry.outcome.clone();
        shards.insert(cluster.to_owned(), entry).is_none_or(|before| before.outcome != outcome)
    }

    /// What is known of a shard may not hold any more, which nobody is told until it is known.
    pub fn doubt(&self, service: &ServiceKey, cluster: &str) {
        if let Some(entry) = self.lock().get_mut(service).and_then(|shards| shards.get_mut(cluster)) {
            entry.is_doubted = true;
        }
    }

    pub fn entry(&self, service: &ServiceKey, uid: &str, cluster: &str) -> Option<Entry> {
        self.lock().get(service)?.get(cluster).filter(|entry| entry.uid == uid).cloned()
    }

    pub fn outcome(&self, service: &ServiceKey, uid: &str, cluster: &str) -> Option<Outcome> {
        self.entry(service, uid, cluster).map(|entry| entry.outcome)
    }

    /// How many shards a cluster has in place.
    pub fn in_place(&self, cluster: &str) -> usize {
        let is_in_place = |entry: &Entry| entry.outcome == Outcome::InPlace;
        self.lock().values().filter(|shards| shards.get(cluster).is_some_and(is_in_place)).count()
    }

    pub fn forget_service(&self, service: &ServiceKey) {
        self.lock().remove(service);
    }

    pub fn forget_cluster(&self, cluster: &str) {
        for shards in self.lock().values_mut() {
            shards.remove(cluster);
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<ServiceKey, BTreeMap<String, Entry>>> {
        // Every change is one insertion or removal: a panic elsewhere leaves nothing half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
