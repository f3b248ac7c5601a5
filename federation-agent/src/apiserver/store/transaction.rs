//! One job's view of the store: what is durable, under what the batch has already done, under what the job does.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, RwLock};

use serde_json::Value;

use super::owners::Owners;
use super::{Change, ChangeKind, Key, State, Stored, read};
use crate::apiserver::kinds::Kind;
use crate::apiserver::object::Object as _;

/// The changes of several jobs that become durable together.
pub(super) struct Batch {
    pub(super) revision: u64,
    pub(super) changes: Vec<Arc<Change>>,
    /// The newest of each key in `changes`; `None` where it is deleted.
    newest: BTreeMap<Key, Option<Arc<Stored>>>,
    /// Of what the batch has stored, whether or not that is the newest still.
    owners: Owners,
}

/// Reads and writes of one job.
pub struct Transaction<'a> {
    state: &'a RwLock<State>,
    batch: &'a mut Batch,
    /// Where the batch stood when the job began.
    start: (u64, usize),
    /// Nothing of the job is to stay: its objects keep the versions that they have.
    is_dry: bool,
}

impl Batch {
    pub(super) fn starting_at(revision: u64) -> Self {
        Self { revision, changes: Vec::new(), newest: BTreeMap::new(), owners: Owners::default() }
    }

    pub(super) fn begin<'a>(&'a mut self, state: &'a RwLock<State>) -> Transaction<'a> {
        let start = (self.revision, self.changes.len());
        Transaction { state, batch: self, start, is_dry: false }
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

    /// The objects that name the owner with this UID.
    pub fn dependents(&self, uid: &str) -> Vec<(Key, Arc<Stored>)> {
        let mut keys: BTreeSet<_> = self.batch.owners.dependents(uid).cloned().collect();
        keys.extend(read(self.state).owners.dependents(uid).cloned());
        let found = keys.into_iter().filter_map(|key| self.get(&key).map(|stored| (key, stored)));
        found.filter(|(_, stored)| stored.object.owner_uids().any(|owner| owner == uid)).collect()
    }

    /// Stores `object` at the next revision.
    pub fn put(&mut self, key: Key, object: Value) -> Arc<Stored> {
        let before = self.get(&key);
        let kind = if before.is_some() { ChangeKind::Modified } else { ChangeKind::Added };
        let now = self.stamp(object, before.as_deref());
        self.record(Change { key, kind, now: Arc::clone(&now), before });
        now
    }

    /// Deletes what is stored at `key`; `last` is what watchers are told that it was. Nothing happens where nothing is.
    pub fn remove(&mut self, key: Key, last: Value) -> Arc<Stored> {
        let before = self.get(&key);
        let now = self.stamp(last, before.as_deref());
        if before.is_some() {
            self.record(Change { key, kind: ChangeKind::Deleted, now: Arc::clone(&now), before });
        }
        now
    }

    /// From here on the job is one that will be rolled back.
    pub fn pretend(&mut self) {
        self.is_dry = true;
    }

    /// Forgets what this job has done.
    pub fn roll_back(&mut self) {
        let (revision, length) = self.start;
        self.batch.revision = revision;
        for change in self.batch.changes.drain(length..).rev() {
            self.batch.newest.insert(change.key.clone(), change.before.clone());
        }
    }

    /// The object as a version of its own; in a dry run as that of before, or none.
    fn stamp(&mut self, mut object: Value, before: Option<&Stored>) -> Arc<Stored> {
        self.batch.revision += 1;
        let mut revision = self.batch.revision;
        if self.is_dry {
            revision = before.map_or(0, |before| before.revision);
        }
        if revision == 0 {
            object.meta_mut().shift_remove("resourceVersion");
        } else {
            object.set_meta("resourceVersion", revision.to_string());
        }
        let text = object.to_string().into();
        Arc::new(Stored { revision, object, text })
    }

    fn record(&mut self, change: Change) {
        let newest = (change.kind != ChangeKind::Deleted).then(|| Arc::clone(&change.now));
        self.batch.owners.update(&change.key, None, newest.as_ref().map(|newest| &newest.object));
        self.batch.newest.insert(change.key.clone(), newest);
        self.batch.changes.push(Arc::new(change));
    }
}
