//! Kubernetes' schemas, of many versions, as kubernetes-validate has them.

use std::{
    io::Write as _,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;
use serde_json::{Value, json};

use super::render::tools;

const SCRIPT: &str = include_str!("schemas.py");

/// As many versions as there were between the oldest that we want and the newest when the schemas were chosen.
const VERSIONS: usize = 12;

#[derive(Deserialize)]
struct Answer {
    versions: Vec<String>,
    complaints: Vec<String>,
}

/// What objects have that an API server with strict validation would refuse, by version from `oldest` on.
pub fn violations(oldest: &str, objects: &[Value], definitions: &[Value]) -> Result<Vec<String>> {
    let request = json!({ "oldest": oldest, "objects": objects, "definitions": definitions });
    let mut python = Command::new(tools()?.join("python"))
        .args(["-c", SCRIPT])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("start Python")?;
    let mut input = python.stdin.take().context("piped")?;
    input.write_all(request.to_string().as_bytes()).context("send the objects")?;
    drop(input);
    let output = python.wait_with_output().context("wait for Python")?;
    ensure!(output.status.success(), "the validator failed ({})", output.status);
    let answer: Answer = serde_json::from_slice(&output.stdout).context("read what the validator says")?;
    ensure!(answer.versions.len() >= VERSIONS, "too few versions: {}", answer.versions.join(", "));
    Ok(answer.complaints)
}
