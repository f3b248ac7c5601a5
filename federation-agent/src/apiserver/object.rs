//! An object of any kind as JSON, and the metadata that the server keeps on it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Map, Value};

/// Reads and writes metadata of an object whose kind does not matter.
pub trait Object {
    fn meta(&self) -> Option<&Map<String, Value>>;
    fn meta_mut(&mut self) -> &mut Map<String, Value>;

    /// A string of the metadata; empty when unset.
    fn meta_str(&self, field: &str) -> &str {
        self.meta().and_then(|meta| meta.get(field)).and_then(Value::as_str).unwrap_or_default()
    }

    fn set_meta(&mut self, field: &str, value: impl Into<Value>) {
        self.meta_mut().insert(field.to_owned(), value.into());
    }

    /// Makes `field` what it is in `other`, unset included.
    fn copy_meta(&mut self, field: &str, other: &Value) {
        match other.meta().and_then(|meta| meta.get(field)) {
            Some(value) => self.set_meta(field, value.clone()),
            None => drop(self.meta_mut().shift_remove(field)),
        }
    }

    fn name(&self) -> &str {
        self.meta_str("name")
    }

    fn namespace(&self) -> &str {
        self.meta_str("namespace")
    }

    fn uid(&self) -> &str {
        self.meta_str("uid")
    }

    fn resource_version(&self) -> &str {
        self.meta_str("resourceVersion")
    }

    fn label(&self, key: &str) -> Option<&str> {
        self.meta()?.get("labels")?.get(key)?.as_str()
    }

    fn is_deleting(&self) -> bool {
        !self.meta_str("deletionTimestamp").is_empty()
    }

    fn finalizers(&self) -> Vec<&str> {
        let list = self.meta().and_then(|meta| meta.get("finalizers")).and_then(Value::as_array);
        list.into_iter().flatten().filter_map(Value::as_str).collect()
    }

    fn add_finalizer(&mut self, finalizer: &str) {
        if !self.finalizers().contains(&finalizer) {
            let all: Vec<_> = self.finalizers().into_iter().chain([finalizer]).map(Value::from).collect();
            self.set_meta("finalizers", all);
        }
    }

    fn remove_finalizer(&mut self, finalizer: &str) {
        let left: Vec<_> =
            self.finalizers().into_iter().filter(|one| *one != finalizer).map(Value::from).collect();
        if left.is_empty() {
            self.meta_mut().shift_remove("finalizers");
        } else {
            self.set_meta("finalizers", left);
        }
    }

    fn owner_references(&self) -> &[Value] {
        let list = self.meta().and_then(|meta| meta.get("ownerReferences")).and_then(Value::as_array);
        list.map(Vec::as_slice).unwrap_or_default()
    }

    /// The objects that it goes with, by their UIDs.
    fn owner_uids(&self) -> impl Iterator<Item = &str> {
        self.owner_references().iter().filter_map(|reference| reference.get("uid")?.as_str())
    }
}

impl Object for Value {
    fn meta(&self) -> Option<&Map<String, Value>> {
        self.get("metadata")?.as_object()
    }

    fn meta_mut(&mut self) -> &mut Map<String, Value> {
        let meta = &mut self["metadata"];
        if !meta.is_object() {
            *meta = Value::Object(Map::new());
        }
        let Value::Object(meta) = meta else { unreachable!("it was just made an object") };
        meta
    }
}

/// Now, as the API writes times.
pub fn now() -> Value {
    serde_json::to_value(Time(Timestamp::now())).unwrap_or_default()
}

/// The value at a dotted path of field names (`status.phase`).
pub fn at<'a>(object: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.').try_fold(object, |value, field| value.get(field))
}
