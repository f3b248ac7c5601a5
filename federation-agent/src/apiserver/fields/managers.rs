//! `metadata.managedFields`: who set which fields, by apply or by any other write.

use std::cmp::Ordering;

use serde_json::{Value, json};

use super::{FieldSet, Leaves, Path, Shape};
use crate::apiserver::object::Object as _;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    Apply,
    Update,
}

/// Who writes, and through what.
#[derive(Clone, Debug)]
pub struct Owner {
    pub manager: String,
    pub operation: Operation,
    pub api_version: String,
    /// Empty for the object itself.
    pub subresource: String,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entry {
    pub(super) owner: Owner,
    pub(super) time: Value,
    pub(super) fields: FieldSet,
}

/// The entries of one object.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Managers(pub(super) Vec<Entry>);

/// Fields that nobody owns: the server keeps them.
const SYSTEM: &[&[&str]] = &[
    &["apiVersion"],
    &["kind"],
    &["metadata", "name"],
    &["metadata", "namespace"],
    &["metadata", "creationTimestamp"],
    &["metadata", "deletionTimestamp"],
    &["metadata", "deletionGracePeriodSeconds"],
    &["metadata", "selfLink"],
    &["metadata", "uid"],
    &["metadata", "generation"],
    &["metadata", "managedFields"],
    &["metadata", "resourceVersion"],
];

pub(super) fn system_fields() -> Vec<Path> {
    SYSTEM.iter().map(|fields| Path::from(*fields)).collect()
}

// === impl Operation ===

impl Operation {
    fn name(self) -> &'static str {
        match self {
            Self::Apply => "Apply",
            Self::Update => "Update",
        }
    }
}

// === impl Owner ===

impl PartialEq for Owner {
    /// Who applies is one and the same in every version of the kind; other writes are told apart by it, as
    /// kube-apiserver does.
    fn eq(&self, other: &Self) -> bool {
        let is_same_version = self.operation == Operation::Apply || self.api_version == other.api_version;
        is_same_version
            && (&self.manager, self.operation, &self.subresource)
                == (&other.manager, other.operation, &other.subresource)
    }
}

impl Eq for Owner {}

impl Owner {
    /// As kube-apiserver names an owner in conflicts.
    pub(super) fn describe(&self, time: &Value) -> String {
        let through = match self.subresource.as_str() {
            "" => String::new(),
            subresource => format!(" with subresource \"{subresource}\""),
        };
        let since = match (self.operation, time.as_str()) {
            (Operation::Apply, _) => String::new(),
            (Operation::Update, None) => format!(" using {}", self.api_version),
            (Operation::Update, Some(time)) => format!(" using {} at {time}", self.api_version),
        };
        format!("\"{}\"{through}{since}", self.manager)
    }
}

// === impl Managers ===

impl Managers {
    pub fn of(object: &Value) -> Self {
        let entries = object.meta().and_then(|meta| meta.get("managedFields")).and_then(Value::as_array);
        Self(entries.into_iter().flatten().filter_map(Entry::parse).collect())
    }

    pub fn to_value(&self) -> Value {
        Value::Array(self.0.iter().map(Entry::to_value).collect())
    }

    /// What is owned by anyone but `owner`.
    pub(super) fn others(&self, owner: &Owner) -> FieldSet {
        let others = self.0.iter().filter(|entry| entry.owner != *owner);
        others.fold(FieldSet::default(), |all, entry| all.union(&entry.fields))
    }

    /// Nobody but `owner` owns `fields` any longer.
    pub(super) fn take_from_others(&mut self, owner: &Owner, fields: &FieldSet) {
        for entry in self.0.iter_mut().filter(|entry| entry.owner != *owner) {
            entry.fields = entry.fields.difference(fields);
        }
    }

    pub(super) fn fields_of(&self, owner: &Owner) -> FieldSet {
        let entry = self.0.iter().find(|entry| entry.owner == *owner);
        entry.map(|entry| entry.fields.clone()).unwrap_or_default()
    }

    /// `owner` owns exactly `fields`, since `now` if that is new.
    pub(super) fn set(&mut self, owner: &Owner, fields: FieldSet, now: &Value) {
        match self.0.iter_mut().find(|entry| entry.owner == *owner) {
            Some(entry) => {
                // In the version that it was last applied in.
                entry.owner = owner.clone();
                if entry.fields != fields {
                    entry.fields = fields;
                    entry.time = now.clone();
                }
            }
            None => self.0.push(Entry { owner: owner.clone(), time: now.clone(), fields }),
        }
    }

    /// Puts the entries into kube-apiserver's order, and drops those that own nothing.
    pub(super) fn tidy(&mut self) {
        self.0.retain(|entry| !entry.fields.is_empty());
        self.0.sort_by(Entry::order);
    }

    /// Drops fields that are no longer there.
    pub fn forget_missing(&mut self, before: &Leaves, after: &Leaves) {
        let gone = before.paths().difference(&after.paths());
        for entry in &mut self.0 {
            entry.fields = entry.fields.difference(&gone);
        }
        self.tidy();
    }

    /// After a write other than apply: `owner` owns what it changed.
    #[must_use]
    pub fn after_update(
        self,
        old: Option<&Value>,
        new: &Value,
        owner: &Owner,
        now: &Value,
        shape: Shape,
    ) -> Self {
        let before = old.map(|old| Leaves::of(old, shape)).unwrap_or_default();
        let after = Leaves::of(new, shape);
        let changed = after.changed_since(&before).without(&system_fields());
        let mut managers = self;
        managers.take_from_others(owner, &changed);
        let fields = managers.fields_of(owner).union(&changed);
        managers.set(owner, fields, now);
        managers.forget_missing(&before, &after);
        managers
    }
}

// === impl Entry ===

impl Entry {
    fn parse(entry: &Value) -> Option<Self> {
        let text = |field: &str| entry.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
        let operation = match entry.get("operation")?.as_str()? {
            "Apply" => Operation::Apply,
            "Update" => Operation::Update,
            _ => return None,
        };
        Some(Self {
            owner: Owner {
                manager: text("manager"),
                operation,
                api_version: text("apiVersion"),
                subresource: text("subresource"),
            },
            time: entry.get("time").cloned().unwrap_or_default(),
            fields: FieldSet::from_fields_v1(entry.get("fieldsV1")?),
        })
    }

    fn to_value(&self) -> Value {
        let mut entry = json!({
            "apiVersion": self.owner.api_version,
            "fieldsType": "FieldsV1",
            "fieldsV1": self.fields.to_fields_v1(),
            "manager": self.owner.manager,
            "operation": self.owner.operation.name(),
        });
        if !self.owner.subresource.is_empty() {
            entry["subresource"] = self.owner.subresource.clone().into();
        }
        if !self.time.is_null() {
            entry["time"] = self.time.clone();
        }
        entry
    }

    fn order(&self, other: &Self) -> Ordering {
        let key = |entry: &Self| {
            let owner = &entry.owner;
            let time = entry.time.as_str().unwrap_or_default().to_owned();
            (
                owner.operation,
                time,
                owner.manager.clone(),
                owner.api_version.clone(),
                owner.subresource.clone(),
            )
        };
        key(self).cmp(&key(other))
    }
}
