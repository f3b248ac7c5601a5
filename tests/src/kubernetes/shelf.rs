//! The kinds that a real API server keeps and ours has none of, as far as `kubectl` needs them: kept in memory as they
//! were written.
//!
//! Nothing is validated or defaulted. What is applied lies over what was there; unlike with a real server, a field that is
//! applied no more stays.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard},
};

use axum::{
    Json,
    body::Body,
    response::{IntoResponse as _, Response},
};
use futures::stream;
use http::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::sync::watch;

use super::front::{Target, failure};

struct Kind {
    group: &'static str,
    version: &'static str,
    plural: &'static str,
    name: &'static str,
    namespaced: bool,
}

const fn kind(
    group: &'static str,
    version: &'static str,
    plural: &'static str,
    name: &'static str,
    namespaced: bool,
) -> Kind {
    Kind { group, version, plural, name, namespaced }
}

const RBAC: &str = "rbac.authorization.k8s.io";

const KINDS: [Kind; 10] = [
    kind("", "v1", "serviceaccounts", "ServiceAccount", true),
    kind(RBAC, "v1", "clusterroles", "ClusterRole", false),
    kind(RBAC, "v1", "clusterrolebindings", "ClusterRoleBinding", false),
    kind(RBAC, "v1", "roles", "Role", true),
    kind(RBAC, "v1", "rolebindings", "RoleBinding", true),
    kind("apps", "v1", "daemonsets", "DaemonSet", true),
    kind("apps", "v1", "deployments", "Deployment", true),
    kind("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget", true),
    kind("networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy", true),
    kind("apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", false),
];

/// Kind, namespace, name.
type Key = (&'static str, String, String);

#[derive(Default)]
struct State {
    objects: BTreeMap<Key, Value>,
    /// Every event, the first of version 1.
    history: Vec<Told>,
}

struct Told {
    event: &'static str,
    kind: &'static str,
    object: Value,
}

pub struct Shelf {
    state: Mutex<State>,
    /// How long the history is.
    length: watch::Sender<usize>,
}

/// What is asked for in the query of a request.
#[derive(Default)]
pub struct Query {
    pub watch: bool,
    pub resource_version: Option<usize>,
    /// The name that a field selector asks for.
    pub name: Option<String>,
}

/// Whether it is a kind of the shelf.
pub fn has(target: &Target) -> bool {
    find(target).is_some()
}

/// What discovery says of the kinds of one group and version.
pub fn described(group: &str, version: &str) -> Vec<Value> {
    let verbs = ["create", "delete", "get", "list", "patch", "update", "watch"];
    let describe = |kind: &Kind| {
        json!({
            "name": kind.plural, "singularName": kind.name.to_lowercase(), "namespaced": kind.namespaced,
            "kind": kind.name, "verbs": verbs,
        })
    };
    KINDS.iter().filter(|kind| (kind.group, kind.version) == (group, version)).map(describe).collect()
}

/// The groups that only the shelf has, with the version of each.
pub fn groups() -> BTreeMap<&'static str, &'static str> {
    KINDS.iter().filter(|kind| !kind.group.is_empty()).map(|kind| (kind.group, kind.version)).collect()
}

fn find(target: &Target) -> Option<&'static Kind> {
    let is_it = |kind: &&Kind| {
        (kind.group, kind.version, kind.plural)
            == (target.group.as_str(), target.version.as_str(), target.resource.as_str())
    };
    KINDS.iter().find(is_it)
}

// === impl Shelf ===

impl Shelf {
    pub fn new() -> Self {
        Self { state: Mutex::default(), length: watch::channel(0).0 }
    }

    /// Everything of one kind.
    pub fn all(&self, kind: &str) -> Vec<Value> {
        let state = self.state();
        state.objects.iter().filter(|((of, ..), _)| *of == kind).map(|(_, object)| object.clone()).collect()
    }

    /// Everything that decides who may do what.
    pub fn rbac(&self) -> Vec<Value> {
        let kinds = KINDS.iter().filter(|kind| kind.group == RBAC);
        kinds.flat_map(|kind| self.all(kind.name)).collect()
    }

    pub fn get(&self, kind: &str, namespace: &str, name: &str) -> Option<Value> {
        let state = self.state();
        let is_it = |(of, within, named): &Key| *of == kind && within == namespace && named == name;
        state.objects.iter().find(|(key, _)| is_it(key)).map(|(_, object)| object.clone())
    }

    /// Sees every change: how many there were.
    pub fn changes(&self) -> watch::Receiver<usize> {
        self.length.subscribe()
    }

    /// Writes the status of an object that is still there, where it differs.
    pub fn set_status(&self, object: &Value, status: &Value) {
        let kind = KINDS.iter().find(|kind| object["kind"] == kind.name);
        let Some(kind) = kind else { return };
        let key = key_of(kind, object);
        let mut state = self.state();
        let Some(now) = state.objects.get(&key).filter(|now| now["status"] != *status).cloned() else {
            return;
        };
        let mut next = now;
        next["status"] = status.clone();
        self.put(&mut state, kind, next);
    }

    /// Removes an object whose end was awaited.
    pub fn remove(&self, kind: &str, object: &Value) {
        let kind = KINDS.iter().find(|known| known.name == kind);
        let Some(kind) = kind else { return };
        let mut state = self.state();
        if let Some(object) = state.objects.remove(&key_of(kind, object)) {
            self.tell(&mut state, "DELETED", kind, &object);
        }
    }

    /// Does what a request says.
    pub fn answer(self: &Arc<Self>, method: &Method, target: &Target, query: Query, body: &[u8]) -> Response {
        let Some(kind) = find(target).filter(|_| target.subresource.is_empty()) else {
            return failure(StatusCode::NOT_FOUND, "NotFound", "the lab has no such path");
        };
        let is_read = *method == Method::GET;
        if is_read && query.watch {
            return self.watch(kind, target, query);
        }
        if is_read && target.name.is_empty() {
            return self.list(kind, target, &query);
        }
        let mut state = self.state();
        if *method == Method::POST || *method == Method::PATCH || *method == Method::PUT {
            let Ok(written) = serde_json::from_slice::<Value>(body) else {
                return failure(StatusCode::BAD_REQUEST, "BadRequest", "the body is no JSON");
            };
            return self.write(&mut state, kind, method, target, written);
        }
        let key = (kind.name, target.namespace.clone(), target.name.clone());
        let Some(mut object) = state.objects.get(&key).cloned() else {
            return absent(kind, &target.name);
        };
        if *method == Method::DELETE {
            if ["DaemonSet", "Deployment"].contains(&kind.name) {
                // It goes with the last of its pods.
                object["metadata"]["deletionTimestamp"] = "2000-01-01T00:00:00Z".into();
                return Json(self.put(&mut state, kind, object)).into_response();
            }
            state.objects.remove(&key);
            self.tell(&mut state, "DELETED", kind, &object);
            return Json(json!({ "kind": "Status", "apiVersion": "v1", "status": "Success" }))
                .into_response();
        }
        Json(object).into_response()
    }

    fn write(
        &self,
        state: &mut State,
        kind: &'static Kind,
        method: &Method,
        target: &Target,
        mut written: Value,
    ) -> Response {
        if written["metadata"]["name"].is_null() {
            written["metadata"]["name"] = target.name.as_str().into();
        }
        if kind.namespaced {
            written["metadata"]["namespace"] = target.namespace.as_str().into();
        }
        let existing = state.objects.get(&key_of(kind, &written)).cloned();
        if *method == Method::POST && existing.is_some() {
            return failure(StatusCode::CONFLICT, "AlreadyExists", "it is there already");
        }
        let status = if existing.is_some() { StatusCode::OK } else { StatusCode::CREATED };
        let mut next = existing.clone().unwrap_or_else(|| json!({ "metadata": { "generation": 0 } }));
        merge(&mut next, written);
        if existing.is_none() {
            let uid = format!("00000000-0000-4000-8000-{:012}", state.history.len() + 1);
            next["metadata"]["uid"] = uid.into();
            next["metadata"]["creationTimestamp"] = "2000-01-01T00:00:00Z".into();
        }
        if existing.is_none_or(|existing| existing["spec"] != next["spec"]) {
            next["metadata"]["generation"] =
                (next["metadata"]["generation"].as_u64().unwrap_or_default() + 1).into();
        }
        if kind.name == "CustomResourceDefinition" {
            // Those that are applied here, our API server serves in any case.
            next["status"] = json!({ "conditions": [{ "type": "Established", "status": "True" }] });
        }
        let object = self.put(state, kind, next);
        (status, Json(object)).into_response()
    }

    fn put(&self, state: &mut State, kind: &'static Kind, mut object: Value) -> Value {
        object["metadata"]["resourceVersion"] = (state.history.len() + 1).to_string().into();
        let before = state.objects.insert(key_of(kind, &object), object.clone());
        self.tell(state, if before.is_some() { "MODIFIED" } else { "ADDED" }, kind, &object);
        object
    }

    fn tell(&self, state: &mut State, event: &'static str, kind: &'static Kind, object: &Value) {
        state.history.push(Told { event, kind: kind.name, object: object.clone() });
        self.length.send_replace(state.history.len());
    }

    fn list(&self, kind: &Kind, target: &Target, query: &Query) -> Response {
        let mut items = self.all(kind.name);
        items.retain(|object| is_asked(object, target, query.name.as_deref()));
        Json(json!({
            "kind": format!("{}List", kind.name), "apiVersion": api_version(kind),
            "metadata": { "resourceVersion": self.state().history.len().to_string() }, "items": items,
        }))
        .into_response()
    }

    fn watch(self: &Arc<Self>, kind: &Kind, target: &Target, query: Query) -> Response {
        let begin = (query.resource_version.unwrap_or(0), self.changes(), Arc::clone(self));
        let (kind, target) = (kind.name, target.clone());
        let lines = stream::unfold(begin, move |(seen, mut changes, shelf)| {
            let (target, name) = (target.clone(), query.name.clone());
            async move {
                let length = *changes.wait_for(|length| *length > seen).await.ok()?;
                let is_told =
                    |told: &&Told| told.kind == kind && is_asked(&told.object, &target, name.as_deref());
                let line =
                    |told: &Told| format!("{}\n", json!({ "type": told.event, "object": told.object }));
                let lines: String =
                    shelf.state().history[seen..length].iter().filter(is_told).map(line).collect();
                Some((Ok::<_, Infallible>(lines), (length, changes, shelf)))
            }
        });
        Response::new(Body::from_stream(lines))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of the shelf panics")
    }
}

fn is_asked(object: &Value, target: &Target, name: Option<&str>) -> bool {
    let metadata = &object["metadata"];
    (target.namespace.is_empty() || metadata["namespace"] == target.namespace.as_str())
        && (target.name.is_empty() || metadata["name"] == target.name.as_str())
        && name.is_none_or(|name| metadata["name"] == name)
}

fn absent(kind: &Kind, name: &str) -> Response {
    let message = format!("{}.{} {name:?} not found", kind.plural, kind.group);
    failure(StatusCode::NOT_FOUND, "NotFound", &message)
}

fn api_version(kind: &Kind) -> String {
    if kind.group.is_empty() { kind.version.to_owned() } else { format!("{}/{}", kind.group, kind.version) }
}

fn key_of(kind: &Kind, object: &Value) -> Key {
    let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
    (kind.name, text("namespace"), text("name"))
}

/// A JSON merge patch (RFC 7386).
fn merge(into: &mut Value, patch: Value) {
    let Value::Object(patch) = patch else {
        *into = patch;
        return;
    };
    if !into.is_object() {
        *into = json!({});
    }
    for (name, value) in patch {
        if value.is_null() {
            into.as_object_mut().map(|object| object.shift_remove(&name));
        } else {
            merge(&mut into[name], value);
        }
    }
}
