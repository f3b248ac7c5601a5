//! What becomes of dependents when their owners are deleted.

use http::Method;
use kube::Client;
use serde_json::{Value, json};

use super::server::{CLUSTERS, JSON, MERGE, Server, send};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn reference(owner: &Value, blocks: bool) -> Value {
    json!({
        "apiVersion": owner["apiVersion"], "kind": owner["kind"], "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"], "blockOwnerDeletion": blocks,
    })
}

/// A `ConfigMap` that goes with its owners.
async fn make(client: &Client, name: &str, owners: &[Value], finalizers: &[&str]) -> Value {
    let map = json!({ "metadata": { "name": name, "ownerReferences": owners, "finalizers": finalizers } });
    send(client, Method::POST, MAPS, JSON, &map).await.expect(201)
}

async fn delete(client: &Client, name: &str, policy: &str) -> Value {
    let body = json!({ "propagationPolicy": policy });
    send(client, Method::DELETE, &format!("{MAPS}/{name}"), JSON, &body).await.expect(200)
}

async fn release(client: &Client, name: &str) {
    let patch = json!({ "metadata": { "finalizers": null } });
    send(client, Method::PATCH, &format!("{MAPS}/{name}"), MERGE, &patch).await.expect(200);
}

/// What is left, with `!` where it is going.
async fn left(client: &Client) -> String {
    let list = send(client, Method::GET, MAPS, JSON, &Value::Null).await.expect(200);
    let name = |map: &Value| {
        let mark = if map["metadata"]["deletionTimestamp"].is_string() { "!" } else { "" };
        format!("{}{mark}", map["metadata"]["name"].as_str().expect("a name"))
    };
    list["items"].as_array().expect("items").iter().map(name).collect::<Vec<_>>().join(" ")
}

#[tokio::test]
async fn in_the_background_dependents_follow_their_last_owner() {
    let server = Server::start();
    let client = server.client().await;
    let one = make(&client, "one", &[], &[]).await;
    let two = make(&client, "two", &[], &[]).await;
    let only = make(&client, "only", &[reference(&one, true)], &[]).await;
    make(&client, "shared", &[reference(&one, false), reference(&two, false)], &[]).await;
    make(&client, "below", &[reference(&only, false)], &[]).await;
    make(&client, "held", &[reference(&only, false)], &["example.com/hold"]).await;

    let status = delete(&client, "one", "Background").await;
    assert_eq!(status["status"], "Success");
    assert_eq!(left(&client).await, "held! shared two", "down the whole line");
    let shared = send(&client, Method::GET, &format!("{MAPS}/shared"), JSON, &Value::Null).await.expect(200);
    assert_eq!(shared["metadata"]["ownerReferences"], json!([reference(&two, false)]));
    release(&client, "held").await;
    delete(&client, "two", "").await;
    assert_eq!(left(&client).await, "", "without a policy it is the background");
}

#[tokio::test]
async fn an_owner_that_is_held_keeps_its_dependents_until_it_goes() {
    let server = Server::start();
    let client = server.client().await;
    let owner = make(&client, "owner", &[], &["example.com/hold"]).await;
    make(&client, "dependent", &[reference(&owner, true)], &[]).await;
    delete(&client, "owner", "Background").await;
    assert_eq!(left(&client).await, "dependent owner!");
    release(&client, "owner").await;
    assert_eq!(left(&client).await, "");
}

#[tokio::test]
async fn in_the_foreground_an_owner_waits_for_those_that_block_it() {
    let server = Server::start();
    let client = server.client().await;
    let owner = make(&client, "owner", &[], &[]).await;
    let middle = make(&client, "middle", &[reference(&owner, true)], &[]).await;
    make(&client, "last", &[reference(&middle, true)], &["example.com/hold"]).await;
    make(&client, "free", &[reference(&owner, false)], &[]).await;

    let marked = delete(&client, "owner", "Foreground").await;
    assert_eq!(marked["metadata"]["finalizers"], json!(["foregroundDeletion"]));
    assert_eq!(left(&client).await, "free last! middle! owner!", "the last in the line holds all before it");
    release(&client, "last").await;
    assert_eq!(left(&client).await, "");

    let owner = make(&client, "owner", &[], &[]).await;
    make(&client, "free", &[reference(&owner, false)], &[]).await;
    delete(&client, "owner", "Foreground").await;
    assert_eq!(left(&client).await, "", "nobody blocks it, so it need not wait");
}

#[tokio::test]
async fn orphans_stay_and_know_no_owner() {
    let server = Server::start();
    let client = server.client().await;
    let owner = make(&client, "owner", &[], &[]).await;
    make(&client, "dependent", &[reference(&owner, true)], &[]).await;
    delete(&client, "owner", "Orphan").await;
    assert_eq!(left(&client).await, "dependent");
    let orphan =
        send(&client, Method::GET, &format!("{MAPS}/dependent"), JSON, &Value::Null).await.expect(200);
    assert_eq!(orphan["metadata"].get("ownerReferences"), None);
}

#[tokio::test]
async fn a_dependent_of_one_that_is_not_there_goes_and_one_of_another_clusters_kind_stays() {
    let server = Server::start();
    let client = server.client().await;
    let gone = json!({ "apiVersion": "v1", "kind": "ConfigMap", "name": "gone", "uid": "0" });
    let pod = json!({ "apiVersion": "v1", "kind": "Pod", "name": "web", "uid": "1" });
    make(&client, "abandoned", std::slice::from_ref(&gone), &[]).await;
    make(&client, "pods", &[pod, gone], &[]).await;
    assert_eq!(left(&client).await, "pods");
}

#[tokio::test]
async fn an_owner_without_a_namespace_takes_along_what_is_in_all_of_them() {
    let server = Server::start();
    let client = server.client().await;
    let cluster = json!({
        "apiVersion": "federation.dev/v1alpha1", "kind": "Cluster", "metadata": { "name": "one" },
        "spec": {
            "server": "https://192.0.2.1:6443", "credentialsRef": { "name": "one" },
            "region": "europe-west1", "zones": ["europe-west1-d"], "networks": ["10.8.0.0/24"],
        },
    });
    let cluster = send(&client, Method::POST, CLUSTERS, JSON, &cluster).await.expect(201);
    make(&client, "dependent", &[reference(&cluster, false)], &[]).await;
    send(&client, Method::DELETE, &format!("{CLUSTERS}/one"), JSON, &Value::Null).await.expect(200);
    assert_eq!(left(&client).await, "");
}

#[tokio::test]
async fn a_policy_that_means_nothing_is_refused() {
    let server = Server::start();
    let client = server.client().await;
    make(&client, "kept", &[], &[]).await;
    let path = format!("{MAPS}/kept");
    let cases = [
        (
            json!({ "propagationPolicy": "Foreign" }),
            "DeleteOptions.meta.k8s.io \"\" is invalid: propagationPolicy: Unsupported value: \"Foreign\": supported \
             values: \"Foreground\", \"Background\", \"Orphan\", \"nil\"",
        ),
        (
            json!({ "propagationPolicy": "Orphan", "orphanDependents": true }),
            "DeleteOptions.meta.k8s.io \"\" is invalid: propagationPolicy: Invalid value: \"Orphan\": \
             orphanDependents and deletionPropagation cannot be both set",
        ),
    ];
    for (body, expected) in cases {
        let refusal = send(&client, Method::DELETE, &path, JSON, &body).await;
        assert_eq!((refusal.code, refusal.message()), (422, expected));
    }
    let by_query = format!("{path}?propagationPolicy=Foreign");
    assert_eq!(send(&client, Method::DELETE, &by_query, JSON, &Value::Null).await.code, 422);
    assert_eq!(left(&client).await, "kept");
}

#[tokio::test]
async fn a_namespace_takes_along_owners_and_dependents_whatever_they_ask_for() {
    let server = Server::start();
    let client = server.client().await;
    let namespace = json!({ "metadata": { "name": "going" } });
    send(&client, Method::POST, "/api/v1/namespaces", JSON, &namespace).await.expect(201);
    let maps = "/api/v1/namespaces/going/configmaps";
    for (name, finalizer) in [("orphaning", "orphan"), ("waiting", "foregroundDeletion")] {
        let owner = json!({ "metadata": { "name": name, "finalizers": [finalizer] } });
        let made = send(&client, Method::POST, maps, JSON, &owner).await.expect(201);
        let dependent = json!({ "metadata": {
            "name": format!("below-{name}"), "ownerReferences": [reference(&made, true)],
        } });
        send(&client, Method::POST, maps, JSON, &dependent).await.expect(201);
    }
    send(&client, Method::DELETE, "/api/v1/namespaces/going", JSON, &Value::Null).await.expect(200);
    send(&client, Method::GET, "/api/v1/namespaces/going", JSON, &Value::Null).await.expect(404);
    let left = send(&client, Method::GET, maps, JSON, &Value::Null).await.expect(200);
    assert_eq!(left["items"], json!([]));
}
