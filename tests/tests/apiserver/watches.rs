//! Watches: what a client sees, and that it misses nothing.

use std::collections::BTreeMap;

use futures::stream::BoxStream;
use futures::{AsyncBufReadExt as _, StreamExt as _};
use http::{Method, Request};
use k8s_openapi::api::core::v1::{ConfigMap, Service};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, ResourceExt as _};
use serde_json::{Value, json};
use tempfile::TempDir;
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
    // Told as an event of a watch that has begun, as kube-apiserver does: a watcher that is refused only asks again.
    for version in [old.as_str(), "1000000"] {
        let events = watch(&client, &format!("resourceVersion={version}")).await;
        let [event] = events.as_slice() else { panic!("{events:?}") };
        let status = &event["object"];
        assert_eq!(
            (&event["type"], &status["kind"], &status["code"], &status["reason"]),
            (&json!("ERROR"), &json!("Status"), &json!(410), &json!("Expired"))
        );
    }
    // kube's client repeats a request that timed out, and that is how this refusal reads: so kubectl asks.
    let refusal = server.kubectl(&["get", "--raw", &format!("{SERVICES}?resourceVersion=1000000")], "");
    let said = String::from_utf8_lossy(&refusal.stderr);
    assert!(
        said.starts_with("Error from server (Timeout): Timeout: Too large resource version: 1000000"),
        "{said}"
    );
}

/// What a watcher of `ConfigMap`s has seen so far, by name.
struct Follower<'a> {
    events: BoxStream<'a, Result<Event<ConfigMap>, watcher::Error>>,
    seen: BTreeMap<String, String>,
}

impl Follower<'_> {
    fn new(api: Api<ConfigMap>, config: watcher::Config) -> Self {
        Self { events: watcher(api, config).default_backoff().boxed(), seen: BTreeMap::new() }
    }

    async fn sees(&mut self, expected: &[(&str, &str)]) {
        let arrives = async {
            while !self
                .seen
                .iter()
                .map(|(name, round)| (name.as_str(), round.as_str()))
                .eq(expected.iter().copied())
            {
                match self.events.next().await.expect("a watcher never ends") {
                    Ok(Event::Apply(map) | Event::InitApply(map)) => {
                        self.seen.insert(map.name_any(), map.data.expect("data")["round"].clone());
                    }
                    Ok(Event::Delete(map)) => drop(self.seen.remove(&map.name_any())),
                    Ok(Event::Init) => self.seen.clear(),
                    // It goes on by itself, or this never arrives.
                    Ok(Event::InitDone) | Err(_) => {}
                }
            }
        };
        let arrived = timeout(DEADLINE, arrives).await;
        arrived.unwrap_or_else(|_| panic!("the watcher has seen {:?} instead of {expected:?}", self.seen));
    }
}

async fn put(api: &Api<ConfigMap>, name: &str, round: u8) {
    let object = json!({ "apiVersion": "v1", "kind": "ConfigMap", "data": { "round": round.to_string() } });
    api.patch(name, &PatchParams::apply("test").force(), &Patch::Apply(object)).await.expect("apply");
}

fn ways_to_begin() -> [watcher::Config; 2] {
    [watcher::Config::default(), watcher::Config::default().streaming_lists()]
}

#[tokio::test]
async fn the_kube_watcher_arrives_at_what_is_stored() {
    let server = Server::start();
    for config in ways_to_begin() {
        let api: Api<ConfigMap> = Api::namespaced(server.client().await, "default");
        let mut follower = Follower::new(api.clone(), config);
        for round in 0..20 {
            put(&api, &format!("map-{}", round % 3), round).await;
        }
        api.delete("map-1", &DeleteParams::default()).await.expect("delete");
        follower.sees(&[("map-0", "18"), ("map-2", "17")]).await;
    }
}

#[tokio::test]
async fn the_kube_watcher_follows_through_a_restart() {
    // An address of this process alone, which nobody else takes meanwhile.
    let [.., high, low] = std::process::id().to_be_bytes();
    let address = format!("127.77.{high}.{low}:6443");
    let server = Server::start_at(TempDir::new().expect("a directory"), &address);
    let api: Api<ConfigMap> = Api::namespaced(server.client().await, "default");
    put(&api, "map-0", 0).await;
    let mut followers = ways_to_begin().map(|config| Follower::new(api.clone(), config));
    for follower in &mut followers {
        follower.sees(&[("map-0", "0")]).await;
    }
    // Other kinds go on, so that what the watchers know last is behind where the next process begins.
    send(&server.client().await, Method::POST, SERVICES, JSON, &service("web")).await.expect(201);
    let server = Server::start_at(server.kill(), &address);
    let api: Api<ConfigMap> = Api::namespaced(server.client().await, "default");
    put(&api, "map-1", 1).await;
    for follower in &mut followers {
        follower.sees(&[("map-0", "0"), ("map-1", "1")]).await;
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
