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

use anyhow::Result;
use federation_tests::lab::program;

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
