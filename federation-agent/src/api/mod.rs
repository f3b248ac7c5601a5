//! The Federation API's own kinds (group `federation.dev`, version `v1alpha1`), those of the field that it speaks with
//! member clusters ([`mcs`], [`about`]), and the names we put on objects.
//!
//! Shapes only: what is done with them lives in the controller, the node and the API server.

pub mod about;
mod cluster;
mod definitions;
mod federated_service;
mod health_check;
pub mod marks;
pub mod mcs;
mod versions;

pub use cluster::{Cluster, ClusterSpec, ClusterStatus, CredentialsRef, Reachability};
pub use definitions::{Definition, custom_resource_definitions, definitions};
pub use federated_service::{
    ClusterWeight, FederatedService, FederatedServiceSpec, FederatedServiceStatus, IngressStatus, ScopeKind,
    ShardState, ShardStatus, VipStatus,
};
pub use health_check::{Fault, HealthCheckProtocol, HealthCheckSpec};

pub const GROUP: &str = "federation.dev";
pub const VERSION: &str = "v1alpha1";

/// The namespace that holds the credentials of clusters.
pub const SYSTEM_NAMESPACE: &str = "federation-system";
