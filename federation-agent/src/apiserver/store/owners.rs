//! Which objects name an owner: an index of `metadata.ownerReferences` by UID.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::Key;
use crate::apiserver::object::Object;

#[derive(Debug, Default)]
pub(super) struct Owners(BTreeMap<String, BTreeSet<Key>>);

impl Owners {
    /// What is at `key` has changed: from nothing, or to nothing, when it is made or deleted.
    pub(super) fn update(&mut self, key: &Key, before: Option<&Value>, now: Option<&Value>) {
        for uid in before.into_iter().flat_map(Object::owner_uids) {
            if let Some(keys) = self.0.get_mut(uid) {
                keys.remove(key);
                if keys.is_empty() {
                    self.0.remove(uid);
                }
            }
        }
        for uid in now.into_iter().flat_map(Object::owner_uids) {
            self.0.entry(uid.to_owned()).or_default().insert(key.clone());
        }
    }

    pub(super) fn dependents(&self, uid: &str) -> impl Iterator<Item = &Key> {
        self.0.get(uid).into_iter().flatten()
    }
}
