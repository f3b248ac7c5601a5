//! The checks themselves: each of them sees what it is for.

use std::fs;

use anyhow::Result;
use federation_tests::lab::program;
use serde_json::Value;
use tempfile::TempDir;

use super::{
    OLDEST,
    judge::judge,
    render::{self, Kubectl, documents, kustomizations, render},
    schemas::violations,
    workspace,
};

/// As small as it can be and still have one of everything that is checked.
const SOUND: &str = "
apiVersion: v1
kind: ServiceAccount
metadata: { name: account, namespace: somewhere }
---
apiVersion: v1
kind: Secret
type: kubernetes.io/service-account-token
metadata:
  name: token
  namespace: somewhere
  annotations: { kubernetes.io/service-account.name: account }
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: { name: role }
rules:
- { apiGroups: [\"\"], resources: [services], verbs: [get] }
- { apiGroups: [federation.dev], resources: [clusters/status], verbs: [patch] }
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: { name: binding }
roleRef: { apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: role }
subjects:
- { kind: ServiceAccount, name: account, namespace: somewhere }
---
apiVersion: v1
kind: ConfigMap
metadata: { name: settings, namespace: somewhere }
data: { FEDERATION_NAME: my-federation }
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: { name: budget, namespace: somewhere }
spec: { minAvailable: 1, selector: { matchLabels: { app: agent } } }
---
apiVersion: apps/v1
kind: Deployment
metadata: { name: workload, namespace: somewhere }
spec:
  selector: { matchLabels: { app: agent } }
  template:
    metadata: { labels: { app: agent } }
    spec:
      serviceAccountName: account
      priorityClassName: system-node-critical
      containers:
      - name: agent
        image: federation-agent:VERSION
        args: [node]
        ports: [{ name: http, containerPort: 8080 }]
        envFrom: [{ configMapRef: { name: settings } }]
        env:
        - { name: FEDERATION_CLUSTER, valueFrom: { secretKeyRef: { name: told, key: cluster } } }
        livenessProbe: { exec: { command: [/federation-agent, status] } }
      volumes:
      - { name: credentials, secret: { secretName: told } }
---
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

const TOLD: &str = "kubectl create secret generic told --from-literal=cluster=europe-west1-d";

/// One thing of the sound objects, what becomes of it, and how the complaint begins.
const MISTAKES: [(&str, &str, &str); 18] = [
    (
        "resources: [services]",
        "resources: [servics]",
        "ClusterRole role: there is no \"servics\" in the group \"\"",
    ),
    ("resources: [services]", "resources: ['*']", "ClusterRole role: there is no \"*\" in the group \"\""),
    (
        "[clusters/status]",
        "[clusters/scale]",
        "ClusterRole role: there is no \"clusters/scale\" in the group \"federation.dev\"",
    ),
    ("verbs: [get]", "verbs: ['*']", "ClusterRole role: the verb \"*\" is none of"),
    (
        "kind: ClusterRole, name: role",
        "kind: ClusterRole, name: rule",
        "ClusterRoleBinding binding: there is no ClusterRole \"rule\"",
    ),
    (
        "name: account, namespace: somewhere }\n---\napiVersion: v1\nkind: ConfigMap",
        "name: account, namespace: elsewhere }\n---\napiVersion: v1\nkind: ConfigMap",
        "ClusterRoleBinding binding: there is no ServiceAccount \"account\"",
    ),
    (
        "service-account.name: account",
        "service-account.name: other",
        "Secret token: there is no ServiceAccount \"other\"",
    ),
    (
        "minAvailable: 1, selector: { matchLabels: { app: agent } }",
        "minAvailable: 1, selector: { matchLabels: { app: agnt } }",
        "PodDisruptionBudget budget: it selects no pod",
    ),
    (
        "serviceAccountName: account",
        "serviceAccountName: nobody",
        "Deployment workload: there is no ServiceAccount \"nobody\"",
    ),
    (
        "priorityClassName: system-node-critical",
        "priorityClassName: urgent",
        "Deployment workload: there is no PriorityClass \"urgent\"",
    ),
    (
        "image: federation-agent:VERSION",
        "image: federation-agent",
        "Deployment workload: the image is \"federation-agent\", not",
    ),
    (
        "{ name: http, containerPort: 8080 }",
        "{ containerPort: 8080 }",
        "Deployment workload: port 8080 has no name",
    ),
    (
        "args: [node]",
        "args: [nodes]",
        "Deployment workload: [\"/federation-agent\", \"nodes\"] cannot be started: error: unrecognized subcommand",
    ),
    (
        "[/federation-agent, status]",
        "[/federation-agent, health]",
        "Deployment workload: [\"/federation-agent\", \"health\"] cannot be started",
    ),
    (
        "[/federation-agent, status]",
        "[/bin/sh, status]",
        "Deployment workload: [\"/bin/sh\", \"status\"] starts something else",
    ),
    (
        "name: FEDERATION_CLUSTER",
        "name: FEDERATION_CLUSTR",
        "Deployment workload: agent does not read FEDERATION_CLUSTR",
    ),
    (
        "configMapRef: { name: settings }",
        "configMapRef: { name: setting }",
        "Deployment workload: there is no ConfigMap \"setting\"",
    ),
    ("FEDERATION_NAME:", "FEDERATION_NAM:", "ConfigMap settings: nobody reads FEDERATION_NAM"),
];

/// As they are for this version.
fn of_this_version(text: &str) -> String {
    text.replace("VERSION", env!("CARGO_PKG_VERSION"))
}

/// The objects of a text, rendered as those below `deploy` are.
fn rendered(text: &str) -> Result<Vec<Value>> {
    let folder = TempDir::new()?;
    fs::write(folder.path().join("kustomization.yaml"), "resources: [objects.yaml]")?;
    fs::write(folder.path().join("objects.yaml"), text)?;
    render(Kubectl::Current, folder.path())
}

/// The sound objects with one thing changed.
#[track_caller]
fn changed(from: &str, to: &str) -> String {
    assert_eq!(SOUND.matches(from).count(), 1, "{from:?} is what is changed");
    of_this_version(&SOUND.replace(from, to))
}

#[test]
fn a_field_of_the_wrong_name_or_type_is_refused_in_every_version() -> Result<()> {
    let definitions = render::definitions(&workspace().join("deploy/crds"))?;
    assert_eq!(violations(OLDEST, &rendered(&of_this_version(SOUND))?, &definitions)?, Vec::<String>::new());
    for (from, to, complaint, times) in [
        ("serviceAccountName:", "serviceAccount-Name:", "'serviceAccount-Name' was unexpected", 12),
        ("containerPort: 8080", "containerPort: http", "'http' is not of type 'integer'", 12),
        ("roleRef:", "role:", "'roleRef' is a required property", 12),
        ("policy/v1", "policy/v1alpha7", "Couldn't find schema for kind PodDisruptionBudget", 12),
        ("region: europe-west1\n", "region: [europe-west1]\n", "is not of type 'string'", 1),
        ("  networks:", "  netwrks:", "'netwrks' was unexpected", 1),
    ] {
        let found = violations(OLDEST, &rendered(&changed(from, to))?, &definitions)?;
        let about = found.iter().filter(|found| found.contains(complaint)).count();
        assert!(about >= times, "{from:?} became {to:?}: {found:#?}");
    }
    Ok(())
}

#[test]
fn what_refers_to_nothing_or_cannot_be_started_is_refused() -> Result<()> {
    let definitions = render::definitions(&workspace().join("deploy/crds"))?;
    let agent = program("federation-agent")?;
    let judged = |text: &str, told: &str| {
        let mut objects = documents(text)?;
        objects.extend(definitions.clone());
        judge(&objects, told, &agent)
    };
    assert_eq!(judged(&of_this_version(SOUND), TOLD)?, Vec::<String>::new());
    assert_eq!(
        judged(&of_this_version(SOUND), "")?,
        [
            "Deployment workload: there is no Secret \"told\", and nobody is told to make it",
            "Deployment workload: there is no Secret \"told\", and nobody is told to make it",
        ]
    );
    for (from, to, complaint) in MISTAKES {
        let found = judged(&changed(from, to), TOLD)?;
        let about = found.iter().filter(|found| found.starts_with(complaint)).count();
        assert!(about >= 1, "{from:?} became {to:?}: {found:#?}");
    }
    Ok(())
}

#[test]
fn a_folder_without_kustomizations_is_no_set_of_manifests() -> Result<()> {
    let folder = TempDir::new()?;
    let refusal = kustomizations(folder.path()).expect_err("there is none");
    assert!(refusal.to_string().starts_with("there is no kustomization.yaml below "), "{refusal}");
    Ok(())
}
