//! Garbage collection: what becomes of the objects whose owners go.
//!
//! A real cluster's controller manager does this a moment after the deletion. Here it is part of the same transaction:
//! the same changes in the same order, and nobody can read the state between them.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::Value;

use super::delete::mark;
use super::kinds::{KINDS, Kind};
use super::namespaces;
use super::object::Object as _;
use super::store::{Key, Stored, Transaction};

/// The finalizer of an owner that waits for its dependents.
pub const FOREGROUND: &str = "foregroundDeletion";
/// The finalizer of an owner whose dependents are to be released.
pub const ORPHAN: &str = "orphan";

/// One of an object's `metadata.ownerReferences`.
struct Reference<'a> {
    api_version: &'a str,
    kind: &'a str,
    name: &'a str,
    uid: &'a str,
    /// The owner's deletion waits for this object's.
    blocks: bool,
}

/// What an owner is to its dependent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bond {
    /// It is there, or of a kind that nobody here can look up.
    Solid,
    /// It is there, and waits for its dependents to go.
    Waiting,
    Gone,
}

impl<'a> Reference<'a> {
    fn of(object: &'a Value) -> impl Iterator<Item = Self> {
        object.owner_references().iter().map(|reference| {
            let text = |field: &str| reference.get(field).and_then(Value::as_str).unwrap_or_default();
            Self {
                api_version: text("apiVersion"),
                kind: text("kind"),
                name: text("name"),
                uid: text("uid"),
                blocks: reference.get("blockOwnerDeletion") == Some(&Value::Bool(true)),
            }
        })
    }

    /// Where the owner of an object in `namespace` is kept, if its kind is served here.
    fn key(&self, namespace: &str) -> Option<(&'static Kind, Key)> {
        let group = self.api_version.rsplit_once('/').map_or("", |(group, _)| group);
        let kind = KINDS.into_iter().find(|kind| kind.group == group && kind.name == self.kind)?;
        Some((kind, Key::new(kind, if kind.namespaced { namespace } else { "" }, self.name)))
    }

    fn bond(&self, transaction: &Transaction<'_>, namespace: &str) -> Bond {
        let Some((_, key)) = self.key(namespace) else { return Bond::Solid };
        match transaction.get(&key).filter(|owner| owner.object.uid() == self.uid) {
            None => Bond::Gone,
            Some(owner) if waits(&owner.object) => Bond::Waiting,
            Some(_) => Bond::Solid,
        }
    }
}

fn waits(owner: &Value) -> bool {
    owner.is_deleting() && owner.finalizers().contains(&FOREGROUND)
}

/// Removes objects, each given as it was last, and all that goes with them. Gives what watchers are told of each.
pub fn remove(transaction: &mut Transaction<'_>, objects: Vec<(Key, Value)>) -> Vec<Arc<Stored>> {
    let removed: Vec<_> = objects.into_iter().map(|(key, last)| transaction.remove(key, last)).collect();
    follow(transaction, removed.clone());
    removed
}

/// Lets all go that goes with objects that have gone: their dependents, owners that waited for them, and a namespace
/// that is being deleted with the last of what is in it.
pub fn follow(transaction: &mut Transaction<'_>, mut gone: Vec<Arc<Stored>>) {
    let mut emptied = BTreeSet::new();
    loop {
        while let Some(object) = gone.pop() {
            let object = &object.object;
            emptied.insert(object.namespace().to_owned());
            gone.extend(collect_dependents(transaction, object));
            gone.extend(release_owners(transaction, object));
        }
        // Behind all others, so that a namespace is looked into once and not for each of its objects.
        let Some(namespace) = emptied.pop_first() else { return };
        gone.extend(namespaces::remove_if_empty(transaction, &namespace));
    }
}

/// Deletes the dependents of one that is gone, and gives those that are gone themselves.
fn collect_dependents(transaction: &mut Transaction<'_>, owner: &Value) -> Vec<Arc<Stored>> {
    let dependents = transaction.dependents(owner.uid());
    dependents.into_iter().filter_map(|(key, dependent)| collect(transaction, key, &dependent)).collect()
}

/// Deletes an object none of whose owners is left; gives it if it is gone at once.
fn collect(transaction: &mut Transaction<'_>, key: Key, object: &Stored) -> Option<Arc<Stored>> {
    let object = &object.object;
    let is_solid = |reference: &Reference<'_>| reference.bond(transaction, &key.namespace) == Bond::Solid;
    let kept: BTreeSet<_> =
        Reference::of(object).filter(is_solid).map(|reference| reference.uid.to_owned()).collect();
    if !kept.is_empty() {
        let disowned = without_owners(object, |uid| !kept.contains(uid));
        transaction.put(key, disowned);
        return None;
    }
    let mut last = object.clone();
    if object.finalizers().contains(&ORPHAN) {
        release_dependents(transaction, object);
        last.remove_finalizer(ORPHAN);
    }
    if last.finalizers().is_empty() {
        return Some(transaction.remove(key, last));
    }
    if !last.is_deleting() {
        last = mark(&key, last);
    }
    if last != *object {
        transaction.put(key, last);
    }
    None
}

/// Deletes an object that was made for an owner which is not there (any longer), as the collector would find it.
pub fn collect_if_abandoned(transaction: &mut Transaction<'_>, key: &Key) {
    let Some(stored) = transaction.get(key) else { return };
    let mut bonds =
        Reference::of(&stored.object).map(|reference| reference.bond(transaction, &key.namespace)).peekable();
    if bonds.peek().is_none() || !bonds.all(|bond| bond == Bond::Gone) || stored.object.is_deleting() {
        return;
    }
    let gone = collect(transaction, key.clone(), &stored);
    follow(transaction, gone.into_iter().collect());
}

/// Lets go of the owners that have waited for this object, the last that blocked them; gives those that are gone.
fn release_owners(transaction: &mut Transaction<'_>, object: &Value) -> Vec<Arc<Stored>> {
    let namespace = object.namespace();
    let blocked = Reference::of(object).filter(|reference| reference.blocks);
    let blocked: Vec<_> = blocked.filter_map(|reference| Some(reference.key(namespace)?.1)).collect();
    blocked.into_iter().filter_map(|owner| finish(transaction, &owner)).collect()
}

/// Ends an owner's wait if nothing blocks it any longer; gives it if it is gone with that.
fn finish(transaction: &mut Transaction<'_>, owner: &Key) -> Option<Arc<Stored>> {
    let stored = transaction.get(owner).filter(|stored| waits(&stored.object))?;
    let uid = stored.object.uid();
    let blocks = |dependent: &Stored| {
        Reference::of(&dependent.object).any(|reference| reference.uid == uid && reference.blocks)
    };
    if transaction.dependents(uid).iter().any(|(_, dependent)| blocks(dependent)) {
        return None;
    }
    let mut object = stored.object.clone();
    object.remove_finalizer(FOREGROUND);
    if object.finalizers().is_empty() {
        return Some(transaction.remove(owner.clone(), object));
    }
    transaction.put(owner.clone(), object);
    None
}

/// Deletes the dependents that block an owner which waits, and theirs before them; it goes with the last of these, and
/// those that block nobody follow it.
pub fn delete_in_foreground(transaction: &mut Transaction<'_>, owner: Key) {
    let mut waiting = vec![owner];
    // Dependents of dependents, in the order in which they were reached: who blocks comes behind whom it blocks.
    let mut next = 0;
    while let Some(owner) = waiting.get(next).cloned() {
        next += 1;
        let Some(stored) = transaction.get(&owner) else { continue };
        for (key, dependent) in transaction.dependents(stored.object.uid()) {
            let object = &dependent.object;
            let uid = stored.object.uid();
            let blocks = Reference::of(object).any(|reference| reference.uid == uid && reference.blocks);
            let is_owned_elsewhere = Reference::of(object)
                .any(|reference| reference.bond(transaction, &key.namespace) == Bond::Solid);
            if !blocks || waits(object) {
                continue;
            }
            if is_owned_elsewhere {
                let disowned = without_owners(object, |owner| owner == uid);
                transaction.put(key, disowned);
                continue;
            }
            let mut marked = if object.is_deleting() { object.clone() } else { mark(&key, object.clone()) };
            marked.add_finalizer(FOREGROUND);
            transaction.put(key.clone(), marked);
            waiting.push(key);
        }
    }
    for key in waiting.into_iter().rev() {
        let gone = finish(transaction, &key);
        follow(transaction, gone.into_iter().collect());
    }
}

/// Takes the owner out of its dependents, which stay.
pub fn release_dependents(transaction: &mut Transaction<'_>, owner: &Value) {
    for (key, dependent) in transaction.dependents(owner.uid()) {
        let released = without_owners(&dependent.object, |uid| uid == owner.uid());
        transaction.put(key, released);
    }
}

fn without_owners(object: &Value, is_dropped: impl Fn(&str) -> bool) -> Value {
    let mut object = object.clone();
    let kept: Vec<_> = object
        .owner_references()
        .iter()
        .filter(|reference| !reference.get("uid").and_then(Value::as_str).is_some_and(&is_dropped))
        .cloned()
        .collect();
    if kept.is_empty() {
        object.meta_mut().shift_remove("ownerReferences");
    } else {
        object.set_meta("ownerReferences", kept);
    }
    object
}
