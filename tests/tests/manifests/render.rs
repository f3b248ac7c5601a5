//! Finding kustomizations, and rendering them as people do.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize as _;
use serde_json::Value;

#[derive(Clone, Copy)]
pub enum Kubectl {
    /// The one that is on the machine.
    Packaged,
    /// The one that setup has installed.
    Current,
}

/// The environment in which setup installs what checks manifests.
pub fn tools() -> Result<PathBuf> {
    let own = std::env::current_exe().context("find the running program")?;
    let target = own.ancestors().nth(3).context("target/<profile>/deps/<test>")?;
    let tools = target.join("tools/python/bin");
    ensure!(tools.is_dir(), "{} is missing: `cargo xtask setup` makes it", tools.display());
    Ok(tools)
}

/// Every folder below `root` that can be applied with `kubectl apply --kustomize`; at least one.
pub fn kustomizations(root: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).with_context(|| format!("list {}", folder.display()))? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.file_name().is_some_and(|name| name == "kustomization.yaml") {
                found.push(folder.clone());
            }
        }
    }
    ensure!(!found.is_empty(), "there is no kustomization.yaml below {}", root.display());
    found.sort();
    Ok(found)
}

/// The objects of a kustomization, in the order of their names.
pub fn render(kubectl: Kubectl, folder: &Path) -> Result<Vec<Value>> {
    let program = match kubectl {
        Kubectl::Packaged => PathBuf::from("kubectl"),
        Kubectl::Current => tools()?.join("kubectl"),
    };
    let output = Command::new(&program).arg("kustomize").arg(folder).output().context("start kubectl")?;
    ensure!(
        output.status.success(),
        "{} kustomize {}: {}",
        program.display(),
        folder.display(),
        String::from_utf8_lossy(&output.stderr)
    );
    let mut objects = documents(&String::from_utf8(output.stdout)?)?;
    ensure!(!objects.is_empty(), "{} renders nothing", folder.display());
    objects.sort_by_key(|object| {
        [&object["kind"], &object["metadata"]["namespace"], &object["metadata"]["name"]].map(Value::to_string)
    });
    Ok(objects)
}

/// The definitions of kinds in a folder.
pub fn definitions(folder: &Path) -> Result<Vec<Value>> {
    let mut definitions = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))? {
        let path = entry?.path();
        let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        let objects = documents(&text).with_context(|| format!("read {}", path.display()))?;
        definitions.extend(objects.into_iter().filter(|object| object["kind"] == "CustomResourceDefinition"));
    }
    ensure!(!definitions.is_empty(), "{} defines nothing", folder.display());
    Ok(definitions)
}

/// The documents of a YAML stream, empty ones left out.
pub fn documents(text: &str) -> Result<Vec<Value>> {
    let documents = serde_yaml_ng::Deserializer::from_str(text).map(Value::deserialize);
    let mut documents: Vec<Value> = documents.collect::<Result<_, _>>()?;
    documents.retain(|document| !document.is_null());
    Ok(documents)
}
