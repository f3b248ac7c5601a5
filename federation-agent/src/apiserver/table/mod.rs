//! Objects as rows, so that `kubectl get` prints what it would of any cluster (`meta.k8s.io` Table).

mod columns;
mod custom;

use std::sync::Arc;

use serde_json::{Value, json};

pub use columns::{
    config_maps, endpoint_slices, events, leases, name_and_age, namespaces, nodes, secrets, services,
};
pub use custom::custom;

use super::kinds::Kind;
use super::object::Object as _;
use super::store::Stored;

/// One column: what it is called and how a cell of it is made.
pub struct Column {
    pub name: String,
    /// `string`, `integer` or `date`: kubectl prints the age of a date.
    pub sort: &'static str,
    pub description: String,
    /// Columns above 0 are shown by `-o wide` alone.
    pub priority: i32,
    pub cell: Cell,
}

pub type Cell = Box<dyn Fn(&Value) -> Value + Send + Sync>;
pub type Columns = &'static [Column];

/// The table of `objects`.
pub fn render(
    kind: &Kind,
    objects: &[Arc<Stored>],
    version: &str,
    include_object: &str,
    metadata: &Value,
) -> Value {
    let columns = (kind.columns)();
    let definitions: Vec<_> = columns
        .iter()
        .map(|column| {
            let format = if column.name == "Name" { "name" } else { "" };
            json!({
                "name": column.name,
                "type": if column.sort == "date" { "string" } else { column.sort },
                "format": format,
                "description": column.description,
                "priority": column.priority,
            })
        })
        .collect();
    let rows: Vec<_> = objects
        .iter()
        .map(|stored| {
            let cells: Vec<_> = columns.iter().map(|column| (column.cell)(&stored.object)).collect();
            let mut row = json!({ "cells": cells });
            match include_object {
                "None" => {}
                "Object" => row["object"] = stored.object.clone(),
                _ => row["object"] = partial(&stored.object, version),
            }
            row
        })
        .collect();
    json!({
        "apiVersion": format!("meta.k8s.io/{version}"),
        "kind": "Table",
        "metadata": metadata,
        "columnDefinitions": definitions,
        "rows": rows,
    })
}

/// The object's metadata alone.
pub fn partial(object: &Value, version: &str) -> Value {
    json!({
        "apiVersion": format!("meta.k8s.io/{version}"),
        "kind": "PartialObjectMetadata",
        "metadata": object.meta(),
    })
}
