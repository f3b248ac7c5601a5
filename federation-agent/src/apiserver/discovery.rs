//! What is served: groups, versions, resources.

use std::sync::Arc;

use axum::extract::Path;
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};

use super::api::Api;
use super::kinds::{self, KINDS, Kind, Status};
use super::status::ApiError;

const VERBS: &[&str] = &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
const STATUS_VERBS: &[&str] = &["get", "patch", "update"];

pub fn routes() -> Router<Arc<Api>> {
    Router::new()
        .route("/api", get(core_versions))
        .route("/api/", get(core_versions))
        .route("/api/{version}", get(async |Path(version): Path<String>| resources("", &version)))
        .route("/apis", get(groups))
        .route("/apis/", get(groups))
        .route("/apis/{group}", get(group))
        .route(
            "/apis/{group}/{version}",
            get(async |Path((group, version)): Path<(String, String)>| resources(&group, &version)),
        )
}

pub async fn version() -> Json<Value> {
    Json(json!({
        "major": "1",
        "minor": "33",
        "gitVersion": concat!("v1.33.0+federation-", env!("CARGO_PKG_VERSION")),
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "",
        "compiler": "rustc",
        "platform": format!("linux/{}", std::env::consts::ARCH),
    }))
}

async fn core_versions() -> Json<Value> {
    Json(json!({ "kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": [] }))
}

/// The groups with their versions, in the order of the table; the preferred version of a group is its first.
pub fn group_versions() -> Vec<(&'static str, &'static str)> {
    let mut all = Vec::new();
    for (kind, version) in kinds::served() {
        if !all.contains(&(kind.group, version)) {
            all.push((kind.group, version));
        }
    }
    all
}

fn api_group(group: &str) -> Value {
    let versions = group_versions().into_iter().filter(|(of, _)| *of == group);
    let versions: Vec<_> = versions
        .map(|(_, version)| json!({ "groupVersion": format!("{group}/{version}"), "version": version }))
        .collect();
    json!({ "name": group, "preferredVersion": versions.first(), "versions": versions })
}

async fn groups() -> Json<Value> {
    let mut groups: Vec<_> = KINDS.iter().map(|kind| kind.group).filter(|group| !group.is_empty()).collect();
    groups.dedup();
    let groups: Vec<_> = groups.into_iter().map(api_group).collect();
    Json(json!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": groups }))
}

async fn group(Path(name): Path<String>) -> Result<Json<Value>, ApiError> {
    if name.is_empty() || !KINDS.iter().any(|kind| kind.group == name) {
        return Err(ApiError::no_such_path());
    }
    let mut described = api_group(&name);
    described["kind"] = "APIGroup".into();
    described["apiVersion"] = "v1".into();
    Ok(Json(described))
}

fn resources(group: &str, version: &str) -> Result<Json<Value>, ApiError> {
    let kinds = kinds::served().filter(|(kind, served)| kind.group == group && *served == version);
    let kinds: Vec<_> = kinds.map(|(kind, _)| kind).collect();
    let first = kinds.first().ok_or_else(ApiError::no_such_path)?;
    let resources: Vec<_> = kinds.iter().flat_map(|kind| resource(kind)).collect();
    Ok(Json(json!({
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": first.api_version_of(version),
        "resources": resources,
    })))
}

fn resource(kind: &Kind) -> Vec<Value> {
    let mut described = json!({
        "name": kind.plural,
        "singularName": kind.singular,
        "namespaced": kind.namespaced,
        "kind": kind.name,
        "verbs": VERBS,
    });
    if !kind.short_names.is_empty() {
        described["shortNames"] = json!(kind.short_names);
    }
    if !kind.categories.is_empty() {
        described["categories"] = json!(kind.categories);
    }
    let mut all = vec![described];
    if kind.status != Status::None {
        all.push(json!({
            "name": format!("{}/status", kind.plural),
            "singularName": "",
            "namespaced": kind.namespaced,
            "kind": kind.name,
            "verbs": STATUS_VERBS,
        }));
    }
    all
}
