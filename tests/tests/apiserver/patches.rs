//! The four languages of PATCH, and who owns what after them.

use http::Method;
use serde_json::{Value, json};

use super::server::{
    APPLY, Answer, CLUSTERS, JSON, JSON_PATCH, MERGE, SERVICES, STRATEGIC, Server, send, service,
};

const WEB: &str = "/api/v1/namespaces/default/services/web";

#[tokio::test]
async fn json_merge_and_strategic_patches_each_do_what_they_say() {
    let server = Server::start();
    let client = server.client().await;
    send(&client, Method::POST, SERVICES, JSON, &service("web")).await.expect(201);
    let cases = [
        (
            JSON_PATCH,
            json!([
                { "op": "test", "path": "/metadata/labels", "value": null },
                { "op": "add", "path": "/metadata/labels", "value": { "a": "1" } },
            ]),
            "/metadata/labels",
            json!({ "a": "1" }),
        ),
        (
            MERGE,
            json!({ "metadata": { "labels": { "a": null, "b": "2" } } }),
            "/metadata/labels",
            json!({ "b": "2" }),
        ),
        (
            STRATEGIC,
            json!({ "spec": { "ports": [{ "name": "dns", "port": 53, "protocol": "UDP" }] } }),
            "/spec/ports",
            json!([
                { "name": "http", "port": 80, "protocol": "TCP", "targetPort": 8080 },
                { "name": "dns", "port": 53, "protocol": "UDP", "targetPort": 53 },
            ]),
        ),
        (
            STRATEGIC,
            json!({ "spec": {
                "$setElementOrder/ports": [{ "port": 53 }, { "port": 80 }],
                "ports": [{ "port": 80, "targetPort": 9090 }],
            } }),
            "/spec/ports",
            json!([
                { "name": "dns", "port": 53, "protocol": "UDP", "targetPort": 53 },
                { "name": "http", "port": 80, "protocol": "TCP", "targetPort": 9090 },
            ]),
        ),
        (
            STRATEGIC,
            json!({ "spec": { "ports": [{ "$patch": "delete", "port": 53 }] } }),
            "/spec/ports",
            json!([{ "name": "http", "port": 80, "protocol": "TCP", "targetPort": 9090 }]),
        ),
        (
            MERGE,
            json!({ "spec": { "ports": [{ "port": 443 }] } }),
            "/spec/ports",
            json!([{ "port": 443, "protocol": "TCP", "targetPort": 443 }]),
        ),
    ];
    for (language, patch, pointer, expected) in cases {
        let patched = send(&client, Method::PATCH, WEB, language, &patch).await.expect(200);
        assert_eq!(patched.pointer(pointer), Some(&expected), "{language}: {patch}");
    }
}

/// What every way of saying it has to make of an object: everything but who said it, and when.
fn content(mut object: Value) -> Value {
    let metadata = object["metadata"].as_object_mut().expect("metadata");
    metadata.retain(|field, _| ["labels", "annotations"].contains(&field.as_str()));
    object
}

#[tokio::test]
async fn every_language_that_says_the_same_makes_the_same_object() {
    let server = Server::start();
    let client = server.client().await;
    let http = json!({ "name": "http", "port": 80, "protocol": "TCP", "targetPort": 8080 });
    let dns = json!({ "name": "dns", "port": 53, "protocol": "UDP", "targetPort": 53 });
    let base = json!({ "labels": { "tier": "back" }, "selector": { "app": "web" }, "ports": [http] });
    let config = |name: &str, stated: &Value| {
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": { "name": name, "labels": stated["labels"] },
            "spec": { "selector": stated["selector"], "ports": stated["ports"] },
        })
    };
    let cases = [
        (
            "a label",
            json!([{ "op": "add", "path": "/metadata/labels/tier", "value": "front" }]),
            json!({ "metadata": { "labels": { "tier": "front" } } }),
            json!({ "metadata": { "labels": { "tier": "front" } } }),
            json!({ "labels": { "tier": "front" }, "selector": { "app": "web" }, "ports": [http] }),
        ),
        (
            "a field of an item",
            json!([{ "op": "replace", "path": "/spec/ports/0/targetPort", "value": "web" }]),
            json!({ "spec": { "ports": [{ "name": "http", "port": 80, "targetPort": "web" }] } }),
            json!({ "spec": { "ports": [{ "port": 80, "targetPort": "web" }] } }),
            json!({
                "labels": { "tier": "back" }, "selector": { "app": "web" },
                "ports": [{ "name": "http", "port": 80, "targetPort": "web" }],
            }),
        ),
        (
            "a new item",
            json!([{ "op": "add", "path": "/spec/ports/-", "value": dns }]),
            json!({ "spec": { "ports": [http, dns] } }),
            json!({ "spec": { "ports": [{ "name": "dns", "port": 53, "protocol": "UDP" }] } }),
            json!({ "labels": { "tier": "back" }, "selector": { "app": "web" }, "ports": [http, dns] }),
        ),
        (
            "something away",
            json!([{ "op": "remove", "path": "/spec/selector" }, { "op": "remove", "path": "/metadata/labels" }]),
            json!({ "spec": { "selector": null }, "metadata": { "labels": null } }),
            json!({ "spec": { "selector": null }, "metadata": { "labels": null } }),
            json!({ "ports": [http] }),
        ),
    ];
    for (number, (what, operations, merge, strategic, stated)) in cases.into_iter().enumerate() {
        let mut made = Vec::new();
        for (language, patch) in [
            (JSON_PATCH, operations),
            (MERGE, merge),
            (STRATEGIC, strategic),
            (APPLY, Value::Null),
            (JSON, Value::Null),
        ] {
            let sort =
                language.rsplit('/').next().unwrap_or_default().split(['-', '+']).next().unwrap_or_default();
            let name = format!("{sort}-{number}{}", u8::from(language == JSON));
            let path = format!("{SERVICES}/{name}?fieldManager=one");
            let first = send(&client, Method::PATCH, &path, APPLY, &config(&name, &base)).await.expect(201);
            let changed = if language == JSON {
                let mut whole = config(&name, &stated);
                whole["metadata"]["resourceVersion"] = first["metadata"]["resourceVersion"].clone();
                send(&client, Method::PUT, &path, JSON, &whole).await
            } else {
                let patch = if language == APPLY { config(&name, &stated) } else { patch };
                send(&client, Method::PATCH, &path, language, &patch).await
            };
            made.push((language, content(changed.expect(200))));
        }
        for (language, object) in &made {
            assert_eq!(*object, made[0].1, "{what} by {language} and by {}", made[0].0);
        }
    }
}

#[tokio::test]
async fn a_patch_that_does_not_fit_is_refused() {
    let server = Server::start();
    let client = server.client().await;
    let object = send(&client, Method::POST, SERVICES, JSON, &service("web")).await.expect(201);
    let test = json!([{ "op": "test", "path": "/spec/type", "value": "NodePort" }]);
    send(&client, Method::PATCH, WEB, JSON_PATCH, &test).await.expect(422);
    let missing = json!([
        { "op": "test", "path": "/metadata/labels", "value": null },
        { "op": "test", "path": "/metadata/labels", "value": {} },
    ]);
    let refusal = send(&client, Method::PATCH, WEB, JSON_PATCH, &missing).await;
    assert!(refusal.message().contains("operation '/1' failed"), "{}", refusal.body);
    assert_eq!(refusal.code, 422);
    let stale = json!({ "metadata": { "resourceVersion": "1" }, "spec": { "type": "NodePort" } });
    send(&client, Method::PATCH, WEB, MERGE, &stale).await.expect(409);
    let renamed = json!({ "metadata": { "name": "other" } });
    send(&client, Method::PATCH, WEB, MERGE, &renamed).await.expect(400);
    send(&client, Method::PATCH, WEB, "text/plain", &json!({})).await.expect(415);
    send(&client, Method::PATCH, &format!("{SERVICES}/none"), MERGE, &json!({})).await.expect(404);
    let unchanged = send(&client, Method::GET, WEB, JSON, &Value::Null).await.expect(200);
    assert_eq!(unchanged, object);
}

async fn apply(server: &Server, manager: &str, force: bool, config: &Value) -> Answer {
    let path = format!("{WEB}?fieldManager={manager}&force={force}");
    send(&server.client().await, Method::PATCH, &path, APPLY, config).await
}

#[expect(clippy::needless_pass_by_value, reason = "literals are written where they are used")]
fn config(spec: Value) -> Value {
    json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": "web" }, "spec": spec })
}

#[tokio::test]
async fn managers_share_an_object_and_each_takes_only_its_own_away() {
    let server = Server::start();
    let http = json!({ "name": "http", "port": 80 });
    let dns = json!({ "name": "dns", "port": 53, "protocol": "UDP" });
    let made =
        apply(&server, "one", false, &config(json!({ "selector": { "app": "web" }, "ports": [http] }))).await;
    assert_eq!(made.expect(201)["spec"]["type"], "ClusterIP");
    let both = apply(&server, "two", false, &config(json!({ "ports": [dns] }))).await.expect(200);
    let ports = |object: &Value| -> Vec<Value> {
        object["spec"]["ports"].as_array().into_iter().flatten().map(|port| port["name"].clone()).collect()
    };
    assert_eq!(ports(&both), ["http", "dns"]);

    let again = apply(&server, "two", false, &config(json!({ "ports": [dns] }))).await.expect(200);
    assert_eq!(again, both, "the same configuration changes nothing, not even a time");

    let less =
        apply(&server, "one", false, &config(json!({ "selector": { "app": "web" } }))).await.expect(200);
    assert_eq!(ports(&less), ["dns"], "one no longer states its port, and nobody else had it");
    let owners = less["metadata"]["managedFields"].as_array().expect("owners");
    let fields = |manager: &str| {
        let owner = owners.iter().find(|owner| owner["manager"] == manager).expect("an owner");
        assert_eq!((&owner["operation"], &owner["fieldsType"]), (&json!("Apply"), &json!("FieldsV1")));
        owner["fieldsV1"].clone()
    };
    assert_eq!(fields("one"), json!({ "f:spec": { "f:selector": {} } }));
    let item = json!({ ".": {}, "f:name": {}, "f:port": {}, "f:protocol": {} });
    assert_eq!(
        fields("two"),
        json!({ "f:spec": { "f:ports": { ".": {}, "k:{\"port\":53,\"protocol\":\"UDP\"}": item } } })
    );
}

#[tokio::test]
async fn taking_anothers_field_is_a_conflict_that_names_the_owner_unless_forced() {
    let server = Server::start();
    let port = |target: u16| config(json!({ "ports": [{ "port": 80, "targetPort": target }] }));
    apply(&server, "one", false, &port(8080)).await.expect(201);
    let refusal = apply(&server, "two", false, &port(9090)).await;
    assert_eq!(
        (refusal.code, refusal.message()),
        (
            409,
            "Apply failed with 1 conflict: conflict with \"one\": .spec.ports[port=80,protocol=\"TCP\"].targetPort"
        )
    );
    assert_eq!(
        refusal.body["details"]["causes"],
        json!([{
            "reason": "FieldManagerConflict",
            "message": "conflict with \"one\"",
            "field": ".spec.ports[port=80,protocol=\"TCP\"].targetPort",
        }])
    );
    let shared = apply(&server, "two", false, &port(8080)).await.expect(200);
    assert_eq!(
        shared["metadata"]["managedFields"].as_array().map(Vec::len),
        Some(2),
        "the same value is shared"
    );
    let taken = apply(&server, "two", true, &port(9090)).await.expect(200);
    assert_eq!(taken["spec"]["ports"][0]["targetPort"], 9090);
    let refusal = apply(&server, "one", false, &port(8080)).await;
    assert!(refusal.message().contains("conflict with \"two\""), "{}", refusal.message());
}

#[tokio::test]
async fn an_ordinary_write_takes_ownership_of_what_it_changes() {
    let server = Server::start();
    let client = server.client().await;
    apply(&server, "one", false, &config(json!({ "ports": [{ "port": 80 }], "type": "ClusterIP" })))
        .await
        .expect(201);
    let path = format!("{WEB}?fieldManager=person");
    send(&client, Method::PATCH, &path, MERGE, &json!({ "spec": { "type": "NodePort" } })).await.expect(200);
    let refusal =
        apply(&server, "one", false, &config(json!({ "ports": [{ "port": 80 }], "type": "ClusterIP" })))
            .await;
    assert_eq!(refusal.code, 409);
    assert!(refusal.message().contains("conflict with \"person\" using v1 at "), "{}", refusal.message());
    assert!(refusal.message().ends_with(": .spec.type"), "{}", refusal.message());
}

#[tokio::test]
async fn an_apply_states_who_applies_and_what() {
    let server = Server::start();
    let client = server.client().await;
    let nobody =
        send(&client, Method::PATCH, WEB, APPLY, &config(json!({ "ports": [{ "port": 80 }] }))).await;
    assert!(
        nobody.code == 422 && nobody.message().contains("fieldManager: Required value"),
        "{}",
        nobody.body
    );
    let nothing = apply(&server, "one", false, &json!({ "spec": {} })).await;
    assert_eq!(nothing.code, 400, "{}", nothing.body);
    let invalid = apply(&server, "one", false, &config(json!({ "ports": [] }))).await;
    assert_eq!(invalid.message(), "Service \"web\" is invalid: spec.ports: Required value");
}

#[tokio::test]
async fn an_apply_may_leave_out_what_the_kind_requires() {
    let server = Server::start();
    let client = server.client().await;
    let cluster = json!({
        "apiVersion": "federation.dev/v1alpha1", "kind": "Cluster", "metadata": { "name": "europe-west1-d" },
        "spec": {
            "server": "https://192.0.2.1:6443", "credentialsRef": { "name": "europe-west1-d" },
            "region": "europe-west1", "zones": ["europe-west1-d"], "networks": ["10.8.0.0/24"],
        },
    });
    let part = |part: &str, value: Value| {
        let mut config = json!({
            "apiVersion": "federation.dev/v1alpha1", "kind": "Cluster", "metadata": { "name": "europe-west1-d" },
        });
        config[part] = value;
        config
    };
    let path =
        |subresource: &str| format!("{CLUSTERS}/europe-west1-d{subresource}?fieldManager=one&force=true");
    let status = part("status", json!({ "services": 3 }));
    // A status alone makes no object, and what is not there lacks nothing.
    send(&client, Method::PATCH, &path("/status"), APPLY, &status).await.expect(404);
    send(&client, Method::POST, CLUSTERS, JSON, &cluster).await.expect(201);
    let reported = send(&client, Method::PATCH, &path("/status"), APPLY, &status).await.expect(200);
    assert_eq!(
        (&reported["status"]["services"], &reported["spec"]["region"]),
        (&json!(3), &json!("europe-west1"))
    );

    let networks = part("spec", json!({ "networks": ["10.8.0.0/16"] }));
    let changed = send(&client, Method::PATCH, &path(""), APPLY, &networks).await.expect(200);
    assert_eq!(changed["spec"]["networks"], json!(["10.8.0.0/16"]));
    assert_eq!(
        (&changed["spec"]["region"], &changed["status"]),
        (&json!("europe-west1"), &reported["status"])
    );

    let unknown = part("spec", json!({ "planet": "earth" }));
    let strict = format!("{}&fieldValidation=Strict", path(""));
    let refusal = send(&client, Method::PATCH, &strict, APPLY, &unknown).await;
    assert!(refusal.message().contains("unknown field \"spec.planet\""), "{}", refusal.body);
    assert_eq!(refusal.code, 400);
}
