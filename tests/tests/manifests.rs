//! What a real cluster applies: every kustomization below `deploy`, rendered by real `kubectl`, held against Kubernetes'
//! own schemas, and against each other where schemas do not look.

#[path = "manifests/judge.rs"]
mod judge;
#[path = "manifests/refusals.rs"]
mod refusals;
#[path = "manifests/render.rs"]
mod render;
#[path = "manifests/rights.rs"]
mod rights;
#[path = "manifests/schemas.rs"]
mod schemas;
#[path = "manifests/workloads.rs"]
mod workloads;

use std::{fs, path::Path};

use anyhow::{Result, bail};
use federation_tests::lab::program;
use serde_json::json;

use judge::judge;
use render::{Kubectl, kustomizations, render};
use schemas::violations;

/// The oldest Kubernetes that the manifests are for.
const OLDEST: &str = "1.26";

fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests is a folder of the workspace")
}

#[test]
fn every_object_is_valid_in_every_version_of_kubernetes() -> Result<()> {
    let deploy = workspace().join("deploy");
    let definitions = render::definitions(&deploy.join("crds"))?;
    for folder in kustomizations(&deploy)? {
        let objects = render(Kubectl::Current, &folder)?;
        let found = violations(OLDEST, &objects, &definitions)?;
        assert!(found.is_empty(), "{}:\n{}", folder.display(), found.join("\n"));
    }
    Ok(())
}

#[test]
fn an_older_kubectl_renders_the_same_as_a_current_one() -> Result<()> {
    for folder in kustomizations(&workspace().join("deploy"))? {
        let [packaged, current] =
            [Kubectl::Packaged, Kubectl::Current].map(|kubectl| render(kubectl, &folder));
        assert_eq!(packaged?, current?, "{}", folder.display());
    }
    Ok(())
}

#[test]
fn what_objects_refer_to_is_there_and_what_they_start_can_be_started() -> Result<()> {
    let deploy = workspace().join("deploy");
    let mut objects = Vec::new();
    for folder in kustomizations(&deploy)? {
        objects.extend(render(Kubectl::Current, &folder)?);
    }
    objects.extend(render::definitions(&deploy.join("crds"))?);
    // What people make themselves, they are told to.
    let install = workspace().join("docs/install.md");
    let told = fs::read_to_string(&install)?;
    let found = judge(&objects, &told, &program("federation-agent")?)?;
    assert!(found.is_empty(), "{}", found.join("\n"));
    Ok(())
}

/// What users count on, and neither a schema nor another object asks for.
#[test]
fn an_upgrade_a_drain_and_a_taint_find_what_they_need() -> Result<()> {
    for (folder, kind, field, expected) in [
        ("host", "Deployment", "/spec/replicas", json!(2)),
        ("host", "PodDisruptionBudget", "/spec/minAvailable", json!(1)),
        ("host", "NetworkPolicy", "/spec/policyTypes", json!(["Ingress"])),
        ("member", "DaemonSet", "/spec/updateStrategy/type", json!("RollingUpdate")),
        ("member", "DaemonSet", "/spec/template/spec/tolerations", json!([{ "operator": "Exists" }])),
        ("member", "DaemonSet", "/spec/template/spec/priorityClassName", json!("system-node-critical")),
        ("member", "DaemonSet", "/spec/template/spec/initContainers/0/args", json!(["check"])),
        ("member", "DaemonSet", "/spec/template/spec/containers/0/args", json!(["node"])),
        (
            "member",
            "DaemonSet",
            "/spec/template/spec/containers/0/readinessProbe/exec/command",
            json!(["/federation-agent", "probe", "ready"]),
        ),
        (
            "member",
            "DaemonSet",
            "/spec/template/spec/containers/0/livenessProbe/exec/command",
            json!(["/federation-agent", "probe", "live"]),
        ),
    ] {
        let objects = render(Kubectl::Current, &workspace().join("deploy").join(folder))?;
        let of_kind: Vec<_> = objects.iter().filter(|object| object["kind"] == kind).collect();
        let [object] = of_kind[..] else { bail!("{folder} has {} of {kind}", of_kind.len()) };
        assert_eq!(object.pointer(field), Some(&expected), "{folder}: {kind} {field}");
    }
    Ok(())
}
