//! A pod template, as far as it is played here. A field that is not known is an error, and so is a value that would be
//! ignored.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;
use serde_json::Value;

/// What a workload makes pods from.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Template {
    pub metadata: Metadata,
    pub spec: PodSpec,
}

#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Metadata {
    pub labels: BTreeMap<String, String>,
    /// `kubectl rollout restart` leaves its mark here.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PodSpec {
    #[serde(default = "default_account")]
    pub service_account_name: String,
    #[serde(default = "yes")]
    pub automount_service_account_token: bool,
    #[serde(default = "yes")]
    enable_service_links: bool,
    #[serde(default)]
    pub host_network: bool,
    #[serde(default)]
    dns_policy: Option<String>,
    #[serde(default)]
    pub security_context: PodSecurity,
    #[serde(default)]
    pub init_containers: Vec<Container>,
    pub containers: Vec<Container>,
    #[serde(default)]
    pub volumes: Vec<Volume>,
    /// Read by schedulers, which the lab has none of: it places pods by itself.
    #[serde(default)]
    priority_class_name: Option<String>,
    #[serde(default)]
    affinity: Option<Value>,
    #[serde(default)]
    tolerations: Option<Value>,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PodSecurity {
    #[serde(default)]
    pub run_as_non_root: bool,
    #[serde(default)]
    pub run_as_user: u32,
    #[serde(default)]
    pub run_as_group: u32,
    #[serde(default)]
    seccomp_profile: Option<SeccompProfile>,
}

/// The runtime's own profile is not applied here.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
struct SeccompProfile {
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Container {
    pub name: String,
    pub image: String,
    #[serde(default)]
    pub command: Vec<String>,
    #[serde(default)]
    pub args: Vec<String>,
    #[serde(default)]
    pub env_from: Vec<EnvFrom>,
    #[serde(default)]
    pub env: Vec<Env>,
    pub security_context: Security,
    #[serde(default)]
    pub volume_mounts: Vec<Mount>,
    #[serde(default)]
    pub readiness_probe: Option<Probe>,
    #[serde(default)]
    pub liveness_probe: Option<Probe>,
    /// Requests are the scheduler's; limits would be enforced, and are not known here.
    #[serde(default)]
    resources: Option<Resources>,
}

#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
struct Resources {
    requests: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EnvFrom {
    pub config_map_ref: Named,
}

#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Named {
    pub name: String,
}

#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Env {
    pub name: String,
    #[serde(default)]
    pub value: Option<String>,
    #[serde(default)]
    pub value_from: Option<ValueFrom>,
}

#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum ValueFrom {
    FieldRef(FieldRef),
    SecretKeyRef(KeyRef),
}

#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FieldRef {
    pub field_path: String,
}

#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct KeyRef {
    pub name: String,
    pub key: String,
}

#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Security {
    allow_privilege_escalation: bool,
    pub read_only_root_filesystem: bool,
    pub capabilities: Capabilities,
}

#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Capabilities {
    drop: Vec<String>,
    #[serde(default)]
    pub add: Vec<String>,
}

#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Mount {
    pub name: String,
    #[serde(rename = "mountPath")]
    pub path: String,
    #[serde(default)]
    pub read_only: bool,
}

#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Probe {
    pub exec: Exec,
    #[serde(default = "ten")]
    pub period_seconds: u64,
    #[serde(default = "one")]
    pub timeout_seconds: u64,
    #[serde(default = "three")]
    pub failure_threshold: u32,
}

#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Exec {
    pub command: Vec<String>,
}

#[derive(Clone, Debug, Deserialize, PartialEq)]
pub struct Volume {
    pub name: String,
    #[serde(flatten)]
    pub source: Source,
}

#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Source {
    HostPath(HostPath),
    Secret(SecretVolume),
}

#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct HostPath {
    pub path: String,
    #[serde(rename = "type")]
    pub kind: HostPathType,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
pub enum HostPathType {
    Directory,
    DirectoryOrCreate,
}

#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SecretVolume {
    pub secret_name: String,
    pub items: Vec<Item>,
}

#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Item {
    pub key: String,
    pub path: String,
}

impl Template {
    /// The template of a workload.
    ///
    /// # Errors
    /// It has something that is not played here.
    pub fn of(workload: &Value) -> Result<Self> {
        let template = Self::deserialize(&workload["spec"]["template"])
            .context("this pod template cannot be played in the lab")?;
        template.validate()?;
        Ok(template)
    }

    /// The one container that pods have here, beside init containers.
    pub fn container(&self) -> Result<&Container> {
        let [container] = self.spec.containers.as_slice() else {
            bail!("the lab's pods have one container each")
        };
        Ok(container)
    }

    fn validate(&self) -> Result<()> {
        let spec = &self.spec;
        ensure!(!spec.enable_service_links, "enableServiceLinks: the lab sets no variables for Services");
        if spec.host_network {
            ensure!(
                spec.dns_policy.as_deref() == Some("Default"),
                "dnsPolicy: a pod in the node's network gets the node's"
            );
        }
        let profile = spec.security_context.seccomp_profile.as_ref().map(|profile| profile.kind.as_str());
        ensure!(profile == Some("RuntimeDefault"), "seccompProfile: {profile:?} is not RuntimeDefault");
        if spec.security_context.run_as_non_root {
            ensure!(spec.security_context.run_as_user != 0, "runAsNonRoot: but it runs as root");
        }
        for container in spec.init_containers.iter().chain(&spec.containers) {
            let security = &container.security_context;
            ensure!(
                !security.allow_privilege_escalation,
                "allowPrivilegeEscalation: no process of the lab's containers may gain privileges"
            );
            ensure!(
                security.capabilities.drop == ["ALL"],
                "capabilities: what a runtime leaves to containers is not known here; drop ALL"
            );
            for mount in &container.volume_mounts {
                spec.volume(&mount.name)?;
            }
            for env in &container.env {
                if env.value.is_some() == env.value_from.is_some() {
                    bail!("env {}: either a value or a source of it", env.name);
                }
            }
        }
        Ok(())
    }
}

impl PodSpec {
    pub fn volume(&self, name: &str) -> Result<&Volume> {
        let mut volumes = self.volumes.iter();
        volumes.find(|volume| volume.name == name).with_context(|| format!("there is no volume {name}"))
    }
}

fn default_account() -> String {
    "default".to_owned()
}

fn yes() -> bool {
    true
}

fn one() -> u64 {
    1
}

fn three() -> u32 {
    3
}

fn ten() -> u64 {
    10
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn workload() -> Value {
        json!({ "spec": { "template": {
            "metadata": { "labels": { "app": "a" } },
            "spec": {
                "enableServiceLinks": false,
                "securityContext": { "seccompProfile": { "type": "RuntimeDefault" } },
                "containers": [{
                    "name": "a", "image": "a",
                    "securityContext": {
                        "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
                        "capabilities": { "drop": ["ALL"] },
                    },
                }],
            },
        } } })
    }

    #[test]
    fn a_template_with_a_field_that_is_not_played_is_refused() {
        assert!(Template::of(&workload()).is_ok());
        for (pointer, field, value) in [
            ("/spec/template/spec", "hostPID", json!(true)),
            ("/spec/template/spec", "volumes", json!([{ "name": "v", "nfs": {} }])),
            ("/spec/template/spec/securityContext", "fsGroup", json!(1)),
            ("/spec/template/spec/containers/0", "ports", json!([])),
            ("/spec/template/spec/containers/0/securityContext", "privileged", json!(true)),
            ("/spec/template/spec/containers/0/securityContext", "capabilities", json!({ "drop": [] })),
            ("/spec/template/spec/containers/0", "volumeMounts", json!([{ "name": "v", "mountPath": "/v" }])),
        ] {
            let mut workload = workload();
            workload.pointer_mut(pointer).unwrap()[field] = value;
            assert!(Template::of(&workload).is_err(), "{field}");
        }
    }
}
