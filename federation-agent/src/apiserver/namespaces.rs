//! What namespaces mean to what is in them: nothing is made where none is, and all goes with one that is deleted.

use std::sync::Arc;

use serde_json::Value;

use super::delete::{self, Preconditions};
use super::garbage;
use super::kinds::{KINDS, NAMESPACE};
use super::object::{Object as _, now};
use super::request::Target;
use super::status::ApiError;
use super::store::{Key, Stored, Transaction};

/// Namespaces that exist from the first start.
pub const INITIAL: [&str; 3] = ["default", "kube-system", crate::api::SYSTEM_NAMESPACE];

/// Refuses a new object where its namespace does not exist or is going.
pub fn admit_new_content(
    transaction: &Transaction<'_>,
    target: &Target,
    object: &Value,
) -> Result<(), ApiError> {
    if !target.kind.namespaced {
        return Ok(());
    }
    let Some(namespace) = transaction.get(&Key::new(&NAMESPACE, "", &target.namespace)) else {
        return Err(ApiError::not_found(&NAMESPACE, &target.namespace));
    };
    if namespace.object.is_deleting() {
        let why = format!(
            "unable to create new content in namespace {} because it is being terminated",
            target.namespace
        );
        return Err(ApiError::forbidden(target.kind, object.name(), &why));
    }
    Ok(())
}

/// Refuses the deletion of a namespace that must exist.
pub fn may_delete(name: &str) -> Result<(), ApiError> {
    if INITIAL.contains(&name) {
        return Err(ApiError::forbidden(&NAMESPACE, name, "this namespace may not be deleted"));
    }
    Ok(())
}

/// Marks a namespace as going and deletes what is in it; it goes itself with the last of that.
pub fn delete(transaction: &mut Transaction<'_>, namespace: &Stored) -> Result<(), ApiError> {
    let name = namespace.object.name().to_owned();
    let key = Key::new(&NAMESPACE, "", &name);
    if !namespace.object.is_deleting() {
        let mut object = namespace.object.clone();
        object.set_meta("deletionTimestamp", now());
        object["status"]["phase"] = "Terminating".into();
        transaction.put(key, object);
    }
    let namespaced = KINDS.into_iter().filter(|kind| kind.namespaced);
    let content = namespaced
        .flat_map(|kind| transaction.list(kind, Some(&name)).into_iter().map(move |found| (kind, found)));
    let (free, held): (Vec<_>, Vec<_>) =
        content.partition(|(_, (_, stored))| stored.object.finalizers().is_empty());
    let free = free.into_iter().map(|(_, (key, stored))| (key, stored.object.clone()));
    garbage::remove(transaction, free.collect());
    for (kind, (key, _)) in held {
        // One may have gone along with another.
        if transaction.get(&key).is_some() {
            delete::delete_one(transaction, kind, &key, &Preconditions::default(), None)?;
        }
    }
    if let Some(gone) = remove_if_empty(transaction, &name) {
        garbage::follow(transaction, vec![gone]);
    }
    Ok(())
}

/// Removes a namespace that is going once nothing is left in it, and gives it.
pub fn remove_if_empty(transaction: &mut Transaction<'_>, name: &str) -> Option<Arc<Stored>> {
    let key = Key::new(&NAMESPACE, "", name);
    let namespace = transaction.get(&key).filter(|namespace| namespace.object.is_deleting())?;
    let mut kinds = KINDS.into_iter().filter(|kind| kind.namespaced);
    let is_empty = kinds.all(|kind| transaction.list(kind, Some(name)).is_empty());
    (is_empty && namespace.object.finalizers().is_empty())
        .then(|| transaction.remove(key, namespace.object.clone()))
}
