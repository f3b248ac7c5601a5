//! Keeps one service's shard in one cluster.

use std::{
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::Arc,
    time::Duration,
};

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Service;
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, PartialObjectMeta, Patch, PatchParams, Preconditions},
    runtime::{
        WatchStreamExt as _,
        controller::Action,
        watcher::{self, Event, watcher},
    },
};
use serde_json::json;
use tokio::time::timeout;
use tracing::debug;

use super::{
    book::Outcome,
    context::{Context, Post},
    credentials::WATCH_SECONDS,
    mcs,
    member::Member,
    namespace, registration,
    selection::{self, Selection},
    shard::{self, Claim},
    work::{Failure, Trying as _, is},
    world::key,
};
use crate::{
    api::{
        FederatedServiceSpec,
        marks::{FEDERATION_LABEL, FIELD_MANAGER, MANAGED_BY_LABEL},
    },
    client::chain,
};

/// How long a cluster may take for one shard.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How often a conflict is looked at again: its solution is told to the cluster, not to us.
const CONFLICT_PERIOD: Duration = Duration::from_secs(5);
/// How often a shard is applied anew, in case somebody changed it and we were not told.
const REPAIR_PERIOD: Duration = Duration::from_mins(5);

/// What a cluster shall have of a service.
#[derive(Debug)]
enum Wish {
    Present(Box<Service>),
    /// Nothing that we made.
    Absent,
    /// Whatever it has.
    Untouched,
}

pub async fn reconcile(service: Arc<Service>, post: Arc<Post>) -> Result<Action, Failure> {
    let Post { context, member } = &*post;
    if mcs::is_exported(&service) {
        note_exported(context, member, &service);
        return Ok(Action::await_change());
    }
    let wish = wish(context, member, &service);
    let contact = member.contact();
    let number = number(&wish, &service, contact.epoch);
    let uid = service.uid().unwrap_or_default();
    let known = context.book.entry(&key(&*service), &uid, &member.name).filter(|entry| entry.wish == number);
    let trusted = known.as_ref().filter(|entry| entry.is_trusted());
    match (&wish, trusted.map(|entry| (&entry.outcome, entry.since.elapsed()))) {
        (Wish::Untouched, _) | (Wish::Absent, Some((Outcome::Absent, _))) => {
            return Ok(Action::await_change());
        }
        (Wish::Present(_), Some((Outcome::InPlace, age))) if age < REPAIR_PERIOD => {
            return Ok(Action::requeue(REPAIR_PERIOD.saturating_sub(age)));
        }
        _ => {}
    }
    if !member.answers() {
        // The cluster's own reconciler wakes all of its services when it does.
        return Ok(Action::await_change());
    }

    let heard = context.book.doubts(&key(&*service), &member.name);
    if known.is_none() {
        // What was found out for another wish must not be taken for an answer to this one.
        context.note(&service, member, number, heard, Outcome::Pending);
    }
    let what = || format!("shard {} in {}", key(&*service), member.name);
    let carried_out = timeout(TIMEOUT, carry_out(context, member, &service, &wish)).await;
    let outcome = match carried_out {
        Ok(Ok(outcome)) => outcome,
        // Somebody wrote between our reading and our writing, which says nothing about the cluster.
        Ok(Err(error)) if is(&error, 409) => return Err(error).trying(what),
        Ok(Err(kube::Error::Api(status))) if (400..500).contains(&status.code) && status.code != 429 => {
            context.note(&service, member, number, heard, Outcome::Failed(status.message.clone()));
            return Err(kube::Error::Api(status)).trying(what);
        }
        Ok(Err(error)) => {
            doubt(context, member);
            return Err(error).trying(what);
        }
        Err(_) => {
            doubt(context, member);
            return Err(Failure::Late(what()));
        }
    };
    let next = match &outcome {
        Outcome::Conflict(_) => Action::requeue(CONFLICT_PERIOD),
        Outcome::InPlace => Action::requeue(REPAIR_PERIOD),
        _ => Action::await_change(),
    };
    context.note(&service, member, number, heard, outcome);
    Ok(next)
}

/// What clusters export is in place where they do, and nothing is made anywhere.
fn note_exported(context: &Context, member: &Member, service: &Service) {
    let is_selected = || {
        let federated = context.world.federated(&key(service))?;
        select(context, &federated.spec).selects(&*context.world.cluster(&member.name)?)
    };
    let is_exporting = mcs::is_exported_by(service, &member.name);
    let outcome = match is_exporting.then(is_selected) {
        Some(Some(true)) => Outcome::InPlace,
        // Not known, for now: as it was.
        Some(None) => return,
        Some(Some(false)) | None => Outcome::Absent,
    };
    let heard = context.book.doubts(&key(service), &member.name);
    context.note(service, member, 0, heard, outcome);
}

/// Follows what others do to our shards in the cluster.
pub async fn watch(post: Arc<Post>) {
    let Post { context, member } = &*post;
    let shards: Api<PartialObjectMeta<Service>> = Api::all(member.client.clone());
    let ours = format!("{FEDERATION_LABEL}={}", context.settings.federation);
    let config = watcher::Config::default().labels(&ours).timeout(WATCH_SECONDS);
    let mut events = watcher(shards, config).default_backoff().boxed();
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Apply(shard) | Event::InitApply(shard)) => {
                let service = key(&shard);
                if !member.has_written(&service, shard.metadata.resource_version.as_deref()) {
                    context.doubt_shard(&service, member);
                }
            }
            // Deleted, or its marks were taken off.
            Ok(Event::Delete(shard)) => context.doubt_shard(&key(&shard), member),
            Ok(Event::Init) => {}
            // What went while nobody watched is in no listing.
            Ok(Event::InitDone) => {
                for service in context.world.services.state() {
                    context.doubt_shard(&key(&*service), member);
                }
            }
            // The watch of endpoints fails for the same reason, and says so.
            Err(error) => debug!(cluster = member.name, "its shards cannot be watched: {}", chain(&error)),
        }
    }
}

fn doubt(context: &Context, member: &Member) {
    member.doubt();
    context.wake_cluster(&member.name);
}

fn wish(context: &Context, member: &Member, service: &Service) -> Wish {
    // Without the finalizer nobody would remove what is made here; a Service that has none is not ours, or not yet.
    if !selection::has_finalizer(service) {
        return Wish::Untouched;
    }
    if service.metadata.deletion_timestamp.is_some() {
        return if shard::is_orphaning(service) { Wish::Untouched } else { Wish::Absent };
    }
    let Some(cluster) = context.world.cluster(&member.name) else { return Wish::Untouched };
    if registration::is_leaving(&cluster) {
        return Wish::Absent;
    }
    let federation = &context.settings.federation;
    if selection::check(service, federation).is_err() {
        return Wish::Untouched;
    }
    let Some(federated) = context.world.federated(&key(service)) else { return Wish::Untouched };
    match select(context, &federated.spec).selects(&cluster) {
        Some(true) => Wish::Present(Box::new(shard::manifest(service, federation))),
        Some(false) => Wish::Absent,
        None => Wish::Untouched,
    }
}

fn select(context: &Context, spec: &FederatedServiceSpec) -> Selection {
    Selection::of(spec, &context.world.cluster_names())
}

/// A number for what is wished, of whom, and in which time of the cluster.
fn number(wish: &Wish, service: &Service, epoch: u64) -> u64 {
    let mut hasher = DefaultHasher::new();
    (epoch, &service.metadata.uid).hash(&mut hasher);
    if let Wish::Present(manifest) = wish {
        // Objects of maps with keys in order: the same manifest has the same text.
        serde_json::to_string(manifest).unwrap_or_default().hash(&mut hasher);
    }
    std::mem::discriminant(wish).hash(&mut hasher);
    hasher.finish()
}

async fn carry_out(
    context: &Context,
    member: &Member,
    service: &Service,
    wish: &Wish,
) -> Result<Outcome, kube::Error> {
    let namespace = service.namespace().unwrap_or_default();
    let shards: Api<Service> = Api::namespaced(member.client.clone(), &namespace);
    let existing = shards.get_opt(&service.name_any()).await?;
    let claim = existing.as_ref().map(|existing| shard::claim(existing, &context.settings.federation));
    match (wish, existing, claim) {
        (Wish::Present(manifest), None, _) => create(context, member, &shards, &namespace, manifest).await,
        (Wish::Present(_), Some(_), Some(Claim::Foreign(why))) => Ok(Outcome::Conflict(why)),
        (Wish::Present(manifest), Some(existing), _) => {
            if let Some(ports) = shard::ports_without_others(&existing, manifest) {
                // Of the very version that was read.
                let patch = json!({
                    "metadata": { "uid": existing.metadata.uid, "resourceVersion": existing.metadata.resource_version },
                    "spec": { "ports": ports },
                });
                let parameters =
                    PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
                shards.patch(&service.name_any(), &parameters, &Patch::Merge(&patch)).await?;
            }
            let mut manifest = manifest.clone();
            // Not one that came in its place since it was read.
            manifest.metadata.uid = existing.metadata.uid;
            let parameters = PatchParams::apply(FIELD_MANAGER).force();
            let applied = shards.patch(&service.name_any(), &parameters, &Patch::Apply(&*manifest)).await?;
            written(context, member, &applied);
            Ok(Outcome::InPlace)
        }
        (Wish::Absent, Some(existing), Some(Claim::Ours)) => {
            let preconditions = Preconditions { uid: existing.metadata.uid, resource_version: None };
            let parameters = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
            let deleted = shards.delete(&service.name_any(), &parameters).await;
            deleted
                .map(|_| Outcome::Absent)
                .or_else(|error| if is(&error, 404) { Ok(Outcome::Absent) } else { Err(error) })
        }
        (Wish::Absent, Some(existing), Some(Claim::Adopted)) => release(&shards, &existing).await,
        (Wish::Absent | Wish::Untouched, _, _) => Ok(Outcome::Absent),
    }
}

/// Notes how the cluster has taken a shard.
fn written(context: &Context, member: &Member, shard: &Service) {
    let service = key(shard);
    member.note_written(&service, shard);
    if let Some((ip, range)) = shard::address_in_vip_range(shard, &context.settings.vip_ranges)
        && member.note_overlap(format!("its Service {service} has the address {ip} of the VIP range {range}"))
    {
        context.wake_cluster(&member.name);
    }
}

/// Makes the shard, and its namespace where there is none.
async fn create(
    context: &Context,
    member: &Member,
    shards: &Api<Service>,
    namespace: &str,
    manifest: &Service,
) -> Result<Outcome, kube::Error> {
    // Without force: one that appears meanwhile is not overwritten.
    let apply = || {
        let name = manifest.name_any();
        async move { shards.patch(&name, &PatchParams::apply(FIELD_MANAGER), &Patch::Apply(manifest)).await }
    };
    let mut applied = apply().await;
    if applied.as_ref().is_err_and(|error| is(error, 404)) {
        namespace::ensure(&member.client, namespace).await?;
        applied = apply().await;
    }
    match applied {
        Ok(applied) => {
            written(context, member, &applied);
            Ok(Outcome::InPlace)
        }
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(Outcome::Conflict(status.message.clone())),
        Err(error) => Err(error),
    }
}

/// Gives a Service back that was there before us: it stays, without our marks.
async fn release(shards: &Api<Service>, existing: &Service) -> Result<Outcome, kube::Error> {
    if existing.labels().contains_key(FEDERATION_LABEL) {
        let marks = json!({ "metadata": {
            "uid": existing.metadata.uid, "labels": { MANAGED_BY_LABEL: null, FEDERATION_LABEL: null },
        } });
        shards.patch(&existing.name_any(), &PatchParams::default(), &Patch::Merge(&marks)).await?;
    }
    Ok(Outcome::Absent)
}
