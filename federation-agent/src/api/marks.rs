//! Labels, annotations, finalizers and field managers that we write or obey.

/// Label on every object that we made in a member cluster; its value is [`MANAGED_BY`].
pub const MANAGED_BY_LABEL: &str = "app.kubernetes.io/managed-by";
pub const MANAGED_BY: &str = "federation-agent";

/// Label on a shard: the federation that it belongs to.
pub const FEDERATION_LABEL: &str = "federation.dev/federation";

/// Label on a mirrored `EndpointSlice`: the cluster that announced it.
pub const CLUSTER_LABEL: &str = "federation.dev/cluster";

/// Annotation on a member cluster's own Service: `"true"` lets the federation take it over.
pub const ADOPT_ANNOTATION: &str = "federation.dev/adopt";

/// Annotation on a federated Service: `"true"` leaves its shards in place when it is deleted.
pub const ORPHAN_ANNOTATION: &str = "federation.dev/orphan";

/// Label on a federated Service that the controller made of what member clusters export: `"true"`.
pub const EXPORTED_LABEL: &str = "federation.dev/exported";

/// Annotation on a federated Service: what each cluster exports under its name, as JSON. Written by the controller alone.
pub const EXPORTS_ANNOTATION: &str = "federation.dev/exports";

/// Annotation on a `Cluster`: the namespaces that it may export from, with commas between them; all where it is missing.
pub const EXPORT_NAMESPACES_ANNOTATION: &str = "federation.dev/export-namespaces";

/// Field manager of the record of exports on a Service that a user made.
pub const EXPORTS_MANAGER: &str = "federation-agent-exports";

/// Annotation on a Cluster: `"true"` has its shards removed, so that it can be deleted and leave nothing behind.
pub const LEAVING_ANNOTATION: &str = "federation.dev/leaving";

/// Condition of a Cluster that is leaving: nothing of ours is left in it.
pub const DRAINED_CONDITION: &str = "Drained";

/// Finalizer on a federated Service that has shards.
pub const SHARDS_FINALIZER: &str = "federation.dev/shards";

/// Field manager of the controller's server-side applies.
pub const FIELD_MANAGER: &str = "federation-agent";
