//! Server-side apply: a manager states the fields that it wants, and loses those that it no longer states.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::StatusCause;
use serde_json::{Map, Value};

use super::managers::system_fields;
use super::path::merge;
use super::{FieldSet, Leaves, Managers, Owner, Path, Shape};
use crate::apiserver::status::ApiError;

/// What an apply makes of an object; ownership is that of the object before it is defaulted.
#[derive(Debug)]
pub struct Applied {
    pub object: Value,
    pub managers: Managers,
}

/// Lays `config` over `live` for `owner`. Fields of others that would change are a conflict, unless `force` takes them.
pub fn apply(
    live: Option<&Value>,
    config: &Value,
    owner: &Owner,
    force: bool,
    now: &Value,
    shape: Shape,
) -> Result<Applied, ApiError> {
    let config = without_nulls(config);
    let applied = Leaves::of(&config, shape).paths().without(&system_fields());
    let Some(live) = live else {
        let mut managers = Managers::default();
        managers.set(owner, applied, now);
        managers.tidy();
        return Ok(Applied { object: config, managers });
    };

    let mut managers = Managers::of(live);
    let mut object = live.clone();
    merge(&mut object, &config, &Path::default(), shape);

    let before = Leaves::of(live, shape);
    let changed = Leaves::of(&object, shape).changed_since(&before);
    if !force {
        conflicts(&managers, owner, &changed)?;
    }
    managers.take_from_others(owner, &changed);

    // A container goes with its manager, unless someone still owns something in it.
    let needed = managers.others(owner).union(&applied);
    let dropped = managers.fields_of(owner).difference(&applied);
    let dropped = dropped.filter(|path| !needed.iter().any(|needed| needed.starts_with(path)));
    dropped.remove_from(&mut object, shape);

    managers.set(owner, applied, now);
    managers.forget_missing(&before, &Leaves::of(&object, shape));
    Ok(Applied { object, managers })
}

fn conflicts(managers: &Managers, owner: &Owner, changed: &FieldSet) -> Result<(), ApiError> {
    let mut groups = Vec::new();
    let mut causes = Vec::new();
    for entry in managers.0.iter().filter(|entry| entry.owner != *owner) {
        let fields = entry.fields.intersection(changed);
        let described = entry.owner.describe(&entry.time);
        for field in fields.iter() {
            causes.push(StatusCause {
                reason: Some("FieldManagerConflict".to_owned()),
                message: Some(format!("conflict with {described}")),
                field: Some(field.to_string()),
            });
        }
        let fields: Vec<_> = fields.iter().map(ToString::to_string).collect();
        match fields.as_slice() {
            [] => {}
            [one] => groups.push(format!("conflict with {described}: {one}")),
            many => groups.push(format!("conflicts with {described}:\n- {}", many.join("\n- "))),
        }
    }
    if causes.is_empty() {
        return Ok(());
    }
    let plural = if causes.len() == 1 { "conflict" } else { "conflicts" };
    let message = format!("Apply failed with {} {plural}: {}", causes.len(), groups.join("\n"));
    Err(ApiError::apply_conflict(message, causes))
}

/// A null in an applied configuration is a field that is not stated.
fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let stated = fields.iter().filter(|(_, value)| !value.is_null());
            Value::Object(
                stated.map(|(name, value)| (name.clone(), without_nulls(value))).collect::<Map<_, _>>(),
            )
        }
        Value::Array(items) => Value::Array(items.iter().map(without_nulls).collect()),
        other => other.clone(),
    }
}
