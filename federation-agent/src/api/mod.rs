//! The Federation API's own kinds (group `federation.dev`, version `v1alpha1`) and the names we put on objects.
//!
//! Shapes only: what is done with them lives in the controller, the node and the API server.

mod cluster;
mod federated_service;
mod health_check;
pub mod marks;

use kube::CustomResourceExt as _;

pub use cluster::{Cluster, ClusterSpec, ClusterStatus, CredentialsRef, Reachability};
pub use federated_service::{
    ClusterWeight, FederatedService, FederatedServiceSpec, FederatedServiceStatus, IngressStatus, ScopeKind,
    ShardState, ShardStatus, VipStatus,
};
pub use health_check::{Fault, HealthCheckProtocol, HealthCheckSpec};

/// The definitions of our kinds as YAML, for a kube-apiserver that shall serve them.
///
/// # Errors
/// None that a built binary could meet: the definitions are constants.
pub fn definitions() -> Result<String, serde_yaml_ng::Error> {
    let documents: Result<Vec<_>, _> =
        [Cluster::crd(), FederatedService::crd()].iter().map(serde_yaml_ng::to_string).collect();
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
