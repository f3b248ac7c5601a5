//! `Cluster`: the registration of a member.

use ipnet::IpNet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// A member cluster: where its API is, how to log in, and where it stands.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "federation.dev",
    version = "v1alpha1",
    kind = "Cluster",
    doc = "The registration of a member cluster of a federation",
    status = "ClusterStatus",
    printcolumn = r#"{"name":"Region","type":"string","jsonPath":".spec.region"}"#,
    printcolumn = r#"{"name":"Zones","type":"string","jsonPath":".spec.zones"}"#,
    printcolumn = r#"{"name":"Accepted","type":"string","jsonPath":".status.conditions[?(@.type==\"Accepted\")].status"}"#,
    printcolumn = r#"{"name":"Healthy","type":"string","jsonPath":".status.conditions[?(@.type==\"ControlPlaneHealthy\")].status"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct ClusterSpec {
    /// The cluster's API endpoint, an `https` URL.
    #[x_kube(validation = Rule::new("isURL(self) && url(self).getScheme() == 'https' && url(self).getHost() != ''")
        .message("must be an https URL, like https://203.0.113.7:6443"))]
    pub server: String,
    /// Secret in `federation-system` with the credentials.
    pub credentials_ref: CredentialsRef,
    #[serde(default)]
    pub provider: String,
    #[schemars(length(min = 1))]
    pub region: String,
    /// Zones that the cluster spans; the first is where it stands when an endpoint names none.
    #[schemars(length(min = 1))]
    pub zones: Vec<String>,
    #[serde(default)]
    pub reachability: Reachability,
    /// Address ranges that its shards may announce; an endpoint outside them is refused.
    #[schemars(schema_with = "networks")]
    pub networks: Vec<IpNet>,
}

/// In a form that an API server can check.
fn networks(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "array", "minItems": 1, "items": { "type": "string", "format": "cidr" } })
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CredentialsRef {
    /// Name of a Secret whose data has either `kubeconfig`, or `token` and `ca.crt`.
    #[schemars(length(min = 1))]
    pub name: String,
}

/// How other clusters reach this cluster's endpoints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Reachability {
    #[default]
    Pod,
    NodePort,
    LoadBalancer,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClusterStatus {
    /// `Accepted`: the registration and its credentials are usable. `ControlPlaneHealthy`: its API answers.
    /// `EndpointsAdmitted`: it announces no addresses but its own. `ServiceRangeApart`, where it
    /// is not: the cluster gives its Services virtual IPs of the federation. `Drained`, where it is leaving: nothing of the
    /// federation is left in it.
    #[serde(default)]
    pub conditions: Vec<Condition>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// What the cluster calls itself: its `ClusterProperty` `cluster.clusterset.k8s.io`.
    #[serde(rename = "clusterID", skip_serializing_if = "Option::is_none")]
    pub cluster_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub services: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoints: Option<u32>,
    /// How long its API took to answer when it was last contacted.
    #[serde(rename = "apiLatencyMilliseconds", skip_serializing_if = "Option::is_none")]
    pub api_latency_milliseconds: Option<u32>,
    /// When its API last answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_contact_time: Option<Time>,
}
