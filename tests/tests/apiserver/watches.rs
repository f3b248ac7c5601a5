//! Watches: what a client sees, and that it misses nothing.

use std::collections::BTreeMap;
use std::pin::pin;

use futures::{AsyncBufReadExt as _, StreamExt as _, TryStreamExt as _};
use http::{Method, Request};
use k8s_openapi::api::core::v1::{ConfigMap, Service};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, ResourceExt as _};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::server::{DEADLINE, JSON, MERGE, SERVICES, Server, send, service};

/// The events of one watch, as they stand on the wire, until it ends.
async fn watch(client: &Client, query: &str) -> Vec<Value> {
    let request = Request::get(format!("{SERVICES}?watch=1&{query}")).body(Vec::new()).expect("a request");
    let lines = client.request_stream(request).await.expect("a watch").lines();
    let events = lines.map(|line| serde_json::from_str(&line.expect("a line")).expect("an event")).collect();
    timeout(DEADLINE, events).await.expect("the watch ends by itself")
}

fn summary(events: &[Value]) -> Vec<String> {
    let one = |event: &Value| {
        let name = event["object"]["metadata"]["name"].as_str().unwrap_or_default();
        format!("{} {name}", event["type"].as_str().unwrap_or_default()).trim_end().to_owned()
    };
    events.iter().map(one).collect()
}

async fn change(client: &Client, name: &str, labels: Value) -> String {
    let patch = json!({ "metadata": { "labels": labels } });
    let object = send(client, Method::PATCH, &format!("{SERVICES}/{name}"), MERGE, &patch).await.expect(200);
    object["metadata"]["resourceVersion"].as_str().expect("a version").to_owned()
}

#[tokio::test]
async fn a_watch_replays_everything_after_its_version_and_nothing_before() {
    let server = Server::start();
    let client = server.client().await;
    let first = send(&client, Method::POST, SERVICES, JSON, &service("a")).await.expect(201);
    let since = first["metadata"]["resourceVersion"].as_str().expect("a version");
    send(&client, Method::POST, SERVICES, JSON, &service("b")).await.expect(201);
    change(&client, "a", json!({ "x": "1" })).await;
    send(&client, Method::DELETE, &format!("{SERVICES}/b"), JSON, &Value::Null).await.expect(200);

    let events = watch(&client, &format!("resourceVersion={since}&timeoutSeconds=1")).await;
    assert_eq!(summary(&events), ["ADDED b", "MODIFIED a", "DELETED b"]);
    let versions: Vec<u64> = events
        .iter()
        .map(|event| {
            event["object"]["metadata"]["resourceVersion"]
                .as_str()
                .expect("a version")
                .parse()
                .expect("a number")
        })
        .collect();
    assert!(versions.is_sorted(), "{versions:?}");
    let initial = watch(&client, "timeoutSeconds=1").await;
    assert_eq!(summary(&initial), ["ADDED a"], "without a version a watch begins with what there is");
}

#[tokio::test]
async fn a_selecting_watch_sees_objects_come_and_go_as_they_match() {
    let server = Server::start();
    let client = server.client().await;
    let made = send(&client, Method::POST, SERVICES, JSON, &service("a")).await.expect(201);
    let since = made["metadata"]["resourceVersion"].as_str().expect("a version");
    for labels in [json!({ "x": "1" }), json!({ "y": "1" }), json!({ "x": "2" })] {
        change(&client, "a", labels).await;
    }
    send(&client, Method::DELETE, &format!("{SERVICES}/a"), JSON, &Value::Null).await.expect(200);
    let query = format!("resourceVersion={since}&timeoutSeconds=1&labelSelector=x%3D1");
    assert_eq!(summary(&watch(&client, &query).await), ["ADDED a", "MODIFIED a", "DELETED a"]);
}

#[tokio::test]
async fn a_watch_of_one_object_tells_of_no_other() {
    let server = Server::start();
    let client = server.client().await;
    for name in ["a", "b"] {
        send(&client, Method::POST, SERVICES, JSON, &service(name)).await.expect(201);
    }
    let request = Request::get(format!("{SERVICES}/a?watch=1&timeoutSeconds=1")).body(Vec::new());
    let lines = client.request_stream(request.expect("a request")).await.expect("a watch").lines();
    let events = lines.map(|line| serde_json::from_str(&line.expect("a line")).expect("an event")).collect();
    let events: Vec<Value> = timeout(DEADLINE, events).await.expect("the watch ends by itself");
    assert_eq!(summary(&events), ["ADDED a"]);
}

#[tokio::test]
async fn bookmarks_mark_progress_and_the_end_of_what_there_was() {
    let server = Server::start();
    let client = server.client().await;
    send(&client, Method::POST, SERVICES, JSON, &service("a")).await.expect(201);
    let query =
        "allowWatchBookmarks=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&timeoutSeconds=1";
    let events = watch(&client, query).await;
    assert_eq!(summary(&events), ["ADDED a", "BOOKMARK", "BOOKMARK"]);
    assert_eq!(events[1]["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    assert_eq!(events[1]["object"]["kind"], "Service");

    let namespace = json!({ "metadata": { "name": "elsewhere" } });
    let made = send(&client, Method::POST, "/api/v1/namespaces", JSON, &namespace).await.expect(201);
    let events = watch(&client, "allowWatchBookmarks=true&timeoutSeconds=1").await;
    let last = &events.last().expect("a bookmark")["object"]["metadata"]["resourceVersion"];
    assert_eq!(last, &made["metadata"]["resourceVersion"], "progress counts what other kinds have done");
}

#[tokio::test]
async fn a_version_that_is_no_longer_known_is_gone() {
    let server = Server::start();
    let client = server.client().await;
    let made = send(&client, Method::POST, SERVICES, JSON, &service("a")).await.expect(201);
    let old = made["metadata"]["resourceVersion"].as_str().expect("a version").to_owned();
    change(&client, "a", json!({ "x": "1" })).await;
    // The history of changes does not outlive the process.
    let server = Server::start_in(server.terminate());
    let client = server.client().await;
    let path = format!("{SERVICES}?watch=1&resourceVersion={old}");
    let refusal = send(&client, Method::GET, &path, JSON, &Value::Null).await;
    assert_eq!((refusal.code, &refusal.body["reason"]), (410, &json!("Expired")), "{}", refusal.body);
    let future = format!("{SERVICES}?watch=1&resourceVersion=1000000");
    assert_eq!(send(&client, Method::GET, &future, JSON, &Value::Null).await.code, 410);
    // kube's client repeats a request that timed out, and that is how this refusal reads: so kubectl asks.
    let refusal = server.kubectl(&["get", "--raw", &format!("{SERVICES}?resourceVersion=1000000")], "");
    let said = String::from_utf8_lossy(&refusal.stderr);
    assert!(
        said.starts_with("Error from server (Timeout): Timeout: Too large resource version: 1000000"),
        "{said}"
    );
}

#[tokio::test]
async fn the_kube_watcher_follows_through_a_restart() {
    let server = Server::start();
    let configs = [watcher::Config::default(), watcher::Config::default().streaming_lists()];
    for config in configs {
        let api: Api<ConfigMap> = Api::namespaced(server.client().await, "default");
        let mut seen = BTreeMap::new();
        let mut events = pin!(watcher(api.clone(), config));
        for round in 0..20 {
            let name = format!("map-{}", round % 3);
            let object =
                json!({ "apiVersion": "v1", "kind": "ConfigMap", "data": { "round": round.to_string() } });
            let parameters = PatchParams::apply("test").force();
            api.patch(&name, &parameters, &Patch::Apply(object)).await.expect("apply");
        }
        api.delete("map-1", &DeleteParams::default()).await.expect("delete");
        let expected: BTreeMap<_, _> = [("map-0", "18"), ("map-2", "17")].into_iter().collect();
        let settle = async {
            while let Some(event) = events.try_next().await.expect("an event") {
                match event {
                    Event::Apply(map) | Event::InitApply(map) => {
                        seen.insert(map.name_any(), map.data.expect("data")["round"].clone());
                    }
                    Event::Delete(map) => drop(seen.remove(&map.name_any())),
                    Event::Init | Event::InitDone => {}
                }
                if seen.iter().map(|(name, round)| (name.as_str(), round.as_str())).eq(expected.clone()) {
                    return;
                }
            }
        };
        timeout(DEADLINE, settle).await.expect("the watcher arrives at what is stored");
    }
}

#[tokio::test]
async fn many_writers_lose_nothing_that_a_watcher_sees() {
    let server = Server::start();
    let client = server.client().await;
    let api: Api<Service> = Api::default_namespaced(client.clone());
    let object: Service = serde_json::from_value(service("counter")).expect("a service");
    api.create(&PostParams::default(), &object).await.expect("create");
    let since = api
        .list(&kube::api::ListParams::default())
        .await
        .expect("list")
        .metadata
        .resource_version
        .expect("a version");
    let writers = (0..8).map(|writer| {
        let client = client.clone();
        async move {
            for step in 0..5 {
                change(&client, "counter", json!({ format!("w{writer}"): step.to_string() })).await;
            }
        }
    });
    futures::future::join_all(writers).await;
    let events = watch(&client, &format!("resourceVersion={since}&timeoutSeconds=1")).await;
    assert_eq!(events.len(), 40);
    let last = &events.last().expect("an event")["object"];
    let stored =
        send(&client, Method::GET, &format!("{SERVICES}/counter"), JSON, &Value::Null).await.expect(200);
    assert_eq!(last, &stored, "the last event is what is stored");
    for writer in 0..8 {
        assert_eq!(stored["metadata"]["labels"][format!("w{writer}")], "4");
    }
}
