//! The life of a `Cluster`: registration, login, regular contact, and what is reported of it.

use std::{
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::Arc,
    time::Duration,
};

use k8s_openapi::{
    api::core::v1::Service,
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
    jiff::{SignedDuration, Timestamp},
};
use kube::{
    Api, Resource as _, ResourceExt as _,
    api::{Patch, PatchParams},
    runtime::{controller::Action, reflector::ObjectRef},
};
use serde_json::json;

use super::{
    admit::Refused,
    book::Outcome,
    context::Context,
    credentials,
    member::{ClusterId, Contact, Member, Members, Reach, Standing, State},
    registration::{self, Refusal},
    selection::has_finalizer,
    slices::cluster_of,
    status::{ACCEPTED, Endpoints, Verdict, find, newly_false},
    work::{Failure, Trying as _, is},
    world::key,
};
use crate::{
    api::{
        Cluster, ClusterStatus, GROUP, SYSTEM_NAMESPACE, VERSION,
        marks::{DRAINED_CONDITION, EXPORT_NAMESPACES_ANNOTATION, FIELD_MANAGER},
    },
    model::ServiceKey,
};

const HEALTHY: &str = "ControlPlaneHealthy";
const ADMITTED: &str = "EndpointsAdmitted";
/// Only said where it does not hold: nobody can read a cluster's Service range, one sees it by its addresses.
const RANGES_APART: &str = "ServiceRangeApart";
/// How old `lastContactTime` may grow while nothing else changes: every write of it is read by every node.
const CONTACT_AGE: SignedDuration = SignedDuration::from_mins(1);
/// When to look again at a registration that is refused, in case it was for a reason that we are not told about.
const REFUSED_PERIOD: Duration = Duration::from_mins(1);

pub async fn reconcile(cluster: Arc<Cluster>, context: Arc<Context>) -> Result<Action, Failure> {
    let name = cluster.name_any();
    let (verdict, contact, next) = match login(&cluster, &context).await {
        Err(refusal) => {
            context.members.disconnect(&name);
            (Err(refusal), None, REFUSED_PERIOD)
        }
        Ok(member) => {
            let (contact, next) = member.check().await;
            (Ok(contact.state.clone()), Some(contact), next)
        }
    };
    let standing = Standing { reach: Reach::of(&verdict), said: said(&cluster) };
    if context.members.set_standing(&name, standing) {
        context.wake_for_member(&name);
    }
    let member = context.members.get(&name);
    let refused = member.as_deref().and_then(Member::refused);
    report(&cluster, &context, &verdict, contact.as_ref(), refused).await?;
    Ok(Action::requeue(next))
}

async fn login(cluster: &Cluster, context: &Arc<Context>) -> Result<Arc<Member>, Refusal> {
    registration::check(cluster, &context.world.clusters.state(), &context.settings.vip_ranges)?;
    let secret = &cluster.spec.credentials_ref.name;
    let found = context.world.secrets.get(&ObjectRef::new(secret).within(SYSTEM_NAMESPACE));
    let login = credentials::login(&cluster.spec.server, secret, found.as_deref()).await?;
    Members::connect(context, &cluster.name_any(), login)
}

/// A number for all that the user says: where it changes, services are looked at again.
fn said(cluster: &Cluster) -> u64 {
    let mut hasher = DefaultHasher::new();
    (&cluster.metadata.labels, registration::is_leaving(cluster)).hash(&mut hasher);
    cluster.annotations().get(EXPORT_NAMESPACES_ANNOTATION).hash(&mut hasher);
    serde_json::to_string(&cluster.spec).unwrap_or_default().hash(&mut hasher);
    hasher.finish()
}

/// What is reported of a cluster that is looked at for a first or another time.
async fn report(
    cluster: &Cluster,
    context: &Context,
    verdict: &Result<State, Refusal>,
    contact: Option<&Contact>,
    refused: Option<Vec<(ServiceKey, Refused)>>,
) -> Result<(), Failure> {
    let name = cluster.name_any();
    let before = cluster.status.clone().unwrap_or_default();
    let now = Timestamp::now();
    let member = context.members.get(&name);
    let validity = member.as_deref().and_then(Member::validity);
    let mut conditions = vec![
        condition(ACCEPTED, accepted(verdict, &before.conditions, validity.as_deref()), cluster, now),
        condition(HEALTHY, healthy(verdict), cluster, now),
    ];
    match refused {
        Some(refused) => conditions.push(condition(ADMITTED, admitted(&refused), cluster, now)),
        // The last listing's verdict stands until there is another.
        None => conditions.extend(find(&before.conditions, ADMITTED).cloned()),
    }
    let overlap = member.as_deref().and_then(Member::overlap);
    if let Some(how) = overlap {
        conditions.push(condition(RANGES_APART, overlapping(how), cluster, now));
    }
    if registration::is_leaving(cluster) {
        conditions.push(condition(DRAINED_CONDITION, drained(&Remains::of(&name, context)), cluster, now));
    }
    let is_known = contact.is_some_and(|contact| contact.state == State::Answers);
    let count = |number: usize| u32::try_from(number).ok();
    let cluster_id = match contact.map(|contact| &contact.id) {
        Some(ClusterId::Told(id)) => id.clone(),
        Some(ClusterId::NotAsked) | None => before.cluster_id.clone(),
    };
    let last_contact_time = last_contact(contact, &before, &conditions);
    // As old as the time of contact, for the same reason.
    let api_latency_milliseconds = match contact.and_then(|contact| contact.latency) {
        Some(latency) if last_contact_time != before.last_contact_time => latency.as_millis().try_into().ok(),
        _ => before.api_latency_milliseconds,
    };
    let status = ClusterStatus {
        version: contact.and_then(|contact| contact.version.clone()).or_else(|| before.version.clone()),
        cluster_id,
        services: if is_known { count(context.book.in_place(&name)) } else { before.services },
        endpoints: Some(endpoints(context, &name)),
        api_latency_milliseconds,
        last_contact_time,
        conditions,
    };
    if cluster.status.as_ref() == Some(&status) {
        return Ok(());
    }
    let patch = json!({
        "apiVersion": format!("{GROUP}/{VERSION}"), "kind": "Cluster", "metadata": { "name": name }, "status": status,
    });
    let clusters: Api<Cluster> = Api::all(context.client.clone());
    let parameters = PatchParams::apply(FIELD_MANAGER).force();
    match clusters.patch_status(&name, &parameters, &Patch::Apply(patch)).await {
        // It was deleted meanwhile.
        Err(error) if is(&error, 404) => return Ok(()),
        result => drop(result.trying(|| format!("write the status of Cluster {name}"))?),
    }
    let warned = newly_false(&before.conditions, &status.conditions);
    for condition in warned.filter(|condition| condition.type_ != DRAINED_CONDITION) {
        context.events.warn(cluster.object_ref(&()), &condition.reason, &condition.message).await;
    }
    Ok(())
}

fn condition(type_: &str, verdict: Verdict, cluster: &Cluster, now: Timestamp) -> Condition {
    let before = cluster.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    verdict.condition(type_, before, cluster.metadata.generation, now)
}

fn accepted(verdict: &Result<State, Refusal>, before: &[Condition], validity: Option<&str>) -> Verdict {
    let accepted = || {
        let until = validity.map(|validity| format!("; {validity}")).unwrap_or_default();
        Verdict::new(true, "Accepted", format!("the registration and its credentials are usable{until}"))
    };
    match verdict {
        Err(refusal) | Ok(State::Refuses(refusal)) => Verdict::new(false, refusal.reason, &refusal.message),
        Ok(State::Answers) => accepted(),
        // Silence says nothing about credentials that worked before.
        Ok(_) if find(before, ACCEPTED).is_some_and(|condition| condition.status == "True") => accepted(),
        Ok(_) => Verdict::unknown(
            "NotVerified",
            "its API has not answered yet, so nobody knows if the credentials work",
        ),
    }
}

fn healthy(verdict: &Result<State, Refusal>) -> Verdict {
    match verdict {
        Ok(State::Answers) => Verdict::new(true, "Answers", "its API answers"),
        Ok(State::Refuses(_)) => Verdict::new(true, "Answers", "its API answers, but not to us"),
        Ok(State::Silent(why)) => Verdict::new(
            false,
            "Silent",
            format!("its API does not answer, endpoints stay as last known: {why}"),
        ),
        Ok(State::NotAsked) | Err(_) => {
            Verdict::unknown("NotAsked", "its API is not asked before it can be accepted")
        }
    }
}

fn admitted(refused: &[(ServiceKey, Refused)]) -> Verdict {
    let Some((service, example)) = refused.first() else {
        return Verdict::new(true, "Admitted", "all endpoints are its own");
    };
    let count: u32 = refused.iter().map(|(_, refused)| refused.count).sum();
    let message = format!("{count} endpoints are left out, as of {service} {}", example.example);
    Verdict::new(false, "EndpointsRefused", message)
}

/// What is left in a cluster that is leaving.
#[derive(Debug, Default)]
struct Remains {
    shards: Vec<ServiceKey>,
    slices: usize,
    answers: bool,
}

impl Remains {
    fn of(name: &str, context: &Context) -> Self {
        let is_left = |service: &Arc<Service>| {
            let uid = service.metadata.uid.as_deref().unwrap_or_default();
            let outcome = context.book.outcome(&key(&**service), uid, name);
            has_finalizer(service) && context.was_entered(name) && outcome != Some(Outcome::Absent)
        };
        let services = context.world.services.state();
        let mut shards: Vec<_> = services.iter().filter(|s| is_left(s)).map(|s| key(&**s)).collect();
        shards.sort();
        let slices = context.world.mirrored().iter().filter(|slice| cluster_of(slice) == Some(name)).count();
        Self { shards, slices, answers: context.members.get(name).is_some_and(|member| member.answers()) }
    }
}

fn drained(remains: &Remains) -> Verdict {
    let Remains { shards, slices, answers } = remains;
    match shards.first() {
        Some(first) => {
            let wait = if *answers { "" } else { ", and its API does not let us in" };
            Verdict::new(
                false,
                "RemovingShards",
                format!("{} services may have shards there still, as {first}{wait}", shards.len()),
            )
        }
        None if *slices > 0 => Verdict::new(
            false,
            "RemovingEndpoints",
            format!("{slices} mirrored EndpointSlices are being removed"),
        ),
        None => {
            Verdict::new(true, "ShardsRemoved", "nothing of the federation is left in it; it can be deleted")
        }
    }
}

fn overlapping(how: &str) -> Verdict {
    let what_to_do =
        "connections to such addresses would go to either; give the federation another --vip-range";
    Verdict::new(false, "ServiceRangeOverlaps", format!("{how}: {what_to_do}"))
}

fn endpoints(context: &Context, name: &str) -> u32 {
    let mirrored = context.world.mirrored();
    Endpoints::count(mirrored.iter().map(|slice| &**slice).filter(|slice| cluster_of(slice) == Some(name)))
        .all
}

/// Exact when something happens, a minute old at most when nothing does.
fn last_contact(contact: Option<&Contact>, before: &ClusterStatus, conditions: &[Condition]) -> Option<Time> {
    let reported = before.last_contact_time.clone();
    let Some(last) = contact.and_then(|contact| contact.last) else { return reported };
    let is_fresh = reported.as_ref().is_some_and(|reported| last.duration_since(reported.0) < CONTACT_AGE);
    if is_fresh && before.conditions == conditions { reported } else { Some(Time(last)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal() -> Refusal {
        Refusal::new("CredentialsRefused", "renew them")
    }

    fn told(verdict: &Verdict) -> (Option<bool>, &str) {
        (verdict.holds, verdict.reason)
    }

    #[test]
    fn what_each_verdict_says() {
        let cases = [
            (Ok(State::Answers), (Some(true), "Accepted"), (Some(true), "Answers")),
            (Ok(State::Refuses(refusal())), (Some(false), "CredentialsRefused"), (Some(true), "Answers")),
            (Ok(State::Silent("gone".into())), (None, "NotVerified"), (Some(false), "Silent")),
            (Err(refusal()), (Some(false), "CredentialsRefused"), (None, "NotAsked")),
        ];
        for (verdict, expected_accepted, expected_healthy) in cases {
            assert_eq!(told(&accepted(&verdict, &[], None)), expected_accepted, "{verdict:?}");
            assert_eq!(told(&healthy(&verdict)), expected_healthy, "{verdict:?}");
        }
    }

    #[test]
    fn an_accepted_cluster_that_falls_silent_stays_accepted() {
        let now = Timestamp::UNIX_EPOCH;
        let before = [accepted(&Ok(State::Answers), &[], None).condition(ACCEPTED, &[], None, now)];
        let silent = accepted(&Ok(State::Silent("gone".into())), &before, Some("the token expires tomorrow"));
        assert_eq!(told(&silent), (Some(true), "Accepted"));
        assert!(silent.message.ends_with("are usable; the token expires tomorrow"), "{}", silent.message);
    }

    #[test]
    fn refused_endpoints_are_counted_with_an_example() {
        let refused = |count, example: &str| Refused { count, example: example.to_owned() };
        let all = [
            (ServiceKey::new("n", "a"), refused(2, "192.0.2.1: it lies outside the cluster's networks")),
            (ServiceKey::new("n", "b"), refused(1, "127.0.0.1: it is a loopback address")),
        ];
        let verdict = admitted(&all);
        assert_eq!(told(&verdict), (Some(false), "EndpointsRefused"));
        assert_eq!(
            verdict.message,
            "3 endpoints are left out, as of n/a 192.0.2.1: it lies outside the cluster's networks"
        );
        assert_eq!(told(&admitted(&[])), (Some(true), "Admitted"));
    }

    #[test]
    fn a_cluster_has_been_left_when_neither_shards_nor_endpoints_remain() {
        let shards = vec![ServiceKey::new("n", "a"), ServiceKey::new("n", "b")];
        let remains = Remains { shards, slices: 2, answers: false };
        let verdict = drained(&remains);
        assert_eq!(told(&verdict), (Some(false), "RemovingShards"));
        let expected = "2 services may have shards there still, as n/a, and its API does not let us in";
        assert_eq!(verdict.message, expected);
        let remains = Remains { shards: Vec::new(), ..remains };
        assert_eq!(told(&drained(&remains)), (Some(false), "RemovingEndpoints"));
        assert_eq!(told(&drained(&Remains::default())), (Some(true), "ShardsRemoved"));
    }

    #[test]
    fn the_time_of_contact_is_written_when_it_matters() {
        let at = |second| Timestamp::from_second(second).expect("a time");
        let contact = |second| Contact::example(at(second));
        let before = ClusterStatus { last_contact_time: Some(Time(at(0))), ..ClusterStatus::default() };
        let changed = [healthy(&Ok(State::Answers)).condition(HEALTHY, &[], None, at(0))];
        let seconds = |contact: Option<&Contact>, conditions: &[Condition]| {
            last_contact(contact, &before, conditions).map(|time| time.0.as_second())
        };
        assert_eq!(seconds(Some(&contact(30)), &[]), Some(0));
        assert_eq!(seconds(Some(&contact(60)), &[]), Some(60));
        assert_eq!(seconds(Some(&contact(30)), &changed), Some(30));
        assert_eq!(seconds(None, &changed), Some(0));
    }
}
