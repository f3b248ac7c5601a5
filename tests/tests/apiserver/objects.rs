//! The life of objects: created, read, changed, deleted, and refused.

use http::Method;
use serde_json::{Value, json};

use super::server::{Answer, CLUSTERS, JSON, MERGE, SERVICES, Server, send, send_text, service};

fn cluster(name: &str) -> Value {
    json!({
        "apiVersion": "federation.dev/v1alpha1",
        "kind": "Cluster",
        "metadata": { "name": name },
        "spec": {
            "server": "https://203.0.113.7:6443",
            "credentialsRef": { "name": name },
            "region": "europe-west1",
            "zones": ["europe-west1-d"],
            "networks": ["10.8.0.0/14", "fd00:8::/48"],
        },
    })
}

fn with(mut object: Value, pointer: &str, value: Value) -> Value {
    let (parent, field) = pointer.rsplit_once('/').expect("a pointer");
    object.pointer_mut(parent).expect("there is a parent")[field] = value;
    object
}

#[tokio::test]
async fn an_object_is_created_with_the_metadata_and_the_defaults_of_the_real_server() {
    let server = Server::start();
    let client = server.client().await;
    let made = send(&client, Method::POST, SERVICES, JSON, &service("web")).await.expect(201);
    assert_eq!(made["metadata"]["namespace"], "default");
    assert_eq!(made["metadata"]["uid"].as_str().map(str::len), Some(36));
    assert!(made["metadata"]["creationTimestamp"].is_string());
    assert_eq!(
        made["spec"],
        json!({
            "internalTrafficPolicy": "Cluster",
            "ipFamilies": ["IPv4"],
            "ipFamilyPolicy": "SingleStack",
            "ports": [{ "name": "http", "port": 80, "protocol": "TCP", "targetPort": 8080 }],
            "selector": { "app": "web" },
            "sessionAffinity": "None",
            "type": "ClusterIP",
        })
    );
    let read = send(&client, Method::GET, &format!("{SERVICES}/web"), JSON, &Value::Null).await.expect(200);
    assert_eq!(read, made);
    let again = send(&client, Method::POST, SERVICES, JSON, &service("web")).await;
    assert_eq!((again.code, again.message()), (409, "services \"web\" already exists"));
}

#[tokio::test]
async fn a_dry_run_answers_and_leaves_nothing() {
    let server = Server::start();
    let client = server.client().await;
    let path = format!("{SERVICES}?dryRun=All");
    let would = send(&client, Method::POST, &path, JSON, &service("web")).await.expect(201);
    assert_eq!(would["metadata"].get("resourceVersion"), None, "there is no version of it");
    send(&client, Method::GET, &format!("{SERVICES}/web"), JSON, &Value::Null).await.expect(404);

    let made = send(&client, Method::POST, SERVICES, JSON, &service("web")).await.expect(201);
    let path = format!("{SERVICES}/web?dryRun=All");
    let patch = json!({ "spec": { "selector": { "app": "other" } } });
    let would = send(&client, Method::PATCH, &path, MERGE, &patch).await.expect(200);
    assert_eq!(would["spec"]["selector"], json!({ "app": "other" }));
    assert_eq!(would["metadata"]["resourceVersion"], made["metadata"]["resourceVersion"]);
    send(&client, Method::DELETE, &path, JSON, &Value::Null).await.expect(200);
    let kept = send(&client, Method::GET, &format!("{SERVICES}/web"), JSON, &Value::Null).await.expect(200);
    assert_eq!(kept, made);
}

#[tokio::test]
async fn a_generated_name_begins_as_asked() {
    let server = Server::start();
    let client = server.client().await;
    let object = with(service(""), "/metadata", json!({ "generateName": "web-" }));
    let made = send(&client, Method::POST, SERVICES, JSON, &object).await.expect(201);
    let name = made["metadata"]["name"].as_str().expect("a name");
    assert!(name.starts_with("web-") && name.len() == 9, "{name}");
}

#[tokio::test]
async fn an_update_of_an_older_version_is_a_conflict() {
    let server = Server::start();
    let client = server.client().await;
    let first = send(&client, Method::POST, SERVICES, JSON, &service("web")).await.expect(201);
    let path = format!("{SERVICES}/web");
    let second = with(first.clone(), "/spec/selector", json!({ "app": "other" }));
    let second = send(&client, Method::PUT, &path, JSON, &second).await.expect(200);
    assert_ne!(first["metadata"]["resourceVersion"], second["metadata"]["resourceVersion"]);

    let refusal = send(&client, Method::PUT, &path, JSON, &first).await;
    assert_eq!(refusal.body["reason"], "Conflict");
    assert_eq!(
        (refusal.code, refusal.message()),
        (
            409,
            "Operation cannot be fulfilled on services \"web\": the object has been modified; please apply your \
             changes to the latest version and try again"
        )
    );
    let same = send(&client, Method::PUT, &path, JSON, &second).await.expect(200);
    assert_eq!(same, second, "an update that changes nothing is no new version");
}

#[tokio::test]
async fn custom_kinds_want_the_version_that_they_replace() {
    let server = Server::start();
    let client = server.client().await;
    send(&client, Method::POST, CLUSTERS, JSON, &cluster("one")).await.expect(201);
    let refusal = send(&client, Method::PUT, &format!("{CLUSTERS}/one"), JSON, &cluster("one")).await;
    assert_eq!(
        (refusal.code, refusal.message()),
        (
            422,
            "Cluster.federation.dev \"one\" is invalid: metadata.resourceVersion: Invalid value: 0: must be \
             specified for an update"
        )
    );
}

#[tokio::test]
async fn spec_and_status_are_written_through_their_own_halves() {
    let server = Server::start();
    let client = server.client().await;
    let path = format!("{CLUSTERS}/one");
    let object = with(cluster("one"), "/status", json!({ "version": "smuggled" }));
    let made = send(&client, Method::POST, CLUSTERS, JSON, &object).await.expect(201);
    assert!(made.get("status").is_none(), "{made}");
    assert_eq!(made["metadata"]["generation"], 1);

    let patch = json!({ "spec": { "region": "smuggled" }, "status": { "version": "v1.33.0" } });
    let reported = send(&client, Method::PATCH, &format!("{path}/status"), MERGE, &patch).await.expect(200);
    assert_eq!(reported["status"]["version"], "v1.33.0");
    assert_eq!(reported["spec"], made["spec"]);
    assert_eq!(reported["metadata"]["generation"], 1, "a status is no new generation");

    let patch = json!({ "spec": { "region": "us-east1" }, "status": { "version": "smuggled" } });
    let moved = send(&client, Method::PATCH, &path, MERGE, &patch).await.expect(200);
    assert_eq!(moved["status"], reported["status"]);
    assert_eq!((&moved["spec"]["region"], &moved["metadata"]["generation"]), (&json!("us-east1"), &json!(2)));
}

#[tokio::test]
async fn a_finalizer_keeps_a_deleted_object_until_it_is_removed() {
    let server = Server::start();
    let client = server.client().await;
    let path = format!("{SERVICES}/web");
    let object = with(service("web"), "/metadata/finalizers", json!(["example.com/hold"]));
    send(&client, Method::POST, SERVICES, JSON, &object).await.expect(201);
    let marked = send(&client, Method::DELETE, &path, JSON, &Value::Null).await.expect(200);
    assert!(marked["metadata"]["deletionTimestamp"].is_string(), "{marked}");

    let another = json!({ "metadata": { "finalizers": ["example.com/hold", "example.com/late"] } });
    let refusal = send(&client, Method::PATCH, &path, MERGE, &another).await;
    assert_eq!(refusal.code, 422);
    assert!(refusal.message().contains("no new finalizers can be added if the object is being deleted"));

    let released = json!({ "metadata": { "finalizers": null } });
    send(&client, Method::PATCH, &path, MERGE, &released).await.expect(200);
    let gone = send(&client, Method::GET, &path, JSON, &Value::Null).await;
    assert_eq!((gone.code, gone.message()), (404, "services \"web\" not found"));
}

#[tokio::test]
async fn a_deletion_heeds_its_preconditions() {
    let server = Server::start();
    let client = server.client().await;
    let path = format!("{SERVICES}/web");
    let made = send(&client, Method::POST, SERVICES, JSON, &service("web")).await.expect(201);
    for wrong in [json!({ "uid": "another" }), json!({ "resourceVersion": "1" })] {
        let body = json!({ "kind": "DeleteOptions", "apiVersion": "v1", "preconditions": wrong });
        send(&client, Method::DELETE, &path, JSON, &body).await.expect(409);
    }
    let body = json!({ "preconditions": { "uid": made["metadata"]["uid"] } });
    let status = send(&client, Method::DELETE, &path, JSON, &body).await.expect(200);
    assert_eq!((&status["kind"], &status["status"]), (&json!("Status"), &json!("Success")));
    assert_eq!(status["details"]["uid"], made["metadata"]["uid"]);
}

#[tokio::test]
async fn a_namespace_takes_its_content_along() {
    let server = Server::start();
    let client = server.client().await;
    let namespace = |name: &str| json!({ "metadata": { "name": name } });
    send(&client, Method::POST, "/api/v1/namespaces", JSON, &namespace("going")).await.expect(201);
    let services = "/api/v1/namespaces/going/services";
    send(&client, Method::POST, services, JSON, &service("plain")).await.expect(201);
    let held = with(service("held"), "/metadata/finalizers", json!(["example.com/hold"]));
    send(&client, Method::POST, services, JSON, &held).await.expect(201);

    let marked =
        send(&client, Method::DELETE, "/api/v1/namespaces/going", JSON, &Value::Null).await.expect(200);
    assert_eq!(marked["status"]["phase"], "Terminating");
    send(&client, Method::GET, &format!("{services}/plain"), JSON, &Value::Null).await.expect(404);
    let refusal = send(&client, Method::POST, services, JSON, &service("late")).await;
    assert_eq!(
        (refusal.code, refusal.message()),
        (
            403,
            "services \"late\" is forbidden: unable to create new content in namespace going because it is being \
             terminated"
        )
    );

    let released = json!({ "metadata": { "finalizers": null } });
    send(&client, Method::PATCH, &format!("{services}/held"), MERGE, &released).await.expect(200);
    send(&client, Method::GET, "/api/v1/namespaces/going", JSON, &Value::Null).await.expect(404);

    let kept = send(&client, Method::DELETE, "/api/v1/namespaces/default", JSON, &Value::Null).await;
    assert_eq!(
        (kept.code, kept.message()),
        (403, "namespaces \"default\" is forbidden: this namespace may not be deleted")
    );
}

#[tokio::test]
async fn lists_select_page_and_cross_namespaces() {
    let server = Server::start();
    let client = server.client().await;
    for (name, tier) in [("a", "front"), ("b", "back"), ("c", "front"), ("d", "none")] {
        let object = with(service(name), "/metadata/labels", json!({ "tier": tier }));
        send(&client, Method::POST, SERVICES, JSON, &object).await.expect(201);
    }
    let cases = [
        ("labelSelector=tier%3Dfront", "a c"),
        ("labelSelector=tier%20in%20(front,back)", "a b c"),
        ("labelSelector=tier%20notin%20(front),tier!%3Dnone", "b"),
        ("labelSelector=!tier", ""),
        ("labelSelector=tier", "a b c d"),
        ("fieldSelector=metadata.name%3Db", "b"),
        ("fieldSelector=metadata.name!%3Db,metadata.namespace%3Ddefault", "a c d"),
        ("fieldSelector=spec.type%3DClusterIP&labelSelector=tier%3Dback", "b"),
    ];
    for path in [SERVICES, "/api/v1/services"] {
        for (query, expected) in cases {
            let list =
                send(&client, Method::GET, &format!("{path}?{query}"), JSON, &Value::Null).await.expect(200);
            assert_eq!(names(&list), expected, "{path}?{query}");
        }
    }
    let refusal =
        send(&client, Method::GET, &format!("{SERVICES}?fieldSelector=spec.x%3D1"), JSON, &Value::Null).await;
    assert_eq!((refusal.code, refusal.message()), (400, "field label not supported: spec.x"));

    let first =
        send(&client, Method::GET, &format!("{SERVICES}?limit=3"), JSON, &Value::Null).await.expect(200);
    assert_eq!((names(&first).as_str(), &first["metadata"]["remainingItemCount"]), ("a b c", &json!(1)));
    let token = first["metadata"]["continue"]
        .as_str()
        .expect("there is more")
        .replace('=', "%3D")
        .replace('+', "%2B");
    let rest = format!("{SERVICES}?limit=3&continue={token}");
    let rest = send(&client, Method::GET, &rest, JSON, &Value::Null).await.expect(200);
    assert_eq!((names(&rest).as_str(), rest["metadata"].get("continue")), ("d", None));

    let deleted = format!("{SERVICES}?labelSelector=tier%3Dfront");
    send(&client, Method::DELETE, &deleted, JSON, &Value::Null).await.expect(200);
    let left = send(&client, Method::GET, SERVICES, JSON, &Value::Null).await.expect(200);
    assert_eq!(names(&left), "b d");
}

#[tokio::test]
async fn all_pages_of_a_list_show_the_state_of_the_first() {
    let server = Server::start();
    let client = server.client().await;
    for name in ["a", "c", "e"] {
        send(&client, Method::POST, SERVICES, JSON, &service(name)).await.expect(201);
    }
    let get = async |query: &str| {
        send(&client, Method::GET, &format!("{SERVICES}?{query}"), JSON, &Value::Null).await
    };
    let first = get("limit=1").await.expect(200);
    let version = first["metadata"]["resourceVersion"].as_str().expect("a version").to_owned();
    send(&client, Method::DELETE, &format!("{SERVICES}/c"), JSON, &Value::Null).await.expect(200);
    send(&client, Method::POST, SERVICES, JSON, &service("d")).await.expect(201);
    let token = first["metadata"]["continue"].as_str().expect("there is more").to_owned();
    let token = token.replace('=', "%3D").replace('+', "%2B");
    let rest = get(&format!("continue={token}")).await.expect(200);
    assert_eq!(names(&rest), "c e");
    assert_eq!(rest["metadata"]["resourceVersion"], version.as_str());

    let exact = get(&format!("resourceVersion={version}&resourceVersionMatch=Exact")).await.expect(200);
    assert_eq!((names(&exact).as_str(), &exact["metadata"]["resourceVersion"]), ("a c e", &json!(version)));
    let newer =
        get(&format!("resourceVersion={version}&resourceVersionMatch=NotOlderThan")).await.expect(200);
    assert_eq!(names(&newer), "a d e");
    let refusal = get("resourceVersionMatch=Exact").await;
    assert_eq!(
        (refusal.code, refusal.message()),
        (
            422,
            "ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Forbidden: resourceVersionMatch is \
             forbidden unless resourceVersion is provided"
        )
    );
    // The past does not outlive the process: what was begun before is to be begun anew.
    let server = Server::start_in(server.terminate());
    let client = server.client().await;
    let path = format!("{SERVICES}?continue={token}");
    let refusal = send(&client, Method::GET, &path, JSON, &Value::Null).await;
    assert_eq!((refusal.code, &refusal.body["reason"]), (410, &json!("Expired")), "{}", refusal.body);
}

fn names(list: &Value) -> String {
    let items = list["items"].as_array().expect("items");
    let names: Vec<_> = items.iter().filter_map(|item| item["metadata"]["name"].as_str()).collect();
    names.join(" ")
}

#[tokio::test]
async fn what_is_wrong_with_a_request_is_said_in_the_real_servers_words() {
    let server = Server::start();
    let client = server.client().await;
    let post = async |path: &str, body: Value| send(&client, Method::POST, path, JSON, &body).await;
    let expect = |answer: &Answer, code: u16, message: &str| {
        assert_eq!((answer.code, answer.message()), (code, message), "{}", answer.body);
    };

    let answer = post("/api/v1/namespaces/nowhere/services", service("web")).await;
    expect(&answer, 404, "namespaces \"nowhere\" not found");
    let answer = post("/api/v1/namespaces/default/pods", json!({})).await;
    expect(&answer, 404, "the server could not find the requested resource");
    let answer = post("/apis/apps/v1/namespaces/default/deployments", json!({})).await;
    expect(&answer, 404, "the server could not find the requested resource");
    let answer = post(SERVICES, with(service("web"), "/apiVersion", json!("v2"))).await;
    expect(&answer, 400, "the API version in the data (v2) does not match the expected API version (v1)");
    let answer = post(SERVICES, with(service("web"), "/metadata/namespace", json!("kube-system"))).await;
    expect(
        &answer,
        400,
        "the namespace of the provided object does not match the namespace sent on the request",
    );
    let answer = post(SERVICES, with(service("web"), "/metadata/resourceVersion", json!("7"))).await;
    expect(&answer, 400, "resourceVersion should not be set on objects to be created");
    let answer = post(SERVICES, with(service("web"), "/spec/ports", json!([]))).await;
    expect(&answer, 422, "Service \"web\" is invalid: spec.ports: Required value");
    assert_eq!(
        answer.body["details"]["causes"],
        json!([{ "reason": "FieldValueRequired", "message": "Required value", "field": "spec.ports" }])
    );
    let answer = send(&client, Method::PUT, &format!("{SERVICES}/web"), JSON, &service("other")).await;
    expect(&answer, 400, "the name of the object (other) does not match the name on the URL (web)");

    let starts = [
        (
            with(service("web"), "/kind", json!("Secret")),
            "Secret in version \"v1\" cannot be handled as a Service: ",
        ),
        (
            with(service("web"), "/spec/ports/0/port", json!("eighty")),
            "Service in version \"v1\" cannot be handled as a Service: spec.ports[0].port: invalid type",
        ),
    ];
    for (body, start) in starts {
        let answer = post(SERVICES, body).await;
        assert!(answer.code == 400 && answer.message().starts_with(start), "{}", answer.body);
    }
    let answer = send_text(&client, Method::POST, SERVICES, JSON, "{".to_owned()).await;
    assert_eq!(answer.code, 400, "{}", answer.body);
    let answer = send_text(&client, Method::POST, SERVICES, "text/plain", "{}".to_owned()).await;
    assert_eq!(answer.code, 415, "{}", answer.body);
    let answer = send_text(&client, Method::POST, SERVICES, JSON, " ".repeat(3 * 1024 * 1024 + 1)).await;
    assert_eq!(answer.code, 413, "{}", answer.body);
    assert_eq!(send(&client, Method::POST, &format!("{SERVICES}/web"), JSON, &json!({})).await.code, 405);
}

#[expect(clippy::too_many_lines, reason = "one table of cases")]
#[tokio::test]
async fn invalid_objects_are_refused_field_by_field() {
    let server = Server::start();
    let client = server.client().await;
    let two = |second: Value| json!([{ "name": "a", "port": 80 }, second]);
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": { "name": "web-1" },
        "addressType": "IPv4",
        "endpoints": [{ "addresses": ["10.8.0.1"] }],
        "ports": [{ "name": "http", "port": 80 }],
    });
    let slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
    let cases = [
        (
            SERVICES,
            with(service("web"), "/metadata/name", json!("9web")),
            "metadata.name: Invalid value: \"9web\": a DNS-1035 label",
        ),
        (
            SERVICES,
            with(service("web"), "/metadata/labels", json!({ "a": "-" })),
            "metadata.labels: Invalid value: \"-\": a valid label must be",
        ),
        (
            SERVICES,
            with(service("web"), "/spec/ports", two(json!({ "port": 81 }))),
            "spec.ports[1].name: Required value",
        ),
        (
            SERVICES,
            with(service("web"), "/spec/ports", two(json!({ "name": "a", "port": 81 }))),
            "spec.ports[1].name: Duplicate value: \"a\"",
        ),
        (
            SERVICES,
            with(service("web"), "/spec/ports", two(json!({ "name": "b", "port": 80 }))),
            "spec.ports[1]: Duplicate value: ",
        ),
        (
            SERVICES,
            with(service("web"), "/spec/ports/0/port", json!(65_536)),
            "spec.ports[0].port: Invalid value: 65536: must be between 1 and 65535, inclusive",
        ),
        (
            SERVICES,
            with(service("web"), "/spec/ports/0/protocol", json!("ICMP")),
            "spec.ports[0].protocol: Unsupported value: \"ICMP\": supported values: \"SCTP\", \"TCP\", \"UDP\"",
        ),
        (
            SERVICES,
            with(service("web"), "/spec/type", json!("Cluster")),
            "spec.type: Unsupported value: \"Cluster\"",
        ),
        (
            SERVICES,
            with(service("web"), "/spec/clusterIP", json!("10.0.0")),
            "spec.clusterIPs[0]: Invalid value: \"10.0.0\": must be a valid IP address",
        ),
        (
            slices,
            with(slice.clone(), "/addressType", json!("IPv5")),
            "addressType: Unsupported value: \"IPv5\": supported values: \"FQDN\", \"IPv4\", \"IPv6\"",
        ),
        (
            slices,
            with(slice.clone(), "/endpoints/0/addresses", json!([])),
            "endpoints[0].addresses: Required value: must contain at least 1 address",
        ),
        (
            slices,
            with(slice.clone(), "/endpoints/0/addresses", json!(["fd00::1"])),
            "endpoints[0].addresses[0]: Invalid value: \"fd00::1\": must be a valid IPv4 address",
        ),
        (
            slices,
            with(slice.clone(), "/endpoints/0/addresses", json!(["127.0.0.1"])),
            "endpoints[0].addresses[0]: Invalid value: \"127.0.0.1\": may not be in the loopback range",
        ),
        (
            slices,
            with(slice, "/ports/0/port", json!(0)),
            "ports[0].port: Invalid value: 0: must be between 1 and 65535",
        ),
        (
            CLUSTERS,
            with(cluster("one"), "/spec/server", json!("http://203.0.113.7")),
            "spec.server: Invalid value: \"http://203.0.113.7\": must be an https URL",
        ),
        (
            CLUSTERS,
            with(cluster("one"), "/spec/zones", json!([])),
            "spec.zones: Required value: at least one zone",
        ),
        (
            CLUSTERS,
            with(cluster("one"), "/spec/networks", json!(["10.8.0.1/14"])),
            "spec.networks[0]: Invalid value: \"10.8.0.1/14\": has bits set behind its prefix, did you mean 10.8.0.0/14?",
        ),
    ];
    for (path, object, expected) in cases {
        let answer = send(&client, Method::POST, path, JSON, &object).await;
        assert_eq!((answer.code, &answer.body["reason"]), (422, &json!("Invalid")), "{}", answer.body);
        assert!(answer.message().contains(expected), "{} should contain {expected}", answer.message());
    }
    let headless =
        with(service("quiet"), "/spec", json!({ "clusterIP": "None", "selector": { "app": "quiet" } }));
    send(&client, Method::POST, SERVICES, JSON, &headless).await.expect(201);
}

#[tokio::test]
async fn unknown_fields_are_refused_or_warned_about_and_never_kept() {
    let server = Server::start();
    let client = server.client().await;
    let object = with(service("web"), "/spec/ports/0/portt", json!(1));
    let refusal =
        send(&client, Method::POST, &format!("{SERVICES}?fieldValidation=Strict"), JSON, &object).await;
    assert_eq!(refusal.code, 400);
    assert!(
        refusal.message().ends_with("strict decoding error: unknown field \"spec.ports[0].portt\""),
        "{}",
        refusal.message()
    );
    let made = send(&client, Method::POST, SERVICES, JSON, &object).await;
    assert_eq!(made.warnings, [r#"299 - "unknown field \"spec.ports[0].portt\"""#]);
    assert!(made.expect(201)["spec"]["ports"][0].get("portt").is_none());
}
