//! What a `FederatedService` reports: its VIPs, its shards and its conditions. The only writer of its status.

use std::{sync::Arc, time::Duration};

use k8s_openapi::{api::core::v1::Service, apimachinery::pkg::apis::meta::v1::Condition, jiff::Timestamp};
use kube::{
    Api, Resource as _, ResourceExt as _,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
    runtime::controller::Action,
};
use serde_json::json;

use super::{
    book::Outcome,
    context::Context,
    mcs,
    member::Reach,
    registration::Refusal,
    selection::{self, Misnamed, Selection, Unfit},
    slices::cluster_of,
    status::{self, ACCEPTED, Endpoints, PROPAGATED, Picture, Progress, Shard, find, newly_false},
    vips::Fault,
    work::{Failure, Trying as _, is},
    world::key,
};
use crate::{
    api::{
        Cluster, FederatedService, FederatedServiceStatus, GROUP, VERSION, VipStatus,
        marks::{FIELD_MANAGER, MANAGED_BY, MANAGED_BY_LABEL},
    },
    model::ServiceKey,
};

const RANGE_EXHAUSTED: &str = "VIPRangeExhausted";
/// How often a service without all of its VIPs looks whether others were given back.
const RANGE_PERIOD: Duration = Duration::from_secs(5);

pub async fn reconcile(federated: Arc<FederatedService>, context: Arc<Context>) -> Result<Action, Failure> {
    if federated.metadata.deletion_timestamp.is_some() {
        return Ok(Action::await_change());
    }
    let key = key(&*federated);
    let service =
        context.world.service(&key).filter(|service| selection::is_federated(service, &context.selector));
    if context.world.service(&key).is_none() && is_ours(&federated) {
        return remove(&context, &federated).await;
    }
    let status = match &service {
        Some(service) => of_service(&federated, service, &context),
        None => without_service(&federated, &context),
    };
    // What others give back is told to nobody.
    let is_exhausted = find(&status.conditions, ACCEPTED).is_some_and(|c| c.reason == RANGE_EXHAUSTED);
    let next = if is_exhausted { Action::requeue(RANGE_PERIOD) } else { Action::await_change() };
    if federated.status.as_ref() == Some(&status) {
        return Ok(next);
    }
    write(&context, &key, &status).await?;
    let before = federated.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    let about = service.map_or_else(|| federated.object_ref(&()), |service| service.object_ref(&()));
    for condition in newly_false(before, &status.conditions).filter(|condition| is_for_people(condition)) {
        context.events.warn(about.clone(), &condition.reason, &condition.message).await;
    }
    Ok(next)
}

/// Whether the controller made it. One that the user made stays, and says that its Service is missing.
pub fn is_ours(federated: &FederatedService) -> bool {
    federated.labels().get(MANAGED_BY_LABEL).is_some_and(|manager| manager == MANAGED_BY)
}

/// Removes one whose Service went while it was being made.
async fn remove(context: &Context, federated: &FederatedService) -> Result<Action, Failure> {
    let key = key(federated);
    let api: Api<FederatedService> = Api::namespaced(context.client.clone(), &key.namespace);
    let preconditions = Preconditions { uid: federated.uid(), resource_version: None };
    let parameters = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
    match api.delete(&key.name, &parameters).await {
        Err(error) if is(&error, 404) || is(&error, 409) => {}
        result => drop(result.trying(|| format!("delete FederatedService {key}"))?),
    }
    Ok(Action::await_change())
}

/// Whether an Event tells of it: what its owner can put right. That nothing is ready is how every service begins, and
/// a cluster that is silent says so itself.
fn is_for_people(condition: &Condition) -> bool {
    condition.type_ == ACCEPTED
        || condition.type_ == PROPAGATED && ["Conflict", "Refused"].contains(&condition.reason.as_str())
}

async fn write(context: &Context, key: &ServiceKey, status: &FederatedServiceStatus) -> Result<(), Failure> {
    let patch = json!({
        "apiVersion": format!("{GROUP}/{VERSION}"),
        "kind": "FederatedService",
        "metadata": { "name": &*key.name, "namespace": &*key.namespace },
        "status": status,
    });
    let api: Api<FederatedService> = Api::namespaced(context.client.clone(), &key.namespace);
    let parameters = PatchParams::apply(FIELD_MANAGER).force();
    match api.patch_status(&key.name, &parameters, &Patch::Apply(patch)).await {
        // It was deleted meanwhile.
        Err(error) if is(&error, 404) => Ok(()),
        result => result.map(drop).trying(|| format!("write the status of FederatedService {key}")),
    }
}

fn without_service(federated: &FederatedService, context: &Context) -> FederatedServiceStatus {
    let key = key(federated);
    context.vips.lock().release(&key);
    let message = format!("there is no federated Service {key}; create it, or delete this FederatedService");
    picture(federated, Vec::new(), Vec::new(), vec![Refusal::new("ServiceMissing", message)], true).report()
}

fn of_service(federated: &FederatedService, service: &Service, context: &Context) -> FederatedServiceStatus {
    let key = key(service);
    let known = context.world.cluster_names();
    let selection = Selection::of(&federated.spec, &known);
    let unfit = selection::check(service, &context.settings.federation).err();
    let misnamed = selection::check_weights(&federated.spec, &known).err();
    let mistaken = match &selection {
        Selection::Mistaken(misnamed) => Some(misnamed.clone()),
        Selection::Matching(_) => None,
    };
    let is_going = service.metadata.deletion_timestamp.is_some();
    let clusters =
        if unfit.is_some() { Vec::new() } else { selected(federated, service, &selection, context) };
    let (vips, faults) = vips(federated, service, context, &clusters, unfit.is_none() && !is_going);
    let shards = clusters.iter().map(|cluster| shard(&key, service, cluster, context)).collect();

    let mut all: Vec<_> =
        unfit.iter().map(|unfit| Refusal::new(reason_of_unfit(unfit), unfit.to_string())).collect();
    let misnamed = mistaken.into_iter().chain(misnamed);
    all.extend(misnamed.map(|misnamed| Refusal::new(reason_of_misnamed(&misnamed), misnamed.to_string())));
    all.extend(faults.iter().map(|fault| Refusal::new(reason_of_fault(fault), fault.to_string())));
    picture(federated, vips, shards, all, is_going).report()
}

fn picture(
    federated: &FederatedService,
    vips: Vec<VipStatus>,
    shards: Vec<Shard>,
    faults: Vec<Refusal>,
    is_going: bool,
) -> Picture<'_> {
    Picture {
        generation: federated.metadata.generation,
        now: Timestamp::now(),
        before: federated.status.as_ref(),
        vips,
        shards,
        faults,
        is_going,
    }
}

/// The clusters that the service shall run in; where that is a mistake, those that it was last reported in.
fn selected(
    federated: &FederatedService,
    service: &Service,
    selection: &Selection,
    context: &Context,
) -> Vec<Arc<Cluster>> {
    let reported = |cluster: &Cluster| {
        let shards = federated.status.iter().flat_map(|status| &status.shards);
        shards.map(|shard| &shard.cluster).any(|name| *name == cluster.name_any())
    };
    // What clusters export runs where they do.
    let is_exporting =
        |cluster: &Cluster| !mcs::is_exported(service) || mcs::is_exported_by(service, &cluster.name_any());
    let mut clusters = context.world.clusters.state();
    clusters.retain(|cluster| selection.selects(cluster).unwrap_or_else(|| reported(cluster)));
    clusters.retain(|cluster| is_exporting(cluster));
    clusters.sort_by_key(|cluster| cluster.name_any());
    clusters
}

fn vips(
    federated: &FederatedService,
    service: &Service,
    context: &Context,
    clusters: &[Arc<Cluster>],
    may_have_more: bool,
) -> (Vec<VipStatus>, Vec<Fault>) {
    let settings = &context.settings;
    let key = key(service);
    let stored = status::stored_vips(federated.status.as_ref());
    // A place exists once its cluster was accepted: a slip in a registration shall not hold a VIP for ever.
    let accepted = clusters.iter().filter(|cluster| is_accepted(cluster, context));
    let places = accepted.map(|cluster| (cluster.spec.region.as_str(), cluster.spec.zones.as_slice()));
    let scopes = if may_have_more { status::scopes(places) } else { Vec::new() };
    let mut pool = context.vips.lock();
    let may_have_more = may_have_more && !mcs::is_headless(service);
    let families = if mcs::is_exported(service) {
        status::named_families(&mcs::families(service), |family| pool.serves(family))
    } else {
        status::families(service, |family| pool.serves(family))
    };
    let families = if may_have_more { families } else { Vec::new() };
    let provided = pool.provide(&key, &scopes, &families, &stored);
    (status::vip_status(&key, &provided.vips, &settings.federation, &settings.domain), provided.faults)
}

fn is_accepted(cluster: &Cluster, context: &Context) -> bool {
    match reach(cluster, context) {
        Reach::Answers => true,
        Reach::Refused(_) => false,
        Reach::NotAsked | Reach::Silent => {
            let condition = cluster.status.as_ref().and_then(|status| find(&status.conditions, ACCEPTED));
            condition.is_some_and(|condition| condition.status == "True")
        }
    }
}

fn reach(cluster: &Cluster, context: &Context) -> Reach {
    let standing = context.members.standing(&cluster.name_any());
    standing.map_or(Reach::NotAsked, |standing| standing.reach)
}

fn shard(key: &ServiceKey, service: &Service, cluster: &Cluster, context: &Context) -> Shard {
    let name = cluster.name_any();
    let slices = context.world.mirrored().of(key);
    let slices = slices.iter().map(|slice| &**slice).filter(|slice| cluster_of(slice) == Some(&name));
    let endpoints = Endpoints::count(slices);
    let outcome = || context.book.outcome(key, &service.uid().unwrap_or_default(), &name);
    let progress = match reach(cluster, context) {
        Reach::Refused(why) => Progress::NotAccepted(why),
        Reach::Silent => Progress::Silent,
        Reach::NotAsked => Progress::Pending,
        Reach::Answers => match outcome() {
            Some(Outcome::InPlace) => Progress::InPlace,
            Some(Outcome::Conflict(why)) => Progress::Conflict(why),
            Some(Outcome::Failed(why)) => Progress::Failed(why),
            Some(Outcome::Pending | Outcome::Absent) | None => Progress::Pending,
        },
    };
    let ingress = match &progress {
        // What a Service that is not ours has before it is nobody's shard.
        Progress::Conflict(_) => Some(Vec::new()),
        _ => context.members.get(&name).and_then(|member| member.ingress.of(key)),
    };
    Shard {
        region: cluster.spec.region.clone(),
        zone: cluster.spec.zones.first().cloned().unwrap_or_default(),
        cluster: name,
        progress,
        endpoints,
        ingress,
    }
}

fn reason_of_unfit(unfit: &Unfit) -> &'static str {
    match unfit {
        Unfit::NamespaceShadowed(_) => "NamespaceShadowed",
        Unfit::ExternalName | Unfit::Headless => "ServiceUnsupported",
    }
}

fn reason_of_misnamed(misnamed: &Misnamed) -> &'static str {
    match misnamed {
        Misnamed::Unknown { .. } => "UnknownCluster",
        Misnamed::Selector(_) => "SelectorInvalid",
    }
}

fn reason_of_fault(fault: &Fault) -> &'static str {
    match fault {
        Fault::Exhausted { .. } => RANGE_EXHAUSTED,
        Fault::NoRange { .. } => "VIPRangeMissing",
        Fault::HeldTwice { .. } => "VIPHeldTwice",
        Fault::OutsideRanges { .. } => "VIPOutsideRanges",
    }
}
