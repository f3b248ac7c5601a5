//! The table of kinds: everything that the server knows about one kind stands in its row. Storage, handlers and
//! discovery are generic over it.

mod admission;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Event, Namespace, Node, Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde_json::Value;

pub use admission::{Admission, Admit, Refusal, admit};

use super::table::{self, Columns};
use super::validate::names;
use crate::api::about::{self, ClusterProperty};
use crate::api::mcs::{self, ServiceExport, ServiceImport};
use crate::api::{Cluster, FederatedService};

/// One row of the table.
#[derive(Debug)]
pub struct Kind {
    /// Empty for the core group.
    pub group: &'static str,
    /// The version that is stored.
    pub version: &'static str,
    /// Versions that are served too, in the order of preference: the same objects under another `apiVersion`.
    pub also_served: &'static [&'static str],
    pub name: &'static str,
    pub plural: &'static str,
    pub singular: &'static str,
    pub short_names: &'static [&'static str],
    /// Names that stand for several kinds at once (`kubectl get multicluster`).
    pub categories: &'static [&'static str],
    pub namespaced: bool,
    /// Has a `/status` subresource: writes to one half leave the other half alone.
    pub status: Status,
    /// `metadata.generation` counts the changes of what is not status.
    pub generation: bool,
    pub update: Update,
    pub name_rule: names::Rule,
    /// Fields that a field selector may name, beside `metadata.name` and `metadata.namespace`.
    pub selectable: &'static [&'static str],
    pub admit: Admit,
    pub schema: fn(&mut SchemaGenerator) -> Schema,
    pub columns: fn() -> Columns,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// No status subresource.
    None,
    /// Written through `/status` alone.
    Subresource,
    /// As `Subresource`, but whoever creates the object may set it (a kubelet registers its Node whole).
    SetOnCreate,
}

/// What a PUT may leave out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Update {
    /// Nothing: the object must exist, and the version that is replaced must be named.
    Conditional,
    /// The version (kinds older than that rule).
    Unconditional,
    /// The version, and the object may be new.
    OrCreate,
    /// The object may be new; where it exists, the version must be named.
    ConditionalOrCreate,
}

impl Update {
    pub fn may_omit_version(self) -> bool {
        matches!(self, Self::Unconditional | Self::OrCreate)
    }

    pub fn may_create(self) -> bool {
        matches!(self, Self::OrCreate | Self::ConditionalOrCreate)
    }
}

impl Kind {
    /// Every version that is served, the preferred one first.
    pub fn versions(&self) -> impl Iterator<Item = &'static str> + use<> {
        std::iter::once(self.version).chain(self.also_served.iter().copied())
    }

    /// The `apiVersion` of what is stored.
    pub fn api_version(&self) -> String {
        self.api_version_of(self.version)
    }

    pub fn api_version_of(&self, version: &str) -> String {
        if self.group.is_empty() { version.to_owned() } else { format!("{}/{version}", self.group) }
    }

    /// The plural with its group, as messages and the store name it: `services`, `leases.coordination.k8s.io`.
    pub fn qualified(&self) -> String {
        if self.group.is_empty() { self.plural.to_owned() } else { format!("{}.{}", self.plural, self.group) }
    }

    /// The resource's path below the server's root, without namespace and name.
    pub fn root(&self, version: &str) -> String {
        let prefix = if self.group.is_empty() { "api" } else { "apis" };
        format!("/{prefix}/{}", self.api_version_of(version))
    }

    pub fn is(&self, other: &Self) -> bool {
        self.group == other.group && self.name == other.name
    }

    /// Known by a definition, and not a kind of Kubernetes itself.
    pub fn is_custom(&self) -> bool {
        [crate::api::GROUP, mcs::GROUP, about::GROUP].contains(&self.group)
    }

    pub fn has_status(&self) -> bool {
        self.status != Status::None
    }
}

/// The kind that is served at `group`, `version` and `plural`, and that version.
pub fn find(group: &str, version: &str, plural: &str) -> Option<(&'static Kind, &'static str)> {
    served().find(|(kind, served)| kind.group == group && *served == version && kind.plural == plural)
}

/// Every kind in each of its versions, in the order of the table.
pub fn served() -> impl Iterator<Item = (&'static Kind, &'static str)> {
    KINDS.into_iter().flat_map(|kind| kind.versions().map(move |version| (kind, version)))
}

/// The kind that the store calls `qualified`.
pub fn by_qualified_name(qualified: &str) -> Option<&'static Kind> {
    KINDS.into_iter().find(|kind| kind.qualified() == qualified)
}

const BASE: Kind = Kind {
    group: "",
    version: "v1",
    also_served: &[],
    name: "",
    plural: "",
    singular: "",
    short_names: &[],
    categories: &[],
    namespaced: true,
    status: Status::None,
    generation: false,
    update: Update::Unconditional,
    name_rule: names::dns_subdomain,
    selectable: &[],
    admit: admit::<ConfigMap>,
    schema: SchemaGenerator::subschema_for::<ConfigMap>,
    columns: table::name_and_age,
};

pub static NAMESPACE: Kind = Kind {
    name: "Namespace",
    plural: "namespaces",
    singular: "namespace",
    short_names: &["ns"],
    namespaced: false,
    status: Status::Subresource,
    name_rule: names::dns_label,
    selectable: &["status.phase"],
    admit: admit::<Namespace>,
    schema: SchemaGenerator::subschema_for::<Namespace>,
    columns: table::namespaces,
    ..BASE
};

pub static SERVICE: Kind = Kind {
    name: "Service",
    plural: "services",
    singular: "service",
    short_names: &["svc"],
    categories: &["all"],
    status: Status::Subresource,
    name_rule: names::dns_1035_label,
    selectable: &["spec.clusterIP", "spec.type"],
    admit: admit::<Service>,
    schema: SchemaGenerator::subschema_for::<Service>,
    columns: table::services,
    ..BASE
};

pub static SECRET: Kind = Kind {
    name: "Secret",
    plural: "secrets",
    singular: "secret",
    selectable: &["type"],
    admit: admit::<Secret>,
    schema: SchemaGenerator::subschema_for::<Secret>,
    columns: table::secrets,
    ..BASE
};

pub static CONFIG_MAP: Kind = Kind {
    name: "ConfigMap",
    plural: "configmaps",
    singular: "configmap",
    short_names: &["cm"],
    columns: table::config_maps,
    ..BASE
};

pub static EVENT: Kind = Kind {
    name: "Event",
    plural: "events",
    singular: "event",
    short_names: &["ev"],
    update: Update::OrCreate,
    selectable: &[
        "involvedObject.kind",
        "involvedObject.namespace",
        "involvedObject.name",
        "involvedObject.uid",
        "involvedObject.apiVersion",
        "involvedObject.resourceVersion",
        "involvedObject.fieldPath",
        "reason",
        "reportingComponent",
        "type",
    ],
    admit: admit::<Event>,
    schema: SchemaGenerator::subschema_for::<Event>,
    columns: table::events,
    ..BASE
};

pub static NODE: Kind = Kind {
    name: "Node",
    plural: "nodes",
    singular: "node",
    short_names: &["no"],
    namespaced: false,
    status: Status::SetOnCreate,
    selectable: &["spec.unschedulable"],
    admit: admit::<Node>,
    schema: SchemaGenerator::subschema_for::<Node>,
    columns: table::nodes,
    ..BASE
};

pub static ENDPOINT_SLICE: Kind = Kind {
    group: "discovery.k8s.io",
    name: "EndpointSlice",
    plural: "endpointslices",
    singular: "endpointslice",
    generation: true,
    admit: admit::<EndpointSlice>,
    schema: SchemaGenerator::subschema_for::<EndpointSlice>,
    columns: table::endpoint_slices,
    ..BASE
};

pub static LEASE: Kind = Kind {
    group: "coordination.k8s.io",
    name: "Lease",
    plural: "leases",
    singular: "lease",
    update: Update::ConditionalOrCreate,
    admit: admit::<Lease>,
    schema: SchemaGenerator::subschema_for::<Lease>,
    columns: table::leases,
    ..BASE
};

pub static CLUSTER: Kind = Kind {
    group: crate::api::GROUP,
    version: crate::api::VERSION,
    name: "Cluster",
    plural: "clusters",
    singular: "cluster",
    namespaced: false,
    status: Status::Subresource,
    generation: true,
    update: Update::Conditional,
    admit: admit::<Cluster>,
    schema: SchemaGenerator::subschema_for::<Cluster>,
    columns: table::custom::<Cluster>,
    ..BASE
};

pub static FEDERATED_SERVICE: Kind = Kind {
    group: crate::api::GROUP,
    version: crate::api::VERSION,
    name: "FederatedService",
    plural: "federatedservices",
    singular: "federatedservice",
    short_names: &["fsvc"],
    status: Status::Subresource,
    generation: true,
    update: Update::Conditional,
    admit: admit::<FederatedService>,
    schema: SchemaGenerator::subschema_for::<FederatedService>,
    columns: table::custom::<FederatedService>,
    ..BASE
};

pub static SERVICE_EXPORT: Kind = Kind {
    group: mcs::GROUP,
    version: mcs::VERSION,
    also_served: &[mcs::OLDER_VERSION],
    name: "ServiceExport",
    plural: "serviceexports",
    singular: "serviceexport",
    short_names: &["svcex", "svcexport"],
    categories: &[mcs::CATEGORY],
    status: Status::Subresource,
    generation: true,
    update: Update::Conditional,
    admit: admit::<ServiceExport>,
    schema: without_required_spec::<ServiceExport>,
    columns: table::custom::<ServiceExport>,
    ..BASE
};

pub static SERVICE_IMPORT: Kind = Kind {
    group: mcs::GROUP,
    version: mcs::VERSION,
    also_served: &[mcs::OLDER_VERSION],
    name: "ServiceImport",
    plural: "serviceimports",
    singular: "serviceimport",
    short_names: &["svcim", "svcimport"],
    categories: &[mcs::CATEGORY],
    status: Status::Subresource,
    generation: true,
    update: Update::Conditional,
    admit: admit::<ServiceImport>,
    schema: SchemaGenerator::subschema_for::<ServiceImport>,
    columns: table::custom::<ServiceImport>,
    ..BASE
};

pub static CLUSTER_PROPERTY: Kind = Kind {
    group: about::GROUP,
    version: about::VERSION,
    also_served: &[about::OLDER_VERSION],
    name: "ClusterProperty",
    plural: "clusterproperties",
    singular: "clusterproperty",
    namespaced: false,
    status: Status::Subresource,
    generation: true,
    update: Update::Conditional,
    admit: admit::<ClusterProperty>,
    schema: SchemaGenerator::subschema_for::<ClusterProperty>,
    columns: table::custom::<ClusterProperty>,
    ..BASE
};

pub static KINDS: [&Kind; 13] = [
    &NAMESPACE,
    &SERVICE,
    &SECRET,
    &CONFIG_MAP,
    &EVENT,
    &NODE,
    &ENDPOINT_SLICE,
    &LEASE,
    &CLUSTER,
    &FEDERATED_SERVICE,
    &SERVICE_EXPORT,
    &SERVICE_IMPORT,
    &CLUSTER_PROPERTY,
];

/// The schema of a kind whose `spec` may be left out, as its definition has it too.
fn without_required_spec<K: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    let reference = generator.subschema_for::<K>();
    if let Some(schema) =
        generator.definitions_mut().get_mut(&*K::schema_name()).and_then(Value::as_object_mut)
        && let Some(Value::Array(names)) = schema.get_mut("required")
    {
        names.retain(|name| name != "spec");
        if names.is_empty() {
            schema.remove("required");
        }
    }
    reference
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_rows_agree_with_the_definitions_that_a_real_api_server_would_be_given() {
        let custom: Vec<_> = KINDS.into_iter().filter(|kind| kind.is_custom()).collect();
        let definitions = crate::api::custom_resource_definitions();
        assert_eq!(custom.len(), definitions.len());
        for (row, crd) in custom.into_iter().zip(definitions) {
            let versions: Vec<_> = crd.spec.versions.iter().map(|version| version.name.as_str()).collect();
            assert_eq!(row.versions().collect::<Vec<_>>(), versions);
            assert_eq!(row.has_status(), crd.spec.versions[0].subresources.is_some());
            let names = crd.spec.names;
            assert_eq!(row.group, crd.spec.group);
            assert_eq!(row.name, names.kind);
            assert_eq!(row.plural, names.plural);
            assert_eq!(Some(row.singular), names.singular.as_deref());
            assert_eq!(row.short_names, names.short_names.unwrap_or_default());
            assert_eq!(row.categories, names.categories.unwrap_or_default());
            assert_eq!(row.namespaced, crd.spec.scope == "Namespaced");
        }
    }
}
