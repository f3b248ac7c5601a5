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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::apiserver::fields::Operation;
    use crate::apiserver::object::Object as _;

    const NOW: &str = "2026-01-01T00:00:00Z";

    fn owner(manager: &str) -> Owner {
        Owner {
            manager: manager.to_owned(),
            operation: Operation::Apply,
            api_version: "v1".to_owned(),
            subresource: String::new(),
        }
    }

    /// Applies to `live` as the server does, and gives the object with its owners.
    fn applied(live: Option<&Value>, config: &Value, manager: &str, force: bool) -> Result<Value, ApiError> {
        let now = Value::from(NOW);
        let Applied { mut object, managers } =
            apply(live, config, &owner(manager), force, &now, Shape::of("Service"))?;
        object.set_meta("managedFields", managers.to_value());
        Ok(object)
    }

    fn content(object: &Value) -> Value {
        let mut object = object.clone();
        object.meta_mut().shift_remove("managedFields");
        object
    }

    #[test]
    fn stating_nothing_any_longer_removes_what_was_stated_and_keeps_what_others_have() {
        let config = json!({ "metadata": { "name": "web", "labels": { "a": "1", "b": "1" } }, "spec": { "type": "X" } });
        let live = applied(None, &config, "one", false).expect("no conflict");
        let other = json!({ "metadata": { "name": "web", "labels": { "b": "1" } } });
        let live = applied(Some(&live), &other, "two", false).expect("equal values are shared");
        let less = json!({ "metadata": { "name": "web" } });
        let live = applied(Some(&live), &less, "one", false).expect("no conflict");
        assert_eq!(
            content(&live),
            json!({ "metadata": { "name": "web", "labels": { "b": "1" } }, "spec": {} })
        );
        let managers = Managers::of(&live);
        assert!(managers.fields_of(&owner("one")).is_empty());
    }

    #[test]
    fn an_item_stays_while_someone_owns_a_field_of_it() {
        let port = |extra: Value| {
            let mut port = json!({ "port": 80 });
            if let (Value::Object(port), Value::Object(extra)) = (&mut port, extra) {
                port.extend(extra);
            }
            json!({ "metadata": { "name": "web" }, "spec": { "ports": [port] } })
        };
        let live = applied(None, &port(json!({ "name": "http" })), "one", false).expect("no conflict");
        let live =
            applied(Some(&live), &port(json!({ "targetPort": 8080 })), "two", false).expect("no conflict");
        let live = applied(Some(&live), &json!({ "metadata": { "name": "web" } }), "one", false)
            .expect("no conflict");
        assert_eq!(live["spec"]["ports"], json!([{ "port": 80, "targetPort": 8080 }]));
    }

    #[test]
    fn a_list_without_marks_and_a_selector_are_replaced_whole() {
        let config =
            |selector: Value| json!({ "metadata": { "name": "web" }, "spec": { "selector": selector } });
        let live = applied(None, &config(json!({ "a": "1" })), "one", false).expect("no conflict");
        let refusal =
            applied(Some(&live), &config(json!({ "b": "1" })), "two", false).expect_err("a conflict");
        assert_eq!(
            refusal.to_string(),
            "Apply failed with 1 conflict: conflict with \"one\": .spec.selector"
        );
        let live = applied(Some(&live), &config(json!({ "b": "1" })), "two", true).expect("forced");
        assert_eq!(live["spec"]["selector"], json!({ "b": "1" }));
    }

    /// Configurations with labels, ports and a selector in every mixture.
    fn config() -> impl Strategy<Value = Value> {
        let labels = prop::collection::btree_map("[a-c]", "[0-2]", 0..3);
        let ports = prop::collection::btree_map(80_u16..84, prop::option::of(1_u16..3), 0..3);
        let selector = prop::option::of("[x-z]");
        (labels, ports, selector).prop_map(|(labels, ports, selector)| {
            let ports: Vec<_> = ports
                .into_iter()
                .map(|(port, target)| match target {
                    Some(target) => json!({ "port": port, "targetPort": target }),
                    None => json!({ "port": port }),
                })
                .collect();
            let mut config =
                json!({ "metadata": { "name": "web", "labels": labels }, "spec": { "ports": ports } });
            if let Some(selector) = selector {
                config["spec"]["selector"] = json!({ "app": selector });
            }
            config
        })
    }

    proptest! {
        #[test]
        fn applying_twice_is_applying_once(first in config(), second in config()) {
            let live = applied(None, &first, "one", false).expect("alone");
            let once = applied(Some(&live), &second, "two", true).expect("forced");
            let twice = applied(Some(&once), &second, "two", false).expect("nothing changes");
            prop_assert_eq!(once, twice);
        }

        #[test]
        fn a_manager_alone_gets_exactly_what_it_states(first in config(), second in config()) {
            let live = applied(None, &first, "one", false).expect("alone");
            let live = applied(Some(&live), &second, "one", false).expect("alone");
            let shape = Shape::of("Service");
            let stated = Leaves::of(&without_nulls(&second), shape);
            let there = Leaves::of(&content(&live), shape);
            let missing = stated.paths().difference(&there.paths());
            prop_assert!(missing.is_empty(), "missing {missing:?}");
            let kept = Leaves::of(&first, shape).paths().difference(&stated.paths()).without(&system_fields());
            let left = kept.intersection(&there.paths()).filter(|path| {
                // An object that has become empty is a field of its own.
                !stated.paths().iter().any(|stated| stated.starts_with(path))
            });
            let left = left.filter(|path| !matches!(path.to_string().as_str(), ".spec" | ".metadata"));
            prop_assert!(left.is_empty(), "left {left:?} of {first} after {second}");
            let ports = |object: &Value| {
                let ports = object["spec"]["ports"].as_array().into_iter().flatten();
                ports.map(|port| port["port"].clone()).map(|port| port.to_string()).collect::<Vec<_>>()
            };
            let (mut stated, mut there) = (ports(&second), ports(&live));
            stated.sort();
            there.sort();
            prop_assert_eq!(stated, there);
        }

        #[test]
        fn ownership_survives_its_notation(config in config()) {
            let live = applied(None, &config, "one", false).expect("alone");
            let managers = Managers::of(&live);
            prop_assert_eq!(managers.to_value(), live["metadata"]["managedFields"].clone());
        }
    }
}
