//! Which Services are federated, and into which clusters. Pure.

use std::collections::BTreeSet;

use k8s_openapi::{api::core::v1::Service, apimachinery::pkg::apis::meta::v1::LabelSelector};
use kube::{
    ResourceExt as _,
    core::{Expression, Selector, SelectorExt as _},
};
use thiserror::Error;

use super::{mcs, registration};
use crate::api::{
    Cluster, FederatedServiceSpec, SYSTEM_NAMESPACE,
    marks::{CLUSTER_LABEL, SHARDS_FINALIZER},
};

/// Why a Service has no shards.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Unfit {
    #[error(
        "namespace {0} is named like the federation, whose names would hide those of its services; use another \
         namespace"
    )]
    NamespaceShadowed(String),
    #[error("a Service of type ExternalName has no endpoints to federate; use another type")]
    ExternalName,
    #[error("a headless Service has no address to federate; remove clusterIP: None")]
    Headless,
}

/// What is wrong with how a `FederatedService` names clusters.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Misnamed {
    #[error("{field} names {}, which no Cluster is called; {}", quoted(names), known_clusters(known))]
    Unknown { field: &'static str, names: Vec<String>, known: Vec<String> },
    #[error("spec.clusterSelector cannot be used: {0}")]
    Selector(String),
}

/// The clusters that a service shall run in.
#[derive(Clone, Debug)]
pub enum Selection {
    Matching(Box<Selector>),
    /// What is asked for is a mistake: shards stay where they are until it is put right.
    Mistaken(Misnamed),
}

/// Whether this Service of the Federation API is federated. Once it is, it stays so until it is deleted.
pub fn is_federated(service: &Service, selector: &Selector) -> bool {
    let namespace = service.namespace().unwrap_or_default();
    // The API server's own Service, and whatever serves ourselves.
    if namespace == SYSTEM_NAMESPACE || (namespace == "default" && service.name_any() == "kubernetes") {
        return false;
    }
    has_finalizer(service) || mcs::is_exported(service) || selector.matches(service.labels())
}

/// Whether it may have shards.
pub fn has_finalizer(service: &Service) -> bool {
    service.finalizers().iter().any(|finalizer| finalizer == SHARDS_FINALIZER)
}

/// # Errors
/// It cannot have shards.
pub fn check(service: &Service, federation: &str) -> Result<(), Unfit> {
    let spec = service.spec.as_ref();
    let namespace = service.namespace().unwrap_or_default();
    if namespace == federation {
        return Err(Unfit::NamespaceShadowed(namespace));
    }
    if spec.and_then(|spec| spec.type_.as_deref()) == Some("ExternalName") {
        return Err(Unfit::ExternalName);
    }
    // What clusters export may be headless: they have its endpoints imported, and no VIP.
    if spec.and_then(|spec| spec.cluster_ip.as_deref()) == Some("None") && !mcs::is_headless(service) {
        return Err(Unfit::Headless);
    }
    Ok(())
}

impl Selection {
    /// `known` are the names of all registered clusters.
    pub fn of(spec: &FederatedServiceSpec, known: &BTreeSet<String>) -> Self {
        let Some(wanted) = spec.cluster_selector.clone() else {
            return Self::Matching(Box::default());
        };
        let named = names_in(&wanted);
        if let Err(misnamed) = all_known("spec.clusterSelector", named, known) {
            return Self::Mistaken(misnamed);
        }
        match Selector::try_from(wanted) {
            Ok(selector) => Self::Matching(Box::new(selector)),
            Err(error) => Self::Mistaken(Misnamed::Selector(error.to_string())),
        }
    }

    /// `None`: it is not known, whatever is there stays.
    pub fn selects(&self, cluster: &Cluster) -> Option<bool> {
        if registration::is_leaving(cluster) {
            return Some(false);
        }
        match self {
            Self::Matching(selector) => {
                let mut labels = cluster.labels().clone();
                // So that clusters can be selected by name.
                labels.insert(CLUSTER_LABEL.to_owned(), cluster.name_any());
                Some(selector.matches(&labels))
            }
            Self::Mistaken(_) => None,
        }
    }
}

/// # Errors
/// A weight is given to a cluster that is not registered.
pub fn check_weights(spec: &FederatedServiceSpec, known: &BTreeSet<String>) -> Result<(), Misnamed> {
    all_known("spec.weights", spec.weights.iter().map(|weight| weight.cluster.clone()), known)
}

fn all_known(
    field: &'static str,
    named: impl IntoIterator<Item = String>,
    known: &BTreeSet<String>,
) -> Result<(), Misnamed> {
    let names: Vec<_> = named.into_iter().filter(|name| !known.contains(name)).collect();
    if names.is_empty() {
        return Ok(());
    }
    Err(Misnamed::Unknown { field, names, known: known.iter().cloned().collect() })
}

/// The cluster names that a selector wants by our own label.
fn names_in(selector: &LabelSelector) -> Vec<String> {
    let by_label = selector.match_labels.iter().flatten();
    let by_label = by_label.filter(|(key, _)| *key == CLUSTER_LABEL).map(|(_, name)| name.clone());
    let by_expression = selector.match_expressions.iter().flatten();
    let by_expression = by_expression
        .filter(|requirement| requirement.key == CLUSTER_LABEL)
        .flat_map(|requirement| requirement.values.clone().unwrap_or_default());
    by_label.chain(by_expression).collect()
}

fn quoted(names: &[String]) -> String {
    names.iter().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ")
}

fn known_clusters(known: &[String]) -> String {
    if known.is_empty() { "none is registered".to_owned() } else { format!("known: {}", known.join(", ")) }
}

/// Reads `key=value` pairs with commas between them, and bare keys for labels that must exist.
pub fn parse_selector(text: &str) -> Result<Selector, String> {
    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    parts
        .map(|part| match part.split_once('=') {
            Some(("", _)) => Err(format!("{part:?} has no label before its =")),
            Some((key, value)) => Ok(Expression::Equal(
                key.trim_end().to_owned(),
                value.trim_start_matches('=').trim().to_owned(),
            )),
            None => Ok(Expression::Exists(part.to_owned())),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::api::{ClusterSpec, marks::LEAVING_ANNOTATION};

    fn service(value: Value) -> Service {
        serde_json::from_value(value).expect("a Service")
    }

    fn cluster(name: &str, environment: &str) -> Cluster {
        let spec: ClusterSpec = serde_json::from_value(json!({
            "server": "https://203.0.113.7:6443", "credentialsRef": { "name": name }, "region": "europe-west1",
            "zones": [name], "networks": ["10.8.0.0/14"],
        }))
        .expect("a Cluster's spec");
        let mut cluster = Cluster::new(name, spec);
        cluster.labels_mut().insert("env".to_owned(), environment.to_owned());
        cluster
    }

    fn known() -> BTreeSet<String> {
        ["europe-west1-d", "us-east1-b"].map(str::to_owned).into()
    }

    fn spec(value: Value) -> FederatedServiceSpec {
        serde_json::from_value(value).expect("a FederatedService's spec")
    }

    #[test]
    fn services_that_are_federated() {
        let all = Selector::default();
        let labelled = parse_selector("federation.dev/federated=true").expect("a selector");
        let plain =
            |namespace, name| service(json!({ "metadata": { "namespace": namespace, "name": name } }));
        let marked = service(
            json!({ "metadata": { "namespace": "n", "name": "s", "labels": { "federation.dev/federated": "true" } } }),
        );
        let held = service(
            json!({ "metadata": { "namespace": "n", "name": "s", "finalizers": [SHARDS_FINALIZER] } }),
        );
        let cases = [
            (&all, plain("my-namespace", "my-service"), true),
            (&all, plain("default", "kubernetes"), false),
            (&all, plain("default", "web"), true),
            (&all, plain("other", "kubernetes"), true),
            (&all, plain(SYSTEM_NAMESPACE, "api"), false),
            (&labelled, plain("my-namespace", "my-service"), false),
            (&labelled, marked, true),
            (&labelled, held, true),
        ];
        for (selector, service, expected) in cases {
            assert_eq!(is_federated(&service, selector), expected, "{:?} by {selector}", service.metadata);
        }
    }

    #[test]
    fn services_that_cannot_have_shards() {
        let of = |namespace: &str, spec: Value| {
            service(json!({ "metadata": { "namespace": namespace, "name": "s" }, "spec": spec }))
        };
        let check = |service: &Service| check(service, "my-federation").err().map(|unfit| unfit.to_string());
        assert_eq!(check(&of("n", json!({ "type": "ClusterIP" }))), None);
        assert_eq!(
            check(&of("my-federation", json!({}))).as_deref(),
            Some(
                "namespace my-federation is named like the federation, whose names would hide those of its services; \
                 use another namespace"
            )
        );
        assert_eq!(check(&of("n", json!({ "type": "ExternalName" }))), Some(Unfit::ExternalName.to_string()));
        assert_eq!(check(&of("n", json!({ "clusterIP": "None" }))), Some(Unfit::Headless.to_string()));
    }

    #[test]
    fn clusters_are_selected_by_label_and_by_name() {
        let by_name = json!({ "clusterSelector": { "matchExpressions": [
            { "key": CLUSTER_LABEL, "operator": "In", "values": ["us-east1-b"] }] } });
        let cases = [
            (json!({}), [true, true]),
            (json!({ "clusterSelector": { "matchLabels": { "env": "prod" } } }), [true, false]),
            (by_name, [false, true]),
        ];
        for (value, expected) in cases {
            let selection = Selection::of(&spec(value.clone()), &known());
            let selected = [cluster("europe-west1-d", "prod"), cluster("us-east1-b", "test")]
                .map(|cluster| selection.selects(&cluster));
            assert_eq!(selected, expected.map(Some), "{value}");
        }
    }

    #[test]
    fn a_cluster_that_is_leaving_is_selected_by_nobody() {
        let mut leaving = cluster("us-east1-b", "prod");
        leaving.annotations_mut().insert(LEAVING_ANNOTATION.to_owned(), "true".to_owned());
        let mistaken = json!({ "clusterSelector": { "matchLabels": { CLUSTER_LABEL: "nowhere" } } });
        for value in [json!({}), mistaken] {
            assert_eq!(
                Selection::of(&spec(value.clone()), &known()).selects(&leaving),
                Some(false),
                "{value}"
            );
        }
    }

    #[test]
    fn an_unknown_cluster_is_named_beside_the_known_ones() {
        let weights = spec(json!({ "weights": [
            { "cluster": "us-east1-b", "weight": 5 }, { "cluster": "us-east1-c", "weight": 5 }] }));
        assert_eq!(
            check_weights(&weights, &known()).expect_err("unknown").to_string(),
            "spec.weights names \"us-east1-c\", which no Cluster is called; known: europe-west1-d, us-east1-b"
        );
        let selector = spec(json!({ "clusterSelector": { "matchLabels": { CLUSTER_LABEL: "nowhere" } } }));
        let Selection::Mistaken(misnamed) = Selection::of(&selector, &BTreeSet::new()) else {
            panic!("an unknown name is a mistake")
        };
        assert_eq!(
            misnamed.to_string(),
            "spec.clusterSelector names \"nowhere\", which no Cluster is called; none is registered"
        );
        assert_eq!(Selection::Mistaken(misnamed).selects(&cluster("europe-west1-d", "prod")), None);
    }

    #[test]
    fn selectors_as_kubectl_writes_them() {
        for (text, expected) in [("a=b,c==d", "a=b,c=d"), ("a, b=c", "a,b=c"), ("", "")] {
            assert_eq!(parse_selector(text).expect("a selector").to_string(), expected);
        }
        assert!(parse_selector("=b").is_err());
    }
}
