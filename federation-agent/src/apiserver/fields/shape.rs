//! How the values of a kind merge: what kube-apiserver reads from `x-kubernetes-list-type` and `-map-type`.
//!
//! Rust's Kubernetes types do not carry these marks, so the few places where they matter stand here. Without a mark a
//! list is replaced whole and an object merges field by field, as in any custom resource.

use super::Path;

/// How two versions of one value merge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Field by field; a leaf where it is no object.
    Granular,
    /// As `Granular`, and the map itself is owned beside its entries: its keys are data (labels), not fields.
    Map,
    /// Replaced whole, by one owner.
    Atomic,
    /// A list of distinct scalars, each with owners of its own.
    Set,
    /// A list of objects told apart by these fields.
    Keyed(&'static [Key]),
}

/// A field that tells items of a list apart, and what it is where it is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    pub field: &'static str,
    pub default: Option<&'static str>,
}

/// The marks of one kind.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Paths as dotted field names, list items left out.
    marks: &'static [(&'static str, Rule)],
}

const fn by(field: &'static str) -> Key {
    Key { field, default: None }
}

const METADATA: &[(&str, Rule)] = &[
    ("metadata.labels", Rule::Map),
    ("metadata.annotations", Rule::Map),
    ("metadata.finalizers", Rule::Set),
    ("metadata.ownerReferences", Rule::Keyed(&[by("uid")])),
];

const SERVICE: &[(&str, Rule)] = &[
    ("spec.selector", Rule::Atomic),
    ("spec.ports", Rule::Keyed(&[by("port"), Key { field: "protocol", default: Some("TCP") }])),
    ("status.conditions", Rule::Keyed(&[by("type")])),
];

const NODE: &[(&str, Rule)] = &[
    ("spec.podCIDRs", Rule::Set),
    ("status.addresses", Rule::Keyed(&[by("type")])),
    ("status.conditions", Rule::Keyed(&[by("type")])),
    ("status.allocatable", Rule::Map),
    ("status.capacity", Rule::Map),
];

const NAMESPACE: &[(&str, Rule)] = &[("status.conditions", Rule::Keyed(&[by("type")]))];
const DATA: &[(&str, Rule)] = &[("data", Rule::Map), ("stringData", Rule::Map), ("binaryData", Rule::Map)];
const SERVICE_EXPORT: &[(&str, Rule)] = &[("status.conditions", Rule::Keyed(&[by("type")]))];
const SERVICE_IMPORT: &[(&str, Rule)] =
    &[("status.clusters", Rule::Keyed(&[by("cluster")])), ("status.conditions", Rule::Keyed(&[by("type")]))];
const EVENT: &[(&str, Rule)] = &[("involvedObject", Rule::Atomic), ("related", Rule::Atomic)];

impl Shape {
    pub fn of(kind: &str) -> Self {
        let marks = match kind {
            "Service" => SERVICE,
            "Node" => NODE,
            "Namespace" => NAMESPACE,
            "ConfigMap" | "Secret" => DATA,
            "Event" => EVENT,
            "ServiceExport" => SERVICE_EXPORT,
            "ServiceImport" => SERVICE_IMPORT,
            _ => &[],
        };
        Self { marks }
    }

    /// The rule of the value at `path`, which is a list if `is_list`.
    pub fn rule(&self, path: &Path, is_list: bool) -> Rule {
        let marked = METADATA.iter().chain(self.marks).find(|(at, _)| path.is_at(at));
        match marked {
            Some((_, rule)) => *rule,
            None if is_list => Rule::Atomic,
            None => Rule::Granular,
        }
    }
}
