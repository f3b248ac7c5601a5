//! What schemas do not say of objects: whether what they name is there.

use std::path::Path;

use anyhow::Result;
use serde_json::Value;

use super::{rights, workloads};

/// Every object that is rendered, and what people are told to make beside them.
pub struct Shelf<'a> {
    objects: &'a [Value],
    told: &'a str,
}

/// Everything that is wrong with how objects refer to each other and to the agent's program, one sentence each.
///
/// `told` is the text that tells people what to make themselves.
pub fn judge(objects: &[Value], told: &str, agent: &Path) -> Result<Vec<String>> {
    let shelf = Shelf { objects, told };
    let mut found = rights::complaints(&shelf);
    found.extend(workloads::complaints(&shelf, agent)?);
    Ok(found)
}

/// How people know an object.
pub fn name_of(object: &Value) -> String {
    format!("{} {}", text(&object["kind"]), text(&object["metadata"]["name"]))
}

/// A string, or nothing where there is none.
pub fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// The elements of a list, or none where there is no list.
pub fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

// === impl Shelf ===

impl<'a> Shelf<'a> {
    pub fn objects(&self) -> &'a [Value] {
        self.objects
    }

    /// The object of a kind and name; of any namespace where that is empty.
    pub fn find(&self, kind: &str, namespace: &str, name: &str) -> Option<&'a Value> {
        self.objects.iter().find(|object| {
            let metadata = &object["metadata"];
            let here = namespace.is_empty() || metadata["namespace"] == namespace;
            object["kind"] == kind && here && metadata["name"] == name
        })
    }

    /// Whether people are told to make it, by a command.
    pub fn is_told(&self, kind: &str, name: &str) -> bool {
        let command = match kind {
            "Secret" => "create secret generic",
            "ConfigMap" => "create configmap",
            _ => return false,
        };
        let mut commands = self.told.lines().filter_map(|line| line.split_once(command));
        commands.any(|(_, rest)| rest.split_whitespace().any(|word| word == name))
    }
}
