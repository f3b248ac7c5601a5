//! Who is let in, and to what.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use http::Method;
use serde_json::{Value, json};

use super::server::{JSON, SERVICES, Server, send, service};

#[tokio::test]
async fn a_stranger_is_unauthorized_and_a_reader_may_not_write() {
    let server = Server::start();
    for client in [server.stranger().await, server.nobody().await] {
        for (method, path) in
            [(Method::GET, SERVICES), (Method::POST, SERVICES), (Method::GET, "/openapi/v2")]
        {
            let refusal = send(&client, method, path, JSON, &service("web")).await;
            assert_eq!((refusal.code, refusal.message()), (401, "Unauthorized"), "{path}");
        }
    }

    let reader = server.reader().await;
    assert_eq!(send(&reader, Method::GET, SERVICES, JSON, &Value::Null).await.code, 200);
    let refusal = send(&reader, Method::POST, SERVICES, JSON, &service("web")).await;
    assert_eq!(refusal.code, 403);
    assert_eq!(
        refusal.message(),
        "services is forbidden: User \"federation-node\" cannot create resource \"services\" in API group \"\" in \
         the namespace \"default\""
    );
}

#[tokio::test]
async fn a_reader_may_tell_events_and_nothing_else() {
    let server = Server::start();
    let reader = server.reader().await;
    let events = "/api/v1/namespaces/default/events";
    let event = json!({
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": { "name": "web.1", "namespace": "default" },
        "involvedObject": { "kind": "FederatedService", "name": "web", "namespace": "default" },
        "reason": "EndpointFailed",
        "message": "no answer",
        "type": "Warning",
    });
    assert_eq!(send(&reader, Method::POST, events, JSON, &event).await.code, 201);
    let again = json!({ "count": 2 });
    let one = format!("{events}/web.1");
    let merge = "application/merge-patch+json";
    assert_eq!(send(&reader, Method::PATCH, &one, merge, &again).await.code, 200);
    assert_eq!(send(&reader, Method::DELETE, &one, JSON, &Value::Null).await.code, 403);
}

#[tokio::test]
async fn the_credentials_of_clusters_are_for_administrators_alone() {
    let server = Server::start();
    let secrets = "/api/v1/namespaces/federation-system/secrets";
    assert_eq!(send(&server.client().await, Method::GET, secrets, JSON, &Value::Null).await.code, 200);
    for path in [
        secrets,
        "/api/v1/secrets",
        "/api/v1/namespaces/federation-system/secrets/one",
        "/api/v1/secrets?watch=1",
    ] {
        let refusal = send(&server.reader().await, Method::GET, path, JSON, &Value::Null).await;
        assert_eq!(refusal.code, 403, "{path}: {}", refusal.body);
    }
}

#[tokio::test]
async fn files_with_secrets_are_their_owners_alone() {
    let server = Server::start();
    let mode = |name: &str| fs::metadata(server.path(name)).expect("a file").permissions().mode() & 0o777;
    for file in
        ["admin.conf", "node.conf", "data/admin.token", "data/node.token", "data/ca.key", "data/store.redb"]
    {
        assert_eq!(mode(file), 0o600, "{file}");
    }
    assert_eq!(mode("data"), 0o700);
}

#[tokio::test]
async fn a_probe_needs_no_token() {
    let server = Server::start();
    let stranger = server.stranger().await;
    for path in ["/healthz", "/livez", "/readyz", "/version"] {
        assert_eq!(send(&stranger, Method::GET, path, JSON, &Value::Null).await.code, 200, "{path}");
    }
    assert_eq!(send(&stranger, Method::GET, "/api", JSON, &Value::Null).await.code, 401);
}
