//! Keeps the Service at the Federation API that stands for what clusters export.
//!
//! A name belongs to whom it belonged first: a Service that a user made there is never replaced by exports. Of the
//! clusters only those join it whose Service is its shard.

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::api::core::v1::Service;
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
};
use serde_json::json;

use super::{
    export::Policy,
    merge::{Exports, merge},
    record,
    site::Part,
};
use crate::{
    api::marks::{EXPORTS_ANNOTATION, EXPORTS_MANAGER, FIELD_MANAGER},
    controller::{
        context::Context,
        namespace, selection,
        shard::{self, Claim},
        work::{Failure, Trying as _, is},
    },
    model::ServiceKey,
};

pub async fn reconcile(context: &Context, key: &ServiceKey) -> Result<Option<Duration>, Failure> {
    let service = context.world.service(key);
    let exports = exports(context, key, service.as_deref());
    let result = match service {
        Some(service) if !record::is_exported(&service) => join(context, key, &service, &exports).await,
        service => keep(context, key, service.as_deref(), &exports).await,
    };
    let why = result.as_ref().err().map(ToString::to_string);
    if context.exports.note_failure(key, why.as_deref()) {
        context.touch_members(key);
    }
    result.map(|()| None)
}

/// The valid exports of a name. A cluster that cannot be asked exports what it did.
fn exports(context: &Context, key: &ServiceKey, service: Option<&Service>) -> Exports {
    let mut before = service.map(record::record).unwrap_or_default();
    let federation = &context.settings.federation;
    // One that a user made is joined by its own shards alone.
    let is_users = service.is_some_and(|service| !record::is_exported(service));
    let mut exports = Exports::new();
    for cluster in context.world.clusters.state() {
        let name = cluster.name_any();
        let member = context.members.get(&name);
        let known = member.as_ref().map(|member| member.mcs.known());
        match known.as_ref().map(|known| (known, known.part())) {
            None | Some((_, Part::Unknown)) => {
                exports.extend(before.remove_entry(&name));
            }
            Some((_, Part::None)) => {}
            Some((known, Part::Takes(_))) => {
                let is_shard = || {
                    known.service(key).is_some_and(|service| {
                        !matches!(shard::claim(service, federation), Claim::Foreign(_))
                    })
                };
                let export = known.judge(key, &Policy::of(&cluster, federation)).and_then(Result::ok);
                if let Some(export) = export.filter(|_| !is_users || is_shard()) {
                    exports.insert(name, export);
                }
            }
        }
    }
    exports
}

/// Says on a user's Service which of its shards are exported.
async fn join(
    context: &Context,
    key: &ServiceKey,
    service: &Service,
    exports: &Exports,
) -> Result<(), Failure> {
    let is_federated = selection::is_federated(service, &context.selector);
    if !is_federated || record::record(service) == *exports {
        return Ok(());
    }
    let annotations = if exports.is_empty() { BTreeMap::new() } else { record::annotation(exports) };
    let patch = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {
            "name": &*key.name, "namespace": &*key.namespace, "uid": service.metadata.uid, "annotations": annotations,
        },
    });
    let parameters = PatchParams::apply(EXPORTS_MANAGER).force();
    let patched = services(context, key).patch(&key.name, &parameters, &Patch::Apply(patch)).await;
    patched.map(drop).trying(|| format!("write {EXPORTS_ANNOTATION} on Service {key}"))
}

/// Makes, changes or removes the Service that is ours.
async fn keep(
    context: &Context,
    key: &ServiceKey,
    service: Option<&Service>,
    exports: &Exports,
) -> Result<(), Failure> {
    let desired = merge(exports).map(|merged| record::manifest(key, &merged, exports));
    match (service, desired) {
        (None, None) => Ok(()),
        (Some(service), _) if service.metadata.deletion_timestamp.is_some() => {
            // Its end wakes us.
            Ok(())
        }
        (Some(service), None) => remove(context, key, service).await,
        (Some(service), Some(desired)) if !record::can_become(service, &desired) => {
            remove(context, key, service).await
        }
        (Some(service), Some(desired)) if record::is_as_desired(service, &desired) => Ok(()),
        (Some(service), Some(mut desired)) => {
            desired.metadata.uid.clone_from(&service.metadata.uid);
            apply(context, key, &desired).await.map(drop).trying(|| format!("apply Service {key}"))
        }
        (None, Some(desired)) => create(context, key, &desired).await,
    }
}

async fn create(context: &Context, key: &ServiceKey, desired: &Service) -> Result<(), Failure> {
    let what = || format!("make Service {key} at the Federation API");
    let api = services(context, key);
    // Never into one that we have not been told about yet.
    if api.get_opt(&key.name).await.trying(what)?.is_some() {
        return Err(Failure::Waiting(format!("Service {key} of the Federation API is known")));
    }
    let mut applied = apply(context, key, desired).await;
    if applied.as_ref().is_err_and(|error| is(error, 404)) {
        namespace::ensure(&context.client, &key.namespace).await.trying(what)?;
        applied = apply(context, key, desired).await;
    }
    applied.map(drop).trying(what)
}

async fn apply(context: &Context, key: &ServiceKey, desired: &Service) -> Result<Service, kube::Error> {
    let is_new = desired.metadata.uid.is_none();
    let parameters = PatchParams::apply(FIELD_MANAGER);
    let parameters = if is_new { parameters } else { parameters.force() };
    services(context, key).patch(&key.name, &parameters, &Patch::Apply(desired)).await
}

async fn remove(context: &Context, key: &ServiceKey, service: &Service) -> Result<(), Failure> {
    let preconditions = Preconditions { uid: service.metadata.uid.clone(), resource_version: None };
    let parameters = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
    match services(context, key).delete(&key.name, &parameters).await {
        Err(error) if is(&error, 404) => Ok(()),
        result => result.map(drop).trying(|| format!("remove Service {key} that nobody exports any more")),
    }
}

fn services(context: &Context, key: &ServiceKey) -> Api<Service> {
    Api::namespaced(context.client.clone(), &key.namespace)
}
