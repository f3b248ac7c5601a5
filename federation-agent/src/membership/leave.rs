//! `federation-agent leave`: takes a cluster out of the federation, with all that the federation has put into it.
//!
//! The controller removes the shards, since it alone knows which are its; what is left to do here is to ask it, to wait,
//! and to remove the registration once nothing is left behind.

use anyhow::{Context as _, Result, anyhow, bail};
use clap::Args as ClapArgs;
use k8s_openapi::{api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::Condition};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams},
    core::Duration,
    runtime::wait::await_condition,
};
use serde_json::json;
use tokio::time::timeout;

use super::{FIELD_MANAGER, FederationApi, say};
use crate::api::{
    Cluster, FederatedService, SYSTEM_NAMESPACE,
    marks::{DRAINED_CONDITION, LEAVING_ANNOTATION, MANAGED_BY, MANAGED_BY_LABEL},
};

#[derive(ClapArgs, Debug)]
pub struct Args {
    /// Name of the Cluster
    #[arg(value_name = "NAME")]
    name: String,

    #[command(flatten)]
    federation: FederationApi,

    /// Remove the registration at once and leave in the cluster what is there: for one that will never answer again
    #[arg(long)]
    abandon: bool,

    /// How long to wait until the controller has removed the shards
    #[arg(long, value_name = "DURATION", default_value = "60s")]
    timeout: Duration,
}

/// # Errors
/// There is no such Cluster, or its shards are not removed in time: it is registered still, and goes on leaving.
pub async fn run(args: Args) -> Result<()> {
    let (name, federation) = (&args.name, &args.federation);
    let hub = federation.client().await?;
    let clusters: Api<Cluster> = Api::all(hub.clone());
    let found = federation.ask(&format!("read Cluster {name}"), clusters.get_opt(name)).await?;
    let Some(cluster) = found else {
        let all = federation.ask("read the Clusters", clusters.list(&ListParams::default())).await?;
        let names: Vec<_> = all.iter().map(ResourceExt::name_any).collect();
        let known = if names.is_empty() { "none is registered".to_owned() } else { names.join(", ") };
        bail!("there is no Cluster {name}; known: {known}");
    };
    let shards = shards(&args, &hub).await?;
    if args.abandon {
        say(&format!("Shards that cluster {name} has stay there: {}.", listed(&shards)))?;
    } else {
        drain(&args, &clusters).await?;
        say(&format!("Shards removed from cluster {name}: {}.", listed(&shards)))?;
    }
    let what = format!("delete Cluster {name}");
    federation.ask(&what, clusters.delete(name, &DeleteParams::default())).await?;
    say(&format!("Cluster {name}: removed."))?;
    forget_credentials(&args, &hub, &clusters, &cluster.spec.credentials_ref.name).await
}

/// The services that are reported to have a shard there.
async fn shards(args: &Args, hub: &Client) -> Result<Vec<String>> {
    let services: Api<FederatedService> = Api::all(hub.clone());
    let all =
        args.federation.ask("read the FederatedServices", services.list(&ListParams::default())).await?;
    let has_shard = |service: &&FederatedService| {
        let shards = service.status.iter().flat_map(|status| &status.shards);
        shards.into_iter().any(|shard| shard.cluster == args.name)
    };
    let name = |service: &FederatedService| {
        format!("{}/{}", service.namespace().unwrap_or_default(), service.name_any())
    };
    Ok(all.items.iter().filter(has_shard).map(name).collect())
}

/// The first of them, and how many more there are.
fn listed(names: &[String]) -> String {
    const SHOWN: usize = 10;
    match names.len() {
        0 => "none".to_owned(),
        count if count > SHOWN => format!("{} and {} more", names[..SHOWN].join(", "), count - SHOWN),
        _ => names.join(", "),
    }
}

/// Has the controller remove the shards.
async fn drain(args: &Args, clusters: &Api<Cluster>) -> Result<()> {
    let name = &args.name;
    let leaves = Patch::Merge(json!({ "metadata": { "annotations": { LEAVING_ANNOTATION: "true" } } }));
    let parameters = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    let asked = clusters.patch(name, &parameters, &leaves);
    args.federation.ask(&format!("mark Cluster {name}"), asked).await?;
    let drained = |cluster: &Cluster| -> Option<Condition> {
        let conditions = &cluster.status.as_ref()?.conditions;
        conditions.iter().find(|condition| condition.type_ == DRAINED_CONDITION).cloned()
    };
    let is_done = |cluster: Option<&Cluster>| {
        // Whoever deletes it meanwhile has given up what it has.
        cluster.is_none_or(|cluster| drained(cluster).is_some_and(|condition| condition.status == "True"))
    };
    let waited = timeout(args.timeout.into(), await_condition(clusters.clone(), name, is_done)).await;
    if let Ok(waited) = waited {
        let cluster = waited.with_context(|| format!("watch Cluster {name}"))?;
        return cluster
            .map(drop)
            .ok_or_else(|| anyhow!("somebody else has deleted Cluster {name} meanwhile"));
    }
    let now = args.federation.ask(&format!("read Cluster {name}"), clusters.get_opt(name)).await?;
    let why = now.as_ref().and_then(drained).map(|condition| condition.message);
    let why = why.unwrap_or_else(|| "no controller has looked at it; is one running?".to_owned());
    bail!(
        "cluster {name} has not been left within {:?}: {why}. It goes on leaving: run this again to wait on, \
         `federation-agent join {name}` to keep it after all, or `federation-agent leave --abandon {name}` to leave its \
         shards where they are",
        args.timeout
    )
}

/// Removes the Secret that `join` has made, unless another Cluster uses it too.
async fn forget_credentials(args: &Args, hub: &Client, clusters: &Api<Cluster>, secret: &str) -> Result<()> {
    let shown = format!("Secret {SYSTEM_NAMESPACE}/{secret}");
    let secrets: Api<Secret> = Api::namespaced(hub.clone(), SYSTEM_NAMESPACE);
    let found = args.federation.ask(&format!("read {shown}"), secrets.get_opt(secret)).await?;
    let Some(found) = found else { return say(&format!("{shown}: was not there.")) };
    if found.labels().get(MANAGED_BY_LABEL).is_none_or(|manager| manager != MANAGED_BY) {
        return say(&format!("{shown}: stays, it was not made by `join`."));
    }
    let all = args.federation.ask("read the Clusters", clusters.list(&ListParams::default())).await?;
    if let Some(other) = all.iter().find(|other| other.spec.credentials_ref.name == secret) {
        return say(&format!("{shown}: stays, Cluster {} uses it too.", other.name_any()));
    }
    let what = format!("delete {shown}");
    args.federation.ask(&what, secrets.delete(secret, &DeleteParams::default())).await?;
    say(&format!("{shown}: removed."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_shards_are_told_by_the_first_and_their_number() {
        let names = |count: usize| (0..count).map(|number| format!("n/{number}")).collect::<Vec<_>>();
        assert_eq!(listed(&[]), "none");
        assert_eq!(listed(&names(2)), "n/0, n/1");
        assert_eq!(listed(&names(12)), "n/0, n/1, n/2, n/3, n/4, n/5, n/6, n/7, n/8, n/9 and 2 more");
    }
}
