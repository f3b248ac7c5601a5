//! Deletion: at once, or marked until its finalizers are gone.

use std::sync::Arc;

use serde::Deserialize;

use super::kinds::{Kind, NAMESPACE};
use super::namespaces;
use super::object::{Object as _, now};
use super::request::Target;
use super::selector::Selector;
use super::status::ApiError;
use super::store::{Key, Stored, Transaction};

/// The body of a DELETE. Nothing here has dependents, so propagation makes no difference.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DeleteOptions {
    pub preconditions: Preconditions,
    pub dry_run: Vec<String>,
}

/// What must hold of the object for it to be deleted.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Preconditions {
    uid: Option<String>,
    resource_version: Option<String>,
}

pub enum Deleted {
    Gone(Arc<Stored>),
    /// It stays, marked, until its finalizers (of a namespace: its content) are gone.
    Marked(Arc<Stored>),
}

impl Preconditions {
    fn check(&self, kind: &Kind, stored: &Stored) -> Result<(), ApiError> {
        let object = &stored.object;
        let compare = |what: &str, wanted: &Option<String>, found: &str| match wanted {
            Some(wanted) if wanted != found => {
                let why = format!(
                    "Precondition failed: {what} in precondition: {wanted}, {what} in object meta: {found}"
                );
                Err(ApiError::conflict(kind, object.name(), &why))
            }
            _ => Ok(()),
        };
        compare("UID", &self.uid, object.uid())?;
        compare("ResourceVersion", &self.resource_version, object.resource_version())
    }
}

pub fn delete_one(
    transaction: &mut Transaction<'_>,
    kind: &Kind,
    key: &Key,
    preconditions: &Preconditions,
) -> Result<Deleted, ApiError> {
    let stored = transaction.get(key).ok_or_else(|| ApiError::not_found(kind, &key.name))?;
    preconditions.check(kind, &stored)?;
    if kind.is(&NAMESPACE) {
        namespaces::may_delete(&key.name)?;
        namespaces::delete(transaction, &stored)?;
        return Ok(match transaction.get(key) {
            Some(marked) => Deleted::Marked(marked),
            None => Deleted::Gone(stored),
        });
    }
    if stored.object.finalizers().is_empty() {
        let last = transaction.remove(key.clone(), stored.object.clone());
        namespaces::forget_if_empty(transaction, &key.namespace);
        return Ok(Deleted::Gone(last));
    }
    if stored.object.is_deleting() {
        return Ok(Deleted::Marked(stored));
    }
    let mut object = stored.object.clone();
    object.set_meta("deletionTimestamp", now());
    object.set_meta("deletionGracePeriodSeconds", 0);
    if kind.generation {
        let generation = object.meta().and_then(|meta| meta.get("generation")?.as_i64()).unwrap_or(0);
        object.set_meta("generation", generation + 1);
    }
    Ok(Deleted::Marked(transaction.put(key.clone(), object)))
}

/// Deletes what the selector matches, and gives what that was.
pub fn delete_collection(
    transaction: &mut Transaction<'_>,
    target: &Target,
    selector: &Selector,
) -> Result<Vec<Arc<Stored>>, ApiError> {
    let mut deleted = Vec::new();
    for (key, stored) in transaction.list(target.kind, target.list_namespace()) {
        if selector.matches(&stored.object) {
            match delete_one(transaction, target.kind, &key, &Preconditions::default())? {
                Deleted::Gone(stored) | Deleted::Marked(stored) => deleted.push(stored),
            }
        }
    }
    Ok(deleted)
}
