//! The life of a federated Service: its `FederatedService`, its finalizer, and its end when all shards are gone.
//!
//! The shards themselves are kept by each member's own queue (`propagate`).

use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, ObjectMeta, PostParams},
    runtime::{
        controller::Action,
        finalizer::{self, finalizer},
    },
};

use super::{
    book::Outcome,
    context::Context,
    mcs, report, selection, shard,
    work::{Failure, Trying as _, is},
    world::key,
};
use crate::{
    api::{
        FederatedService, FederatedServiceSpec,
        marks::{FIELD_MANAGER, MANAGED_BY, MANAGED_BY_LABEL, SHARDS_FINALIZER},
    },
    model::ServiceKey,
};

pub async fn reconcile(service: Arc<Service>, context: Arc<Context>) -> Result<Action, Failure> {
    if !selection::is_federated(&service, &context.selector) {
        return Ok(Action::await_change());
    }
    let key = key(&*service);
    let api: Api<Service> = Api::namespaced(context.client.clone(), &key.namespace);
    let result = finalizer(&api, SHARDS_FINALIZER, service, |event| async {
        match event {
            finalizer::Event::Apply(_) => ensure_federated_service(&context, &key).await,
            finalizer::Event::Cleanup(service) => end(&context, &key, &service).await,
        }
    })
    .await;
    match result {
        Ok(action) => Ok(action),
        Err(finalizer::Error::ApplyFailed(failure) | finalizer::Error::CleanupFailed(failure)) => {
            Err(failure)
        }
        Err(error) => Err(Box::new(error).into()),
    }
}

async fn ensure_federated_service(context: &Context, key: &ServiceKey) -> Result<Action, Failure> {
    if context.world.federated(key).is_some() {
        return Ok(Action::await_change());
    }
    let mut federated = FederatedService::new(&key.name, FederatedServiceSpec::default());
    federated.metadata = ObjectMeta {
        name: Some(key.name.to_string()),
        namespace: Some(key.namespace.to_string()),
        labels: Some([(MANAGED_BY_LABEL.to_owned(), MANAGED_BY.to_owned())].into()),
        ..ObjectMeta::default()
    };
    let parameters = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
    match federated_services(context, key).create(&parameters, &federated).await {
        // The user was first.
        Err(error) if is(&error, 409) => Ok(Action::await_change()),
        result => result.map(|_| Action::await_change()).trying(|| format!("create FederatedService {key}")),
    }
}

/// Lets the Service go once no cluster has a shard of it.
async fn end(context: &Context, key: &ServiceKey, service: &Service) -> Result<Action, Failure> {
    let waiting = if shard::is_orphaning(service) || mcs::is_exported(service) {
        Vec::new()
    } else {
        clusters_with_shards(context, key, service)
    };
    if !waiting.is_empty() {
        let clusters = waiting.join(", ");
        return Err(Failure::Waiting(format!(
            "the shards of {key} are removed in {clusters} (deleting a Cluster gives up what it has)"
        )));
    }
    // One that the user made stays, and says that its Service is missing.
    let federated = context.world.federated(key);
    if federated.as_deref().is_some_and(report::is_ours) {
        match federated_services(context, key).delete(&key.name, &DeleteParams::default()).await {
            Err(error) if is(&error, 404) => {}
            result => drop(result.trying(|| format!("delete FederatedService {key}"))?),
        }
    }
    Ok(Action::await_change())
}

/// The clusters that may have a shard still. One that never let us in cannot.
fn clusters_with_shards(context: &Context, key: &ServiceKey, service: &Service) -> Vec<String> {
    let uid = service.uid().unwrap_or_default();
    let names = context.world.cluster_names().into_iter();
    names
        .filter(|name| {
            context.was_entered(name) && context.book.outcome(key, &uid, name) != Some(Outcome::Absent)
        })
        .collect()
}

fn federated_services(context: &Context, key: &ServiceKey) -> Api<FederatedService> {
    Api::namespaced(context.client.clone(), &key.namespace)
}
