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
    /// How often somebody else was seen to change the shard, and how many of these times were looked into.
    doubts: u64,
    answered: u64,
    /// Of the federated Service: one of the same name that is made later is another.
    uid: String,
}

/// Shards by service and cluster.
#[derive(Debug, Default)]
pub struct Book(Mutex<BTreeMap<ServiceKey, BTreeMap<String, Entry>>>);

impl Entry {
    /// Nobody else has changed the shard since.
    pub fn is_trusted(&self) -> bool {
        self.doubts == self.answered
    }
}

impl Book {
    /// Notes an outcome. True when it differs from what was known. `heard` is how many doubts there were when the work on
    /// it began: one that came later is still to be looked into.
    pub fn note(
        &self,
        service: &ServiceKey,
        uid: &str,
        cluster: &str,
        wish: u64,
        heard: u64,
        outcome: Outcome,
    ) -> bool {
        let mut book = self.lock();
        let shards = book.entry(service.clone()).or_default();
        let doubts = shards.get(cluster).map_or(0, |before| before.doubts);
        let entry =
            Entry { outcome, wish, since: Instant::now(), doubts, answered: heard, uid: uid.to_owned() };
        let outcome = entry.outcome.clone();
        shards.insert(cluster.to_owned(), entry).is_none_or(|before| before.outcome != outcome)
    }

    /// What is known of a shard may not hold any more, which nobody is told until it is known.
    pub fn doubt(&self, service: &ServiceKey, cluster: &str) {
        if let Some(entry) = self.lock().get_mut(service).and_then(|shards| shards.get_mut(cluster)) {
            entry.doubts += 1;
        }
    }

    /// How often a shard was doubted.
    pub fn doubts(&self, service: &ServiceKey, cluster: &str) -> u64 {
        self.lock().get(service).and_then(|shards| shards.get(cluster)).map_or(0, |entry| entry.doubts)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_doubt_that_comes_while_the_shard_is_worked_on_is_looked_into_afterwards() {
        let (book, service) = (Book::default(), ServiceKey::new("n", "s"));
        let is_trusted = || book.entry(&service, "1", "one").expect("an entry").is_trusted();
        book.doubt(&service, "one");
        assert!(book.note(&service, "1", "one", 7, book.doubts(&service, "one"), Outcome::InPlace));
        assert!(is_trusted(), "nothing was known that could be doubted");
        let heard = book.doubts(&service, "one");
        book.doubt(&service, "one");
        assert!(!book.note(&service, "1", "one", 7, heard, Outcome::InPlace));
        assert!(!is_trusted());
        book.note(&service, "1", "one", 7, book.doubts(&service, "one"), Outcome::InPlace);
        assert!(is_trusted());
    }
}
