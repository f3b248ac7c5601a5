//! Strategic merge: a merge patch in which some lists merge item by item, with `$patch`, `$retainKeys`,
//! `$deleteFromPrimitiveList/...` and `$setElementOrder/...` directives.

use serde_json::{Map, Value};

use crate::apiserver::kinds::Kind;
use crate::apiserver::status::ApiError;

/// How a list merges; lists that are not named here are replaced.
#[derive(Clone, Copy)]
enum Merge {
    /// Objects that are the same where this field is.
    Key(&'static str),
    /// Scalars; the patch adds to them.
    Union,
}

/// `patchStrategy: merge` of the kinds served here: (kind, or empty for all; path; how).
const LISTS: &[(&str, &str, Merge)] = &[
    ("", "metadata.finalizers", Merge::Union),
    ("", "metadata.ownerReferences", Merge::Key("uid")),
    ("Service", "spec.ports", Merge::Key("port")),
    ("Service", "status.conditions", Merge::Key("type")),
    ("Namespace", "status.conditions", Merge::Key("type")),
    ("Node", "spec.podCIDRs", Merge::Union),
    ("Node", "status.addresses", Merge::Key("type")),
    ("Node", "status.conditions", Merge::Key("type")),
];

/// The lists of a kind that merge, as its schema marks them: path, and the key of their items where they have one.
pub fn merging_lists(kind: &Kind) -> impl Iterator<Item = (&'static str, Option<&'static str>)> {
    LISTS.iter().filter(|(of, _, _)| of.is_empty() || *of == kind.name).map(|(_, at, how)| match how {
        Merge::Key(key) => (*at, Some(*key)),
        Merge::Union => (*at, None),
    })
}

pub(super) fn merge(kind: &Kind, object: &mut Value, patch: &Value) -> Result<(), ApiError> {
    merge_value(kind, "", object, patch)
}

fn strategy(kind: &Kind, at: &str) -> Option<Merge> {
    let list = LISTS.iter().find(|(of, list, _)| *list == at && (of.is_empty() || *of == kind.name));
    list.map(|(_, _, merge)| *merge)
}

fn below(at: &str, name: &str) -> String {
    if at.is_empty() { name.to_owned() } else { format!("{at}.{name}") }
}

fn merge_value(kind: &Kind, at: &str, value: &mut Value, patch: &Value) -> Result<(), ApiError> {
    match (patch, strategy(kind, at)) {
        (Value::Object(patch), _) => merge_object(kind, at, value, patch),
        (Value::Array(patch), Some(how)) => merge_list(kind, at, value, patch, how),
        (patch, _) => {
            *value = patch.clone();
            Ok(())
        }
    }
}

fn merge_object(
    kind: &Kind,
    at: &str,
    value: &mut Value,
    patch: &Map<String, Value>,
) -> Result<(), ApiError> {
    match patch.get("$patch").and_then(Value::as_str) {
        None | Some("merge") => {}
        Some("replace") => {
            *value = Value::Object(patch.iter().filter(|(name, _)| *name != "$patch").map(owned).collect());
            return Ok(());
        }
        Some("delete") => {
            *value = Value::Object(Map::new());
            return Ok(());
        }
        Some(other) => return Err(unknown_directive(other, at)),
    }
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    let Some(fields) = value.as_object_mut() else { return Ok(()) };
    if let Some(kept) = patch.get("$retainKeys").and_then(Value::as_array) {
        fields.retain(|name, _| kept.iter().any(|kept| kept == name));
    }
    for (name, inner) in patch {
        if let Some(list) = name.strip_prefix("$deleteFromPrimitiveList/") {
            let gone = inner.as_array().map(Vec::as_slice).unwrap_or_default();
            if let Some(items) = fields.get_mut(list).and_then(Value::as_array_mut) {
                items.retain(|item| !gone.contains(item));
            }
        }
    }
    for (name, inner) in patch.iter().filter(|(name, _)| !name.starts_with('$')) {
        if inner.is_null() {
            fields.shift_remove(name);
        } else {
            let field = fields.entry(name.clone()).or_insert(Value::Null);
            merge_value(kind, &below(at, name), field, inner)?;
        }
    }
    for (name, order) in patch {
        if let (Some(list), Some(order)) = (name.strip_prefix("$setElementOrder/"), order.as_array())
            && let Some(items) = fields.get_mut(list).and_then(Value::as_array_mut)
        {
            reorder(items, order, strategy(kind, &below(at, list)));
        }
    }
    Ok(())
}

fn merge_list(kind: &Kind, at: &str, value: &mut Value, patch: &[Value], how: Merge) -> Result<(), ApiError> {
    if !value.is_array() {
        *value = Value::Array(Vec::new());
    }
    let Some(items) = value.as_array_mut() else { return Ok(()) };
    if patch.iter().any(|item| item.get("$patch").is_some_and(|directive| directive == "replace")) {
        items.clear();
    }
    for item in patch {
        let directive = item.get("$patch").and_then(Value::as_str);
        match how {
            Merge::Union if items.contains(item) => {}
            Merge::Union => items.push(item.clone()),
            // The marker of a list that is replaced as a whole stands for no item.
            Merge::Key(_) if directive == Some("replace") => {}
            Merge::Key(key) => {
                let Some(id) = item.get(key) else {
                    let message = format!("map: {item} does not contain declared merge key: {key}");
                    return Err(ApiError::bad_request(message));
                };
                let place = items.iter().position(|item| item.get(key) == Some(id));
                match (place, directive) {
                    (_, Some("delete")) => items.retain(|item| item.get(key) != Some(id)),
                    (Some(index), _) => {
                        merge_value(kind, path_of_item(at).as_str(), &mut items[index], item)?;
                    }
                    (None, _) => {
                        let mut new = Value::Null;
                        merge_value(kind, path_of_item(at).as_str(), &mut new, item)?;
                        items.push(new);
                    }
                }
            }
        }
    }
    Ok(())
}

/// Lists inside of items have no entry in [`LISTS`]: a path that none has.
fn path_of_item(at: &str) -> String {
    format!("{at}[]")
}

/// Items named in `order` come in that order, the others stay behind those that they followed.
fn reorder(items: &mut Vec<Value>, order: &[Value], how: Option<Merge>) {
    let place = |item: &Value| match how {
        Some(Merge::Key(key)) => {
            order.iter().position(|one| one.get(key).is_some() && one.get(key) == item.get(key))
        }
        _ => order.iter().position(|one| one == item),
    };
    let mut after = 0;
    let mut placed: Vec<_> = items
        .drain(..)
        .map(|item| {
            after = place(&item).unwrap_or(after);
            (after, item)
        })
        .collect();
    placed.sort_by_key(|(place, _)| *place);
    items.extend(placed.into_iter().map(|(_, item)| item));
}

fn owned((name, value): (&String, &Value)) -> (String, Value) {
    (name.clone(), value.clone())
}

fn unknown_directive(directive: &str, at: &str) -> ApiError {
    ApiError::bad_request(format!("unknown patch type \"{directive}\" at \"{at}\""))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::apiserver::kinds::SERVICE;

    #[test]
    fn lists_and_directives_merge_as_kubectl_means_them() {
        let ports = json!([{ "port": 80, "name": "a" }, { "port": 81, "name": "b" }]);
        let cases = [
            (
                "an item by its key",
                json!({ "ports": [{ "port": 81, "name": "c" }] }),
                json!([{ "port": 80, "name": "a" }, { "port": 81, "name": "c" }]),
            ),
            (
                "a new item",
                json!({ "ports": [{ "port": 82 }] }),
                json!([{ "port": 80, "name": "a" }, { "port": 81, "name": "b" }, { "port": 82 }]),
            ),
            (
                "an item away",
                json!({ "ports": [{ "port": 80, "$patch": "delete" }] }),
                json!([{ "port": 81, "name": "b" }]),
            ),
            (
                "the list replaced",
                json!({ "ports": [{ "$patch": "replace" }, { "port": 9 }] }),
                json!([{ "port": 9 }]),
            ),
            (
                "an order",
                json!({ "$setElementOrder/ports": [{ "port": 81 }, { "port": 80 }] }),
                json!([{ "port": 81, "name": "b" }, { "port": 80, "name": "a" }]),
            ),
            (
                "a null in an item",
                json!({ "ports": [{ "port": 80, "name": null }] }),
                json!([{ "port": 80 }, { "port": 81, "name": "b" }]),
            ),
        ];
        for (case, patch, expected) in cases {
            let mut object = json!({ "spec": { "ports": ports } });
            merge(&SERVICE, &mut object, &json!({ "spec": patch }))
                .unwrap_or_else(|error| panic!("{case}: {error}"));
            assert_eq!(object["spec"]["ports"], expected, "{case}");
        }
    }

    #[test]
    fn scalars_are_added_and_taken_away_one_by_one() {
        let mut object = json!({ "metadata": { "finalizers": ["a", "b"] } });
        let patch =
            json!({ "metadata": { "finalizers": ["c", "a"], "$deleteFromPrimitiveList/finalizers": ["b"] } });
        merge(&SERVICE, &mut object, &patch).expect("a patch");
        assert_eq!(object["metadata"]["finalizers"], json!(["a", "c"]));
    }

    #[test]
    fn only_what_is_kept_stays() {
        let mut object = json!({ "spec": { "type": "NodePort", "clusterIP": "10.0.0.1" } });
        let patch = json!({ "spec": { "$retainKeys": ["type"], "type": "ExternalName" } });
        merge(&SERVICE, &mut object, &patch).expect("a patch");
        assert_eq!(object["spec"], json!({ "type": "ExternalName" }));
    }

    #[test]
    fn an_item_without_its_key_is_refused() {
        let refusal = merge(&SERVICE, &mut json!({}), &json!({ "spec": { "ports": [{ "name": "a" }] } }));
        let expected = "map: {\"name\":\"a\"} does not contain declared merge key: port";
        assert_eq!(refusal.expect_err("a refusal").to_string(), expected);
    }
}
