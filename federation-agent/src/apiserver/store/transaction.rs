//! One job's view of the store: what is durable, under what the batch has already done, under what the job does.

use std::collections::BTreeMap;
use std::sync::{Arc, RwLock};

use serde_json::Value;

use super::{Change, ChangeKind, Key, State, Stored, read};
use crate::apiserver::kinds::Kind;
use crate::apiserver::object::Object as _;

/// The changes of several jobs that become durable together.
pub(super) struct Batch {
    pub(super) revision: u64,
    pub(super) changes: Vec<Arc<Change>>,
    /// The newest of each key in `changes`; `None` where it is deleted.
    newest: BTreeMap<Key, Option<Arc<Stored>>>,
}

/// Reads and writes of one job.
pub struct Transaction<'a> {
    state: &'a RwLock<State>,
    batch: &'a mut Batch,
    /// Where the batch stood when the job began.
    start: (u64, usize),
}

impl Batch {
    pub(super) fn starting_at(revision: u64) -> Self {
        Self { revision, changes: Vec::new(), newest: BTreeMap::new() }
    }

    pub(super) fn begin<'a>(&'a mut self, state: &'a RwLock<State>) -> Transaction<'a> {
        let start = (self.revision, self.changes.len());
        Transaction { state, batch: self, start }
    }
}

impl Transaction<'_> {
    pub fn get(&self, key: &Key) -> Option<Arc<Stored>> {
        match self.batch.newest.get(key) {
            Some(newest) => newest.clone(),
            None => read(self.state).objects.get(key).cloned(),
        }
    }

    /// Objects of a kind in order, in one namespace or in all.
    pub fn list(&self, kind: &Kind, namespace: Option<&str>) -> Vec<(Key, Arc<Stored>)> {
        let resource = kind.qualified().into();
        let mut found: BTreeMap<Key, Arc<Stored>> = read(self.state)
            .range(&resource, namespace)
            .map(|(key, stored)| (key.clone(), Arc::clone(stored)))
            .collect();
        for (key, newest) in &self.batch.newest {
            if key.resource != resource || namespace.is_some_and(|namespace| key.namespace != namespace) {
                continue;
            }
            match newest {
                Some(stored) => drop(found.insert(key.clone(), Arc::clone(stored))),
                None => drop(found.remove(key)),
            }
        }
        found.into_iter().collect()
    }

    /// Stores `object` at the next revision.
    pub fn put(&mut self, key: Key, object: Value) -> Arc<Stored> {
        let before = self.get(&key);
        let kind = if before.is_some() { ChangeKind::Modified } else { ChangeKind::Added };
        let now = self.stamp(object);
        self.record(Change { key, kind, now: Arc::clone(&now), before });
        now
    }

    /// Deletes what is stored at `key`; `last` is what watchers are told that it was. Nothing happens where nothing is.
    pub fn remove(&mut self, key: Key, last: Value) -> Arc<Stored> {
        let before = self.get(&key);
        let now = self.stamp(last);
        if before.is_some() {
            self.record(Change { key, kind: ChangeKind::Deleted, now: Arc::clone(&now), before });
        }
        now
    }

    /// Forgets what this job has done.
    pub fn roll_back(&mut self) {
        let (revision, length) = self.start;
        self.batch.revision = revision;
        for change in self.batch.changes.drain(length..).rev() {
            self.batch.newest.insert(change.key.clone(), change.before.clone());
        }
    }

    fn stamp(&mut self, mut object: Value) -> Arc<Stored> {
        self.batch.revision += 1;
        object.set_meta("resourceVersion", self.batch.revision.to_string());
        let text = object.to_string().into();
        Arc::new(Stored { revision: self.batch.revision, object, text })
    }

    fn record(&mut self, change: Change) {
        let newest = (change.kind != ChangeKind::Deleted).then(|| Arc::clone(&change.now));
        self.batch.newest.insert(change.key.clone(), newest);
        self.batch.changes.push(Arc::new(change));
    }
}
