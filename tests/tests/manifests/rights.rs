//! Rights: roles name kinds that exist and verbs that mean something, and bindings join what is there.

use k8s_openapi::{
    Resource,
    api::{
        coordination::v1::Lease,
        core::v1::{ConfigMap, Event, Namespace, Node, Pod, Secret, Service, ServiceAccount},
        discovery::v1::EndpointSlice,
    },
};
use serde_json::Value;

use super::judge::{Shelf, list, name_of, text};

const VERBS: [&str; 8] = ["get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"];

/// The group of a kind, and what its URLs call it.
const fn kind<K: Resource>() -> (&'static str, &'static str) {
    (K::GROUP, K::URL_PATH_SEGMENT)
}

/// Kinds of Kubernetes that this project has to do with.
const KINDS: [(&str, &str); 10] = [
    kind::<ConfigMap>(),
    kind::<EndpointSlice>(),
    kind::<Event>(),
    kind::<Lease>(),
    kind::<Namespace>(),
    kind::<Node>(),
    kind::<Pod>(),
    kind::<Secret>(),
    kind::<Service>(),
    kind::<ServiceAccount>(),
];

pub fn complaints(shelf: &Shelf<'_>) -> Vec<String> {
    let of = |object: &Value| match text(&object["kind"]) {
        "Role" | "ClusterRole" => role(shelf, object),
        "RoleBinding" | "ClusterRoleBinding" => binding(shelf, object),
        "Secret" => token(shelf, object),
        _ => Vec::new(),
    };
    shelf.objects().iter().flat_map(of).collect()
}

fn role(shelf: &Shelf<'_>, role: &Value) -> Vec<String> {
    let mut found = Vec::new();
    for rule in list(&role["rules"]) {
        for verb in list(&rule["verbs"]).iter().map(text) {
            if !VERBS.contains(&verb) {
                found.push(format!("{}: the verb {verb:?} is none of {VERBS:?}", name_of(role)));
            }
        }
        for group in list(&rule["apiGroups"]).iter().map(text) {
            for resource in list(&rule["resources"]).iter().map(text) {
                if !exists(shelf, group, resource) {
                    found.push(format!("{}: there is no {resource:?} in the group {group:?}", name_of(role)));
                }
            }
        }
    }
    found
}

fn exists(shelf: &Shelf<'_>, group: &str, resource: &str) -> bool {
    let (kind, subresource) = resource.split_once('/').unwrap_or((resource, ""));
    let defined = shelf.objects().iter().filter(|object| object["kind"] == "CustomResourceDefinition").any(
        |definition| {
            let spec = &definition["spec"];
            let has =
                |version: &Value| subresource.is_empty() || !version["subresources"][subresource].is_null();
            spec["group"] == group
                && spec["names"]["plural"] == kind
                && list(&spec["versions"]).iter().all(has)
        },
    );
    defined || subresource.is_empty() && KINDS.contains(&(group, kind))
}

fn binding(shelf: &Shelf<'_>, binding: &Value) -> Vec<String> {
    let mut found = Vec::new();
    let role = &binding["roleRef"];
    let (kind, name) = (text(&role["kind"]), text(&role["name"]));
    let namespace = if kind == "Role" { text(&binding["metadata"]["namespace"]) } else { "" };
    if shelf.find(kind, namespace, name).is_none() {
        found.push(format!("{}: there is no {kind} {name:?}", name_of(binding)));
    }
    for subject in list(&binding["subjects"]) {
        let (kind, name) = (text(&subject["kind"]), text(&subject["name"]));
        if shelf.find(kind, text(&subject["namespace"]), name).is_none() {
            found.push(format!("{}: there is no {kind} {name:?}", name_of(binding)));
        }
    }
    found
}

/// A Secret that Kubernetes fills with the token of an account.
fn token(shelf: &Shelf<'_>, secret: &Value) -> Vec<String> {
    if secret["type"] != "kubernetes.io/service-account-token" {
        return Vec::new();
    }
    let metadata = &secret["metadata"];
    let account = text(&metadata["annotations"]["kubernetes.io/service-account.name"]);
    let there = shelf.find("ServiceAccount", text(&metadata["namespace"]), account).is_some();
    (!there)
        .then(|| format!("{}: there is no ServiceAccount {account:?}", name_of(secret)))
        .into_iter()
        .collect()
}
