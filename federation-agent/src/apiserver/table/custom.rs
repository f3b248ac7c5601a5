//! The columns of our own kinds, read from their definitions: the same that a real API server prints.

use std::any::TypeId;
use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, PoisonError};

use jsonpath_rust::JsonPath as _;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceColumnDefinition;
use kube::CustomResourceExt;
use serde_json::Value;

use super::columns::since;
use super::{Column, Columns};
use crate::apiserver::object::Object as _;

/// Built once a type, kept for the life of the process.
static BUILT: LazyLock<Mutex<HashMap<TypeId, Columns>>> = LazyLock::new(Mutex::default);

pub fn custom<T: CustomResourceExt + 'static>() -> Columns {
    let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    built.entry(TypeId::of::<T>()).or_insert_with(|| {
        let versions = T::crd().spec.versions;
        let printed =
            versions.into_iter().flat_map(|version| version.additional_printer_columns.unwrap_or_default());
        let name = Column {
            name: "Name".to_owned(),
            sort: "string",
            description: String::new(),
            priority: 0,
            cell: Box::new(|object| object.name().into()),
        };
        Vec::leak(std::iter::once(name).chain(printed.map(column)).collect())
    })
}

fn column(definition: CustomResourceColumnDefinition) -> Column {
    let path = format!("${}", definition.json_path);
    let sort = match definition.type_.as_str() {
        "date" => "date",
        "integer" => "integer",
        _ => "string",
    };
    Column {
        name: definition.name,
        sort,
        description: definition.description.unwrap_or_default(),
        priority: definition.priority.unwrap_or(0),
        cell: Box::new(move |object| {
            // A path that is not there, or is not understood, is an empty cell.
            let first = object.query(&path).ok().and_then(|found| found.first().copied().cloned());
            match (sort, first) {
                ("date", Some(Value::String(time))) => since(&time).into(),
                ("string", Some(Value::String(text))) => text.into(),
                (_, None) => Value::Null,
                ("integer", Some(number)) => number,
                (_, Some(other)) => other.to_string().into(),
            }
        }),
    }
}
