//! `FederatedService`: what a plain Service cannot say, and where the federation reports.

use std::net::IpAddr;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::HealthCheckSpec;

/// Stands beside the Service of the same name; the controller makes it where the user did not.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "federation.dev",
    version = "v1alpha1",
    kind = "FederatedService",
    doc = "How the Service of the same name is federated, and how that goes",
    namespaced,
    shortname = "fsvc",
    status = "FederatedServiceStatus",
    derive = "PartialEq",
    printcolumn = r#"{"name":"VIP","type":"string","jsonPath":".status.vips[?(@.scope==\"Nearest\")].ips[0]"}"#,
    printcolumn = r#"{"name":"Shards","type":"string","jsonPath":".status.shardSummary"}"#,
    printcolumn = r#"{"name":"Endpoints","type":"string","jsonPath":".status.endpointSummary"}"#,
    printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].status"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct FederatedServiceSpec {
    /// Clusters to run in; every cluster when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster_selector: Option<LabelSelector>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub weights: Vec<ClusterWeight>,
    /// Per cent, 100 or more; 140 when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 100))]
    pub overprovisioning_percent: Option<u16>,
    /// How nodes find out whether endpoints answer; a TCP connection every 250 ms when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health_check: Option<HealthCheckSpec>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ClusterWeight {
    #[schemars(length(min = 1))]
    pub cluster: String,
    /// 0 to 1000; 0 means only when nothing else is left.
    #[schemars(range(max = 1000))]
    pub weight: u16,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FederatedServiceStatus {
    #[serde(default)]
    pub vips: Vec<VipStatus>,
    #[serde(default)]
    pub shards: Vec<ShardStatus>,
    /// Healthy and all shards, as `2/3`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shard_summary: Option<String>,
    /// Ready and all endpoints, as `5/6`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint_summary: Option<String>,
    /// `Accepted`, `Propagated`, `Ready`.
    #[serde(default)]
    pub conditions: Vec<Condition>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum ScopeKind {
    Nearest,
    Global,
    Region,
    Zone,
}

/// The virtual IPs of one scope of the service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct VipStatus {
    pub scope: ScopeKind,
    /// The region or the zone, where the scope is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location: Option<String>,
    /// One an IP family.
    #[schemars(with = "Vec<String>")]
    pub ips: Vec<IpAddr>,
    /// The DNS name that answers with them.
    pub name: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ShardStatus {
    pub cluster: String,
    pub region: String,
    pub zone: String,
    pub state: ShardState,
    pub ready_endpoints: u32,
    pub endpoints: u32,
    /// Where clients from outside meet it: the load balancers that its cluster made for it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ingress: Vec<IngressStatus>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// One load balancer, by its address or by its name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct IngressStatus {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub ip: Option<IpAddr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ShardState {
    Healthy,
    Unhealthy,
    Unknown,
}
