//! The `OpenAPI` v2 document in Protocol Buffers (`openapi.v2.Document` of gnostic), as clients up to 1.2x require it.
//! Only what those clients look up: the definitions, with which they check objects, and the query parameters of each
//! PATCH, by which they find out whether a kind has dry runs.

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
        .message(8, &paths(document))
        .message(9, &definitions)
        .into_bytes()
}

fn paths(document: &Value) -> Writer {
    let paths = document.get("paths").and_then(Value::as_object).into_iter().flatten();
    paths.fold(Writer::default(), |all, (path, item)| match item.get("patch") {
        Some(patch) => {
            let item = Writer::default().message(8, &operation(patch));
            all.message(2, &Writer::default().text(1, path).message(2, &item))
        }
        None => all,
    })
}

fn operation(operation: &Value) -> Writer {
    let parameters = operation.get("parameters").and_then(Value::as_array).into_iter().flatten();
    let names = parameters.filter_map(|parameter| parameter.get("name")?.as_str());
    let written = names.fold(Writer::default(), |written, name| {
        let query = Writer::default().text(2, "query").text(4, name).text(6, "string");
        // Each level of gnostic's choices: an item, no reference; not in the body; in the query.
        let choice = Writer::default().message(2, &Writer::default().message(3, &query));
        written.message(8, &Writer::default().message(1, &choice))
    });
    extensions(operation).fold(written, |written, extension| written.message(13, &extension))
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
    extensions(value).fold(schema, |schema, extension| schema.message(31, &extension))
}

fn extensions(value: &Value) -> impl Iterator<Item = Writer> {
    let extensions = value.as_object().into_iter().flatten().filter(|(name, _)| name.starts_with("x-"));
    extensions.map(|(name, value)| {
        // Any: the value as YAML, of which JSON is a part.
        let any = Writer::default().text(2, &value.to_string());
        Writer::default().text(1, name).message(2, &any)
    })
}
