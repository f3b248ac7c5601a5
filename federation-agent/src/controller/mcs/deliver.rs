//! Brings to one member cluster what concerns it of a name: what became of its export, the import, and the import's
//! endpoints.

use std::{sync::Arc, time::Duration};

use k8s_openapi::{
    api::discovery::v1::EndpointSlice, apimachinery::pkg::apis::meta::v1::OwnerReference, jiff::Timestamp,
};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, DynamicObject, Patch, PatchParams, Preconditions},
};
use serde_json::json;
use tracing::warn;

use super::{
    conditions::{self, Standing},
    export::{Invalid, Policy},
    import,
    merge::merge,
    record,
    site::{Part, resource},
};
use crate::{
    api::{
        marks::FIELD_MANAGER,
        mcs::{self, ServiceImport},
    },
    controller::{
        context::{Context, Post},
        mirrored, selection,
        shard::{self, Claim},
        work::{Failure, Trying as _, is},
    },
    model::ServiceKey,
};

pub async fn reconcile(post: &Post, key: &ServiceKey) -> Result<Option<Duration>, Failure> {
    let Post { context, member } = post;
    let Part::Takes(version) = member.mcs.known().part() else { return Ok(None) };
    if !member.answers() {
        // All names are looked at again when it does.
        return Ok(None);
    }
    tell(post, key, version).await?;
    let import = match import(context, key) {
        Some(import) if member.mcs.known().has_namespace(&key.namespace) => {
            keep_import(post, key, version, &import).await?
        }
        _ => {
            remove_import(post, key, version).await?;
            None
        }
    };
    keep_slices(post, key, version, import.as_ref()).await?;
    Ok(None)
}

/// Writes what became of the export.
async fn tell(post: &Post, key: &ServiceKey, version: &str) -> Result<(), Failure> {
    let Post { context, member } = post;
    let Some(cluster) = context.world.cluster(&member.name) else { return Ok(()) };
    let policy = Policy::of(&cluster, &context.settings.federation);
    let (export, judged) = {
        let known = member.mcs.known();
        let Some(export) = known.export(key).cloned() else { return Ok(()) };
        (export, known.judge(key, &policy))
    };
    let Some(judged) = judged else { return Ok(()) };
    let before = export.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    let judged: Result<Standing, Invalid> = judged.map(|export| standing(post, key, &export));
    let now = conditions::conditions(judged, before, export.metadata.generation, Timestamp::now());
    if conditions::say_the_same(before, &now) {
        return Ok(());
    }
    let patch = json!({
        "apiVersion": format!("{}/{version}", mcs::GROUP), "kind": "ServiceExport",
        "metadata": { "name": &*key.name, "namespace": &*key.namespace, "uid": export.metadata.uid },
        "status": { "conditions": now },
    });
    let api = api(post, key, "ServiceExport", version);
    match api.patch_status(&key.name, &PatchParams::apply(FIELD_MANAGER).force(), &Patch::Apply(patch)).await
    {
        // It was deleted meanwhile.
        Err(error) if is(&error, 404) => Ok(()),
        result => {
            result.map(drop).trying(|| format!("write the status of ServiceExport {key} in {}", member.name))
        }
    }
}

fn standing(post: &Post, key: &ServiceKey, export: &super::export::Export) -> Standing {
    let Post { context, member } = post;
    let Some(service) = context.world.service(key) else {
        return context.exports.failure(key).map_or(Standing::Pending, Standing::Failed);
    };
    if !record::is_exported(&service) {
        let federation = &context.settings.federation;
        if !selection::is_federated(&service, &context.selector) {
            return Standing::Failed(format!(
                "the Federation API's own cluster has a Service {key}; export under another name"
            ));
        }
        let known = member.mcs.known();
        let claim = known.service(key).map(|service| shard::claim(service, federation));
        if let None | Some(Claim::Foreign(_)) = claim {
            return Standing::Failed(format!(
                "the name is taken by the federated Service {key} of the Federation API; annotate this cluster's \
                 Service {}=true to let it be a shard of that, or export under another name",
                crate::api::marks::ADOPT_ANNOTATION
            ));
        }
    }
    let exports = record::record(&service);
    let is_in_place = exports.get(&member.name) == Some(export);
    match (is_in_place.then(|| merge(&exports)).flatten(), context.exports.failure(key)) {
        (Some(merged), _) => Standing::Exported(Box::new(merged)),
        (None, Some(why)) => Standing::Failed(why),
        (None, None) => Standing::Pending,
    }
}

/// What every cluster with the namespace has of a name.
fn import(context: &Context, key: &ServiceKey) -> Option<ServiceImport> {
    let service =
        context.world.service(key).filter(|service| service.metadata.deletion_timestamp.is_none())?;
    if !selection::is_federated(&service, &context.selector) {
        return None;
    }
    let federated = context.world.federated(key);
    import::import(key, &record::record(&service), federated.as_deref(), &context.settings.federation)
}

/// The import as it is in the cluster, once it is as it shall be. Nothing where the name is somebody else's.
async fn keep_import(
    post: &Post,
    key: &ServiceKey,
    version: &str,
    desired: &ServiceImport,
) -> Result<Option<Arc<ServiceImport>>, Failure> {
    let Post { context, member } = post;
    let what = || format!("import {key} into {}", member.name);
    let api = api(post, key, "ServiceImport", version);
    let actual = member.mcs.known().import(key).cloned();
    if let Some(actual) = &actual
        && !import::is_ours(actual.labels(), &context.settings.federation)
    {
        warn!(
            cluster = member.name,
            "ServiceImport {key} is not ours and stays as it is; delete it to import the service"
        );
        return Ok(None);
    }
    let parameters = PatchParams::apply(FIELD_MANAGER);
    let is_there = actual.as_ref().is_some_and(|actual| import::is_as_desired(actual, desired));
    let actual = match actual {
        Some(actual) if is_there => actual,
        actual => {
            let parameters = if actual.is_some() { parameters.clone().force() } else { parameters.clone() };
            let uid = actual.as_ref().and_then(|actual| actual.metadata.uid.clone());
            let manifest = json!({
                "apiVersion": format!("{}/{version}", mcs::GROUP), "kind": "ServiceImport",
                "metadata": {
                    "name": &*key.name, "namespace": &*key.namespace, "uid": uid,
                    "labels": desired.metadata.labels, "annotations": desired.metadata.annotations,
                },
                "spec": desired.spec,
            });
            let applied = api.patch(&key.name, &parameters, &Patch::Apply(manifest)).await.trying(what)?;
            Arc::new(applied.try_parse().map_err(|error| Failure::Waiting(format!("{}: {error}", what())))?)
        }
    };
    keep_import_status(&api, key, version, desired, &actual).await.trying(what)?;
    Ok(Some(actual))
}

async fn keep_import_status(
    api: &Api<DynamicObject>,
    key: &ServiceKey,
    version: &str,
    desired: &ServiceImport,
    actual: &ServiceImport,
) -> Result<(), kube::Error> {
    let before = actual.status.clone().unwrap_or_default();
    let now = import::timed(desired.status.clone().unwrap_or_default(), &before.conditions, Timestamp::now());
    let same = before.clusters == now.clusters
        && before.endpoint_slice_objects == now.endpoint_slice_objects
        && conditions::say_the_same(&before.conditions, &now.conditions);
    if same {
        return Ok(());
    }
    let patch = json!({
        "apiVersion": format!("{}/{version}", mcs::GROUP), "kind": "ServiceImport",
        "metadata": { "name": &*key.name, "namespace": &*key.namespace, "uid": actual.metadata.uid },
        "status": now,
    });
    let parameters = PatchParams::apply(FIELD_MANAGER).force();
    match api.patch_status(&key.name, &parameters, &Patch::Apply(patch)).await {
        Err(error) if is(&error, 404) => Ok(()),
        result => result.map(drop),
    }
}

async fn remove_import(post: &Post, key: &ServiceKey, version: &str) -> Result<(), Failure> {
    let Post { context, member } = post;
    let actual = member.mcs.known().import(key).cloned();
    let Some(actual) = actual.filter(|actual| import::is_ours(actual.labels(), &context.settings.federation))
    else {
        return Ok(());
    };
    let preconditions = Preconditions { uid: actual.metadata.uid.clone(), resource_version: None };
    let parameters = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
    match api(post, key, "ServiceImport", version).delete(&key.name, &parameters).await {
        Err(error) if is(&error, 404) => Ok(()),
        result => result.map(drop).trying(|| format!("remove ServiceImport {key} from {}", member.name)),
    }
}

/// Makes the imported slices those of the Federation API; none without an import.
async fn keep_slices(
    post: &Post,
    key: &ServiceKey,
    version: &str,
    import: Option<&Arc<ServiceImport>>,
) -> Result<(), Failure> {
    let Post { context, member } = post;
    let federation = &context.settings.federation;
    let desired: Vec<_> = import
        .map(|import| {
            let owner = OwnerReference {
                api_version: format!("{}/{version}", mcs::GROUP),
                kind: "ServiceImport".to_owned(),
                name: key.name.to_string(),
                uid: import.uid().unwrap_or_default(),
                ..OwnerReference::default()
            };
            let mirrored = context.world.mirrored().of(key);
            mirrored.iter().map(|slice| import::slice(slice, key, federation, owner.clone())).collect()
        })
        .unwrap_or_default();
    let actual = member.mcs.known().slices(key);
    let slices: Api<EndpointSlice> = Api::namespaced(member.client.clone(), &key.namespace);
    for slice in &desired {
        let name = slice.name_any();
        let is_there = |actual: &Arc<EndpointSlice>| {
            actual.name_any() == name
                && mirrored::is_as_desired(actual, slice)
                && actual.metadata.owner_references == slice.metadata.owner_references
        };
        if actual.iter().any(is_there) {
            continue;
        }
        let parameters = PatchParams::apply(FIELD_MANAGER).force();
        let applied = slices.patch(&name, &parameters, &Patch::Apply(slice)).await;
        applied.trying(|| format!("import endpoints {}/{name} into {}", key.namespace, member.name))?;
    }
    for slice in actual {
        let name = slice.name_any();
        let is_wanted = desired.iter().any(|desired| desired.name_any() == name);
        if !is_wanted && import::is_ours(slice.labels(), federation) {
            let removed = crate::controller::mirror::delete(&slices, &name).await;
            removed.trying(|| {
                format!("remove imported endpoints {}/{name} from {}", key.namespace, member.name)
            })?;
        }
    }
    Ok(())
}

fn api(post: &Post, key: &ServiceKey, kind: &str, version: &str) -> Api<DynamicObject> {
    Api::namespaced_with(post.member.client.clone(), &key.namespace, &resource(kind, version))
}
