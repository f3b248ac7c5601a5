//! Paths to fields, an object as its leaves, and sets of paths in the `FieldsV1` notation.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde_json::{Map, Value};

use super::shape::Key;
use super::{Rule, Shape};

/// One step into an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// `f:name`
    Field(String),
    /// `k:{"port":80}`: the item of a list that has these keys, as JSON text with sorted fields.
    Item(String),
    /// `v:"value"`: the item of a set, as JSON text.
    Value(String),
    /// `i:0`; written by others, never by us.
    Index(usize),
}

/// From the object's root.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Path(Vec<Step>);

/// A set of fields, by their paths.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSet(BTreeSet<Path>);

/// Every ownable field of an object with its value; `Null` for an item or a map whose content is leaves of its own.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Leaves(BTreeMap<Path, Value>);

// === impl Step ===

impl Step {
    fn item(item: &Value, keys: &[Key]) -> Self {
        let named: BTreeMap<_, _> = keys
            .iter()
            .filter_map(|key| {
                let default = || key.default.map(Value::from);
                Some((key.field, item.get(key.field).cloned().or_else(default)?))
            })
            .collect();
        Self::Item(serde_json::to_string(&named).unwrap_or_default())
    }

    /// Whether it leads to `item`, an item of a list with `rule`.
    fn leads_to(&self, item: &Value, rule: Rule) -> bool {
        match rule {
            Rule::Keyed(keys) => *self == Self::item(item, keys),
            Rule::Set => *self == Self::Value(item.to_string()),
            Rule::Granular | Rule::Map | Rule::Atomic => false,
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let (sort, rest) = text.split_once(':')?;
        match sort {
            "f" => Some(Self::Field(rest.to_owned())),
            // Through a sorted map, so that it equals ours whoever wrote it.
            "k" => {
                let keys: BTreeMap<String, Value> = serde_json::from_str(rest).ok()?;
                Some(Self::Item(serde_json::to_string(&keys).ok()?))
            }
            "v" => Some(Self::Value(serde_json::from_str::<Value>(rest).ok()?.to_string())),
            "i" => Some(Self::Index(rest.parse().ok()?)),
            _ => None,
        }
    }

    fn key(&self) -> String {
        match self {
            Self::Field(name) => format!("f:{name}"),
            Self::Item(keys) => format!("k:{keys}"),
            Self::Value(value) => format!("v:{value}"),
            Self::Index(index) => format!("i:{index}"),
        }
    }
}

// === impl Path ===

impl Path {
    fn then(&self, step: Step) -> Self {
        let mut steps = self.0.clone();
        steps.push(step);
        Self(steps)
    }

    fn field(&self, name: &str) -> Self {
        self.then(Step::Field(name.to_owned()))
    }

    /// Whether it is `at`, dotted field names, in any items of lists on the way.
    pub(super) fn is_at(&self, at: &str) -> bool {
        let mut fields = self.0.iter().filter_map(|step| match step {
            Step::Field(name) => Some(name.as_str()),
            Step::Item(_) | Step::Value(_) | Step::Index(_) => None,
        });
        matches!(self.0.last(), Some(Step::Field(_)))
            && at.split('.').all(|name| fields.next() == Some(name))
            && fields.next().is_none()
    }

    /// Whether it is a field that tells an item from its neighbours: without it the item would be another.
    fn is_key(&self, shape: Shape) -> bool {
        let [list @ .., Step::Item(_), Step::Field(name)] = self.0.as_slice() else { return false };
        match shape.rule(&Self(list.to_vec()), true) {
            Rule::Keyed(keys) => keys.iter().any(|key| key.field == name),
            Rule::Granular | Rule::Map | Rule::Atomic | Rule::Set => false,
        }
    }

    pub fn starts_with(&self, prefix: &Path) -> bool {
        self.0.starts_with(&prefix.0)
    }
}

/// `.spec.ports[port=80,protocol="TCP"].targetPort`, as kube-apiserver names fields in conflicts.
impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for step in &self.0 {
            match step {
                Step::Field(name) => write!(f, ".{name}")?,
                Step::Item(keys) => {
                    let keys: Map<String, Value> = serde_json::from_str(keys).unwrap_or_default();
                    let keys: Vec<_> = keys.iter().map(|(key, value)| format!("{key}={value}")).collect();
                    write!(f, "[{}]", keys.join(","))?;
                }
                Step::Value(value) => write!(f, "[={value}]")?,
                Step::Index(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}

impl From<&[&str]> for Path {
    fn from(fields: &[&str]) -> Self {
        Self(fields.iter().map(|name| Step::Field((*name).to_owned())).collect())
    }
}

// === impl Leaves ===

impl Leaves {
    pub fn of(object: &Value, shape: Shape) -> Self {
        let mut leaves = Self::default();
        leaves.add(object, &Path::default(), shape);
        leaves
    }

    fn add(&mut self, value: &Value, path: &Path, shape: Shape) {
        let rule = shape.rule(path, value.is_array());
        match (value, rule) {
            (Value::Object(fields), Rule::Granular | Rule::Map) if !fields.is_empty() => {
                if rule == Rule::Map {
                    self.0.insert(path.clone(), Value::Null);
                }
                for (name, value) in fields {
                    self.add(value, &path.field(name), shape);
                }
            }
            (Value::Array(items), Rule::Keyed(keys)) if !items.is_empty() => {
                self.0.insert(path.clone(), Value::Null);
                for item in items {
                    let path = path.then(Step::item(item, keys));
                    self.0.insert(path.clone(), Value::Null);
                    for (name, value) in item.as_object().into_iter().flatten() {
                        self.add(value, &path.field(name), shape);
                    }
                }
            }
            (Value::Array(items), Rule::Set) if !items.is_empty() => {
                self.0.insert(path.clone(), Value::Null);
                for item in items {
                    self.0.insert(path.then(Step::Value(item.to_string())), item.clone());
                }
            }
            _ => drop(self.0.insert(path.clone(), value.clone())),
        }
    }

    pub fn paths(&self) -> FieldSet {
        FieldSet(self.0.keys().cloned().collect())
    }

    /// The fields whose value is not that of `before`, new ones included.
    pub fn changed_since(&self, before: &Self) -> FieldSet {
        let changed = self.0.iter().filter(|(path, value)| before.0.get(*path) != Some(value));
        FieldSet(changed.map(|(path, _)| path.clone()).collect())
    }
}

// === impl FieldSet ===

impl FieldSet {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Path> {
        self.0.iter()
    }

    pub fn union(&self, other: &Self) -> Self {
        Self(self.0.union(&other.0).cloned().collect())
    }

    pub fn intersection(&self, other: &Self) -> Self {
        Self(self.0.intersection(&other.0).cloned().collect())
    }

    pub fn difference(&self, other: &Self) -> Self {
        Self(self.0.difference(&other.0).cloned().collect())
    }

    #[must_use]
    pub fn filter(&self, keep: impl Fn(&Path) -> bool) -> Self {
        Self(self.0.iter().filter(|path| keep(path)).cloned().collect())
    }

    /// Without what lies at or below any of `prefixes`.
    pub fn without(&self, prefixes: &[Path]) -> Self {
        self.filter(|path| !prefixes.iter().any(|prefix| path.starts_with(prefix)))
    }

    /// Reads `FieldsV1`; parts in a notation that we do not know are left out.
    pub fn from_fields_v1(fields: &Value) -> Self {
        let mut set = Self::default();
        set.read(fields, &Path::default());
        set
    }

    fn read(&mut self, fields: &Value, path: &Path) {
        for (key, inner) in fields.as_object().into_iter().flatten() {
            if key == "." {
                self.0.insert(path.clone());
            } else if let Some(step) = Step::parse(key) {
                let path = path.then(step);
                if inner.as_object().is_none_or(Map::is_empty) {
                    self.0.insert(path);
                } else {
                    self.read(inner, &path);
                }
            }
        }
    }

    pub fn to_fields_v1(&self) -> Value {
        let mut root = Map::new();
        for path in &self.0 {
            let mut at = &mut root;
            for (depth, step) in path.0.iter().enumerate() {
                let is_last = depth + 1 == path.0.len();
                let inner = at.entry(step.key()).or_insert_with(|| Value::Object(Map::new()));
                let Value::Object(inner) = inner else { break };
                // Paths come in order, so a field comes before what is below it: it then becomes its own ".".
                if !is_last && inner.is_empty() && self.0.contains(&Path(path.0[..=depth].to_vec())) {
                    inner.insert(".".to_owned(), Value::Object(Map::new()));
                }
                at = inner;
            }
        }
        Value::Object(root)
    }

    /// Takes the fields out of `object`. Containers that are empty afterwards stay, unless they are in the set too; so do
    /// the keys of items that are not.
    pub fn remove_from(&self, object: &mut Value, shape: Shape) {
        // In order: an item goes whole, before the keys by which it is found.
        for path in self.0.iter().filter(|path| !path.is_key(shape)) {
            remove(object, path, 0, shape);
        }
    }
}

fn remove(value: &mut Value, path: &Path, depth: usize, shape: Shape) {
    let Some(step) = path.0.get(depth) else { return };
    let is_last = depth + 1 == path.0.len();
    match (value, step) {
        (Value::Object(fields), Step::Field(name)) if is_last => drop(fields.shift_remove(name)),
        (Value::Object(fields), Step::Field(name)) => {
            if let Some(inner) = fields.get_mut(name) {
                remove(inner, path, depth + 1, shape);
            }
        }
        (Value::Array(items), step) => {
            let rule = shape.rule(&Path(path.0[..depth].to_vec()), true);
            let Some(index) = items.iter().position(|item| step.leads_to(item, rule)) else { return };
            if is_last {
                items.remove(index);
            } else {
                remove(&mut items[index], path, depth + 1, shape);
            }
        }
        _ => {}
    }
}

/// `config` laid over `live`: what `config` says wins, what it does not say stays.
pub(super) fn merge(live: &mut Value, config: &Value, path: &Path, shape: Shape) {
    let rule = shape.rule(path, config.is_array());
    match (live, config, rule) {
        (Value::Object(live), Value::Object(config), Rule::Granular | Rule::Map) => {
            for (name, value) in config {
                match live.get_mut(name) {
                    Some(inner) => merge(inner, value, &path.field(name), shape),
                    None => drop(live.insert(name.clone(), value.clone())),
                }
            }
        }
        (Value::Array(live), Value::Array(config), Rule::Keyed(keys)) => {
            for item in config {
                let step = Step::item(item, keys);
                match live.iter_mut().find(|live| step.leads_to(live, rule)) {
                    Some(inner) => merge(inner, item, &path.then(step), shape),
                    None => live.push(item.clone()),
                }
            }
        }
        (Value::Array(live), Value::Array(config), Rule::Set) => {
            for item in config {
                if !live.contains(item) {
                    live.push(item.clone());
                }
            }
        }
        (live, config, _) => *live = config.clone(),
    }
}
