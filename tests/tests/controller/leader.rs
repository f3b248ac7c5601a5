//! Two controllers, of which one acts.

use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use federation_agent::api::{FederatedService, SYSTEM_NAMESPACE};
use federation_tests::lab::Process;
use k8s_openapi::api::{
    coordination::v1::Lease,
    core::v1::{Event, Service},
};
use kube::{
    Api,
    api::{ListParams, ObjectMeta},
};
use serde_json::json;

use crate::world::{AMERICA, EUROPE, QUICK_ELECTION, SERVICE, World, create, in_world};

/// Two ranges, so that what each of the two controllers says tells who said it.
const FIRST_RANGE: &str = "198.18.0.0/16";
const SECOND_RANGE: &str = "198.19.0.0/16";

async fn lease(world: &World) -> Result<Lease> {
    Ok(world.hub_in::<Lease>(SYSTEM_NAMESPACE).get("federation-controller").await?)
}

/// Who holds the lease, and how often it has changed hands.
async fn holder(world: &World) -> Result<(String, i32)> {
    let spec = lease(world).await?.spec.context("a spec")?;
    Ok((spec.holder_identity.unwrap_or_default(), spec.lease_transitions.unwrap_or_default()))
}

async fn says(world: &World, process: &Process, part: &str) -> Result<()> {
    let said = async || {
        let log = process.tail(usize::MAX)?.join("\n");
        ensure!(log.contains(part), "{log}");
        Ok(())
    };
    world.wait(&format!("{} says {part:?}", process.name()), said).await
}

/// A first controller that leads, and a second one that stands by.
async fn two(world: &World) -> Result<(Arc<Process>, Arc<Process>)> {
    world.start_hub().await?;
    let first = world.start_candidate("first", FIRST_RANGE, &QUICK_ELECTION)?;
    says(world, &first, "this controller leads").await?;
    let second = world.start_candidate("second", SECOND_RANGE, &QUICK_ELECTION)?;
    says(world, &second, "leads, standing by").await?;
    world.join_sites().await?;
    Ok((first, second))
}

/// A Service, once the controller with this range has given it a VIP.
async fn served(world: &World, name: &str, range: &str) -> Result<()> {
    let service = json!({ "metadata": { "name": name }, "spec": { "ports": [{ "port": 80 }] } });
    create(&world.hub::<Service>(), service).await?;
    let prefix = range.split_once(".0.0/").map(|(prefix, _)| format!("{prefix}.")).context("a range")?;
    let given = async || {
        let status = world.hub::<FederatedService>().get(name).await?.status.context("no status")?;
        let ips: Vec<_> = status.vips.iter().flat_map(|vip| &vip.ips).map(ToString::to_string).collect();
        ensure!(!ips.is_empty() && ips.iter().all(|ip| ip.starts_with(&prefix)), "{ips:?}");
        Ok(())
    };
    world.wait(&format!("{name} has its VIPs from {range}"), given).await
}

#[test]
fn a_leader_that_is_killed_is_followed_by_the_other_within_its_lease() -> Result<()> {
    in_world(async |world| {
        let (first, second) = two(world).await?;
        served(world, "before", FIRST_RANGE).await?;
        let (before, transitions) = holder(world).await?;
        first.kill();
        says(world, &second, "this controller leads").await?;
        let (after, count) = holder(world).await?;
        assert_ne!(before, after);
        assert_eq!(count, transitions + 1);
        served(world, "after", SECOND_RANGE).await
    })
}

#[test]
fn a_leader_that_is_stopped_and_goes_on_finds_out_before_it_writes() -> Result<()> {
    in_world(async |world| {
        let (first, second) = two(world).await?;
        served(world, SERVICE, FIRST_RANGE).await?;
        first.freeze()?;
        says(world, &second, "this controller leads").await?;
        // All this lies in the first one's sockets when it goes on. It would say that these VIPs are outside of its range.
        for number in 0..8 {
            served(world, &format!("while-it-stood-{number}"), SECOND_RANGE).await?;
        }
        first.thaw()?;
        says(
            world,
            &first,
            "the Lease federation-system/federation-controller is lost, this controller stands by",
        )
        .await?;
        says(world, &first, "leads, standing by").await?;

        let events: Api<Event> = world.hub();
        let told = events.list(&ListParams::default()).await?.items;
        let strangers: Vec<_> = told
            .iter()
            .filter(|event| event.reason.as_deref() == Some("VIPOutsideRanges"))
            .filter(|event| event.involved_object.name.as_deref() != Some(SERVICE))
            .collect();
        assert!(strangers.is_empty(), "the first one has written: {strangers:?}");
        for number in 0..8 {
            let federated = world.hub::<FederatedService>().get(&format!("while-it-stood-{number}")).await?;
            let conditions = federated.status.context("a status")?.conditions;
            let accepted =
                conditions.iter().find(|condition| condition.type_ == "Accepted").context("Accepted")?;
            assert_eq!(accepted.status, "True", "{accepted:?}");
        }
        served(world, "after", SECOND_RANGE).await?;
        // And it can lead again.
        second.kill();
        served(world, "later", FIRST_RANGE).await
    })
}

#[test]
fn a_leader_that_is_told_to_end_gives_the_lease_back() -> Result<()> {
    in_world(async |world| {
        world.start_hub().await?;
        // Nobody would wait for this one to run out.
        let long = ["--leader-elect-lease-duration=1h", "--leader-elect-renew-deadline=10s"];
        let first = world.start_candidate("first", FIRST_RANGE, &long)?;
        says(world, &first, "this controller leads").await?;
        let second = world.start_candidate("second", SECOND_RANGE, &long)?;
        says(world, &second, "leads, standing by").await?;
        assert!(second.terminate().await?.success(), "who stands by ends well too");
        assert!(first.terminate().await?.success());
        assert_eq!(holder(world).await?.0, "");
        let third = world.start_candidate("third", FIRST_RANGE, &long)?;
        says(world, &third, "this controller leads").await
    })
}

#[test]
fn a_leader_that_cannot_renew_its_lease_stands_by_and_says_why() -> Result<()> {
    in_world(async |world| {
        let hub = world.start_hub().await?;
        let first = world.start_candidate("first", FIRST_RANGE, &QUICK_ELECTION)?;
        says(world, &first, "this controller leads").await?;
        hub.freeze()?;
        says(world, &first, "is lost, this controller stands by: it could not be renewed within 1.5s")
            .await?;
        hub.thaw()?;
        let leads_again = async || {
            let log = first.tail(usize::MAX)?;
            let times = log.iter().filter(|line| line.contains("this controller leads")).count();
            ensure!(times == 2, "it led {times} times");
            Ok(())
        };
        world.wait("it leads again", leads_again).await?;
        world.join_sites().await
    })
}

#[test]
fn a_leader_whose_lease_somebody_else_took_stops() -> Result<()> {
    in_world(async |world| {
        world.start_hub().await?;
        let first = world.start_candidate("first", FIRST_RANGE, &QUICK_ELECTION)?;
        says(world, &first, "this controller leads").await?;
        // By force, whatever it says meanwhile.
        let leases: Api<Lease> = world.hub_in(SYSTEM_NAMESPACE);
        let taken = json!({ "spec": { "holderIdentity": "somebody", "leaseDurationSeconds": 3600 } });
        crate::world::merge(&leases, "federation-controller", taken).await?;
        says(world, &first, "this controller stands by: somebody leads now").await?;
        assert!(first.terminate().await?.success());
        assert_eq!(holder(world).await?.0, "somebody", "it is not given back by who has lost it");
        Ok(())
    })
}

#[test]
fn without_an_election_a_controller_acts_at_once_and_makes_no_lease() -> Result<()> {
    in_world(async |world| {
        world.start_hub().await?;
        let leases: Api<Lease> = world.hub_in(SYSTEM_NAMESPACE);
        let metadata = ObjectMeta { name: Some("federation-controller".to_owned()), ..ObjectMeta::default() };
        let spec = json!({ "holderIdentity": "somebody", "leaseDurationSeconds": 3600 });
        create(&leases, json!({ "metadata": metadata, "spec": spec })).await?;
        world.start_candidate("only", FIRST_RANGE, &["--leader-elect=false"])?;
        world.join_sites().await?;
        world.create_service().await?;
        for site in [EUROPE, AMERICA] {
            world.shard(site).await?;
        }
        assert_eq!(holder(world).await?.0, "somebody");
        Ok(())
    })
}
