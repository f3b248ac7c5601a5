//! The `OpenAPI` v2 document in Protocol Buffers (`openapi.v2.Document` of gnostic), as clients up to 1.2x require it.
//! Only the definitions: they are what those clients check objects with.

use serde_json::{Map, Value};

use crate::apiserver::protobuf::Writer;

/// `document` is the same in JSON.
pub fn encode(document: &Value) -> Vec<u8> {
    let text = |at: &Value, field: &str| at.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    let info = document.get("info").cloned().unwrap_or_default();
    let info = Writer::default().text(1, &text(&info, "title")).text(2, &text(&info, "version"));
    let definitions =
        document.get("definitions").and_then(Value::as_object).map(named_schemas).unwrap_or_default();
    Writer::default()
        .text(1, &text(document, "swagger"))
        .message(2, &info)
        .message(9, &definitions)
        .into_bytes()
}

fn named_schemas(schemas: &Map<String, Value>) -> Writer {
    schemas.iter().fold(Writer::default(), |all, (name, value)| {
        all.message(1, &Writer::default().text(1, name).message(2, &schema(value)))
    })
}

fn schema(value: &Value) -> Writer {
    // A reference with a description beside it: only the reference counts here.
    if let Some([reference]) = value.get("allOf").and_then(Value::as_array).map(Vec::as_slice) {
        return self::schema(reference);
    }
    let mut schema = Writer::default();
    let text = |field: &str| value.get(field).and_then(Value::as_str);
    if let Some(reference) = text("$ref") {
        return schema.text(1, reference);
    }
    for (number, field) in [(2, "format"), (4, "description")] {
        if let Some(text) = text(field) {
            schema = schema.text(number, text);
        }
    }
    for required in value.get("required").and_then(Value::as_array).into_iter().flatten() {
        schema = schema.text(19, required.as_str().unwrap_or_default());
    }
    if let Some(values @ Value::Object(_)) = value.get("additionalProperties") {
        schema = schema.message(21, &Writer::default().message(1, &self::schema(values)));
    }
    if let Some(sort) = text("type") {
        schema = schema.message(22, &Writer::default().text(1, sort));
    }
    if let Some(items) = value.get("items") {
        schema = schema.message(23, &Writer::default().message(1, &self::schema(items)));
    }
    if let Some(properties) = value.get("properties").and_then(Value::as_object) {
        schema = schema.message(25, &named_schemas(properties));
    }
    let extensions = value.as_object().into_iter().flatten().filter(|(name, _)| name.starts_with("x-"));
    extensions.fold(schema, |schema, (name, value)| {
        // Any: the value as YAML, of which JSON is a part.
        let any = Writer::default().text(2, &value.to_string());
        schema.message(31, &Writer::default().text(1, name).message(2, &any))
    })
}
