//! Real kubectl, as people use it.

use std::io::BufRead as _;

use super::server::Server;

pub const SERVICE: &str = "
apiVersion: v1
kind: Service
metadata: { name: my-service, namespace: my-namespace, labels: { app: web } }
spec:
  selector: { app: web }
  ports: [{ name: http, port: 80, targetPort: 8080 }]
";

pub const CLUSTER: &str = "
apiVersion: federation.dev/v1alpha1
kind: Cluster
metadata: { name: europe-west1-d }
spec:
  server: https://203.0.113.7:6443
  credentialsRef: { name: europe-west1-d }
  region: europe-west1
  zones: [europe-west1-d]
  networks: [10.8.0.0/14]
";

/// Runs kubectl, which must succeed, and gives what it prints, columns apart by one space.
#[track_caller]
pub fn run(server: &Server, command: &str, input: &str) -> String {
    let arguments: Vec<_> = command.split(' ').collect();
    let output = server.kubectl(&arguments, input);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "kubectl {command}: {errors}");
    squeeze(&String::from_utf8_lossy(&output.stdout))
}

/// Runs kubectl, which must fail, and gives its complaint.
#[track_caller]
pub fn fail(server: &Server, command: &str, input: &str) -> String {
    let arguments: Vec<_> = command.split(' ').collect();
    let output = server.kubectl(&arguments, input);
    assert!(!output.status.success(), "kubectl {command} succeeds");
    String::from_utf8_lossy(&output.stderr).trim().to_owned()
}

pub fn squeeze(text: &str) -> String {
    let lines = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn a_service_lives_through_create_apply_get_describe_and_delete() {
    let server = Server::start();
    assert_eq!(run(&server, "create namespace my-namespace", ""), "namespace/my-namespace created");
    assert_eq!(run(&server, "create --save-config -f -", SERVICE), "service/my-service created");
    let changed = SERVICE.replace("port: 80,", "port: 81,");
    assert_eq!(run(&server, "apply -f -", &changed), "service/my-service configured");
    assert_eq!(run(&server, "apply -f -", &changed), "service/my-service unchanged");
    let ports = run(&server, "get svc -n my-namespace my-service -o jsonpath={.spec.ports[*].port}", "");
    assert_eq!(ports, "81", "a port that is no longer stated is removed");

    let table = run(&server, "get services --all-namespaces -o wide", "");
    let (head, row) = table.split_once('\n').expect("a head and a row");
    assert_eq!(head, "NAMESPACE NAME TYPE CLUSTER-IP EXTERNAL-IP PORT(S) AGE SELECTOR");
    assert!(row.starts_with("my-namespace my-service ClusterIP <none> <none> 81/TCP "), "{row}");
    assert!(row.ends_with(" app=web"), "{row}");

    let described = run(&server, "describe service -n my-namespace my-service", "");
    for line in [
        "Name: my-service",
        "Namespace: my-namespace",
        "Selector: app=web",
        "Port: http 81/TCP",
        "TargetPort: 8080/TCP",
    ] {
        assert!(described.lines().any(|printed| printed == line), "{line} in {described}");
    }
    assert!(
        run(&server, "get svc -n my-namespace my-service -o yaml", "")
            .contains("internalTrafficPolicy: Cluster")
    );
    assert_eq!(
        run(&server, "label svc -n my-namespace my-service tier=front", ""),
        "service/my-service labeled"
    );
    let deleted = run(&server, "delete svc -n my-namespace -l tier=front", "");
    assert!(deleted.starts_with("service \"my-service\" deleted"), "{deleted}");
    assert_eq!(
        fail(&server, "get svc -n my-namespace my-service", ""),
        "Error from server (NotFound): services \"my-service\" not found"
    );
}

#[test]
fn server_side_apply_names_the_other_manager() {
    let server = Server::start();
    run(&server, "create namespace my-namespace", "");
    run(&server, "apply --server-side --field-manager=one -f -", SERVICE);
    let changed = SERVICE.replace("8080", "9090");
    let conflict = fail(&server, "apply --server-side --field-manager=two -f -", &changed);
    let expected = "Apply failed with 1 conflict: conflict with \"one\": .spec.ports[port=80,protocol=\"TCP\"].targetPort";
    assert!(conflict.contains(expected), "{conflict}");
    let forced = run(&server, "apply --server-side --force-conflicts --field-manager=two -f -", &changed);
    assert_eq!(forced, "service/my-service serverside-applied");
}

#[test]
fn a_cluster_prints_its_own_columns() {
    let server = Server::start();
    assert_eq!(run(&server, "apply -f -", CLUSTER), "cluster.federation.dev/europe-west1-d created");
    assert_eq!(run(&server, "apply -f -", CLUSTER), "cluster.federation.dev/europe-west1-d unchanged");
    let table = run(&server, "get clusters", "");
    let (head, row) = table.split_once('\n').expect("a head and a row");
    assert_eq!(head, "NAME REGION ZONES ACCEPTED HEALTHY AGE");
    assert!(row.starts_with("europe-west1-d europe-west1 [\"europe-west1-d\"] "), "{row}");
}

#[test]
fn an_export_is_its_name() {
    let server = Server::start();
    for version in ["v1alpha1", "v1beta1"] {
        let export = format!(
            "{{ apiVersion: multicluster.x-k8s.io/{version}, kind: ServiceExport, metadata: {{ name: {version} }} }}"
        );
        let created = run(&server, "create --namespace default -f -", &export);
        assert_eq!(created, format!("serviceexport.multicluster.x-k8s.io/{version} created"));
    }
}

#[test]
fn what_is_wrong_is_said_as_by_any_cluster() {
    let server = Server::start();
    assert_eq!(
        fail(&server, "create -f -", SERVICE),
        "Error from server (NotFound): error when creating \"STDIN\": namespaces \"my-namespace\" not found"
    );
    run(&server, "create namespace my-namespace", "");
    let no_ports = SERVICE.replace("[{ name: http, port: 80, targetPort: 8080 }]", "[]");
    assert_eq!(
        fail(&server, "create -f -", &no_ports),
        "The Service \"my-service\" is invalid: spec.ports: Required value"
    );
    let misspelt = SERVICE.replace("targetPort", "targetPrt");
    let refusal = fail(&server, "create -f -", &misspelt);
    // Older clients check by the schema themselves, and name the field without its path.
    let names = ["unknown field \"spec.ports[0].targetPrt\"", "unknown field \"targetPrt\""];
    assert!(names.iter().any(|name| refusal.contains(name)), "{refusal}");
    assert_eq!(fail(&server, "get pods", ""), "error: the server doesn't have a resource type \"pods\"");
}

#[test]
fn kubectl_composes_the_kinds_that_it_knows() {
    let server = Server::start();
    let cases = [
        ("create configmap settings --from-literal=a=b", "get cm settings -o jsonpath={.data.a}", "b"),
        (
            "create secret generic login --from-literal=token=x",
            "get secret login -o jsonpath={.data.token}",
            "eA==",
        ),
        (
            "create service clusterip web --tcp=80:8080",
            "get svc web -o jsonpath={.spec.ports[0].targetPort}",
            "8080",
        ),
    ];
    for (create, read, expected) in cases {
        run(&server, create, "");
        assert_eq!(run(&server, read, ""), expected, "{create}");
    }
}

#[test]
fn a_watch_prints_changes_as_they_come() {
    let server = Server::start();
    run(&server, "create service clusterip web --tcp=80:8080", "");
    let (mut kubectl, mut lines) = server.kubectl_lines(&["get", "svc", "-w", "--no-headers"]);
    let mut next = || {
        let mut line = String::new();
        lines.read_line(&mut line).expect("a line");
        line.split_whitespace().next().map(str::to_owned)
    };
    assert_eq!(next().as_deref(), Some("web"));
    run(&server, "create service clusterip late --tcp=80:8080", "");
    assert_eq!(next().as_deref(), Some("late"));
    run(&server, "delete service web", "");
    assert_eq!(next().as_deref(), Some("web"));
    kubectl.kill().expect("end kubectl");
    kubectl.wait().expect("wait for kubectl");
}

#[test]
fn kinds_are_found_by_their_short_names() {
    let server = Server::start();
    for name in ["svc", "ns", "no", "cm", "ev", "fsvc", "clusters", "secrets", "endpointslices", "leases"] {
        run(&server, &format!("get {name}"), "");
    }
}
