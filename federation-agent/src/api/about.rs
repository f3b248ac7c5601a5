//! The About API (KEP-2149, group `about.k8s.io`): what a cluster says of itself, its name in the clusterset first of all.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{CustomResource, CustomResourceExt as _};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::versions::also_served_as;

pub const GROUP: &str = "about.k8s.io";
pub const VERSION: &str = "v1beta1";
pub const OLDER_VERSION: &str = "v1alpha1";

/// The property with the cluster's identifier, unique in its clusterset.
pub const CLUSTER_ID: &str = "cluster.clusterset.k8s.io";
/// The property with the name of the clusterset that the cluster is a member of.
pub const CLUSTERSET: &str = "clusterset.k8s.io";

/// One property of the cluster; its name says which.
#[derive(CustomResource, Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "about.k8s.io",
    version = "v1beta1",
    kind = "ClusterProperty",
    plural = "clusterproperties",
    status = "ClusterPropertyStatus",
    printcolumn = r#"{"name":"value","type":"string","jsonPath":".spec.value"}"#,
    printcolumn = r#"{"name":"age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
pub struct ClusterPropertySpec {
    /// At least one character, and 128 000 at most.
    #[schemars(length(min = 1, max = 128_000))]
    pub value: String,
}

/// Nothing so far.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ClusterPropertyStatus {}

pub(super) fn definitions() -> [CustomResourceDefinition; 1] {
    [also_served_as(ClusterProperty::crd(), OLDER_VERSION)]
}
