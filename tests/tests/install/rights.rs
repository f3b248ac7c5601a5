//! The roles: enough for what is done, and no more.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use federation_agent::api::{Cluster, SYSTEM_NAMESPACE, mcs::ServiceImport};
use federation_tests::federation::PATIENCE;
use k8s_openapi::api::{core::v1::Event, discovery::v1::EndpointSlice};
use kube::{Api, ResourceExt as _, api::ListParams};

use crate::{page::Page, world::World};

/// Who is given rights, and by which manifests.
const ACCOUNTS: [(Where, &str); 4] = [
    (Where::Host, "federation-controller"),
    (Where::Host, "federation-node"),
    (Where::Member, "federation-access"),
    (Where::Member, "federation-agent"),
];

/// On which side an account is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Where {
    Host,
    Member,
}

/// What the accounts may do, or have done.
pub type Rights = BTreeSet<(Where, String)>;

/// What the roles give now.
pub fn given(world: &World) -> Rights {
    collect(world, true)
}

/// Nothing was refused to any account, and everything that was given has been used.
pub fn all_were_used(world: &World, given: &Rights) -> Result<()> {
    for cluster in [&world.host].into_iter().chain(&world.members) {
        let refused = cluster.front().refused();
        ensure!(refused.is_empty(), "{}: {}", cluster.member().name(), refused.join("\n"));
    }
    let used = collect(world, false);
    let unused: Vec<_> = given.difference(&used).map(|(_, permission)| permission.as_str()).collect();
    ensure!(unused.is_empty(), "nobody has used:\n{}", unused.join("\n"));
    Ok(())
}

fn collect(world: &World, given: bool) -> Rights {
    let mut rights = Rights::new();
    for (place, name) in ACCOUNTS {
        let clusters = if place == Where::Host { std::slice::from_ref(&world.host) } else { &world.members };
        let account = (SYSTEM_NAMESPACE.to_owned(), name.to_owned());
        for cluster in clusters {
            let front = cluster.front();
            let found = if given { front.given(&account) } else { front.used(&account) };
            rights.extend(found.iter().map(|permission| (place, permission.to_string())));
        }
    }
    rights
}

/// What happens to a federation beside the page's own story: a member exports a service, a pod dies, a registration cannot
/// be used.
pub async fn more_happens(world: &World, page: &Page<'_>) -> Result<()> {
    export(world, page).await?;
    for _ in 0..2 {
        lose_a_pod(world).await?;
    }
    registration_fails_twice(world, page).await
}

async fn export(world: &World, page: &Page<'_>) -> Result<()> {
    page.shell(
        "for cluster in europe-west1-d us-east1-b; do kubectl --kubeconfig $cluster.conf create namespace exports; done
        export KUBECONFIG=europe-west1-d.conf
        kubectl --namespace exports create service clusterip exported --tcp=80:8080
        kubectl --namespace exports create --filename - <<END
apiVersion: multicluster.x-k8s.io/v1beta1
kind: ServiceExport
metadata: { name: exported }
spec: {}
END",
    )
    .await?;
    let europe = world.europe().member();
    europe.publish(&world.lab, "exports", "exported").await?;
    let america = world.members[1].member().api();
    let imports = Api::<ServiceImport>::namespaced(america.clone(), "exports");
    let imported = async || Ok(imports.get("exported").await.map(drop)?);
    world.lab.wait_for("America imports it", PATIENCE, imported).await?;
    let slices = Api::<EndpointSlice>::namespaced(america.clone(), "exports");
    let told = async || {
        ensure!(!slices.list(&ListParams::default()).await?.items.is_empty(), "none yet");
        Ok(())
    };
    world.lab.wait_for("America has its endpoints", PATIENCE, told).await?;
    page.shell("kubectl --kubeconfig europe-west1-d.conf --namespace exports delete endpointslices --all")
        .await?;
    let untold = async || {
        ensure!(slices.list(&ListParams::default()).await?.items.is_empty(), "they are there still");
        Ok(())
    };
    world.lab.wait_for("America has its endpoints no more", PATIENCE, untold).await?;
    page.shell("kubectl --kubeconfig europe-west1-d.conf --namespace exports delete serviceexport exported")
        .await?;
    let gone = async || {
        ensure!(imports.get_opt("exported").await?.is_none(), "it is there still");
        Ok(())
    };
    world.lab.wait_for("America imports it no more", PATIENCE, gone).await
}

/// A node's agent sees that a pod does not answer, and says so in an Event; the second time it counts it.
async fn lose_a_pod(world: &World) -> Result<()> {
    let europe = world.europe().member();
    let count = async || {
        let events = Api::<Event>::namespaced(world.host.member().api().clone(), "my-namespace");
        let counts =
            events.list(&ListParams::default()).await?.items.into_iter().filter_map(|event| event.count);
        anyhow::Ok(counts.sum::<i32>())
    };
    let before = count().await?;
    let server = europe.servers().remove(0);
    server.process()?.kill();
    let told = async |least: i32| {
        let now = count().await?;
        ensure!(now >= least, "{now} Events instead of {least}");
        Ok(())
    };
    world.lab.wait_for("an Event tells of it", PATIENCE, async || told(before + 1).await).await?;
    let after = count().await?;
    europe.start_server(&world.lab, &server).await?;
    world.lab.wait_for("an Event tells of its return", PATIENCE, async || told(after + 1).await).await
}

/// A registration without credentials, that gets some which are none, and loses them again.
async fn registration_fails_twice(world: &World, page: &Page<'_>) -> Result<()> {
    page.shell(
        "kubectl --kubeconfig host.conf create --filename - <<END
apiVersion: federation.dev/v1alpha1
kind: Cluster
metadata: { name: nowhere }
spec:
  server: https://192.0.2.1:6443
  credentialsRef: { name: nowhere }
  region: nowhere
  zones: [nowhere]
  networks: [10.99.0.0/16]
END",
    )
    .await?;
    let clusters = Api::<Cluster>::all(world.host.member().api().clone());
    let reason = async |expected: &str| {
        let status = clusters.get("nowhere").await?.status.unwrap_or_default();
        let accepted = status.conditions.into_iter().find(|condition| condition.type_ == "Accepted");
        let reason = accepted.map(|condition| condition.reason);
        ensure!(reason.as_deref() == Some(expected), "{reason:?}");
        Ok(())
    };
    let secret = "kubectl --kubeconfig host.conf --namespace federation-system";
    let missing = async || reason("CredentialsMissing").await;
    world.lab.wait_for("credentials are missed", PATIENCE, missing).await?;
    page.shell(&format!("{secret} create secret generic nowhere --from-literal=kubeconfig=none")).await?;
    let invalid = async || reason("CredentialsInvalid").await;
    world.lab.wait_for("credentials are refused", PATIENCE, invalid).await?;
    page.shell(&format!("{secret} delete secret nowhere")).await?;
    world.lab.wait_for("credentials are missed again", PATIENCE, missing).await?;
    let events = Api::<Event>::namespaced(world.host.member().api().clone(), "default");
    let counted = async || {
        let events = events.list(&ListParams::default()).await?;
        let mut of_it = events.items.iter().filter(|event| event.name_any().starts_with("nowhere."));
        ensure!(of_it.any(|event| event.count == Some(2)), "no Event was counted twice");
        Ok(())
    };
    world.lab.wait_for("its Event is counted", PATIENCE, counted).await?;
    page.shell("kubectl --kubeconfig host.conf delete cluster nowhere").await.map(drop)
}
