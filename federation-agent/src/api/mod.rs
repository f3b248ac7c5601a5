//! The Federation API's own kinds (group `federation.dev`, version `v1alpha1`), those of the field that it speaks with
//! member clusters ([`mcs`], [`about`]), and the names we put on objects.
//!
//! Shapes only: what is done with them lives in the controller, the node and the API server.

pub mod about;
mod cluster;
mod federated_service;
mod health_check;
pub mod marks;
pub mod mcs;
mod versions;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt as _;

pub use cluster::{Cluster, ClusterSpec, ClusterStatus, CredentialsRef, Reachability};
pub use federated_service::{
    ClusterWeight, FederatedService, FederatedServiceSpec, FederatedServiceStatus, ScopeKind, ShardState,
    ShardStatus, VipStatus,
};
pub use health_check::{Fault, HealthCheckProtocol, HealthCheckSpec};

/// The definitions of the kinds that a kube-apiserver does not have, in the order of our own server's table.
pub fn custom_resource_definitions() -> Vec<CustomResourceDefinition> {
    let ours = [Cluster::crd(), FederatedService::crd()];
    ours.into_iter().chain(mcs::definitions()).chain(about::definitions()).collect()
}

/// The same as YAML, for a kube-apiserver that shall serve them.
///
/// # Errors
/// None that a built binary could meet: the definitions are constants.
pub fn definitions() -> Result<String, serde_yaml_ng::Error> {
    let documents: Result<Vec<_>, _> =
        custom_resource_definitions().iter().map(serde_yaml_ng::to_string).collect();
    Ok(documents?.join("---\n"))
}

pub const GROUP: &str = "federation.dev";
pub const VERSION: &str = "v1alpha1";

/// The namespace that holds the credentials of clusters.
pub const SYSTEM_NAMESPACE: &str = "federation-system";

#[cfg(test)]
mod tests {
    #[test]
    fn the_definitions_in_deploy_are_those_of_the_types() {
        let deployed = include_str!("../../../deploy/crds.yaml");
        assert!(super::definitions().unwrap() == deployed, "run `federation-agent crds > deploy/crds.yaml`");
    }
}
