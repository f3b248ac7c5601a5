//! Deletion: at once, or marked until its finalizers are gone.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

use super::garbage::{self, FOREGROUND, ORPHAN};
use super::kinds::{self, Kind, NAMESPACE};
use super::namespaces;
use super::object::{Object as _, now};
use super::options;
use super::request::{Parameters, Target};
use super::selector::Selector;
use super::status::{ApiError, FieldErrors};
use super::store::{Key, Stored, Transaction};

/// The body of a DELETE.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DeleteOptions {
    pub preconditions: Preconditions,
    pub dry_run: Vec<String>,
    pub propagation_policy: Option<String>,
    /// What older clients say instead of a policy.
    pub orphan_dependents: Option<bool>,
}

/// What must hold of the object for it to be deleted.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Preconditions {
    uid: Option<String>,
    resource_version: Option<String>,
}

/// What becomes of an object's dependents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    /// They go after it.
    Background,
    /// They go before it.
    Foreground,
    /// They stay.
    Orphan,
}

pub enum Deleted {
    Gone(Arc<Stored>),
    /// It stays, marked, until its finalizers (of a namespace: its content) are gone.
    Marked(Arc<Stored>),
}

// === impl DeleteOptions ===

impl DeleteOptions {
    /// Those of a request without a body.
    pub fn in_query(parameters: &Parameters) -> Self {
        let policy = parameters.propagation_policy.clone();
        Self { propagation_policy: Some(policy), ..Self::default() }
    }

    pub fn is_dry_run(&self, parameters: &Parameters) -> Result<bool, ApiError> {
        options::is_dry_run("DeleteOptions", parameters, &self.dry_run)
    }

    /// The policy that is asked for, if any.
    pub fn propagation(&self) -> Result<Option<Propagation>, ApiError> {
        let mut errors = FieldErrors::default();
        let policy = self.propagation_policy.as_deref().filter(|policy| !policy.is_empty());
        let propagation = match (policy, self.orphan_dependents) {
            (Some(policy), Some(_)) => {
                let detail = "orphanDependents and deletionPropagation cannot be both set";
                errors.invalid("propagationPolicy", policy, detail);
                None
            }
            (Some("Background"), None) | (None, Some(false)) => Some(Propagation::Background),
            (Some("Foreground"), None) => Some(Propagation::Foreground),
            (Some("Orphan"), None) | (None, Some(true)) => Some(Propagation::Orphan),
            (Some(other), None) => {
                let supported = ["Foreground", "Background", "Orphan", "nil"];
                errors.unsupported("propagationPolicy", other, &supported);
                None
            }
            (None, None) => None,
        };
        if errors.is_empty() {
            Ok(propagation)
        } else {
            Err(ApiError::invalid_options("DeleteOptions", errors))
        }
    }
}

// === impl Preconditions ===

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

// === impl Propagation ===

impl Propagation {
    /// The one that an object's own finalizers ask for, where the request asks for none.
    fn of(object: &Value) -> Self {
        let finalizers = object.finalizers();
        if finalizers.contains(&ORPHAN) {
            Self::Orphan
        } else if finalizers.contains(&FOREGROUND) {
            Self::Foreground
        } else {
            Self::Background
        }
    }
}

pub fn delete_one(
    transaction: &mut Transaction<'_>,
    kind: &Kind,
    key: &Key,
    preconditions: &Preconditions,
    propagation: Option<Propagation>,
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
    let mut object = stored.object.clone();
    object.remove_finalizer(ORPHAN);
    object.remove_finalizer(FOREGROUND);
    let propagation = propagation.unwrap_or_else(|| Propagation::of(&stored.object));
    if propagation == Propagation::Orphan {
        garbage::release_dependents(transaction, &stored.object);
    }
    if propagation == Propagation::Foreground {
        object.add_finalizer(FOREGROUND);
    }
    if object.finalizers().is_empty() {
        let gone = garbage::remove(transaction, vec![(key.clone(), object)]).pop();
        return Ok(Deleted::Gone(gone.unwrap_or(stored)));
    }
    if !object.is_deleting() {
        object = mark(key, object);
    }
    let marked = if object == stored.object { stored } else { transaction.put(key.clone(), object) };
    if propagation == Propagation::Foreground {
        garbage::delete_in_foreground(transaction, key.clone());
    }
    Ok(Deleted::Marked(marked))
}

/// The object as it is until its finalizers are gone.
pub fn mark(key: &Key, mut object: Value) -> Value {
    object.set_meta("deletionTimestamp", now());
    object.set_meta("deletionGracePeriodSeconds", 0);
    if kinds::by_qualified_name(&key.resource).is_some_and(|kind| kind.generation) {
        let generation = object.meta().and_then(|meta| meta.get("generation")?.as_i64()).unwrap_or(0);
        object.set_meta("generation", generation + 1);
    }
    object
}

/// Deletes what the selector matches, and gives what that was.
pub fn delete_collection(
    transaction: &mut Transaction<'_>,
    target: &Target,
    selector: &Selector,
    propagation: Option<Propagation>,
) -> Result<Vec<Arc<Stored>>, ApiError> {
    let mut deleted = Vec::new();
    for (key, stored) in transaction.list(target.kind, target.list_namespace()) {
        // One may have gone along with another.
        if selector.matches(&stored.object) && transaction.get(&key).is_some() {
            let preconditions = Preconditions::default();
            match delete_one(transaction, target.kind, &key, &preconditions, propagation)? {
                Deleted::Gone(stored) | Deleted::Marked(stored) => deleted.push(stored),
            }
        }
    }
    Ok(deleted)
}
