//! Mirrors one cluster's endpoints into the Federation API.
//!
//! Only what that cluster's API says changes anything: while it does not answer, what was mirrored stays.

use std::{collections::BTreeMap, sync::Arc};

use futures::{StreamExt as _, stream::BoxStream};
use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, Patch, PatchParams},
    runtime::{
        WatchStreamExt as _,
        controller::Action,
        watcher::{self, Event, watcher},
    },
};
use tracing::warn;

use super::{
    admit::{Refused, Rules},
    book::Outcome,
    context::Post,
    credentials::WATCH_SECONDS,
    mcs,
    mirrored::{is_as_desired, mirrored},
    slices::{SERVICE_LABEL, cluster_of, service_of},
    work::{Failure, Trying as _, is},
    world::{key, reference},
};
use crate::{api::marks::FIELD_MANAGER, client::chain};

/// Follows the cluster's endpoints and queues the services that they belong to.
pub async fn watch(post: Arc<Post>) {
    let member = &post.member;
    let mut events = begin(&post);
    loop {
        let event = tokio::select! {
            event = events.next() => event,
            () = member.relist.notified() => {
                events = begin(&post);
                continue;
            }
        };
        match event {
            Some(Ok(event)) => {
                let is_listed = matches!(event, Event::InitDone);
                let touched = member.source_mut().apply(event);
                // Until the first listing has ended, nothing is known to be missing.
                let services = touched.iter().filter_map(|slice| service_of(slice));
                for service in services {
                    let _ = member.mirror.send(reference(&service));
                }
                if is_listed {
                    for service in post.context.world.services.state() {
                        let _ = member.mirror.send(reference(&key(&*service)));
                    }
                }
            }
            Some(Err(error)) => {
                warn!(
                    cluster = member.name,
                    "its endpoints cannot be watched and stay as last known: {}",
                    chain(&error)
                );
            }
            None => return,
        }
    }
}

fn begin(post: &Post) -> BoxStream<'static, Result<Event<EndpointSlice>, watcher::Error>> {
    let slices: Api<EndpointSlice> = Api::all(post.member.client.clone());
    let config = watcher::Config::default().labels(SERVICE_LABEL).timeout(WATCH_SECONDS);
    watcher(slices, config).default_backoff().modify(|slice| slice.metadata.managed_fields = None).boxed()
}

/// Makes the mirrored slices of one service and this cluster what they shall be.
pub async fn reconcile(service: Arc<Service>, post: Arc<Post>) -> Result<Action, Failure> {
    let Post { context, member } = &*post;
    let name = &member.name;
    let (true, Some(cluster)) = (member.source().synced(), context.world.cluster(name)) else {
        return Ok(Action::await_change());
    };
    let key = key(&*service);
    let actual = context.world.mirrored().of(&key);
    let actual: Vec<_> = actual.into_iter().filter(|slice| cluster_of(slice) == Some(name)).collect();
    let is_ours = match context.book.outcome(&key, &service.uid().unwrap_or_default(), name) {
        Some(Outcome::InPlace) => true,
        Some(Outcome::Absent | Outcome::Conflict(_)) => false,
        // Not known, for now: as it was.
        Some(Outcome::Pending | Outcome::Failed(_)) | None => !actual.is_empty(),
    };
    let rules = Rules { networks: &cluster.spec.networks, vip_ranges: &context.settings.vip_ranges };
    let sources = if is_ours { member.source().of(&key) } else { Vec::new() };
    let (mut desired, refused): (Vec<_>, Vec<_>) =
        sources.iter().map(|source| mirrored(source, name, rules)).unzip();
    if mcs::is_exported(&service) {
        let names = mcs::port_names(&service, name);
        for slice in &mut desired {
            rename_ports(slice, &names);
        }
    }
    if member.note_refused(&key, total(refused.into_iter().flatten()).as_ref()) {
        context.wake_cluster(name);
    }

    let api: Api<EndpointSlice> = Api::namespaced(context.client.clone(), &key.namespace);
    for slice in &desired {
        let slice_name = slice.name_any();
        if let Some(other) = actual
            .iter()
            .find(|actual| actual.name_any() == slice_name && actual.address_type != slice.address_type)
        {
            // The type of its addresses is for a slice's life: this is another one under its name.
            let what = || format!("replace mirrored endpoints {}/{slice_name}", key.namespace);
            delete(&api, &other.name_any()).await.trying(what)?;
        }
        let is_there =
            actual.iter().any(|actual| actual.name_any() == slice_name && is_as_desired(actual, slice));
        if !is_there {
            let parameters = PatchParams::apply(FIELD_MANAGER).force();
            let applied = api.patch(&slice_name, &parameters, &Patch::Apply(slice)).await;
            applied.trying(|| format!("mirror endpoints {}/{slice_name}", key.namespace))?;
        }
    }
    for slice in actual {
        let slice_name = slice.name_any();
        if !desired.iter().any(|desired| desired.name_any() == slice_name) {
            delete(&api, &slice_name)
                .await
                .trying(|| format!("remove mirrored endpoints {}/{slice_name}", key.namespace))?;
        }
    }
    Ok(Action::await_change())
}

/// Clusters may call the ports of what they export differently.
fn rename_ports(slice: &mut EndpointSlice, names: &BTreeMap<String, String>) {
    for port in slice.ports.iter_mut().flatten() {
        if let Some(name) = names.get(port.name.as_deref().unwrap_or_default()) {
            port.name = Some(name.clone());
        }
    }
}

fn total(mut refused: impl Iterator<Item = Refused>) -> Option<Refused> {
    let Refused { mut count, example } = refused.next()?;
    count += refused.map(|refused| refused.count).sum::<u32>();
    Some(Refused { count, example })
}

/// Deletes a mirrored slice that may be gone already.
pub async fn delete(api: &Api<EndpointSlice>, name: &str) -> Result<(), kube::Error> {
    match api.delete(name, &DeleteParams::default()).await {
        Err(error) if is(&error, 404) => Ok(()),
        result => result.map(drop),
    }
}
