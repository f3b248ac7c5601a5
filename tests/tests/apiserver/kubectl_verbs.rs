//! kubectl verb by verb, as transcripts: what a person types, and what the terminal says. For every kubectl since 1.20.

use std::fs;
use std::io::BufRead as _;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Child, Output};

use http::Method;
use serde_json::{Value, json};

use super::kubectl::{CLUSTER, SERVICE, fail, run, squeeze};
use super::server::{CLUSTERS, MERGE, SERVICES, Server, run_with_input, send};

/// The Service in the namespace that kubectl takes when none is named.
fn service() -> String {
    SERVICE.replace(", namespace: my-namespace", "")
}

fn federated_service(percent: u16) -> String {
    format!(
        "
apiVersion: federation.dev/v1alpha1
kind: FederatedService
metadata: {{ name: my-service }}
spec: {{ overprovisioningPercent: {percent} }}
"
    )
}

/// Runs kubectl with an editor that replaces one text by another.
fn edit(server: &Server, what: &str, before: &str, after: &str) -> Output {
    let editor = server.path("editor");
    fs::write(&editor, format!("#!/bin/sh\nexec sed -i 's/{before}/{after}/' \"$1\"\n")).expect("write");
    fs::set_permissions(&editor, fs::Permissions::from_mode(0o755)).expect("make it a program");
    let mut kubectl = server.kubectl_command();
    // What it cannot store it leaves among the temporary files.
    kubectl.env_remove("KUBE_EDITOR").env("EDITOR", &editor).env("TMPDIR", server.path(""));
    kubectl.arg("edit").args(what.split(' '));
    run_with_input(&mut kubectl, "")
}

fn printed(output: &Output) -> String {
    squeeze(&String::from_utf8_lossy(&output.stdout))
}

/// A kubectl that runs until what it waits for has come.
fn waiting(server: &Server, command: &str) -> Child {
    let mut kubectl = server.kubectl_command();
    kubectl.args(command.split(' ')).spawn().expect("run kubectl")
}

#[test]
fn an_edit_is_stored_when_the_editor_is_left() {
    let server = Server::start();
    run(&server, "create -f -", &service());
    let output = edit(&server, "service my-service", "targetPort: 8080", "targetPort: 9090");
    assert_eq!(printed(&output), "service/my-service edited");
    assert_eq!(run(&server, "get svc my-service -o jsonpath={.spec.ports[0].targetPort}", ""), "9090");

    run(&server, "create -f -", &federated_service(150));
    let percent = || run(&server, "get fsvc my-service -o jsonpath={.spec.overprovisioningPercent}", "");
    let output =
        edit(&server, "fsvc my-service", "overprovisioningPercent: 150", "overprovisioningPercent: 160");
    assert_eq!(printed(&output), "federatedservice.federation.dev/my-service edited");
    assert_eq!(percent(), "160");
    // kubectl opens the editor again, with the refusal on top; this one changes nothing more, and so it ends.
    let output =
        edit(&server, "fsvc my-service", "overprovisioningPercent: 160", "overprovisioningPercent: 50");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("\"my-service\" is invalid"), "{said}");
    let copy =
        said.split('"').find(|part| part.contains("/kubectl-edit-")).expect("the edit is kept in a file");
    let copy = fs::read_to_string(copy).expect("read");
    assert!(copy.contains("spec.overprovisioningPercent: Invalid value: 50: must be at least 100"), "{copy}");
    assert_eq!(percent(), "160");
}

#[tokio::test]
async fn a_wait_ends_when_the_condition_holds() {
    let server = Server::start();
    run(&server, "create -f -", CLUSTER);
    let mut kubectl = waiting(&server, "wait --for=condition=Accepted cluster/europe-west1-d --timeout=30s");
    let accepted = json!({ "status": { "conditions": [{
        "type": "Accepted", "status": "True", "reason": "Accepted", "message": "",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }] } });
    let path = format!("{CLUSTERS}/europe-west1-d/status");
    send(&server.client().await, Method::PATCH, &path, MERGE, &accepted).await.expect(200);
    assert!(kubectl.wait().expect("wait for kubectl").success());
    let refusal =
        fail(&server, "wait --for=condition=ControlPlaneHealthy cluster/europe-west1-d --timeout=1s", "");
    assert!(refusal.contains("timed out waiting for the condition on clusters/europe-west1-d"), "{refusal}");
}

#[test]
fn a_deletion_lasts_as_long_as_a_finalizer() {
    let server = Server::start();
    let held = service().replace("labels:", "finalizers: [example.com/hold], labels:");
    run(&server, "create -f -", &held);
    let (mut kubectl, mut lines) = server.kubectl_lines(&["delete", "service", "my-service"]);
    let mut said = String::new();
    lines.read_line(&mut said).expect("a line");
    assert!(said.starts_with("service \"my-service\" deleted"), "{said}");
    // It has asked, and waits now.
    let marked = run(&server, "get svc my-service -o jsonpath={.metadata.deletionTimestamp}", "");
    assert!(!marked.is_empty());
    let refusal = fail(&server, "wait --for=delete service/my-service --timeout=1s", "");
    assert!(refusal.contains("timed out waiting for the condition on services/my-service"), "{refusal}");
    assert!(kubectl.try_wait().expect("a process").is_none(), "the Service is still there");
    run(
        &server,
        "patch svc my-service --type=json -p [{\"op\":\"remove\",\"path\":\"/metadata/finalizers\"}]",
        "",
    );
    assert!(kubectl.wait().expect("wait for kubectl").success());
    let refusal = fail(&server, "get svc my-service", "");
    assert_eq!(refusal, "Error from server (NotFound): services \"my-service\" not found");
}

#[test]
fn explain_knows_the_fields_of_kubernetes_kinds_and_of_ours() {
    let server = Server::start();
    let cases = [
        ("explain service.spec.ports", &["KIND: Service", "VERSION: v1", "port <integer> -required-"][..]),
        (
            "explain fsvc.spec.healthCheck",
            &["KIND: FederatedService", "protocol <string>", "path <string>", "port <integer>"],
        ),
        ("explain clusters.spec", &["KIND: Cluster", "networks <[]string> -required-"]),
        ("explain endpointslices.endpoints.conditions", &["KIND: EndpointSlice", "ready <boolean>"]),
        ("explain cm", &["KIND: ConfigMap", "metadata <", "data <map[string]string>"]),
    ];
    for (command, expected) in cases {
        let explained = run(&server, command, "");
        for part in expected {
            assert!(explained.contains(part), "{command}: {part} in {explained}");
        }
    }
    let refusal = fail(&server, "explain service.spec.portz", "");
    assert!(refusal.contains("field \"portz\" does not exist"), "{refusal}");
}

#[test]
fn api_resources_lists_what_is_served_and_how() {
    let server = Server::start();
    let table = run(&server, "api-resources", "");
    for row in [
        "services svc v1 true Service",
        "namespaces ns v1 false Namespace",
        "endpointslices discovery.k8s.io/v1 true EndpointSlice",
        "leases coordination.k8s.io/v1 true Lease",
        "clusters federation.dev/v1alpha1 false Cluster",
        "federatedservices fsvc federation.dev/v1alpha1 true FederatedService",
    ] {
        assert!(table.lines().any(|line| line == row), "{row} in {table}");
    }
    let ours = run(&server, "api-resources --api-group=federation.dev --namespaced=false -o name", "");
    assert_eq!(ours, "clusters.federation.dev");
    let watched =
        run(&server, "api-resources --verbs=watch,deletecollection --api-group=federation.dev -o name", "");
    assert_eq!(watched, "clusters.federation.dev\nfederatedservices.federation.dev");
    assert!(run(&server, "api-versions", "").lines().any(|version| version == "federation.dev/v1alpha1"));
}

#[test]
fn each_type_of_patch_changes_what_it_says() {
    let server = Server::start();
    run(&server, "create -f -", &service());
    run(&server, "create -f -", CLUSTER);
    let cases = [
        (
            "service/my-service",
            "--type=json",
            r#"[{"op":"replace","path":"/spec/ports/0/port","value":81}]"#,
            "{.spec.ports[*].port}",
            "81",
        ),
        (
            "service/my-service",
            "--type=merge",
            r#"{"metadata":{"labels":{"tier":"front"}}}"#,
            "{.metadata.labels.tier}",
            "front",
        ),
        (
            "service/my-service",
            "--type=strategic",
            r#"{"spec":{"ports":[{"port":53,"name":"dns","protocol":"UDP"}]}}"#,
            "{.spec.ports[*].name}",
            "http dns",
        ),
        (
            "cluster/europe-west1-d",
            "--type=merge",
            r#"{"spec":{"networks":["10.8.0.0/16"]}}"#,
            "{.spec.networks}",
            r#"["10.8.0.0/16"]"#,
        ),
    ];
    for (object, sort, patch, path, expected) in cases {
        let said = run(&server, &format!("patch {object} {sort} -p {patch}"), "");
        assert!(said.ends_with(" patched"), "{said}");
        assert_eq!(
            run(&server, &format!("get {object} -o jsonpath={path}"), ""),
            expected,
            "{sort} of {object}"
        );
    }
    let same =
        run(&server, r#"patch svc my-service --type=merge -p {"metadata":{"labels":{"tier":"front"}}}"#, "");
    assert_eq!(same, "service/my-service patched (no change)");
    let refusal = fail(&server, "patch cluster europe-west1-d --type=strategic -p {}", "");
    assert!(refusal.contains("the body of the request was in an unknown format"), "{refusal}");
    let refusal = fail(&server, r#"patch svc my-service -p {"spec":{"type":"Cluster"}}"#, "");
    assert!(refusal.contains("spec.type: Unsupported value: \"Cluster\""), "{refusal}");
}

#[test]
fn labels_and_annotations_come_go_and_are_not_overwritten_by_chance() {
    let server = Server::start();
    run(&server, "create -f -", &service());
    assert_eq!(run(&server, "annotate svc my-service note=first", ""), "service/my-service annotated");
    let annotation = || run(&server, "get svc my-service -o jsonpath={.metadata.annotations.note}", "");
    assert_eq!(annotation(), "first");
    let refusal = fail(&server, "annotate svc my-service note=second", "");
    assert!(refusal.contains("--overwrite is false"), "{refusal}");
    run(&server, "annotate svc my-service --overwrite note=second", "");
    assert_eq!(annotation(), "second");
    run(&server, "annotate svc my-service note-", "");
    assert_eq!(annotation(), "");
    run(&server, "label svc --all tier=front", "");
    assert_eq!(run(&server, "get svc -l tier=front,app -o name", ""), "service/my-service");
    assert_eq!(run(&server, "get svc --field-selector=metadata.name!=my-service -o name", ""), "");
    let refusal = fail(&server, "label svc my-service tier=-", "");
    assert!(refusal.contains("a valid label must be"), "{refusal}");
}

#[test]
fn what_is_read_as_yaml_can_be_written_back_as_it_is() {
    let server = Server::start();
    run(&server, "create -f -", &service());
    let yaml = |what: &str| {
        let output = server.kubectl(&["get", what, "my-service", "-o", "yaml"], "");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    };
    let before = yaml("service");
    assert_eq!(run(&server, "replace -f -", &before), "service/my-service replaced");
    assert_eq!(yaml("service"), before, "nothing has changed, not even the version");
    let refusal = fail(&server, "create -f -", &before);
    assert!(
        refusal.contains("already exists") || refusal.contains("resourceVersion should not be set"),
        "{refusal}"
    );
    let other = before.replace("targetPort: 8080", "targetPort: 9090");
    assert_eq!(run(&server, "replace -f -", &other), "service/my-service replaced");
    let refusal = fail(&server, "replace -f -", &before);
    assert!(
        refusal.contains("the object has been modified; please apply your changes to the latest version"),
        "{refusal}"
    );

    run(&server, "create -f -", &federated_service(150));
    let before = yaml("fsvc");
    assert_eq!(run(&server, "replace -f -", &before), "federatedservice.federation.dev/my-service replaced");
    assert_eq!(yaml("fsvc"), before);
    let table = run(&server, "get svc,fsvc -o custom-columns=KIND:.kind,NAME:.metadata.name", "");
    assert_eq!(table, "KIND NAME\nService my-service\nFederatedService my-service");
}

#[test]
fn a_dry_run_and_a_diff_show_what_would_be_and_leave_what_is() {
    let server = Server::start();
    let created = run(&server, "apply --dry-run=server -f -", &service());
    assert_eq!(created, "service/my-service created (server dry run)");
    assert_eq!(run(&server, "get svc -o name", ""), "");
    run(&server, "apply -f -", &service());
    let version = || run(&server, "get svc my-service -o jsonpath={.metadata.resourceVersion}", "");
    let before = version();
    assert_eq!(run(&server, "diff -f -", &service()), "", "nothing to tell");

    let changed = service().replace("8080", "9090");
    let output = server.kubectl(&["diff", "-f", "-"], &changed);
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
    let diff = String::from_utf8_lossy(&output.stdout);
    let mut lines: Vec<_> = diff
        .lines()
        .filter(|line| line.starts_with(['-', '+']) && !line.starts_with("---") && !line.starts_with("+++"))
        // Who changed it and when is told by kubectl of before 1.21 alone.
        .filter(|line| !line.contains("time:") && !line.contains("manager") && !line.contains("f:"))
        .map(squeeze)
        .collect();
    lines.sort_unstable();
    assert_eq!(lines, ["+ targetPort: 9090", "- targetPort: 8080"], "{diff}");
    for command in
        ["apply --dry-run=server -f -", "apply --server-side --force-conflicts --dry-run=server -f -"]
    {
        let said = run(&server, command, &changed);
        assert!(said.ends_with("(server dry run)"), "{said}");
    }
    let deleted = run(&server, "delete svc my-service --dry-run=server", "");
    assert!(deleted.ends_with("(server dry run)"), "{deleted}");
    assert_eq!(version(), before);
}

#[test]
fn a_deletion_spreads_as_it_is_told_to() {
    let server = Server::start();
    let map = |name: &str| run(&server, &format!("create configmap {name}"), "");
    let own = |name: &str, owner: &str| {
        let uid = run(&server, &format!("get cm {owner} -o jsonpath={{.metadata.uid}}"), "");
        map(name);
        let reference = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "name": owner, "uid": uid, "blockOwnerDeletion": true,
        });
        let patch = json!({ "metadata": { "ownerReferences": [reference] } });
        run(&server, &format!("patch cm {name} --type=merge -p {patch}"), "");
    };
    for (cascade, left) in [
        ("--cascade=orphan", "configmap/dependent"),
        ("--cascade=background", ""),
        ("--cascade=foreground", ""),
    ] {
        map("owner");
        own("dependent", "owner");
        let deleted = run(&server, &format!("delete cm owner {cascade}"), "");
        assert!(deleted.starts_with("configmap \"owner\" deleted"), "{deleted}");
        assert_eq!(run(&server, "get cm -o name", ""), left, "{cascade}");
        run(&server, "delete cm --all", "");
    }
}

#[test]
fn names_are_generated_lists_are_cut_and_columns_chosen() {
    let server = Server::start();
    let generated = service().replace("name: my-service", "generateName: web-");
    for _ in 0..3 {
        let made = run(&server, "create -f -", &generated);
        assert!(made.starts_with("service/web-") && made.ends_with(" created"), "{made}");
    }
    let whole = run(&server, "get svc -o name", "");
    assert_eq!(whole.lines().count(), 3, "{whole}");
    assert_eq!(run(&server, "get svc -o name --chunk-size=1", ""), whole);
    let ports = run(&server, "get svc -o custom-columns=PORT:.spec.ports[*].port --no-headers", "");
    assert_eq!(ports, "80\n80\n80");
    let raw = run(&server, &format!("get --raw {SERVICES}?limit=2"), "");
    let list: Value = serde_json::from_str(&raw).expect("JSON");
    assert_eq!(
        (list["items"].as_array().map(Vec::len), &list["metadata"]["remainingItemCount"]),
        (Some(2), &json!(1))
    );
}

#[test]
fn a_refusal_reads_as_one_of_any_cluster() {
    let server = Server::start();
    let bad = federated_service(150)
        .replace("overprovisioningPercent: 150", "healthCheck: { port: 8080, intervalMilliseconds: 1 }");
    assert_eq!(
        fail(&server, "create -f -", &bad),
        "The FederatedService \"my-service\" is invalid: spec.healthCheck.intervalMilliseconds: Invalid value: 1: must \
         be between 50 and 60000, inclusive"
    );
    let unknown = federated_service(150).replace("spec: {", "spec: { weight: 1, ");
    let refusal = fail(&server, "create -f -", &unknown);
    assert!(
        refusal.contains("unknown field \"spec.weight\"") || refusal.contains("unknown field \"weight\""),
        "{refusal}"
    );
    assert_eq!(run(&server, "get fsvc -o name", ""), "");
}
