//! Schemas in the plainer shapes that the API's own documents have: kubectl looks no further than these.

use serde_json::{Value, json};

/// Rewrites a schema and all in it: what may be absent is a reference and not a choice between that and null, and a choice
/// between texts is one list of them.
pub fn simplify(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            fields.values_mut().for_each(simplify);
            if let Some(reference) = fields.get("anyOf").and_then(optional_reference) {
                fields.shift_remove("anyOf");
                fields.insert("allOf".to_owned(), json!([reference]));
            }
            if let Some(texts) = fields.get("oneOf").and_then(texts) {
                fields.shift_remove("oneOf");
                fields.insert("type".to_owned(), "string".into());
                fields.insert("enum".to_owned(), texts);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(simplify),
        _ => {}
    }
}

/// What is referred to, where the only other choice is null.
fn optional_reference(choices: &Value) -> Option<Value> {
    let [reference, null] = choices.as_array()?.as_slice() else { return None };
    let is_null = null.get("enum") == Some(&json!([null]));
    (is_null && reference.get("$ref").is_some()).then(|| reference.clone())
}

/// The texts, where each choice is between some.
fn texts(choices: &Value) -> Option<Value> {
    let mut texts = Vec::new();
    for choice in choices.as_array()? {
        if choice.get("type")? != "string" {
            return None;
        }
        texts.extend(choice.get("enum")?.as_array()?.iter().cloned());
    }
    Some(texts.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn optional_references_and_choices_of_texts_are_rewritten_and_nothing_else() {
        let reference = json!({ "$ref": "#/definitions/Check" });
        let cases = [
            (
                json!({ "anyOf": [reference, { "nullable": true, "enum": [null] }], "description": "kept" }),
                json!({ "allOf": [reference], "description": "kept" }),
            ),
            (
                json!({ "oneOf": [{ "type": "string", "enum": ["TCP"] }, { "type": "string", "enum": ["HTTP", "GRPC"] }] }),
                json!({ "type": "string", "enum": ["TCP", "HTTP", "GRPC"] }),
            ),
            (
                json!({ "anyOf": [reference, { "type": "string" }] }),
                json!({ "anyOf": [reference, { "type": "string" }] }),
            ),
            (
                json!({ "oneOf": [{ "type": "string", "enum": ["a"] }, { "type": "integer" }] }),
                json!({ "oneOf": [{ "type": "string", "enum": ["a"] }, { "type": "integer" }] }),
            ),
        ];
        for (schema, expected) in cases {
            let mut within = json!({ "properties": { "field": { "items": [schema] } } });
            simplify(&mut within);
            assert_eq!(within, json!({ "properties": { "field": { "items": [expected] } } }), "{schema}");
        }
    }
}
