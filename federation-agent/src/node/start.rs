//! What an agent has to know before it can serve: how to log in, the federation, and where its node stands.
//!
//! What can come by itself is waited for, and the sentence about it is what `probe ready` prints.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, Result, bail};
use kube::Client;
use tokio::{sync::watch, time::sleep};
use tracing::{info, warn};

use super::{Args, readiness::Readiness, whereabouts};
use crate::{
    client::{Login, chain},
    model::{Cluster, ClusterName, Federation, Locality, Zone},
    plan::Place,
    watch as api,
};
use whereabouts::Labels;

/// Between two tries.
pub(super) const AGAIN: Duration = Duration::from_secs(1);

/// What is known once the data plane can be filled.
pub(super) struct Known {
    pub client: Client,
    pub federation: watch::Receiver<Option<Arc<Federation>>>,
    pub place: Place,
}

/// # Errors
/// Something is missing that does not come by itself.
pub(super) async fn known(args: &Args, readiness: &Readiness) -> Result<Known> {
    let client = logged_in(&Login::Kubeconfig(args.kubeconfig.clone()), readiness).await;
    let saved = api::Saved::in_folder(&args.node.state_dir, &args.federation.federation)?;
    let api::Watched { federation, trouble } = api::watch(client.clone(), Some(saved));
    // Two APIs, each of which may be slow.
    let (cluster, labels) = tokio::try_join!(
        own_cluster(args, federation.clone(), trouble, readiness),
        whereabouts::learn(args, readiness)
    )?;
    let place = place(args, &cluster, labels.as_ref())?;
    Ok(Known { client, federation, place })
}

/// A client of the Federation API, once its kubeconfig is there and can be used.
async fn logged_in(login: &Login, readiness: &Readiness) -> Client {
    loop {
        match login.client().await {
            Ok(client) => return client,
            Err(error) => readiness.waits(format!(
                "the agent cannot log in at the Federation API, and waits until it can: {}",
                chain(error.as_ref())
            )),
        }
        sleep(AGAIN).await;
    }
}

/// What the federation knows of this node's cluster, once it is a member.
async fn own_cluster(
    args: &Args,
    mut federation: watch::Receiver<Option<Arc<Federation>>>,
    mut trouble: watch::Receiver<Option<String>>,
    readiness: &Readiness,
) -> Result<Cluster> {
    let name = args.cluster.as_str();
    loop {
        let known = federation.borrow_and_update().clone();
        if let Some(known) = &known {
            match known.clusters.get(name) {
                Some(cluster) => return Ok(cluster.clone()),
                None => readiness.waits(not_registered(name, known)),
            }
        } else {
            let why = trouble.borrow_and_update().clone();
            let why = why.map_or_else(String::new, |why| format!(": {why}"));
            // Which its watches log.
            readiness.lacks(format!(
                "the Federation API of {} has not told the federation yet, and the agent waits for it{why}",
                args.kubeconfig.display()
            ));
        }
        tokio::select! {
            changed = federation.changed() => changed.context("the watch of the Federation API has ended")?,
            changed = trouble.changed(), if known.is_none() => {
                changed.context("the watch of the Federation API has ended")?;
            }
        }
    }
}

fn not_registered(name: &str, federation: &Federation) -> String {
    let known: Vec<_> = federation.clusters.keys().map(ClusterName::as_str).collect();
    format!(
        "the federation has no cluster {name}, and the agent waits until it has: register it (`federation-agent join`), or \
         give --cluster one of those that it has ({})",
        if known.is_empty() { "none yet".to_owned() } else { known.join(", ") }
    )
}

/// Where this node stands, by what it was told, else by its Node object, else by its cluster.
fn place(args: &Args, cluster: &Cluster, labels: Option<&Labels>) -> Result<Place> {
    let name = args.cluster.as_str();
    let zone = match (args.node.zone.as_deref(), labels) {
        (Some(zone), _) => {
            let zone = Zone::from(zone);
            if !cluster.zones.contains(&zone) {
                bail!("cluster {name} does not span the zone {zone}: give --zone one of {}", listed(cluster));
            }
            zone
        }
        (None, Some(labels)) => {
            let (zone, remarks) = labels.zone_in(name, cluster);
            for remark in remarks {
                warn!("{remark}");
            }
            zone
        }
        (None, None) => cluster.zones[0].clone(),
    };
    info!(%zone, region = %cluster.region, "the federation is known");
    let locality = Locality {
        provider: cluster.provider.clone(),
        region: cluster.region.clone(),
        zone,
        cluster: name.into(),
    };
    Ok(Place { locality, node: args.node_name.clone() })
}

/// The zones of a cluster, for a sentence.
pub(super) fn listed(cluster: &Cluster) -> String {
    cluster.zones.iter().map(Zone::as_str).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    fn args(extra: &[&str]) -> Args {
        let base = "node --federation my-federation --domain example.com --vip-range 198.18.0.0/16 --kubeconfig k \
                    --cluster here --node-name node-1";
        Cli::parse_from(base.split_whitespace().chain(extra.iter().copied())).args
    }

    fn cluster() -> Cluster {
        Cluster { provider: "gcp".into(), region: "r".into(), zones: vec!["z1".into(), "z2".into()] }
    }

    #[test]
    fn a_node_stands_where_it_is_told_else_where_its_node_object_says_else_in_the_first_zone() {
        let labels = |zone: &str| Labels { node: "node-1".into(), zone: Some(zone.into()), region: None };
        let (second, third) = (labels("z2"), labels("z3"));
        for (extra, labels, zone) in [
            (&[][..], None, "z1"),
            (&["--zone", "z2"], None, "z2"),
            (&[], Some(&second), "z2"),
            (&["--zone", "z1"], Some(&second), "z1"),
            (&[], Some(&third), "z3"),
        ] {
            let place = place(&args(extra), &cluster(), labels).unwrap();
            assert_eq!(place.locality.zone.as_str(), zone);
            assert_eq!(place.locality.cluster.as_str(), "here");
        }
    }

    #[test]
    fn a_zone_that_the_cluster_does_not_span_is_refused_with_those_that_it_does() {
        let refusal = place(&args(&["--zone", "z3"]), &cluster(), None).unwrap_err().to_string();
        assert!(refusal.contains("z1, z2"), "{refusal}");
    }

    #[test]
    fn who_waits_for_a_registration_is_told_which_there_are() {
        let mut federation = Federation::default();
        assert!(not_registered("here", &federation).contains("(none yet)"));
        federation.clusters.insert("there".into(), cluster());
        assert!(not_registered("here", &federation).contains("(there)"));
    }
}
