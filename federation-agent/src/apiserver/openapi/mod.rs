//! The schemas of the kinds, for clients that check before they send.

mod protobuf;
mod simplify;

use std::sync::{Arc, LazyLock};

use axum::extract::Path;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use http::{HeaderMap, header};
use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::api::Api;
use super::discovery::group_versions;
use super::kinds::{self, Kind};
use super::patch::merging_lists;
use super::status::ApiError;

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

pub fn routes() -> Router<Arc<Api>> {
    Router::new()
        .route("/openapi/v2", get(v2))
        .route("/openapi/v3", get(index))
        .route("/openapi/v3/api/{version}", get(async |Path(version): Path<String>| v3("", &version)))
        .route(
            "/openapi/v3/apis/{group}/{version}",
            get(async |Path((group, version)): Path<(String, String)>| v3(&group, &version)),
        )
}

/// The media type of the document in Protocol Buffers.
const PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
/// The same as clients before 1.27 ask for it; as the type of an answer, newer Go refuses the `@`.
const OLDER_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";

async fn v2(headers: HeaderMap) -> Response {
    static ENCODED: LazyLock<Vec<u8>> = LazyLock::new(|| protobuf::encode(&V2));
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    if accept.contains(PROTOBUF) || accept.contains(OLDER_PROTOBUF) {
        ([(header::CONTENT_TYPE, PROTOBUF)], ENCODED.as_slice()).into_response()
    } else {
        Json(&*V2).into_response()
    }
}

static V2: LazyLock<Value> = LazyLock::new(|| {
    let served: Vec<_> = kinds::served().collect();
    json!({
        "swagger": "2.0",
        "info": { "title": "Federation", "version": env!("CARGO_PKG_VERSION") },
        "paths": paths(&served),
        "definitions": schemas(&served, "/definitions"),
    })
});

async fn index() -> Json<Value> {
    let paths: Map<_, _> = group_versions()
        .into_iter()
        .map(|(group, version)| {
            let path =
                if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") };
            let url = format!("/openapi/v3/{path}?hash={}", env!("CARGO_PKG_VERSION"));
            (path, json!({ "serverRelativeURL": url }))
        })
        .collect();
    Json(json!({ "paths": paths }))
}

fn v3(group: &str, version: &str) -> Result<Json<Value>, ApiError> {
    let served: Vec<_> =
        kinds::served().filter(|(kind, served)| kind.group == group && *served == version).collect();
    if served.is_empty() {
        return Err(ApiError::no_such_path());
    }
    Ok(Json(json!({
        "openapi": "3.0.0",
        "info": { "title": "Federation", "version": env!("CARGO_PKG_VERSION") },
        "paths": paths(&served),
        "components": { "schemas": schemas(&served, "/components/schemas") },
    })))
}

fn gvk(kind: &Kind, version: &str) -> Value {
    json!({ "group": kind.group, "version": version, "kind": kind.name })
}

/// The kinds' schemas and all that they refer to, by name. The versions of one kind share its schema.
fn schemas(served: &[(&'static Kind, &'static str)], definitions_path: &'static str) -> Map<String, Value> {
    let settings =
        SchemaSettings::openapi3().with(|settings| settings.definitions_path = definitions_path.into());
    let mut generator = SchemaGenerator::new(settings);
    let names: Vec<_> = served
        .iter()
        .map(|(kind, version)| (*kind, *version, reference_name(&(kind.schema)(&mut generator))))
        .collect();
    generator.subschema_for::<k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta>();
    let mut schemas = generator.take_definitions(true);
    for (kind, version, name) in names {
        let Some(schema) = schemas.get_mut(&name) else { continue };
        match &mut schema["x-kubernetes-group-version-kind"] {
            Value::Array(known) => {
                known.push(gvk(kind, version));
                continue;
            }
            first => *first = json!([gvk(kind, version)]),
        }
        let properties = &mut schema["properties"];
        properties["apiVersion"] = json!({ "type": "string" });
        properties["kind"] = json!({ "type": "string" });
        properties["metadata"] = json!({ "$ref": format!("#{definitions_path}/{META}") });
        for (path, key) in merging_lists(kind) {
            if let Some(list) = property(&mut schemas, &name, path) {
                list["x-kubernetes-patch-strategy"] = "merge".into();
                if let Some(key) = key {
                    list["x-kubernetes-patch-merge-key"] = key.into();
                }
            }
        }
    }
    schemas.values_mut().for_each(simplify::simplify);
    schemas
}

/// The schema of the field at a dotted path of the schema `root`, through references.
fn property<'a>(schemas: &'a mut Map<String, Value>, root: &str, path: &str) -> Option<&'a mut Value> {
    let (holders, last) = path.rsplit_once('.').unwrap_or(("", path));
    let mut name = root.to_owned();
    for holder in holders.split('.').filter(|holder| !holder.is_empty()) {
        let field = schemas.get(&name)?.get("properties")?.get(holder)?;
        let reference = field.get("$ref").or_else(|| field.get("allOf")?.get(0)?.get("$ref"))?.as_str()?;
        name = reference.rsplit('/').next()?.to_owned();
    }
    schemas.get_mut(&name)?.get_mut("properties")?.get_mut(last)
}

fn reference_name(schema: &schemars::Schema) -> String {
    let reference = schema.get("$ref").and_then(Value::as_str).unwrap_or_default();
    reference.rsplit('/').next().unwrap_or_default().to_owned()
}

/// The operations that a client may look up: kubectl asks whether a PATCH of the kind knows `fieldValidation`.
fn paths(served: &[(&'static Kind, &'static str)]) -> Map<String, Value> {
    let mut paths = Map::new();
    for (kind, version) in served {
        let scope = if kind.namespaced { "/namespaces/{namespace}" } else { "" };
        let collection = format!("{}{scope}/{}", kind.root(version), kind.plural);
        let operation = |action: &str, query: &[&str]| {
            let parameters: Vec<_> = query
                .iter()
                .map(|name| json!({ "name": name, "in": "query", "schema": { "type": "string" } }))
                .collect();
            json!({
                "x-kubernetes-action": action,
                "x-kubernetes-group-version-kind": gvk(kind, version),
                "parameters": parameters,
                "responses": { "200": { "description": "OK" } },
            })
        };
        let write = ["dryRun", "fieldManager", "fieldValidation"];
        let select = ["labelSelector", "fieldSelector", "limit", "continue", "resourceVersion", "watch"];
        let item = format!("{collection}/{{name}}");
        paths.insert(
            collection,
            json!({
                "get": operation("list", &select),
                "post": operation("post", &write),
                "delete": operation("deletecollection", &select),
            }),
        );
        paths.insert(
            item,
            json!({
                "get": operation("get", &[]),
                "put": operation("put", &write),
                "patch": operation("patch", &["dryRun", "fieldManager", "fieldValidation", "force"]),
                "delete": operation("delete", &["dryRun"]),
            }),
        );
    }
    paths
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apiserver::kinds::{KINDS, SERVICE};

    #[test]
    fn every_list_that_merges_is_marked_so_in_the_schema_that_clients_patch_by() {
        let schemas = schemas(&kinds::served().collect::<Vec<_>>(), "/definitions");
        for kind in KINDS.into_iter().filter(|kind| !kind.is_custom()) {
            let gvk = gvk(kind, kind.version);
            let root = schemas.iter().find(|(_, schema)| schema["x-kubernetes-group-version-kind"][0] == gvk);
            let (root, _) = root.unwrap_or_else(|| panic!("{} has a schema", kind.name));
            for (path, key) in merging_lists(kind) {
                let mut schemas = schemas.clone();
                let list =
                    property(&mut schemas, root, path).unwrap_or_else(|| panic!("{path} of {}", kind.name));
                assert_eq!(list["x-kubernetes-patch-strategy"], "merge", "{path} of {}", kind.name);
                assert_eq!(list.get("x-kubernetes-patch-merge-key").and_then(Value::as_str), key);
            }
        }
    }

    #[test]
    fn every_version_of_a_kind_is_described_by_its_schema() {
        let served: Vec<_> = kinds::served().collect();
        let schemas = schemas(&served, "/definitions");
        for (kind, version) in served {
            let described = schemas.values().any(|schema| {
                let all = schema["x-kubernetes-group-version-kind"].as_array();
                all.is_some_and(|all| all.contains(&gvk(kind, version)))
            });
            assert!(described, "{} in {version}", kind.name);
        }
    }

    #[test]
    fn clients_that_ask_before_they_rely_on_it_find_field_validation() {
        let paths = paths(&[(&SERVICE, SERVICE.version)]);
        let patch = &paths["/api/v1/namespaces/{namespace}/services/{name}"]["patch"];
        let parameters = patch["parameters"].as_array().expect("a list");
        assert!(parameters.iter().any(|parameter| parameter["name"] == "fieldValidation"));
    }
}
