//! Kinds that are served in several versions: one object, whichever version it is written in and read in.

use http::Method;
use serde_json::{Value, json};

use super::server::{APPLY, JSON, JSON_PATCH, MERGE, STRATEGIC, Server, send};

const NEW: &str = "/apis/multicluster.x-k8s.io/v1beta1/namespaces/default";
const OLD: &str = "/apis/multicluster.x-k8s.io/v1alpha1/namespaces/default";

/// What most exports are: a name, and nothing else.
fn export(version: &str) -> Value {
    json!({ "apiVersion": format!("multicluster.x-k8s.io/{version}"), "kind": "ServiceExport", "metadata": { "name": "web" } })
}

#[tokio::test]
async fn an_object_is_one_in_all_its_versions() {
    let server = Server::start();
    let client = server.client().await;
    let exports = |root: &str| format!("{root}/serviceexports");
    let made = send(&client, Method::POST, &exports(OLD), JSON, &export("v1alpha1")).await.expect(201);
    assert_eq!(made["apiVersion"], "multicluster.x-k8s.io/v1alpha1");
    for (root, version) in [(NEW, "v1beta1"), (OLD, "v1alpha1")] {
        let api_version = format!("multicluster.x-k8s.io/{version}");
        let path = format!("{}/web", exports(root));
        let read = send(&client, Method::GET, &path, JSON, &Value::Null).await.expect(200);
        assert_eq!(
            (&read["apiVersion"], &read["metadata"]["uid"]),
            (&json!(api_version), &made["metadata"]["uid"])
        );
        let list = send(&client, Method::GET, &exports(root), JSON, &Value::Null).await.expect(200);
        assert_eq!((&list["apiVersion"], &list["kind"]), (&json!(api_version), &json!("ServiceExportList")));
        assert_eq!(list["items"], json!([read]));
        let watch = format!("{}?watch=1&timeoutSeconds=1", exports(root));
        let events = send(&client, Method::GET, &watch, JSON, &Value::Null).await.expect(200);
        let event: Value = match events {
            // One line is JSON as it stands.
            Value::Object(_) => events,
            lines => serde_json::from_str(lines.as_str().expect("lines").lines().next().expect("a line"))
                .expect("an event"),
        };
        assert_eq!((&event["type"], &event["object"]), (&json!("ADDED"), &read));

        let labels = json!({ "apiVersion": api_version, "metadata": { "labels": { version: "was-here" } } });
        let patched = send(&client, Method::PATCH, &path, MERGE, &labels).await.expect(200);
        assert_eq!(
            (&patched["apiVersion"], &patched["metadata"]["labels"][version]),
            (&json!(api_version), &json!("was-here"))
        );
        let test = json!([{ "op": "test", "path": "/apiVersion", "value": api_version }]);
        send(&client, Method::PATCH, &path, JSON_PATCH, &test).await.expect(200);
        let status = json!({ "apiVersion": api_version, "kind": "ServiceExport", "metadata": { "name": "web" }, "status": {
            "conditions": [{ "type": "Valid", "status": "True", "reason": "Valid", "message": version, "lastTransitionTime": "2026-01-01T00:00:00Z" }],
        } });
        let path = format!("{path}/status?fieldManager=one");
        let applied = send(&client, Method::PATCH, &path, APPLY, &status).await.expect(200);
        assert_eq!(applied["status"]["conditions"][0]["message"], version);
        let appliers = applied["metadata"]["managedFields"].as_array().expect("a list").iter();
        let appliers: Vec<_> = appliers.filter(|entry| entry["operation"] == "Apply").collect();
        assert_eq!(appliers.len(), 1, "who applies in two versions is one: {appliers:?}");
        assert_eq!(appliers[0]["apiVersion"], api_version);
    }
    let other = send(&client, Method::POST, &exports(NEW), JSON, &export("v1alpha1")).await;
    let expected = "the API version in the data (multicluster.x-k8s.io/v1alpha1) does not match the expected API version \
                    (multicluster.x-k8s.io/v1beta1)";
    assert_eq!((other.code, other.message()), (400, expected));
    let strategic =
        send(&client, Method::PATCH, &format!("{}/web", exports(NEW)), STRATEGIC, &json!({})).await;
    assert_eq!(strategic.code, 415, "a custom kind has no strategic merge");
    let gone = send(&client, Method::DELETE, &format!("{}/web", exports(OLD)), JSON, &Value::Null).await;
    gone.expect(200);
    let read = send(&client, Method::GET, &format!("{}/web", exports(NEW)), JSON, &Value::Null).await;
    assert_eq!(read.code, 404);
}

#[tokio::test]
async fn discovery_names_every_version_and_the_preferred_one() {
    let server = Server::start();
    let client = server.client().await;
    let groups = send(&client, Method::GET, "/apis", JSON, &Value::Null).await.expect(200);
    let groups = groups["groups"].as_array().expect("a list");
    for (group, kinds) in [
        (
            "multicluster.x-k8s.io",
            vec!["serviceexports", "serviceexports/status", "serviceimports", "serviceimports/status"],
        ),
        ("about.k8s.io", vec!["clusterproperties", "clusterproperties/status"]),
    ] {
        let mut all = groups.iter().filter(|described| described["name"] == group);
        let (Some(described), None) = (all.next(), all.next()) else {
            panic!("{group} is listed once: {groups:?}")
        };
        let version =
            |version: &str| json!({ "groupVersion": format!("{group}/{version}"), "version": version });
        assert_eq!(described["versions"], json!([version("v1beta1"), version("v1alpha1")]));
        assert_eq!(described["preferredVersion"], version("v1beta1"));
        for version in ["v1beta1", "v1alpha1"] {
            let path = format!("/apis/{group}/{version}");
            let resources = send(&client, Method::GET, &path, JSON, &Value::Null).await.expect(200);
            assert_eq!(resources["groupVersion"], format!("{group}/{version}"));
            let names: Vec<_> = resources["resources"]
                .as_array()
                .expect("a list")
                .iter()
                .map(|one| one["name"].clone())
                .collect();
            assert_eq!(names, kinds);
            let path = format!("/openapi/v3/apis/{group}/{version}");
            let schemas = send(&client, Method::GET, &path, JSON, &Value::Null).await.expect(200);
            let paths = schemas["paths"].as_object().expect("paths");
            assert!(
                paths.keys().all(|path| path.starts_with(&format!("/apis/{group}/{version}/"))),
                "{paths:?}"
            );
        }
    }
}

#[tokio::test]
async fn what_the_definitions_refuse_is_refused() {
    let server = Server::start();
    let client = server.client().await;
    let property = |value: Value| json!({ "metadata": { "name": "cluster.clusterset.k8s.io" }, "spec": { "value": value } });
    let import = |ips: Value, type_: &str| json!({ "metadata": { "name": "web" }, "spec": { "type": type_, "ips": ips, "ports": [{ "port": 80 }] } });
    let imports = format!("{NEW}/serviceimports");
    let properties = "/apis/about.k8s.io/v1beta1/clusterproperties";
    for (path, object, code, word) in [
        (
            imports.as_str(),
            import(json!(["192.0.2.1", "192.0.2.2", "192.0.2.3"]), "ClusterSetIP"),
            422,
            "spec.ips",
        ),
        (&imports, import(json!([]), "ExternalName"), 400, "spec.type"),
        (&imports, import(json!(["192.0.2.1", "2001:db8::1"]), "ClusterSetIP"), 201, ""),
        (properties, property(json!("")), 422, "at least 1 chars long"),
        (properties, property(json!("europe")), 201, ""),
    ] {
        let answer = send(&client, Method::POST, path, JSON, &object).await;
        assert!(answer.code == code && answer.message().contains(word), "{object}: {answer:?}");
    }
}

#[test]
fn kubectl_finds_them_by_every_name_and_prints_their_columns() {
    let server = Server::start();
    let run = |arguments: &[&str], input: &str| {
        let output = server.kubectl(arguments, input);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).split_whitespace().collect::<Vec<_>>().join(" ")
    };
    run(&["apply", "-f", "-"], &export("v1alpha1").to_string());
    run(&["apply", "-f", "-"], &export("v1beta1").to_string());
    for name in ["svcex", "svcexport", "serviceexports.v1alpha1.multicluster.x-k8s.io"] {
        let table = run(&["get", name], "");
        assert!(table.starts_with("NAME VALID CONFLICT AGE web"), "{name}: {table}");
    }
    let table = run(&["get", "multicluster"], "");
    assert!(table.contains("serviceexport.multicluster.x-k8s.io/web"), "{table}");
    let import = json!({
        "apiVersion": "multicluster.x-k8s.io/v1beta1", "kind": "ServiceImport", "metadata": { "name": "web" },
        "spec": { "type": "ClusterSetIP", "ips": ["192.0.2.1"], "ports": [{ "port": 80 }] },
    });
    run(&["apply", "-f", "-"], &import.to_string());
    let table = run(&["get", "svcim"], "");
    assert!(table.starts_with("NAME TYPE IP AGE web ClusterSetIP [\"192.0.2.1\"]"), "{table}");
}
