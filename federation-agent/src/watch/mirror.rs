//! The objects of one kind as a watch tells them, translated. Knows the watch's protocol, not what objects mean.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    sync::Arc,
};

use kube::{Resource, ResourceExt as _, runtime::watcher::Event};

/// Namespace (empty where the kind has none) and name of an object.
pub type ObjectKey = (Arc<str>, Arc<str>);

/// What is held of each object of one kind.
#[derive(Debug)]
pub struct Mirror<V> {
    held: BTreeMap<ObjectKey, V>,
    /// Objects seen in the listing that runs; what is held and not among these when it ends is gone.
    listed: BTreeSet<ObjectKey>,
    synced: bool,
}

/// An object of which something else is held now.
#[derive(Debug, PartialEq)]
pub struct Change<V> {
    pub key: ObjectKey,
    pub before: Option<V>,
}

impl<V> Default for Mirror<V> {
    fn default() -> Self {
        Self { held: BTreeMap::new(), listed: BTreeSet::new(), synced: false }
    }
}

impl<V: PartialEq> Mirror<V> {
    pub fn get(&self, key: &ObjectKey) -> Option<&V> {
        self.held.get(key)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&ObjectKey, &V)> {
        self.held.iter()
    }

    /// Whether every object has been listed once.
    pub fn synced(&self) -> bool {
        self.synced
    }

    /// Takes in what happened. `translate` gives nothing for an object that has no meaning.
    pub fn apply<K: Resource>(
        &mut self,
        event: Event<K>,
        translate: impl FnOnce(&K) -> Option<V>,
    ) -> Vec<Change<V>> {
        match event {
            Event::Init => {
                self.listed.clear();
                Vec::new()
            }
            Event::InitApply(object) => {
                let key = key(&object);
                self.listed.insert(key.clone());
                self.hold(key, translate(&object)).into_iter().collect()
            }
            Event::InitDone => {
                self.synced = true;
                let listed = mem::take(&mut self.listed);
                let gone: Vec<_> = self.held.keys().filter(|key| !listed.contains(*key)).cloned().collect();
                gone.into_iter().filter_map(|key| self.hold(key, None)).collect()
            }
            Event::Apply(object) => self.hold(key(&object), translate(&object)).into_iter().collect(),
            Event::Delete(object) => self.hold(key(&object), None).into_iter().collect(),
        }
    }

    fn hold(&mut self, key: ObjectKey, value: Option<V>) -> Option<Change<V>> {
        if self.held.get(&key) == value.as_ref() {
            return None;
        }
        let before = match value {
            Some(value) => self.held.insert(key.clone(), value),
            None => self.held.remove(&key),
        };
        Some(Change { key, before })
    }
}

fn key<K: Resource>(object: &K) -> ObjectKey {
    (object.namespace().unwrap_or_default().into(), object.name_any().into())
}
